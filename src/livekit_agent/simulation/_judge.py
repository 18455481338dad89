"""What all checkers share: the base class, what a violation is, and the jury that shows them the trace.

A checker is one class, named after its invariant (``W3_…``), with the promise as its docstring.  The jury calls
``look`` with every note that it watches and ``finish`` at the end; ``judge`` counts an evaluation and records a
violation.  It reads notes and the stories told from them (``_history.py``), nothing else: so a hand-written trace can
make each one fire (tests/simulation/test_checkers.py).

Pure: layer 2.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from .._bounds import VIOLATION_NOTES_MAX
from ._history import History
from ._scenario import Scenario
from ._trace import Note

__all__ = ["Checker", "Jury", "Violation", "by_worker"]


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
    """The invariant's name, as in docs: ``W3``."""
    watches: ClassVar[tuple[str, ...]] = ()
    """The notes it wants to see: ``say`` for all of that ``what``, ``say answer`` for those of one kind."""

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__.partition("_")[0]

    def __init__(self, jury: Jury) -> None:
        self.jury = jury
        self.history = jury.history
        self.scenario = jury.history.scenario
        self.evaluated = 0
        self.violations: list[Violation] = []

    def look(self, note: Note) -> None:
        """What a checker does with a note.  The history knows the note already."""

    def finish(self) -> None:
        """What it does at the end."""

    def judge(self, holds: bool, what: str) -> None:
        """Count an evaluation; record a violation if the promise does not hold."""
        self.evaluated += 1
        if not holds:
            self.violations.append(
                Violation(
                    name=self.name,
                    promise=" ".join((type(self).__doc__ or "").split()),
                    t=self.history.now,
                    what=what,
                    tail=self.jury.tail(),
                )
            )


class Jury:
    """All checkers of a run."""

    def __init__(self, scenario: Scenario, checkers: Iterable[type[Checker]]) -> None:
        self.history = History(scenario)
        self._recent: deque[Note] = deque(maxlen=VIOLATION_NOTES_MAX)
        self.checkers = [checker(self) for checker in checkers]
        self._looks: dict[tuple[str, str], tuple[Callable[[Note], None], ...]] = {}
        """Who looks at a note, by its ``what`` and kind; filled as they come."""

    def see(self, note: Note) -> None:
        """Look at a note."""
        self._recent.append(note)
        self.history.see(note)
        key = note.what, note.kind
        looks = self._looks.get(key)
        if looks is None:
            looks = self._looks[key] = self._who_watches(*key)
        for look in looks:
            look(note)

    def _who_watches(self, what: str, kind: str) -> tuple[Callable[[Note], None], ...]:
        names = (what, f"{what} {kind}")
        return tuple(checker.look for checker in self.checkers if any(name in checker.watches for name in names))

    def finish(self) -> None:
        """Nothing more comes."""
        for checker in self.checkers:
            checker.finish()

    def tail(self) -> tuple[str, ...]:
        """The last notes, as lines."""
        return tuple(note.line() for note in self._recent)

    @property
    def violations(self) -> Sequence[Violation]:
        """Everything broken, invariant by invariant."""
        return [violation for checker in self.checkers for violation in checker.violations]


def by_worker(note: Note) -> bool:
    """Whether it is of the worker's end of a connection, not of the server's."""
    return not note.who.startswith("s:")
