"""T1 to T5: deadlines, waits and wake-ups, to the instant.  Pure: layer 2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from .._bounds import (
    ANSWER_TIMEOUT,
    BACKOFF_BASE,
    BACKOFF_CAP,
    CLOSE_TIMEOUT,
    FLUSH_TIMEOUT,
    KEEPALIVE_INTERVAL,
    LASTING_REGISTRATION,
    LOAD_INTERVAL,
)
from ._history import NOT_BACK, JobStory, LifeStory
from ._judge import Checker, Jury
from ._trace import Note

__all__ = ["TIME"]

_DRAINED = "worker shut down before the job ended"
_TOKEN_MARGIN = 60.0
"""Seconds that a token must still be valid when it is shown."""

RETRY_AFTER = 1.0
"""What the simulated proxy says."""


class T1_stop_is_exact(Checker):
    """A stop at s with time-out d cancels handlers at the first instant after s + d and none before, and ends within
    d + cancel_grace + cleanup_timeout + 2 s flush + 2 s close."""

    watches = ("worker ended", "event job_ended")

    def look(self, note: Note) -> None:
        life = self.history.life(note.who)
        if note.what == "event":
            if note.data["reason"] == _DRAINED:
                job = self.history.job(note)
                if job.last_out is not None:
                    self._judge_cut(life, job.last_out, plain=job.plain)
        elif life.stops and not note.data["error"]:
            elapsed = note.data["elapsed"]
            assert isinstance(elapsed, float | int)
            began = life.stops[0][0]
            plan = life.plan
            bound = life.drain_deadline - began + float(plan["cancel_grace"]) + float(plan["cleanup_timeout"])
            bound += FLUSH_TIMEOUT + CLOSE_TIMEOUT
            self.judge(elapsed <= bound + 1e-6, f"{note.who} took {elapsed:g} s to stop, {bound:g} s promised")

    def _judge_cut(self, life: LifeStory, out: Note, *, plain: bool) -> None:
        deadlines = [when if timeout <= 0 else math.nextafter(when + timeout, math.inf) for when, timeout in life.stops]
        if not deadlines:
            deadlines = [math.nextafter(life.drain_deadline, math.inf)]
        due = min(deadlines)
        exact = out.t == due if plain else out.t >= due
        self.judge(exact, f"{out.job} was cancelled at {out.t!r}, due at {due!r}")


class T2_backoff(Checker):
    """A retry waits for at most min(cap, base * 2**n) seconds, or as Retry-After says; n begins anew only after a
    registration that lasted."""

    watches = ("event registered", "event connection_lost")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._attempts: dict[str, int] = {}
        self._registered: dict[str, float] = {}

    def look(self, note: Note) -> None:
        if note.kind == "registered":
            self._registered[note.who] = note.t
        else:
            since = self._registered.pop(note.who, None)
            if since is not None and note.t - since >= LASTING_REGISTRATION:
                self._attempts[note.who] = 0
            attempt = self._attempts.get(note.who, 0)
            self._attempts[note.who] = attempt + 1
            delay = note.data["retry_in"]
            assert isinstance(delay, float | int)
            bound = min(BACKOFF_CAP, BACKOFF_BASE * 2.0**attempt)
            asked = note.data["retry_after"]
            if isinstance(asked, float | int):
                bound = max(bound, float(asked))
            self.judge(0 <= delay <= bound, f"{note.who} waits {delay:g} s at attempt {attempt}, at most {bound:g} s")


class T3_never_early(Checker):
    """Nobody wakes earlier than asked: handlers' sleeps, the answer's deadline, the pause between two connections; and
    a job waits for its room to come back for exactly as long as it may."""

    watches = ("handler returned", "dial", "event connection_lost", "say answer", "event job_ended", "room back")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._retry_at: dict[str, float] = {}

    def look(self, note: Note) -> None:
        if note.what == "handler":
            job = self.history.job(note)
            if job.script.get("do") == "return":
                slept = job.started[0] + float(job.script["seconds"])
                self.judge(note.t == slept, f"{note.job} slept until {note.t!r} instead of {slept!r}")
        elif note.what == "room":
            for life in self.history.lives.values():
                if note.job in life.jobs:
                    self._still_waits(life.jobs[note.job], note)
        elif note.kind == "job_ended":
            self._gave_up(self.history.job(note))
        elif note.what == "event":
            self._retry_at[note.who] = note.t + float(note.data["retry_in"])  # pyright: ignore[reportArgumentType]
        elif note.what == "dial":
            due = self._retry_at.pop(note.who.partition("#")[0], None)
            if due is not None:
                self.judge(note.t == due, f"{note.who} dialled at {note.t!r} instead of {due!r}")
        else:
            job = self.history.job(note)
            unanswered = job.script.get("request") == "never" and not note.data["yes"]
            if unanswered and job.asked_at is not None and job.life.stopping_since > note.t:
                self.judge(note.t == job.asked_at + ANSWER_TIMEOUT, f"{note.job} was given up early")

    def _still_waits(self, job: JobStory, note: Note) -> None:
        if job.plain and job.running:
            due = job.given_up_at
            self.judge(note.t < due, f"{note.job} still waits for its room, due at {due!r}")

    def _gave_up(self, job: JobStory) -> None:
        if NOT_BACK in job.reason and job.last_out is not None:
            due, out = job.given_up_at, job.last_out.t
            exact = out == due if job.plain else out >= due
            self.judge(exact, f"{job.job} gave its room up at {out!r}, due at {due!r}")


class T4_idle_is_idle(Checker):
    """An idle worker wakes only for pings and load samples: the task steps of a lull are counted."""

    watches = ("lull",)

    STEPS: ClassVar[Mapping[str, tuple[int, int]]] = {"trio": (1, 9), "asyncio": (2, 18)}
    """Per load sample, and per ping from the server's timer through every task to the worker's pong and back.  On
    asyncio a step is a handle, so a wake-up by a timer is two."""

    def look(self, note: Note) -> None:
        seconds, workers, steps = (float(note.data[name]) for name in ("seconds", "workers", "steps"))  # pyright: ignore[reportArgumentType]
        sample, ping = self.STEPS[str(note.data["backend"])]
        # One ping more than the time has intervals: one may be under way when the lull begins, and one when it ends.
        bound = workers * (seconds / LOAD_INTERVAL * sample + (seconds / KEEPALIVE_INTERVAL + 1) * ping)
        self.judge(steps <= bound, f"{steps:g} task steps in a lull of {seconds:g} s, {bound:g} allowed")


class T5_fresh_token(Checker):
    """Each connection shows a fresh token: it is valid for a good while from now on, and not for longer than 10 min."""

    watches = ("token",)

    def look(self, note: Note) -> None:
        left = note.data["seconds_left"]
        assert isinstance(left, float | int)
        self.judge(_TOKEN_MARGIN < left <= 600.0, f"{note.who} shows a token that is valid for {left:g} s")


TIME: tuple[type[Checker], ...] = (
    T1_stop_is_exact,
    T2_backoff,
    T3_never_early,
    T4_idle_is_idle,
    T5_fresh_token,
)
