"""One job, from its assignment to the free place: the task, the scopes, the order of the end.

Theory of operation
===================

``JobScope.run`` is the job's task.  Inside it, nested::

    scope                         ctx.cancel_scope; what every reason to end cancels
    ├─ join the room              abandoned cleanly when cancelled
    └─ inner task group           the room's watcher and the callbacks' pump
       └─ user's task group       ctx.task_group; the handler runs in its body

The handler's part is over when the user's task group has ended.  What follows is shielded and bounded::

    clean-ups, last in first out      share cleanup_timeout with on_job_terminated
    final status, until delivered     \\ together at most FLUSH_TIMEOUT; a lost connection ends the wait,
    leave the room                    / because the server has then forgotten the job
    on_job_terminated
    place freed, JobEnded

The status goes first because the server records a participant that leaves before it as FAILED.

Who cancels: ``cancel(reason)``, and the first reason wins.  It has no effect once the handler's part is over; so
whatever races at an instant, one of them is first and all that follows agrees with it.  Deadlines are alarms of the
Timekeeper, never scopes' (see there).  Cancellation from outside (``start()`` cancelled) comes as the backend's own
exception; it is judged like a reason and raised again at the end.

A handler that swallows its cancellation for ``cancel_grace`` is *stuck*: it is reported FAILED, its room is left and
``on_job_terminated`` is called by a task of the worker's instead, and the place stays taken until the handler's task
really ends.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import Enum, auto
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .. import events
from .._bounds import FLUSH_TIMEOUT, ROOM_JOIN_TIMEOUT, TERMINATED_LEAVE_TIMEOUT
from .._errors import ResourceExhaustedError, RoomError
from .._options import WorkerOptions
from .._types import CancelReason, JobStatus
from ..context import Cleanup, JobContext
from ..handlers import UniversalHandler
from ..protocol import JobAssigned
from ._outcome import Outcome, judge, only_leaf
from ._timekeeper import Alarm, Timekeeper

if TYPE_CHECKING:
    from ..rooms import Room, RoomConnector
    from ._service_group import ServiceGroup

    Logger = logging.Logger | logging.LoggerAdapter[Any]
    Deliveries = Mapping[type[events.RoomEvent], Callable[[JobContext, Any], Awaitable[None] | None]]

__all__ = ["JobHost", "JobScope"]

#: A handler with room callbacks that ends sooner than this probably meant to wait, in seconds.
_SUSPICIOUSLY_SHORT = 1.0

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


class Phase(Enum):
    """Where a job is."""

    JOINING = auto()
    HANDLING = auto()
    ENDING = auto()
    """The handler's part is over: cancelling has no effect any more."""
    OVER = auto()


