"""What is fuzzed: plain functions of bytes that raise on anything outside the documented list.

No atheris here: the committed corpus is replayed by ordinary tests.  Each target makes its parser anew, feeds it, and
catches exactly what the parser's documentation says it may raise.  Where two ways must agree (the bytes cut otherwise,
encoded and decoded again), that is asserted, because a fuzzer finds nothing but exceptions.

To add one: a function, a row in ``TARGETS``, a file or two in ``corpus/<name>/``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import anyio
import anyio.lowlevel

import livekit_agent.protocol._codec as codec
import livekit_agent.rooms._remote_wire as wire
from livekit_agent import Job, JobType, ParticipantPermissions, RoomInfo
from livekit_agent.dispatch._access import Refusal, authenticate, judge_upgrade
from livekit_agent.dispatch._core import DispatchCore
from livekit_agent.dispatch._http import BodyAhead, Ended, Fault, HttpConversation, NeedBody, NeedHead, Request, Upgrade
from livekit_agent.dispatch._room_line import RoomLine
from livekit_agent.dispatch._rooms import Desk, RoomBook
from livekit_agent.dispatch._routes import answer
from livekit_agent.dispatch._services import services
from livekit_agent.dispatch._twirp import Twirp
from livekit_agent.protocol import (
    JobBook,
    Registration,
    ServerInfo,
    SignalConnection,
    TokenError,
    UpgradeRequested,
    decode_token,
    mint_token,
    verify_token,
)
from livekit_agent.protocol._connection import SignalConnection as Connection
from livekit_agent.protocol._state import Role
from livekit_agent.protocol._websocket import Closed, Failed, Item, WebSocket
from livekit_agent.rooms import MemoryRooms, Room
from livekit_agent.rooms._proto import ffi
from livekit_agent.rooms._proto import room as room_pb
from livekit_agent.rooms._remote_transport import RemoteTransport
from livekit_agent.rooms._room import join
from livekit_agent.rooms._transport import owned_handles
from livekit_agent.rooms._wire import participant_info, room_info

__all__ = ["TARGETS"]

KEY, SECRET = "devkey", "secretsecretsecretsecretsecret32"
KEYS = {KEY: SECRET}
WALL = 1_700_000_000.0

_REQUEST = (
    b"GET /agent HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)


# ------------------------------------------------------------------------------------------------ frames


def frames_to_worker(data: bytes) -> None:
    """Frames that a server sends."""
    _same_however_cut(_client_socket, data)


def frames_to_server(data: bytes) -> None:
    """Frames that a worker sends."""
    _same_however_cut(_server_socket, data)


def _client_socket() -> WebSocket:
    socket = WebSocket(Role.WORKER)
    socket.request_upgrade("h", "/agent", {})
    list(socket.receive_data(_switching(socket.take_outbox())))
    return socket


def _server_socket() -> WebSocket:
    socket = WebSocket(Role.SERVER)
    list(socket.receive_data(_REQUEST))
    assert socket.accept_upgrade()
    socket.take_outbox()
    return socket


def _switching(request: bytes) -> bytes:
    """The 101 to an upgrade request."""
    key = request.partition(b"Sec-WebSocket-Key: ")[2].partition(b"\r\n")[0]
    accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    return (
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "
        + accept
        + b"\r\n\r\n"
    )


def _same_however_cut(make: Callable[[], WebSocket], data: bytes) -> None:
    whole = _items(make(), [data])
    assert whole == _items(make(), [data[i : i + 1] for i in range(len(data))]), "byte by byte it says something else"
    cut = len(data) // 2
    assert whole == _items(make(), [data[:cut], data[cut:]]), "in two pieces it says something else"


def _items(socket: WebSocket, pieces: list[bytes]) -> list[Item]:
    items: list[Item] = []
    for piece in pieces:
        for item in socket.receive_data(piece):
            assert not (items and isinstance(items[-1], Closed | Failed)), "something after the end"
            items.append(item)
        socket.take_outbox()
    return items


# ------------------------------------------------------------------------------------------------ messages


def codec_binary(data: bytes) -> None:
    """A protobuf message from either side: decoded or Undecodable, and the same after encoding."""
    for speaker, message in _messages():
        try:
            decoded = codec.decode(speaker, data, wall=WALL)
        except codec.Undecodable:
            continue
        message.ParseFromString(data)
        again = codec.serialize(message)
        # NaN is not equal to itself; its text is.
        assert repr(codec.decode(speaker, again, wall=WALL)) == repr(decoded), "not the same after encoding"


def codec_json(data: bytes) -> None:
    """The same as protobuf-JSON."""
    text = data.decode("utf-8", "replace")
    for speaker, _ in _messages():
        try:
            codec.decode(speaker, text, wall=WALL)
        except codec.Undecodable:
            continue


def _messages() -> list[tuple[Role, Any]]:
    from livekit.protocol import agent as pb

    return [(Role.WORKER, pb.WorkerMessage()), (Role.SERVER, pb.ServerMessage())]


def conversation_of_worker(data: bytes) -> None:
    """A registered worker hears messages, each with two bytes of length before it."""
    socket = _server_socket()
    connection = SignalConnection.worker(
        host="h",
        target="/agent",
        token="t",
        registration=Registration(job_type=0),
        book=JobBook(2),
        now=0.0,
        wall=WALL,
    )
    connection.receive_data(_switching(connection.data_to_send()), 0.0)
    socket.send_message(codec.serialize(codec.registered("AW_1", ServerInfo())))
    _hear(connection, socket, data)


def conversation_of_server(data: bytes) -> None:
    """A server with a registered worker hears messages, each with two bytes of length before it."""
    socket = _client_socket()
    connection = SignalConnection.server(now=0.0, wall=WALL)
    connection.receive_data(_REQUEST, 0.0)
    assert connection.accept_upgrade(0.0)
    _hear(connection, socket, data)


def _hear(connection: Connection, peer: WebSocket, data: bytes) -> None:
    now = 0.0
    while not connection.finished:
        connection.receive_data(peer.take_outbox() or b"\x89\x00", now)
        _answer_events(connection, now)
        connection.data_to_send()
        if len(data) < 2:
            break
        kind, size, data = data[0], data[1], data[2:]
        payload, data = data[:size], data[size:]
        now += (kind >> 1) / 16
        connection.handle_timeout(now)
        peer.send_message(payload.decode("utf-8", "replace") if kind & 1 else payload)
    connection.receive_eof(now)
    assert connection.finished


def _answer_events(connection: Any, now: float) -> None:
    from livekit_agent import JobMetadata
    from livekit_agent.protocol import AvailabilityReceived, JobOffered, RegisterReceived

    while events := connection.events():
        for event in events:
            if isinstance(event, JobOffered):
                connection.accept(event.job.id, JobMetadata(), now)
            elif isinstance(event, RegisterReceived) and not connection.finished:
                connection.registered("AW_1", ServerInfo(), now)
            elif isinstance(event, AvailabilityReceived):
                raise AssertionError("nothing was offered")


# ------------------------------------------------------------------------------------------------ handshakes


def handshake_to_worker(data: bytes) -> None:
    """A server's answer to the upgrade."""
    _drive_worker([data], data)
    _drive_worker([data[:1], data[1:]], data)


