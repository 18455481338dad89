"""J1 to J12: what a job and its handler live through.  Pure: layer 2."""

from __future__ import annotations

from .._bounds import ANSWER_TIMEOUT
from ._history import ENDINGS, STUCK, JobStory
from ._judge import Checker, Jury
from ._trace import Note

__all__ = ["JOBS"]

#: The numbers of a scripted handler's clean-ups in the order they must run: last pushed, first called.
CLEANUP_ORDER = [2, 1, 0]

#: The notes of a handler's end, however it ended.
LEAVINGS = tuple(f"handler {kind}" for kind in ENDINGS)

CUT_SHORT = ("worker cancelled", "worker shut down before the job ended")


class J1_called_once(Checker):
    """The handler is called exactly once for a job that got as far as running, and never for another."""

    watches = ("handler started", "worker ended")

    def look(self, note: Note) -> None:
        if note.what == "handler":
            job = self.history.job(note)
            self.judge(len(job.started) == 1 and job.run_at is not None, f"{note.job} was started wrongly")
        else:
            for job in self.history.life(note.who).jobs.values():
                if job.run_at is not None:
                    self.judge(len(job.started) == 1, f"{job.job}: its handler was called {len(job.started)} times")


class J2_terminate_cancels(Checker):
    """A termination cancels the job's scope at the handler's next checkpoint."""

    watches = (*LEAVINGS, "hear termination")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._due: dict[tuple[str, str], JobStory] = {}

    def look(self, note: Note) -> None:
        if note.what == "hear":
            if not note.who.startswith("s:") and not note.data.get("unheard"):
                job = self.history.job(note)
                if job.running and job.plain and job.ended_at is None:
                    self._due[job.life.label, note.job] = job
        else:
            job = self._due.pop((note.who, note.job), None)
            if job is not None:
                self.judge(note.t == job.terminate_heard_at, f"{note.job} ran on after its termination")

    def finish(self) -> None:
        for job in self._due.values():
            self.judge(False, f"{job.job} never ended after its termination")


class J3_terminated_once(Checker):
    """on_job_terminated is called exactly once per assigned job, after the job's tasks have ended; only for a stuck one
    before."""

    watches = ("handler terminated", "worker ended")

    def look(self, note: Note) -> None:
        if note.what == "handler":
            job = self.history.job(note)
            stuck = any(said.data["error"] == STUCK for said in job.said) or _unsaid(job)
            self.judge(len(job.terminated) == 1, f"{note.job} was said to be over twice")
            self.judge(stuck or (not job.running and job.children == 0), f"{note.job} still runs")
        else:
            for job in self.history.life(note.who).jobs.values():
                if job.assigned_at is not None:
                    self.judge(len(job.terminated) == 1, f"{job.job}: {len(job.terminated)} calls of on_job_terminated")


def _unsaid(job: JobStory) -> bool:
    """Whether it may be stuck though it has not said so: its status waits for a connection."""
    return job.running and not job.plain


class J4_cleanups(Checker):
    """Each clean-up runs exactly once, last pushed first, even if another raises; before the job is over, or, where it
    was stuck, when its task has ended.
    """

    watches = ("event job_ended",)

    def look(self, note: Note) -> None:
        if note.data["reason"] != STUCK:
            self._judge(self.history.job(note))

    def finish(self) -> None:
        for job in self.history.jobs():
            if job.reason == STUCK:
                self._judge(job)

    def _judge(self, job: JobStory) -> None:
        if job.started and job.script.get("cleanup") and not job.running:
            self.judge(job.cleanups == CLEANUP_ORDER, f"{job.job}: clean-ups {job.cleanups}, not {CLEANUP_ORDER}")


class J5_errors_stay(Checker):
    """An error in one job changes no other job and not the worker."""

    watches = ("event job_ended", "worker ended")

    def look(self, note: Note) -> None:
        life = self.history.life(note.who)
        if note.what == "event":
            if note.data["status"] == "FAILED":
                cancelled = life.cancelled_at is not None or life.stops or life.draining_at is not None
                unasked = note.data["reason"] in CUT_SHORT and not cancelled
                self.judge(not unasked, f"{note.job} was cancelled and nobody asked for it")
        else:
            self.judge("Scripted" not in str(note.data["error"]), f"{note.who} ended by a job's error")


class J6_never_more_than_max(Checker):
    """Live jobs, promised ones counted, are never more than max_jobs."""

    watches = ("stage accept", "stage assign", "handler started")

    def look(self, note: Note) -> None:
        life = self.history.life(note.who)
        places = life.places
        self.judge(places <= life.max_jobs, f"{places} jobs, {life.max_jobs:g} allowed")


