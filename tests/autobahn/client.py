"""The client under test: our transport and our WebSocket layer, with an echo in place of the codec.

``NetworkConnector`` makes the stream, ``protocol._websocket.WebSocket`` speaks; what is written here is only the loop
between the two, as in ``runtime/_session.py``, and the echo.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from urllib.parse import quote

import anyio
from anyio.abc import ByteStream

from livekit_agent.protocol._state import Role
from livekit_agent.protocol._websocket import Closed, Failed, Item, WebSocket
from livekit_agent.runtime._transport import Endpoint, NetworkConnector

_READ_BYTES = 65536
_LINGER = 2.0
"""Seconds that the peer has to close the stream after the Close frames: who drops first loses the peer's verdict."""


async def converse(port: int, target: str, hear: Callable[[WebSocket, bytes | str], None]) -> Item | None:
    """One connection, until it ends; ``hear`` may answer a message.  Returns how it ended, None for a bare end."""
    endpoint = Endpoint(host="127.0.0.1", port=port, tls=False, target=target)
    stream = await NetworkConnector()(endpoint)
    async with stream:
        socket = WebSocket(Role.WORKER)
        socket.request_upgrade(endpoint.authority, target, {})
        last = await _serve(stream, socket, hear)
        if last is not None:
            with anyio.move_on_after(_LINGER):
                await _drain(stream)
        return last


async def _serve(stream: ByteStream, socket: WebSocket, hear: Callable[[WebSocket, bytes | str], None]) -> Item | None:
    try:
        while True:
            if data := socket.take_outbox():
                await stream.send(data)
            last = _take(socket.receive_data(await stream.receive(_READ_BYTES)), socket, hear)
            if last is not None:
                await stream.send(socket.take_outbox())
                return last
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return None


def _take(items: Iterator[Item], socket: WebSocket, hear: Callable[[WebSocket, bytes | str], None]) -> Item | None:
    last = None
    for item in items:
        if isinstance(item, bytes | str):
            hear(socket, item)
        elif isinstance(item, Closed | Failed):
            last = item
    return last


async def _drain(stream: ByteStream) -> None:
    try:
        while True:
            await stream.receive(_READ_BYTES)
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        pass


def echo(socket: WebSocket, message: bytes | str) -> None:
    """What the suite wants of a client under test."""
    socket.send_message(message)


async def run_cases(port: int, agent: str) -> int:
    """All cases, and the order to write the report.  Returns how many there were."""
    counts: list[int] = []
    await converse(port, "/getCaseCount", lambda _, message: counts.append(int(message.payload)))
    for number in range(1, counts[0] + 1):
        await converse(port, f"/runCase?case={number}&agent={quote(agent)}", echo)
    await converse(port, f"/updateReports?agent={quote(agent)}", echo)
    return counts[0]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--backend", choices=["trio", "asyncio"], required=True)
    arguments = parser.parse_args()
    agent = f"livekit-agent-sdk on {arguments.backend}"
    print(agent, anyio.run(run_cases, arguments.port, agent, backend=arguments.backend), "cases")
    return 0


if __name__ == "__main__":
    sys.exit(main())
