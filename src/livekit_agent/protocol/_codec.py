"""Messages in bytes and back: the only place where wire enums and protobuf fields of the signalling are named.

Encoding: one function per message we can say, each returning the protobuf message; ``serialize`` makes a frame payload
of it, binary or protobuf-JSON.  Decoding: ``decode`` returns ``(Kind, Event)``, where the event is ready to be handed
out, or a :class:`MessageSkipped` when the message is unset or unknown (a newer peer's).  What cannot be decoded at all
raises :class:`Undecodable`; nothing else is raised, whatever the bytes.

Strings from the peer are taken as they are (any Unicode, NUL included); unknown enum numbers stay numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

from google.protobuf import json_format
from google.protobuf.message import DecodeError, Message
from livekit.protocol import agent as pb
from livekit.protocol import models

from .._bounds import JSON_CHARS_MAX, JSON_DEPTH_MAX
from .._errors import LocalProtocolError, printable
from .._types import (
    Job,
    JobMetadata,
    JobState,
    JobStatus,
    JobType,
    ParticipantInfo,
    ParticipantPermissions,
    RoomInfo,
)
from ._events import (
    AvailabilityReceived,
    Event,
    GoAway,
    JobAssigned,
    JobOffered,
    JobStatusReceived,
    JobTerminated,
    MessageSkipped,
    MigrateReceived,
    PingReceived,
    PongReceived,
    Registered,
    RegisterReceived,
    Registration,
    ServerInfo,
    SimulateReceived,
    WorkerStatusReceived,
)
from ._state import Kind, Role

__all__ = [
    "Undecodable",
    "decode",
    "from_nanoseconds",
    "has_room",
    "is_known_type",
    "job_from_proto",
    "participant_from_proto",
    "permissions_from_proto",
    "reads_as_room_config",
    "room_from_proto",
    "serialize",
    "state_from_proto",
]

#: What json_format lets escape for JSON of the wrong shape ("[]", "1", numbers beyond any range) and, of protobuf's C
#: part, for a field's name that is half a character.
_WRONG_SHAPE = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, SystemError)


class Undecodable(Exception):
    """The payload is no message of this protocol.  Internal: the connection turns it into an event or an error."""


# ------------------------------------------------------------------------------------------------ encoding

P = ParamSpec("P")
M = TypeVar("M", bound=Message)


def _encoder(build: Callable[P, M]) -> Callable[P, M]:
    """What protobuf refuses to hold (a lone surrogate, a number out of range) is our side's mistake."""

    @wraps(build)
    def checked(*args: P.args, **kwargs: P.kwargs) -> M:
        try:
            return build(*args, **kwargs)
        except (ValueError, TypeError) as exc:
            raise LocalProtocolError(f"{build.__name__} cannot be encoded: {printable(str(exc))}") from None

    return checked


@_encoder
def register(registration: Registration) -> pb.WorkerMessage:
    """RegisterWorkerRequest.  Permissions absent mean the server's default; present they are taken literally."""
    message = pb.WorkerMessage()
    request = message.register
    request.type = cast("Any", registration.job_type)
    request.agent_name = registration.agent_name
    request.version = registration.version
    request.deployment = registration.deployment
    request.ping_interval = registration.ping_interval
    if registration.namespace:
        request.namespace = registration.namespace
    if registration.permissions is not None:
        request.allowed_permissions.CopyFrom(registration.permissions.to_proto())
    request.SetInParent()
    return message


@_encoder
def answer(
    job_id: str, metadata: JobMetadata | None, *, terminate: bool = False, resume: bool = False
) -> pb.WorkerMessage:
    """AvailabilityResponse: accepted with ``metadata``, declined with None."""
    message = pb.WorkerMessage()
    response = message.availability
    response.job_id = job_id
    response.terminate = terminate
    if metadata is not None:
        response.available = True
        response.supports_resume = resume
        response.participant_identity = metadata.participant_identity
        response.participant_name = metadata.participant_name
        response.participant_metadata = metadata.participant_metadata
        response.participant_attributes.update(metadata.participant_attributes)
    response.SetInParent()
    return message


@_encoder
def job_status(job_id: str, status: JobStatus, error: str) -> pb.WorkerMessage:
    """UpdateJobStatus."""
    message = pb.WorkerMessage()
    update = message.update_job  # in place: keywords and a message to be copied cost ten times as much
    update.job_id = job_id
    update.status = cast("Any", int(status))
    update.error = error
    update.SetInParent()
    return message


