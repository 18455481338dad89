"""An AnyIO byte stream as trio's own HalfCloseableStream, so that trio's stream checks can judge it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager

import anyio
import trio
from anyio.abc import ByteStream

_ERRORS = {
    anyio.ClosedResourceError: trio.ClosedResourceError,
    anyio.BrokenResourceError: trio.BrokenResourceError,
    anyio.BusyResourceError: trio.BusyResourceError,
}


@contextmanager
def _translated() -> Generator[None]:
    try:
        yield
    except tuple(_ERRORS) as exc:
        raise _ERRORS[type(exc)] from exc


class TrioStream(trio.abc.HalfCloseableStream):
    """The thinnest adapter: error classes, and an empty result in place of EndOfStream.

    AnyIO has no ``wait_send_all_might_not_block``; ``wait_writable`` does that, by the stream's own means.
    """

    def __init__(self, stream: ByteStream, wait_writable: Callable[[], Awaitable[None]]) -> None:
        self._stream = stream
        self._wait_writable = wait_writable
        self._sending = anyio.ResourceGuard("sending to")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with _translated(), self._sending:
            await self._stream.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        with _translated(), self._sending:
            await trio.lowlevel.checkpoint()
            await self._wait_writable()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        size = 65_536 if max_bytes is None else max_bytes
        if not isinstance(size, int):
            raise TypeError("max_bytes must be an integer")
        if size < 1:
            raise ValueError("max_bytes must be at least 1")
        with _translated():
            try:
                return await self._stream.receive(size)
            except anyio.EndOfStream:
                return b""

    async def send_eof(self) -> None:
        with _translated(), self._sending:
            await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()
