"""What the dispatch server says about itself, in the past tense, and the records that it keeps.

Records are live: the server changes them, everybody else reads.  Events are frozen.  Neither holds a token.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum
from typing import TYPE_CHECKING

from .._bounds import JOB_HISTORY_MAX
from .._types import JobState, JobStatus, JobType, ParticipantPermissions

if TYPE_CHECKING:
    from livekit.protocol import agent as agent_pb

__all__ = [
    "DispatchCreated",
    "DispatchDeleted",
    "DispatchEvent",
    "DispatchRecord",
    "JobAssigned",
    "JobDeclined",
    "JobEnded",
    "JobForgotten",
    "JobLost",
    "JobOffered",
    "JobPhase",
    "JobRecord",
    "JobStatusChanged",
    "JobTerminated",
    "MessageTolerated",
    "Order",
    "ParticipantRemovalDue",
    "StatusUpdate",
    "WorkerGone",
    "WorkerRecord",
    "WorkerRegistered",
    "WorkerStatusChanged",
]


# ---------------------------------------------------------------------------------------------------- records


class JobPhase(Enum):
    """Where a job is in its life, for the server.  The wire's own status says RUNNING from the offer on."""

    OFFERED = "offered"
    """A worker is being asked."""
    RUNNING = "running"
    """Assigned; the worker has not reported an end."""
    ENDED = "ended"
    """SUCCESS or FAILED, by the worker's word or the server's verdict."""
    LOST = "lost"
    """No worker took it.  Nothing is queued: it will not be offered again."""
    FORGOTTEN = "forgotten"
    """Its worker's connection ended while it ran.  Its status stays what it was, for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusUpdate:
    """One status as a worker sent it, at ``wall`` (Unix seconds)."""

    status: int
    error: str = field(repr=False)
    wall: float


@dataclass(slots=True, kw_only=True, eq=False)
class JobRecord:
    """A job as the server knows it."""

    id: str
    type: JobType
    room: str
    agent_name: str = ""
    namespace: str = ""
    deployment: str = ""
    dispatch_id: str = ""
    participant: str = ""
    """Identity of the participant the job is about; empty for a room job."""
    identity: str = ""
    """Identity under which the agent joins, once it accepted."""
    worker_id: str = ""
    """The worker asked last, or assigned."""
    phase: JobPhase = JobPhase.OFFERED
    status: int = JobStatus.PENDING
    error: str = field(default="", repr=False)
    """The worker's words, as they came."""
    created_at: float = 0.0
    """Unix seconds, as all times of this record."""
    started_at: float = 0.0
    updated_at: float = 0.0
    ended_at: float = 0.0
    asked: list[str] = field(default_factory=list[str])
    """Workers asked, in order; nobody is asked twice."""
    history: deque[StatusUpdate] = field(default_factory=lambda: deque[StatusUpdate](maxlen=JOB_HISTORY_MAX))
    """Statuses as they were received, the newest last."""
    message: agent_pb.Job | None = field(default=None, repr=False)
    """The job as it goes over the wire.  Metadata may be secret."""

    @property
    def state(self) -> JobState:
        """The job's state as a value."""
        return JobState(
            status=self.status,
            error=self.error,
            started_at=_moment(self.started_at),
            updated_at=_moment(self.updated_at),
            ended_at=_moment(self.ended_at),
            participant_identity=self.identity,
            worker_id=self.worker_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a dispatch asks for, before it is one."""

    agent_name: str = ""
    metadata: str = field(default="", repr=False)
    deployment: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    restart_policy: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class DispatchRecord:
    """A standing order for agents in one room."""

    id: str
    room: str
    agent_name: str = ""
    metadata: str = field(default="", repr=False)
    deployment: str = ""
    attributes: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    restart_policy: int = 0
    """Stored and shown; only LiveKit Cloud acts on it."""
    created_at: float = 0.0
    jobs: list[JobRecord] = field(default_factory=list[JobRecord])
    """Jobs whose launch came to an assignment (or a terminating answer), oldest first."""
    launching: int = 0
    """Jobs of this dispatch that are still being offered."""


@dataclass(slots=True, kw_only=True, eq=False)
class WorkerRecord:
    """A registered worker."""

    id: str
    agent_name: str
    namespace: str
    job_type: JobType
    deployment: str
    version: str
    api_key: str
    permissions: ParticipantPermissions | None = None
    full: bool = False
    load: float = 0.0
    draining: bool = False
    jobs: dict[str, JobRecord] = field(default_factory=dict[str, JobRecord], repr=False)
    """Its running jobs by id."""

    @property
    def available(self) -> bool:
        """Whether it may be asked.  An open-source server knows no draining; a worker that says so means FULL."""
        return not self.full and not self.draining


def _moment(wall: float) -> datetime | None:
    return datetime.fromtimestamp(wall, UTC) if wall else None


# ----------------------------------------------------------------------------------------------------- events


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchEvent:
    """Root of the dispatch server's events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRegistered(DispatchEvent):
    """A worker may be offered jobs from now on."""

    worker: WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerStatusChanged(DispatchEvent):
    """A worker reported its load."""

    worker: WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerGone(DispatchEvent):
    """A worker's connection ended.  Its running jobs are forgotten (one JobForgotten each comes before this)."""

    worker: WorkerRecord
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchCreated(DispatchEvent):
    """A room has a new dispatch."""

    dispatch: DispatchRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchDeleted(DispatchEvent):
    """A dispatch was deleted; its jobs are terminated in turn."""

    dispatch: DispatchRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class JobOffered(DispatchEvent):
    """A worker was asked."""

    job: JobRecord
    worker: WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class JobDeclined(DispatchEvent):
    """A worker said no.  ``terminate``: for all workers, and the job counts as a success."""

    job: JobRecord
    worker: WorkerRecord
    terminate: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class JobAssigned(DispatchEvent):
    """A worker has the job."""

    job: JobRecord
    worker: WorkerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStatusChanged(DispatchEvent):
    """A worker reported on its job."""

    job: JobRecord
    status: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobTerminated(DispatchEvent):
    """The worker was told to stop the job."""

    job: JobRecord
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(DispatchEvent):
    """The job is over for the server: the worker's word, a termination, or an agent that left."""

    job: JobRecord
    status: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class JobForgotten(DispatchEvent):
    """The job's worker is gone; nobody will report its end to this record."""

    job: JobRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class JobLost(DispatchEvent):
    """A launch found no worker.  ``job`` is None when there was none of the right name and kind to begin with."""

    dispatch: DispatchRecord | None
    job: JobRecord | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantRemovalDue(DispatchEvent):
    """A terminated agent did not leave in time: whoever keeps the rooms must remove it now."""

    room: str
    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageTolerated(DispatchEvent):
    """A worker said something that is ignored.  For logs."""

    worker_id: str
    kind: str
    reason: str
