"""What a handler is given with a job.  Layer 3: plain access, no lifetime of its own; ``runtime/_jobs.py`` makes it."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import anyio
from anyio.abc import TaskGroup

from . import events
from ._types import Job, JobMetadata

if TYPE_CHECKING:
    from .api import LiveKitAPI
    from .rooms import Room

    JobLogger = logging.LoggerAdapter[Any]

__all__ = ["JobContext", "JobLog"]

E = TypeVar("E", bound="events.RoomEvent")

#: A clean-up: no arguments, sync or async.
Cleanup = Callable[[], Awaitable[None] | None]


class JobLog(logging.LoggerAdapter[Any]):
    """The worker's logger with ids of the job on each record.

    Nothing that others say about a record is lost: an adapter replaces ``extra``, so the user's own adapter (with its
    prefix, say) is asked here and what it, the call and we add is put together.
    """

    def __init__(self, logger: logging.Logger | logging.LoggerAdapter[Any], ids: Mapping[str, object]) -> None:
        self._adapters: list[logging.LoggerAdapter[Any]] = []
        while isinstance(logger, logging.LoggerAdapter):
            self._adapters.append(logger)
            logger = logger.logger
        super().__init__(logger, ids)

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """What to log for ``msg``."""
        extra: dict[str, Any] = {**(kwargs.get("extra") or {}), **(self.extra or {})}
        for adapter in self._adapters:
            msg, kwargs = adapter.process(msg, kwargs)
            extra = {**(kwargs.get("extra") or {}), **extra}
        return msg, {**kwargs, "extra": extra}


class Running(Protocol):
    """What a context asks of the job behind it.  One object instead of four functions: a worker may hold 10,000."""

    @property
    def log(self) -> JobLogger: ...

    def warning(self) -> anyio.Event:
        """The event of the polite stage."""
        ...

    def shutdown(self, reason: str) -> None: ...

    def push_cleanup(self, fn: Cleanup) -> None: ...

    def api(self) -> LiveKitAPI: ...


class JobContext:
    """A running job, seen from its handler."""

    # A handler may keep things of its own on it; the dictionary for them is made when it does.
    __slots__ = (
        "__dict__", "__weakref__", "_running", "cancel_scope", "deadline", "job", "metadata", "room", "task_group",
    )  # fmt: skip

    def __init__(
        self,
        *,
        job: Job,
        room: Room,
        metadata: JobMetadata,
        cancel_scope: anyio.CancelScope,
        task_group: TaskGroup,
        deadline: float,
        running: Running,
    ) -> None:
        self.job = job
        """What the job is about."""
        self.room = room
        """The room, joined."""
        self.metadata = metadata
        """How the agent appears in it."""
        self.cancel_scope = cancel_scope
        """The job's own scope.  Cancelled by the SDK when the job has to end; cancelling it ends the job SUCCESS."""
        self.task_group = task_group
        """Tasks started here live and die with the job; it is over only when they have ended."""
        self.deadline = deadline
        """When ``job_timeout`` ends the job, on ``anyio.current_time()``; ``inf`` without one.

        Not a scope's deadline: on a tie trio would always cancel and asyncio do either; the SDK cancels at the first
        instant *after* it on both.
        """
        self._running = running

    @property
    def log(self) -> JobLogger:
        """A logger that knows the job's and the room's id."""
        return self._running.log

    @property
    def shutting_down(self) -> anyio.Event:
        """Set when the worker starts to drain: finish up, there is ``shutdown_timeout`` left."""
        return self._running.warning()

    def shutdown(self, reason: str = "") -> None:
        """End the job SUCCESS by cancelling its scope.  Returns at once; ``reason`` is logged and on ``JobEnded``.

        TypeError for a reason that is no text.
        """
        if not isinstance(reason, str):  # pyright: ignore[reportUnnecessaryIsInstance] - user code may
            # Here, where it is the handler's mistake; at the job's end it would be the worker's.
            raise TypeError(f"reason must be text, not {type(reason).__name__}")
        self._running.shutdown(reason)

    def push_cleanup(self, fn: Cleanup) -> None:
        """Call ``fn`` after the handler and its tasks have ended, the room still joined; last pushed, first called.

        Runs however the job ended.  All clean-ups share ``cleanup_timeout``; one that raises is logged, the rest run.
        """
        self._running.push_cleanup(fn)

    def api(self) -> LiveKitAPI:
        """A client of the HTTP API of the worker's server, in the name of the worker's key; a new one with each call::

            async with ctx.api() as api:
                await api.rooms.delete(ctx.room.name)

        It reaches the server as the worker does (``ca_file``, ``proxy``), but over sockets always: not under virtual
        time.  ``on_job_terminated`` has ``worker.api()``.
        """
        return self._running.api()

    def events(self, *types: type[E]) -> AsyncIterator[E]:
        """The room's events from now on, of these types (all without any), in a buffer of their own."""
        return self.room.events(*types)

    async def wait_for(self, type_: type[E], where: Callable[[E], bool] | None = None, timeout: float = math.inf) -> E:
        """The next event of ``type_`` for which ``where`` holds.  TimeoutError after ``timeout`` seconds."""
        return await self.room.wait_for(type_, where, timeout)

    async def wait_closed(self) -> events.Disconnected:
        """Wait until the room is over for us."""
        return await self.room.wait_closed()

    def __repr__(self) -> str:
        return f"<JobContext {self.job.id} {self.job.type.name} in {self.job.room.name!r}>"
