"""W1 to W20: what is said on the wire, by the worker above all.  Pure: layer 2."""

from __future__ import annotations

from .._bounds import (
    ANSWER_TIMEOUT,
    ASSIGNMENT_TIMEOUT,
    CLOSE_TIMEOUT,
    DEAD_AFTER_SILENCE,
    MESSAGE_BYTES_MAX,
    OUTBOX_BYTES_MAX,
    READ_BYTES_MAX,
    WRITE_TIMEOUT,
)
from ._frames import WINDOW
from ._history import FINAL
from ._judge import Checker, Jury
from ._trace import Note, Value

__all__ = ["WIRE"]

DOCUMENTED_ERRORS = (
    "",
    "AuthenticationError",
    "ConnectionLostError",
    "HandshakeError",
    "LocalProtocolError",
    "RemoteProtocolError",
)
"""What may end a connection; see docs/errors."""


def _worker_end(note: Note) -> bool:
    return not note.who.startswith("s:")


class W1_register_first(Checker):
    """The first message on each connection is RegisterWorker, and nothing else is said before its reply."""

    watches = ("say",)

    def look(self, note: Note) -> None:
        if not _worker_end(note):
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
        elif not _worker_end(note):
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
        if not _worker_end(note):
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
            if _worker_end(note) and not note.data.get("unheard"):
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
            if _worker_end(note):
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
        if not _worker_end(note):
            return
        job = self.history.job(note)
        said = [str(earlier.data["status"]) for earlier in job.said]
        if note.data["status"] == "RUNNING":
            self.judge(said.count("RUNNING") == 1, f"{note.job} said RUNNING again")
        elif len(said) == 1:
            silent = job.run_at is not None and job.registered_while_running
            self.judge(not silent, f"{note.job} ran and was never said to")


class W8_one_final_status(Checker):
    """Every assigned job's one final status reaches a server, unless the worker's report names it as unproven; what no
    server has heard is said again on each new connection."""

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
            for job in self.history.life(note.who).jobs.values():
                if job.assigned_at is not None and job.job not in unproven:
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
        if not _worker_end(note):
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
        if not _worker_end(note):
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
        if not _worker_end(note):
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


class W12_heartbeat(Checker):
    """A ping is answered at once if the peer reads; a connection that is silent for 30 s is given up."""

    watches = ("deliver down", "frame pong", "closed", "hear ping", "say pong")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._pings: dict[str, list[float]] = {}
        self._worker_pings: dict[str, float] = {}

    def look(self, note: Note) -> None:
        if note.what == "deliver":
            self._on_delivery(note, str(note.data["connection"]))
        elif note.what == "frame":
            if due := self._pings.get(note.who):
                self.judge(note.t - due.pop(0) <= WRITE_TIMEOUT, f"{note.who} answered a ping too late")
        elif note.what == "closed":
            self._on_closed(note)
        elif note.kind == "ping":
            if note.who.startswith("s:"):
                self._worker_pings[note.who] = note.t
        elif note.who.startswith("s:"):
            asked = self._worker_pings.pop(note.who, None)
            self.judge(asked == note.t, f"the server's pong on {note.who} did not answer a ping of that instant")

    def _on_delivery(self, note: Note, who: str) -> None:
        connection = self.history.connection(who)
        for asked in self._pings.get(who, ()):
            if note.t > asked + WRITE_TIMEOUT and connection.talking:
                self.judge(False, f"{who} did not answer a ping")
        kinds = note.data.get("kinds", ())
        assert isinstance(kinds, tuple)
        if connection.closing_at is None and connection.closed_at is None:
            self._pings.setdefault(who, []).extend(note.t for kind in kinds if kind == "ping")

    def _on_closed(self, note: Note) -> None:
        if not _worker_end(note):
            return
        self._pings.pop(note.who, None)
        connection = self.history.connection(note.who)
        if connection.registered_at is not None:
            due = max(connection.last_delivery, connection.registered_at) + DEAD_AFTER_SILENCE
            if connection.closing_at is not None and connection.closing_at <= due:
                due = max(due, connection.closing_at + CLOSE_TIMEOUT)
            self.judge(note.t <= due, f"{note.who} lived on until {note.t:g}, in silence; due was {due:g}")


class W13_honest_load(Checker):
    """UpdateWorkerStatus has a load in [0, 1], counts the jobs that hold a place, says FULL exactly when no job is
    wanted, and is not repeated."""

    watches = ("say worker_status",)

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._last: dict[str, Note] = {}

    def look(self, note: Note) -> None:
        if not _worker_end(note):
            return
        life, data = self.history.life(note.who), note.data
        load, count = data["load"], data["count"]
        assert isinstance(load, float | int)
        assert isinstance(count, int)
        self.judge(0 <= load <= 1, f"load {load}")
        # A stuck job's place is freed when its task has ended: after its handler's last word come late clean-ups.
        leaving = sum(job.out[-1].t == note.t or len(job.cleanups) > len(job.cleaned) for job in life.late.values())
        honest = life.places <= count <= life.places + leaving
        self.judge(honest, f"{count} jobs counted, {life.places} hold a place")
        wanted = count < life.max_jobs and not data["draining"] and not life.refused
        self.judge(data["full"] is (not wanted) or load >= 1, f"full is {data['full']} with {count} of {life.max_jobs}")
        last = self._last.get(note.who)
        if last is not None:
            self.judge(last.data != data, f"{note.who} repeated its standing")
        self._last[note.who] = note


class _Replay(Checker):
    """Base: what the replays of recorded connections found (``_recorder.py``)."""

    watches = ("replay",)
    how = ""

    def look(self, note: Note) -> None:
        if note.kind == self.how:
            self.judge(note.data["same"] is True, f"{note.who} differs: {note.data['difference']}")


