"""One job, from its assignment to the free place: the task, the scopes, the order of the end.

Theory of operation
===================

``JobScope.run`` is the job's task.  Inside it, nested::

    scope                         ctx.cancel_scope; what every reason to end cancels
    ├─ join the room              abandoned cleanly when cancelled
    └─ inner task group           the callbacks' pump; only where there are callbacks
       └─ user's task group       ctx.task_group; the handler runs in its body

The handler's part is over when the user's task group has ended.  What follows is shielded and bounded::

    clean-ups, last in first out      share cleanup_timeout with on_job_terminated
    final status, until delivered     \\ together at most FLUSH_TIMEOUT; a lost connection ends the wait,
    leave the room                    / because the server has then forgotten the job
    on_job_terminated
    place freed, JobEnded

The status goes first because the server records a participant that leaves before it as FAILED.  Each step remembers
that it was taken, so the list can be entered again: after a bare ``Task.cancel()`` on asyncio, which no shield keeps
out, or by the after-care of a stuck job.

Who cancels: ``cancel(reason)``, and the first reason wins.  It has no effect once the handler's part is over; so
whatever races at an instant, one of them is first and all that follows agrees with it.  Deadlines are alarms of the
Timekeeper, never scopes' (see there).  Cancellation from outside (``start()`` cancelled) comes as the backend's own
exception; it is judged like a reason and raised again at the end.  KeyboardInterrupt and SystemExit are handed to the
worker, which raises them when everybody has ended: raised through a task, they would kill asyncio's loop at once.

A handler that swallows its cancellation for ``cancel_grace`` is *stuck*: it is reported FAILED, its room is left and
``on_job_terminated`` is called by a task of the worker's instead (the after-care).  The place stays taken until the
handler's task really ends; its clean-ups run then, for until then it may be using what they take away.

All user code after a cancellation shares one ``cancel_grace`` and all after the handler one ``cleanup_timeout``, so no
mixture of clean-ups and callbacks that ignore their cancellation makes a job's end longer than the two together.
"""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import Enum, auto
from functools import partial
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .. import events
from .._bounds import FLUSH_TIMEOUT, ROOM_JOIN_TIMEOUT, TERMINATED_LEAVE_TIMEOUT
from .._errors import AgentError, RoomConnectError, RoomError, log_error, printable
from .._options import WorkerOptions
from .._types import CancelReason, JobStatus
from ..context import Cleanup, JobContext, JobLog
from ..handlers import UniversalHandler, hears_ends
from ..protocol import JobAssigned
from ._outcome import Outcome, error_text, judge, only_leaf
from ._timekeeper import Alarm, Timekeeper

if TYPE_CHECKING:
    from ..rooms import Room, RoomConnector
    from ._service_group import ServiceGroup

    Logger = logging.Logger | logging.LoggerAdapter[Any]
    Deliveries = Mapping[type[events.RoomEvent], Callable[[JobContext, Any], Awaitable[None] | None]]

__all__ = ["JobHost", "JobScope", "sort_out"]

#: A handler with room callbacks that ends sooner than this probably meant to wait, in seconds.
_SUSPICIOUSLY_SHORT = 1.0

#: A job's end waits this long for the proof that its status has arrived; the rest of the flush is for leaving.
_DELIVERY_TIMEOUT = FLUSH_TIMEOUT / 2

#: LiveKit's disconnect reasons that say more than "lost".
_ROOM_ENDS: Mapping[int, CancelReason] = {
    2: CancelReason.DUPLICATE_IDENTITY,
    4: CancelReason.REMOVED_FROM_ROOM,
    5: CancelReason.ROOM_CLOSED,  # ROOM_DELETED
    10: CancelReason.ROOM_CLOSED,
}
_LEFT_BY_OURSELVES = 1


class JobHost(Protocol):
    """What a job needs of its worker."""

    @property
    def handler(self) -> UniversalHandler: ...
    @property
    def deliveries(self) -> Deliveries: ...
    @property
    def options(self) -> WorkerOptions: ...
    @property
    def rooms(self) -> RoomConnector: ...
    @property
    def room_url(self) -> str: ...
    @property
    def timekeeper(self) -> Timekeeper: ...
    @property
    def services(self) -> ServiceGroup: ...
    @property
    def log(self) -> Logger: ...

    def report(self, job_id: str, status: JobStatus, error: str) -> bool:
        """Send a status; False when there is no connection it could be delivered on."""
        ...

    def publish(self, event: events.WorkerEvent) -> None:
        """Tell listeners."""
        ...

    def job_over(self, job: JobScope) -> None:
        """The job has ended and its task with it: free its place."""
        ...

    def job_abandoned(self, job: JobScope) -> None:
        """The job is reported and left, its task runs on: nobody waits for it any more."""
        ...

    def interrupted(self, exc: BaseException) -> None:
        """KeyboardInterrupt or the like came out of user code: end everything, then raise it."""
        ...


