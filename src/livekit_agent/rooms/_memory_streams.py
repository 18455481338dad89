"""Rooms in memory: text and byte streams.

As observed on a real server: chunks of at most 15,000 bytes; nothing is lost by a reader that is opened late; a close
with a reason, a sender that leaves and our own leaving end a stream with the real library's words.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._memory_rpc import MemoryPeer
from ._proto import data_stream, ffi
from ._proto import room as room_pb

if TYPE_CHECKING:
    from ._memory_transport import MemoryTransport

__all__ = ["MemoryStreams"]

_CHUNK_BYTES = 15_000


@dataclass(slots=True, eq=False)
class _Reader:
    """One receiver's end of a stream."""

    home: MemoryTransport
    text: bool
    sender: str
    handle_id: int = 0
    started: bool = False
    ended: bool = False
    held: deque[ffi.FfiEvent] = field(default_factory=deque[ffi.FfiEvent])


@dataclass(slots=True, eq=False)
class _Writer:
    """The sender's end."""

    text: bool
    readers: list[_Reader]


class MemoryStreams(MemoryPeer):
    """The requests about streams."""

    def __init__(self) -> None:
        self._readers: dict[int, _Reader] = {}

    # --- sending --------------------------------------------------------------------------------------------------

    def _do_text_stream_open(self, request: data_stream.TextStreamOpenRequest) -> ffi.FfiResponse:
        options = request.options
        info = data_stream.TextStreamInfo(
            stream_id=options.id or self._rooms.new_id("stream-"),
            timestamp=self._rooms.wall_ms(),
            mime_type="text/plain",
            topic=options.topic,
            attributes=options.attributes,
            operation_type=options.operation_type,  # pyright: ignore[reportArgumentType] - the same enum, copied
            version=options.version,
            reply_to_stream_id=options.reply_to_stream_id,
            attached_stream_ids=options.attached_stream_ids,
            generated=options.generated,
            encryption_type=self._stream_encryption(),  # pyright: ignore[reportArgumentType] - an enum's number
        )
        event = ffi.FfiEvent(text_stream_open=data_stream.TextStreamOpenCallback(async_id=request.request_async_id))
        self._opened(event.text_stream_open.writer, info, options.destination_identities, text=True)
        self._answer(event)
        response = data_stream.TextStreamOpenResponse(async_id=request.request_async_id)
        return ffi.FfiResponse(text_stream_open=response)

    def _do_byte_stream_open(self, request: data_stream.ByteStreamOpenRequest) -> ffi.FfiResponse:
        options = request.options
        info = data_stream.ByteStreamInfo(
            stream_id=options.id or self._rooms.new_id("stream-"),
            timestamp=self._rooms.wall_ms(),
            mime_type=options.mime_type,
            topic=options.topic,
            attributes=options.attributes,
            name=options.name,
            encryption_type=self._stream_encryption(),  # pyright: ignore[reportArgumentType] - an enum's number
        )
        if options.HasField("total_length"):
            info.total_length = options.total_length
        event = ffi.FfiEvent(byte_stream_open=data_stream.ByteStreamOpenCallback(async_id=request.request_async_id))
        self._opened(event.byte_stream_open.writer, info, options.destination_identities, text=False)
        self._answer(event)
        response = data_stream.ByteStreamOpenResponse(async_id=request.request_async_id)
        return ffi.FfiResponse(byte_stream_open=response)

    def _stream_encryption(self) -> int:
        this: Any = self
        return int(this.encrypts)

    def _opened(self, owned: Any, info: Any, destinations: Any, *, text: bool) -> None:
        readers = (
            [] if self._ended else [hearer.announced(self, info, text) for hearer in self._key_holders(destinations)]
        )
        owned.info.CopyFrom(info)
        if not self._ended:
            owned.handle.CopyFrom(self._give(_Writer(text, readers)))

    def announced(self, sender: Any, info: Any, text: bool) -> _Reader:
        """Somebody opens a stream to this participant."""
        home: Any = self
        reader = _Reader(home, text, sender._identity)
        owned = self._give(reader)
        reader.handle_id = owned.id
        self._readers[owned.id] = reader
        if text:
            opened = data_stream.OwnedTextStreamReader(handle=owned, info=info)
            message = room_pb.TextStreamOpened(reader=opened, participant_identity=sender._identity)
            self._tell(text_stream_opened=message)
        else:
            opened = data_stream.OwnedByteStreamReader(handle=owned, info=info)
            message = room_pb.ByteStreamOpened(reader=opened, participant_identity=sender._identity)
            self._tell(byte_stream_opened=message)
        return reader

    def _do_text_stream_write(self, request: data_stream.TextStreamWriterWriteRequest) -> ffi.FfiResponse:
        writer: _Writer = self._object(request.writer_handle, _Writer)
        for piece in _text_chunks(request.text):
            for reader in writer.readers:
                event = _reader_event(reader)
                event.text_stream_reader_event.chunk_received.content = piece
                _push(reader, event)
        self._answer(
            ffi.FfiEvent(
                text_stream_writer_write=data_stream.TextStreamWriterWriteCallback(async_id=request.request_async_id)
            )
        )
        response = data_stream.TextStreamWriterWriteResponse(async_id=request.request_async_id)
        return ffi.FfiResponse(text_stream_write=response)

    def _do_byte_stream_write(self, request: data_stream.ByteStreamWriterWriteRequest) -> ffi.FfiResponse:
        writer: _Writer = self._object(request.writer_handle, _Writer)
        data = request.bytes
        for start in range(0, len(data), _CHUNK_BYTES):
            for reader in writer.readers:
                event = _reader_event(reader)
                event.byte_stream_reader_event.chunk_received.content = data[start : start + _CHUNK_BYTES]
                _push(reader, event)
        self._answer(
            ffi.FfiEvent(
                byte_stream_writer_write=data_stream.ByteStreamWriterWriteCallback(async_id=request.request_async_id)
            )
        )
        response = data_stream.ByteStreamWriterWriteResponse(async_id=request.request_async_id)
        return ffi.FfiResponse(byte_stream_write=response)

    def _do_text_stream_close(self, request: data_stream.TextStreamWriterCloseRequest) -> ffi.FfiResponse:
        self._closed(request)
        closed = data_stream.TextStreamWriterCloseCallback(async_id=request.request_async_id)
        self._answer(ffi.FfiEvent(text_stream_writer_close=closed))
        response = data_stream.TextStreamWriterCloseResponse(async_id=request.request_async_id)
        return ffi.FfiResponse(text_stream_close=response)

    def _do_byte_stream_close(self, request: data_stream.ByteStreamWriterCloseRequest) -> ffi.FfiResponse:
        self._closed(request)
        closed = data_stream.ByteStreamWriterCloseCallback(async_id=request.request_async_id)
        self._answer(ffi.FfiEvent(byte_stream_writer_close=closed))
        response = data_stream.ByteStreamWriterCloseResponse(async_id=request.request_async_id)
        return ffi.FfiResponse(byte_stream_close=response)

    def _closed(self, request: Any) -> None:
        writer: _Writer = self._object(request.writer_handle, _Writer)
        self._consume(request.writer_handle)
        attributes = dict(request.attributes)
        for reader in writer.readers:
            _finish(reader, request.reason, attributes)

    def _consume(self, handle_id: int) -> None:
        raise NotImplementedError

    # --- receiving ------------------------------------------------------------------------------------------------

    def _do_text_read_incremental(self, request: data_stream.TextStreamReaderReadIncrementalRequest) -> ffi.FfiResponse:
        self._read(request.reader_handle)
        return ffi.FfiResponse(text_read_incremental=data_stream.TextStreamReaderReadIncrementalResponse())

    def _do_byte_read_incremental(self, request: data_stream.ByteStreamReaderReadIncrementalRequest) -> ffi.FfiResponse:
        self._read(request.reader_handle)
        return ffi.FfiResponse(byte_read_incremental=data_stream.ByteStreamReaderReadIncrementalResponse())

    def _read(self, handle_id: int) -> None:
        reader: _Reader = self._object(handle_id, _Reader)
        self._consume(handle_id)
        reader.started = True
        while reader.held:
            self._send_event(reader.held.popleft())

    def _forget_reader(self, value: object) -> None:
        """A handle was dropped: what it was for is thrown away."""
        if isinstance(value, _Reader):
            value.ended = True
            value.held.clear()
            self._readers.pop(value.handle_id, None)

    def _sender_left(self, identity: str) -> None:
        for reader in list(self._readers.values()):
            if reader.sender == identity:
                _finish(reader, f"Participant {identity} unexpectedly disconnected while sending data", {})

    def _end_streams(self) -> None:
        """We leave."""
        for reader in list(self._readers.values()):
            _finish(reader, "Data stream connection closed", {})


