"""Frames without a socket: whole binary messages past wsproto, beside ``wsproto.Connection``.  No task, no clock."""

from __future__ import annotations

import time
from collections.abc import Callable

from wsproto import Connection, ConnectionType
from wsproto.events import BytesMessage

from livekit_agent.protocol import Role
from livekit_agent.protocol._websocket import WebSocket

from .report import Figure, p50

BURST = 200


def opened() -> tuple[WebSocket, WebSocket]:
    """A client and a server past their handshake."""
    client, server = WebSocket(Role.WORKER), WebSocket(Role.SERVER)
    client.request_upgrade("h", "/agent", {})
    list(server.receive_data(client.take_outbox()))
    server.accept_upgrade()
    list(client.receive_data(server.take_outbox()))
    return client, server


def _turns(ours: Callable[[], object], theirs: Callable[[], object], rounds: int, each: int) -> tuple[float, float]:
    """Microseconds of processor time per call, in turns."""
    spent: dict[Callable[[], object], list[float]] = {ours: [], theirs: []}
    for _ in range(rounds):
        for call, times in spent.items():
            began = time.process_time()
            for _ in range(each):
                call()
            times.append((time.process_time() - began) / each * 1e6)
    return p50(spent[ours]), p50(spent[theirs])


def _parse(size: int, count: int) -> tuple[Callable[[], object], Callable[[], object]]:
    client, server = opened()
    for _ in range(count):
        server.send_message(bytes(size))
    data = server.take_outbox()
    wsproto = Connection(ConnectionType.CLIENT)

    def theirs() -> None:
        wsproto.receive_data(data)
        list(wsproto.events())

    return lambda: list(client.receive_data(data)), theirs


def _send(size: int, count: int) -> tuple[Callable[[], object], Callable[[], object]]:
    client, _ = opened()
    wsproto, payload = Connection(ConnectionType.CLIENT), bytes(size)

    def ours() -> None:
        for _ in range(count):
            client.send_message(payload)
        client.take_outbox()

    def theirs() -> None:
        for _ in range(count):
            wsproto.send(BytesMessage(payload))

    return ours, theirs


def measure(smoke: bool) -> list[Figure]:
    rounds, each = (3, 20) if smoke else (21, 500)
    rows = (
        ("a plain frame of 100 B parsed", _parse(100, 1), 1, 10.0),
        ("a masked frame of 100 B built", _send(100, 1), 1, 3.5),
        ("a masked frame of 10 kB built", _send(10_000, 1), 1, 4.0),
        (f"a plain frame of 100 B parsed, {BURST} in one read", _parse(100, BURST), BURST, 8.0),
        (f"a masked frame of 100 B built, {BURST} in one write", _send(100, BURST), BURST, 8.0),
    )
    figures: list[Figure] = []
    for what, (ours, theirs), count, times in rows:
        mine, floor = _turns(ours, theirs, rounds, max(each // count, 3))
        figures.append(
            Figure(
                what=f"{what} (beside wsproto)",
                backend="none",
                ours=mine / count,
                floor=floor / count,
                unit="µs",
                goal=f"≤ 1/{times:g} of wsproto's",
                met=mine * times <= floor,
            )
        )
    return figures
