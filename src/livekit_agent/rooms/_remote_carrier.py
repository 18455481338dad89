"""Messages of the room wire over a WebSocket over a byte stream, in both directions, for either side.

Two tasks: the writer is the only one that sends, and takes from the outbox whatever waits; the reader hands messages to
the end that it was given.  A connection ends when either side is done (Close 1000), at a fault (4002, 4008), or when
the stream breaks.  Both sides say something every 15 s, if only a ping, so 30 s of silence are the other side's death.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Protocol

import anyio
from anyio.abc import ByteStream

from .._bounds import CLOSE_TIMEOUT, DEAD_AFTER_SILENCE, PING_AFTER_SILENCE, READ_BYTES_MAX, WRITE_TIMEOUT
from .._errors import printable
from ..protocol._websocket import Closed, Failed, Item, WebSocket
from ._remote_wire import Outbox

__all__ = ["BROKEN", "End", "carry", "send"]

BROKEN = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
"""What a stream raises when it is over."""


class End(Protocol):
    """One side of a connection, without I/O."""

    @property
    def outbox(self) -> Outbox:
        """What waits to be sent."""
        ...

    @property
    def over(self) -> bool:
        """Whether nothing more is wanted once the outbox is empty."""
        ...

    def receive(self, data: bytes) -> None:
        """A message."""
        ...


async def send(stream: ByteStream, data: bytes) -> None:
    """Write, piece by piece; BrokenResourceError when none of one is taken for 10 s."""
    for start in range(0, len(data), READ_BYTES_MAX):
        with anyio.move_on_after(WRITE_TIMEOUT) as scope:
            await stream.send(data[start : start + READ_BYTES_MAX])
        if scope.cancelled_caught:
            raise anyio.BrokenResourceError


async def carry(stream: ByteStream, socket: WebSocket, end: End, first: list[Item]) -> str:
    """Move messages until the connection is over, and return why.  ``first`` came with the handshake.

    The stream stays open; the caller closes it.  Cancelling leaves no task behind.
    """
    carrier = _Carrier(stream, socket, end)
    return await carrier.run(first)


class _Carrier:
    def __init__(self, stream: ByteStream, socket: WebSocket, end: End) -> None:
        self._stream = stream
        self._socket = socket
        self._end = end
        self._due = anyio.Event()
        self._why = ""
        self._closed = False

    async def run(self, first: list[Item]) -> str:
        self._end.outbox.wake = self._wake
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._write, tasks.cancel_scope)
                if not self._take(first):
                    await self._read()
                tasks.cancel_scope.cancel()
        finally:
            self._end.outbox.wake = lambda: None
        with anyio.move_on_after(CLOSE_TIMEOUT):
            # The answer to a Close, if there is one and somebody still waits for it.
            with suppress(*BROKEN):
                await send(self._stream, self._socket.take_outbox())
        return self._why

    def _wake(self) -> None:
        self._due.set()

    def _over(self, why: str) -> None:
        self._why = self._why or why

    # --- in -------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            try:
                with anyio.fail_after(DEAD_AFTER_SILENCE):
                    data = await self._stream.receive(READ_BYTES_MAX)
            except TimeoutError:
                return self._over(f"nothing was heard for {DEAD_AFTER_SILENCE:g} s")
            except BROKEN:
                return self._over("the connection was closed")
            if self._take(list(self._socket.receive_data(data))):
                return None

    def _take(self, items: list[Item]) -> bool:
        """What came; True when it was the last."""
        for item in items:
            match item:
                case bytes() as payload:
                    self._end.receive(payload)
                case str():
                    self._end.outbox.fail(4002, "a message of text")
                case Closed(code=code, reason=reason):
                    self._closed = True
                    self._over("closed by the other side" + f" ({code} {printable(reason, 120)})" * (code != 1000))
                    return True
                case Failed(reason=reason):
                    self._closed = True
                    self._over(f"the other side broke the protocol: {printable(reason, 120)}")
                    return True
                case _:
                    pass
        if self._socket.outbox_bytes:
            self._wake()  # a pong
        return False

    # --- out ------------------------------------------------------------------------------------------------------

    async def _write(self, connection: anyio.CancelScope) -> None:
        try:
            while not await self._write_next():
                pass
            # Our Close is on its way; the reader sees the answer, or the end of the stream.
            await anyio.sleep(CLOSE_TIMEOUT)
        except BROKEN:
            self._over("the connection was closed")
        connection.cancel()

    async def _write_next(self) -> bool:
        """Send what is next, or wait for it; True when it was our Close."""
        outbox, socket = self._end.outbox, self._socket
        if self._closed:
            return True  # woken by what came with the other side's Close
        self._due = anyio.Event()
        message = outbox.take()
        # Asked before anything is awaited: what changes while this is being sent is for the next turn.
        closing = message is None and (outbox.fault is not None or self._end.over)
        if message is not None:
            socket.send_message(message)
        elif outbox.fault is not None:
            self._over(outbox.fault.reason)
            socket.send_close(outbox.fault.code, outbox.fault.reason)
        elif closing:
            self._over("the room is over")
            socket.send_close(1000, "")
        elif not socket.outbox_bytes:
            # No checkpoint between the look and the wait: what comes cannot be missed.
            with anyio.move_on_after(PING_AFTER_SILENCE):
                await self._due.wait()
                return False
            socket.send_ping()
        await send(self._stream, socket.take_outbox())
        return closing
