"""The stream without a socket keeps a socket's promises."""

from __future__ import annotations

from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from livekit_agent.dispatch._memory import memory_pipe


async def test_bytes_arrive_in_order_both_ways() -> None:
    one, two = memory_pipe()
    await one.send(b"ping")
    await two.send(b"pong")
    assert await two.receive() == b"ping"
    assert await one.receive(2) == b"po"
    assert await one.receive() == b"ng"


async def test_a_full_pipe_makes_the_sender_wait() -> None:
    one, two = memory_pipe(10)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.send, b"x" * 11)
        await anyio.wait_all_tasks_blocked()
        tasks.cancel_scope.cancel()
    assert await two.receive() == b"x" * 10  # what had gone before the cancellation has gone
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.send, b"y" * 25)
        received = b""
        while len(received) < 25:
            received += await two.receive(7)
    assert received == b"y" * 25


async def test_the_end_of_file_goes_one_way() -> None:
    one, two = memory_pipe()
    await one.send(b"last")
    await one.send_eof()
    assert await two.receive() == b"last"
    with pytest.raises(anyio.EndOfStream):
        await two.receive()
    await two.send(b"still")
    assert await one.receive() == b"still"
    with pytest.raises(anyio.ClosedResourceError):
        await one.send(b"no")


async def test_closing_wakes_the_other_end_and_leaves_what_was_sent() -> None:
    one, two = memory_pipe(4)
    async with anyio.create_task_group() as tasks:

        async def stuck() -> None:
            with pytest.raises(anyio.BrokenResourceError):
                await two.send(b"12345")

        tasks.start_soon(stuck)
        await anyio.wait_all_tasks_blocked()
        await one.send(b"bye")
        await one.aclose()
    assert await two.receive() == b"bye"
    with pytest.raises(anyio.EndOfStream):
        await two.receive()
    for call in (one.receive(), one.send(b"x")):
        with pytest.raises(anyio.ClosedResourceError):
            await call


async def test_closing_ends_ones_own_receive() -> None:
    one, _ = memory_pipe()
    async with anyio.create_task_group() as tasks:

        async def waits() -> None:
            with pytest.raises(anyio.ClosedResourceError):
                await one.receive()

        tasks.start_soon(waits)
        await anyio.wait_all_tasks_blocked()
        await one.aclose()


async def test_two_at_once_are_told() -> None:
    one, _ = memory_pipe()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one.receive)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(anyio.BusyResourceError):
            await one.receive()
        tasks.cancel_scope.cancel()


def test_it_passes_trios_own_checks() -> None:
    """`trio.testing.check_half_closeable_stream`, through the few lines that tell AnyIO's errors as trio's."""
    import trio
    import trio.testing

    class Adapter(trio.abc.HalfCloseableStream):
        def __init__(self, stream: ByteStream) -> None:
            self._stream = stream
            self._closed = False

        async def _translate(self, call: Any) -> Any:
            try:
                return await call
            except anyio.EndOfStream:
                return b""
            except anyio.BusyResourceError as exc:
                raise trio.BusyResourceError from exc
            except anyio.ClosedResourceError as exc:
                raise trio.ClosedResourceError from exc
            except anyio.BrokenResourceError as exc:
                raise trio.BrokenResourceError from exc

        async def send_all(self, data: bytes) -> None:
            await self._translate(self._stream.send(data))

        async def wait_send_all_might_not_block(self) -> None:
            if self._closed:  # AnyIO has no such call; trio's check of it is thus hardly one
                raise trio.ClosedResourceError
            await trio.lowlevel.checkpoint()

        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            if not isinstance(max_bytes, int | None):
                raise TypeError("max_bytes must be a whole number")
            if max_bytes is not None and max_bytes < 1:
                raise ValueError("max_bytes must be >= 1")
            return await self._translate(self._stream.receive(max_bytes or 65536))

        async def send_eof(self) -> None:
            await self._translate(self._stream.send_eof())

        async def aclose(self) -> None:
            self._closed = True
            await self._stream.aclose()

    async def make() -> tuple[Adapter, Adapter]:
        one, two = memory_pipe()
        return Adapter(one), Adapter(two)

    trio.run(trio.testing.check_half_closeable_stream, make, None)
