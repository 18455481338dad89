"""The dispatch server's records as LiveKit's protobuf messages, and back.

The only file of the server's own that builds wire messages of jobs, dispatches and rooms; functions of values, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, TypeVar

from google.protobuf import json_format
from google.protobuf.message import Message
from livekit.protocol import agent as agent_pb
from livekit.protocol import agent_dispatch as dispatch_pb
from livekit.protocol import models as models_pb
from livekit.protocol import room as room_pb

from ._events import Order

if TYPE_CHECKING:
    from .._types import ParticipantInfo, RoomInfo
    from ..rooms._ledger_events import ParticipantRecord, RoomRecord, TrackRecord
    from ._events import DispatchRecord, JobRecord

__all__ = [
    "create_room_request",
    "dispatch_message",
    "from_json",
    "is_dependent",
    "job_message",
    "joining",
    "nanoseconds",
    "orders_of",
    "participant_from_info",
    "participant_message",
    "room_from_info",
    "room_message",
    "stamp_job",
    "track_message",
]

_NANOSECONDS = 1_000_000_000

M = TypeVar("M", bound=Message)


def from_json(kind: type[M], value: Mapping[str, object]) -> M:
    """A message from protobuf's JSON, as Python reads it; unknown fields are passed over.  ValueError for what is none.

    Whatever it is: it comes from strangers.
    """
    message = kind()
    try:
        # The bound on depth is json_format's own default, written down because it is a defence.
        json_format.ParseDict(dict(value), message, ignore_unknown_fields=True, max_recursion_depth=100)
    except (json_format.ParseError, ValueError, RecursionError, SystemError) as exc:
        # SystemError: what protobuf's C part raises for a field's name that is half a character.
        raise ValueError(f"no {kind.__name__} ({type(exc).__name__})") from None
    return message


def nanoseconds(wall: float) -> int:
    """Unix seconds as the protocol counts job times."""
    return int(wall * _NANOSECONDS)


def job_message(
    job: JobRecord,
    dispatch: DispatchRecord | None,
    room: models_pb.Room,
    participant: models_pb.ParticipantInfo | None,
) -> agent_pb.Job:
    """A new job, before anybody was asked.  ``room`` and ``participant`` are snapshots of this moment."""
    message = agent_pb.Job(
        id=job.id,
        type=agent_pb.JobType.Name(int(job.type)),
        room=room,
        namespace=job.namespace,
        agent_name=job.agent_name,
        deployment=job.deployment,
    )
    if participant is not None:
        message.participant.CopyFrom(participant)
    if dispatch is not None:
        message.dispatch_id = dispatch.id
        message.metadata = dispatch.metadata
        for key, value in dispatch.attributes.items():
            message.attributes[key] = value
    return message


def stamp_job(job: JobRecord) -> None:
    """Copy the record's state into its wire message."""
    message = job.message
    assert message is not None, "a job has its message from its launch on"
    state = message.state
    state.status = job.status  # pyright: ignore[reportAttributeAccessIssue] - open enum, any number is kept
    state.error = job.error
    state.started_at = nanoseconds(job.started_at)
    state.updated_at = nanoseconds(job.updated_at)
    state.ended_at = nanoseconds(job.ended_at)
    state.worker_id = job.worker_id
    state.participant_identity = job.identity


def dispatch_message(dispatch: DispatchRecord) -> dispatch_pb.AgentDispatch:
    """A dispatch with its jobs as they were recorded: at assignment (later reports do not show here)."""
    message = dispatch_pb.AgentDispatch(
        id=dispatch.id,
        agent_name=dispatch.agent_name,
        room=dispatch.room,
        metadata=dispatch.metadata,
        deployment=dispatch.deployment,
        attributes=dispatch.attributes,
        state=dispatch_pb.AgentDispatchState(created_at=nanoseconds(dispatch.created_at)),
    )
    message.restart_policy = dispatch.restart_policy  # pyright: ignore[reportAttributeAccessIssue] - open enum
    for job in dispatch.jobs:
        if job.message is not None:
            message.state.jobs.append(job.message)
    return message


def is_dependent(participant: models_pb.ParticipantInfo) -> bool:
    """True for participants that work for others: they start no jobs and do not keep a room open."""
    kind = participant.kind
    return (
        kind in (models_pb.ParticipantInfo.Kind.AGENT, models_pb.ParticipantInfo.Kind.EGRESS)
        or participant.permission.agent
        or participant.permission.recorder
    )


def joining(participant: models_pb.ParticipantInfo) -> models_pb.ParticipantInfo:
    """A copy as a participant job at its own join shows it: the signal connection stands, media do not."""
    copy = models_pb.ParticipantInfo()
    copy.CopyFrom(participant)
    copy.state = models_pb.ParticipantInfo.State.JOINING
    return copy


