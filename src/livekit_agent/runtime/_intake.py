"""Which offers does the worker take?  The handler is asked, in a small task of its own for each.

The core declines by itself at the answer's deadline and says so (``AnswerExpired``); a question still open then is
cancelled.  When a stop begins, all are.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import anyio

from .._errors import log_error, printable
from .._options import WorkerOptions
from .._types import Job, JobMetadata, Reject
from ..handlers import UniversalHandler, ask
from ..protocol import AnswerExpired, JobOffered
from ._changes import Changes
from ._outcome import sort_out
from ._service_group import ServiceGroup
from ._standing import Standing
from ._supervisor import Supervisor

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["Intake"]


class Intake:
    """The offers that are being thought about.

    :param on_interrupt: told of a KeyboardInterrupt or the like that came out of the handler.
    """

    def __init__(
        self,
        handler: UniversalHandler,
        options: WorkerOptions,
        *,
        supervisor: Supervisor,
        standing: Standing,
        on_interrupt: Callable[[BaseException], None],
        changes: Changes,
        log: Logger,
    ) -> None:
        self.tasks: ServiceGroup | None = None
        """Where the questions are asked; set while the worker serves."""
        self.answering: list[str] = []
        """Jobs whose question to the handler has not come back; one ignoring its cancellation is not in ``_asking``."""
        self._asking: dict[str, anyio.CancelScope] = {}
        self._handler = handler
        self._options = options
        self._supervisor = supervisor
        self._standing = standing
        self._on_interrupt = on_interrupt
        self._changes = changes
        self._log = log

    def on_offer(self, event: JobOffered) -> None:
        """Begin to think about it."""
        assert self.tasks is not None
        # Here and not in the task, which gets to run later: the offer may be void by then.
        self._asking[event.job.id] = scope = anyio.CancelScope()
        self.tasks.start_soon(self._answer, event.job, scope)

    def on_answer_expired(self, event: AnswerExpired) -> None:
        """The core has declined: the handler's answer is of no interest any more."""
        scope = self._asking.pop(event.job_id, None)
        if scope is not None:
            scope.cancel()

    def cancel(self) -> None:
        """Cancel every question, also those to come."""
        if self.tasks is not None:
            self.tasks.cancel()

    async def _answer(self, job: Job, scope: anyio.CancelScope) -> None:
        """Ask the handler about one offer and answer it.  The core declines by itself at the answer's deadline."""
        answer: JobMetadata | Reject = Reject()
        self.answering.append(job.id)
        try:
            with scope:
                if self._wanted(job):
                    answer = await self._ask(job)
        finally:
            self.answering.remove(job.id)
            self._changes.notify()
        if self._asking.get(job.id) is not scope:
            # Also what a handler says that ignored its cancellation: the core may have forgotten the job since, or have
            # been offered it anew.
            self._log.warning("on_job_request did not answer for job %s in time; declined", printable(job.id))
            return
        del self._asking[job.id]
        session = self._supervisor.session
        if session is None:
            return  # the offer went with its connection
        now = anyio.current_time()
        if isinstance(answer, Reject):
            if answer.reason:
                self._log.info("declined job %s: %s", printable(job.id), printable(answer.reason))
            session.core.decline(job.id, now, terminate=answer.terminate)
        else:
            if "lk.agent_name" in answer.participant_attributes:
                self._log.warning("attribute lk.agent_name is the server's own; it is left out")
            session.core.accept(job.id, answer, now)
        self._standing.refresh()
        session.pump()

    async def _ask(self, job: Job) -> JobMetadata | Reject:
        try:
            return await ask(self._handler, job)
        except BaseException as exc:  # boundary to the user's callback: whatever it raises declines this one offer
            cancelled, interrupt, error = sort_out(exc)
            if error is not None:
                log_error(self._log, error, "on_job_request failed for job %s; declined", printable(job.id))
            if interrupt is not None:
                self._on_interrupt(interrupt)
            # Not ours to keep unless it was a bare Task.cancel() (asyncio), which would end the whole worker.
            if cancelled is not None and anyio.current_effective_deadline() == -math.inf:
                raise cancelled from None
        return Reject()

    def _wanted(self, job: Job) -> bool:
        if self._supervisor.asked_to_leave:
            return False
        if job.type is not self._options.job_type:
            self._log.warning("declined job %s of type %s: not this worker's", printable(job.id), job.type)
            return False
        standing = self._standing
        try:
            load = standing.compute()
            wanted = standing.calculator.should_accept_job(job.type, load)
        except Exception as exc:
            # Boundary to the user's policy: its failure declines, and is told.
            log_error(self._log, exc, "should_accept_job failed; declined job %s", printable(job.id))
            return False
        if not wanted:
            places = "no limit" if self._options.max_jobs is None else self._options.max_jobs
            self._log.info("declined job %s: the load is %.2f (max_jobs: %s)", printable(job.id), load, places)
        return wanted
