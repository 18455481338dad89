"""What a simulated network makes of a worker's attempt to connect, and what is noted of each connection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel
from anyio.abc import ByteStream

from ..protocol import decode_token
from ._network import SimConnection
from ._seat import Seat
from ._tap import who_am_i

if TYPE_CHECKING:
    from ._world import World

__all__ = ["Exchange"]


class Exchange:
    """All connections of a world."""

    def __init__(self, world: World) -> None:
        self.open = 0
        """Connections of which an end is still open."""
        self._world = world

    async def dial(self, seat: Seat) -> ByteStream:
        """A worker's connector: what the network makes of an attempt to connect."""
        world = self._world
        seat.dials += 1
        label = f"{seat.label}#{seat.dials}"
        who_am_i.set(label)
        world.note(label, "dial")
        await anyio.lowlevel.checkpoint()
        if seat.skew:
            self._tell_dial(seat, "clock_skew")
        while world.now() < seat.hang_until:
            self._tell_dial(seat, "hang_connect")
            await anyio.sleep_until(seat.hang_until)
        if world.now() < seat.refuse_until or world.server is None:
            if world.now() < seat.refuse_until:
                self._tell_dial(seat, "refuse_connect")
            raise ConnectionRefusedError("simulated")
        connection = SimConnection(
            label,
            world.conditions,
            on_delivery=self._on_delivery,
            on_frame=self._on_frame,
            on_fault=self._on_fault,
            on_leave=self._on_leave,
            on_close=self._on_close,
        )
        self.open += 1
        if status := seat.refusal(world.now()):
            self._tell_dial(seat, "http")
            world.tasks.start_soon(_answer_http, connection.server, status)
        else:
            world.server_tasks.start_soon(world.server.serve_stream, connection.server)
        seat.connection = connection
        return connection.client

    def _tell_dial(self, seat: Seat, how: str) -> None:
        for listener in list(seat.on_dial):
            listener(how)

    def _on_delivery(self, connection: SimConnection, direction: str, size: int, kinds: tuple[str, ...]) -> None:
        self._world.note("net", "deliver", direction, "", connection=connection.label, bytes=size, kinds=kinds)

    def _on_frame(self, connection: SimConnection, end: str, kind: str) -> None:
        if kind == "open":
            if not end.startswith("s:"):
                self._note_token(end, connection.request_head)
        else:
            self._world.note(end, "frame", kind)

    def _on_fault(self, connection: SimConnection, how: str, seconds: float) -> None:
        self._world.note("net", "broken", how, "", connection=connection.label, seconds=seconds)

    def _on_leave(self, connection: SimConnection, end: str) -> None:
        self._world.note("net", "broken", "left", "", connection=connection.label, end=end)

    def _on_close(self, connection: SimConnection) -> None:
        self.open -= 1
        peak = max(connection.up.peak, connection.down.peak)
        self._world.note("net", "buffers", "", "", connection=connection.label, line=peak)

    def _note_token(self, end: str, head: bytes) -> None:
        world = self._world
        token = head.partition(b"Bearer ")[2].partition(b"\r\n")[0].decode()
        expires_at = decode_token(token).expires_at
        seat = world.seats[int(end[1:].partition(".")[0])]
        left = 0.0 if expires_at is None else expires_at - world.wall() - seat.skew
        world.note(end, "token", "", "", seconds_left=round(left, 3))


async def _answer_http(stream: ByteStream, status: int) -> None:
    """A proxy's answer in place of the server's."""
    try:
        await stream.receive()
        extra = "Retry-After: 1\r\n" if status in (429, 503) else ""
        head = f"HTTP/1.1 {status} Simulated\r\nContent-Length: 9\r\n{extra}Connection: close\r\n\r\nsimulated"
        await stream.send(head.encode())
        await stream.send_eof()
        while True:
            await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        pass  # whatever became of the worker, the answer is given
    finally:
        await anyio.aclose_forcefully(stream)