@_encoder
def worker_status(*, full: bool, load: float, job_count: int, draining: bool) -> pb.WorkerMessage:
    """UpdateWorkerStatus.  The load is always there: absent means 0 to the server.

    ``draining`` is a field that servers before August 2026 do not know; they skip it.
    """
    message = pb.WorkerMessage()
    update = message.update_worker
    update.status = pb.WS_FULL if full else pb.WS_AVAILABLE
    update.load = load
    update.job_count = job_count
    if draining:
        update.draining = True
    return message


@_encoder
def ping(timestamp: int) -> pb.WorkerMessage:
    """WorkerPing."""
    message = pb.WorkerMessage()
    message.ping.timestamp = timestamp
    message.ping.SetInParent()
    return message


@_encoder
def migrate(job_ids: Iterable[str]) -> pb.WorkerMessage:
    """MigrateJobRequest: the jobs that run on after a reconnect."""
    return pb.WorkerMessage(migrate_job=pb.MigrateJobRequest(job_ids=list(job_ids)))


@_encoder
def registered(worker_id: str, server: ServerInfo) -> pb.ServerMessage:
    """RegisterWorkerResponse."""
    info = models.ServerInfo(
        edition=cast("Any", server.edition),
        version=server.version,
        protocol=server.protocol,
        region=server.region,
        node_id=server.node_id,
        agent_protocol=server.agent_protocol,
    )
    return pb.ServerMessage(register=pb.RegisterWorkerResponse(worker_id=worker_id, server_info=info))


@_encoder
def offer(job: pb.Job, resuming: bool = False) -> pb.ServerMessage:
    """AvailabilityRequest."""
    return pb.ServerMessage(availability=pb.AvailabilityRequest(job=job, resuming=resuming))


@_encoder
def assignment(job: pb.Job, token: str, url: str) -> pb.ServerMessage:
    """JobAssignment."""
    message = pb.JobAssignment(job=job, token=token)
    if url:
        message.url = url
    return pb.ServerMessage(assignment=message)


@_encoder
def termination(job_id: str) -> pb.ServerMessage:
    """JobTermination."""
    return pb.ServerMessage(termination=pb.JobTermination(job_id=job_id))


@_encoder
def pong(last_timestamp: int, timestamp: int) -> pb.ServerMessage:
    """WorkerPong."""
    return pb.ServerMessage(pong=pb.WorkerPong(last_timestamp=last_timestamp, timestamp=timestamp))


@_encoder
def go_away(reason: str) -> pb.ServerMessage:
    """GoAway: in the published protocol since August 2026, not sent by the open-source server yet."""
    return pb.ServerMessage(go_away=pb.AgentHttp.GoAway(reason=reason))


def serialize(message: Message, *, json: bool = False) -> bytes | str:
    """The payload of a binary frame, or of a text frame."""
    if json:
        return json_format.MessageToJson(message, indent=None)
    # Equal messages give equal bytes: attribute maps would otherwise follow the hash seed.
    return message.SerializeToString(deterministic=True)


# ------------------------------------------------------------------------------------------------ decoding


#: Gives the job of that id as it was offered, if it was: an assignment repeats it, and need not be decoded twice.
Known = Callable[[str], Job | None]


def _nobody_knows(job_id: str) -> None:
    return None


def decode(
    speaker: Role, payload: bytes | str, *, wall: float, known: Known = _nobody_knows
) -> tuple[Kind | None, Event]:
    """What ``speaker`` said.  The kind is None for a message to be skipped.  Raises :class:`Undecodable` only."""
    message: pb.WorkerMessage | pb.ServerMessage = pb.WorkerMessage() if speaker is Role.WORKER else pb.ServerMessage()
    _parse(message, payload)
    name = message.WhichOneof("message")
    if name is None:
        return None, MessageSkipped(kind="unknown", reason="no variant that this version knows")
    kind, build = _DECODERS[speaker].get(name, (None, None))
    if build is None:
        return None, MessageSkipped(kind=name, reason="not handled by this version")
    try:
        return kind, build(getattr(message, name), wall, known)
    except (OverflowError, ValueError, OSError) as exc:
        # A timestamp beyond datetime's range is the one value a well-formed message can break us with.
        raise Undecodable(f"{name}: {type(exc).__name__}") from None


def _parse(message: Message, payload: bytes | str) -> None:
    if isinstance(payload, str) and len(payload) > JSON_CHARS_MAX:
        raise Undecodable(f"JSON of {len(payload)} characters")
    try:
        if isinstance(payload, str):
            json_format.Parse(payload, message, ignore_unknown_fields=True, max_recursion_depth=JSON_DEPTH_MAX)
        else:
            message.ParseFromString(payload)
    except (DecodeError, json_format.ParseError, RecursionError, *_WRONG_SHAPE) as exc:
        raise Undecodable(type(exc).__name__) from None


