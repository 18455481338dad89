"""Who wants which streams that others send to us.

A stream is announced by an event that hands over a reader.  A :class:`StreamListener` for its topic takes it; without
one the reader is dropped at once, and the library throws the stream away.

Nobody but the consumer holds a listener: one that is abandoned is forgotten, with the readers that wait in it.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from .._bounds import STREAM_BUFFER_BYTES_MAX, STREAMS_WAITING_MAX
from ._link import Link
from ._mailbox import current_loop
from ._proto import data_stream
from ._streams import ByteStreamInfo, ByteStreamReader, StreamReader, TextStreamInfo, TextStreamReader

__all__ = ["StreamInbox", "StreamListener"]

R = TypeVar("R", bound="StreamReader[Any]")


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
        self._wake: anyio.Event | None = None

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
        self._notify()

    def end(self) -> None:
        """The room is over: nothing more will come."""
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None:
            self._wake.set()

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
            if self._wake is not None:
                raise anyio.BusyResourceError("waiting on this listener")
            self._wake = anyio.Event()
            try:
                await self._wake.wait()
            finally:
                self._wake = None
        return self._waiting.popleft()


class StreamInbox:
    """Who listens to which topic of a room."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._texts: dict[str | None, weakref.ref[StreamListener[TextStreamReader]]] = {}
        self._bytes: dict[str | None, weakref.ref[StreamListener[ByteStreamReader]]] = {}
        link.attach(self, self._close)

    def texts(self, topic: str | None, buffer_bytes: int = STREAM_BUFFER_BYTES_MAX) -> StreamListener[TextStreamReader]:
        """Listen for text streams."""
        return self._listen(self._texts, topic, buffer_bytes)

    def bytes(self, topic: str | None, buffer_bytes: int = STREAM_BUFFER_BYTES_MAX) -> StreamListener[ByteStreamReader]:
        """Listen for byte streams."""
        return self._listen(self._bytes, topic, buffer_bytes)

    def _listen(
        self, listeners: dict[str | None, weakref.ref[StreamListener[R]]], topic: str | None, buffer_bytes: int
    ) -> StreamListener[R]:
        if _listener_of(listeners, topic) is not None:
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

    def text_opened(self, owned: data_stream.OwnedTextStreamReader, sender: str) -> None:
        """A text stream was announced.  The handle is ours."""
        info = TextStreamInfo.of(owned.info)
        listener = _listener_of(self._texts, info.topic) or _listener_of(self._texts, None)
        if listener is None:
            self._link.transport.drop(owned.handle.id)
            return
        reader = TextStreamReader(self._link, owned.handle.id, sender, info, listener.buffer_bytes, listener.loop)
        reader.info = info
        listener.put(reader)

    def bytes_opened(self, owned: data_stream.OwnedByteStreamReader, sender: str) -> None:
        """A byte stream was announced.  The handle is ours."""
        info = ByteStreamInfo.of(owned.info)
        listener = _listener_of(self._bytes, info.topic) or _listener_of(self._bytes, None)
        if listener is None:
            self._link.transport.drop(owned.handle.id)
            return
        reader = ByteStreamReader(self._link, owned.handle.id, sender, info, listener.buffer_bytes, listener.loop)
        reader.info = info
        listener.put(reader)

    def _close(self) -> None:
        for ref in [*self._texts.values(), *self._bytes.values()]:
            listener = ref()
            if listener is not None:
                listener.end()
        self._texts.clear()
        self._bytes.clear()


def _listener_of(
    listeners: Mapping[str | None, weakref.ref[StreamListener[R]]], topic: str | None
) -> StreamListener[R] | None:
    """Who listens to that topic; None also where it was abandoned, with what waited in it."""
    ref = listeners.get(topic)
    return None if ref is None else ref()
