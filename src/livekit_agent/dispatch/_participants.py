"""Participants in other processes: a WebSocket at ``/rooms/v1``, behind it a connection to the rooms in memory.

Whoever comes here has a token with ``roomJoin``; the token also says which room, and as whom.
"""

from __future__ import annotations

from anyio.abc import ByteStream

from ..protocol import Role
from ..protocol._websocket import Requested, WebSocket
from ..rooms import MemoryRooms
from ..rooms._remote_carrier import carry, send
from ._room_line import RoomLine

__all__ = ["serve_participant"]


async def serve_participant(stream: ByteStream, data: bytes, rooms: MemoryRooms, token: str) -> str:
    """Serve one participant to its end, and say why that came.  ``data``: all bytes from the upgrade's first on.

    Afterwards it is in no room, and nothing of it is left, however this ends.  The stream is the caller's to close.
    """
    socket = WebSocket(Role.SERVER)
    # The HTTP conversation has seen the same head, so a fault here is what it lets pass: bytes right behind the head.
    items = list(socket.receive_data(data))
    if not items or not isinstance(items[0], Requested) or not socket.accept_upgrade():
        return "no proper upgrade"
    line = RoomLine(rooms, token)
    try:
        await send(stream, socket.take_outbox())
        return await carry(stream, socket, line, [])
    finally:
        line.close()
