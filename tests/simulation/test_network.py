"""The simulated network keeps a socket's promises: trio's stream checks judge it, and the dispatch server's pipe."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
import trio
import trio.testing
from anyio.abc import ByteStream

from livekit_agent.dispatch._memory import memory_pipe
from livekit_agent.simulation._frames import WINDOW, FrameReader
from livekit_agent.simulation._network import Conditions, SimConnection, sim_pipe

from .trio_streams import TrioStream

Pair = tuple[TrioStream, TrioStream]


def simulated() -> tuple[ByteStream, ByteStream]:
    conditions = Conditions(random.Random("network"), trio.current_time)
    conditions.latency = (0.0, 0.0)  # the checks look at once
    return sim_pipe(conditions)


async def simulated_is_writable(stream: Any) -> None:
    while stream._check() or stream._outgoing.full:
        await stream._outgoing.wait_room()


async def memory_is_writable(stream: Any) -> None:
    while stream._check_sendable() or len(stream._outgoing.data) >= stream._outgoing.limit:
        await stream._outgoing.wait_change()


def adapted(stream: ByteStream) -> TrioStream:
    is_writable = memory_is_writable if "Memory" in type(stream).__name__ else simulated_is_writable
    return TrioStream(stream, lambda: is_writable(stream))


MAKERS: dict[str, tuple[Callable[[], tuple[ByteStream, ByteStream]], int]] = {
    "simulated": (simulated, WINDOW),
    "memory pipe": (lambda: memory_pipe(1_000), 1_000),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("check", [trio.testing.check_two_way_stream, trio.testing.check_half_closeable_stream])
def test_trio_finds_nothing_wrong_with_the_stream(name: str, check: Callable[..., Awaitable[None]]) -> None:
    make, window = MAKERS[name]

    async def pair() -> Pair:
        left, right = make()
        return adapted(left), adapted(right)

    async def clogged() -> Pair:
        left, right = make()
        await left.send(b"x" * window)
        await right.send(b"x" * window)
        return adapted(left), adapted(right)

    trio.run(check, pair, clogged)


def connection(latency: float = 0.0) -> SimConnection:
    conditions = Conditions(random.Random("network"), anyio.current_time)
    conditions.latency = (latency, latency)
    return SimConnection("test", conditions)


@pytest.mark.virtual
async def test_bytes_take_their_time() -> None:
    link = connection(latency=0.5)
    await link.client.send(b"hello")
    assert await link.server.receive() == b"hello"
    assert anyio.current_time() == 0.5


@pytest.mark.virtual
async def test_a_stall_delivers_late_and_in_order() -> None:
    link = connection()
    link.up.stall(until=3.0)
    await link.client.send(b"one ")
    await link.client.send(b"two")
    received = b""
    while len(received) < 7:
        received += await link.server.receive()
    assert (received, anyio.current_time()) == (b"one two", 3.0)


@pytest.mark.virtual
async def test_a_choke_makes_the_sender_wait() -> None:
    link = connection()
    link.choke(4.0, anyio.current_time())
    await link.client.send(b"late")
    assert anyio.current_time() == 4.0


@pytest.mark.virtual
async def test_dribbled_bytes_come_in_pieces_of_one_to_five() -> None:
    link = connection()
    link._conditions.dribble = True
    await link.client.send(b"x" * 50)
    pieces = []
    while sum(pieces) < 50:
        pieces.append(len(await link.server.receive(5)))
    assert len(pieces) >= 10


@pytest.mark.virtual
async def test_a_reset_breaks_both_ends() -> None:
    link = connection()
    link.reset()
    for end in (link.client, link.server):
        with pytest.raises(anyio.BrokenResourceError):
            await end.send(b"x")
        with pytest.raises(anyio.BrokenResourceError):
            while True:
                await end.receive()


@pytest.mark.virtual
async def test_a_half_close_ends_one_direction_and_swallows_what_is_sent_behind_it() -> None:
    link = connection()
    link.half_close(up=True)
    await link.client.send(b"lost")
    with pytest.raises(anyio.EndOfStream):
        await link.server.receive()
    await link.server.send(b"found")
    assert await link.client.receive() == b"found"


def test_a_frame_reader_names_what_passes_however_it_is_cut() -> None:
    head = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
    frames = [b"\x89\x00", b"\x82\x02\x1a\x00", b"\x82\x00", b"\x88\x02\x03\xe8"]
    stream = head + b"".join(frames)
    for size in (1, 3, len(stream)):
        reader = FrameReader(server=True)
        kinds: list[str] = []
        for start in range(0, len(stream), size):
            kinds += reader.feed(stream[start : start + size])
        assert kinds == ["open", "ping", "assignment", "unknown", "close"]


def test_a_frame_reader_unmasks_what_a_worker_says() -> None:
    reader = FrameReader(server=False)
    mask = b"\x01\x02\x03\x04"
    body = bytes(byte ^ mask[i % 4] for i, byte in enumerate(b"\x12\x00"))
    assert reader.feed(b"GET /agent HTTP/1.1\r\n\r\n\x82\x82" + mask + body) == ("open", "answer")


def test_a_frame_reader_gives_up_on_garbage() -> None:
    reader = FrameReader(server=True)
    assert reader.feed(b"HTTP/1.1 101 x\r\n\r\n\xff\x00") == ("open", "garbage")
    assert reader.feed(b"\x89\x00") == ()