class JobScope:
    """A running job.  Made at the assignment; ``run`` is its task."""

    def __init__(self, host: JobHost, assigned: JobAssigned) -> None:
        self.job = assigned.job
        self.outcome: Outcome | None = None
        self.stuck = False
        self.abandoned = False
        """Stuck, reported and left: nobody waits for its task any more."""
        self.delivered = anyio.Event()
        """Set when the final status has arrived, or no longer can."""
        self._assigned = assigned
        self._host = host
        self._scope = anyio.CancelScope()
        self._phase = Phase.JOINING
        self._reason: CancelReason | None = None
        self._note = ""
        self._room: Room | None = None
        self._shutting_down = anyio.Event()
        self._cleanups: list[Cleanup] = []
        self._started_at = anyio.current_time()
        self._deadline = self._started_at + host.options.job_timeout
        self._timeout_alarm: Alarm | None = None
        self._stuck_alarm: Alarm | None = None
        self._leave_alarm: Alarm | None = None
        self._task: anyio.TaskInfo | None = None
        self._reported = False
        self._told = False
        self.log: logging.LoggerAdapter[Any] = logging.LoggerAdapter(
            host.log if isinstance(host.log, logging.Logger) else host.log.logger,
            {"job_id": self.job.id, "room": self.job.room.name},
        )

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
        self._expect_end(now)
        return True

    def warn(self) -> None:
        """The polite stage: the worker drains."""
        self._shutting_down.set()

    def _shutdown(self, reason: str) -> None:
        self.cancel(CancelReason.SHUTDOWN, reason)

    def _expect_end(self, now: float) -> None:
        if self._stuck_alarm is None:
            self._stuck_alarm = self._host.timekeeper.at(now + self._host.options.cancel_grace, self._abandon)

    # ------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Be the job.  Raises only what is not the job's to keep: outside cancellation and interrupts."""
        host = self._host
        self._task = anyio.get_current_task()
        host.publish(events.JobStarted(job=self.job))
        self._timeout_alarm = host.timekeeper.at(self._deadline, lambda: self.cancel(CancelReason.JOB_TIMEOUT))
        raised: BaseException | None = None
        try:
            with self._scope:
                await self._work()
        except BaseException as exc:
            # The job's boundary, where exceptions become values.  What must fly on is raised again below.
            raised = exc
        self._phase = Phase.ENDING
        self._stop_alarms(self._timeout_alarm, self._stuck_alarm)
        outcome, flies_on = self._settle(raised)
        if not self.stuck:
            self.outcome = outcome
            await self._finish()
        self._phase = Phase.OVER
        self._stop_alarms(self._stuck_alarm, self._leave_alarm)
        host.job_over(self)
        if flies_on is not None:
            raise flies_on

    async def _work(self) -> None:
        host = self._host
        room = await self._join()
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._scope.cancel_called:
            return  # ended while joining: the handler never runs
        host.report(self.job.id, JobStatus.RUNNING, "")
        self._phase = Phase.HANDLING
        async with anyio.create_task_group() as inner:
            inner.start_soon(self._watch_room, room)
            async with anyio.create_task_group() as user_tasks:
                ctx = self._context(room, user_tasks)
                if host.deliveries:
                    inner.start_soon(self._pump, ctx, room.subscribe(*host.deliveries, replay=True))
                pending = host.handler.on_job_assigned(ctx)
                # A plain function as on_job_assigned is a job whose work is done.
                if pending is not None:  # pyright: ignore[reportUnnecessaryComparison]
                    await pending
            self._phase = Phase.ENDING
            inner.cancel_scope.cancel()
        if host.deliveries and anyio.current_time() - self._started_at < _SUSPICIOUSLY_SHORT:
            self.log.warning(
                "the handler has room callbacks but ended within a second, so they will hardly be called; "
                "wait in on_job_assigned (await ctx.wait_closed()) to keep the job alive"
            )

    async def _join(self) -> Room:
        url = self._assigned.url or self._host.room_url
        room = await self._host.rooms.connect(url, self._assigned.token, timeout=ROOM_JOIN_TIMEOUT)
        self._room = room
        return room

    def _context(self, room: Room, user_tasks: TaskGroup) -> JobContext:
        return JobContext(
            job=self.job,
            room=room,
            metadata=self._assigned.metadata,
            log=self.log,
            cancel_scope=self._scope,
            task_group=user_tasks,
            deadline=self._deadline,
            shutting_down=self._shutting_down,
            shutdown=self._shutdown,
            cleanups=self._cleanups,
        )

    async def _watch_room(self, room: Room) -> None:
        closed = await room.wait_closed()
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
        except ResourceExhaustedError as exc:
            if exc.resource != "room_events":
                raise
            self.cancel(CancelReason.ROOM_BACKLOG)

    # ------------------------------------------------------------------------------------ the end

    def _settle(self, raised: BaseException | None) -> tuple[Outcome, BaseException | None]:
        """Judge, and tell what has to be raised again."""
        cancelled, interrupt, error = _sort_out(raised)
        reason = self._reason
        # Cancellation that nobody here asked for: an enclosing scope's, or on asyncio a bare Task.cancel().
        if cancelled is not None and reason is None and not self._scope.cancel_called:
            reason = CancelReason.WORKER_CANCELLED
        if error is not None:
            self.log.error("job failed", exc_info=error if not isinstance(error, RoomError) else None)
        outcome = judge(
            job_id=self.job.id,
            error=error,
            reason=reason,
            note=self._note,
            cancelled_by_user=self._scope.cancelled_caught,
            interrupt=interrupt,
        )
        return outcome, interrupt if interrupt is not None else cancelled

    async def _finish(self) -> None:
        # Shielded: the clean-ups, the final status and the leaving, also when the worker is cancelled from outside.
        # Bounded by the budgets below; what outlasts even their cancellation is abandoned as stuck.
        with anyio.CancelScope(shield=True):
            budget = self._host.options.cleanup_timeout
            if self._cleanups:
                budget -= await self._within(budget, self._run_cleanups)
            if self.stuck:
                return
            await self._report_and_leave()
            await self._within(max(budget, 0.0), self._call_terminated)

    async def _within(self, budget: float, fn: Callable[[], Awaitable[None]]) -> float:
        """Run user code for at most ``budget`` seconds; what it took."""
        began = anyio.current_time()
        with anyio.CancelScope() as scope:

            def out_of_time() -> None:
                self.log.warning("clean-up did not end within cleanup_timeout; it is cancelled")
                scope.cancel()
                self._stuck_alarm = None
                self._expect_end(anyio.current_time())

            alarm = self._host.timekeeper.at(began + budget, out_of_time)
            try:
                await fn()
            finally:
                alarm.stop()
                self._stop_alarms(self._stuck_alarm)
        return anyio.current_time() - began

    async def _run_cleanups(self) -> None:
        while self._cleanups:
            cleanup = self._cleanups.pop()
            try:
                pending = cleanup()
                if pending is not None:
                    await pending
            except Exception:
                # User code at the job's boundary: one clean-up's failure is logged and stops no other.
                self.log.exception("a clean-up failed")

    async def _report_and_leave(self) -> None:
        assert self.outcome is not None
        if not self._reported:
            self._reported = True
            if not self._host.report(self.job.id, self.outcome.status, self.outcome.text):
                self.delivered.set()
        # Our own waits only, so a scope's deadline is exact enough here.
        with anyio.move_on_after(FLUSH_TIMEOUT):
            await self.delivered.wait()
        if self._room is not None:
            await self._room.disconnect()

    async def _call_terminated(self) -> None:
        if self._told:
            return
        self._told = True
        try:
            pending = self._host.handler.on_job_terminated(self.job.id)
            if pending is not None:  # pyright: ignore[reportUnnecessaryComparison] - plain functions are allowed
                await pending
        except Exception:
            # User code at the job's boundary.
            self.log.exception("on_job_terminated failed")

    # ------------------------------------------------------------------------------------ when it does not end

    def _leave_now(self) -> None:
        """The server removes the agent 3 s after a termination: be gone before, whatever the budgets say."""
        if self._room is not None:
            self._host.services.start_soon(self._room.disconnect)

    def _abandon(self) -> None:
        """The handler, or a clean-up, outlived its cancellation by ``cancel_grace``."""
        if self._phase is Phase.OVER or self.stuck:
            return
        self.stuck = True
        self.log.error("job ignored its cancellation; it is reported FAILED. It hangs at:\n%s", self._stack())
        if self.outcome is None:
            text = CancelReason.STUCK.value
            self.outcome = Outcome(status=JobStatus.FAILED, text=text, reason=text)
        self._host.services.start_soon(self._finish_abandoned)

    async def _finish_abandoned(self) -> None:
        with anyio.CancelScope(shield=True):  # as in _finish, and bounded in the same way
            await self._report_and_leave()
            with anyio.move_on_after(self._host.options.cleanup_timeout):
                await self._call_terminated()
        self.abandoned = True
        self._host.job_abandoned(self)

    def _stack(self) -> str:
        coroutine = None if self._task is None else self._task.coro
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


def _sort_out(
    raised: BaseException | None,
) -> tuple[BaseException | None, BaseException | None, Exception | None]:
    """What came out of a job, as (cancellation, interrupt, error)."""
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
