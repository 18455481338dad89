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

__all__ = ["MUTANTS", "RESULTS", "SCENARIOS", "Mutant"]

SCENARIOS = Path(__file__).parent / "scenarios"
RESULTS = Path(__file__).parent / "results"


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

    def scenario_on(self, backend: str) -> Path:
        """The file of a scenario in which it is caught on this backend."""
        return SCENARIOS / f"{self.name}.{backend}.json"

    @property
    def scenario(self) -> tuple[Path, str] | None:
        """The file of the scenario in which it is caught, and the backend; None when none was found."""
        files = ((self.scenario_on(backend), backend) for backend in ("asyncio", "trio"))
        return next((found for found in files if found[0].exists()), None)


def _mutant(name: str, about: str, caught_by: str, *edits: Edit) -> Mutant:
    return Mutant(name=name, about=about, caught_by=tuple(caught_by.split()), edits=edits)


_WORKER_SIDE = "protocol._worker_side:WorkerConnection."
_BOOK = "protocol._jobs:JobBook."
_SUPERVISOR = "runtime._supervisor:Supervisor."
_SHUTDOWN = "runtime._shutdown:Shutdown."
_CREW = "runtime._crew:Crew."
_JOB = "runtime._jobs:JobScope."
_JOB_END = "runtime._job_end:JobEnd."
_SESSION = "runtime._session:Session."