def _drive_worker(pieces: list[bytes], data: bytes) -> None:
    connection = SignalConnection.worker(
        host="h",
        target="/agent",
        token="t",
        registration=Registration(job_type=0),
        book=JobBook(),
        now=0.0,
        wall=WALL,
    )
    accept = _switching(connection.data_to_send())
    # The right Sec-WebSocket-Accept depends on a random key: it stands in the corpus as the letter A in brackets.
    value = accept.rpartition(b": ")[2].strip()
    for piece in pieces:
        if not connection.finished:
            connection.receive_data(piece.replace(b"[A]", value), 0.0)
            connection.events()
            connection.data_to_send()
    connection.receive_eof(0.0)
    assert connection.finished


def handshake_to_server(data: bytes) -> None:
    """A worker's upgrade request, and what it sends behind it."""
    for pieces in ([data], [data[: len(data) // 2], data[len(data) // 2 :]]):
        connection = SignalConnection.server(now=0.0, wall=WALL)
        for piece in pieces:
            if connection.finished:
                break
            connection.receive_data(piece, 0.0)
            for event in connection.events():
                if isinstance(event, UpgradeRequested):
                    verdict = judge_upgrade(event.method, event.headers, event.query, KEYS, wall=WALL)
                    if not isinstance(verdict, Refusal) or not connection.accept_upgrade(0.0):
                        connection.reject_upgrade(400, b"no", {}, 0.0)
            connection.data_to_send()
        connection.receive_eof(0.0)
        assert connection.finished


# ------------------------------------------------------------------------------------------------ HTTP


def http_requests(data: bytes) -> None:
    """Requests on a keep-alive connection, answered by the routes."""
    http = HttpConversation(wall=WALL)
    http.receive_data(data)
    http.receive_data(b"")
    for _ in range(50):
        match step := http.step():
            case BodyAhead():
                authenticate(step.request.headers, step.request.query, KEYS, wall=WALL)
            case Upgrade():
                verdict = judge_upgrade(step.request.method, step.request.headers, step.request.query, KEYS, wall=WALL)
                if not isinstance(verdict, Refusal):
                    return  # a worker's connection from here on
            case Request():
                http.respond(answer(step, _twirp(), KEYS, wall=WALL))
                if not http.keep_alive:
                    return
            case Fault() | Ended() | NeedHead() | NeedBody():
                return


def twirp_calls(data: bytes) -> None:
    """A call with all grants: the first byte chooses the method, the second the encoding, the rest is the body."""
    if len(data) < 2:
        return
    paths = [f"/twirp/{service}/{name}" for service, methods in _services().items() for name in methods]
    request = Request(
        method="POST",
        path=paths[data[0] % len(paths)],
        headers={
            "content-type": "application/json" if data[1] & 1 else "application/protobuf",
            "authorization": f"Bearer {_admin_token()}",
        },
        body=data[2:],
    )
    response = answer(request, _twirp(), KEYS, wall=WALL)
    assert response.status != 500, response.body


class _Rooms(MemoryRooms):
    """Rooms on a clock that stands still: no event loop runs here."""

    def now(self) -> float:
        return 0.0


@cache
def _admin_token() -> str:
    grants = dict.fromkeys(("roomCreate", "roomList", "roomAdmin", "agent"), True)
    return mint_token(KEY, SECRET, wall=WALL, video={**grants, "room": "r"})


def _services() -> Mapping[str, Mapping[str, Any]]:
    # Anew for each input: what one leaves behind must not decide what the next one finds.
    def now() -> tuple[float, float]:
        return 0.0, WALL

    rooms = _Rooms(KEYS, rng=random.Random(0), wall_clock=lambda: WALL)
    core = DispatchCore(keys=KEYS, rng=random.Random(0))
    book = RoomBook(rooms, core, clock=now, settle=lambda: None)
    book.open()
    return services(book, Desk(core, clock=now, settle=lambda: None))


def _twirp() -> Twirp:
    return Twirp(_services())


# ------------------------------------------------------------------------------------------------ tokens, metadata


def tokens(data: bytes) -> None:
    """A token: as it is, and as the claims of one that is signed properly."""
    raw = data.decode("latin-1")
    for token in (raw, _signed(data)):
        for check in (decode_token, lambda token: verify_token(token, KEYS, wall=WALL)):
            try:
                claims = check(token)
            except TokenError as exc:
                if len(token) >= 20 and token in str(exc):
                    raise ValueError("the error repeats the token") from None
            else:
                claims.grants("agent")
                assert token not in repr(claims)
    authenticate({"authorization": raw}, raw, KEYS, wall=WALL)


def _signed(payload: bytes) -> str:
    def part(value: bytes) -> bytes:
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    body = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(payload)
    return (body + b"." + part(hmac.digest(SECRET.encode(), body, "sha256"))).decode()


@dataclass(frozen=True)
class _Wanted:
    name: str = ""
    count: int = 0
    tags: tuple[str, ...] = field(default=())


def job_metadata(data: bytes) -> None:
    """Metadata of a job, parsed for a handler: a value or ValueError."""
    job = Job(id="AJ_1", type=JobType.ROOM, room=RoomInfo(), metadata=data.decode("utf-8", "surrogateescape"))
    with suppress(ValueError):
        job.metadata_json()
    with suppress(ValueError):
        assert isinstance(job.metadata_as(_Wanted), _Wanted)


# ------------------------------------------------------------------------------------------------ rooms from afar


def room_wire(data: bytes) -> None:
    """A message of the room wire: taken apart or WireError, and the same bytes when put together again."""
    try:
        frame = wire.decode(data, wire.REQUEST, wire.EVENT, wire.DROP, wire.REFUSED, wire.FEEDBACK)
    except wire.WireError:
        return
    assert wire.encode(*frame) == data, "not the same after encoding"
    for kind in (ffi.FfiRequest, ffi.FfiEvent):
        with suppress(wire.WireError):
            message = wire.parse(kind, frame.body)
            list(wire.pointers(message))
            list(wire.owned_buffers(message))
            list(owned_handles(message))


def room_requests(data: bytes) -> None:
    """A participant in a server's room sends messages, each with two bytes of length before it."""
    # On trio an error in a callback of the loop's ends the run: asyncio logs it and goes on.
    anyio.run(_ask_the_room, data, backend="trio")


async def _ask_the_room(data: bytes) -> None:
    rooms = _Rooms(rng=random.Random(0), wall_clock=lambda: WALL)
    lines = [_joined(rooms, identity) for identity in ("ada", "bob")]
    await anyio.lowlevel.checkpoint()
    for piece in _pieces(data):
        lines[0].receive(piece)
        await anyio.lowlevel.checkpoint()
        for line in lines:
            while (message := line.outbox.take()) is not None:
                frame = _sent(message)
                assert frame.kind != wire.EVENT or wire.parse(ffi.FfiEvent, frame.body)
    assert lines[1].outbox.fault is None, "a neighbour pays for it"
    lines[0].close()
    await anyio.lowlevel.checkpoint()
    assert lines[0].live_handles == 0
    assert [person.identity for person in rooms.participants("r")] == ["bob"]


def _joined(rooms: MemoryRooms, identity: str) -> RoomLine:
    """Handles 1 and 2 are the room and the local participant."""
    grants = {"roomJoin": True, "room": "r", "canUpdateOwnMetadata": True}
    line = RoomLine(rooms, mint_token(KEY, SECRET, wall=WALL, video=grants, identity=identity))
    connect = room_pb.ConnectRequest(url="", token="", options=room_pb.RoomOptions(), request_async_id=1)
    ready = room_pb.ReadyForRoomEventRequest(room_handle=1)
    for request in (ffi.FfiRequest(connect=connect), ffi.FfiRequest(ready_for_room_event=ready)):
        line.receive(wire.encode(wire.REQUEST, 0, request.SerializeToString()))
    return line


def _sent(message: bytes) -> wire.Frame:
    return wire.decode(message, wire.EVENT, wire.REFUSED, wire.FEEDBACK)


def _pieces(data: bytes) -> Iterator[bytes]:
    while len(data) >= 2:
        size = int.from_bytes(data[:2], "big")
        yield data[2 : 2 + size]
        data = data[2 + size :]


def room_events(data: bytes) -> None:
    """A participant hears messages from its room's server, each with two bytes of length before it."""
    anyio.run(_hear_the_room, data)


async def _hear_the_room(data: bytes) -> None:
    transport = RemoteTransport()
    async with anyio.create_task_group() as tasks:
        rooms: list[Room] = []

        async def enter() -> None:
            rooms.append(await join(transport, "", "t"))

        tasks.start_soon(enter)
        await anyio.lowlevel.checkpoint()
        transport.receive(wire.encode(wire.EVENT, 0, _welcome().SerializeToString()))
    for piece in _pieces(data):
        if transport.outbox.fault is None:
            transport.receive(piece)
            await anyio.lowlevel.checkpoint()
    transport.lost("the end")
    assert not rooms[0].is_open
    assert not transport.router.room_handles


def _welcome() -> ffi.FfiEvent:
    rooms = _Rooms(rng=random.Random(0), wall_clock=lambda: WALL)
    me = rooms.ledger.join("r", "ada", now=0.0, wall=WALL, permissions=ParticipantPermissions())
    record = rooms.ledger.room("r")
    assert record is not None
    event = ffi.FfiEvent(connect=room_pb.ConnectCallback(async_id=1))
    event.connect.result.room.handle.id = 1
    event.connect.result.room.info.CopyFrom(room_info(record, [me], (0, 0)))
    event.connect.result.local_participant.handle.id = 2
    event.connect.result.local_participant.info.CopyFrom(participant_info(me, state=0))
    return event


#: Every target by its name.
TARGETS: Mapping[str, Callable[[bytes], None]] = {
    target.__name__: target
    for target in (
        frames_to_worker,
        frames_to_server,
        codec_binary,
        codec_json,
        conversation_of_worker,
        conversation_of_server,
        handshake_to_worker,
        handshake_to_server,
        http_requests,
        twirp_calls,
        tokens,
        job_metadata,
        room_wire,
        room_requests,
        room_events,
    )
}
