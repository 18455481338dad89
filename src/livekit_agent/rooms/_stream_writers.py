"""Text and byte streams that we send.

``async with local.stream_text(...) as writer`` opens the stream at the beginning of the block and closes it at the end.
Leaving the block by an error or a cancellation closes it *with a reason*, synchronously, so that the receivers see a
stream that was given up rather than a short one.  Closing consumes the writer's handle.

Large data go in pieces: each piece is one request, answered when the data channel has taken it, which is the
back-pressure, and a place where sending can be cancelled.
"""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

from .._bounds import STREAM_PIECE_BYTES
from .._errors import RoomError, StreamError
from .._types import NO_ATTRIBUTES
from ._enums import StreamOperation
from ._link import Link
from ._proto import data_stream, ffi
from ._sending import Sending, identities
from ._streams import ByteStreamInfo, TextStreamInfo, stream_failure

__all__ = ["ByteStreamWriter", "StreamSending", "StreamWriter", "TextStreamWriter"]

T = TypeVar("T", str, bytes)
W = TypeVar("W", bound="StreamWriter[Any]")


class StreamWriter(Generic[T]):
    """A stream of ours.  Use as ``async with``; one write at a time.

    A cancelled write may have sent a part: the stream is then given up, and further writes raise :class:`StreamError`.
    """

    def __init__(self, sending: Sending, link: Link, options: Any) -> None:
        self._sending = sending
        self._link = link
        self._options = options
        self._handle = 0
        self._open = False
        self._busy = False
        self.written = 0
        """Bytes that the connection has taken."""

    # --- how text and bytes differ --------------------------------------------------------------------------------

    def _open_request(self) -> ffi.FfiRequest:
        raise NotImplementedError

    def _opened(self, event: ffi.FfiEvent) -> int:
        raise NotImplementedError

    def _write_request(self, piece: T) -> ffi.FfiRequest:
        raise NotImplementedError

    def _close_request(self, handle_id: int, reason: str, attributes: Mapping[str, str]) -> ffi.FfiRequest:
        raise NotImplementedError

    def _pieces(self, data: T) -> list[T]:
        raise NotImplementedError

    # --- life -----------------------------------------------------------------------------------------------------

    async def __aenter__(self: W) -> W:
        await self._check_may_send()
        link = self._link

        def reclaim(event: ffi.FfiEvent) -> None:
            # Opened after we had given up: the receivers must not wait for it.
            handle_id = self._opened(event)
            if handle_id:
                try:
                    link.transport.request(self._close_request(handle_id, "cancelled", NO_ATTRIBUTES))
                except RoomError:
                    # Rejected: the library has forgotten the room; only the handle is left.
                    link.transport.drop(handle_id)

        call = link.send(self._open_request(), reclaim=reclaim)
        event = await link.answer(call, "stream not opened")
        _check(event, "stream not opened", self._link)
        self._handle = link.own(self._opened(event))
        self._open = True
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        if exc_type is None:
            await self.close()
        else:
            self.abort("cancelled" if not issubclass(exc_type, Exception) else f"failed: {exc_type.__name__}")

    async def write(self, data: T) -> None:
        """Send more.  Returns when the connection has taken it.

        Raises :class:`RoomPermissionError` when the permission was taken meanwhile: a server throws the rest away and
        says nothing, so the stream is given up.
        """
        self._check_open()
        if self._busy:
            raise anyio.BusyResourceError("writing to")
        self._busy = True
        try:
            for piece in self._pieces(data):
                await self._check_may_send()
                event = await self._link.answer(self._link.send(self._write_request(piece)), "stream not written")
                _check(event, "stream not written", self._link)
                self.written += len(piece.encode() if isinstance(piece, str) else piece)
        except BaseException:
            self.abort("incomplete")
            raise
        finally:
            self._busy = False

    async def close(self, attributes: Mapping[str, str] = NO_ATTRIBUTES) -> None:
        """End the stream; ``attributes`` are added to those of its beginning.  Idempotent."""
        if not self._open:
            return
        self._link.check_open()
        try:
            await self._check_may_send()
        except BaseException:
            self.abort("incomplete")
            raise
        request = self._close_request(self._handle, "", attributes)
        self._open = False
        call = self._link.send(request)
        self._link.consumed(self._handle)
        event = await self._link.answer(call, "stream not closed")
        _check(event, "stream not closed", self._link)

    def abort(self, reason: str) -> None:
        """Give the stream up: the receivers get a :class:`StreamError` with ``reason``.  Synchronous, idempotent."""
        if self._open and not self._link.over:
            # Rejected: the library has forgotten the room; nobody receives any more, and the handle goes at its end.
            with suppress(RoomError):
                self._link.request(self._close_request(self._handle, reason or "aborted", NO_ATTRIBUTES))
                self._link.consumed(self._handle)
        self._open = False

    async def _check_may_send(self) -> None:
        await self._sending._check_may_send("send streams")  # pyright: ignore[reportPrivateUsage] - a part of it

    def _check_open(self) -> None:
        self._link.check_open()
        if not self._open:
            raise StreamError("the stream is closed", code="STREAM_CLOSED", hint="write inside its `async with` block")


