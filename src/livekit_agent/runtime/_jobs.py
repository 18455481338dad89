"""One job, from its assignment to the free place: the task, the scopes, and who may cancel it.

Theory of operation
===================

``JobScope.run`` is the job's task.  Inside it, nested::

    scope                         ctx.cancel_scope; what every reason to end cancels
    ├─ join the room              abandoned cleanly when cancelled
    └─ inner task group           the callbacks' pump; only where there are callbacks
       └─ user's task group       ctx.task_group; the handler runs in its body

The handler's part is over when the user's task group has ended.  What follows is shielded and bounded, and is
``_job_end.py``'s: clean-ups, the final status, the room, ``on_job_terminated``; then the place is free.

Who cancels: ``cancel(reason)``, and the first reason wins.  It has no effect once the handler's part is over; so
whatever races at an instant, one of them is first and all that follows agrees with it.  Deadlines are alarms of the
Timekeeper, never scopes' (see there).  Cancellation from outside (``start()`` cancelled) comes as the backend's own
exception; it is judged like a reason and raised again at the end.  KeyboardInterrupt and SystemExit are handed to the
worker, which raises them when everybody has ended: raised through a task, they would kill asyncio's loop at once.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Mapping
from enum import Enum, auto
from functools import partial
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import TaskGroup

from .. import events
from .._bounds import ROOM_JOIN_TIMEOUT
from .._errors import AgentError, RoomClosedError, RoomConnectError, RoomError, log_error
from .._types import CancelReason, JobStatus
from ..context import Cleanup, JobContext, JobLog
from ..protocol import JobAssigned
from ._job_end import JobEnd
from ._job_host import JobHost
from ._outcome import Outcome, error_text, judge, sort_out
from ._timekeeper import Alarm

if TYPE_CHECKING:
    from ..api import LiveKitAPI
    from ..rooms import Room

__all__ = ["JobScope", "Phase"]

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
        "_deadline", "_done", "_host", "_metadata", "_note", "_phase", "_reason", "_reconnect_alarm", "_scope",
        "_shutting_down", "_started_at", "_timeout_alarm", "_warned", "_way", "end", "job",
    )  # fmt: skip

    def __init__(self, host: JobHost, assigned: JobAssigned) -> None:
        self.job = assigned.job
        self.end = JobEnd(host, assigned.job)
        self._metadata = assigned.metadata
        self._way: tuple[str, str] | None = (assigned.url, assigned.token)
        """Into the room; nobody needs it once it was taken."""
        self._host = host
        self._scope = anyio.CancelScope()
        self._phase = Phase.JOINING
        self._reason: CancelReason | None = None
        self._note = ""
        self._done = False
        """The handler and its tasks have ended by themselves; what cancels later comes too late to be the reason."""
        self._warned = False
        self._shutting_down: anyio.Event | None = None
        self._started_at = anyio.current_time()
        self._deadline = self._started_at + host.options.job_timeout
        self._timeout_alarm: Alarm | None = None
        self._reconnect_alarm: Alarm | None = None

    def __repr__(self) -> str:
        return f"<JobScope {self.job.id} {self._phase.name}>"

    @property
    def log(self) -> JobLog:
        """See :class:`JobEnd`."""
        return self.end.log

    @property
    def phase(self) -> Phase:
        """Where the job is."""
        return self._phase

    # ------------------------------------------------------------------------------------ asked from outside

    def cancel(self, reason: CancelReason, note: str = "") -> bool:
        """End the job.  The first reason counts; False, without effect, once the handler's part is over."""
        if reason is CancelReason.TERMINATED:
            self.end.leave_in_time()
        if self._phase in (Phase.ENDING, Phase.OVER):
            return False
        if self._reason is None and not self._scope.cancel_called:  # else its handler was the first
            self._reason = reason
            self._note = note
        self._scope.cancel()
        self.end.expect_end()
        return True

    def warn(self) -> None:
        """The polite stage: the worker drains."""
        self._warned = True
        if self._shutting_down is not None:
            self._shutting_down.set()

    # ------------------------------------------------------------------------------------ asked by the context

    def warning(self) -> anyio.Event:
        """See :class:`Running`."""
        if self._shutting_down is None:
            self._shutting_down = anyio.Event()
            if self._warned:
                self._shutting_down.set()
        return self._shutting_down

    def shutdown(self, reason: str) -> None:
        """See :class:`Running`."""
        self.cancel(CancelReason.SHUTDOWN, reason)

    def push_cleanup(self, fn: Cleanup) -> None:
        """See :class:`Running`."""
        self.end.push_cleanup(fn)

    def api(self) -> LiveKitAPI:
        """See :class:`Running`."""
        return self._host.api()

    # ------------------------------------------------------------------------------------ the task

    async def run(self) -> None:
        """Be the job.  Raises only cancellation from outside."""
        host, end = self._host, self.end
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
        for alarm in (self._timeout_alarm, self._reconnect_alarm):
            if alarm is not None:
                alarm.stop()
        end.user_code_ended()
        cancelled: BaseException | None = None
        try:
            outcome, cancelled = self._settle(raised)
            if not end.stuck:
                end.outcome = outcome
            await end.take()
        finally:
            # Whatever happens: a job that never leaves the worker's books would hold its stop for ever.
            self._phase = Phase.OVER
            end.over()
            if end.interrupt is not None:
                host.interrupted(end.interrupt)
            host.job_over(end)
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
        room.tell_connection(self._connection_changed)
        if not host.deliveries:
            await self._handle(room, None)
            return
        async with anyio.create_task_group() as inner:
            await self._handle(room, inner)
            inner.cancel_scope.cancel()
            self.end.expect_end()  # a callback may be running, and may ignore that
        if room.is_open and anyio.current_time() - self._started_at < _SUSPICIOUSLY_SHORT:
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
        assert self._way is not None  # a job joins once
        url, token = self._way
        self._way = None
        broken: Exception
        try:
            self.end.room = room = await self._host.rooms.connect(
                url or self._host.room_url,
                token,
                timeout=ROOM_JOIN_TIMEOUT,
                auto_subscribe=self._metadata.auto_subscribe or self._host.options.auto_subscribe,
            )
            return room
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
            metadata=self._metadata,
            cancel_scope=self._scope,
            task_group=user_tasks,
            deadline=self._deadline,
            running=self,
        )

    def _connection_changed(self, event: events.Reconnecting | events.Reconnected | events.Disconnected) -> None:
        """The room ends its job; so does one that takes too long to reconnect, which the library bounds only mostly."""
        alarm = self._reconnect_alarm
        if isinstance(event, events.Reconnecting):
            if alarm is None:  # a resume that fails and becomes a full reconnect may say so again
                seconds = self._host.options.reconnect_timeout
                lost = partial(self.cancel, CancelReason.ROOM_LOST, f"not back after {seconds:g} s")
                self._reconnect_alarm = self._host.timekeeper.at(anyio.current_time() + seconds, lost)
            return
        if alarm is not None:
            alarm.stop()
            self._reconnect_alarm = None
        if isinstance(event, events.Disconnected) and event.reason != _LEFT_BY_OURSELVES:
            self.cancel(_ROOM_ENDS.get(event.reason, CancelReason.ROOM_LOST))

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
            self.end.interrupt = exc
            self.cancel(CancelReason.WORKER_INTERRUPTED)
        except anyio.get_cancelled_exc_class():
            if anyio.current_effective_deadline() == -math.inf:
                raise
            # A bare Task.cancel() (asyncio): a task group would cancel the handler for it, and tell nobody why.
            self.cancel(CancelReason.TASK_CANCELLED)

    # ------------------------------------------------------------------------------------ the verdict

    def _settle(self, raised: BaseException | None) -> tuple[Outcome, BaseException | None]:
        """Judge; and the cancellation that has to be raised again, if it came from an enclosing scope."""
        cancelled, interrupt, error = sort_out(raised)
        if interrupt is not None and self.end.interrupt is None:
            self.end.interrupt = interrupt
        reason = self._reason
        # A scope does not catch what an enclosing one, cancelled in the same instant, raises through it.
        cancelled_by_user = self._scope.cancelled_caught or (cancelled is not None and self._scope.cancel_called)
        if anyio.current_effective_deadline() > -math.inf:
            # Nobody around us is cancelled: what came was a bare Task.cancel() (asyncio), and is this job's alone.
            foreign, cancelled = cancelled, None
            if foreign is not None and reason is None and not self._scope.cancel_called:
                reason = CancelReason.TASK_CANCELLED
        elif cancelled is not None and reason is None and not self._scope.cancel_called and not self._done:
            reason = CancelReason.WORKER_CANCELLED
        if error is not None:
            if isinstance(error, RoomClosedError) or (isinstance(error, RoomError) and self.end.room is None):
                # Nobody's line of code is at fault: the room ended first, or could not be joined.  Another error of a
                # join is its connector's.
                self.log.error("job failed: %s%s", error_text(error), f" ({error.hint})" if error.hint else "")
            else:
                log_error(self.log, error, "job failed")
        outcome = judge(
            job_id=self.job.id,
            error=error,
            reason=reason,
            note=self._note,
            cancelled_by_user=cancelled_by_user,
            interrupt=self.end.interrupt,
        )
        return outcome, cancelled