class W14_any_split(_Replay):
    """Any split of the inbound bytes gives the same outputs: recorded connections are run again, cut otherwise."""

    how = "split"


class W15_one_documented_error(Checker):
    """Whatever comes in advances the connection or ends it with one documented error; then it takes no more."""

    watches = ("closed", "say", "hear", "refuses", "crash")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._closed: dict[str, None] = {}

    def look(self, note: Note) -> None:
        if note.what == "closed":
            self.judge(note.data["error"] in DOCUMENTED_ERRORS, f"{note.who} ended with {note.data['error']}")
            self.judge(note.who not in self._closed, f"{note.who} ended twice")
            self._closed[note.who] = None
        elif note.what == "refuses":
            self.judge(note.data["error"] == "LocalProtocolError", f"{note.who} takes input after its end")
        elif note.what == "crash":
            self.judge(False, f"{note.kind} came out of the run: {note.data.get('text', '')}")
        elif note.who in self._closed:
            self.judge(False, f"{note.who} went on after its end")


class W16_unknown_is_skipped(Checker):
    """A message of an unknown kind, with an unknown enum, or empty, is skipped."""

    watches = ("inject", "skip", "closed")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._harmless: dict[str, list[str]] = {}
        self._harmful: dict[str, None] = {}

    def look(self, note: Note) -> None:
        if note.what == "inject":
            label = str(note.data["connection"])
            if note.data["harmless"]:
                self._harmless.setdefault(label, []).append(note.kind)
            else:
                self._harmful[label] = None
        elif note.what == "skip" and self._harmless.get(note.who):
            self.judge(True, "")
        elif note.what == "closed" and _worker_end(note) and note.who in self._harmless:
            fault = note.data["error"] == "RemoteProtocolError" and note.who not in self._harmful
            self.judge(not fault, f"{note.who} ended over {self._harmless[note.who]}")


class W17_bounded_buffers(Checker):
    """No buffer grows beyond its bound and one read."""

    watches = ("buffers",)

    def look(self, note: Note) -> None:
        bounds = {
            "inbound": MESSAGE_BYTES_MAX + READ_BYTES_MAX,
            "outbox": OUTBOX_BYTES_MAX,
            "line": WINDOW + OUTBOX_BYTES_MAX,
        }
        for name, bound in bounds.items():
            if name in note.data:
                size = note.data[name]
                assert isinstance(size, int)
                self.judge(size <= bound, f"{note.who}: {name} held {size} bytes, the bound is {bound}")


class W18_close_is_last(Checker):
    """No frame follows a Close from the end that sent it, and a Close is answered."""

    watches = ("frame", "deliver", "broken")

    def __init__(self, jury: Jury) -> None:
        super().__init__(jury)
        self._sent: dict[str, None] = {}
        self._owed: dict[str, float] = {}
        self._broken: dict[str, None] = {}
        self._left: dict[str, None] = {}

    def look(self, note: Note) -> None:
        if note.what == "frame":
            self.judge(note.who not in self._sent, f"{note.who} sent a {note.kind} after its Close")
            if note.kind == "close":
                self._sent[note.who] = None
                if (asked := self._owed.pop(note.who, None)) is not None:
                    self.judge(note.t - asked <= WRITE_TIMEOUT, f"{note.who} answered a Close too late")
        elif note.what == "deliver":
            kinds = note.data.get("kinds", ())
            assert isinstance(kinds, tuple)
            if "close" in kinds:
                label = str(note.data["connection"])
                who = label if note.kind == "down" else f"s:{label}"
                if who not in self._sent and self._listens(who):
                    self._owed[who] = note.t
        elif note.kind == "left":
            end = str(note.data["end"])
            self._left[end] = None
            self._owed.pop(f"s:{end}" if not end.startswith("s:") else end[2:], None)  # nobody there to be answered
            if self._owed.pop(end, None) is not None:
                self.judge(False, f"{end} left without answering a Close")
        else:
            label = str(note.data["connection"])
            self._broken[label] = None
            self._owed.pop(label, None)
            self._owed.pop(f"s:{label}", None)

    def _listens(self, who: str) -> bool:
        label = who.removeprefix("s:")
        peer = label if who.startswith("s:") else f"s:{label}"
        if label in self._broken or peer in self._left:
            return False
        return who.startswith("s:") or self.history.connection(who).closed_at is None

    def finish(self) -> None:
        for who in self._owed:
            self.judge(False, f"{who} did not answer a Close")


class W19_same_again(_Replay):
    """The core does no I/O and reads no clock: recorded inputs, run a second time, give the same outputs."""

    how = "twice"


class W20_stable_messages(Checker):
    """Encoding and decoding change nothing: the server hears exactly what the worker said, in order."""

    watches = ("hear", "unstable")

    def look(self, note: Note) -> None:
        if note.what == "unstable":
            self.judge(False, f"{note.kind} is not the same after decoding and encoding")
        elif note.who.startswith("s:"):
            connection = self.history.connection(note.who)
            number = connection.heard_by_server - 1
            said = connection.said[number] if number < len(connection.said) else None
            same = said is not None and (said.kind, said.job) == (note.kind, note.job) and said.data == _plain(note)
            self.judge(same, "" if same else f"heard {note.line()}, said was {said and said.line()}")


def _plain(note: Note) -> dict[str, Value]:
    if "unheard" not in note.data:
        return note.data
    return {name: value for name, value in note.data.items() if name != "unheard"}


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
    W12_heartbeat,
    W13_honest_load,
    W14_any_split,
    W15_one_documented_error,
    W16_unknown_is_skipped,
    W17_bounded_buffers,
    W18_close_is_last,
    W19_same_again,
    W20_stable_messages,
)
