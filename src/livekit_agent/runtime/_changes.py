"""Waiting for a condition that somebody else makes true.

The condition is looked at by whoever changes something, and its task is woken only when it holds: a worker's own waits
are about its end, and would otherwise cost a task switch at every job's beginning and end.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

__all__ = ["Changes"]


class Changes:
    """A place to wait, and to say that something changed."""

    def __init__(self) -> None:
        self._waits: dict[int, tuple[Callable[[], bool], anyio.Event]] = {}
        self._serial = 0

    def notify(self) -> None:
        """Something changed that a wait may be about."""
        for condition, woken in self._waits.values():
            if condition():
                woken.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Return once ``condition`` holds: seen by ``notify``, and still true when this task gets to run.

        Cancelling is safe.
        """
        while not condition():
            self._serial += 1
            serial = self._serial
            woken = anyio.Event()
            self._waits[serial] = condition, woken
            try:
                await woken.wait()
            finally:
                del self._waits[serial]
