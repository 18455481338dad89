"""The mutants.  To add one: a row here, then ``python -m tests.mutants.search --mutant NAME`` to find its scenario.

Each names the invariants (``livekit_agent.simulation._checkers``) of which at least one must catch it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from livekit_agent.protocol._state import Input, JobStage

from ._edits import GONE, Edit, Line, Name, Row, applied

__all__ = ["MUTANTS", "SCENARIOS", "Mutant"]

SCENARIOS = Path(__file__).parent / "scenarios"


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """A mistake."""

    name: str
    about: str
    caught_by: tuple[str, ...]
    """Names of invariants; the first that fires is the one."""
    edits: tuple[Edit, ...]

    def applied(self) -> AbstractContextManager[None]:
        """Inside the block the program makes the mistake."""
        return applied(self.edits)

    @property
    def scenario(self) -> Path:
        """The file that holds a scenario in which it is caught."""
        return SCENARIOS / f"{self.name}.json"


def _mutant(name: str, about: str, caught_by: str, *edits: Edit) -> Mutant:
    return Mutant(name=name, about=about, caught_by=tuple(caught_by.split()), edits=edits)


_WORKER_SIDE = "protocol._worker_side:WorkerConnection."
_BOOK = "protocol._jobs:JobBook."
_WORKER = "runtime._worker:UniversalWorker."
_JOB = "runtime._jobs:JobScope."
_SESSION = "runtime._session:Session."

_ALL = (
    # ------------------------------------------------------------------------------------ statuses
    _mutant(
        "status_dropped_on_reconnect",
        "a new registration does not repeat the final statuses that were not proven",
        "W8",
        Line(_WORKER_SIDE + "_on_registered", "list(self._book.live()) + self._book.unproven()", "self._book.live()"),
    ),
    _mutant(
        "status_believed_when_written",
        "a final status counts as delivered once it was written",
        "W8",
        Line(_WORKER_SIDE + "_send_status", "self._proof_due.append(record)", "self._book.prove(record)"),
    ),
    _mutant(
        "pong_proves_everything",
        "a pong proves every final status, also those that wait to be sent",
        "W8",
        Line(_WORKER_SIDE + "_on_pong", "self._proofs.pop(event.last_timestamp, ())", "self._book.unproven()"),
    ),
    _mutant(
        "running_after_terminal",
        "a job that ran and ended while there was no connection is said to run, and then to have ended",
        "W10",
        Line(_BOOK + "end", "record.running_due = False", "pass"),
    ),
    _mutant(
        "running_said_again",
        "RUNNING is repeated at each registration",
        "W7",
        Line(_WORKER_SIDE + "_send_status", "record.running_due = False", "pass"),
    ),
    _mutant(
        "another_end_when_repeated",
        "a status that is repeated has lost its error text",
        "W9 W8",
        Line(
            _WORKER_SIDE + "_say_final",
            "status, error = record.final",
            'status, error = record.final[0], record.final[1] if record.connection == self._serial else ""',
        ),
    ),
    _mutant(
        "unproven_not_admitted",
        "the shutdown report does not name the statuses that may not have arrived",
        "W8",
        Line(
            _WORKER + "_make_report",
            "tuple(record.job_id for record in self._book.unproven())",
            "()",
        ),
    ),
    # ------------------------------------------------------------------------------------ places
    _mutant(
        "reservation_leaked",
        "the place of a job that was promised and not assigned in time stays taken",
        "W13",
        Line(_BOOK + "change", "if record.stage is JobStage.LAPSED:", "if event is Input.LOST:"),
    ),
    _mutant(
        "promise_leaked_with_its_connection",
        "the place of a job that was promised on a connection that broke stays taken",
        "W13",
        Line(_BOOK + "change", "if record.stage is JobStage.LAPSED:", "if event is Input.EXPIRE:"),
    ),
    _mutant(
        "place_taken_at_assignment",
        "a place is taken when the job is assigned, not when it is promised: two offers in flight both pass",
        "J6 W3",
        Line(
            _BOOK + "change",
            "if is_reserved and not record.holds_place:",
            "if record.stage is JobStage.ASSIGNED and not record.holds_place:",
        ),
    ),
    _mutant(
        "place_freed_before_cleanups",
        "a job's place is free before its clean-ups have run",
        "J6 W3",
        Line(_JOB + "_finish", "while True:\n", "self._host._book.release(self.job.id)\n        while True:\n"),
    ),
    _mutant(
        "stuck_frees_its_place",
        "a stuck job's place is free when it was reported, though its task runs on",
        "J6 W3",
        Line(_WORKER + "job_abandoned", "self._tell_end(job)", "self._book.release(job.job.id); self._tell_end(job)"),
    ),
    # ------------------------------------------------------------------------------------ offers and assignments
    _mutant(
        "drain_accepts_in_flight",
        "a stop lets the offers in flight be accepted",
        "J9 W3",
        Line(_WORKER_SIDE + "accept", "self._draining or self._book.full", "self._book.full"),
        Line(_WORKER_SIDE + "drain", "for record in self._book.offered():", "for record in ():"),
        Line(_WORKER + "_begin_drain", "if self._intake is not None:", "if False:"),
    ),
    _mutant(
        "offer_outlives_connection",
        "an offer is answered on the connection after the one it came on",
        "W2 W4",
        Row("protocol._state:JOB", (JobStage.OFFERED, Input.LOST), GONE),
    ),
    _mutant(
        "assignment_timer_dead",
        "the worker waits for an assignment for ever",
        "W6 T1 S1 J7",
        Line(_WORKER_SIDE + "_on_timer", "record is not None and record.allows(Input.EXPIRE)", "False"),
    ),
    _mutant(
        "answer_timer_late",
        "an unanswered offer is declined a second late",
        "W2 J11 T3",
        Name("protocol._worker_side:ANSWER_TIMEOUT", 3.5),
    ),
    _mutant(
        "duplicate_starts_a_second_job",
        "the second assignment of a job that has not begun to run starts it again",
        "W5 J1",
        Line(
            _WORKER_SIDE + "_on_assignment",
            "elif not record.allows(Input.ASSIGN):",
            "elif record.stage is JobStage.ASSIGNED:\n"
            "        self._events.append(JobAssigned(job=event.job, token=event.token, url=event.url))\n"
            "    elif not record.allows(Input.ASSIGN):",
        ),
    ),
    _mutant(
        "stray_assignment_runs",
        "a job is run whose promise had lapsed",
        "W4 W6",
        Row("protocol._state:JOB", (JobStage.LAPSED, Input.ASSIGN), JobStage.ASSIGNED),
        Line(
            _WORKER_SIDE + "_on_assignment",
            "(JobStage.OFFERED, JobStage.DECLINED, JobStage.LAPSED)",
            "(JobStage.OFFERED, JobStage.DECLINED)",
        ),
    ),
    # ------------------------------------------------------------------------------------ connections
    _mutant(
        "backoff_never_reset",
        "a registration that lasted does not begin the backoff anew",
        "T2",
        Line("protocol._lifecycle:Backoff.reset", "self._attempt = 0", "pass"),
    ),
    _mutant(
        "backoff_uncapped",
        "the pauses between connections have no cap",
        "T2",
        Line("protocol._lifecycle:Backoff.bound", "min(self._cap, ", "max(0.0, "),
    ),
    _mutant(
        "liveness_timer_dead",
        "a silent connection is pinged and never given up",
        "W12 S1",
        Line(_WORKER_SIDE + "_on_silence", "now >= silent_since + DEAD_AFTER_SILENCE", "False"),
    ),
    _mutant(
        "migrate_misses_a_job",
        "the first of several live jobs is not named at a new registration",
        "W11",
        Line(_WORKER_SIDE + "_on_registered", "_codec.migrate(live)", "_codec.migrate(live[1:] or live)"),
    ),
    _mutant(
        "migrate_forgotten_in_time",
        "from the fourth connection on the live jobs are not named at a registration",
        "W11",
        Line(
            _WORKER_SIDE + "_on_registered",
            "if live := [record.job_id for record in self._book.live()]:",
            "if self._serial < 4 and (live := [record.job_id for record in self._book.live()]):",
        ),
    ),
    _mutant(
        "token_reused",
        "the token of the first connection is shown on all",
        "T5",
        Line(
            _WORKER + "_make_core",
            "token=worker_token(self._api_key, self._api_secret, wall=wall)",
            'token=self.__dict__.setdefault("_token", worker_token(self._api_key, self._api_secret, wall=wall))',
        ),
    ),
    _mutant(
        "writes_behind_a_cut_write",
        "after a write that was given up half-way the next bytes are written all the same",
        "W20 W12 W14 W15 W18 S1",
        Line(_SESSION + "_send", "return not problem", "return True"),
    ),
    _mutant(
        "connection_loss_cancels",
        "a lost connection ends the jobs",
        "J10 J5 S3",
        Line(
            _WORKER + "_connect_once",
            "if job.outcome is not None:",
            "if job.outcome is None:\n                job.cancel(CancelReason.WORKER_CANCELLED)\n            else:",
        ),
    ),
    _mutant(
        "unknown_message_is_a_fault",
        "a message of a newer protocol ends the connection",
        "W16",
        Line(_WORKER_SIDE + "_on_unknown", "self._events.append(event)", 'self._violation("unknown message")'),
    ),
    # ------------------------------------------------------------------------------------ ends of jobs
    _mutant(
        "termination_ignored_while_joining",
        "a termination that comes while the room is joined is forgotten",
        "J1 J2 W7",
        Line(
            _JOB + "cancel",
            "if self._phase in (Phase.ENDING, Phase.OVER):",
            "if reason is CancelReason.TERMINATED and self._phase is Phase.JOINING:\n"
            "        return False\n"
            "    if self._phase in (Phase.ENDING, Phase.OVER):",
        ),
    ),
    _mutant(
        "shield_without_bound",
        "the clean-ups of a job have no time limit",
        "S6 T1 S1",
        Line(
            _JOB + "_within_budget",
            "self._host.timekeeper.at(began + self._budget, out_of_time)",
            "self._host.timekeeper.at(math.inf, out_of_time)",
        ),
    ),
    _mutant(
        "cleanup_skipped_on_cancellation",
        "the end of a job is not shielded from the cancellation of start()",
        "S7 J3 J4 W8",
        Line(_JOB + "_finish", "anyio.CancelScope(shield=True)", "anyio.CancelScope()"),
    ),
    _mutant(
        "cut_cleanup_takes_the_rest",
        "a clean-up that was cut by the budget takes those after it along",
        "J4",
        Line(_JOB + "_run_cleanups", "cut = exc", "raise"),
    ),
    _mutant(
        "told_twice_when_stuck",
        "on_job_terminated is called again when a stuck job's task ends at last",
        "J3",
        Line(_JOB + "_call_terminated", "if not self._told:", "if not self._told or self.abandoned:"),
        Line(
            _JOB + "_take_steps",
            "await self._cared_for.wait()\n",
            "await self._cared_for.wait()\n        await self._call_terminated()\n",
        ),
    ),
    _mutant(
        "cancel_reason_last_wins",
        "of several reasons to end a job the last is reported",
        "S3 J7",
        Line(_JOB + "cancel", "if self._reason is None:", "if True:"),
    ),
    _mutant(
        "room_end_misnamed",
        "an agent that was removed is said to have lost its room",
        "S3",
        Line(
            _JOB + "_room_ended",
            "_ROOM_ENDS.get(closed.reason, CancelReason.ROOM_LOST)",
            "CancelReason.ROOM_LOST if closed.reason == 4 else _ROOM_ENDS.get(closed.reason, CancelReason.ROOM_LOST)",
        ),
    ),
    _mutant(
        "error_takes_siblings_along",
        "a job that fails while another is joining ends that one too",
        "J5 S3",
        Line(
            _WORKER + "_run_job",
            "await job.run()",
            "await job.run()\n"
            "    if job.outcome is not None and job.outcome.error is not None:\n"
            "        for other in list(self._jobs.values()):\n"
            '            if other.phase.name == "JOINING":\n'
            "                other.cancel(CancelReason.WORKER_CANCELLED)",
        ),
    ),
    # ------------------------------------------------------------------------------------ stops and instants
    _mutant(
        "second_stop_lengthens",
        "the latest stop's deadline counts, also when it is later",
        "J8 T1",
        Line(
            _WORKER + "request_stop",
            "self._stop.deadline = min(self._stop.deadline, now + timeout)",
            "self._stop.deadline = now + timeout",
        ),
    ),
    _mutant(
        "drain_cuts_at_the_deadline",
        "the drain strikes at its deadline instead of just after, so it may cut a job that ends then by itself",
        "T1 J7 S3",
        Line(_WORKER + "_drain", "deadline=math.nextafter(deadline, math.inf)", "deadline=deadline"),
        Line(_WORKER + "_drain", "anyio.current_time() > deadline", "anyio.current_time() >= deadline"),
    ),
    _mutant(
        "timeout_at_the_deadline",
        "alarms ring at their instant, so a job that ends exactly at its time-out may be cut",
        "S3 T1",
        Line("runtime._timekeeper:Timekeeper.run", "self._heap[0][0] < anyio", "self._heap[0][0] <= anyio"),
        Line(
            "runtime._timekeeper:Timekeeper.run",
            "math.nextafter(self._heap[0][0], math.inf) if",
            "self._heap[0][0] if",
        ),
    ),
    _mutant(
        "retry_too_early",
        "the pause after a refused token is cut short",
        "T3",
        Line(_WORKER + "_supervise", "await anyio.sleep(verdict.delay)", "await anyio.sleep(verdict.delay * 0.9)"),
    ),
)

MUTANTS: Mapping[str, Mutant] = {mutant.name: mutant for mutant in _ALL}
