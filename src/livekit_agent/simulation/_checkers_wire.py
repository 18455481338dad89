"""W1 to W11: what is said on the wire, by the worker above all, of itself and its jobs.  Pure: layer 2."""

from __future__ import annotations

from .._bounds import (
    ANSWER_TIMEOUT,
    ASSIGNMENT_TIMEOUT,
)
from ._history import FINAL
from ._judge import Checker, Jury, by_worker
from ._trace import Note

__all__ = ["WIRE"]


class W1_register_first(Checker):
    """The first message on each connection is RegisterWorker, and nothing else is said before its reply."""

    watches = ("say",)

    def look(self, note: Note) -> None:
        if not by_worker(note):
            return
        connection = self.history.connection(note.who)
        if len(connection.said) == 1:
            self.judge(note.kind == "register", f"{note.who} began with {note.kind}")
        elif connection.registered_at is None:
            self.judge(False, f"{note.who} said {note.kind} before it was registered")


class W2_one_answer(Checker):
    """Each offer is answered at most once, and by its deadline if the connection lives that long."""

    watches = ("say answer", "hear offer", "deliver", "closed")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._open: dict[tuple[str, str], float] = {}

    def look(self, note: Note) -> None:
        if note.what == "deliver":
            who = str(note.data["connection"])
            self._late(who, note.t)
        elif not by_worker(note):
            return
        elif note.what == "closed":
            for key in [key for key in self._open if key[0] == note.who]:
                del self._open[key]
        elif note.what == "hear":
            if not note.data.get("unheard"):
                self._open[note.who, note.job] = note.t
        else:
            since = self._open.pop((note.who, note.job), None)
            if since is None:
                self.judge(False, f"{note.job} was answered again, or unasked")
            else:
                self.judge(note.t <= since + ANSWER_TIMEOUT, f"{note.job} was answered after {note.t - since:g} s")

    def _late(self, who: str, now: float) -> None:
        if self._open and self.history.connection(who).closing_at is None:
            for (label, job), since in list(self._open.items()):
                if label == who and now > since + ANSWER_TIMEOUT:
                    del self._open[label, job]
                    self.judge(False, f"{job} was not answered within {ANSWER_TIMEOUT:g} s")


class W3_no_place_no_yes(Checker):
    """A draining or full worker answers available=false."""

    watches = ("say answer",)

    def look(self, note: Note) -> None:
        if not by_worker(note):
            return
        life = self.history.life(note.who)
        draining = life.draining_at is not None
        if note.data["yes"]:
            # The place that this yes takes is counted already.
            self.judge(life.places <= life.max_jobs and not draining, f"{note.job} accepted with {life.places} places")
        elif draining or life.places >= life.max_jobs:
            self.judge(True, "")


class W4_no_yes_no_job(Checker):
    """An assignment without our yes on that connection is refused or ignored, never run."""

    watches = ("hear assignment", "stage assign", "say", "handler started")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._unlawful: tuple[str, str] | None = None

    def look(self, note: Note) -> None:
        if note.what == "hear":
            if by_worker(note) and not note.data.get("unheard"):
                job = self.history.job(note)
                lawful = job.yes_on == note.who and job.lapsed_at is None
                self._unlawful = None if lawful or job.assigned_at is not None else (note.who, note.job)
        elif note.what == "stage":
            job = self.history.job(note)
            connection = job.life.connection
            self.judge(
                connection is not None and job.yes_on == connection.label,
                f"{note.job} was taken, the yes for it was said on {job.yes_on or 'no connection'}",
            )
        elif note.what == "handler":
            self.judge(self.history.job(note).assigned_at is not None, f"{note.job} was started unassigned")
        elif self._unlawful is not None and note.who == self._unlawful[0]:
            refused = (note.kind, note.job, note.data.get("status")) == ("job_status", self._unlawful[1], "FAILED")
            self.judge(refused, f"{self._unlawful[1]} came without our yes and was not refused")
            self._unlawful = None


class W5_duplicates_start_nothing(Checker):
    """A second assignment of a job id starts nothing."""

    watches = ("handler started", "room entered", "hear assignment")

    def look(self, note: Note) -> None:
        if not note.job:
            return
        if note.what == "hear":
            if by_worker(note):
                job = self.history.job(note)
                if job.assignments > 1:
                    self.judge(len(job.started) <= 1 and job.joins <= 1, f"{note.job} runs twice")
        elif note.what == "handler":
            job = self.history.job(note)
            self.judge(len(job.started) == 1, f"{note.job} was started {len(job.started)} times")
        else:
            joins = max(life.jobs[note.job].joins for life in self.history.lives.values() if note.job in life.jobs)
            self.judge(joins <= 1, f"{note.job} joined its room {joins} times")


class W6_late_assignment(Checker):
    """An assignment after the answer's time-out is refused or reported FAILED, not run silently."""

    watches = ("stage assign",)

    def look(self, note: Note) -> None:
        job = self.history.job(note)
        waited = note.t - (job.yes_at if job.yes_at is not None else note.t)
        self.judge(waited <= ASSIGNMENT_TIMEOUT and job.lapsed_at is None, f"{note.job} came after {waited:g} s")


