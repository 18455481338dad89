"""LiveKit's API messages as the SDK's values."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from .._types import JobState, JobType, ParticipantInfo, ParticipantPermissions, RoomInfo
from ._types import Dispatch, DispatchedJob

if TYPE_CHECKING:
    from livekit.protocol import agent as agent_pb
    from livekit.protocol import agent_dispatch as dispatch_pb
    from livekit.protocol import models as models_pb

__all__ = ["dispatch_of", "participant_of", "room_of"]

#: Later than this, in seconds since 1970, `datetime` cannot say it.
_LATEST = 253_402_300_799.0


def dispatch_of(message: dispatch_pb.AgentDispatch) -> Dispatch:
    """A dispatch."""
    return Dispatch(
        id=message.id,
        room=message.room,
        agent_name=message.agent_name,
        metadata=message.metadata,
        deployment=message.deployment,
        attributes=dict(message.attributes),
        created_at=_moment(message.state.created_at / 1e9),
        jobs=tuple(_jobs_of(message.state.jobs)),
    )


def _jobs_of(messages: Iterable[agent_pb.Job]) -> Iterable[DispatchedJob]:
    for message in messages:
        state = message.state
        number = int(message.type)
        yield DispatchedJob(
            id=message.id,
            type=JobType(number) if number in list(JobType) else number,
            participant=message.participant.identity,
            state=JobState(
                status=int(state.status),
                error=state.error,
                started_at=_moment(state.started_at / 1e9),
                updated_at=_moment(state.updated_at / 1e9),
                ended_at=_moment(state.ended_at / 1e9),
                participant_identity=state.participant_identity,
                worker_id=state.worker_id,
            ),
        )


def room_of(message: models_pb.Room) -> RoomInfo:
    """A room."""
    return RoomInfo(
        sid=message.sid,
        name=message.name,
        metadata=message.metadata,
        num_participants=message.num_participants,
        num_publishers=message.num_publishers,
        max_participants=message.max_participants,
        creation_time=_moment(message.creation_time_ms / 1000 or message.creation_time),
        empty_timeout=message.empty_timeout,
        departure_timeout=message.departure_timeout,
        active_recording=message.active_recording,
    )


def participant_of(message: models_pb.ParticipantInfo) -> ParticipantInfo:
    """A participant."""
    allowed = message.permission
    return ParticipantInfo(
        sid=message.sid,
        identity=message.identity,
        name=message.name,
        metadata=message.metadata,
        attributes=dict(message.attributes),
        kind=int(message.kind),
        state=int(message.state),
        is_publisher=message.is_publisher,
        permissions=ParticipantPermissions(
            can_subscribe=allowed.can_subscribe,
            can_publish=allowed.can_publish,
            can_publish_data=allowed.can_publish_data,
            can_update_metadata=allowed.can_update_metadata,
            can_subscribe_metrics=allowed.can_subscribe_metrics,
            can_manage_agent_session=allowed.can_manage_agent_session,
            hidden=allowed.hidden,
            recorder=allowed.recorder,
            agent=allowed.agent,
            can_publish_sources=tuple(int(source) for source in allowed.can_publish_sources),
        )
        if message.HasField("permission")
        else None,
        joined_at=_moment(message.joined_at_ms / 1000 or message.joined_at),
    )


def _moment(seconds: float) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if 0 < seconds < _LATEST else None
