"""A text or byte stream that somebody sends to us: what it says of itself, and reading it.

Nothing is read before somebody reads: the first read consumes the reader's handle (it must not be dropped afterwards),
and from then on the library pushes chunks, without any way to slow it down.  So each reader's buffer has a bound, and a
reader that overflows fails.

Nobody but the consumer holds a reader.  The room knows its :class:`_Place`, which refers to it weakly: one that is
abandoned half way is let go in the event loop, as if it had been closed.

Invariant: a reader's handle belongs to the room's link until it is consumed or dropped, so that whatever goes wrong it
is given back at the room's end at the latest.
"""

from __future__ import annotations

import re
import weakref
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import anyio.lowlevel

from .._bounds import STREAM_READ_ALL_BYTES_MAX
from .._errors import ResourceExhaustedError, RoomClosedError, RoomError, StreamError
from ._doorbell import Doorbell
from ._enums import StreamOperation, known
from ._link import Link
from ._mailbox import LoopHandle
from ._proto import data_stream, ffi

__all__ = [
    "ByteStreamInfo",
    "ByteStreamReader",
    "StreamInfo",
    "StreamReader",
    "TextStreamInfo",
    "TextStreamReader",
    "stream_failure",
]

T = TypeVar("T", str, bytes)
Info = TypeVar("Info", bound="StreamInfo")
R = TypeVar("R", bound="StreamReader[Any, Any]")

