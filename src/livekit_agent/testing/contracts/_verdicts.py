"""What a case can come to, and the table's row."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._lab import Lab

__all__ = ["Broken", "Case", "Differs", "Result", "Verdict"]


class Broken(Exception):
    """The worker did not do what the case asks."""

    output = ""
    """What the worker printed."""


class Differs(Exception):
    """The worker did something sensible, but not what is recommended where the protocol is silent."""


class Verdict(Enum):
    """What a case came to."""

    OK = "ok"
    """The worker did it."""
    FAILED = "FAILED"
    """The worker did not, or something else."""
    DIFFERS = "differs"
    """The protocol is silent here; the worker does it in another way than is recommended."""
    UNSEEN = "unseen"
    """Nothing on the wire tells; the worker's own tests have to."""
    ADAPTER = "adapter"
    """Can be seen only if the worker under test is set up for it, or tells more than it must."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One conformance case."""

    number: int
    title: str
    run: Callable[[Lab], Awaitable[str | None]] | None = None
    """Plays the case; returns a remark, or raises Broken or Differs.  None: not run, see ``why``."""
    verdict: Verdict = Verdict.OK
    """For a case that is not run: UNSEEN or ADAPTER."""
    why: str = ""
    """Why it is not run."""
    seconds: float = 3.0
    """About how long it takes: the long ones begin first."""

    @property
    def group(self) -> str:
        """A to G."""
        return next(letter for letter, last in _LAST.items() if self.number <= last)

    def __str__(self) -> str:
        return f"{self.group}{self.number}"


#: Where each group of the specification ends.
_LAST = {"A": 18, "B": 28, "C": 49, "D": 55, "E": 66, "F": 76, "G": 98}


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a case came to with one worker."""

    case: Case
    verdict: Verdict
    what: str
    """What happened, in a line."""
    seconds: float
    output: str = field(default="", repr=False)
    """For a failed case: the end of what the worker printed."""

    @property
    def ok(self) -> bool:
        """Whether nothing speaks against the worker."""
        return self.verdict is not Verdict.FAILED
