"""What a worker can be told.  One frozen value, checked when it is built.

Every field is obeyed: a field whose policy does not exist yet is not here.  Layer 1.
"""

from __future__ import annotations

import inspect
import logging
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from ._bounds import DEPLOYMENT_BYTES_MAX, JOBS_MAX
from ._errors import ConfigError, InvalidJobTypeError
from ._types import AutoSubscribe, JobType, ParticipantPermissions, WorkerStats

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["LoadCalculator", "StructuredLogger", "WorkerOptions", "is_int", "is_text", "valid_proxy"]


class StructuredLogger(Protocol):
    """A structlog logger, as far as it is used: an event, and what belongs to it as keywords."""

    def bind(self, **fields: Any) -> Any: ...
    def debug(self, event: str, /, **fields: Any) -> Any: ...
    def info(self, event: str, /, **fields: Any) -> Any: ...
    def warning(self, event: str, /, **fields: Any) -> Any: ...
    def error(self, event: str, /, **fields: Any) -> Any: ...
    def critical(self, event: str, /, **fields: Any) -> Any: ...


class LoadCalculator(Protocol):
    """Turns a worker's figures into a load and a yes or no.  Synchronous and quick: called on the event loop."""

    def calculate_load(self, stats: WorkerStats) -> float:
        """The load, 0 (idle) to 1 (no more).

        An open-source server offers nothing to workers at 0.7 and above.  What is not finite or out of range is
        replaced: the last good value for NaN or an exception, else clamped.  At 1 the worker says that it is full, and
        with places free that it is not at 0.95 or below.
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

    auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING
    """Which tracks the agent gets in its rooms without asking.  A JobMetadata may say otherwise."""

    load_calculator: LoadCalculator | None = None
    """How the reported load is computed.  None: :class:`~livekit_agent.DefaultLoadCalculator`."""

    job_timeout: float = math.inf
    """Seconds a job may last, from its assignment, joining the room included."""

    reconnect_timeout: float = 60.0
    """Seconds a job's room may stay :class:`~livekit_agent.events.Reconnecting`; then it counts as lost.

    The native library gives up by itself within some 30 s, as a rule; this bounds the exceptions.
    """

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

    proxy: str | None = field(default=None, repr=False)
    """``http://`` or ``https://`` proxy for the worker's connection (CONNECT).  May hold a password."""

    allow_plaintext: bool = False
    """Allow ``ws://`` to hosts other than loopback.  The token then travels in the clear."""

    websocket_debug: bool = False
    """Log every message's kind and size at DEBUG.  Contents and tokens are never logged."""

    logger: Logger | StructuredLogger | None = field(default=None, repr=False)
    """Where to log.  None: ``logging.getLogger("livekit_agent")``.  A structlog logger gets a job's ids as fields."""

    def __post_init__(self) -> None:
        faults: list[ConfigError | InvalidJobTypeError] = list(self._faults())
        given: Any = self.job_type
        try:
            # bool is an int, and True would be a publisher's worker.
            object.__setattr__(self, "job_type", JobType(None if isinstance(given, bool) else given))
        except ValueError:
            faults.insert(
                0,
                InvalidJobTypeError(
                    f"invalid job type: {given!r}",
                    hint="use JobType.ROOM, JobType.PARTICIPANT or JobType.PUBLISHER",
                ),
            )
        if len(faults) == 1:
            raise faults[0]
        if faults:
            raise ExceptionGroup(f"{len(faults)} invalid worker options", faults)

    def _faults(self) -> list[ConfigError]:
        faults: list[ConfigError] = []
        # The annotations are promises of the caller's; what a program really passes is looked at here.
        permissions: Any = self.permissions
        calculator: Any = self.load_calculator
        deployment: Any = self.deployment
        logger: Any = self.logger

        def fault(name: str, message: str, hint: str = "") -> None:
            faults.append(ConfigError(f"{name}: {message}", field=name, source="WorkerOptions", hint=hint))

        if self.max_jobs is not None and not is_int(self.max_jobs):
            fault("max_jobs", "expected a whole number or None", "None means no limit")
        elif self.max_jobs is not None and not 1 <= self.max_jobs <= JOBS_MAX:
            fault("max_jobs", f"not in 1..{JOBS_MAX}", "None means no limit; 0 would never work")
        for name in ("reconnect_timeout", "shutdown_timeout", "cancel_grace", "cleanup_timeout", "job_timeout"):
            seconds = _as_seconds(getattr(self, name))
            if seconds is None:
                fault(name, "expected seconds, 0 or more")
            elif math.isinf(seconds) and name in ("cancel_grace", "cleanup_timeout"):
                fault(name, "must be finite: it bounds a shield")
        if self.max_connect_failures is not None and not (
            is_int(self.max_connect_failures) and self.max_connect_failures >= 1
        ):
            fault("max_connect_failures", "expected a whole number above 0, or None for no limit")
        for name in ("agent_name", "namespace", "deployment"):
            if not is_text(getattr(self, name)):
                fault(name, "expected text that UTF-8 can write")
        if isinstance(deployment, str) and not valid_deployment(deployment):
            fault(
                "deployment",
                "at most 64 bytes, no underscore, blank or control character",
                "the server drops the connection of a worker with such a deployment name",
            )
        for name in ("allow_plaintext", "websocket_debug"):
            if not isinstance(getattr(self, name), bool):
                fault(name, "expected True or False")
        if self.ca_file is not None and not (is_text(self.ca_file) and self.ca_file):
            fault("ca_file", "expected a path as text, or None")
        if self.proxy is not None and not (is_text(self.proxy) and valid_proxy(self.proxy)):
            fault("proxy", "not an http:// or https:// URL", "write http://host:port; SOCKS is not supported")
        try:
            object.__setattr__(self, "auto_subscribe", AutoSubscribe(self.auto_subscribe))
        except ValueError:
            fault("auto_subscribe", "expected everything, audio, video or nothing (AutoSubscribe)")
        if permissions is not None and not isinstance(permissions, ParticipantPermissions):
            fault("permissions", "expected ParticipantPermissions or None")
        if calculator is not None and (
            isinstance(calculator, type)
            or not callable(getattr(calculator, "calculate_load", None))
            or not callable(getattr(calculator, "should_accept_job", None))
        ):
            fault(
                "load_calculator",
                "expected an object with calculate_load and should_accept_job, or None",
                "CustomLoadCalculator(calculator=...) makes one of a function",
            )
        elif calculator is not None and any(
            map(inspect.iscoroutinefunction, (calculator.calculate_load, calculator.should_accept_job))
        ):
            fault(
                "load_calculator",
                "calculate_load and should_accept_job must be plain functions, not async ones",
                "they are asked on the event loop and must be quick; look things up in a task of your own",
            )
        if not (logger is None or isinstance(logger, logging.Logger | logging.LoggerAdapter) or _is_structured(logger)):
            fault("logger", "expected a logging.Logger, a LoggerAdapter, a structlog logger, or None")
        return faults