_ALL = (
    # ------------------------------------------------------------------------------------ statuses
    _mutant(
        "status_dropped_on_reconnect",
        "a new registration does not repeat the final statuses that were not proven",
        "W8",
        Line(_WORKER_SIDE + "_on_registered", "in self._book.unproven():", "in ():"),
    ),
    _mutant(
        "status_believed_when_written",
        "a final status counts as delivered once it was written",
        "W8",
        Line(_WORKER_SIDE + "_send_final", "self._proof_due.append(record)", "self._book.prove(record)"),
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
        Line(
            _WORKER_SIDE + "_on_registered",
            "for record in self._book.unproven():",
            "for record in self._book.unproven():\n"
            '        self._say(Kind.JOB_STATUS, _codec.job_status(record.job_id, JobStatus.RUNNING, ""))',
        ),
    ),
    _mutant(
        "running_said_again",
        "RUNNING is repeated at each registration",
        "W7",
        Line(_WORKER_SIDE + "_send_running", "record.running_due = False", "pass"),
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
            _SHUTDOWN + "_make_report",
            "tuple(record.job_id for record in self._book.unproven())",
            "()",
        ),
    ),
    _mutant(
        "final_status_is_said_never",
        "the job's machine does not know that a final status may be said",
        "W8 W15 J3",
        Row("protocol._state:JOB", (JobStage.ENDED, Input.RESEND), GONE),
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
    # ------------------------------------------------------------------------------------ offers and assignments
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
        "connection_loss_cancels",
        "a lost connection ends the jobs",
        "J10 J5 S3",
        Line(
            _SUPERVISOR + "_connect_once",
            "if job.end.outcome is not None:",
            "if job.end.outcome is None:\n"
            "                from .._types import CancelReason\n"
            "                job.cancel(CancelReason.WORKER_CANCELLED)\n"
            "            else:",
        ),
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
            _JOB_END + "_within_budget",
            "self._host.timekeeper.at(began + self._budget, out_of_time)",
            "self._host.timekeeper.at(math.inf, out_of_time)",
        ),
    ),
    _mutant(
        "cut_cleanup_takes_the_rest",
        "a clean-up that was cut by the budget takes those after it along",
        "J4",
        Line(_JOB_END + "_run_cleanups", "cut = exc", "raise"),
    ),
    _mutant(
        "told_twice_when_stuck",
        "on_job_terminated is called again when a stuck job's task ends at last",
        "J3",
        Line(_JOB_END + "_call_terminated", "if not self._told:", "if not self._told or self.abandoned:"),
        Line(
            _JOB_END + "_take_steps",
            "await self._cared_for.wait()\n",
            "await self._cared_for.wait()\n        await self._call_terminated()\n",
        ),
    ),
    _mutant(
        "room_end_misnamed",
        "an agent that was removed is said to have lost its room",
        "S3",
        Line(
            _JOB + "_connection_changed",
            "_ROOM_ENDS.get(event.reason, CancelReason.ROOM_LOST)",
            "CancelReason.ROOM_LOST if event.reason == 4 else _ROOM_ENDS.get(event.reason, CancelReason.ROOM_LOST)",
        ),
    ),
    # ------------------------------------------------------------------------------------ stops and instants
    _mutant(
        "drain_cuts_at_the_deadline",
        "the drain strikes at its deadline instead of just after, so it may cut a job that ends then by itself",
        "T1 J7 S3",
        Line(_SHUTDOWN + "drain", "deadline=math.nextafter(deadline, math.inf)", "deadline=deadline"),
        Line(_SHUTDOWN + "drain", "anyio.current_time() > deadline", "anyio.current_time() >= deadline"),
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
    # ------------------------------------------------------------------------------------ only now and then
    _mutant(
        "statuses_forgotten_in_time",
        "from the third connection on unproven statuses are not repeated",
        "W8",
        Line(
            _WORKER_SIDE + "_on_registered",
            "self._book.unproven()",
            "(self._book.unproven() if self._serial < 3 else [])",
        ),
    ),
    _mutant(
        "backoff_not_reset_after_many_failures",
        "after three failures in a row a registration that lasted does not begin the backoff anew",
        "T2",
        Line(
            "protocol._lifecycle:Lifecycle.lost",
            "self._backoff.reset()",
            "self._failures < 3 and self._backoff.reset()",
        ),
    ),
    _mutant(
        "running_unsaid_after_reconnects",
        "from the third connection on RUNNING is not said",
        "W7",
        Line(_WORKER_SIDE + "_send_running", "if record.running_due:", "if record.running_due and self._serial < 3:"),
    ),
    _mutant(
        "promises_leaked_after_reconnects",
        "from the third connection on the promises of a connection that broke keep their places",
        "W13 W4 J6 W3 W2",
        Line(
            _WORKER_SIDE + "_after_end",
            "in self._book.lose_connection():",
            "in self._book.lose_connection() if self._serial < 3 else ():",
        ),
    ),
    _mutant(
        "answer_timer_late_after_reconnects",
        "from the third connection on an unanswered offer is declined a second late",
        "W2 J11",
        Line(
            _WORKER_SIDE + "_on_offer",
            "self._timers.set(Timer.ANSWER, now + ANSWER_TIMEOUT, job.id)",
            "self._timers.set(Timer.ANSWER, now + ANSWER_TIMEOUT + (self._serial > 2), job.id)",
        ),
    ),
    _mutant(
        "duplicate_starts_a_second_job_after_reconnects",
        "from the third connection on the second assignment of a job that has not begun to run starts it again",
        "W5 J1",
        Line(
            _WORKER_SIDE + "_on_assignment",
            "elif not record.allows(Input.ASSIGN):",
            "elif record.stage is JobStage.ASSIGNED and self._serial > 2:\n"
            "        self._events.append(JobAssigned(job=event.job, token=event.token, url=event.url))\n"
            "    elif not record.allows(Input.ASSIGN):",
        ),
    ),
    _mutant(
        "third_loss_cancels",
        "the loss of the third connection, and of each after it, ends the jobs",
        "J10 J5 S3",
        Line(
            _SUPERVISOR + "_connect_once",
            "if job.end.outcome is not None:",
            "if job.end.outcome is None and self.connections > 2:\n"
            "                from .._types import CancelReason\n"
            "                job.cancel(CancelReason.WORKER_CANCELLED)\n"
            "            if job.end.outcome is not None:",
        ),
    ),
    _mutant(
        "pauses_too_long_after_failures",
        "from the fourth failure in a row on the pauses are three times as long",
        "T2",
        Line(
            "protocol._lifecycle:Lifecycle.lost",
            "delay = self._backoff.next_delay()\n",
            "delay = self._backoff.next_delay() * (1 if self._failures < 4 else 3)\n",
        ),
    ),
    _mutant(
        "unanswered_offers_stay_open_after_reconnects",
        "from the third connection on an offer that nobody answers is not declined",
        "W2 J11",
        Line(
            _WORKER_SIDE + "_on_timer",
            "self.decline(job_id, now)",
            "self.decline(job_id, now) if self._serial < 3 else None",
        ),
    ),
    _mutant(
        "terminations_ignored_after_reconnects",
        "from the third connection on terminations are forgotten",
        "J2",
        Line(
            _CREW + "on_terminated",
            "if job is not None:",
            "if job is not None and self._supervisor.connections < 3:",
        ),
    ),
    _mutant(
        "drain_spares_a_job_after_reconnects",
        "a drain that cuts from the third connection on leaves the first job alone",
        "T1 J8 J7 S1",
        Line(
            _SHUTDOWN + "_cancel_jobs",
            "for job in list(crew.jobs.values()):",
            "for job in list(crew.jobs.values())[self._supervisor.connections > 2 :]:",
        ),
    ),
    _mutant(
        "dead_connections_linger_after_reconnects",
        "from the third connection on a silent connection is given up five seconds late",
        "W12",
        Line(
            _WORKER_SIDE + "_on_silence",
            "self._timers.set(Timer.SILENCE, silent_since + DEAD_AFTER_SILENCE)",
            "self._timers.set(Timer.SILENCE, silent_since + DEAD_AFTER_SILENCE + 5 * (self._serial > 2))",
        ),
    ),
    _mutant(
        "running_said_again_after_reconnects",
        "from the third connection on RUNNING is repeated at each registration",
        "W7 W10",
        Line(_WORKER_SIDE + "_send_running", "record.running_due = False", "record.running_due = self._serial > 2"),
    ),
    _mutant(
        "tokens_nearly_over_after_reconnects",
        "from the third connection on tokens are so old that they are about to expire",
        "T5",
        Line(
            _SUPERVISOR + "_make_core",
            "token=worker_token(self._api_key, self._api_secret, wall=wall)",
            "token=worker_token(self._api_key, self._api_secret, wall=wall - 590 * (self.connections > 2))",
        ),
    ),
    _mutant(
        "migrate_misses_a_job_after_reconnects",
        "from the third connection on the last of several live jobs is not named at a new registration",
        "W11",
        Line(
            _WORKER_SIDE + "_on_registered",
            "_codec.migrate(live)",
            "_codec.migrate(live if self._serial < 3 else live[:-1] or live)",
        ),
    ),
)

MUTANTS: Mapping[str, Mutant] = {mutant.name: mutant for mutant in _ALL}
