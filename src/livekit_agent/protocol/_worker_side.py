"""The worker's end of a connection: registers, answers offers, keeps statuses until they have provably arrived.

What is sent without being asked for:

- the registration, at the 101; then, at the register response and before anything else, the worker's standing (a fresh
  registration counts as AVAILABLE with load 0), the ids of jobs that run on, and every status not yet proven;
- RUNNING with the next write, or before the job's final status if that comes first: who reports it is about to call a
  handler, and need not wait for the message to be built;
- the standing again whenever it changed, coalesced: it is compared when ``data_to_send`` is called, so a burst of
  answers sends one.  FULL leaves in the same write as the answer that took the last place;
- a WorkerPing behind each write that holds a final status: its pong proves the delivery.

Silence: the server pings every 10 s.  After 15 s without a byte we ping; after 30 s the connection is given up.  The
timer is not moved by each read, it looks at ``_last_heard`` when it fires.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from .. import __version__
from .._bounds import (
    ANSWER_TIMEOUT,
    ASSIGNMENT_TIMEOUT,
    BAD_FRAMES_MAX,
    DEAD_AFTER_SILENCE,
    ENDED_JOBS_MAX,
    ERROR_TEXT_CHARS_MAX,
    HANDSHAKE_TIMEOUT,
    OFFERS_MAX,
    PING_AFTER_SILENCE,
    REGISTER_TIMEOUT,
    STATUS_SETTLE_TIME,
)
from .._errors import HandshakeError, LocalProtocolError, RemoteProtocolError, printable
from .._types import NO_ATTRIBUTES, JobMetadata, JobStatus
from . import _codec
from ._connection import SignalConnection
from ._events import (
    AnswerExpired,
    AssignmentLapsed,
    AssignmentRefused,
    Event,
    GoAway,
    JobAssigned,
    JobOffered,
    JobTerminated,
    PongReceived,
    Registered,
    Registration,
    StatusDelivered,
    UpgradeAccepted,
)
from ._jobs import JobBook, JobRecord
from ._refusal import refusal_error
from ._state import Input, JobStage, Kind, Role, Stage
from ._timers import Timer
from ._websocket import Accepted, Item, Refused

__all__ = ["WorkerConnection", "clamp_load"]

#: The server sets this attribute itself and would overwrite ours.
_RESERVED_ATTRIBUTE = "lk.agent_name"

#: Loads closer than this are the same: a load report is a frame, and wakes the server too.
_LOAD_STEP = 0.01


def clamp_load(load: float) -> float:
    """A load that no server chokes on: finite and in 0..1.  NaN means full: one NaN stops a whole server node."""
    return min(max(load, 0.0), 1.0) if load == load else 1.0


class WorkerConnection(SignalConnection):
    """See :class:`SignalConnection`; the verbs of a worker."""

    role: ClassVar[Role] = Role.WORKER
    _peer: ClassVar[Role] = Role.SERVER

    def __init__(
        self,
        *,
        host: str,
        target: str,
        token: str,
        registration: Registration,
        book: JobBook,
        now: float,
        wall: float,
        serial: int,
    ) -> None:
        super().__init__(now=now, wall=wall, book=book)
        self._registration = _codec.register(registration)
        self._serial = serial
        self._load = 0.0
        self._policy_full = False
        self._draining = False
        self._standing_sent: tuple[bool, float, int, bool] | None = None
        self._running_due: list[JobRecord] = []
        self._proof_due: list[JobRecord] = []
        self._proofs: dict[int, list[JobRecord]] = {}
        self._last_ping = 0
        self._bad_frames = 0
        self._step(Kind.UPGRADE_REQUEST)
        self._ws.request_upgrade(
            host,
            target,
            {"Authorization": f"Bearer {token}", "User-Agent": f"livekit-agent-sdk/{__version__}"},
        )
        self._timers.set(Timer.HANDSHAKE, now + HANDSHAKE_TIMEOUT)

    # ------------------------------------------------------------------------------------ verbs

    def accept(self, job_id: str, metadata: JobMetadata, now: float) -> bool:
        """Answer yes, and take a place.

        False, with a decline on the wire, when no place is free any more or the worker drains; False, with nothing
        sent, when the offer is no longer open.  LocalProtocolError for a job that was never offered.
        """
        self._now = now
        record = self._offer(job_id)
        if record is None:
            return False
        if self._draining or self._book.full:
            self.decline(job_id, now)
            return False
        attributes = {k: v for k, v in metadata.participant_attributes.items() if k != _RESERVED_ATTRIBUTE}
        metadata = replace(
            metadata,
            participant_identity=metadata.participant_identity or f"agent-{job_id}",
            participant_attributes=attributes or NO_ATTRIBUTES,
        )
        self._say(Kind.ANSWER, _codec.answer(job_id, metadata))
        record.metadata = metadata
        self._book.change(record, Input.ACCEPT)
        self._timers.stop(Timer.ANSWER, job_id)
        self._timers.set(Timer.ASSIGNMENT, now + ASSIGNMENT_TIMEOUT, job_id)
        return True

    def decline(self, job_id: str, now: float, *, terminate: bool = False) -> None:
        """Answer no.  ``terminate`` ends the job for every worker.  Harmless when the offer is no longer open."""
        self._now = now
        record = self._offer(job_id)
        if record is not None:
            self._say(Kind.ANSWER, _codec.answer(job_id, None, terminate=terminate))
            self._book.change(record, Input.DECLINE)
            self._timers.stop(Timer.ANSWER, job_id)

    def report(self, job_id: str, status: JobStatus, error: str, now: float) -> None:
        """Tell a job's status; a final one is kept until it has provably arrived.

        Works in any stage: what cannot be sent now is sent at the next registration.  LocalProtocolError for a status
        that the job's stage does not allow (a second final one above all).
        """
        self._now = now
        if self._running_due and status is not JobStatus.RUNNING:
            self._send_running()
        report_status(self._book, job_id, status, error)
        record = self._book.get(job_id)
        assert record is not None
        if self._stage is Stage.REGISTERED:
            if record.final is None:
                self._running_due.append(record)
            else:
                self._send_final(record, now)

    def set_standing(self, load: float, full: bool, now: float) -> None:
        """What the server should know of the worker.  Sent with the next write if it differs enough."""
        self._now = now
        self._load = clamp_load(load)
        self._policy_full = full

    def drain(self, now: float) -> None:
        """Take no more jobs: open offers are declined, the server is told FULL.  There is no way back."""
        self._now = now
        if self._draining:
            return
        self._draining = True
        if self._stage is not Stage.REGISTERED:
            return  # no offer is open, or their connection's end will tell
        for record in self._book.offered():
            self.decline(record.job_id, now)
            self._events.append(AnswerExpired(job_id=record.job_id))

    def renounce(self, now: float) -> None:
        """Wait no longer for accepted jobs to be assigned: their places are free, a late assignment is refused."""
        self._now = now
        for record in self._book.accepted():
            self._timers.stop(Timer.ASSIGNMENT, record.job_id)
            self._book.change(record, Input.EXPIRE)
            self._events.append(AssignmentLapsed(job_id=record.job_id))

    @property
    def wants_to_send(self) -> bool:
        """As the base class; the standing and the delivery ping are counted where they are due."""
        if self._ws.outbox_bytes:
            return True
        return self._stage is Stage.REGISTERED and (
            bool(self._running_due) or bool(self._proof_due) or self._standing_due() is not None
        )

    def data_to_send(self) -> bytes:
        """The bytes to write next; adds RUNNING, the standing and the delivery ping where due."""
        if self._stage is Stage.REGISTERED:
            self._send_running()
            self._send_standing()
            self._send_proof_ping()
        return super().data_to_send()

    # ------------------------------------------------------------------------------------ sending

    def _offer(self, job_id: str) -> JobRecord | None:
        record = self._book.get(job_id)
        if record is None:
            raise LocalProtocolError(f"job {job_id} was not offered")
        return record if record.stage is JobStage.OFFERED and self._stage is Stage.REGISTERED else None

    def _standing_due(self) -> tuple[bool, float, int, bool] | None:
        """The standing (full, load, count, draining), if the server does not know it yet."""
        count = self._book.places_taken
        full = self._draining or self._policy_full or self._book.full
        load = 1.0 if self._book.full else self._load
        last = self._standing_sent
        if (
            last is not None
            and (last[0], last[2], last[3]) == (full, count, self._draining)
            and abs(last[1] - load) < _LOAD_STEP
        ):
            return None
        return full, load, count, self._draining

    def _send_standing(self) -> None:
        standing = self._standing_due()
        if standing is None:
            return
        self._standing_sent = standing
        full, load, count, draining = standing
        self._say(
            Kind.WORKER_STATUS,
            _codec.worker_status(full=full, load=load, job_count=count, draining=draining),
        )

    def _send_running(self) -> None:
        for record in self._running_due:
            if record.running_due:
                record.running_due = False
                self._say(Kind.JOB_STATUS, _codec.job_status(record.job_id, JobStatus.RUNNING, ""))
        self._running_due.clear()

    def _send_final(self, record: JobRecord, now: float) -> None:
        """Say how a job ended.  On its own connection this waits until the server knows the job."""
        settled_at = record.assigned_at + STATUS_SETTLE_TIME if record.connection == self._serial else now
        if now < settled_at:
            self._timers.set(Timer.SETTLE, settled_at, record.job_id)
            return
        self._say_final(record)
        self._proof_due.append(record)

    def _say_final(self, record: JobRecord) -> None:
        assert record.final is not None
        status, error = record.final
        self._book.change(record, Input.RESEND)
        self._say(Kind.JOB_STATUS, _codec.job_status(record.job_id, status, error))

    def _send_proof_ping(self) -> None:
        if not self._proof_due:
            return
        self._last_ping = max(self._last_ping + 1, int((self._now + self._wall_offset) * 1000))
        self._say(Kind.PING, _codec.ping(self._last_ping))
        self._proofs[self._last_ping] = self._proof_due
        self._proof_due = []
        if len(self._proofs) > ENDED_JOBS_MAX:
            del self._proofs[next(iter(self._proofs))]  # a server that answers no ping proves nothing

    def _before_close(self, now: float) -> None:
        if self._stage is Stage.REGISTERED:
            self._send_running()
            for record in self._book.unproven():
                # Too early is better than never; what has not settled is not counted as proven.
                if self._timers.stop(Timer.SETTLE, record.job_id):
                    self._say_final(record)
            self._send_standing()
            self._send_proof_ping()

    def _after_end(self) -> None:
        self._proofs.clear()
        self._proof_due.clear()
        self._running_due.clear()  # each record remembers that it is due
        for job_id, was in self._book.lose_connection():
            lost = AssignmentLapsed if was is JobStage.ACCEPTED else AnswerExpired
            self._events.append(lost(job_id=job_id))

    # ------------------------------------------------------------------------------------ hearing

    def _on_handshake(self, item: Item, now: float) -> None:
        self._timers.stop(Timer.HANDSHAKE)
        if isinstance(item, Accepted):
            self._step(Kind.UPGRADE_ACCEPTED)
            self._events.append(UpgradeAccepted())
            self._say(Kind.REGISTER, self._registration)
            self._timers.set(Timer.REGISTER, now + REGISTER_TIMEOUT)
        else:
            assert isinstance(item, Refused), item
            self._step(Kind.UPGRADE_REFUSED)
            error = refusal_error(item, wall=now + self._wall_offset)
            self._end(1006, error.message, error)

    def _on_undecodable(self, what: str, now: float) -> None:
        self._bad_frames += 1
        self._skip("undecodable", what)
        if self._bad_frames > BAD_FRAMES_MAX:
            self._violation(f"{self._bad_frames} messages could not be decoded")

    def _on_unknown(self, event: Event) -> None:
        self._events.append(event)

    def _violation(self, text: str) -> None:
        if self._stage in (Stage.OPEN, Stage.REGISTERING, Stage.REGISTERED):
            self._ws.send_close(1002, "")
        self._step(Kind.LOST)
        self._end(1002, text, RemoteProtocolError(text))

    def _on_registered(self, event: Registered, now: float, before: Stage) -> None:
        if before is Stage.REGISTERED:
            self._skip("register", "a second register response")
            return
        self._timers.stop(Timer.REGISTER)
        self._timers.set(Timer.SILENCE, now + PING_AFTER_SILENCE)
        self._events.append(event)
        self._send_standing()
        if live := [record.job_id for record in self._book.live()]:
            self._say(Kind.MIGRATE, _codec.migrate(live))
        self._running_due = [record for record in self._book.live() if record.running_due]
        self._send_running()
        for record in self._book.unproven():
            self._send_final(record, now)

    def _on_offer(self, event: JobOffered, now: float, before: Stage) -> None:
        job = event.job
        record = self._book.get(job.id)
        if not job.id:
            self._skip("offer", "no job id")
        elif record is not None and record.stage is JobStage.OFFERED:
            self._skip("offer", f"job {job.id} is offered already")
        elif record is not None and record.stage not in (JobStage.DECLINED, JobStage.LAPSED):
            self._refuse_offer(job.id, "is ours already")
        elif not _codec.is_known_type(job.type):
            self._refuse_offer(job.id, f"has the unknown type {job.type!r}")
        elif not _codec.has_room(job):
            self._refuse_offer(job.id, "has no room")
        elif self._draining:
            self._refuse_offer(job.id, "came while draining")
        elif self._book.full:
            self._refuse_offer(job.id, "came while max_jobs were taken")
        elif self._book.open_offers >= OFFERS_MAX:
            self._refuse_offer(job.id, f"came while {OFFERS_MAX} offers were open")
        else:
            self._book.open(job.id, self._serial).offered = job
            self._timers.set(Timer.ANSWER, now + ANSWER_TIMEOUT, job.id)
            self._events.append(JobOffered(job=job, resuming=event.resuming, answer_by=now + ANSWER_TIMEOUT))

    def _refuse_offer(self, job_id: str, why: str) -> None:
        self._say(Kind.ANSWER, _codec.answer(job_id, None))
        self._skip("offer", f"declined: job {job_id} {why}")

    def _on_assignment(self, event: JobAssigned, now: float, before: Stage) -> None:
        job_id = event.job.id
        record = self._book.get(job_id)
        if not job_id:
            self._skip("assignment", "no job id")
        elif record is None or record.stage in (JobStage.OFFERED, JobStage.DECLINED, JobStage.LAPSED):
            reason = "the worker had not accepted this job, or no longer waited for it"
            self._say(Kind.JOB_STATUS, _codec.job_status(job_id, JobStatus.FAILED, reason))
            self._events.append(AssignmentRefused(job_id=job_id, reason=reason))
        elif not record.allows(Input.ASSIGN):
            self._skip("assignment", f"job {job_id} is assigned already")
        else:
            self._book.change(record, Input.ASSIGN)
            record.assigned_at = now
            self._timers.stop(Timer.ASSIGNMENT, job_id)
            self._events.append(JobAssigned(job=event.job, token=event.token, url=event.url, metadata=record.metadata))

    def _on_termination(self, event: JobTerminated, now: float, before: Stage) -> None:
        record = self._book.get(event.job_id)
        if record is None or not record.allows(Input.TERMINATE):
            self._skip("termination", f"job {printable(event.job_id, 80)} is not running")
            return
        self._send_running()  # what was reported before is said before
        self._book.change(record, Input.TERMINATE)
        self._events.append(event)

    def _on_pong(self, event: PongReceived, now: float, before: Stage) -> None:
        self._events.append(event)
        for record in self._proofs.pop(event.last_timestamp, ()):
            assert record.final is not None
            self._book.prove(record)
            self._events.append(StatusDelivered(job_id=record.job_id, status=record.final[0]))

    def _on_go_away(self, event: GoAway, now: float, before: Stage) -> None:
        self._events.append(event)

    # ------------------------------------------------------------------------------------ time

    def _on_timer(self, timer: Timer, job_id: str, now: float) -> None:
        if timer is Timer.HANDSHAKE:
            self._on_handshake_timeout(now)
        elif timer is Timer.REGISTER:
            self._violation(f"no register response within {REGISTER_TIMEOUT:g} s")
        elif timer is Timer.CLOSE:
            self._step(Kind.LOST)
            self._end(1006, "the peer did not answer our close", None)
        elif timer is Timer.SILENCE:
            self._on_silence(now)
        elif timer is Timer.ANSWER:
            self.decline(job_id, now)
            self._events.append(AnswerExpired(job_id=job_id))
        elif timer is Timer.ASSIGNMENT:
            record = self._book.get(job_id)
            if record is not None and record.allows(Input.EXPIRE):
                self._book.change(record, Input.EXPIRE)
                self._events.append(AssignmentLapsed(job_id=job_id))
        elif timer is Timer.SETTLE:
            record = self._book.get(job_id)
            if record is not None and self._stage is Stage.REGISTERED and not record.proven:
                self._send_final(record, now)

    def _on_handshake_timeout(self, now: float) -> None:
        for item in self._ws.receive_eof():
            self._on_item(item, now)  # a refusal whose body never ended: its status is known
        if not self.finished:
            self._step(Kind.LOST)
            error = HandshakeError(f"no answer to the WebSocket upgrade within {HANDSHAKE_TIMEOUT:g} s")
            self._end(1006, str(error), error)

    def _handshake_fault(self, text: str) -> Exception:
        return HandshakeError(text, hint="is it a LiveKit server that listens there, and nothing in between?")

    def _on_silence(self, now: float) -> None:
        silent_since = self._last_heard
        if now >= silent_since + DEAD_AFTER_SILENCE:
            self._lost(f"nothing heard for {DEAD_AFTER_SILENCE:g} s")
        elif now >= silent_since + PING_AFTER_SILENCE:
            self._ws.send_ping()
            self._timers.set(Timer.SILENCE, silent_since + DEAD_AFTER_SILENCE)
        else:
            self._timers.set(Timer.SILENCE, silent_since + PING_AFTER_SILENCE)

    _HEARERS: ClassVar[Mapping[Kind, Callable[[Any, Any, float, Stage], None]]] = {
        Kind.REGISTERED: _on_registered,
        Kind.OFFER: _on_offer,
        Kind.ASSIGNMENT: _on_assignment,
        Kind.TERMINATION: _on_termination,
        Kind.PONG: _on_pong,
        Kind.GO_AWAY: _on_go_away,
    }


def report_status(book: JobBook, job_id: str, status: JobStatus, error: str) -> None:
    """Enter a status in the book, connected or not.  LocalProtocolError as :meth:`WorkerConnection.report`."""
    record = book.get(job_id)
    if record is None:
        raise LocalProtocolError(f"job {job_id} is unknown")
    if status is JobStatus.RUNNING:
        if record.stage is JobStage.TERMINATING:
            return  # the termination crossed it; the server has forgotten the job
        book.change(record, Input.RUN)
        record.running_due = True
    elif status.terminal:
        text = printable(error, ERROR_TEXT_CHARS_MAX).encode("utf-8", "replace").decode()
        book.end(record, status, text)
    else:
        raise LocalProtocolError(f"a worker does not report {status.name}")