_ABNORMAL = "stream closed abnormally: "
_SENDER_LEFT = re.compile(r"Participant .* unexpectedly disconnected")


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamInfo:
    """What a stream says of itself before its first chunk."""

    id: str
    topic: str
    mime_type: str
    sent_at: float
    """Seconds since 1970, by the sender's clock."""
    size: int | None
    """In bytes, if the sender knows it."""
    attributes: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextStreamInfo(StreamInfo):
    """A text stream's."""

    operation: StreamOperation | int = StreamOperation.CREATE
    version: int = 0
    reply_to: str = ""
    """The id of the stream that this one answers."""
    attachments: tuple[str, ...] = ()
    """The ids of byte streams that belong to it."""
    generated: bool = False

    @classmethod
    def of(cls, info: data_stream.TextStreamInfo) -> TextStreamInfo:
        """From the library's message."""
        return cls(
            **_common(info),
            operation=known(StreamOperation, info.operation_type),
            version=info.version,
            reply_to=info.reply_to_stream_id,
            attachments=tuple(info.attached_stream_ids),
            generated=info.generated,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteStreamInfo(StreamInfo):
    """A byte stream's."""

    name: str = ""
    """A file name, as the sender gives it: not to be trusted as a path."""

    @classmethod
    def of(cls, info: data_stream.ByteStreamInfo) -> ByteStreamInfo:
        """From the library's message."""
        return cls(**_common(info), name=info.name)


def _common(info: data_stream.TextStreamInfo | data_stream.ByteStreamInfo) -> dict[str, Any]:
    return {
        "id": info.stream_id,
        "topic": info.topic,
        "mime_type": info.mime_type,
        "sent_at": info.timestamp / 1000,
        "size": info.total_length if info.HasField("total_length") else None,
        "attributes": MappingProxyType(dict(info.attributes)),
    }


def stream_failure(description: str, what: str, link: Link) -> RoomError:
    """The library's words for a stream's end as an error of ours.

    It says everything in one field, the sender's own reason included.
    """
    reason = description.removeprefix(_ABNORMAL)
    if link.over or (link.leaving and reason.endswith("connection closed")):
        return RoomClosedError(f"{what}: the room ended first", reason=link.reason or 0)
    if _SENDER_LEFT.match(reason):
        return StreamError(f"{what}: the sender left", description=reason, code="STREAM_SENDER_LEFT")
    if reason != description:
        return StreamError(f"{what}: it was given up: {reason}", description=reason, code="STREAM_ABORTED")
    return StreamError(f"{what}: {description}", description=description)


class StreamReader(Generic[T, Info]):
    """A stream that somebody sends.  Iterate over its chunks, or :meth:`read_all`; for one consumer.

    Raises :class:`StreamError` where the sender gives it up or leaves and :class:`RoomClosedError` at the room's end,
    in both cases after the chunks that had come.  Cancelling a read loses nothing.  Left half way it closes by itself;
    ``with`` or :meth:`close` does it at once.
    """

    def __init__(
        self, link: Link, handle_id: int, sender: str, info: Info, buffer_bytes: int, loop: LoopHandle
    ) -> None:
        self._link = link
        self._loop = loop
        self._handle = link.own(handle_id)
        #: What the room knows of us, and we are known by there.
        self._place = _Place(weakref.ref(self), link, self._handle)
        link.attach(self._place, self._place.room_ended)
        self.sender_identity = sender
        self.info: Info = info
        self._buffer_bytes = buffer_bytes
        self._chunks: deque[T] = deque()
        self._waiting_bytes = 0
        self._received = 0
        self._attributes = info.attributes
        self._started = False
        self._ended = False
        self._error: Exception | None = None
        self._bell = Doorbell("reading from")

    @property
    def attributes(self) -> Mapping[str, str]:
        """The sender's; those it gave at the end are added at the end."""
        return self._attributes

    @property
    def received(self) -> int:
        """How many bytes have come."""
        return self._received

    @property
    def progress(self) -> float | None:
        """From 0 to 1, where the sender has said how much there is."""
        size = self.info.size
        return None if size is None else self._received / size if size else 1.0

    def __repr__(self) -> str:
        size = "" if self.info.size is None else f" of {self.info.size}"
        return (
            f"<{type(self).__name__} {self.info.topic!r} from {self.sender_identity!r}: {self._received}{size} bytes>"
        )

    # --- the room's side: synchronous, in the loop ----------------------------------------------------------------

    def _request(self) -> ffi.FfiRequest:
        raise NotImplementedError

    def _detail(self, event: ffi.FfiEvent) -> Any:
        raise NotImplementedError

    def _bytes_of(self, chunk: T) -> int:
        raise NotImplementedError

    def _start(self) -> None:
        if self._started or self._ended:
            return
        self._link.check_open()
        self._started = True
        self._link.transport.router.route_handle(self._handle, self._place.receive)
        try:
            self._link.request(self._request())
        except BaseException:
            self._end(StreamError("the stream is no longer there"))
            raise
        self._link.consumed(self._handle)

    def receive(self, event: ffi.FfiEvent) -> None:
        """An event about the reader (called by the transport)."""
        detail = self._detail(event)
        if detail.HasField("eos"):
            self._attributes = MappingProxyType({**self._attributes, **detail.eos.attributes})
            failed = detail.eos.HasField("error")
            self._end(
                stream_failure(detail.eos.error.description, "stream not received", self._link) if failed else None
            )
            return
        chunk: T = detail.chunk_received.content
        size = self._bytes_of(chunk)
        if not size:
            return
        self._received += size
        self._waiting_bytes += size
        if self._waiting_bytes > self._buffer_bytes:
            self._chunks.clear()
            self._end(
                ResourceExhaustedError(
                    f"{self._waiting_bytes} bytes of a stream were not read",
                    resource="stream_buffer",
                    used=self._waiting_bytes,
                    limit=self._buffer_bytes,
                    hint="read faster, or listen with a larger buffer_bytes",
                )
            )
            return
        self._chunks.append(chunk)
        self._bell.ring()

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        self._ended, self._error = True, error
        self._place.leave()
        self._bell.ring()

    def room_ended(self) -> None:
        """The room is over (called by the link)."""
        self._end(RoomClosedError("stream not received: the room ended first"))

    # --- the consumer's side --------------------------------------------------------------------------------------

    def close(self) -> None:
        """Stop reading; what waits and what comes is thrown away.  Idempotent."""
        self._chunks.clear()
        self._end(None)
        self._error = None
        self._link.drop(self._handle)  # harmless once it was consumed

    def __del__(self) -> None:
        # Abandoned.  The collector may run anywhere and in any thread: so in the loop, later.
        if not getattr(self, "_ended", True):
            with suppress(RuntimeError):
                self._loop.post(self._place.abandoned)

    def __enter__(self: R) -> R:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    async def aclose(self) -> None:
        """As :meth:`close`, for ``contextlib.aclosing``."""
        self.close()
        await anyio.lowlevel.checkpoint()

    def __aiter__(self: R) -> R:
        return self

    async def __anext__(self) -> T:
        await anyio.lowlevel.checkpoint()
        self._start()
        while not self._chunks:
            if self._ended:
                if self._error is not None:
                    raise self._error
                raise StopAsyncIteration
            await self._bell.wait()
        chunk = self._chunks.popleft()
        self._waiting_bytes -= self._bytes_of(chunk)
        return chunk

    async def _collect(self, limit: int) -> list[T]:
        parts: list[T] = []
        async for chunk in self:
            parts.append(chunk)
            if self._received > limit:
                self.close()
                raise StreamError(f"the stream is larger than {limit} bytes", code="STREAM_TOO_LARGE")
        return parts


class _Place:
    """A reader's place in its room: all that others hold of it, so that it can be abandoned."""

    def __init__(self, reader: weakref.ref[StreamReader[Any, Any]], link: Link, handle_id: int) -> None:
        self._reader = reader
        self._link = link
        self._handle = handle_id

    def receive(self, event: ffi.FfiEvent) -> None:
        """What comes for one that was abandoned owns nothing."""
        reader = self._reader()
        if reader is not None:
            reader.receive(event)

    def room_ended(self) -> None:
        """The room is over (called by the link)."""
        reader = self._reader()
        if reader is not None:
            reader.room_ended()

    def leave(self) -> None:
        """Nothing more is to come."""
        self._link.detach(self)
        self._link.transport.router.unroute_handle(self._handle)

    def abandoned(self) -> None:
        """In the loop: nobody reads it any more."""
        self.leave()
        self._link.drop(self._handle)


class TextStreamReader(StreamReader[str, TextStreamInfo]):
    """A text stream that somebody sends (see :class:`StreamReader`)."""

    async def read_all(self, limit: int = STREAM_READ_ALL_BYTES_MAX) -> str:
        """The whole text.  More than ``limit`` bytes: :class:`StreamError`, and the reader is closed."""
        return "".join(await self._collect(limit))

    def _request(self) -> ffi.FfiRequest:
        read = data_stream.TextStreamReaderReadIncrementalRequest(reader_handle=self._handle)
        return ffi.FfiRequest(text_read_incremental=read)

    def _detail(self, event: ffi.FfiEvent) -> Any:
        return event.text_stream_reader_event

    def _bytes_of(self, chunk: str) -> int:
        return len(chunk.encode())


class ByteStreamReader(StreamReader[bytes, ByteStreamInfo]):
    """A byte stream that somebody sends (see :class:`StreamReader`)."""

    async def read_all(self, limit: int = STREAM_READ_ALL_BYTES_MAX) -> bytes:
        """All of it.  More than ``limit`` bytes: :class:`StreamError`, and the reader is closed."""
        return b"".join(await self._collect(limit))

    def _request(self) -> ffi.FfiRequest:
        read = data_stream.ByteStreamReaderReadIncrementalRequest(reader_handle=self._handle)
        return ffi.FfiRequest(byte_read_incremental=read)

    def _detail(self, event: ffi.FfiEvent) -> Any:
        return event.byte_stream_reader_event

    def _bytes_of(self, chunk: bytes) -> int:
        return len(chunk)
