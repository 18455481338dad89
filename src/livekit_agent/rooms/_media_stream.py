"""Frames on their way to a consumer: a bounded queue that loses the oldest, and the iterator over it.

Two objects, because they die at different times.  The :class:`MediaQueue` belongs to the track (a plain
:class:`FrameQueue` to a device): the transport delivers into it, and it ends when the track does (the library's streams
do not end by themselves: their handle is dropped).
The :class:`MediaStream` belongs to the consumer and is all that it holds: when it is abandoned half way, in an
``async for`` left by ``break``, nothing refers to it any more and the queue is closed in the event loop.

Every stream has its own bounds, so a slow consumer loses frames of its own and starves nobody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

import anyio.lowlevel

from ._doorbell import Doorbell
from ._link import Link
from ._mailbox import current_loop
from ._proto import ffi
from ._transport import Transport, release

__all__ = ["FrameQueue", "MediaQueue", "MediaStatistics", "MediaStream"]

F = TypeVar("F")


class MediaStatistics(NamedTuple):
    """A stream's counters."""

    #: Frames that arrived.
    received: int
    #: Frames lost because the consumer was too slow (the oldest go first).
    dropped: int
    #: Frames lost before that, because the event loop was blocked.
    overrun: int
    #: Frames that wait.
    waiting: int


class FrameQueue(Generic[F]):
    """Frames that wait for whoever reads the stream, from a track or from a device."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self._frames: deque[F] = deque()
        self.latest: F | None = None
        """The frame that came last, read or not; None at the end."""
        self.received = 0
        self.dropped = 0
        self.overrun = 0
        """Counted by whoever delivers, perhaps in a thread of the library's."""
        self.ended = False
        self.error: Exception | None = None
        """Why it ended, where that is not as it should be; told once, after the frames."""
        self.bell = Doorbell("waiting on")
        self.stages: Sequence[Callable[[Any], F | None]] = ()
        """What each frame goes through when it is read: not before, for who reads too late has it dropped."""
        self.on_end: Callable[[], object] | None = None
        """Called once, when it ends for whatever reason (the track's)."""

    def __len__(self) -> int:
        return len(self._frames)

    def put(self, frame: F) -> None:
        """A frame, in the loop."""
        self.received += 1
        self.latest = frame
        self._frames.append(frame)
        if len(self._frames) > self.capacity:
            self._frames.popleft()
            self.dropped += 1
        self.bell.ring()

    def take(self) -> F | None:
        """The oldest frame, if there is one, through all the stages; one of which may keep it back."""
        while self._frames:
            frame: F | None = self._frames.popleft()
            for stage in self.stages:
                frame = stage(frame)
                if frame is None:
                    break
            else:
                return frame
        return None

    def end(self) -> None:
        """No more frames: the track or the room is over, or the consumer has gone.  What waits can still be read."""
        if self.ended:
            return
        self.ended = True
        self.latest = None
        self._close_source()
        if self.on_end is not None:
            self.on_end()
        self.bell.ring()

    def _close_source(self) -> None:
        """Nobody wants more (for subclasses)."""

    def close(self) -> None:
        """As :meth:`end`, and what waits is forgotten."""
        self._frames.clear()
        self.error = None
        self.end()


class MediaQueue(FrameQueue[F]):
    """What a stream's transport sees."""

    def __init__(self, link: Link, capacity: int, read: Callable[[Transport, ffi.FfiEvent], F | None]) -> None:
        super().__init__(capacity)
        self._link = link
        self._read = read
        self._handle = 0

    def open(self, request: ffi.FfiRequest) -> None:
        """Open the native stream.  From here on frames come."""
        self._link.check_open()
        self._handle = self._link.transport.router.open_stream(request, self)
        self._link.attach(self, self.end)

    def deliver(self, event: ffi.FfiEvent) -> None:
        """An event of the stream, in the loop."""
        if self.ended:
            release(self._link.transport, event)
            return
        frame = self._read(self._link.transport, event)
        if frame is None:
            self.end()
        else:
            self.put(frame)

    def _close_source(self) -> None:
        self._link.detach(self)
        self._close_native()

    def _close_native(self) -> None:
        self._link.transport.router.close_stream(self._handle)


class MediaStream(Generic[F]):
    """Frames of a track or a device, from the moment it was made; iterate with ``async for``.

    Ends when the track is unsubscribed or unpublished, or the room is over; frames that had arrived come first.
    Cancelling a wait loses no frame.  For one consumer.  Left half way it closes by itself; ``with`` or
    :meth:`close` does it at once.
    """

    def __init__(self, queue: FrameQueue[F]) -> None:
        self._queue = queue
        self._loop = current_loop()

    def bind(self, owner: dict[Any, None]) -> None:
        """Be among the track's queues, until the end (called by the track)."""
        queue = self._queue
        owner[queue] = None
        queue.on_end = lambda: owner.pop(queue, None)

    def statistics(self) -> MediaStatistics:
        """What came and what was lost."""
        queue = self._queue
        return MediaStatistics(queue.received, queue.dropped, queue.overrun, len(queue))

    @property
    def ended(self) -> bool:
        """Whether nothing more will arrive."""
        return self._queue.ended

    def next_nowait(self) -> F | None:
        """The next frame that already waits, else None."""
        return self._queue.take()

    def __aiter__(self) -> MediaStream[F]:
        return self

    async def __anext__(self) -> F:
        await anyio.lowlevel.checkpoint()
        queue = self._queue
        while True:
            frame = queue.take()
            if frame is not None:
                return frame
            if queue.ended:
                error, queue.error = queue.error, None
                raise error or StopAsyncIteration
            await queue.bell.wait()

    def close(self) -> None:
        """Stop, and forget what waits.  Idempotent."""
        self._queue.close()

    async def aclose(self) -> None:
        """As :meth:`close`, for ``contextlib.aclosing``."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def __enter__(self) -> MediaStream[F]:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Abandoned.  The collector may run anywhere, in the middle of anything and in any thread: so in the loop,
        # later.  A loop that is gone has left its rooms, and the transport reclaims what still comes.
        queue = getattr(self, "_queue", None)
        if queue is not None and not queue.ended:
            with suppress(RuntimeError):
                self._loop.post(queue.close)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.statistics()}{' ended' * self.ended}>"