def _is_structured(logger: Any) -> bool:
    # A class has the methods too, unbound: `logger=structlog.BoundLogger` is a mistake.
    names = ("bind", "debug", "info", "warning", "error", "critical")
    return not isinstance(logger, type) and all(callable(getattr(logger, name, None)) for name in names)


def is_int(value: object) -> bool:
    """Whether it is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _as_seconds(value: object) -> float | None:
    """A duration as a float; None for what is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        seconds = float(value)
    except OverflowError:  # an int that no float can hold
        return None
    return seconds if seconds >= 0 else None


def is_text(value: object) -> bool:
    """Whether it is text that UTF-8 can write."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # a lone surrogate, which no protobuf message can carry
        return False
    return True


def valid_proxy(url: str) -> bool:
    """Whether ``url`` names a proxy that the worker can use."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme in ("http", "https")
        and bool(parts.hostname)
        and port != 0
        and parts.path in ("", "/")
        and not parts.query
        and not parts.fragment
        and url.isascii()
        and url.isprintable()
        and " " not in url
    )


def valid_deployment(name: str) -> bool:
    data = name.encode("utf-8", "surrogatepass")
    return len(data) <= DEPLOYMENT_BYTES_MAX and not any(b <= 0x20 or b == 0x7F or b == 0x5F for b in data)
