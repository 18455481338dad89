"""What a set of seeds must have reached at least once: a search that never gets somewhere proves nothing about it."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ._history import ENDINGS, NOT_BACK, History
from ._scenario import FAULT_KINDS, PAIRED, STATES
from ._trace import Note

__all__ = ["GOALS", "Goals"]

#: Every goal.  A goal is reached when :class:`Goals` says so.
GOALS: tuple[str, ...] = (
    *(f"fault: {kind}" for kind in FAULT_KINDS),
    # A worker in backoff has no connection that could be reset or hang: there the connect meets with it.
    *(f"{kind} while {state}" for kind in PAIRED for state in STATES),
    "a status was lost and sent again",
    "two ends at one instant",
    "a job ended exactly at its time-out",
    "a job ended exactly at the drain's deadline",
    "a job ended as its connection was lost",
    "a job was terminated while joining",
    "a job ended while there was no connection",
    "a job outlived two connections",
    "a job was stuck",
    "a job gave its room up",
    "a clean-up was cut",
    "a drain ended by itself",
    "a drain cut a job",
    "a stop was shortened",
    "a stop could not be lengthened",
    "a worker was cancelled with jobs running",
    "a worker ended over a refused token",
    "an assignment was refused",
    "an accepted offer lapsed",
    "an offer was declined in flight by a stop",
    "a worker was full",
    "a last status stayed unproven",
    "a worker came back for another type and was given a job",
    "a job was launched that nobody served",
    "a track was given up while somebody spoke",
    "a slow listener lost frames",
    "an iterator over frames was left half way",
)


class Goals:
    """Watches a trace and keeps which goals were reached.  The history must know each note already."""

    def __init__(self, history: History) -> None:
        self.reached: set[str] = set()
        self._history = history
        self._lost_at = -1.0
        self._last_end: Note | None = None

    def see(self, note: Note) -> None:
        """Look at a note."""
        what = note.what
        if what == "fault":
            self.reached.update(_of_fault(note))
        elif what == "say":
            if note.kind in _TELLING:
                self.reached.update(_of_say(note, self._history))
        elif what == "closed" and not note.who.startswith("s:"):
            self._lost_at = note.t
        elif what == "handler":
            if note.kind in ENDINGS:
                self.reached.update(_of_end(note, self._history, self._last_end))
                if self._lost_at == note.t:
                    self.reached.add("a job ended as its connection was lost")
                self._last_end = note
        elif what == "job":
            if note.data.get("served") is False:
                self.reached.add("a job was launched that nobody served")
        elif what == "media":
            self.reached.update(_of_media(note))
        elif what == "worker" and note.kind == "ended":
            self.reached.update(_of_worker_end(note, self._history))
        elif what in ("stage", "event", "worker"):
            self.reached.update(_of_state(note, self._history))


#: Messages that may show that a goal was reached.
_TELLING = ("job_status", "worker_status", "answer")


def _of_fault(note: Note) -> Iterator[str]:
    yield f"fault: {note.kind}"
    states = note.data.get("states")
    paired = {"hang_connect": "hang", "refuse_connect": "reset"}.get(note.kind, note.kind)
    if paired in PAIRED and isinstance(states, tuple):
        for state in states:
            if paired == note.kind or state == "backoff":
                yield f"{paired} while {state}"


def _of_say(note: Note, history: History) -> Iterator[str]:
    if note.kind == "job_status" and note.data["status"] != "RUNNING":
        job = history.job(note)
        if len({said.who for said in job.said if said.data["status"] != "RUNNING"}) > 1:
            yield "a status was lost and sent again"
        if "had not accepted" in str(note.data["error"]):
            yield "an assignment was refused"
    elif note.kind == "worker_status" and note.data["full"] and not note.data["draining"]:
        yield "a worker was full"
    elif note.kind == "answer" and not note.data["yes"]:
        life = history.life(note.who)
        if any(when == note.t for when, _ in life.stops):
            yield "an offer was declined in flight by a stop"


def _of_end(note: Note, history: History, last: Note | None) -> Iterator[str]:
    if last is not None and last.t == note.t and last.job != note.job:
        yield "two ends at one instant"
    job = history.job(note)
    life = job.life
    if note.kind == "returned":
        timeout = life.plan.get("job_timeout")
        if timeout is not None and job.assigned_at is not None and note.t == job.assigned_at + timeout:
            yield "a job ended exactly at its time-out"
        if note.t == life.drain_deadline:
            yield "a job ended exactly at the drain's deadline"
    connection = life.connection
    if connection is None or connection.closed_at is not None:
        yield "a job ended while there was no connection"
    since = job.started[0] if job.started else math.inf
    lost = [c for c in history.connections.values() if c.life is life and c.closed_at and since < c.closed_at <= note.t]
    if len(lost) > 1:
        yield "a job outlived two connections"


def _of_media(note: Note) -> Iterator[str]:
    if note.kind == "unsubscribed":
        yield "a track was given up while somebody spoke"
    elif note.kind == "heard":
        if note.data["dropped"]:
            yield "a slow listener lost frames"
        if note.data["abandoned"]:
            yield "an iterator over frames was left half way"


def _of_worker_end(note: Note, history: History) -> Iterator[str]:
    for name, goal in (
        ("drained", "a drain ended by itself"),
        ("cut", "a drain cut a job"),
        ("unproven", "a last status stayed unproven"),
    ):
        if note.data.get(name):
            yield goal
    if note.data["error"] == "AuthenticationError":
        yield "a worker ended over a refused token"


def _of_state(note: Note, history: History) -> Iterator[str]:
    life = history.life(note.who)
    if note.what == "stage" and note.kind == "assign":
        seat, _, number = life.label.partition(".")
        before = history.lives.get(f"{seat}.{int(number) - 1}")
        if before is not None and before.plan["type"] != life.plan["type"]:
            yield "a worker came back for another type and was given a job"
    elif note.what == "stage" and note.kind == "terminate":
        job = history.job(note)
        if job.run_at is None:
            yield "a job was terminated while joining"
    elif note.what == "stage" and note.kind in ("expire", "lost") and note.data["now"] == "lapsed":
        if history.job(note).yes_at is not None:
            yield "an accepted offer lapsed"
    elif note.what == "event" and note.kind == "job_ended":
        job = history.job(note)
        if note.data["reason"] == "handler ignored its cancellation":
            yield "a job was stuck"
        if NOT_BACK in job.reason:
            yield "a job gave its room up"
        if 2 in job.cleanups and 2 not in job.cleaned:
            yield "a clean-up was cut"
    elif note.what == "worker" and note.kind == "stop" and len(life.stops) > 1:
        *before, (when, timeout) = life.stops
        earliest = min(began + wait for began, wait in before)
        yield "a stop was shortened" if when + timeout < earliest else "a stop could not be lengthened"
    elif note.what == "worker" and note.kind == "cancel" and any(job.running for job in life.jobs.values()):
        yield "a worker was cancelled with jobs running"
