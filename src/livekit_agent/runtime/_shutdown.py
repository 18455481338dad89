"""How does the worker come to its end?

::

    begin      nothing is accepted from here on: the server is told, open questions are cancelled, jobs are warned
    drain      running jobs have until the deadline; what then runs is cancelled
    end        on every way out, shielded: jobs ended, statuses flushed, the goodbye said, the report written

It begins in the instant in which somebody asks for it, not when a task gets to run.  A later call can only shorten it.
A fatal error and a cancellation from outside begin it as well.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from .. import events
from .._bounds import CLOSE_TIMEOUT, FLUSH_TIMEOUT
from .._errors import printable
from .._options import WorkerOptions
from .._types import CancelReason, ShutdownReport
from ..protocol import JobBook
from ._changes import Changes
from ._crew import Crew
from ._intake import Intake
from ._service_group import ServiceGroup
from ._supervisor import Supervisor

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["Shutdown"]


class Shutdown:
    """A worker's stop."""

    def __init__(
        self,
        options: WorkerOptions,
        *,
        book: JobBook,
        supervisor: Supervisor,
        intake: Intake,
        crew: Crew,
        publish: Callable[[events.WorkerEvent], None],
        changes: Changes,
        log: Logger,
    ) -> None:
        self.begun = False
        self.report: ShutdownReport | None = None
        """What it did; None before its end."""
        self.reason = CancelReason.DRAIN_DEADLINE
        """What jobs are told that are cancelled at the deadline."""
        self._options = options
        self._book = book
        self._supervisor = supervisor
        self._intake = intake
        self._crew = crew
        self._publish = publish
        self._changes = changes
        self._log = log
        self._began = self._deadline = math.inf
        self._at_once = False
        """Cancel at the next checkpoint instead of after an instant."""

    @property
    def only_stuck_jobs_are_left(self) -> bool:
        """Whether all is done but handlers that ignore their cancellation."""
        return self.report is not None and bool(self.report.stuck)

    def request(self, timeout: float) -> None:
        """Begin, or shorten what has begun: running jobs have so many seconds."""
        self.begin(timeout)
        self._deadline = min(self._deadline, anyio.current_time() + timeout)
        self._at_once = self._at_once or timeout <= 0
        self._changes.notify()

    def begin(self, timeout: float | None = None) -> None:
        """Take no more jobs; None gives running ones ``shutdown_timeout``.  No effect once begun."""
        if self.begun:
            return
        self.begun = True
        timeout = self._options.shutdown_timeout if timeout is None else timeout
        self._began = anyio.current_time()
        self._deadline = self._began + timeout
        self._crew.drain()
        session = self._supervisor.session
        if session is not None:
            session.core.drain(anyio.current_time())
            session.pump()
        self._intake.cancel()
        self._publish(events.Draining(timeout=timeout))
        for job in list(self._crew.jobs.values()):
            job.warn()

    async def drain(self) -> None:
        """Wait for the jobs; cancel them at the first instant after the deadline."""
        while self._busy():
            deadline = self._deadline
            if self._at_once or anyio.current_time() > deadline:
                self._cancel_jobs(self.reason)
                await self._changes.until(lambda: not self._busy())
                return
            # Our own wait, and the instant after the deadline: what ended at the deadline has ended by itself.
            with anyio.CancelScope(deadline=math.nextafter(deadline, math.inf)):
                await self._changes.until(
                    lambda known=deadline: not self._busy() or self._at_once or self._deadline != known
                )

    def _busy(self) -> bool:
        """Whether anybody has to be waited for: jobs that are not abandoned, and jobs promised and not assigned."""
        return self._book.reserved > 0 or any(not job.end.abandoned for job in self._crew.jobs.values())

    def _cancel_jobs(self, reason: CancelReason) -> None:
        crew = self._crew
        for job in list(crew.jobs.values()):
            if job.cancel(reason):
                crew.cut.append(job.job.id)
        session = self._supervisor.session
        if session is not None:
            session.core.renounce(anyio.current_time())
            session.pump()

    async def end(self, connection: ServiceGroup) -> None:
        """The worker's last act, on every way out: jobs ended, statuses flushed, the goodbye said."""
        self.begin()
        # Shielded: the last reports and the Close, also when the worker is cancelled from outside.  Bounded: jobs end
        # by their own budgets, the connection by flush and close time-outs.
        with anyio.CancelScope(shield=True):
            if self._busy():
                self._cancel_jobs(CancelReason.WORKER_CANCELLED)
                await self._changes.until(lambda: not self._busy())
            await self._say_goodbye()
            await self._give_questions_up()
        connection.cancel()
        self.report = self._make_report()
        self._changes.notify()

    async def _say_goodbye(self) -> None:
        # From the last report on, not from now: the jobs have waited for it as well, and stop has one flush.
        flushed_by = max(self._crew.final_reported_at, self._began) + FLUSH_TIMEOUT
        with anyio.CancelScope(deadline=flushed_by):
            await self._changes.until(lambda: self._supervisor.fatal is not None or not self._book.unproven())
        session = self._supervisor.session
        if session is None:
            return
        session.core.close(anyio.current_time())
        session.pump()
        with anyio.move_on_after(CLOSE_TIMEOUT):
            await session.ended.wait()

    async def _give_questions_up(self) -> None:
        """Handlers still asked about offers were cancelled when the stop began, and have the same grace as jobs."""
        with anyio.CancelScope(deadline=math.nextafter(self._began + self._options.cancel_grace, math.inf)):
            await self._changes.until(lambda: not self._intake.answering)
        for job_id in self._intake.answering:
            self._log.error("on_job_request for job %s ignored its cancellation", printable(job_id))

    def _make_report(self) -> ShutdownReport:
        crew = self._crew
        stuck_jobs = (job.job.id for job in crew.jobs.values() if job.end.stuck)
        stuck = tuple(dict.fromkeys([*stuck_jobs, *self._intake.answering]))
        cancelled = tuple(dict.fromkeys(job_id for job_id in crew.cut if job_id not in stuck))
        return ShutdownReport(
            drained=tuple(j for j in crew.at_stop if j not in cancelled and j not in stuck),
            cancelled=cancelled,
            stuck=stuck,
            statuses_unproven=tuple(record.job_id for record in self._book.unproven()),
            elapsed=anyio.current_time() - self._began,
        )