class W7_running_first(Checker):
    """The first status of a job whose handler ran while the worker was registered is RUNNING, and it is said once."""

    watches = ("say job_status",)

    def look(self, note: Note) -> None:
        if not by_worker(note):
            return
        job = self.history.job(note)
        said = [str(earlier.data["status"]) for earlier in job.said]
        if note.data["status"] == "RUNNING":
            self.judge(said.count("RUNNING") == 1, f"{note.job} said RUNNING again")
        elif len(said) == 1:
            silent = job.run_at is not None and job.registered_while_running
            self.judge(not silent, f"{note.job} ran and was never said to")


class W8_one_final_status(Checker):
    """Every assigned job's one final status reaches a server, unless the worker ended in the chaos, or was refused for
    good, and its report names the status as unproven; what no server has heard is said again on each new connection."""

    watches = ("hear job_status", "worker ended", "closed")

    def look(self, note: Note) -> None:
        if note.what == "closed":
            if not note.who.startswith("s:"):
                self._judge_resent(note.who)
        elif note.what == "hear":
            if note.who.startswith("s:") and note.data["status"] in FINAL:
                finals = [n for n in self.history.job(note).received if n.data["status"] in FINAL]
                self.judge(_same(finals), f"the server was told different ends of {note.job}")
        else:
            unproven = note.data["unproven"]
            assert isinstance(unproven, tuple)
            calm = "converged" in self.history.acts and not note.data["error"]
            for job in self.history.life(note.who).jobs.values():
                if job.assigned_at is not None and (calm or job.job not in unproven):
                    arrived = any(n.data["status"] in FINAL for n in job.received)
                    self.judge(arrived, f"no server ever heard how {job.job} ended")

    def _judge_resent(self, label: str) -> None:
        connection = self.history.connection(label)
        since = connection.registered_at
        if since is None:
            return
        for job in connection.life.jobs.values():
            if job.assigned_at is None or job.ended_at is None or job.ended_at >= since:
                continue
            if not any(n.data["status"] in FINAL and n.t < since for n in job.received):
                again = any(n.who == label and n.data["status"] in FINAL for n in job.said)
                self.judge(again, f"{job.job} had ended, no server knew, and {label} was not used to tell")


class W9_nothing_after_the_end(Checker):
    """After a job's final status nothing is said about it, except the identical status again."""

    watches = ("say job_status",)

    def look(self, note: Note) -> None:
        if not by_worker(note):
            return
        job = self.history.job(note)
        finals = [n for n in job.said if n.data["status"] in FINAL]
        if finals:
            first = finals[0]
            self.judge(note is first or _same([first, note]), f"{note.job}: {note.data} after {first.data}")


class W10_status_order(Checker):
    """Statuses go out in the order of the job's transitions, over reconnects too, and say what was decided."""

    watches = ("say job_status",)

    def look(self, note: Note) -> None:
        if not by_worker(note):
            return
        job = self.history.job(note)
        if job.assigned_at is None:
            return  # a refused assignment has no transitions
        if note.data["status"] == "RUNNING":
            self.judge(job.run_at is not None and job.ended_at is None, f"{note.job} said RUNNING when it was not")
        else:
            self.judge(job.ended_at is not None, f"{note.job} said {note.data['status']} before it had ended")


class W11_live_jobs_named(Checker):
    """A new registration names exactly the live jobs."""

    watches = ("hear registered", "say")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._expected: dict[str, tuple[str, ...]] = {}

    def look(self, note: Note) -> None:
        if not by_worker(note):
            return
        if note.what == "hear":
            if not note.data.get("unheard"):
                jobs = self.history.life(note.who).jobs.values()
                live = tuple(job.job for job in jobs if job.assigned_at is not None and job.ended_at is None)
                self._expected.setdefault(note.who, live)
        elif note.kind == "migrate":
            expected, self._expected[note.who] = self._expected.get(note.who, ()), ()
            named = note.data["jobs"]
            assert isinstance(named, tuple)
            self.judge(sorted(named) == sorted(expected), f"named {named}, alive are {expected}")
        elif note.kind not in ("worker_status", "register") and (missing := self._expected.get(note.who)):
            self._expected[note.who] = ()
            self.judge(False, f"registered and did not name {missing}")


def _same(notes: list[Note]) -> bool:
    first = notes[0]
    return all((n.data["status"], n.data["error"]) == (first.data["status"], first.data["error"]) for n in notes)


WIRE: tuple[type[Checker], ...] = (
    W1_register_first,
    W2_one_answer,
    W3_no_place_no_yes,
    W4_no_yes_no_job,
    W5_duplicates_start_nothing,
    W6_late_assignment,
    W7_running_first,
    W8_one_final_status,
    W9_nothing_after_the_end,
    W10_status_order,
    W11_live_jobs_named,
)
