"""What a worker can be told.  One frozen value, checked when it is built.

Every field is obeyed: a field whose policy does not exist yet is not here.  Layer 1.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from ._bounds import JOBS_MAX
from ._errors import ConfigError, InvalidJobTypeError
from ._types import JobType, ParticipantPermissions, WorkerStats

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["LoadCalculator", "WorkerOptions"]

_DEPLOYMENT_BYTES_MAX = 64


class LoadCalculator(Protocol):
    """Turns a worker's figures into a load and a yes or no.  Synchronous and quick: called on the event loop."""

    def calculate_load(self, stats: WorkerStats) -> float:
        """The load, 0 (idle) to 1 (no more).

        An open-source server offers nothing to workers at 0.7 and above.  What is not finite or out of range is
        replaced: the last good value for NaN or an exception, else clamped.
        """
        ...

    def should_accept_job(self, job_type: JobType, load: float) -> bool:
        """Whether to take one more job.  Asked after ``max_jobs``, which is a hard limit."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerOptions:
    """Options of a :class:`~livekit_agent.UniversalWorker`.  Durations are seconds."""

    agent_name: str = ""
    """Name to be dispatched by.  Empty: every room gets this agent.  Named: only explicit dispatches reach it."""

    job_type: JobType = JobType.ROOM
    """The one type of job this worker serves; the protocol has one field for it."""

    max_jobs: int | None = 1
    """How many jobs may run at once, promised ones included.  A hard limit under any burst.  None: no limit."""

    namespace: str = ""
    """Namespace for multi-tenant deployments."""

    deployment: str = ""
    """Deployment name: at most 64 bytes, no ``_`` and no blank (the server drops the connection otherwise)."""

    permissions: ParticipantPermissions | None = None
    """What the agent may do in its rooms.  None: the server's default (subscribe, publish, data, metadata)."""

    load_calculator: LoadCalculator | None = None
    """How the reported load is computed.  None: :class:`~livekit_agent.DefaultLoadCalculator`."""

    job_timeout: float = math.inf
    """Seconds a job may last, from its assignment, joining the room included."""

    shutdown_timeout: float = 30.0
    """Seconds that running jobs get to finish by themselves when the worker stops."""

    cancel_grace: float = 1.5
    """Seconds a cancelled handler gets before it is reported as stuck.  1.5 leaves room before the server's 3 s."""

    cleanup_timeout: float = 5.0
    """Seconds for a job's ``push_cleanup`` callbacks and ``on_job_terminated`` together, after its handler."""

    max_connect_failures: int | None = None
    """Consecutive failures to connect after which start gives up.  None: never."""

    ca_file: str | None = None
    """A PEM file with the certificate authorities to trust instead of the system's."""

    proxy: str | None = None
    """``http://`` or ``https://`` proxy for the worker's connection (CONNECT)."""

    allow_plaintext: bool = False
    """Allow ``ws://`` to hosts other than loopback.  The token then travels in the clear."""

    websocket_debug: bool = False
    """Log every message's kind and size at DEBUG.  Contents and tokens are never logged."""

    logger: Logger | None = field(default=None, repr=False)
    """Where to log.  None: ``logging.getLogger("livekit_agent")``."""

    def __post_init__(self) -> None:
        try:
            object.__setattr__(self, "job_type", JobType(self.job_type))
        except ValueError:
            raise InvalidJobTypeError(
                f"invalid job type: {self.job_type!r}",
                hint="use JobType.ROOM, JobType.PARTICIPANT or JobType.PUBLISHER",
            ) from None
        faults = list(self._faults())
        if len(faults) == 1:
            raise faults[0]
        if faults:
            raise ExceptionGroup(f"{len(faults)} invalid worker options", faults)

    def _faults(self) -> list[ConfigError]:
        faults: list[ConfigError] = []

        def fault(name: str, message: str, hint: str = "") -> None:
            faults.append(ConfigError(f"{name}: {message}", field=name, source="WorkerOptions", hint=hint))

        if self.max_jobs is not None and not _is_int(self.max_jobs):
            fault("max_jobs", f"expected a whole number or None, not {self.max_jobs!r}")
        elif self.max_jobs is not None and not 1 <= self.max_jobs <= JOBS_MAX:
            fault("max_jobs", f"{self.max_jobs} is not in 1..{JOBS_MAX}", "None means no limit; 0 would never work")
        for name in ("shutdown_timeout", "cancel_grace", "cleanup_timeout", "job_timeout"):
            value = getattr(self, name)
            if not _is_number(value) or math.isnan(value) or value < 0:
                fault(name, f"expected seconds, 0 or more, not {value!r}")
            elif math.isinf(value) and name in ("cancel_grace", "cleanup_timeout"):
                fault(name, "must be finite: it bounds a shield")
        if self.max_connect_failures is not None and not (
            _is_int(self.max_connect_failures) and self.max_connect_failures >= 1
        ):
            fault("max_connect_failures", f"expected a whole number above 0 or None, not {self.max_connect_failures!r}")
        for name in ("agent_name", "namespace", "deployment"):
            if not isinstance(getattr(self, name), str):
                fault(name, "expected text")
        if isinstance(self.deployment, str) and not valid_deployment(self.deployment):
            fault(
                "deployment",
                "at most 64 bytes, no underscore, blank or control character",
                "the server drops the connection of a worker with such a deployment name",
            )
        return faults


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def valid_deployment(name: str) -> bool:
    data = name.encode("utf-8", "surrogatepass")
    return len(data) <= _DEPLOYMENT_BYTES_MAX and not any(b <= 0x20 or b == 0x7F or b == 0x5F for b in data)
