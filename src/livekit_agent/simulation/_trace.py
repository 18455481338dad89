"""What happened in a simulation, in order, with a hash: the one thing that verdicts and replays are about.

A trace is a list of :class:`Note` values, and between them the steps of all tasks (each by the task's birth number).
Its hash covers both, in order; two runs are the same run exactly when their hashes are equal.  Nothing in a note may
differ between processes: no address, no random byte, no repr of a scope.

What happened is *written*, and shown to the observers.  What was drawn, and how the run was judged in the end, is only
*kept*: no promise is about it, and a violation's last notes are to tell what happened.

Lines of JSON are for people and programs that read a trace; they are made when asked for.  What is hashed is the same
values in marshal's second format, which knows no references and so depends on nothing but them: a run writes a thousand
notes, and to hash their lines took an eighth of its time.

Pure: layer 2.
"""

from __future__ import annotations

import hashlib
import json
import marshal
import random
import struct
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, cast

__all__ = ["Note", "NotedRandom", "Trace"]

Value = str | int | float | bool | None | tuple[str, ...]

_MARSHAL_FORMAT = 2
_to_json = json.JSONEncoder(separators=(",", ":")).encode


class Note(NamedTuple):
    """One thing that happened.  (A tuple because there are so many: it is made four times as fast as a dataclass.)"""

    t: float
    """Virtual seconds."""
    who: str
    """Whose doing: ``w0.1`` a worker's first life, ``w0.1#2`` its second connection, ``s:w0.1#2`` the server's end of
    it, ``h:AJ_x`` a handler, ``net``, ``world``."""
    what: str
    """``say``, ``hear``, ``closed``, ``deliver``, ``fault``, ``job``, ``worker``, ``room``, ``draw``, ``verdict``, …"""
    kind: str
    """What exactly: a message kind, a fault's kind, a stage; empty for none."""
    job: str
    data: dict[str, Value]

    def line(self) -> str:
        """The note as one line of JSON."""
        row: dict[str, Any] = {"t": self.t, "who": self.who, "what": self.what}
        if self.kind:
            row["kind"] = self.kind
        if self.job:
            row["job"] = self.job
        return _to_json({**row, **self.data})


class Trace:
    """Notes and steps, the notes' observers, and the hash."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.steps = 0
        self._observers: list[Callable[[Note], None]] = []
        self._walk = bytearray()
        """The steps since the last note, four bytes each."""
        self._walks: dict[int, bytes] = {}
        """The steps just before a note, by the note's index."""
        self._drawn: list[float] = []
        self._drawn_of = ("", 0.0)

    def observe(self, observer: Callable[[Note], None]) -> None:
        """Have ``observer`` told of every note that is written from now on."""
        self._observers.append(observer)

    def note(self, t: float, who: str, what: str, kind: str = "", job: str = "", /, **data: Value) -> Note:
        """Write a note."""
        return self.write(t, who, what, kind, job, data)

    def write(self, t: float, who: str, what: str, kind: str, job: str, data: dict[str, Value]) -> Note:
        """The same, ``data`` kept as it is given."""
        note = Note(t, who, what, kind, job, data)
        self.keep(note)
        for observer in self._observers:
            observer(note)
        return note

    def draw(self, t: float, purpose: str, value: float) -> None:
        """A number was drawn.  Those of one purpose that nothing comes between are one note: an id takes twelve."""
        if self._drawn and self._drawn_of != (purpose, t):
            self._keep_drawn()
        self._drawn_of = purpose, t
        self._drawn.append(value)

    def _keep_drawn(self) -> None:
        values, self._drawn = tuple(self._drawn), []
        purpose, t = self._drawn_of
        self.keep(Note(t, "chance", "draw", purpose, "", {"values": cast("Value", values)}))

    def keep(self, note: Note) -> None:
        """Take a note in and show it to nobody."""
        if self._drawn:
            self._keep_drawn()
        if self._walk:
            self._walks[len(self.notes)] = bytes(self._walk)
            self._walk.clear()
        self.notes.append(note)

    def step(self, birth: int) -> None:
        """A task ran one step."""
        if self._drawn:
            self._keep_drawn()
        self.steps += 1
        self._walk += birth.to_bytes(4, "little")

    def digest(self) -> str:
        """The hash so far, as 16 hex digits."""
        if self._drawn:
            self._keep_drawn()
        rows = [tuple(note) for note in self.notes]
        walks = [*self._walks.items(), (len(rows), bytes(self._walk))]
        return hashlib.sha256(marshal.dumps((rows, walks), _MARSHAL_FORMAT)).hexdigest()[:16]

    def lines(self) -> Iterator[str]:
        """All of it as lines of JSON; the steps between two notes are one line, at the time of the first."""
        if self._drawn:
            self._keep_drawn()
        t = 0.0
        for index, note in enumerate(self.notes):
            if index in self._walks:
                yield _steps(t, self._walks[index])
            t = note.t
            yield note.line()
        if self._walk:
            yield _steps(t, self._walk)


def _steps(t: float, walk: bytes | bytearray) -> str:
    births = [birth for (birth,) in struct.iter_unpack("<I", walk)]
    return _to_json({"t": t, "who": "scheduler", "what": "steps", "tasks": births})


_random, _getrandbits = random.Random.random, random.Random.getrandbits  # super() took half of a draw's time


class NotedRandom(random.Random):
    """The generator of one purpose: the same numbers as ``random.Random``, each told to ``told`` as it is drawn."""

    told: Callable[[float], object]

    def random(self) -> float:
        """As the base class."""
        value = _random(self)
        self.told(value)
        return value

    def getrandbits(self, k: int, /) -> int:
        """As the base class."""
        value = _getrandbits(self, k)
        self.told(value)
        return value
