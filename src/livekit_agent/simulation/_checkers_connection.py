"""W12 to W20: how a connection is kept, judged, bounded and ended, and that it can be run again.  Pure: layer 2."""

from __future__ import annotations

from .._bounds import (
    CLOSE_TIMEOUT,
    DEAD_AFTER_SILENCE,
    MESSAGE_BYTES_MAX,
    OUTBOX_BYTES_MAX,
    READ_BYTES_MAX,
    WRITE_TIMEOUT,
)
from ._frames import WINDOW
from ._judge import Checker, Jury, by_worker
from ._trace import Note, Value

__all__ = ["CONNECTION"]

_DOCUMENTED_ERRORS = (
    "",
    "AuthenticationError",
    "ConnectionLostError",
    "HandshakeError",
    "LocalProtocolError",
    "RemoteProtocolError",
)
"""What may end a connection; see docs/errors."""


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
        if not by_worker(note):
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
        if not by_worker(note):
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
            self.judge(note.data["error"] in _DOCUMENTED_ERRORS, f"{note.who} ended with {note.data['error']}")
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
        elif note.what == "closed" and by_worker(note) and note.who in self._harmless:
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


CONNECTION: tuple[type[Checker], ...] = (
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
