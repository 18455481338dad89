"""The server's events for whoever wants to look: bounded, so that a slow observer never slows the server."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import anyio

from .._bounds import SERVER_EVENTS_MAX
from ._events import DispatchEvent

__all__ = ["Feed"]

E = TypeVar("E", bound=DispatchEvent)


class Feed(Generic[E]):
    """Events from the moment of its making on; an async iterator that ends when the server, or ``close``, ends it.

    Cancelling an iteration loses nothing.  Beyond its bound the oldest event is dropped and counted in ``dropped``.
    """

    def __init__(self, types: tuple[type[E], ...], on_close: Callable[[Feed[E]], None]) -> None:
        self._types = types
        self._on_close = on_close
        self._events: deque[E] = deque()
        self._ended = False
        self._changed = anyio.Event()
        self.dropped = 0

    def offer(self, event: DispatchEvent) -> None:
        """Take an event in, if it is of a kind that was asked for."""
        if not isinstance(event, self._types):
            return
        if len(self._events) >= SERVER_EVENTS_MAX:
            self._events.popleft()
            self.dropped += 1
        self._events.append(event)
        self._wake()

    def close(self) -> None:
        """No more; what is queued can still be taken."""
        if not self._ended:
            self._ended = True
            self._on_close(self)
            self._wake()

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        await anyio.lowlevel.checkpoint()
        while not self._events:
            if self._ended:
                raise StopAsyncIteration
            await self._changed.wait()
        return self._events.popleft()

    def __enter__(self) -> Feed[E]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()