def from_nanoseconds(nanoseconds: int) -> datetime | None:
    """A time of the protocol's; None for none, and for one that ``datetime`` cannot say."""
    return _from_seconds(nanoseconds / 1e9) if nanoseconds > 0 else None


def _from_seconds(seconds: float) -> datetime | None:
    try:
        return datetime.fromtimestamp(seconds, UTC) if seconds > 0 else None
    except (OverflowError, ValueError, OSError):
        return None


def permissions_from_proto(message: models.ParticipantPermission) -> ParticipantPermissions:
    """The value of a permission message: literally, what is absent is not allowed."""
    return ParticipantPermissions(
        can_subscribe=message.can_subscribe,
        can_publish=message.can_publish,
        can_publish_data=message.can_publish_data,
        can_update_metadata=message.can_update_metadata,
        can_subscribe_metrics=message.can_subscribe_metrics,
        can_manage_agent_session=message.can_manage_agent_session,
        hidden=message.hidden,
        recorder=message.recorder,
        agent=message.agent,
        can_publish_sources=tuple(int(source) for source in message.can_publish_sources),
    )


def room_from_proto(message: models.Room) -> RoomInfo:
    """The value of a room message.  ``turn_password`` and codecs stay behind."""
    return RoomInfo(
        sid=message.sid,
        name=message.name,
        metadata=message.metadata,
        num_participants=message.num_participants,
        num_publishers=message.num_publishers,
        max_participants=message.max_participants,
        creation_time=_from_seconds(message.creation_time_ms / 1e3 or float(message.creation_time)),
        empty_timeout=float(message.empty_timeout),
        departure_timeout=float(message.departure_timeout),
        active_recording=message.active_recording,
    )


def participant_from_proto(message: models.ParticipantInfo) -> ParticipantInfo:
    """The value of a participant message."""
    return ParticipantInfo(
        sid=message.sid,
        identity=message.identity,
        name=message.name,
        metadata=message.metadata,
        attributes=dict(message.attributes),
        kind=int(message.kind),
        state=int(message.state),
        is_publisher=message.is_publisher,
        permissions=permissions_from_proto(message.permission) if message.HasField("permission") else None,
        joined_at=_from_seconds(message.joined_at_ms / 1e3 or float(message.joined_at)),
    )


def job_from_proto(message: pb.Job, *, received_at: float, known: Job | None = None) -> Job:
    """The value of a job message.  Its type stays a bare number when it is none of ours.

    ``known`` is the same job as it was offered: what has not changed since is taken from there, and so is the moment.
    """
    packed = message.SerializeToString(deterministic=True)
    created_at, room = _from_seconds(received_at), room_from_proto(message.room)
    if known is not None:
        if known.packed == packed:
            return known
        created_at = known.created_at
        if known.room == room:
            room = known.room
    state = state_from_proto(message.state) if message.HasField("state") else _NO_STATE
    number = int(message.type)
    return Job(
        id=message.id,
        type=JobType(number) if number in _JOB_TYPES else cast("JobType", number),
        room=room,
        participant=participant_from_proto(message.participant) if message.HasField("participant") else None,
        namespace=message.namespace,
        metadata=message.metadata,
        agent_name=message.agent_name,
        dispatch_id=message.dispatch_id,
        deployment=message.deployment,
        attributes=dict(message.attributes),
        enable_recording=message.enable_recording,
        enable_redaction=message.enable_redaction,
        created_at=created_at,
        updated_at=state.updated_at,
        state=state,
        packed=packed,
    )


def state_from_proto(message: pb.JobState) -> JobState:
    """The value of a job's state message."""
    return JobState(
        status=int(message.status),
        error=message.error,
        started_at=from_nanoseconds(message.started_at),
        updated_at=from_nanoseconds(message.updated_at),
        ended_at=from_nanoseconds(message.ended_at),
        participant_identity=message.participant_identity,
        worker_id=message.worker_id,
    )


_NO_STATE = JobState()
_JOB_TYPES = frozenset(int(t) for t in JobType)


def is_known_type(number: int) -> bool:
    """Whether a job type is one of ours."""
    return number in _JOB_TYPES


def has_room(job: Job) -> bool:
    """Whether a job says where it takes place.  The room's name may be empty."""
    if job.room.name or job.room.sid:
        return True
    message = job.raw
    return message is not None and message.HasField("room")


