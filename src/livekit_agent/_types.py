"""Values that every layer speaks: enums and frozen dataclasses.

Nothing here reads a clock, opens a socket or knows a wire number's meaning beyond its
name.  Layer 1: imports nothing of ours but the errors.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum, IntEnum, StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

from ._bounds import JOB_JSON_CHARS_MAX

if TYPE_CHECKING:
    from livekit.protocol import agent as agent_pb
    from livekit.protocol import models as models_pb

__all__ = [
    "AutoSubscribe",
    "CancelReason",
    "ConnectionQuality",
    "Job",
    "JobMetadata",
    "JobState",
    "JobStatus",
    "JobType",
    "ParticipantInfo",
    "ParticipantPermissions",
    "Reject",
    "RoomInfo",
    "ShutdownReport",
    "WorkerStats",
    "WorkerStatus",
]

T = TypeVar("T")


class _Empty(Mapping[str, str]):
    """Nothing, for ever.  Hashable, which a dataclass wants of a default; mappingproxy is not before Python 3.12."""

    __slots__ = ()

    def __getitem__(self, key: str) -> str:
        raise KeyError(key)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __hash__(self) -> int:
        return 0

    def __repr__(self) -> str:
        return "{}"


#: An immutable empty mapping, safe as a default value.
NO_ATTRIBUTES: Mapping[str, str] = _Empty()


class JobType(IntEnum):
    """What a job is about.  The numbers are the wire's."""

    ROOM = 0
    """One job per dispatch, when the room is created or the dispatch is added."""
    PUBLISHER = 1
    """One job per participant that starts publishing.

    The API reference calls these "agents that generate media"; what the server does is offer one
    job at a participant's first published track.
    """
    PARTICIPANT = 2
    """One job per participant that joins."""


class JobStatus(IntEnum):
    """What a worker tells the server about a job.  The numbers are the wire's.

    The protocol also has 4 (CANCELLED); no server has shown that it understands it, so it is never sent.
    """

    PENDING = 0
    RUNNING = 1
    SUCCESS = 2
    FAILED = 3

    @property
    def terminal(self) -> bool:
        """True for the two statuses after which the server forgets the job."""
        return self in (JobStatus.SUCCESS, JobStatus.FAILED)


class WorkerStatus(StrEnum):
    """What a worker is doing, for people.  Precedence: CLOSED > DRAINING > DISCONNECTED > FULL > BUSY."""

    DISCONNECTED = "disconnected"
    """Not registered: before start, while connecting, between connections."""
    AVAILABLE = "available"
    """Registered, no job."""
    BUSY = "busy"
    """Running jobs, with room for more."""
    FULL = "full"
    """Running or having promised as many jobs as it may."""
    DRAINING = "draining"
    """Finishing its jobs; takes no more."""
    CLOSED = "closed"
    """Stopped for good."""


class AutoSubscribe(StrEnum):
    """Which tracks of others a participant gets without asking for them one by one."""

    EVERYTHING = "everything"
    AUDIO = "audio"
    """Sound only: what an agent that does not look spares itself and the server."""
    VIDEO = "video"
    """Pictures only."""
    NOTHING = "nothing"
    """None; ``publication.set_subscribed(True)`` asks."""


class ConnectionQuality(IntEnum):
    """A participant's link as the server judges it.  The numbers are the wire's."""

    POOR = 0
    GOOD = 1
    EXCELLENT = 2
    LOST = 3


