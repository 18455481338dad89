"""What is due when a job's handler has ended, and who sees to it when the handler does not end?

Shielded and bounded, in this order::

    clean-ups, last in first out      share cleanup_timeout with on_job_terminated
    final status, until delivered     \\ together at most FLUSH_TIMEOUT; a lost connection ends the wait,
    leave the room                    / because the server has then forgotten the job
    on_job_terminated

The status goes first because the server records a participant that leaves before it as FAILED.  Each step remembers
that it was taken, so the list can be entered again: after a bare ``Task.cancel()`` on asyncio, which no shield keeps
out, or by the after-care of a stuck job.

A handler that swallows its cancellation for ``cancel_grace`` is *stuck*: it is reported FAILED, its room is left and
``on_job_terminated`` is called by a task of the worker's instead (the after-care).  The place stays taken until the
handler's task really ends; its clean-ups run then, for until then it may be using what they take away.

All user code after a cancellation shares one ``cancel_grace`` and all after the handler one ``cleanup_timeout``, so no
mixture of clean-ups and callbacks that ignore their cancellation makes a job's end longer than the two together.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import TYPE_CHECKING

import anyio

from .._bounds import DELIVERY_TIMEOUT, FLUSH_TIMEOUT, TERMINATED_LEAVE_TIMEOUT
from .._errors import log_error, printable
from .._types import CancelReason, Job, JobStatus
from ..context import Cleanup, JobLog
from ..handlers import hears_ends
from ._job_host import JobHost
from ._outcome import Outcome, sort_out
from ._timekeeper import Alarm

if TYPE_CHECKING:
    from ..rooms import Room

__all__ = ["JobEnd"]


class JobEnd:
    """The end of one job: made with it, taken when its handler has ended."""

    # A worker may hold 10,000, and so many attributes in a dictionary weigh two kilobytes.
    __slots__ = (
        "_budget", "_cancelled_at", "_cared_for", "_cleanups", "_delivered", "_delivery", "_grace", "_host",
        "_leave_alarm", "_left", "_log", "_reported_at", "_stuck_alarm", "_told", "abandoned", "interrupt", "job",
        "outcome", "room", "stuck", "task",
    )  # fmt: skip

    def __init__(self, host: JobHost, job: Job) -> None:
        self.job = job
        self._log: JobLog | None = None
        self.outcome: Outcome | None = None
        self.stuck = False
        self.abandoned = False
        """Stuck, reported and left: nobody waits for its task any more."""
        self.interrupt: BaseException | None = None
        """KeyboardInterrupt or the like out of the job's user code: for the worker, when the job is over."""
        self.room: Room | None = None
        """The room to leave, once it is joined."""
        self._cleanups: list[Cleanup] | None = None
        self.task: anyio.TaskHandle[None] | None = None
        """Set by who starts the job's task: where it hangs, for the log."""
        self._host = host
        self._delivered = False
        """The final status has arrived, or no longer can."""
        # Made when somebody waits for it: a worker may hold 10,000 jobs, and an event weighs most of a kilobyte.
        self._delivery: anyio.Event | None = None
        self._stuck_alarm: Alarm | None = None
        self._leave_alarm: Alarm | None = None
        self._cancelled_at: float | None = None
        self._grace = host.options.cancel_grace
        """What is left of it; see the module docstring."""
        self._budget = host.options.cleanup_timeout
        """What is left of it."""
        self._reported_at: float | None = None
        self._left: anyio.Event | None = None
        self._told = False
        self._cared_for: anyio.Event | None = None
        """Made for a stuck job, set when its after-care is over."""

    @property
    def log(self) -> JobLog:
        """The worker's logger with the job's ids.  Made when it is asked for: to make ids printable takes longer than
        to make the job's scope, and most jobs log nothing."""
        if self._log is None:
            self._log = JobLog(
                self._host.log, {"job_id": printable(self.job.id), "room": printable(self.job.room.name)}
            )
        return self._log

    # ------------------------------------------------------------------------------------ while user code runs

    def push_cleanup(self, fn: Cleanup) -> None:
        """One more thing to do before the room is left."""
        if self._cleanups is None:
            self._cleanups = []
        self._cleanups.append(fn)

    def expect_end(self) -> None:
        """User code was cancelled: it is stuck when it uses up what is left of the grace."""
        if self._cancelled_at is None:
            self._cancelled_at = anyio.current_time()
            self._stuck_alarm = self._host.timekeeper.at(self._cancelled_at + self._grace, self._abandon)

    def user_code_ended(self) -> None:
        """The user code in question has ended, cancelled or not."""
        if self._cancelled_at is not None:
            self._grace = max(self._grace - (anyio.current_time() - self._cancelled_at), 0.0)
            self._cancelled_at = None
        if self._stuck_alarm is not None:
            self._stuck_alarm.stop()

    def leave_in_time(self) -> None:
        """The server removes the agent 3 s after a termination: be gone before, whatever the budgets say."""
        if self._leave_alarm is None:
            self._leave_alarm = self._host.timekeeper.at(
                anyio.current_time() + TERMINATED_LEAVE_TIMEOUT, self._leave_now
            )

    def _leave_now(self) -> None:
        if self.outcome is not None:
            self._report()
        if self.room is not None:
            self._begin_leaving(self.room)

    def delivery_settled(self) -> None:
        """The final status has arrived, or no longer can: nobody needs to wait for it."""
        self._delivered = True
        if self._delivery is not None:
            self._delivery.set()

    # ------------------------------------------------------------------------------------ the steps

    async def take(self) -> None:
        """Take every step that was not taken yet.  The outcome is known, or the job is stuck and has one."""
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

    def over(self) -> None:
        """The job's task ends: nothing is waited for any more."""
        for alarm in (self._stuck_alarm, self._leave_alarm):
            if alarm is not None:
                alarm.stop()

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
                self.expect_end()

            alarm = self._host.timekeeper.at(began + self._budget, out_of_time)
            try:
                await fn()
            finally:
                alarm.stop()
                self.user_code_ended()
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
            if interrupt is not None and self.interrupt is None:
                self.interrupt = interrupt  # for the worker, when the job is over
            if cancelled is not None:
                if anyio.current_effective_deadline() == -math.inf:
                    raise cancelled from None
                # As in take(): it would take the other jobs along.
                self.log.warning("%s was cancelled by a bare Task.cancel()", what)

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
            with anyio.CancelScope(deadline=self._reported_at + DELIVERY_TIMEOUT):
                await self._delivery.wait()
        await self._leave(by=self._reported_at + FLUSH_TIMEOUT)

    async def _leave(self, *, by: float) -> None:
        """Leave the room; it goes on by itself when it takes longer than we wait."""
        if self.room is not None:
            left = self._begin_leaving(self.room)
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

    def _abandon(self) -> None:
        """The handler, a callback or a clean-up outlived its cancellation by ``cancel_grace``."""
        if self.stuck:
            return
        self.stuck = True
        self._cared_for = anyio.Event()
        self.log.error("job ignored its cancellation; it is reported FAILED. It hangs at:\n%s", _where(self.task))
        if self.outcome is None:
            text = CancelReason.STUCK.value
            self.outcome = Outcome(status=JobStatus.FAILED, text=text, reason=text)
        self._host.services.start_soon(self._care)

    async def _care(self) -> None:
        """The job's end without its task.  Bounded as in take(); a service, so no outside cancellation reaches it."""
        try:
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
        finally:
            self._let_go()  # whatever happens: the worker's stop waits for it, and so does the job's task

    def _let_go(self) -> None:
        if not self.abandoned:
            self.abandoned = True
            assert self._cared_for is not None
            self._cared_for.set()
            self._host.job_abandoned(self)


def _where(task: anyio.TaskHandle[None] | None) -> str:
    """The stack of a task, innermost last."""
    coroutine: object = None if task is None else task.coro
    frames: list[tuple[FrameType, int]] = []
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is None:
            break
        frames.append((frame, frame.f_lineno))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return "".join(traceback.StackSummary.extract(iter(frames)).format())