def room_from_info(info: RoomInfo) -> models_pb.Room:
    """A room message from the SDK's own value."""
    return models_pb.Room(
        sid=info.sid,
        name=info.name,
        metadata=info.metadata,
        num_participants=info.num_participants,
        num_publishers=info.num_publishers,
        max_participants=info.max_participants,
        creation_time=int(_seconds(info.creation_time)),
        creation_time_ms=int(_seconds(info.creation_time) * 1000),
        empty_timeout=int(info.empty_timeout),
        departure_timeout=int(info.departure_timeout),
        active_recording=info.active_recording,
    )


def participant_from_info(info: ParticipantInfo) -> models_pb.ParticipantInfo:
    """A participant message from the SDK's own value."""
    message = models_pb.ParticipantInfo(
        sid=info.sid,
        identity=info.identity,
        name=info.name,
        metadata=info.metadata,
        attributes=dict(info.attributes),
        joined_at=int(_seconds(info.joined_at)),
        joined_at_ms=int(_seconds(info.joined_at) * 1000),
        is_publisher=info.is_publisher,
    )
    message.kind = info.kind  # pyright: ignore[reportAttributeAccessIssue] - open enum
    message.state = info.state  # pyright: ignore[reportAttributeAccessIssue] - open enum
    if info.permissions is not None:
        message.permission.CopyFrom(info.permissions.to_proto())
    return message


def _seconds(moment: datetime | None) -> float:
    return moment.timestamp() if moment is not None else 0.0


# ------------------------------------------------------------------------------------------------- the room ledger


def room_message(room: RoomRecord, people: Iterable[ParticipantRecord]) -> models_pb.Room:
    """A room of the ledger.  Hidden participants do not count; there is no TURN server and no codec to enable."""
    present = list(people)
    return models_pb.Room(
        sid=room.sid,
        name=room.name,
        metadata=room.metadata,
        empty_timeout=_whole(room.empty_timeout),
        departure_timeout=_whole(room.departure_timeout),
        max_participants=room.max_participants,
        creation_time=int(room.created_at),
        creation_time_ms=int(room.created_at * 1000),
        num_participants=sum(not person.permissions.hidden for person in present),
        num_publishers=sum(bool(person.tracks) for person in present),
        active_recording=any(person.permissions.recorder for person in present),
    )


def participant_message(person: ParticipantRecord) -> models_pb.ParticipantInfo:
    """A participant of the ledger."""
    message = models_pb.ParticipantInfo(
        sid=person.sid,
        identity=person.identity,
        name=person.name,
        metadata=person.metadata,
        attributes=dict(person.attributes),
        state=models_pb.ParticipantInfo.State.ACTIVE,
        joined_at=int(person.joined_at),
        joined_at_ms=int(person.joined_at * 1000),
        is_publisher=bool(person.tracks),
        permission=person.permissions.to_proto(),
    )
    message.kind = int(person.kind)  # pyright: ignore[reportAttributeAccessIssue] - open enum
    message.tracks.extend(track_message(track) for track in person.tracks)
    return message


def track_message(track: TrackRecord) -> models_pb.TrackInfo:
    """A track of the ledger."""
    info = models_pb.TrackInfo(sid=track.sid, name=track.name, muted=track.muted, mime_type=track.mime_type)
    info.type = _TRACK_TYPES.get(int(track.kind), models_pb.TrackType.DATA)
    info.source = int(track.source)  # pyright: ignore[reportAttributeAccessIssue] - open enum
    return info


#: The rooms' track kinds are the room library's numbers, which are not the signalling protocol's.
_TRACK_TYPES = {1: models_pb.TrackType.AUDIO, 2: models_pb.TrackType.VIDEO}


def _whole(seconds: float) -> int:
    return int(min(seconds, 0xFFFFFFFF))


def create_room_request(name: str, config: Mapping[str, object] | None = None) -> room_pb.CreateRoomRequest:
    """A request for a room with the server's defaults, or with a token's ``roomConfig``, which was found to be one."""
    parsed = from_json(room_pb.RoomConfiguration, config or {})
    return room_pb.CreateRoomRequest(
        name=name,
        metadata=parsed.metadata,
        empty_timeout=parsed.empty_timeout,
        departure_timeout=parsed.departure_timeout,
        max_participants=parsed.max_participants,
        agents=parsed.agents,
    )


def orders_of(agents: Iterable[dispatch_pb.RoomAgentDispatch]) -> list[Order]:
    """An agents list as orders."""
    return [
        Order(
            agent_name=agent.agent_name,
            metadata=agent.metadata,
            deployment=agent.deployment,
            attributes=dict(agent.attributes),
            restart_policy=int(agent.restart_policy),
        )
        for agent in agents
    ]
