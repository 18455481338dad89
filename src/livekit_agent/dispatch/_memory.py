"""A byte stream pair without a socket, for connections inside one process and under virtual time.

It keeps a socket's promises, which is what tests on it are worth: a bounded buffer per direction (a full one makes
``send`` wait), ``send_eof`` for one direction alone, two senders or two receivers at once are a
:class:`~anyio.BusyResourceError`, closing wakes the other end, and what was sent before the close can still be read.
"""

from __future__ import annotations

import anyio
from anyio.abc import ByteStream

from .._bounds import MEMORY_PIPE_BYTES_MAX

__all__ = ["memory_pipe"]


def memory_pipe(limit: int = MEMORY_PIPE_BYTES_MAX) -> tuple[ByteStream, ByteStream]:
    """Two connected ends.  ``limit``: bytes on their way in each direction."""
    there, back = _Direction(limit), _Direction(limit)
    return _MemoryStream(there, back), _MemoryStream(back, there)


class _Direction:
    """Bytes on their way from one end to the other."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.data = bytearray()
        self.eof = False
        """The writer will send no more."""
        self.deaf = False
        """The reader is gone."""
        self._changed = anyio.Event()

    async def wait_change(self) -> None:
        await self._changed.wait()

    def change(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


class _MemoryStream(ByteStream):
    def __init__(self, outgoing: _Direction, incoming: _Direction) -> None:
        self._outgoing = outgoing
        self._incoming = incoming
        self._closed = False
        self._sending = anyio.ResourceGuard("sending to")
        self._receiving = anyio.ResourceGuard("receiving from")

    async def send(self, item: bytes) -> None:
        with self._sending:
            await anyio.lowlevel.checkpoint()
            rest = memoryview(bytes(item))
            while True:
                self._check_sendable()
                room = self._outgoing.limit - len(self._outgoing.data)
                if room > 0 and rest:
                    self._outgoing.data += rest[:room]
                    rest = rest[room:]
                    self._outgoing.change()
                if not rest:
                    return
                await self._outgoing.wait_change()

    def _check_sendable(self) -> None:
        if self._closed or self._outgoing.eof:
            raise anyio.ClosedResourceError
        if self._outgoing.deaf:
            raise anyio.BrokenResourceError

    async def receive(self, max_bytes: int = 65536) -> bytes:
        with self._receiving:
            await anyio.lowlevel.checkpoint()
            while True:
                if self._closed:
                    raise anyio.ClosedResourceError
                if self._incoming.data:
                    chunk = bytes(self._incoming.data[:max_bytes])
                    del self._incoming.data[:max_bytes]
                    self._incoming.change()
                    return chunk
                if self._incoming.eof:
                    raise anyio.EndOfStream
                await self._incoming.wait_change()

    async def send_eof(self) -> None:
        with self._sending:
            await anyio.lowlevel.checkpoint()
            if self._closed:
                raise anyio.ClosedResourceError
            self._outgoing.eof = True
            self._outgoing.change()

    async def aclose(self) -> None:
        if not self._closed:
            self._closed = True
            self._outgoing.eof = True
            self._incoming.deaf = True
            self._outgoing.change()
            self._incoming.change()
        await anyio.lowlevel.checkpoint()