class TextStreamWriter(StreamWriter[str]):
    """A text stream of ours."""

    info: TextStreamInfo

    def _open_request(self) -> ffi.FfiRequest:
        local = self._link.local_handle
        opening = data_stream.TextStreamOpenRequest(local_participant_handle=local, options=self._options)
        return ffi.FfiRequest(text_stream_open=opening)

    def _opened(self, event: ffi.FfiEvent) -> int:
        if event.text_stream_open.HasField("writer"):
            self.info = TextStreamInfo.of(event.text_stream_open.writer.info)
        return event.text_stream_open.writer.handle.id

    def _write_request(self, piece: str) -> ffi.FfiRequest:
        write = data_stream.TextStreamWriterWriteRequest(writer_handle=self._handle, text=piece)
        return ffi.FfiRequest(text_stream_write=write)

    def _close_request(self, handle_id: int, reason: str, attributes: Mapping[str, str]) -> ffi.FfiRequest:
        close = data_stream.TextStreamWriterCloseRequest(
            writer_handle=handle_id,
            attributes=dict(attributes),
        )
        if reason:
            close.reason = reason
        return ffi.FfiRequest(text_stream_close=close)

    def _pieces(self, data: str) -> list[str]:
        step = STREAM_PIECE_BYTES // 4  # no character takes more than four bytes
        return [data[start : start + step] for start in range(0, len(data), step)]


class ByteStreamWriter(StreamWriter[bytes]):
    """A byte stream of ours."""

    info: ByteStreamInfo

    def _open_request(self) -> ffi.FfiRequest:
        local = self._link.local_handle
        opening = data_stream.ByteStreamOpenRequest(local_participant_handle=local, options=self._options)
        return ffi.FfiRequest(byte_stream_open=opening)

    def _opened(self, event: ffi.FfiEvent) -> int:
        if event.byte_stream_open.HasField("writer"):
            self.info = ByteStreamInfo.of(event.byte_stream_open.writer.info)
        return event.byte_stream_open.writer.handle.id

    def _write_request(self, piece: bytes) -> ffi.FfiRequest:
        write = data_stream.ByteStreamWriterWriteRequest(writer_handle=self._handle, bytes=piece)
        return ffi.FfiRequest(byte_stream_write=write)

    def _close_request(self, handle_id: int, reason: str, attributes: Mapping[str, str]) -> ffi.FfiRequest:
        close = data_stream.ByteStreamWriterCloseRequest(
            writer_handle=handle_id,
            attributes=dict(attributes),
        )
        if reason:
            close.reason = reason
        return ffi.FfiRequest(byte_stream_close=close)

    def _pieces(self, data: bytes) -> list[bytes]:
        return [bytes(data[start : start + STREAM_PIECE_BYTES]) for start in range(0, len(data), STREAM_PIECE_BYTES)]


def _check(event: ffi.FfiEvent, what: str, link: Link) -> None:
    answer = getattr(event, event.WhichOneof("message") or "")
    if answer.HasField("error"):
        raise stream_failure(answer.error.description, what, link)


