"""How the one consumer of a stream waits for more.

Whoever has something for it rings; a second task that would wait is refused, because one of the two would go without.
There is no checkpoint between a consumer's look at what there is and its wait, so nothing can slip in between.
"""

from __future__ import annotations

import anyio

__all__ = ["Doorbell"]


class Doorbell:
    """One task at a time waits at it."""

    __slots__ = ("_action", "_rung")

    def __init__(self, action: str) -> None:
        self._action = action
        """What the waiting task does, for the one that comes second: "reading from"."""
        self._rung: anyio.Event | None = None

    def ring(self) -> None:
        """There is something new.  Nothing happens while nobody waits."""
        if self._rung is not None:
            self._rung.set()

    async def wait(self) -> None:
        """Until somebody rings; :class:`anyio.BusyResourceError` if another task waits already."""
        if self._rung is not None:
            raise anyio.BusyResourceError(self._action)
        self._rung = anyio.Event()
        try:
            await self._rung.wait()
        finally:
            self._rung = None
