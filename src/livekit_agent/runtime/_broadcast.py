"""Worker events to whoever listens.

Each listener has a buffer of its own, bounded; when it is full the oldest event is dropped and counted: a slow observer
must not slow the worker.  Publishing is synchronous and never blocks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import anyio

from .._bounds import WORKER_EVENTS_MAX

__all__ = ["Broadcast", "Listener"]

E = TypeVar("E")


class Listener(Generic[E]):
    """An async iterator over events; ends when the source closes."""

    def __init__(self, source: Broadcast, types: tuple[type[E], ...]) -> None:
        self._source = source
        self._types = types
        self._queue: deque[E] = deque()
        self._wake = anyio.Event()
        self.dropped = 0
        """Events lost to the bound."""

    def offer(self, event: object) -> None:
        """Take an event if it is of a wanted type."""
        if not isinstance(event, self._types):
            return
        if len(self._queue) >= WORKER_EVENTS_MAX:
            self._queue.popleft()
            self.dropped += 1
        self._queue.append(event)
        self._wake.set()

    def wake(self) -> None:
        """Look again: the source has closed."""
        self._wake.set()

    def close(self) -> None:
        """Listen no more."""
        self._source.forget(self)

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        """The next event.  Cancelling is safe: nothing is lost."""
        while not self._queue:
            if self._source.closed:
                raise StopAsyncIteration
            self._wake = anyio.Event()
            await self._wake.wait()
        await anyio.lowlevel.checkpoint()
        return self._queue.popleft()


class Broadcast:
    """The source."""

    def __init__(self) -> None:
        self._listeners: dict[int, Listener[object]] = {}
        self._observers: list[Callable[[object], None]] = []
        self.closed = False

    def listen(self, types: tuple[type[E], ...]) -> Listener[E]:
        """A new listener, from now on."""
        listener = Listener[E](self, types)
        self._listeners[id(listener)] = listener  # pyright: ignore[reportArgumentType] - only offered objects
        return listener

    def observe(self, observer: Callable[[object], None]) -> None:
        """Tell ``observer`` of every event, synchronously.  It must not raise or block."""
        self._observers.append(observer)

    def publish(self, event: object) -> None:
        """Hand an event to every listener."""
        for observer in self._observers:
            observer(event)
        for listener in list(self._listeners.values()):
            listener.offer(event)

    def forget(self, listener: Listener[E]) -> None:
        """Drop a listener."""
        self._listeners.pop(id(listener), None)

    def close(self) -> None:
        """No more events; listeners end after what they hold."""
        self.closed = True
        for listener in list(self._listeners.values()):
            listener.wake()
