"""What goes wrong under virtual time, and how a stuck program is described.

Pure: the two engines (``_asyncio_loop.py``, the trio half of ``_runtime.py``) collect the facts, this file words them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from .._bounds import DEADLOCK_LINES_MAX
from .._errors import AgentError

__all__ = ["HORIZON", "DeadlockError", "RealWorldError", "TaskLine", "VirtualTimeError", "refuse", "where_suspended"]

HORIZON = 1e9
"""Seconds of virtual time (31 years) behind which a deadline counts as never.

trio has no sign for "everybody waits for ever" under a jumping clock: it simply does nothing.  So a sentinel waits
here, and reaching it means that nobody had a nearer deadline.  The asyncio loop uses the same line, so that both agree.
"""


class VirtualTimeError(AgentError, RuntimeError):
    """The program under test, or the backend below it, does not fit virtual time."""

    code = "VIRTUAL_TIME"
    default_message = "virtual time cannot go on"


class DeadlockError(VirtualTimeError):
    """Every task waits and no deadline is left that could wake one.  The message holds the task tree."""

    code = "VIRTUAL_TIME_DEADLOCK"


class RealWorldError(VirtualTimeError):
    """Something real was asked for under virtual time: a thread, a socket, a resolver, a process, a signal.

    Its duration is not virtual, so the clock would jump past it (trio, silently) or the loop would hang.
    """

    code = "VIRTUAL_TIME_REAL_WORLD"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskLine:
    """One task in a deadlock report."""

    depth: int
    name: str
    where: str


def deadlock(now: float, lines: Iterable[TaskLine]) -> DeadlockError:
    """The error for a program that stands still at ``now``."""
    rows = [f"{'  ' * line.depth}{line.name}: {line.where}" for line in lines]
    tasks = len(rows)
    if tasks > DEADLOCK_LINES_MAX:
        rows[DEADLOCK_LINES_MAX:] = [f"… and {tasks - DEADLOCK_LINES_MAX} more"]
    tree = "\n".join(f"  {row}" for row in rows)
    return DeadlockError(
        f"all {tasks} tasks wait and no deadline is left, at {now} s of virtual time:\n{tree}",
        hint="a task waits for an event nobody will set, or for something real such as a socket",
    )


def refuse(what: str) -> RealWorldError:
    """The error for ``what`` being used under virtual time."""
    return RealWorldError(
        f"{what} under virtual time",
        hint="put it behind a seam and give the test a fake, or run the test in real time",
    )


def where_suspended(coro: Any) -> str:
    """``file:line function`` of the innermost frame that is not the async library's own.

    Walks ``cr_await``; addresses never appear, so the text may enter a trace.
    """
    best = "not started"
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None) or getattr(coro, "ag_frame", None)
        if frame is not None:
            path: str = frame.f_code.co_filename
            if best == "not started" or not _is_library(path):
                best = f"{'/'.join(path.rsplit('/', 2)[-2:])}:{frame.f_lineno} {frame.f_code.co_qualname}"
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None) or getattr(coro, "ag_await", None)
    return best


def _is_library(path: str) -> bool:
    return any(part in path for part in ("/anyio/", "/asyncio/", "/trio/", "/outcome/"))
