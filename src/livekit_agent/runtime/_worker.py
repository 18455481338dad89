"""The worker: a nesting of task groups, and what connects its parts.

::

    start()
    └─ services            timekeeper, load reporter, after-care of abandoned jobs; last to go
       └─ connection       the supervisor: connect, serve, back off, again; up while jobs finish, so reports get out
          └─ intake        asks handlers about offers; cancelled first on a stop
             └─ jobs       one task per job; survives reconnects

The nesting is the shutdown order, but for the intake: it is cancelled when a stop begins and waited for last, because a
handler that ignores the cancellation of its question must not keep jobs from their deadline.  All but ``jobs`` are
service groups: their children outlive the body also when ``start()`` is cancelled from outside.

Every decision about the conversation is the core's (``protocol``): this class hands its events to where they belong
(``_on_event``, synchronously) and calls its verbs.  A lost connection cancels no job.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import anyio
from anyio.abc import TaskStatus

from .. import __version__, events
from .._bounds import CLOSE_TIMEOUT, CONNECT_TIMEOUT, FLUSH_TIMEOUT, LOAD_INTERVAL
from .._errors import (
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    LocalProtocolError,
    ShutdownTimeoutError,
    WorkerError,
    log_error,
    printable,
)
from .._options import WorkerOptions
from .._types import CancelReason, Job, JobMetadata, JobStatus, Reject, ShutdownReport, WorkerStats, WorkerStatus
from ..handlers import UniversalHandler, ask, check_handler, room_callbacks
from ..load import DefaultLoadCalculator
from ..monitoring._probe import Probe, Sample, process_probe
from ..protocol import (
    AnswerExpired,
    AssignmentLapsed,
    AssignmentRefused,
    ConnectionClosed,
    Event,
    GiveUp,
    GoAway,
    JobAssigned,
    JobBook,
    JobOffered,
    JobTerminated,
    Lifecycle,
    MessageSkipped,
    Registered,
    Registration,
    SignalConnection,
    Stage,
    StatusDelivered,
    WorkerConnection,
    report_status,
    worker_token,
)
from ._broadcast import Broadcast
from ._changes import Changes
from ._jobs import JobScope, sort_out
from ._outcome import only_leaf
from ._rooms import ServerRooms
from ._service_group import ServiceGroup, open_service_group
from ._session import Session
from ._timekeeper import Timekeeper
from ._transport import Connector, NetworkConnector, parse_url

if TYPE_CHECKING:
    from ..rooms import RoomConnector

    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["UniversalWorker"]

E = TypeVar("E", bound=events.WorkerEvent)

#: Set inside a worker's jobs, so that a stop() from there can say why it would wait for itself.
_inside_job_of: ContextVar[object | None] = ContextVar("livekit_agent_worker", default=None)


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
        self._endpoint = parse_url(url, allow_plaintext=self.options.allow_plaintext)
        for name, value in (("api_key", api_key), ("api_secret", api_secret)):
            if not value:
                raise ConfigError(f"{name}: empty", field=name, hint=f"set LIVEKIT_{name.upper()}")
        check_handler(handler)
        self.handler = handler
        self.deliveries = room_callbacks(handler)
        self.room_url = self._endpoint.url
        self.log: Logger = self.options.logger or logging.getLogger("livekit_agent")
        self._api_key = api_key
        self._api_secret = api_secret
        self._rooms = rooms
        self._connector = connector or NetworkConnector(ca_file=self.options.ca_file, proxy=self.options.proxy)
        self._wall_clock = wall_clock
        self._probe = probe
        self._calculator = self.options.load_calculator or DefaultLoadCalculator()
        self._lifecycle = Lifecycle(
            rng if rng is not None else random.Random(), max_failures=self.options.max_connect_failures
        )
        self._book = JobBook(self.options.max_jobs)
        self._broadcast = Broadcast()
        self._session: Session | None = None
        self._worker_id = ""
        self._connections = 0
        self._jobs: dict[str, JobScope] = {}
        self._asking: dict[str, anyio.CancelScope] = {}
        self._answering: list[str] = []
        """Jobs whose question to the handler has not come back; one ignoring its cancellation is not in ``_asking``."""
        self._sample = Sample()
        self._load = 0.0
        self._completed = self._failed = 0
        self._began: float | None = None
        self._ended: float | None = None
        self._started = False
        self._closed = False
        self._draining = False
        self._asked_to_leave = False
        self._task_status: TaskStatus[None] | None = None
        self._stop: _Stop | None = None
        self._stop_wanted = False
        self._fatal: Exception | None = None
        self._interrupt: BaseException | None = None
        self._intake: ServiceGroup | None = None
        self._final_reported_at = -math.inf
        self._report: ShutdownReport | None = None
        self._changes = Changes()
        # A worker is often built before there is a loop, so what belongs to one is made in start().
        self._finished: anyio.Event | None = None

    @classmethod
    def from_config(cls, config: Any, handler: UniversalHandler, **seams: Any) -> UniversalWorker:
        """A worker from a :class:`~livekit_agent.Config`, which knows url, keys, options and maybe rooms."""
        seams.setdefault("rooms", config.rooms)
        return cls(config.url, config.api_key, config.api_secret, handler, config.options(), **seams)

    # ------------------------------------------------------------------------------------ looking

    @property
    def status(self) -> WorkerStatus:
        """What the worker is doing.  Never blocks."""
        if self._closed:
            return WorkerStatus.CLOSED
        if self._draining:
            return WorkerStatus.DRAINING
        if not self._registered:
            return WorkerStatus.DISCONNECTED
        if self._book.full or self._load >= 1.0:
            return WorkerStatus.FULL
        return WorkerStatus.BUSY if self._jobs else WorkerStatus.AVAILABLE

    @property
    def worker_id(self) -> str:
        """The id of the current registration, new for each connection; empty while there is none."""
        return self._worker_id if self._registered else ""

    @property
    def stats(self) -> WorkerStats:
        """A snapshot."""
        active = len(self._jobs)
        return WorkerStats(
            connected=self._registered,
            active_jobs=active,
            reserved_jobs=self._book.reserved,
            max_jobs=self.options.max_jobs,
            completed_jobs=self._completed,
            failed_jobs=self._failed,
            total_jobs=active + self._completed + self._failed,
            cpu_percent=self._sample.cpu_percent,
            memory_percent=self._sample.memory_percent,
            memory_mb=self._sample.memory_mb,
            current_load=self._load,
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
        return None if self._session is None else self._session.core

    @property
    def draining(self) -> bool:
        """Whether a stop has begun."""
        return self._draining

    @property
    def report_so_far(self) -> ShutdownReport:
        """What the stop did; empty before its end."""
        return self._report or ShutdownReport()

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
        self._finished = anyio.Event()
        self._task_status = task_status
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
            self._finished.set()
            self._changes.notify()
        if self._interrupt is not None:
            raise self._interrupt
        if self._fatal is not None:
            raise self._fatal
        self._tell_started()

    async def stop(self, timeout: float | None = None, *, strict: bool = False) -> ShutdownReport:
        """Take no more jobs, let running ones finish for ``timeout`` seconds (``shutdown_timeout``), cancel the rest.

        Takes at most timeout + cancel_grace + cleanup_timeout + 4 s.  A second call can only shorten.  Before start it
        makes start a no-op.  Cancelling the wait does not take the stop back.  Raises ShutdownTimeoutError only if
        ``strict`` and jobs had to be cancelled; WorkerError from inside one of the worker's own jobs.
        """
        if _inside_job_of.get() is self:
            raise WorkerError(
                "stop() inside a job would wait for that job", hint="call request_stop(), which does not wait",
                code="STOP_INSIDE_JOB",
            )  # fmt: skip
        self.request_stop(timeout)
        if self._finished is None:
            return ShutdownReport()
        # When start() has finished nothing lives any more; but it waits for users' code that ignores its cancellation.
        finished = self._finished
        await self._changes.until(lambda: finished.is_set() or (self._report is not None and bool(self._report.stuck)))
        report = self._report or ShutdownReport()
        unfinished = report.cancelled + report.stuck
        if strict and unfinished:
            raise ShutdownTimeoutError(unfinished=unfinished)
        return report

    def request_stop(self, timeout: float | None = None) -> None:
        """Begin a stop without waiting for it.  From the worker's own event loop only."""
        timeout = self.options.shutdown_timeout if timeout is None else timeout
        self._stop_wanted = True
        if not self._started or self._closed:
            return  # start will be a no-op, or was
        now = anyio.current_time()
        if self._stop is None:
            self._stop = _Stop(began=now, deadline=now + timeout, timeout=timeout)
        self._stop.deadline = min(self._stop.deadline, now + timeout)
        self._stop.at_once = self._stop.at_once or timeout <= 0
        # Here and not in start()'s task, which gets to run later: nothing is accepted from this moment on.
        self._begin_drain()
        self._changes.notify()

    async def wait_stuck(self) -> tuple[str, ...]:
        """Wait until all is done but handlers that ignore their cancellation; their jobs' ids.  For programs' ends."""
        await self._changes.until(lambda: self._report is not None and bool(self._report.stuck))
        assert self._report is not None
        return self._report.stuck

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
        async with self._open_rooms() as self.rooms, open_service_group() as services:
            self.services = services
            self.timekeeper = Timekeeper()
            services.start_soon(self.timekeeper.run)
            services.start_soon(self._report_load)
            async with open_service_group() as connection:
                connection.start_soon(self._supervise)
                async with open_service_group() as self._intake, anyio.create_task_group() as self._job_tasks:
                    try:
                        await self._changes.until(lambda: self._draining or self._fatal is not None)
                        self._begin_drain()
                        await self._drain()
                    finally:
                        await self._end(connection)

    @asynccontextmanager
    async def _open_rooms(self) -> AsyncGenerator[RoomConnector]:
        """Outermost: rooms are there for as long as anything of a job is."""
        if self._rooms is not None:
            yield self._rooms
            return
        allowed = self.options.allow_plaintext
        async with ServerRooms(self.room_url, connector=self._connector, allow_plaintext=allowed) as rooms:
            yield rooms

    def _begin_drain(self) -> None:
        if self._draining:
            return
        self._draining = True
        if self._stop is None:  # a fatal error: running jobs get what a stop would give them
            timeout = self.options.shutdown_timeout
            now = anyio.current_time()
            self._stop = _Stop(began=now, deadline=now + timeout, timeout=timeout)
        self._stop.at_stop = tuple(self._jobs)
        if self._session is not None:
            self._session.core.drain(anyio.current_time())
            self._session.pump()
        if self._intake is not None:
            self._intake.cancel()
        self.publish(events.Draining(timeout=self._stop.timeout))
        for job in list(self._jobs.values()):
            job.warn()

    async def _drain(self) -> None:
        """Wait for the jobs; cancel them at the first instant after the deadline."""
        stop = self._stop
        assert stop is not None
        while self._busy():
            deadline = stop.deadline
            if stop.at_once or anyio.current_time() > deadline:
                self._cancel_jobs(CancelReason.WORKER_CANCELLED if self._interrupt else CancelReason.DRAIN_DEADLINE)
                await self._changes.until(lambda: not self._busy())
                return
            # Our own wait, and the instant after the deadline: what ended at the deadline has ended by itself.
            with anyio.CancelScope(deadline=math.nextafter(deadline, math.inf)):
                await self._changes.until(
                    lambda known=deadline: not self._busy() or stop.at_once or stop.deadline != known
                )

    def _busy(self) -> bool:
        """Whether anybody has to be waited for: jobs that are not abandoned, and jobs promised and not assigned."""
        return self._book.reserved > 0 or any(not job.abandoned for job in self._jobs.values())

    def _cancel_jobs(self, reason: CancelReason) -> None:
        assert self._stop is not None
        for job in list(self._jobs.values()):
            if job.cancel(reason):
                self._stop.cancelled.append(job.job.id)
        if self._session is not None:
            self._session.core.renounce(anyio.current_time())
            self._session.pump()

    async def _end(self, connection: ServiceGroup) -> None:
        """The body's last act, on every way out: jobs ended, statuses flushed, the goodbye said."""
        self._begin_drain()
        # Shielded: the last reports and the Close, also when the worker is cancelled from outside.  Bounded: jobs end
        # by their own budgets, the connection by flush and close time-outs.
        with anyio.CancelScope(shield=True):
            if self._busy():
                self._cancel_jobs(CancelReason.WORKER_CANCELLED)
                await self._changes.until(lambda: not self._busy())
            await self._say_goodbye()
            await self._give_questions_up()
        connection.cancel()
        self._report = self._make_report()
        self._changes.notify()

    async def _give_questions_up(self) -> None:
        """Handlers still asked about offers were cancelled when the stop began, and have the same grace as jobs."""
        assert self._stop is not None
        with anyio.CancelScope(deadline=math.nextafter(self._stop.began + self.options.cancel_grace, math.inf)):
            await self._changes.until(lambda: not self._answering)
        for job_id in self._answering:
            self.log.error("on_job_request for job %s ignored its cancellation", printable(job_id))

    async def _say_goodbye(self) -> None:
        assert self._stop is not None
        # From the last report on, not from now: the jobs have waited for it as well, and stop has one flush.
        flushed_by = max(self._final_reported_at, self._stop.began) + FLUSH_TIMEOUT
        with anyio.CancelScope(deadline=flushed_by):
            await self._changes.until(lambda: self._fatal is not None or not self._book.unproven())
        session = self._session
        if session is None:
            return
        session.core.close(anyio.current_time())
        session.pump()
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await session.ended.wait()

    def _make_report(self) -> ShutdownReport:
        stop = self._stop
        assert stop is not None
        stuck = tuple(dict.fromkeys([*(job.job.id for job in self._jobs.values() if job.stuck), *self._answering]))
        cancelled = tuple(dict.fromkeys(job_id for job_id in stop.cancelled if job_id not in stuck))
        return ShutdownReport(
            drained=tuple(j for j in stop.at_stop if j not in cancelled and j not in stuck),
            cancelled=cancelled,
            stuck=stuck,
            statuses_unproven=tuple(record.job_id for record in self._book.unproven()),
            elapsed=anyio.current_time() - stop.began,
        )

    # ------------------------------------------------------------------------------------ the connection

    @property
    def _registered(self) -> bool:
        return self._session is not None and self._session.core.stage is Stage.REGISTERED

    async def _supervise(self) -> None:
        """Connect, serve, back off, again.  Ends only by giving up or being cancelled."""
        while True:
            error = await self._connect_once()
            now = anyio.current_time()
            verdict = self._lifecycle.lost(error, now, jobs_running=bool(self._jobs))
            if isinstance(verdict, GiveUp):
                self._give_up(verdict.error)
                return
            self.publish(events.ConnectionLost(error=error, retry_in=verdict.delay))
            self.log.warning(
                "%s; trying again in %.1f s%s", error, verdict.delay, f" ({verdict.hint})" if verdict.hint else ""
            )
            if not (isinstance(error, AuthenticationError) and self._jobs):
                await anyio.sleep(verdict.delay)
                continue
            # The running jobs are the only reason to try on; when the last has ended, the refusal is final.
            with anyio.move_on_after(verdict.delay):
                await self._changes.until(lambda: not self._jobs)
                self._give_up(error)
                return

    async def _connect_once(self) -> Exception:
        """One connection from dialling to its end; why it ended."""
        self._connections += 1
        self._asked_to_leave = False
        try:
            # Ours whatever the connector: a black-holed address must not hold the supervisor.
            with anyio.fail_after(CONNECT_TIMEOUT):
                stream = await self._connector(self._endpoint)
        except TimeoutError:
            return ConnectionLostError(
                f"no connection to {self._endpoint.authority} within {CONNECT_TIMEOUT:g} s", code="CONNECT_TIMEOUT"
            )
        except ConnectionLostError as exc:
            return exc
        except OSError as exc:
            return ConnectionLostError(f"cannot connect: {type(exc).__name__}")
        try:
            core = self._make_core()
        except LocalProtocolError:
            # A name or token that cannot be put on the wire: the caller's fault, raised on, but not with a socket open.
            await anyio.aclose_forcefully(stream)
            raise
        debug = self.log if self.options.websocket_debug else None
        self._session = Session(stream, core, self._on_event, debug=debug)
        try:
            closed = await self._session.run()
        finally:
            self._session = None
            for job in list(self._jobs.values()):
                if job.outcome is not None:
                    job.delivery_settled()  # the server has forgotten the job: nothing to wait for
        return closed.error or ConnectionLostError("the connection was closed", last_close_code=closed.code)

    def _make_core(self) -> WorkerConnection:
        now, wall = anyio.current_time(), self._wall_clock()
        core = SignalConnection.worker(
            host=self._endpoint.authority,
            target=self._endpoint.target,
            token=worker_token(self._api_key, self._api_secret, wall=wall),
            registration=self._registration(),
            book=self._book,
            now=now,
            wall=wall,
            serial=self._connections,
        )
        core.set_standing(self._load, self._load >= 1.0, now)
        if self._draining:
            core.drain(now)
        return core

    def _registration(self) -> Registration:
        options = self.options
        return Registration(
            job_type=int(options.job_type),
            agent_name=options.agent_name,
            namespace=options.namespace,
            deployment=options.deployment,
            version=__version__,
            permissions=options.permissions,
        )

    def _give_up(self, error: Exception) -> None:
        self._fatal = error
        self.log.error("the worker gives up: %s", error)
        self._changes.notify()

    # ------------------------------------------------------------------------------------ events of the core

    def _on_event(self, event: Event) -> None:
        """Hand an event to where it belongs.  Synchronous; runs inside the session's pump."""
        handler = self._HANDLERS.get(type(event))
        if handler is not None:
            handler(self, event)

    def _on_registered(self, event: Registered) -> None:
        reconnect = self._worker_id != ""
        self._worker_id = event.worker_id or "unnamed"
        self._lifecycle.registered(anyio.current_time())
        name, version = printable(event.worker_id), printable(event.server.version) or "?"
        self.log.info("registered as %s with livekit-server %s", name, version)
        if self.options.agent_name and not reconnect:
            self.log.info(
                "agent %r is named: only explicit dispatches reach it (livekit-agent dispatch create)",
                self.options.agent_name,
            )
        self.publish(
            events.Registered(worker_id=event.worker_id, server_version=event.server.version, reconnect=reconnect)
        )
        self._tell_started()
        self._changes.notify()

    def _tell_started(self) -> None:
        status, self._task_status = self._task_status, None
        if status is not None:
            status.started()

    def _on_offer(self, event: JobOffered) -> None:
        assert self._intake is not None
        self._intake.start_soon(self._answer, event.job)

    def _on_answer_expired(self, event: AnswerExpired) -> None:
        scope = self._asking.pop(event.job_id, None)
        if scope is not None:
            scope.cancel()

    def _on_assigned(self, event: JobAssigned) -> None:
        job = JobScope(self, event)
        self._jobs[event.job.id] = job
        if self._stop is not None:
            self._stop.at_stop += (event.job.id,)  # promised before the stop
            job.warn()
        job.task = self._job_tasks.start_soon(self._run_job, job)
        self._leave_if_asked()
        self._changes.notify()

    async def _run_job(self, job: JobScope) -> None:
        _inside_job_of.set(self)
        await job.run()

    def _on_terminated(self, event: JobTerminated) -> None:
        job = self._jobs.get(event.job_id)
        if job is not None:
            job.cancel(CancelReason.TERMINATED)

    def _on_delivered(self, event: StatusDelivered) -> None:
        job = self._jobs.get(event.job_id)
        if job is not None:
            job.delivery_settled()
        self._changes.notify()

    def _on_lapsed(self, event: AssignmentLapsed) -> None:
        self.log.warning("job %s was accepted but not assigned; its place is free again", printable(event.job_id))
        self._refresh_standing()
        self._leave_if_asked()
        self._changes.notify()

    def _on_refused(self, event: AssignmentRefused) -> None:
        self.log.warning("refused the assignment of job %s: %s", printable(event.job_id), event.reason)

    def _on_skipped(self, event: MessageSkipped) -> None:
        self.log.debug("skipped a %s message: %s", event.kind, event.reason)

    def _on_go_away(self, event: GoAway) -> None:
        """Make the connection anew elsewhere, once promised jobs have come.  Running ones do not depend on it."""
        self.log.info("the server asks us to connect elsewhere")
        self._asked_to_leave = True
        self._leave_if_asked()

    def _leave_if_asked(self) -> None:
        if self._asked_to_leave and self._session is not None and self._book.reserved == 0:
            self._session.core.close(anyio.current_time(), reason="go away")

    def _on_closed(self, event: ConnectionClosed) -> None:
        self._changes.notify()

    _HANDLERS: ClassVar[Mapping[type[Event], Callable[[Any, Any], None]]] = {
        Registered: _on_registered,
        JobOffered: _on_offer,
        AnswerExpired: _on_answer_expired,
        JobAssigned: _on_assigned,
        JobTerminated: _on_terminated,
        StatusDelivered: _on_delivered,
        AssignmentLapsed: _on_lapsed,
        AssignmentRefused: _on_refused,
        MessageSkipped: _on_skipped,
        GoAway: _on_go_away,
        ConnectionClosed: _on_closed,
    }

    # ------------------------------------------------------------------------------------ offers

    async def _answer(self, job: Job) -> None:
        """Ask the handler about one offer and answer it.  The core declines by itself at the answer's deadline."""
        answer: JobMetadata | Reject = Reject()
        self._answering.append(job.id)
        try:
            with anyio.CancelScope() as scope:
                self._asking[job.id] = scope
                if self._wanted(job):
                    answer = await self._ask(job)
        finally:
            self._answering.remove(job.id)
            self._changes.notify()
        if self._asking.get(job.id) is scope:
            del self._asking[job.id]
        if scope.cancelled_caught:
            self.log.warning("on_job_request did not answer for job %s in time; declined", printable(job.id))
            return
        session = self._session
        if session is None:
            return  # the offer went with its connection
        now = anyio.current_time()
        if isinstance(answer, Reject):
            if answer.reason:
                self.log.info("declined job %s: %s", printable(job.id), printable(answer.reason))
            session.core.decline(job.id, now, terminate=answer.terminate)
        else:
            if "lk.agent_name" in answer.participant_attributes:
                self.log.warning("attribute lk.agent_name is the server's own; it is left out")
            session.core.accept(job.id, answer, now)
        self._refresh_standing()
        session.pump()

    async def _ask(self, job: Job) -> JobMetadata | Reject:
        try:
            return await ask(self.handler, job)
        except BaseException as exc:  # boundary to the user's callback: whatever it raises declines this one offer
            cancelled, interrupt, error = sort_out(exc)
            if error is not None:
                log_error(self.log, error, "on_job_request failed for job %s; declined", printable(job.id))
            if interrupt is not None:
                self.interrupted(interrupt)
            # Not ours to keep unless it was a bare Task.cancel() (asyncio), which would end the whole worker.
            if cancelled is not None and anyio.current_effective_deadline() == -math.inf:
                raise cancelled from None
        return Reject()

    def _wanted(self, job: Job) -> bool:
        if self._asked_to_leave:
            return False
        if job.type is not self.options.job_type:
            self.log.warning("declined job %s of type %s: not this worker's", printable(job.id), job.type)
            return False
        try:
            return self._calculator.should_accept_job(job.type, self._compute_load())
        except Exception as exc:
            # Boundary to the user's policy: its failure declines, and is told.
            log_error(self.log, exc, "should_accept_job failed; declined job %s", printable(job.id))
            return False

    # ------------------------------------------------------------------------------------ jobs' host

    def report(self, job_id: str, status: JobStatus, error: str) -> bool:
        """See JobHost."""
        if status.terminal:
            self._final_reported_at = anyio.current_time()
        session = self._session
        if session is None:
            report_status(self._book, job_id, status, error)
            return False
        session.core.report(job_id, status, error, anyio.current_time())
        session.pump()
        return session.core.stage is Stage.REGISTERED

    def publish(self, event: events.WorkerEvent) -> None:
        """See JobHost."""
        self._broadcast.publish(event)

    def job_over(self, job: JobScope) -> None:
        """See JobHost."""
        self._jobs.pop(job.job.id, None)
        self._book.release(job.job.id)
        outcome = job.outcome
        if outcome is not None and outcome.status is JobStatus.SUCCESS:
            self._completed += 1
        else:
            self._failed += 1
        if self._stop is not None and outcome is not None and outcome.reason == CancelReason.WORKER_CANCELLED.value:
            self._stop.cancelled.append(job.job.id)  # the backend's own cancellation may come before our reason
        if not job.abandoned:
            self._tell_end(job)
        self._refresh_standing()
        if self._session is not None:
            self._session.pump()
        self._changes.notify()

    def job_abandoned(self, job: JobScope) -> None:
        """See JobHost."""
        self._tell_end(job)
        self._changes.notify()

    def interrupted(self, exc: BaseException) -> None:
        """See JobHost."""
        self._interrupt = self._interrupt or exc
        self.log.error("%s in a handler: cancelling all jobs", type(exc).__name__)
        self.request_stop(0)

    def _tell_end(self, job: JobScope) -> None:
        outcome = job.outcome
        if outcome is None:
            return  # a bug of ours ended it, and is flying on
        job.log.info("job ended: %s%s", outcome.status.name, f" ({outcome.reason})" if outcome.reason else "")
        self.publish(events.JobEnded(job=job.job, status=outcome.status, reason=outcome.reason, error=outcome.error))

    # ------------------------------------------------------------------------------------ load

    async def _report_load(self) -> None:
        probe = self._probe or process_probe()
        while True:
            self._sample = probe()
            self._refresh_standing()
            if self._session is not None:
                self._session.pump()
            await anyio.sleep(LOAD_INTERVAL)

    def _refresh_standing(self) -> None:
        self._load = self._compute_load()
        if self._session is not None:
            self._session.core.set_standing(self._load, self._load >= 1.0, anyio.current_time())

    def _compute_load(self) -> float:
        calculator, sample = self._calculator, self._sample
        if type(calculator) is DefaultLoadCalculator:
            # Without a snapshot: at every offer, answer and end it would cost more than all the rest of the standing.
            taken = len(self._jobs) + self._book.reserved
            return calculator.load_for(taken, self.options.max_jobs, sample.cpu_percent, sample.memory_percent)
        try:
            load = float(calculator.calculate_load(self.stats))
        except Exception as exc:
            # Boundary to the user's policy: its failure keeps the last good load, and is told.
            log_error(self.log, exc, "calculate_load failed; the last load stands")
            return self._load
        return self._load if math.isnan(load) else min(max(load, 0.0), 1.0)


class _Stop:
    """A stop under way."""

    def __init__(self, *, began: float, deadline: float, timeout: float) -> None:
        self.began = began
        self.deadline = deadline
        self.timeout = timeout
        self.at_once = False
        """Cancel at the next checkpoint instead of after an instant."""
        self.at_stop: tuple[str, ...] = ()
        self.cancelled: list[str] = []