def reads_as_room_config(value: Mapping[str, object]) -> bool:
    """Whether a token's ``roomConfig`` can be read.  Fields of the future may be in it, values of wrong types not."""
    from livekit.protocol import room  # few tokens have one

    try:
        json_format.ParseDict(
            dict(value), room.RoomConfiguration(), ignore_unknown_fields=True, max_recursion_depth=JSON_DEPTH_MAX
        )
    except (json_format.ParseError, RecursionError, *_WRONG_SHAPE):
        return False
    return True


def _registration(m: pb.RegisterWorkerRequest, wall: float, known: Known) -> Event:
    return RegisterReceived(
        registration=Registration(
            job_type=int(m.type),
            agent_name=m.agent_name,
            namespace=m.namespace,
            deployment=m.deployment,
            version=m.version,
            ping_interval=m.ping_interval,
            permissions=permissions_from_proto(m.allowed_permissions) if m.HasField("allowed_permissions") else None,
        )
    )


def _registered(m: pb.RegisterWorkerResponse, wall: float, known: Known) -> Event:
    info = m.server_info
    server = ServerInfo(
        version=info.version,
        edition=int(info.edition),
        protocol=info.protocol,
        region=info.region,
        node_id=info.node_id,
        agent_protocol=info.agent_protocol,
    )
    return Registered(worker_id=m.worker_id, server=server)


def _offered(m: pb.AvailabilityRequest, wall: float, known: Known) -> Event:
    return JobOffered(job=job_from_proto(m.job, received_at=wall), resuming=m.resuming)


def _assigned(m: pb.JobAssignment, wall: float, known: Known) -> Event:
    return JobAssigned(job=job_from_proto(m.job, received_at=wall, known=known(m.job.id)), token=m.token, url=m.url)


def _availability(m: pb.AvailabilityResponse, wall: float, known: Known) -> Event:
    metadata = JobMetadata(
        participant_identity=m.participant_identity,
        participant_name=m.participant_name,
        participant_metadata=m.participant_metadata,
        participant_attributes=dict(m.participant_attributes),
    )
    return AvailabilityReceived(
        job_id=m.job_id,
        available=m.available,
        terminate=m.terminate,
        supports_resume=m.supports_resume,
        metadata=metadata,
    )


def _worker_status(m: pb.UpdateWorkerStatus, wall: float, known: Known) -> Event:
    full = (m.status == pb.WS_FULL) if m.HasField("status") else None
    # The real server stops dispatching to a whole node on one NaN; ours reads it as "full".
    load = m.load if math.isfinite(m.load) else 1.0
    return WorkerStatusReceived(full=full, load=load, job_count=m.job_count, draining=m.draining)


def _simulate(m: pb.SimulateJobRequest, wall: float, known: Known) -> Event:
    return SimulateReceived(
        job_type=int(m.type),
        room=room_from_proto(m.room) if m.HasField("room") else None,
        participant=participant_from_proto(m.participant) if m.HasField("participant") else None,
    )


_Builder = Callable[[Any, float, Known], Event]

_DECODERS: Mapping[Role, Mapping[str, tuple[Kind, _Builder]]] = {
    Role.WORKER: {
        "register": (Kind.REGISTER, _registration),
        "availability": (Kind.ANSWER, _availability),
        "update_worker": (Kind.WORKER_STATUS, _worker_status),
        "update_job": (
            Kind.JOB_STATUS,
            lambda m, wall, known: JobStatusReceived(job_id=m.job_id, status=int(m.status), error=m.error),
        ),
        "ping": (Kind.PING, lambda m, wall, known: PingReceived(timestamp=m.timestamp)),
        "simulate_job": (Kind.SIMULATE, _simulate),
        "migrate_job": (Kind.MIGRATE, lambda m, wall, known: MigrateReceived(job_ids=tuple(m.job_ids))),
    },
    Role.SERVER: {
        "register": (Kind.REGISTERED, _registered),
        "availability": (Kind.OFFER, _offered),
        "assignment": (Kind.ASSIGNMENT, _assigned),
        "termination": (Kind.TERMINATION, lambda m, wall, known: JobTerminated(job_id=m.job_id)),
        "pong": (
            Kind.PONG,
            lambda m, wall, known: PongReceived(last_timestamp=m.last_timestamp, timestamp=m.timestamp),
        ),
        "go_away": (Kind.GO_AWAY, lambda m, wall, known: GoAway(reason=m.reason)),
    },
}
