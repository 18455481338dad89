"""Who wants which streams that others send to us.

A stream is announced by an event that hands over a reader.  A :class:`StreamListener` for its topic takes it; without
one the reader is dropped at once, and the library throws the stream away.

Nobody but the consumer holds a listener: one that is abandoned is forgotten, with the readers that wait in it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, TypeVar

import anyio.lowlevel

from .._bounds import STREAM_BUFFER_BYTES_MAX, STREAMS_WAITING_MAX
from ._doorbell import Doorbell
from ._link import Link
from ._mailbox import current_loop
from ._proto import room
from ._streams import ByteStreamInfo, ByteStreamReader, StreamInfo, StreamReader, TextStreamInfo, TextStreamReader

__all__ = ["StreamInbox", "StreamListener"]

R = TypeVar("R", bound="StreamReader[Any, Any]")


class StreamListener(Generic[R]):
    """The streams of one topic, as they are announced: iterate with ``async for``; close it when done.

    Streams that nobody has taken yet wait here, at most ``STREAMS_WAITING_MAX``; then the oldest is thrown away and
    counted in :attr:`dropped`.  A listener that is abandoned half way closes by itself.
    """

    def __init__(self, topic: str | None, buffer_bytes: int, on_close: Callable[[], None]) -> None:
        self.topic = topic
        """Which; None: those that nobody else listens to."""
        self.buffer_bytes = buffer_bytes
        self.loop = current_loop()
        self._on_close = on_close
        self._waiting: deque[R] = deque()
        self._dropped = 0
        self._ended = False
        self._bell = Doorbell("waiting on")

    @property
    def dropped(self) -> int:
        """How many streams were lost to the bound."""
        return self._dropped

    def put(self, reader: R) -> None:
        """A stream was announced (called by the room)."""
        self._waiting.append(reader)
        if len(self._waiting) > STREAMS_WAITING_MAX:
            self._waiting.popleft().close()
            self._dropped += 1
        self._bell.ring()

    def end(self) -> None:
        """The room is over: nothing more will come."""
        self._ended = True
        self._bell.ring()

    def close(self) -> None:
        """Stop listening, and throw away what waits.  Idempotent."""
        if not self._ended:
            self._on_close()
        while self._waiting:
            self._waiting.popleft().close()
        self.end()

    def __enter__(self) -> StreamListener[R]:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def aclose(self) -> None:
        """As :meth:`close`, for ``contextlib.aclosing``."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def __aiter__(self) -> StreamListener[R]:
        return self

    async def __anext__(self) -> R:
        await anyio.lowlevel.checkpoint()
        while not self._waiting:
            if self._ended:
                raise StopAsyncIteration
            await self._bell.wait()
        return self._waiting.popleft()


class _Listeners(Generic[R]):
    """Who listens to the streams of one kind, text or bytes, topic by topic."""

    def __init__(self, link: Link, reader: Callable[..., R], info_of: Callable[[Any], StreamInfo]) -> None:
        self._link = link
        self._reader = reader
        self._info_of = info_of
        self._by_topic: dict[str | None, weakref.ref[StreamListener[R]]] = {}

    def listen(self, topic: str | None, buffer_bytes: int) -> StreamListener[R]:
        """Be the one for that topic."""
        listeners = self._by_topic
        if self._of(topic) is not None:
            # A reader can be read once: two listeners could not both have it.
            raise ValueError(f"somebody already listens to streams of topic {topic!r} in this room")
        listener: StreamListener[R] = StreamListener(topic, buffer_bytes, lambda: listeners.pop(topic, None) and None)
        if self._link.over:
            listener.end()
        else:

            def forget(ref: weakref.ref[StreamListener[R]]) -> None:
                if listeners.get(topic) is ref:
                    del listeners[topic]

            listeners[topic] = weakref.ref(listener, forget)
        return listener

    def opened(self, owned: Any, sender: str) -> None:
        """A stream was announced.  The handle is ours."""
        info = self._info_of(owned.info)
        listener = self._of(info.topic) or self._of(None)
        if listener is None:
            self._link.transport.drop(owned.handle.id)
            return
        listener.put(self._reader(self._link, owned.handle.id, sender, info, listener.buffer_bytes, listener.loop))

    def end(self) -> None:
        """The room is over."""
        for ref in list(self._by_topic.values()):
            listener = ref()
            if listener is not None:
                listener.end()
        self._by_topic.clear()

    def _of(self, topic: str | None) -> StreamListener[R] | None:
        """Who listens to that topic; None also where it was abandoned, with what waited in it."""
        ref = self._by_topic.get(topic)
        return None if ref is None else ref()


class StreamInbox:
    """Who listens to which topic of a room."""

    def __init__(self, link: Link) -> None:
        self._texts = _Listeners(link, TextStreamReader, TextStreamInfo.of)
        self._bytes = _Listeners(link, ByteStreamReader, ByteStreamInfo.of)
        link.attach(self, self._close)

    def texts(self, topic: str | None, buffer_bytes: int = STREAM_BUFFER_BYTES_MAX) -> StreamListener[TextStreamReader]:
        """Listen for text streams."""
        return self._texts.listen(topic, buffer_bytes)

    def bytes(self, topic: str | None, buffer_bytes: int = STREAM_BUFFER_BYTES_MAX) -> StreamListener[ByteStreamReader]:
        """Listen for byte streams."""
        return self._bytes.listen(topic, buffer_bytes)

    def text_opened(self, opened: room.TextStreamOpened) -> None:
        """A text stream was announced."""
        self._texts.opened(opened.reader, opened.participant_identity)

    def bytes_opened(self, opened: room.ByteStreamOpened) -> None:
        """A byte stream was announced."""
        self._bytes.opened(opened.reader, opened.participant_identity)

    def _close(self) -> None:
        self._texts.end()
        self._bytes.end()