class CancelReason(Enum):
    """Why the SDK cancelled a job.  The value is the error text of the final status where one is sent."""

    TERMINATED = "job terminated by the server"
    DRAIN_DEADLINE = "worker shut down before the job ended"
    JOB_TIMEOUT = "job execution timeout"
    WORKER_CANCELLED = "worker cancelled"
    WORKER_INTERRUPTED = "worker interrupted"
    SHUTDOWN = "job shut itself down"
    ROOM_CLOSED = "room closed"
    ROOM_LOST = "connection to the room lost"
    REMOVED_FROM_ROOM = "agent removed from the room"
    DUPLICATE_IDENTITY = "another participant took the agent's identity"
    ROOM_BACKLOG = "the job's room events were not consumed"
    TASK_CANCELLED = "the job's task was cancelled by its own program"
    STUCK = "handler ignored its cancellation"


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomInfo:
    """The room a job is about, as it was when the job was offered (a snapshot: counters lag)."""

    sid: str = ""
    name: str = ""
    metadata: str = ""
    num_participants: int = 0
    num_publishers: int = 0
    max_participants: int = 0
    creation_time: datetime | None = None
    empty_timeout: float = 0.0
    """Seconds the room stays open when nobody ever joined."""
    departure_timeout: float = 0.0
    """Seconds the room stays open after the last participant left."""
    active_recording: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantPermissions:
    """What a participant may do.  Defaults are the server's for a worker that names none.

    Of an agent's (``WorkerOptions.permissions``) livekit-server 1.13.5 takes the five ``can_subscribe``,
    ``can_publish``, ``can_publish_data``, ``can_update_metadata`` and ``can_subscribe_metrics``, and ``hidden``; the
    rest it leaves out of the agent's token.
    """

    can_subscribe: bool = True
    can_publish: bool = True
    can_publish_data: bool = True
    can_update_metadata: bool = True
    can_subscribe_metrics: bool = False
    can_manage_agent_session: bool = False
    hidden: bool = False
    recorder: bool = False
    agent: bool = False
    can_publish_sources: tuple[int, ...] = ()
    """Track sources that may be published; empty means all."""

    def __post_init__(self) -> None:
        # Checked where they are written: later, the mistake would be the protocol's, at the worker's first connection.
        for name in _SWITCHES:
            if not isinstance(value := getattr(self, name), bool):
                raise TypeError(f"{name} must be True or False, not {type(value).__name__}")
        given: Any = self.can_publish_sources
        try:
            sources: tuple[Any, ...] = tuple(given)
        except TypeError:  # nothing to go through
            sources = (None,)
        if not all(isinstance(n, int) and not isinstance(n, bool) and 0 <= n < 2**31 for n in sources):
            raise TypeError(f"can_publish_sources must be numbers of sources, not {given!r}")
        object.__setattr__(self, "can_publish_sources", sources)

    def to_proto(self) -> models_pb.ParticipantPermission:
        """The protobuf message.  Every field is written: a present but empty message means "nothing allowed"."""
        from livekit.protocol import models as models_pb

        return models_pb.ParticipantPermission(
            can_subscribe=self.can_subscribe,
            can_publish=self.can_publish,
            can_publish_data=self.can_publish_data,
            can_update_metadata=self.can_update_metadata,
            can_subscribe_metrics=self.can_subscribe_metrics,
            can_manage_agent_session=self.can_manage_agent_session,
            hidden=self.hidden,
            recorder=self.recorder,
            agent=self.agent,
            can_publish_sources=list(self.can_publish_sources),  # pyright: ignore[reportArgumentType] - enum ints
        )


