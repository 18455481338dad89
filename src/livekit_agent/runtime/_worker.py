"""The worker: a nesting of task groups, and what connects its parts.

::

    start()
    └─ services            timekeeper, load reporter, leaving of rooms, after-care of abandoned jobs; last to go
       └─ connection       the supervisor: connect, serve, back off, again; up while jobs finish, so reports get out
          └─ intake        asks handlers about offers; cancelled first on a stop
             └─ jobs       one task per job; survives reconnects

The nesting is the shutdown order, but for the intake: it is cancelled when a stop begins and waited for last, because a
handler that ignores the cancellation of its question must not keep jobs from their deadline.  All but ``jobs`` are
service groups: their children outlive the body also when ``start()`` is cancelled from outside.

Each level is a part with a file of its own: ``_standing`` (load), ``_supervisor`` (connections), ``_intake`` (offers),
``_crew`` and ``_jobs`` (jobs); ``_shutdown`` conducts the end.  This class wires them: parts know each other downward
only, share the book of jobs, and what the core says is handed to the one that hears it (``_on_event``, synchronously).
Every decision about the conversation is the core's (``protocol``).  A lost connection cancels no job.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.abc import TaskStatus

from .. import events
from .._errors import ConfigError, ShutdownTimeoutError, WorkerError
from .._options import WorkerOptions, is_text
from .._structlog import logger_of
from .._types import CancelReason, ShutdownReport, WorkerStats, WorkerStatus
from ..handlers import UniversalHandler, check_handler
from ..monitoring._probe import Probe
from ..protocol import (
    AnswerExpired,
    AssignmentLapsed,
    AssignmentRefused,
    ConnectionClosed,
    Event,
    GoAway,
    JobAssigned,
    JobBook,
    JobOffered,
    JobTerminated,
    MessageSkipped,
    Registered,
    StatusDelivered,
    WorkerConnection,
)
from ._broadcast import Broadcast
from ._changes import Changes
from ._crew import Crew
from ._intake import Intake
from ._jobs import JobScope
from ._outcome import only_leaf
from ._rooms import ServerRooms
from ._service_group import open_service_group
from ._shutdown import Shutdown
from ._standing import Standing
from ._supervisor import Supervisor
from ._timekeeper import Timekeeper
from ._transport import Connector, NetworkConnector, parse_url

if TYPE_CHECKING:
    from ..api import LiveKitAPI
    from ..rooms import RoomConnector

    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["UniversalWorker"]

E = TypeVar("E", bound=events.WorkerEvent)


class UniversalWorker(anyio.AsyncContextManagerMixin):
    """Connects to a LiveKit server and runs a handler for each job it is given.

    :param url: the server, ``wss://host`` or ``ws://localhost:7880``; a path is kept, ``https`` means ``wss``.
    :param api_key: the key that tokens are issued in the name of.
    :param api_secret: what they are signed with; in no repr, log or exception.
    :param handler: see :class:`~livekit_agent.UniversalHandler`.
    :param options: see :class:`~livekit_agent.WorkerOptions`.
    :param rooms: how rooms are joined; None is as the server says: real ones through the native library, loaded at the
        first join, or those in an embedded server's memory (:class:`~livekit_agent.ServerRooms`).
    :param connector: how the server is reached; None is the network.  A seam for tests and simulation, as are ``rng``
        (backoff jitter), ``wall_clock`` (Unix seconds, for tokens) and ``probe`` (processor and memory).

    Raises ConfigError for a bad URL, key or secret, HandlerDefinitionError for a bad handler.  One start per instance.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        api_secret: str,
        handler: UniversalHandler,
        options: WorkerOptions | None = None,
        *,
        rooms: RoomConnector | None = None,
        connector: Connector | None = None,
        rng: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
        probe: Probe | None = None,
    ) -> None:
        self.options = options if options is not None else WorkerOptions()
        _check_kinds(self.options, rooms)
        self._endpoint = parse_url(url, allow_plaintext=self.options.allow_plaintext)
        _check_credential("api_key", api_key)
        _check_credential("api_secret", api_secret)
        check_handler(handler)
        self.handler = handler
        self.log: Logger = logger_of(self.options.logger, "livekit_agent")
        self._rooms = rooms
        self._connector = connector or NetworkConnector(ca_file=self.options.ca_file, proxy=self.options.proxy)
        self._broadcast = Broadcast()
        self._began: float | None = None
        self._ended: float | None = None
        self._started = False
        self._closed = False
        self._stop_wanted = False
        self._interrupt: BaseException | None = None
        self._jobs: dict[str, JobScope] = {}
        self._book = book = JobBook(self.options.max_jobs)
        self._changes = changes = Changes()
        publish, log = self._broadcast.publish, self.log
        self._supervisor = supervisor = Supervisor(
            self._endpoint, api_key, api_secret, self.options,
            connector=self._connector, rng=rng if rng is not None else random.Random(), wall_clock=wall_clock,
            book=book, jobs=self._jobs, prepare=self._prepare, on_event=self._on_event, publish=publish,
            changes=changes, log=log,
        )  # fmt: skip
        self._standing = standing = Standing(
            self.options, book=book, jobs=self._jobs, supervisor=supervisor, stats=lambda: self.stats, probe=probe,
            log=log,
        )  # fmt: skip
        self._intake = Intake(
            handler, self.options, supervisor=supervisor, standing=standing, on_interrupt=self._on_interrupt,
            changes=changes, log=log,
        )  # fmt: skip
        self._crew = Crew(
            handler, self.options, room_url=self._endpoint.url, jobs=self._jobs, book=book, supervisor=supervisor,
            standing=standing, on_interrupt=self._on_interrupt, publish=publish, changes=changes, log=log,
        )  # fmt: skip
        self._shutdown = Shutdown(
            self.options, book=book, supervisor=supervisor, intake=self._intake, crew=self._crew, publish=publish,
            changes=changes, log=log,
        )  # fmt: skip
        self._hearers: Mapping[type[Event], Callable[[Any], None]] = {
            Registered: supervisor.on_registered,
            GoAway: supervisor.on_go_away,
            MessageSkipped: supervisor.on_skipped,
            ConnectionClosed: supervisor.on_closed,
            JobOffered: self._intake.on_offer,
            AnswerExpired: self._intake.on_answer_expired,
            JobAssigned: self._crew.on_assigned,
            JobTerminated: self._crew.on_terminated,
            StatusDelivered: self._crew.on_delivered,
            AssignmentLapsed: self._crew.on_lapsed,
            AssignmentRefused: self._crew.on_refused,
        }

    @classmethod
    def from_config(
        cls, config: Any, handler: UniversalHandler, options: WorkerOptions | None = None, **seams: Any
    ) -> UniversalWorker:
        """A worker from a :class:`~livekit_agent.Config`, which knows url, keys, options and maybe rooms.

        ``options`` are what the program wants; what the environment or a flag has set is stronger.  ``seams`` are the
        keyword arguments of the constructor.
        """
        seams.setdefault("rooms", config.rooms)
        return cls(config.url, config.api_key, config.api_secret, handler, config.options(options), **seams)

    # ------------------------------------------------------------------------------------ looking

    @property
    def status(self) -> WorkerStatus:
        """What the worker is doing.  Never blocks."""
        if self._closed:
            return WorkerStatus.CLOSED
        if self._shutdown.begun:
            return WorkerStatus.DRAINING
        if not self._supervisor.registered:
            return WorkerStatus.DISCONNECTED
        if self._book.full or self._standing.full:
            return WorkerStatus.FULL
        return WorkerStatus.BUSY if self._jobs else WorkerStatus.AVAILABLE

    @property
    def worker_id(self) -> str:
        """The id of the current registration, new for each connection; empty while there is none."""
        return self._supervisor.worker_id

    @property
    def stats(self) -> WorkerStats:
        """A snapshot."""
        active, crew, sample = len(self._jobs), self._crew, self._standing.sample
        return WorkerStats(
            connected=self._supervisor.registered,
            active_jobs=active,
            reserved_jobs=self._book.reserved,
            max_jobs=self.options.max_jobs,
            completed_jobs=crew.completed,
            failed_jobs=crew.failed,
            total_jobs=active + crew.completed + crew.failed,
            cpu_percent=sample.cpu_percent,
            memory_percent=sample.memory_percent,
            memory_mb=sample.memory_mb,
            current_load=self._standing.load,
            uptime=self._uptime(),
        )

    def _uptime(self) -> float:
        if self._began is None:
            return 0.0
        return (anyio.current_time() if self._ended is None else self._ended) - self._began

    def events(self, *types: type[E]) -> AsyncIterator[E]:
        """What happens to the worker from now on, of these types (all without any).

        At most 1,000 wait for a slow listener; then the oldest is dropped.  Ends when the worker has closed.
        """
        return self._broadcast.listen(types or (events.WorkerEvent,))  # pyright: ignore[reportReturnType]

    def api(self) -> LiveKitAPI:
        """A client of the server's HTTP API, with the worker's key: ``async with worker.api() as api``.

        See :meth:`~livekit_agent.JobContext.api`.
        """
        return self._supervisor.api()

    # What follows is for those who watch a worker from close by: simulation and monitoring.

    def observe(self, observer: Callable[[object], None]) -> None:
        """Tell ``observer`` of every worker event, synchronously.  It must not raise or block."""
        self._broadcast.observe(observer)

    @property
    def jobs(self) -> tuple[JobScope, ...]:
        """The jobs whose tasks live."""
        return tuple(self._jobs.values())

    @property
    def book(self) -> JobBook:
        """The protocol's view of the jobs."""
        return self._book

    @property
    def connection_core(self) -> WorkerConnection | None:
        """The protocol core of the present connection."""
        session = self._supervisor.session
        return None if session is None else session.core

    @property
    def draining(self) -> bool:
        """Whether a stop has begun."""
        return self._shutdown.begun

    @property
    def report_so_far(self) -> ShutdownReport:
        """What the stop did; empty before its end."""
        return self._shutdown.report or ShutdownReport()

    def __repr__(self) -> str:
        name = self.options.agent_name or "unnamed"
        return f"<UniversalWorker {name} {self.status.value} {len(self._jobs)} jobs>"

    # ------------------------------------------------------------------------------------ life

    async def start(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Register and serve jobs until stopped.

        ``task_status.started()`` is called at the first registration.  Returns after a stop, when every job's task has
        ended.  Cancelling it cancels the jobs, which still report, leave their rooms and run their clean-ups, all
        bounded.  Raises AuthenticationError, ConnectionLostError (gave up), ConfigError.
        """
        if self._started:
            raise WorkerError("the worker was started before; a worker has one life", code="WORKER_STARTED")
        self._started = True
        self._began = anyio.current_time()
        self._supervisor.task_status = task_status
        try:
            if not self._stop_wanted:
                await self._serve()
        except BaseExceptionGroup as group:
            leaf = only_leaf(group)
            if leaf is group:
                raise
            raise self._interrupt or leaf from None
        except anyio.get_cancelled_exc_class():
            if self._interrupt is not None:
                raise self._interrupt from None
            raise
        finally:
            self._closed = True
            self._broadcast.close()
            self._ended = anyio.current_time()
            self._changes.notify()
        if self._interrupt is not None:
            raise self._interrupt
        if self._supervisor.fatal is not None:
            raise self._supervisor.fatal
        self._supervisor.tell_started()

    async def stop(self, timeout: float | None = None, *, strict: bool = False) -> ShutdownReport:
        """Take no more jobs, let running ones finish for ``timeout`` seconds (``shutdown_timeout``), cancel the rest.

        Takes at most timeout + cancel_grace + cleanup_timeout + 4 s.  A second call can only shorten.  Before start it
        makes start a no-op.  Cancelling the wait does not take the stop back.  Raises ShutdownTimeoutError only if
        ``strict`` and jobs had to be cancelled; WorkerError from inside one of the worker's own jobs.
        """
        if self._crew.inside():
            raise WorkerError(
                "stop() inside a job would wait for that job", hint="call request_stop(), which does not wait",
                code="STOP_INSIDE_JOB",
            )  # fmt: skip
        self.request_stop(timeout)
        if not self._started:
            return ShutdownReport()
        # When start() has finished nothing lives any more; but it waits for users' code that ignores its cancellation.
        await self._changes.until(lambda: self._closed or self._shutdown.only_stuck_jobs_are_left)
        report = self.report_so_far
        unfinished = report.cancelled + report.stuck
        if strict and unfinished:
            raise ShutdownTimeoutError(unfinished=unfinished)
        return report

    def request_stop(self, timeout: float | None = None) -> None:
        """Begin a stop without waiting for it.  From the worker's own event loop only.  ValueError for NaN."""
        timeout = self.options.shutdown_timeout if timeout is None else timeout
        if math.isnan(timeout):  # before anything has begun; no deadline is ever due at it
            raise ValueError("timeout: expected seconds, or inf")
        self._stop_wanted = True
        if not self._started or self._closed:
            return  # start will be a no-op, or was
        # Here and not in start()'s task, which gets to run later: nothing is accepted from this moment on.
        self._shutdown.request(timeout)

    async def wait_stuck(self) -> tuple[str, ...]:
        """Wait until all is done but handlers that ignore their cancellation; their jobs' ids.  For programs' ends."""
        await self._changes.until(lambda: self._shutdown.only_stuck_jobs_are_left)
        return self.report_so_far.stuck

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[UniversalWorker]:
        try:
            async with anyio.create_task_group() as tasks:
                await tasks.start(self.start)
                try:
                    yield self
                except BaseException:
                    tasks.cancel_scope.cancel()
                    raise
                await self.stop()
        except BaseExceptionGroup as group:
            leaf = only_leaf(group)
            if leaf is group:
                raise
            raise leaf from None

    # ------------------------------------------------------------------------------------ the nesting

    async def _serve(self) -> None:
        crew, stop = self._crew, self._shutdown
        async with self._open_rooms() as crew.rooms, open_service_group() as services:
            crew.services = services
            crew.timekeeper = Timekeeper()
            services.start_soon(crew.timekeeper.run)
            services.start_soon(self._standing.keep)
            async with open_service_group() as connection:
                connection.start_soon(self._supervisor.supervise)
                async with open_service_group() as self._intake.tasks, anyio.create_task_group() as crew.tasks:
                    try:
                        await self._changes.until(lambda: stop.begun or self._supervisor.fatal is not None)
                        stop.begin()
                        await stop.drain()
                    finally:
                        await stop.end(connection)

    @asynccontextmanager
    async def _open_rooms(self) -> AsyncGenerator[RoomConnector]:
        """Outermost: rooms are there for as long as anything of a job is."""
        if self._rooms is not None:
            yield self._rooms
            return
        allowed = self.options.allow_plaintext
        async with ServerRooms(self._endpoint.url, connector=self._connector, allow_plaintext=allowed) as rooms:
            yield rooms

    # ------------------------------------------------------------------------------------ what the parts tell it

    def _prepare(self, core: WorkerConnection, now: float) -> None:
        """A connection begins: what the server has to know from the start."""
        core.set_standing(self._standing.load, self._standing.full, now)
        if self._shutdown.begun:
            core.drain(now)

    def _on_event(self, event: Event) -> None:
        """Hand an event to where it belongs.  Synchronous; runs inside the session's pump."""
        hear = self._hearers.get(type(event))
        if hear is not None:
            hear(event)

    def _on_interrupt(self, exc: BaseException) -> None:
        """KeyboardInterrupt or the like came out of a handler: end everything; start() raises it."""
        self._interrupt = self._interrupt or exc
        self.log.error("%s in a handler: cancelling all jobs", type(exc).__name__)
        self._shutdown.reason = CancelReason.WORKER_CANCELLED
        self.request_stop(0)


def _check_kinds(options: object, rooms: object) -> None:
    """What would otherwise be an AttributeError in here, or one in each job."""
    if not isinstance(options, WorkerOptions):
        raise ConfigError("options: expected WorkerOptions", field="options", hint="WorkerOptions(agent_name=…) is one")
    if rooms is not None and (isinstance(rooms, type) or not callable(getattr(rooms, "connect", None))):
        raise ConfigError(
            "rooms: expected what joins rooms",
            field="rooms",
            hint="NativeRooms(), or a DispatchServer's .rooms",
        )


def _check_credential(name: str, value: object) -> None:
    """Found where the worker is built: later it is a refusal that says nothing of the reason."""
    if not value:
        raise ConfigError(f"{name}: empty", field=name, hint=f"set LIVEKIT_{name.upper()}")
    if not is_text(value):
        raise ConfigError(f"{name}: expected text", field=name)
