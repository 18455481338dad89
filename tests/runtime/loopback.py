"""Peers on loopback for tests of the transport: whatever they are, real sockets carry it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import anyio
from anyio.abc import ByteStream, SocketAttribute
from anyio.streams.tls import TLSStream

BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, ssl.SSLError, OSError)

Serve = Callable[[ByteStream], Awaitable[None]]


@dataclass
class Peer:
    """A listener: its port, and how many connections came and are open."""

    port: int
    came: int = 0
    open: int = 0
    heard: list[bytes] = field(default_factory=list)
    _changed: anyio.Event = field(default_factory=anyio.Event)

    def count(self, *, came: int = 0, open: int = 0) -> None:
        self.came += came
        self.open += open
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[Peer], bool]) -> None:
        with anyio.fail_after(10):
            while not condition(self):
                await self._changed.wait()


@asynccontextmanager
async def peer(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncIterator[Peer]:
    """Listen; each connection is served, then read until its client has left."""
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        found = Peer(listener.extra(SocketAttribute.local_port))

        async def converse(stream: ByteStream) -> None:
            found.count(came=1, open=1)
            try:
                async with stream:
                    raw = stream
                    try:
                        if tls is not None:
                            stream = await TLSStream.wrap(
                                stream, server_side=True, ssl_context=tls, standard_compatible=False
                            )
                        await serve(stream)
                        while True:
                            found.heard.append(await stream.receive())
                            found.count()
                    except BROKEN:
                        await anyio.aclose_forcefully(raw)
            finally:
                found.count(open=-1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, converse)
            yield found
            tasks.cancel_scope.cancel()


async def silence(stream: ByteStream) -> None:
    """Say nothing."""


def saying(data: bytes) -> Serve:
    """Say this at once."""

    async def say(stream: ByteStream) -> None:
        await stream.send(data)

    return say


async def read_head(stream: ByteStream) -> bytes:
    """Read to the end of an HTTP head."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += await stream.receive()
    return head


async def relay(one: ByteStream, other: ByteStream) -> None:
    """Carry bytes both ways until either end leaves."""

    async def carry(source: ByteStream, sink: ByteStream) -> None:
        try:
            while True:
                await sink.send(await source.receive())
        except BROKEN:
            tasks.cancel_scope.cancel()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(carry, one, other)
        tasks.start_soon(carry, other, one)


def tunnel_to(port: int, heads: list[bytes]) -> Serve:
    """An HTTP proxy that connects every CONNECT to ``port`` on loopback, whatever it names."""

    async def serve(stream: ByteStream) -> None:
        heads.append(await read_head(stream))
        async with await anyio.connect_tcp("127.0.0.1", port) as onward:
            await stream.send(b"HTTP/1.1 200 Connection established\r\nProxy-Agent: test\r\n\r\n")
            await relay(stream, onward)

    return serve
