"""Which jobs run, and what follows for the worker from the beginning and the end of each?

A job is recorded, promised place and all, before its room is joined, and stays recorded until its task has ended:
``max_jobs`` counts tasks, so a handler that ignores its cancellation keeps its place.  What a job itself does is
``_jobs.py``'s; the crew is its host.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from .. import events
from .._errors import printable
from .._options import WorkerOptions
from .._types import CancelReason, JobStatus
from ..handlers import UniversalHandler, room_callbacks
from ..protocol import (
    AssignmentLapsed,
    AssignmentRefused,
    JobAssigned,
    JobBook,
    JobTerminated,
    Stage,
    StatusDelivered,
    report_status,
)
from ._changes import Changes
from ._job_end import JobEnd
from ._jobs import JobScope
from ._service_group import ServiceGroup
from ._standing import Standing
from ._supervisor import Supervisor
from ._timekeeper import Timekeeper

if TYPE_CHECKING:
    from ..api import LiveKitAPI
    from ..rooms import RoomConnector

    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["Crew"]

#: Set inside a worker's jobs, so that a stop() from there can say why it would wait for itself.
_inside_job_of: ContextVar[object | None] = ContextVar("livekit_agent_worker", default=None)


class Crew:
    """The running jobs of a worker, and their host.

    ``tasks``, ``rooms``, ``services`` and ``timekeeper`` are set while the worker serves.

    :param jobs: those whose tasks live, by id; kept here, looked at by others.
    :param on_interrupt: told of a KeyboardInterrupt or the like that came out of a job.
    """

    tasks: TaskGroup
    rooms: RoomConnector
    services: ServiceGroup
    timekeeper: Timekeeper

    def __init__(
        self,
        handler: UniversalHandler,
        options: WorkerOptions,
        *,
        room_url: str,
        jobs: dict[str, JobScope],
        book: JobBook,
        supervisor: Supervisor,
        standing: Standing,
        on_interrupt: Callable[[BaseException], None],
        publish: Callable[[events.WorkerEvent], None],
        changes: Changes,
        log: Logger,
    ) -> None:
        self.handler = handler
        self.deliveries = room_callbacks(handler)
        self.options = options
        self.room_url = room_url
        self.jobs = jobs
        self.log = log
        self.publish = publish
        self.interrupted = on_interrupt
        self.completed = self.failed = 0
        self.final_reported_at = -math.inf
        """When a job last said how it ended."""
        self.draining = False
        self.at_stop: tuple[str, ...] = ()
        """The jobs that there were when the stop began, and those promised before it."""
        self.cut: list[str] = []
        """The jobs that the stop cancelled."""
        # All jobs start in one: a variable that each set in its own would be a table for each.
        self._context: Context | None = None
        self._book = book
        self._supervisor = supervisor
        self._standing = standing
        self._changes = changes

    def inside(self) -> bool:
        """Whether this is called by one of the jobs."""
        return _inside_job_of.get() is self

    def drain(self) -> None:
        """A stop begins: remember whom it meets."""
        self.draining = True
        self.at_stop = tuple(self.jobs)

    # ------------------------------------------------------------------------------------ events of the core

    def on_assigned(self, event: JobAssigned) -> None:
        """Take a job in."""
        job = JobScope(self, event)
        self.jobs[event.job.id] = job
        if self.draining:
            self.at_stop += (event.job.id,)  # promised before the stop
            job.warn()
        if self._context is None:
            self._context = copy_context()
            self._context.run(_inside_job_of.set, self)
        job.end.task = self._context.run(self.tasks.start_soon, job.run)
        self._supervisor.leave_if_asked()
        self._changes.notify()

    def on_terminated(self, event: JobTerminated) -> None:
        """The server ends a job."""
        job = self.jobs.get(event.job_id)
        if job is not None:
            job.cancel(CancelReason.TERMINATED)

    def on_delivered(self, event: StatusDelivered) -> None:
        """The server knows how a job ended."""
        job = self.jobs.get(event.job_id)
        if job is not None:
            job.end.delivery_settled()
        self._changes.notify()

    def on_lapsed(self, event: AssignmentLapsed) -> None:
        """A promised job never came."""
        self.log.warning("job %s was accepted but not assigned; its place is free again", printable(event.job_id))
        self._standing.refresh()
        self._supervisor.leave_if_asked()
        self._changes.notify()

    def on_refused(self, event: AssignmentRefused) -> None:
        """A job came that was not promised."""
        self.log.warning("refused the assignment of job %s: %s", printable(event.job_id), event.reason)

    # ------------------------------------------------------------------------------------ jobs' host

    def report(self, job_id: str, status: JobStatus, error: str) -> bool:
        """See JobHost."""
        if status.terminal:
            self.final_reported_at = anyio.current_time()
        session = self._supervisor.session
        if session is None:
            report_status(self._book, job_id, status, error)
            return False
        session.core.report(job_id, status, error, anyio.current_time())
        session.pump()
        return session.core.stage is Stage.REGISTERED

    def api(self) -> LiveKitAPI:
        """See JobHost."""
        return self._supervisor.api()

    def job_over(self, end: JobEnd) -> None:
        """See JobHost."""
        self.jobs.pop(end.job.id, None)
        self._book.release(end.job.id)
        outcome = end.outcome
        if outcome is not None and outcome.status is JobStatus.SUCCESS:
            self.completed += 1
        else:
            self.failed += 1
        if self.draining and outcome is not None and outcome.reason == CancelReason.WORKER_CANCELLED.value:
            self.cut.append(end.job.id)  # the backend's own cancellation may come before our reason
        if not end.abandoned:
            self._tell_end(end)
        self._standing.refresh()
        session = self._supervisor.session
        if session is not None:
            session.pump()
        self._changes.notify()

    def job_abandoned(self, end: JobEnd) -> None:
        """See JobHost."""
        self._tell_end(end)
        self._changes.notify()

    def _tell_end(self, end: JobEnd) -> None:
        outcome = end.outcome
        if outcome is None:
            return  # a bug of ours ended it, and is flying on
        if self.log.isEnabledFor(logging.INFO):
            end.log.info("job ended: %s%s", outcome.status.name, f" ({outcome.reason})" if outcome.reason else "")
        self.publish(events.JobEnded(job=end.job, status=outcome.status, reason=outcome.reason, error=outcome.error))