class StreamSending(Sending):
    """The local participant's part of it."""

    def stream_text(
        self,
        *,
        topic: str = "",
        destination_identities: Sequence[str] = (),
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        stream_id: str = "",
        operation: StreamOperation = StreamOperation.CREATE,
        version: int = 0,
        reply_to: str = "",
        attachments: Sequence[str] = (),
        generated: bool = False,
        compress: bool | None = None,
    ) -> TextStreamWriter:
        """A text stream to everybody, or to those named: ``async with … as writer: await writer.write(…)``.

        ``operation`` says what it does to the text of the same ``stream_id`` (a new ``version``, or none), or to the
        one in ``reply_to`` (a reaction).  ``compress`` None: as the library likes.
        """
        options = data_stream.StreamTextOptions(
            topic=topic,
            destination_identities=identities(destination_identities),
            attributes=dict(attributes),
            attached_stream_ids=list(attachments),
            generated=generated,
        )
        if operation or version or reply_to:
            options.operation_type = operation.value  # pyright: ignore[reportAttributeAccessIssue] - an enum's number
            options.version = version
            options.reply_to_stream_id = reply_to
        if stream_id:
            options.id = stream_id
        if compress is not None:
            options.compress = compress
        return TextStreamWriter(self, self._link, options)

    def stream_bytes(
        self,
        *,
        topic: str = "",
        name: str = "",
        size: int | None = None,
        mime_type: str = "application/octet-stream",
        destination_identities: Sequence[str] = (),
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        stream_id: str = "",
        compress: bool | None = None,
    ) -> ByteStreamWriter:
        """A byte stream; with ``size`` the receivers can see their progress."""
        options = data_stream.StreamByteOptions(
            topic=topic,
            name=name,
            mime_type=mime_type,
            destination_identities=identities(destination_identities),
            attributes=dict(attributes),
        )
        if size is not None:
            options.total_length = size
        if stream_id:
            options.id = stream_id
        if compress is not None:
            options.compress = compress
        return ByteStreamWriter(self, self._link, options)

    async def send_text(
        self,
        text: str,
        *,
        topic: str = "",
        destination_identities: Sequence[str] = (),
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        stream_id: str = "",
        operation: StreamOperation = StreamOperation.CREATE,
        version: int = 0,
        reply_to: str = "",
        attachments: Sequence[str] = (),
        generated: bool = False,
    ) -> TextStreamInfo:
        """Send a text as one stream, of any length (the rest as in :meth:`stream_text`)."""
        writer = self.stream_text(
            topic=topic,
            destination_identities=destination_identities,
            attributes=attributes,
            stream_id=stream_id,
            operation=operation,
            version=version,
            reply_to=reply_to,
            attachments=attachments,
            generated=generated,
        )
        async with writer:
            await writer.write(text)
        return writer.info

    async def send_bytes(
        self,
        data: bytes,
        *,
        topic: str = "",
        name: str = "",
        mime_type: str = "application/octet-stream",
        destination_identities: Sequence[str] = (),
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> ByteStreamInfo:
        """Send bytes as one stream, of any length; ``on_progress(written, size)`` is called after each piece."""
        writer = self.stream_bytes(
            topic=topic,
            name=name,
            size=len(data),
            mime_type=mime_type,
            destination_identities=destination_identities,
            attributes=attributes,
        )
        async with writer:
            for start in range(0, len(data), STREAM_PIECE_BYTES):
                await writer.write(data[start : start + STREAM_PIECE_BYTES])
                if on_progress is not None:
                    on_progress(writer.written, len(data))
        return writer.info

    async def send_file(
        self,
        path: str | Path,
        *,
        topic: str = "",
        name: str = "",
        mime_type: str = "",
        destination_identities: Sequence[str] = (),
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> ByteStreamInfo:
        """Send a file as a byte stream; ``on_progress(written, size)`` is called after each piece.

        Raises :class:`OSError` for what cannot be read.  The file is read in the event loop, 64 KiB at a time, as
        :meth:`AudioSource.play` does: a thread would cost more, and could not be simulated.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        path = Path(path)
        with path.open("rb") as file:  # noqa: ASYNC230
            size = os.fstat(file.fileno()).st_size
            writer = self.stream_bytes(
                topic=topic,
                name=name or path.name,
                size=size,
                mime_type=mime_type or mimetypes.guess_type(path.name)[0] or "application/octet-stream",
                destination_identities=destination_identities,
                attributes=attributes,
            )
            async with writer:
                while piece := file.read(STREAM_PIECE_BYTES):
                    await writer.write(piece)
                    if on_progress is not None:
                        on_progress(writer.written, size)
        return writer.info