class J7_drain_ends_when_done(Checker):
    """A drain ends as soon as, and not before, no job lives or its time-out has passed."""

    watches = ("worker ended",)

    def look(self, note: Note) -> None:
        life = self.history.life(note.who)
        alive = [job.job for job in life.jobs.values() if job.running or (job.assigned_at is not None and not job.over)]
        self.judge(not alive, f"{note.who} ended with {alive}")
        if life.stops and life.cancelled_at is None and not note.data["error"]:
            drained = note.data["drained"]
            assert isinstance(drained, tuple)
            for job_id in drained:
                over = life.jobs[job_id].over
                deadline = life.drain_deadline
                out = life.jobs[job_id].out
                ended = out[-1].t if out else (over.t if over else 0.0)
                in_time = ended <= deadline or life.jobs[job_id].reason not in CUT_SHORT
                self.judge(in_time, f"{job_id} is said to have drained and was cut")


class J8_second_stop_shortens(Checker):
    """A second stop is idempotent and may only shorten the first."""

    watches = (*LEAVINGS, "event draining")

    def look(self, note: Note) -> None:
        life = self.history.life(note.who)
        if len(life.stops) < 2:
            return
        if note.what == "event":
            self.judge(life.draining_at == note.t, f"{note.who} began to drain again")
        else:
            job = self.history.job(note)
            if job.plain and job.life.cancelled_at is None and job.started and job.started[0] <= life.drain_deadline:
                self.judge(_at_or_just_after(note.t, life.drain_deadline), f"{note.job} outlived the earliest deadline")


def _at_or_just_after(t: float, deadline: float) -> bool:
    """The supervisor strikes at the first instant after a deadline."""
    return t <= deadline + 1e-6


class J9_no_yes_after_stop(Checker):
    """No job is accepted after stop() was called, an offer in flight included; nor once a cancelled start() has begun
    to drain."""

    watches = ("say answer",)

    def look(self, note: Note) -> None:
        if not note.who.startswith("s:"):
            life = self.history.life(note.who)
            if life.stops or life.draining_at is not None:
                self.judge(not note.data["yes"], f"{note.job} was accepted after the stop")
            elif note.data["yes"]:
                self.judge(True, "")


class J10_connection_loss_cancels_nothing(Checker):
    """A lost connection cancels no job; the job's status survives any number of reconnects."""

    watches = ("closed", "event job_ended")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._survivors: dict[tuple[str, str], JobStory] = {}

    def look(self, note: Note) -> None:
        life = self.history.life(note.who)
        if note.what == "closed":
            if not note.who.startswith("s:"):
                for job in life.jobs.values():
                    if job.running:
                        self._survivors[life.label, job.job] = job
        elif (job := self._survivors.pop((life.label, note.job), None)) is not None:
            cut = job.reason in CUT_SHORT and not (life.stops or life.cancelled_at is not None or life.draining_at)
            self.judge(not cut, f"{note.job} was cancelled, and only its connection was lost")


class J11_no_answer_is_no(Checker):
    """A handler that fails on an offer, or does not answer it in time, declines it."""

    watches = ("say answer",)

    def look(self, note: Note) -> None:
        if note.who.startswith("s:"):
            return
        job = self.history.job(note)
        request = job.script.get("request")
        if request in ("raise", "never"):
            self.judge(not note.data["yes"], f"{note.job} was accepted, the handler did not say so")
        if request == "never" and job.asked_at is not None:
            self.judge(note.t <= job.asked_at + ANSWER_TIMEOUT, f"{note.job} was declined too late")


class J12_contexts_stay(Checker):
    """What one job keeps in context variables is never seen by another."""

    watches = ("handler started", *LEAVINGS)

    def look(self, note: Note) -> None:
        if "foreign" in note.data:
            self.judge(not note.data["foreign"], f"{note.job} saw what {note.data['foreign']} had set")


JOBS: tuple[type[Checker], ...] = (
    J1_called_once,
    J2_terminate_cancels,
    J3_terminated_once,
    J4_cleanups,
    J5_errors_stay,
    J6_never_more_than_max,
    J7_drain_ends_when_done,
    J8_second_stop_shortens,
    J9_no_yes_after_stop,
    J10_connection_loss_cancels_nothing,
    J11_no_answer_is_no,
    J12_contexts_stay,
)