def _reader_event(reader: _Reader) -> ffi.FfiEvent:
    event = ffi.FfiEvent()
    detail = event.text_stream_reader_event if reader.text else event.byte_stream_reader_event
    detail.reader_handle = reader.handle_id
    return event


def _push(reader: _Reader, event: ffi.FfiEvent) -> None:
    if reader.ended:
        return
    if reader.started:
        reader.home._send_event(event)  # pyright: ignore[reportPrivateUsage] - a part of it
    else:
        reader.held.append(event)


def _finish(reader: _Reader, reason: str, attributes: dict[str, str]) -> None:
    event = _reader_event(reader)
    eos: Any = (event.text_stream_reader_event if reader.text else event.byte_stream_reader_event).eos
    eos.SetInParent()
    if reason:
        eos.error.description = f"stream closed abnormally: {reason}"
    eos.attributes.update(attributes)
    _push(reader, event)
    reader.ended = True
    reader.home._readers.pop(reader.handle_id, None)  # pyright: ignore[reportPrivateUsage] - a part of it


def _text_chunks(text: str) -> list[str]:
    data = text.encode()
    chunks: list[str] = []
    start = 0
    while start < len(data):
        end = min(start + _CHUNK_BYTES, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1  # not inside a character
        chunks.append(data[start:end].decode())
        start = end
    return chunks
