"""What happened in a simulation, in order, with a hash: the one thing that verdicts and replays are about.

A trace is a list of :class:`Note` values.  Its hash covers every note and every step of every task (by the task's birth
number); two runs are the same run exactly when their hashes are equal.  Nothing in a note may differ between processes:
no address, no random byte, no repr of a scope.

Lines of JSON are for people and programs that read a trace; they are made when asked for.  What is hashed is the same
values in marshal's second format, which knows no references and so depends on nothing but them: a run writes a thousand
notes, and to hash their lines took an eighth of its time.

Pure: layer 2.
"""

from __future__ import annotations

import hashlib
import json
import marshal
from collections.abc import Callable
from typing import Any, NamedTuple

__all__ = ["Note", "Trace"]

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
    """``say``, ``hear``, ``closed``, ``deliver``, ``fault``, ``job``, ``worker``, ``room``, ``end``, …"""
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
    """Notes, their observers, and the hash."""

    def __init__(self) -> None:
        self.notes: list[Note] = []
        self.steps = 0
        self._observers: list[Callable[[Note], None]] = []
        self._steps = bytearray()
        self._hash = hashlib.sha256()
        self._hashed = 0

    def observe(self, observer: Callable[[Note], None]) -> None:
        """Have ``observer`` told of every note from now on."""
        self._observers.append(observer)

    def note(self, t: float, who: str, what: str, kind: str = "", job: str = "", /, **data: Value) -> Note:
        """Write a note."""
        return self.write(t, who, what, kind, job, data)

    def write(self, t: float, who: str, what: str, kind: str, job: str, data: dict[str, Value]) -> Note:
        """The same, ``data`` kept as it is given."""
        note = Note(t, who, what, kind, job, data)
        self.notes.append(note)
        for observer in self._observers:
            observer(note)
        return note

    def step(self, birth: int) -> None:
        """A task ran one step."""
        self.steps += 1
        self._steps += birth.to_bytes(4, "little")
        if len(self._steps) > 65_536:
            self._fold()

    def _fold(self) -> None:
        self._hash.update(self._steps)
        self._steps.clear()
        self._hash.update(marshal.dumps([tuple(note) for note in self.notes[self._hashed :]], _MARSHAL_FORMAT))
        self._hashed = len(self.notes)

    def digest(self) -> str:
        """The hash so far, as 16 hex digits."""
        self._fold()
        return self._hash.hexdigest()[:16]

    def tail(self, count: int = 30) -> list[str]:
        """The last notes, as lines."""
        return [note.line() for note in self.notes[-count:]]
