"""What happens to a worker, as values.  Public as ``livekit_agent.events``.

Arrives through ``worker.events()``.  Layer 3.
"""

from __future__ import annotations

from dataclasses import dataclass

from ._types import Job, JobStatus

__all__ = [
    "ConnectionLost",
    "Draining",
    "JobEnded",
    "JobStarted",
    "Registered",
    "WorkerEvent",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerEvent:
    """Root of the worker events."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Registered(WorkerEvent):
    """The server took the worker on.  The id is new for each connection."""

    worker_id: str
    server_version: str = ""
    reconnect: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLost(WorkerEvent):
    """The connection ended or could not be made; the next attempt comes in ``retry_in`` seconds."""

    error: Exception
    retry_in: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class JobStarted(WorkerEvent):
    """A job was assigned; its room is being joined."""

    job: Job


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEnded(WorkerEvent):
    """A job is over: its handler and clean-ups have ended and its room is left."""

    job: Job
    status: JobStatus
    reason: str = ""
    """Why, in a few words: empty for a handler that returned."""
    error: BaseException | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Draining(WorkerEvent):
    """The worker takes no more jobs and waits for those that run, at most ``timeout`` seconds."""

    timeout: float
