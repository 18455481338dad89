"""A consumer's own queue of room events.

Each subscription has its own bounds, so a slow consumer harms nobody else.  Two kinds of event share a queue in order:
*droppable* ones (data, speakers, quality) lose the oldest when there are too many, and are counted; *lifecycle* ones
(joins, leaves, tracks, the end) are never lost: too many of them end the subscription with an error, because a picture
of the room with a hole in it would be wrong for ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, TypeVar, cast

import anyio.lowlevel

from .._bounds import ROOM_EVENTS_MAX, ROOM_LIFECYCLE_EVENTS_MAX
from .._errors import ResourceExhaustedError
from ..events import RoomEvent
from ._doorbell import Doorbell

__all__ = ["Subscription"]

E = TypeVar("E", bound=RoomEvent)


class Subscription(Generic[E]):
    """Room events from the moment it was made; iterate with ``async for``.

    Ends after :class:`~livekit_agent.events.Disconnected`, or when closed.  Cancelling a wait loses no event.
    For one consumer; close it (or leave its ``with`` block) when done.  The room does not keep it: one that is left
    half way, in an ``async for`` left by ``break``, is forgotten with what waits in it.
    """

    def __init__(
        self, types: tuple[type[RoomEvent], ...], on_close: Callable[[Subscription[Any]], None], *, ended: bool = False
    ) -> None:
        self._types = types
        self._on_close = on_close
        # (sequence, event): two queues, merged by sequence when read, so that dropping the oldest is O(1).
        self._kept: deque[tuple[int, E]] = deque()
        self._droppable: deque[tuple[int, E]] = deque()
        self._sequence = 0
        self._dropped = 0
        self._ended = ended
        self._overflowed = False
        self._bell = Doorbell("waiting on")
        self.on_overflow: Callable[[], object] | None = None
        """Called, synchronously, when lifecycle events overflow: the consumer may be too busy ever to look again."""

    @property
    def dropped(self) -> int:
        """How many events were lost to the bound."""
        return self._dropped

    def __len__(self) -> int:
        """How many events wait."""
        return len(self._kept) + len(self._droppable)

    def __repr__(self) -> str:
        kinds = ", ".join(kind.__name__ for kind in self._types) or "everything"
        return f"<Subscription to {kinds}: {len(self)} waiting, {self._dropped} dropped{', ended' * self._ended}>"

    # --- the room's side: synchronous, in the loop ---------------------------------------------------------------

    def put(self, happened: RoomEvent) -> None:
        """Queue an event if it is one of ours."""
        if self._ended or (self._types and not isinstance(happened, self._types)):
            return
        event = cast("E", happened)
        self._sequence += 1
        if event.droppable:
            self._droppable.append((self._sequence, event))
            if len(self._droppable) > ROOM_EVENTS_MAX:
                self._droppable.popleft()
                self._dropped += 1
        elif len(self._kept) >= ROOM_LIFECYCLE_EVENTS_MAX:
            self._overflowed = True
            self.end()
            if self.on_overflow is not None:
                self.on_overflow()
            return
        else:
            self._kept.append((self._sequence, event))
        self._bell.ring()

    def end(self) -> None:
        """Nothing more will come; what waits can still be read."""
        self._ended = True
        self._on_close(self)
        self._bell.ring()

    # --- the consumer's side -------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop, and forget what waits.  Idempotent."""
        self._kept.clear()
        self._droppable.clear()
        self._overflowed = False
        if not self._ended:
            self.end()

    def next_nowait(self) -> E | None:
        """The next event that already waits, else None."""
        if self._kept and (not self._droppable or self._kept[0][0] < self._droppable[0][0]):
            return self._kept.popleft()[1]
        return self._droppable.popleft()[1] if self._droppable else None

    def __aiter__(self) -> Subscription[E]:
        return self

    async def __anext__(self) -> E:
        await anyio.lowlevel.checkpoint()
        while True:
            event = self.next_nowait()
            if event is not None:
                return event
            if self._overflowed:
                self._overflowed = False
                raise ResourceExhaustedError(
                    f"{ROOM_LIFECYCLE_EVENTS_MAX} room events were not consumed",
                    resource="room_events",
                    used=ROOM_LIFECYCLE_EVENTS_MAX,
                    limit=ROOM_LIFECYCLE_EVENTS_MAX,
                    hint="a callback or an `async for` over the room's events is too slow or stuck",
                )
            if self._ended:
                raise StopAsyncIteration
            await self._bell.wait()

    def __enter__(self) -> Subscription[E]:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    async def aclose(self) -> None:
        """As :meth:`close`, for ``contextlib.aclosing``."""
        self.close()
        await anyio.lowlevel.checkpoint()
