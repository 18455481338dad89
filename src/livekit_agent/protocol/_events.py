"""What the protocol core says, in the past tense.

Every event is a frozen value that cannot be built wrong; none holds a token in its repr.  The first group is what a
worker hears from a server, the second what a server hears from a worker, the third what both hear.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._types import NO_METADATA, Job, JobMetadata, JobStatus, ParticipantInfo, ParticipantPermissions, RoomInfo

__all__ = [
    "AnswerExpired",
    "AssignmentLapsed",
    "AssignmentRefused",
    "AvailabilityReceived",
    "ConnectionClosed",
    "Event",
    "GoAway",
    "JobAssigned",
    "JobOffered",
    "JobStatusReceived",
    "JobTerminated",
    "MessageSkipped",
    "MigrateReceived",
    "PingReceived",
    "PongReceived",
    "RegisterReceived",
    "Registered",
    "Registration",
    "ServerInfo",
    "SimulateReceived",
    "StatusDelivered",
    "UpgradeAccepted",
    "UpgradeRequested",
    "WorkerStatusReceived",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """How a worker introduces itself."""

    job_type: int = 0
    agent_name: str = ""
    namespace: str = ""
    deployment: str = ""
    version: str = ""
    permissions: ParticipantPermissions | None = None
    ping_interval: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerInfo:
    """How a server introduces itself."""

    version: str = ""
    edition: int = 0
    protocol: int = 0
    region: str = ""
    node_id: str = ""
    agent_protocol: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Root of all events."""


# ------------------------------------------------------------------------------------- heard by a worker


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeAccepted(Event):
    """The server answered 101; the registration is on its way."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered(Event):
    """The server took the worker on.  ``worker_id`` is new for each connection and may be empty."""

    worker_id: str
    server: ServerInfo


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOffered(Event):
    """The server asks whether the worker wants a job.  Answer with accept or decline before ``answer_by``."""

    job: Job
    resuming: bool = False
    answer_by: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerExpired(Event):
    """An offer was not answered in time (or its connection went): it has been declined, asking on is useless."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAssigned(Event):
    """An accepted job is ours: join its room with ``token``, at ``url`` or, if that is empty, the worker's own."""

    job: Job
    token: str = field(repr=False)
    url: str = ""
    metadata: JobMetadata = NO_METADATA


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentRefused(Event):
    """An assignment that we had not accepted was answered FAILED and starts nothing."""

    job_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignmentLapsed(Event):
    """An accepted offer was never assigned; its reservation is released."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerminated(Event):
    """The server wants a running job to end; the agent must have left the room within 3 s."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusDelivered(Event):
    """A job's final status has provably reached the server."""

    job_id: str
    status: JobStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class PongReceived(Event):
    """The answer to a WorkerPing."""

    last_timestamp: int
    timestamp: int


@dataclass(frozen=True, slots=True, kw_only=True)
class GoAway(Event):
    """The server wants this connection drained and made anew elsewhere."""

    reason: str = ""


# ------------------------------------------------------------------------------------- heard by a server


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeRequested(Event):
    """A worker wants to speak WebSocket.  Answer with accept_upgrade or reject_upgrade.

    Header names are lower-case; of repeated headers the first counts.
    """

    path: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(repr=False)
    method: str = "GET"


@dataclass(frozen=True, slots=True, kw_only=True)
class RegisterReceived(Event):
    """A worker introduced itself.  Answer with registered, or drop."""

    registration: Registration


@dataclass(frozen=True, slots=True, kw_only=True)
class AvailabilityReceived(Event):
    """A worker's answer to an offer of this connection."""

    job_id: str
    available: bool
    terminate: bool = False
    supports_resume: bool = False
    metadata: JobMetadata = field(default_factory=JobMetadata)


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatusReceived(Event):
    """A worker reports on a job of this connection.  ``status`` is the wire's number, unknown ones included."""

    job_id: str
    status: int
    error: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatusReceived(Event):
    """A worker's load.  ``full`` is None when the message left the status as it was."""

    full: bool | None
    load: float
    job_count: int = 0
    draining: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MigrateReceived(Event):
    """A worker names the jobs it still runs after a reconnect."""

    job_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateReceived(Event):
    """A worker asks to be offered a made-up job."""

    job_type: int
    room: RoomInfo | None
    participant: ParticipantInfo | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PingReceived(Event):
    """A WorkerPing; the core has answered it."""

    timestamp: int


# ------------------------------------------------------------------------------------- heard by both


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageSkipped(Event):
    """Something tolerated was ignored.  For logs."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionClosed(Event):
    """The last event of a connection, exactly once.

    ``code`` is the WebSocket close code, 1006 when the stream just ended.  ``error`` is None for an end that we asked
    for, else the typed error to raise, log or retry on.
    """

    code: int
    reason: str = ""
    error: Exception | None = None
