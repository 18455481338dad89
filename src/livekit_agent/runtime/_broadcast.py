"""Worker events to whoever listens.

Each listener has a buffer of its own, bounded; when it is full the oldest event is dropped and counted: a slow observer
must not slow the worker.  Publishing is synchronous and never blocks.  The source holds its listeners weakly: a loop
over events that was left by ``break`` must not go on filling a buffer nobody will read.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, TypeVar

import anyio
import anyio.lowlevel

from .._bounds import WORKER_EVENTS_MAX

__all__ = ["Broadcast", "Listener"]

E = TypeVar("E")


class Listener(Generic[E]):
    """An async iterator over events; ends when the source closes."""

    def __init__(self, source: Broadcast, types: tuple[type[E], ...]) -> None:
        self.number = 0
        self._source = source
        self._types = types
        self._queue: deque[E] = deque()
        self._wake = anyio.Event()
        self._closed = False
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
        """Listen no more; who waits for an event is told that there will be none."""
        self._closed = True
        self._queue.clear()
        self._source.forget(self)
        self._wake.set()

    def __aiter__(self) -> AsyncIterator[E]:
        return self

    async def __anext__(self) -> E:
        """The next event.  Cancelling is safe: nothing is lost."""
        await anyio.lowlevel.checkpoint()
        while not self._queue:
            if self._closed or self._source.closed:
                raise StopAsyncIteration
            if self._wake.is_set():
                self._wake = anyio.Event()
            # No checkpoint between the look and the wait: nothing can be missed.
            await self._wake.wait()
        return self._queue.popleft()


class Broadcast:
    """The source."""

    def __init__(self) -> None:
        # By number, so in the order in which they came.
        self._listeners: weakref.WeakValueDictionary[int, Listener[object]] = weakref.WeakValueDictionary()
        self._count = 0
        self._observers: list[Callable[[object], None]] = []
        self.closed = False

    @property
    def listeners(self) -> int:
        """How many there are."""
        return len(self._listeners)

    def listen(self, types: tuple[type[E], ...]) -> Listener[E]:
        """A new listener, from now on."""
        listener = Listener[E](self, types)
        self._count += 1
        listener.number = self._count
        self._listeners[self._count] = listener  # pyright: ignore[reportArgumentType] - only offered objects
        return listener

    def observe(self, observer: Callable[[object], None]) -> None:
        """Tell ``observer`` of every event, synchronously.  It must not raise or block."""
        self._observers.append(observer)

    def publish(self, event: object) -> None:
        """Hand an event to every listener."""
        for observer in self._observers:
            observer(event)
        if self._listeners:
            for listener in list(self._listeners.values()):
                listener.offer(event)

    def forget(self, listener: Listener[E]) -> None:
        """Drop a listener."""
        self._listeners.pop(listener.number, None)

    def close(self) -> None:
        """No more events; listeners end after what they hold."""
        self.closed = True
        for listener in list(self._listeners.values()):
            listener.wake()
