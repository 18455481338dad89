"""Conditions that somebody waits for.

A condition is a plain function that looks at the room and returns what it has found.  It is looked at when the wait
begins, so nothing that is true already is missed, and after each event of the library, in the same step in which the
model changed, so nothing that is true for a moment only is missed either.  Nothing is queued: a wait costs one entry,
however long it lasts and whatever happens meanwhile.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

__all__ = ["Watches"]

T = TypeVar("T")


class _Watch(Generic[T]):
    def __init__(self, condition: Callable[[], T | None]) -> None:
        self._condition = condition
        self.found: T | None = None
        self.error: Exception | None = None
        self.over = anyio.Event()

    def look(self) -> None:
        """Once it is over it stays so: what was found is what the waiter gets, however late it runs."""
        if self.over.is_set():
            return
        try:
            self.found = self._condition()
        except Exception as exc:
            # The boundary to the waiter's own code, which runs here in the room's step: its error is the waiter's, and
            # must not end the room.
            self.error = exc
        if self.found or self.error is not None:
            self.over.set()


class Watches:
    """The waits of one room."""

    def __init__(self) -> None:
        self._watches: dict[_Watch[Any], None] = {}
        self._closed: Callable[[], Exception] | None = None

    def __len__(self) -> int:
        return len(self._watches)

    def look(self) -> None:
        """Something may have changed."""
        for watch in list(self._watches):
            watch.look()

    def close(self, closed: Callable[[], Exception]) -> None:
        """Nothing will change any more: whoever still waits gets an error."""
        self._closed = closed
        for watch in list(self._watches):
            watch.look()
            if not watch.over.is_set():
                watch.error = closed()
                watch.over.set()

    async def until(self, condition: Callable[[], T | None], timeout: float = math.inf) -> T:
        """What ``condition`` returns, as soon as that is true.

        Raises what it raises, :class:`TimeoutError`, and the room's error when the room ends first.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        watch = _Watch(condition)
        watch.look()
        if not watch.over.is_set() and self._closed is not None:
            raise self._closed()
        self._watches[watch] = None
        try:
            with anyio.fail_after(None if math.isinf(timeout) else timeout):
                await watch.over.wait()
        finally:
            del self._watches[watch]
        if watch.error is not None:
            raise watch.error
        assert watch.found is not None
        return watch.found
