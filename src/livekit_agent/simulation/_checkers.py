"""The promises, as checkers of a trace.

One class per invariant, named after it (``W3`` …) with the promise as its docstring.  ``see`` is called with every note
as it is written, ``finish`` at the end; ``judge`` counts an evaluation and records a violation.  A checker reads notes
and the scenario, nothing else: so a hand-written trace can make it fire, and each one has such a trace
(tests/simulation/test_checkers.py).

Pure: layer 2.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import ClassVar

from ._scenario import Scenario
from ._trace import Note

__all__ = ["CHECKERS", "Checker", "Violation"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise broken."""

    name: str
    promise: str
    t: float
    what: str
    tail: tuple[str, ...] = ()
    """The last notes before it."""


class Checker:
    """Base of all checkers."""

    name: ClassVar[str] = ""

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__.partition("_")[0]

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.evaluated = 0
        self.violations: list[Violation] = []
        self._recent: deque[Note] = deque(maxlen=25)
        self._t = 0.0

    def see(self, note: Note) -> None:
        """Look at a note."""
        self._t = note.t
        self._recent.append(note)
        self.look(note)

    def look(self, note: Note) -> None:
        """What a checker does with a note."""

    def finish(self) -> None:
        """What it does at the end."""

    def judge(self, holds: bool, what: str) -> None:
        """Count an evaluation; record a violation if the promise does not hold."""
        self.evaluated += 1
        if not holds:
            self.violations.append(
                Violation(
                    name=self.name,
                    promise=(type(self).__doc__ or "").strip(),
                    t=self._t,
                    what=what,
                    tail=tuple(note.line() for note in self._recent),
                )
            )


FINAL = ("SUCCESS", "FAILED")


def is_worker(note: Note) -> bool:
    """Whether a worker's end of a connection speaks."""
    return note.who.startswith("w")


def life(who: str) -> str:
    """``w0.2#5`` and ``s:w0.2#5`` belong to the life ``w0.2``."""
    return who.removeprefix("s:").partition("#")[0]


class J8_one_final_status(Checker):
    """Every assigned job ends in exactly one final status on the wire: resends say the same."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self._final: dict[tuple[str, str], tuple[object, object]] = {}

    def look(self, note: Note) -> None:
        if note.what == "say" and note.kind == "job_status" and note.data["status"] in FINAL and is_worker(note):
            key, said = (life(note.who), note.job), (note.data["status"], note.data["error"])
            self.judge(self._final.setdefault(key, said) == said, f"{note.job} said {said} after {self._final[key]}")


CHECKERS: tuple[type[Checker], ...] = (J8_one_final_status,)