_SWITCHES = tuple(each.name for each in fields(ParticipantPermissions) if each.name != "can_publish_sources")


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantInfo:
    """The participant a job is about, as it was when the job was offered."""

    sid: str = ""
    identity: str = ""
    name: str = ""
    metadata: str = ""
    attributes: Mapping[str, str] = NO_ATTRIBUTES
    kind: int = 0
    """0 standard, 1 ingress, 2 egress, 3 SIP, 4 agent, 7 connector, 8 bridge."""
    state: int = 0
    """0 joining, 1 joined, 2 active, 3 disconnected."""
    is_publisher: bool = False
    permissions: ParticipantPermissions | None = None
    joined_at: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobState:
    """The server's own record of a job, as far as an offer tells it."""

    status: int = JobStatus.PENDING
    error: str = ""
    started_at: datetime | None = None
    updated_at: datetime | None = None
    ended_at: datetime | None = None
    participant_identity: str = ""
    worker_id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job, as offered.

    ``repr`` shows ids only: metadata and the raw message may hold secrets (the room's TURN password is in it).
    """

    id: str
    type: JobType
    room: RoomInfo = field(default_factory=RoomInfo, repr=False)
    participant: ParticipantInfo | None = field(default=None, repr=False)
    namespace: str = ""
    metadata: str = field(default="", repr=False)
    agent_name: str = ""
    dispatch_id: str = ""
    deployment: str = ""
    attributes: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)
    enable_recording: bool = False
    enable_redaction: bool = False
    created_at: datetime | None = None
    """When the offer was received (UTC); the wire has no creation time."""
    updated_at: datetime | None = None
    """The server's last update of the job's state (UTC)."""
    state: JobState = field(default_factory=JobState, repr=False)
    packed: bytes = field(default=b"", repr=False, compare=False)
    """The protobuf message in bytes, a quarter of what it takes up unpacked.  Treat as secret."""

    @property
    def raw(self) -> agent_pb.Job | None:
        """The protobuf message, unpacked anew at each look; None for a job that came over no wire.  Treat as secret."""
        if not self.packed:
            return None
        # Whoever has a job that came over the wire has this module loaded.
        from livekit.protocol import agent

        return agent.Job.FromString(self.packed)

    def metadata_json(self) -> Any:
        """The metadata parsed as JSON.

        Raises :class:`ValueError` for text that is not JSON, is nested too deeply or too long; never
        :class:`RecursionError`.
        """
        if len(self.metadata) > JOB_JSON_CHARS_MAX:
            raise ValueError(f"job metadata of {len(self.metadata)} characters is too long to parse")
        try:
            return json.loads(self.metadata)
        except RecursionError:  # no ValueError: it would pass ordinary handlers by
            raise ValueError("job metadata is nested too deeply") from None

    def metadata_as(self, type_: type[T]) -> T:
        """The metadata's JSON object as keyword arguments of ``type_`` (a dataclass or any callable).

        Raises :class:`ValueError` when the metadata is no JSON object or does not fit.
        """
        value = self.metadata_json()
        if not isinstance(value, dict):
            raise ValueError(f"job metadata is {type(value).__name__}, not a JSON object")
        try:
            return type_(**value)
        except TypeError as exc:
            raise ValueError(f"job metadata does not fit {type_.__name__}: {exc}") from exc


@dataclass(frozen=True, slots=True, kw_only=True)
class JobMetadata:
    """How the agent appears in the room: the answer that accepts an offer."""

    participant_identity: str = ""
    """Empty means ``agent-<job id>``, which is what keeps two jobs of one room apart."""
    participant_name: str = ""
    """What others see."""
    participant_metadata: str = field(default="", repr=False)
    """At most 512 KiB for an ordinary server."""
    participant_attributes: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)
    """At most 64 KiB together.  ``lk.agent_name`` is the server's own and left out."""
    auto_subscribe: AutoSubscribe | None = None
    """What the agent subscribes to in this room; None: as ``WorkerOptions.auto_subscribe`` says.  Never sent."""

    def __post_init__(self) -> None:
        # Checked where the handler builds it: later, the mistake would be the protocol's and the traceback no help.
        texts: list[tuple[str, object]] = [
            ("participant_identity", self.participant_identity),
            ("participant_name", self.participant_name),
            ("participant_metadata", self.participant_metadata),
        ]
        attributes: Any = self.participant_attributes
        if not isinstance(attributes, Mapping):
            raise TypeError(
                f"participant_attributes must be a mapping of text to text, not {type(attributes).__name__}"
            )
        for key, value in self.participant_attributes.items():
            texts += [("an attribute's name", key), (f"participant_attributes[{key!r}]", value)]
        for what, text in texts:
            _check_text(what, text)
        if self.auto_subscribe is not None:
            object.__setattr__(self, "auto_subscribe", AutoSubscribe(self.auto_subscribe))


def _check_text(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise TypeError(f"{what} must be text, not {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{what} holds a lone surrogate, which is no text") from None


#: The answer that says nothing, for all who need one.
NO_METADATA = JobMetadata()


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """The answer that declines an offer.

    ``terminate=False`` lets the server ask another worker; ``terminate=True`` ends the job for every worker.
    ``reason`` is logged here; the wire has no place for it.
    """

    reason: str = ""
    """For our own log, at INFO."""
    terminate: bool = False
    """Whether the job ends for every worker; the server then counts it as SUCCESS."""

    def __post_init__(self) -> None:
        # As JobMetadata: an error that was meant for the reason is the handler's mistake, and not the worker's end.
        _check_text("reason", self.reason)
        if not isinstance(self.terminate, bool):  # pyright: ignore[reportUnnecessaryIsInstance] - user code may
            raise TypeError(f"terminate must be a bool, not {type(self.terminate).__name__}")


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStats:
    """A snapshot of a worker, and what a load calculator sees.  Only fields that are measured exist."""

    connected: bool = False
    """Whether the worker is registered."""
    active_jobs: int = 0
    """Jobs whose tasks live, those that end included."""
    reserved_jobs: int = 0
    """Offers answered yes whose assignment has not come yet."""
    max_jobs: int | None = None
    """``WorkerOptions.max_jobs``; None: no limit."""
    completed_jobs: int = 0
    """Jobs that ended SUCCESS."""
    failed_jobs: int = 0
    """Jobs that ended FAILED."""
    total_jobs: int = 0
    """Jobs ever assigned: active + completed + failed."""
    cpu_percent: float = 0.0
    """Of what this process may use, 0..100."""
    memory_percent: float = 0.0
    """Resident memory of this process, of what it may use, 0..100."""
    memory_mb: float = 0.0
    """Resident memory of this process, in MiB."""
    current_load: float = 0.0
    """0 to 1, as it was last worked out."""
    uptime: float = 0.0
    """Seconds since start."""

    def to_dict(self) -> dict[str, bool | int | float | None]:
        """The figures by their names, as JSON can write them: for a health page, say."""
        return {each.name: getattr(self, each.name) for each in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class ShutdownReport:
    """What a stop did.  Job ids throughout."""

    drained: tuple[str, ...] = ()
    """Jobs that ended by themselves after the stop began."""
    cancelled: tuple[str, ...] = ()
    """Jobs that were cancelled at the deadline."""
    stuck: tuple[str, ...] = ()
    """Jobs whose handler ignored its cancellation, in the job or while asked about its offer; their tasks may still
    run."""
    statuses_unproven: tuple[str, ...] = ()
    """Jobs whose final status was sent or kept, but not proven to have arrived."""
    elapsed: float = 0.0
    """Seconds from the stop to its end."""
