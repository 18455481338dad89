"""The jobs of a worker, or of one connection of a server: instances of the JOB machine, places, and final statuses.

A worker keeps one book for life.  Jobs survive connections, because a room is independent of the worker's socket, and a
final status is kept until its delivery is proven: UpdateJobStatus has no acknowledgement, so one written just before a
reset is lost (in a model, 40 of 1,228).  The proof is the WorkerPong to a WorkerPing sent after the status.

Places.  ``max_jobs`` is a hard limit.  A place is taken by the answer that accepts an offer (not by the assignment: two
offers in flight would both pass) and given back by ``release``, after the job's room is left and its handler's
clean-up has run, or when the assignment does not come.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .._bounds import ENDED_JOBS_MAX, JOBS_MAX
from .._errors import LocalProtocolError, printable
from .._types import NO_METADATA, Job, JobMetadata, JobStatus
from ._state import JOB, Input, JobStage

__all__ = ["JobBook", "JobRecord"]


class JobRecord:
    """One job's machine and what has to be remembered beside its stage.  Owned by its book."""

    __slots__ = (
        "assigned_at",
        "connection",
        "final",
        "holds_place",
        "job_id",
        "metadata",
        "offered",
        "proven",
        "running_due",
        "stage",
    )

    def __init__(self, job_id: str, connection: int) -> None:
        self.job_id = job_id
        self.connection = connection
        #: Serial of the connection that offered it; on any other the server has forgotten it.
        self.stage = JobStage.OFFERED
        self.metadata: JobMetadata = NO_METADATA
        self.offered: Job | None = None
        #: What was offered, for as long as it may be assigned; it weighs 5 kB.
        self.holds_place = False
        self.assigned_at = 0.0
        self.running_due = False
        #: RUNNING was reported and has not been written on any connection.
        self.final: tuple[JobStatus, str] | None = None
        self.proven = False

    def allows(self, event: Input) -> bool:
        """Whether the JOB table has ``event`` in this stage's row."""
        return event in JOB[self.stage]

    def require(self, event: Input) -> None:
        """LocalProtocolError when the JOB table does not have ``event`` in this stage's row."""
        if event not in JOB[self.stage]:
            name = printable(self.job_id, 80)
            raise LocalProtocolError(f"job {name}: {event.name.lower()} is not possible when {self.stage.name}")

    def apply(self, event: Input) -> None:
        """Take the transition; LocalProtocolError when the table has none."""
        self.require(event)
        self.stage = JOB[self.stage][event]

    def __repr__(self) -> str:
        return f"<JobRecord {printable(self.job_id, 80)} {self.stage.name}>"


class JobBook:
    """All jobs that one party knows."""

    def __init__(self, max_jobs: int | None = None) -> None:
        self.max_jobs = JOBS_MAX if max_jobs is None else max_jobs
        self._records: dict[str, JobRecord] = {}
        self._ended: dict[str, None] = {}  # ordered set of job ids that may be forgotten, oldest first
        self._places = 0
        self._reserved = 0
        self._open_offers = 0
        self._unproven: dict[str, JobRecord] = {}
        self.on_change: Callable[[JobRecord, Input], None] | None = None
        """For simulation and recording: told of every transition after it was taken.  Must not call into the book."""

    # ------------------------------------------------------------------------------------ looking

    def get(self, job_id: str) -> JobRecord | None:
        """The record of a job, if it is remembered."""
        return self._records.get(job_id)

    def offered_job(self, job_id: str) -> Job | None:
        """A job as it was offered, until it is assigned or comes to nothing."""
        record = self._records.get(job_id)
        return None if record is None else record.offered

    @property
    def places_taken(self) -> int:
        """Accepted, running and not yet released jobs."""
        return self._places

    @property
    def reserved(self) -> int:
        """Accepted jobs whose assignment has not come."""
        return self._reserved

    @property
    def open_offers(self) -> int:
        """Offers that are unanswered."""
        return self._open_offers

    @property
    def full(self) -> bool:
        """Whether one more job would break the limit."""
        return self._places >= self.max_jobs

    def offered(self) -> list[JobRecord]:
        """Jobs whose offer is unanswered, in the order they came."""
        return [r for r in self._records.values() if r.stage is JobStage.OFFERED]

    def accepted(self) -> list[JobRecord]:
        """Jobs that were promised and not assigned, in the order they came."""
        return [r for r in self._records.values() if r.stage is JobStage.ACCEPTED]

    def live(self) -> Iterator[JobRecord]:
        """Jobs that are ours and not over, in the order they came."""
        alive = (JobStage.ASSIGNED, JobStage.RUNNING, JobStage.TERMINATING)
        return (r for r in list(self._records.values()) if r.stage in alive)

    def unproven(self) -> list[JobRecord]:
        """Jobs whose final status is decided and not proven to have arrived, oldest first."""
        return list(self._unproven.values())

    # ------------------------------------------------------------------------------------ changing

    def open(self, job_id: str, connection: int) -> JobRecord:
        """A fresh record for an offer.  The id must be unknown, or one whose earlier offer came to nothing."""
        old = self._records.pop(job_id, None)
        assert old is None or old.stage in (JobStage.DECLINED, JobStage.LAPSED), old
        self._ended.pop(job_id, None)
        record = self._records[job_id] = JobRecord(job_id, connection)
        self._open_offers += 1
        return record

    def change(self, record: JobRecord, event: Input) -> None:
        """Take a transition and keep places, reservations and memory in step with it."""
        was_offered = record.stage is JobStage.OFFERED
        was_reserved = record.stage is JobStage.ACCEPTED
        record.apply(event)
        self._open_offers -= was_offered
        is_reserved = record.stage is JobStage.ACCEPTED
        if not is_reserved:
            record.offered = None
        self._reserved += is_reserved - was_reserved
        if is_reserved and not record.holds_place:
            record.holds_place = True
            self._places += 1
        if record.stage is JobStage.LAPSED:
            self.release(record.job_id)
        if record.stage in (JobStage.DECLINED, JobStage.LAPSED):
            self._forget_later(record.job_id)
        if self.on_change is not None:
            self.on_change(record, event)

    def end(self, record: JobRecord, status: JobStatus, error: str) -> None:
        """Decide the final status."""
        record.require(Input.END)
        record.final = (status, error)
        self._unproven[record.job_id] = record
        self.change(record, Input.END)
        while len(self._unproven) > ENDED_JOBS_MAX:
            # A server that answers no ping proves nothing; the oldest status has been sent often enough.
            self.prove(self._unproven[next(iter(self._unproven))])

    def prove(self, record: JobRecord) -> None:
        """The final status has arrived."""
        record.proven = True
        self._unproven.pop(record.job_id, None)
        if not record.holds_place:
            self._forget_later(record.job_id)

    def release(self, job_id: str) -> None:
        """Give the job's place back; harmless when it holds none."""
        record = self._records.get(job_id)
        if record is None or not record.holds_place:
            return
        record.holds_place = False
        self._places -= 1
        if record.proven:
            self._forget_later(job_id)

    def lose_connection(self) -> list[tuple[str, JobStage]]:
        """The connection ended: its promises lapse.  Returns the jobs concerned and how far each had come."""
        lost = [r for r in self._records.values() if r.allows(Input.LOST)]
        before = [(r.job_id, r.stage) for r in lost]
        for record in lost:
            self.change(record, Input.LOST)
        return before

    def _forget_later(self, job_id: str) -> None:
        self._ended[job_id] = None
        while len(self._ended) > ENDED_JOBS_MAX:
            oldest = next(iter(self._ended))
            del self._ended[oldest]
            self._records.pop(oldest, None)
