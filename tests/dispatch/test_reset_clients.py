"""A client that resets its connection takes nobody with it."""

from __future__ import annotations

import errno

import anyio
import pytest
from anyio.abc import ByteStream

from livekit_agent.dispatch import DispatchServer

pytestmark = pytest.mark.virtual


class ResetAfter(ByteStream):
    """Says its piece; then the connection is gone, and shutdown() answers as the kernel does."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.closed = False

    async def receive(self, max_bytes: int = 65_536) -> bytes:
        await anyio.lowlevel.checkpoint()
        data, self._data = self._data, b""
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        await anyio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        raise OSError(errno.ENOTCONN, "Transport endpoint is not connected")

    async def aclose(self) -> None:
        self.closed = True
        await anyio.lowlevel.checkpoint()


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", b"nonsense\r\n\r\n"])
async def test_a_reset_while_the_server_says_goodbye_ends_that_connection_alone(data: bytes) -> None:
    async with DispatchServer(port=None) as server:
        stream = ResetAfter(data)
        await server.serve_stream(stream)
        assert stream.closed
        connector = server.memory_connector()
        async with await connector(None) as other:
            await other.send(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert (await other.receive()).startswith(b"HTTP/1.1 200")