class Phase(Enum):
    """Where a job is."""

    JOINING = auto()
    HANDLING = auto()
    ENDING = auto()
    """The handler's part is over: cancelling has no effect any more."""
    OVER = auto()


class JobScope:
    """A running job.  Made at the assignment; ``run`` is its task."""

    # A worker may hold 10,000, and so many attributes in a dictionary weigh two kilobytes.
    __slots__ = (
        "_assigned", "_budget", "_cancelled_at", "_cared_for", "_cleanups", "_deadline", "_delivered", "_delivery",
        "_done", "_grace", "_host", "_interrupt", "_leave_alarm", "_left", "_note", "_phase", "_reason",
        "_reported_at", "_room", "_scope", "_shutting_down", "_started_at", "_stuck_alarm", "_timeout_alarm", "_told",
        "_warned", "abandoned", "job", "log", "outcome", "stuck", "task",
    )  # fmt: skip

    def __init__(self, host: JobHost, assigned: JobAssigned) -> None:
        self.job = assigned.job
        self.outcome: Outcome | None = None
        self.stuck = False
        self.abandoned = False
        """Stuck, reported and left: nobody waits for its task any more."""
        self._delivered = False
        """The final status has arrived, or no longer can."""
        # Made when somebody waits for it: a worker may hold 10,000 jobs, and an event weighs most of a kilobyte.
        self._delivery: anyio.Event | None = None
        self._assigned = assigned
        self._host = host
        self._scope = anyio.CancelScope()
        self._phase = Phase.JOINING
        self._reason: CancelReason | None = None
        self._note = ""
        self._done = False
        """The handler and its tasks have ended by themselves; what cancels later comes too late to be the reason."""
        self._room: Room | None = None
        self._warned = False
        self._shutting_down: anyio.Event | None = None
        self._cleanups: list[Cleanup] = []
        self._started_at = anyio.current_time()
        self._deadline = self._started_at + host.options.job_timeout
        self._timeout_alarm: Alarm | None = None
        self._stuck_alarm: Alarm | None = None
        self._leave_alarm: Alarm | None = None
        self.task: anyio.TaskHandle[None] | None = None
        """Set by who starts ``run`` in a task: where it hangs, for the log."""
        self._cancelled_at: float | None = None
        self._grace = host.options.cancel_grace
        """What is left of it; see the module docstring."""
        self._budget = host.options.cleanup_timeout
        """What is left of it."""
        self._interrupt: BaseException | None = None
        self._reported_at: float | None = None
        self._left: anyio.Event | None = None
        self._told = False
        self._cared_for: anyio.Event | None = None
        """Made for a stuck job, set when its after-care is over."""
        self.log = JobLog(host.log, {"job_id": printable(self.job.id), "room": printable(self.job.room.name)})

    def __repr__(self) -> str:
        return f"<JobScope {self.job.id} {self._phase.name}>"

    @property
    def phase(self) -> Phase:
        """Where the job is."""
        return self._phase

    # ------------------------------------------------------------------------------------ asked from outside

    def cancel(self, reason: CancelReason, note: str = "") -> bool:
        """End the job.  The first reason counts; False, without effect, once the handler's part is over."""
        now = anyio.current_time()
        if reason is CancelReason.TERMINATED and self._leave_alarm is None:
            self._leave_alarm = self._host.timekeeper.at(now + TERMINATED_LEAVE_TIMEOUT, self._leave_now)
        if self._phase in (Phase.ENDING, Phase.OVER):
            return False
        if self._reason is None:
            self._reason = reason
            self._note = note
        self._scope.cancel()
        self._expect_end()
        return True

    def warn(self) -> None:
        """The polite stage: the worker drains."""
        self._warned = True
        if self._shutting_down is not None:
            self._shutting_down.set()

    def delivery_settled(self) -> None:
        """The final status has arrived, or no longer can: nobody needs to wait for it."""
        self._delivered = True
        if self._delivery is not None:
            self._delivery.set()

    def _warning(self) -> anyio.Event:
        """The event of the polite stage, for the context."""
        if self._shutting_down is None:
            self._shutting_down = anyio.Event()
            if self._warned:
                self._shutting_down.set()
        return self._shutting_down

    def _shutdown(self, reason: str) -> None:
        self.cancel(CancelReason.SHUTDOWN, reason)

    def _expect_end(self) -> None:
        """User code was cancelled: it is stuck when it uses up what is left of the grace."""
        if self._cancelled_at is None:
            self._cancelled_at = anyio.current_time()
            self._stuck_alarm = self._host.timekeeper.at(self._cancelled_at + self._grace, self._abandon)

    def _ended(self) -> None:
        """The user code in question has ended, cancelled or not."""
        if self._cancelled_at is not None:
            self._grace = max(self._grace - (anyio.current_time() - self._cancelled_at), 0.0)
            self._cancelled_at = None
        self._stop_alarms(self._stuck_alarm)

    # ------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Be the job.  Raises only cancellation from outside."""
        host = self._host
        host.publish(events.JobStarted(job=self.job))
        if self._deadline < math.inf:
            self._timeout_alarm = host.timekeeper.at(self._deadline, lambda: self.cancel(CancelReason.JOB_TIMEOUT))
        raised: BaseException | None = None
        try:
            with self._scope:
                await self._work()
        except BaseException as exc:
            # The job's boundary, where exceptions become values.  What must fly on is raised again below.
            raised = exc
        self._phase = Phase.ENDING
        self._stop_alarms(self._timeout_alarm)
        self._ended()
        cancelled: BaseException | None = None
        try:
            outcome, cancelled = self._settle(raised)
            if not self.stuck:
                self.outcome = outcome
            await self._finish()
        finally:
            # Whatever happens: a job that never leaves the worker's books would hold its stop for ever.
            self._phase = Phase.OVER
            self._stop_alarms(self._stuck_alarm, self._leave_alarm)
            if self._interrupt is not None:
                host.interrupted(self._interrupt)
            host.job_over(self)
        if cancelled is not None:
            raise cancelled

    async def _work(self) -> None:
        host = self._host
        room = await self._join()
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._scope.cancel_called:
            return  # ended while joining: the handler never runs
        host.report(self.job.id, JobStatus.RUNNING, "")
        self._phase = Phase.HANDLING
        room.tell_end(self._room_ended)
        if not host.deliveries:
            await self._handle(room, None)
            return
        async with anyio.create_task_group() as inner:
            await self._handle(room, inner)
            inner.cancel_scope.cancel()
            self._expect_end()  # a callback may be running, and may ignore that
        if anyio.current_time() - self._started_at < _SUSPICIOUSLY_SHORT:
            self.log.warning(
                "the handler has room callbacks but ended within a second, so they will hardly be called; "
                "wait in on_job_assigned (await ctx.wait_closed()) to keep the job alive"
            )

    async def _handle(self, room: Room, inner: TaskGroup | None) -> None:
        """The handler's part: its tasks and, in ``inner``, the pump of its callbacks."""
        host = self._host
        async with anyio.create_task_group() as user_tasks:
            ctx = self._context(room, user_tasks)
            if inner is not None:
                happenings = room.subscribe(*host.deliveries, replay=True)
                happenings.on_overflow = partial(self.cancel, CancelReason.ROOM_BACKLOG)
                inner.start_soon(self._pump, ctx, happenings)
            pending = host.handler.on_job_assigned(ctx)
            # A plain function as on_job_assigned is a job whose work is done.
            if pending is not None:  # pyright: ignore[reportUnnecessaryComparison]
                await pending
        self._phase = Phase.ENDING
        self._done = True

    async def _join(self) -> Room:
        url = self._assigned.url or self._host.room_url
        broken: Exception
        try:
            self._room = await self._host.rooms.connect(
                url,
                self._assigned.token,
                timeout=ROOM_JOIN_TIMEOUT,
                auto_subscribe=self._assigned.metadata.auto_subscribe or self._host.options.auto_subscribe,
            )
            return self._room
        except AgentError:
            raise
        except Exception as exc:  # boundary to a connector that may be somebody else's
            broken = exc
        log_error(self.log, broken, "the room connector failed")
        # Raised here, not in the except: the connector's error may quote the job's token, and would be the context.
        raise RoomConnectError(
            error_text(broken), hint="the traceback is in the log; a connector raises RoomConnectError"
        )

    def _context(self, room: Room, user_tasks: TaskGroup) -> JobContext:
        return JobContext(
            job=self.job,
            room=room,
            metadata=self._assigned.metadata,
            log=self.log,
            cancel_scope=self._scope,
            task_group=user_tasks,
            deadline=self._deadline,
            shutting_down=self._warning,
            shutdown=self._shutdown,
            cleanups=self._cleanups,
        )

    def _room_ended(self, closed: events.Disconnected) -> None:
        if closed.reason != _LEFT_BY_OURSELVES:
            self.cancel(_ROOM_ENDS.get(closed.reason, CancelReason.ROOM_LOST))

    async def _pump(self, ctx: JobContext, happenings: AsyncIterator[events.RoomEvent]) -> None:
        """Deliver room events to the callbacks: in order, one at a time, each awaited."""
        deliveries = self._host.deliveries
        try:
            async for event in happenings:
                pending = deliveries[type(event)](ctx, event)
                if pending is not None:
                    await pending
        except (KeyboardInterrupt, SystemExit) as exc:
            # Kept here, as in run(): out of a task of its own it would not get as far as run() on asyncio.
            self._interrupt = exc
            self.cancel(CancelReason.WORKER_INTERRUPTED)

    # ------------------------------------------------------------------------------------ the end

    def _settle(self, raised: BaseException | None) -> tuple[Outcome, BaseException | None]:
        """Judge; and the cancellation that has to be raised again, if it came from an enclosing scope."""
        cancelled, interrupt, error = sort_out(raised)
        if interrupt is not None and self._interrupt is None:
            self._interrupt = interrupt
        reason = self._reason
        if anyio.current_effective_deadline() > -math.inf:
            # Nobody around us is cancelled: what came was a bare Task.cancel() (asyncio), and is this job's alone.
            foreign, cancelled = cancelled, None
            if foreign is not None and reason is None and not self._scope.cancel_called:
                reason = CancelReason.TASK_CANCELLED
        elif cancelled is not None and reason is None and not self._scope.cancel_called and not self._done:
            reason = CancelReason.WORKER_CANCELLED
        if error is not None:
            if isinstance(error, RoomError):
                self.log.error("job failed: %s", error_text(error))
            else:
                log_error(self.log, error, "job failed")
        outcome = judge(
            job_id=self.job.id,
            error=error,
            reason=reason,
            note=self._note,
            cancelled_by_user=self._scope.cancelled_caught,
            interrupt=self._interrupt,
        )
        return outcome, cancelled

    async def _finish(self) -> None:
        # Shielded: the clean-ups, the final status and the leaving, also when the worker is cancelled from outside.
        # Bounded by the budgets below; what outlasts even their cancellation is left to the after-care.
        with anyio.CancelScope(shield=True):
            while True:
                try:
                    await self._take_steps()
                    return
                except anyio.get_cancelled_exc_class():
                    # A bare Task.cancel(): the one thing that gets in here.  The steps not yet taken are due all the
                    # same, and it is not raised again: it would take the other jobs along.
                    self.log.warning("the job's task was cancelled by a bare Task.cancel() while it ended")

    async def _take_steps(self) -> None:
        if not self.stuck and self._cleanups:
            await self._within_budget(self._run_cleanups)
        if not self.stuck:
            await self._report_and_leave()
            if hears_ends(self._host.handler):
                await self._within_budget(self._call_terminated)
        if self.stuck:
            assert self._cared_for is not None
            await self._cared_for.wait()
            await self._within_budget(self._run_cleanups)
            await self._leave(by=math.inf)  # a join that ignored its cancellation may have succeeded since

    async def _within_budget(self, fn: Callable[[], Awaitable[None]]) -> None:
        """Run user code for at most what is left of ``cleanup_timeout``."""
        began = anyio.current_time()
        with anyio.CancelScope() as scope:

            def out_of_time() -> None:
                self.log.warning("clean-up did not end within cleanup_timeout; it is cancelled")
                self._budget = 0.0  # also for the after-care, should this not end
                scope.cancel()
                self._expect_end()

            alarm = self._host.timekeeper.at(began + self._budget, out_of_time)
            try:
                await fn()
            finally:
                alarm.stop()
                self._ended()
                self._budget = max(self._budget - (anyio.current_time() - began), 0.0)

    async def _run_cleanups(self) -> None:
        """Each once.  One cut by the budget takes no other with it: the rest are called, in the cancelled scope."""
        cut: BaseException | None = None
        while self._cleanups:
            try:
                await self._call("a clean-up", self._cleanups.pop())
            except anyio.get_cancelled_exc_class() as exc:
                cut = exc
        if cut is not None:
            raise cut

    async def _call_terminated(self) -> None:
        if not self._told:
            self._told = True
            await self._call("on_job_terminated", self._host.handler.on_job_terminated, self.job.id)

    async def _call(self, what: str, fn: Callable[..., Awaitable[None] | None], *args: object) -> None:
        """Call user code at the job's boundary: what it raises is logged and stops nothing else of the job's end."""
        try:
            pending = fn(*args)
            if pending is not None:
                await pending
        except BaseException as exc:  # boundary to the user's callback
            cancelled, interrupt, error = sort_out(exc)
            if error is not None:
                log_error(self.log, error, "%s failed", what)
            if interrupt is not None and self._interrupt is None:
                self._interrupt = interrupt  # for the worker, when the job is over
            if cancelled is not None:
                raise cancelled from None

    def _report(self) -> None:
        assert self.outcome is not None
        if self._reported_at is None:
            self._reported_at = anyio.current_time()
            if not self._host.report(self.job.id, self.outcome.status, self.outcome.text):
                self.delivery_settled()

    async def _report_and_leave(self) -> None:
        self._report()
        assert self._reported_at is not None
        if not self._delivered:
            self._delivery = self._delivery or anyio.Event()
            # Our own waits only, here and below, so scopes' deadlines are exact enough.
            with anyio.CancelScope(deadline=self._reported_at + _DELIVERY_TIMEOUT):
                await self._delivery.wait()
        await self._leave(by=self._reported_at + FLUSH_TIMEOUT)

    async def _leave(self, *, by: float) -> None:
        """Leave the room; it goes on by itself when it takes longer than we wait."""
        if self._room is not None:
            left = self._begin_leaving(self._room)
            if not left.is_set():
                with anyio.CancelScope(deadline=by):
                    await left.wait()

    def _begin_leaving(self, room: Room) -> anyio.Event:
        if self._left is None:
            self._left = anyio.Event()
            self._host.services.start_soon(self._disconnect, room, self._left)
        return self._left

    async def _disconnect(self, room: Room, left: anyio.Event) -> None:
        try:
            await room.disconnect()
        finally:
            left.set()

    # ------------------------------------------------------------------------------------ when it does not end

    def _leave_now(self) -> None:
        """The server removes the agent 3 s after a termination: be gone before, whatever the budgets say."""
        if self.outcome is not None:
            self._report()
        if self._room is not None:
            self._begin_leaving(self._room)

    def _abandon(self) -> None:
        """The handler, a callback or a clean-up outlived its cancellation by ``cancel_grace``."""
        if self._phase is Phase.OVER or self.stuck:
            return
        self.stuck = True
        self._cared_for = anyio.Event()
        self.log.error("job ignored its cancellation; it is reported FAILED. It hangs at:\n%s", self._stack())
        if self.outcome is None:
            text = CancelReason.STUCK.value
            self.outcome = Outcome(status=JobStatus.FAILED, text=text, reason=text)
        self._host.services.start_soon(self._care)

    async def _care(self) -> None:
        """The job's end without its task.  Bounded as in _finish; a service, so no outside cancellation reaches it."""
        await self._report_and_leave()
        with anyio.CancelScope() as scope:

            def out_of_time() -> None:
                scope.cancel()
                self._let_go()

            alarm = self._host.timekeeper.at(anyio.current_time() + self._budget, out_of_time)
            try:
                await self._call_terminated()
            finally:
                alarm.stop()
        self._let_go()

    def _let_go(self) -> None:
        if not self.abandoned:
            self.abandoned = True
            assert self._cared_for is not None
            self._cared_for.set()
            self._host.job_abandoned(self)

    def _stack(self) -> str:
        coroutine: object = None if self.task is None else self.task.coro
        frames: list[tuple[FrameType, int]] = []
        while coroutine is not None:
            frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
            if frame is None:
                break
            frames.append((frame, frame.f_lineno))
            coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
        return "".join(traceback.StackSummary.extract(iter(frames)).format())

    @staticmethod
    def _stop_alarms(*alarms: Alarm | None) -> None:
        for alarm in alarms:
            if alarm is not None:
                alarm.stop()


def sort_out(
    raised: BaseException | None,
) -> tuple[BaseException | None, BaseException | None, Exception | None]:
    """What came out of user code, as (cancellation, interrupt, error)."""
    if raised is None:
        return None, None, None
    cancelled_class = anyio.get_cancelled_exc_class()
    if isinstance(raised, cancelled_class):
        return raised, None, None
    if not isinstance(raised, BaseExceptionGroup):
        return (None, None, raised) if isinstance(raised, Exception) else (None, raised, None)
    cancelled, rest = cast("BaseExceptionGroup[BaseException]", raised).split(cancelled_class)
    if rest is None:
        return cancelled, None, None
    interrupts, errors = rest.split(_is_interrupt)
    interrupt = None if interrupts is None else only_leaf(interrupts)
    if errors is None:
        return cancelled, interrupt, None
    error = only_leaf(errors)
    assert isinstance(error, Exception)
    return cancelled, interrupt, error


def _is_interrupt(exc: BaseException) -> bool:
    return not isinstance(exc, Exception | BaseExceptionGroup)
