"""Participants in other processes, over a pair of buffers: versions, strangers, silence, ends of either side."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from anyio.abc import TaskStatus
from wsproto.connection import Connection, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping

from livekit_agent import RoomClosedError, RoomConnectError, ServerRooms, events
from livekit_agent._bounds import PING_AFTER_SILENCE
from livekit_agent.dispatch import DispatchServer
from livekit_agent.dispatch._memory import memory_pipe
from livekit_agent.dispatch._room_line import RoomLine
from livekit_agent.protocol import Role, mint_token
from livekit_agent.protocol._websocket import Accepted, Closed, WebSocket
from livekit_agent.rooms import DisconnectReason, MemoryRooms, Room
from livekit_agent.rooms import _remote_wire as wire
from livekit_agent.rooms._proto import ffi
from livekit_agent.rooms._proto import room as room_pb
from livekit_agent.rooms._remote_carrier import carry

KEY, SECRET = "devkey", "secretsecretsecretsecretsecret32"

pytestmark = pytest.mark.virtual


def token(identity: str, **grants: object) -> str:
    return mint_token(KEY, SECRET, wall=time.time(), video={"roomJoin": True, "room": "r", **grants}, identity=identity)


@asynccontextmanager
async def serving() -> AsyncIterator[tuple[DispatchServer, ServerRooms]]:
    async with DispatchServer(port=None, api_key=KEY, api_secret=SECRET) as server:
        async with ServerRooms("ws://127.0.0.1", connector=server.memory_connector()) as rooms:
            yield server, rooms


def people(server: DispatchServer) -> list[str]:
    return [person.identity for person in server.rooms.participants("r")]


async def until(condition: Callable[[], bool]) -> None:
    """Rooms have no event for everything; here a look costs no time."""
    with anyio.fail_after(60):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


def asking(*buffers: bytes, **request: Any) -> bytes:
    return wire.encode(wire.REQUEST, 0, ffi.FfiRequest(**request).SerializeToString(), buffers)


class Stranger:
    """A client of the wire that is no client of ours."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.socket = WebSocket(Role.WORKER)
        self.heard: list[Any] = []

    @classmethod
    async def knock(cls, server: DispatchServer, bearer: str) -> Stranger:
        self = cls(await server.memory_connector()(None))
        self.socket.request_upgrade("h", wire.PATH, {"authorization": f"Bearer {bearer}"})
        await self.flush()
        assert isinstance(await self.hear(Accepted), Accepted)
        return self

    async def flush(self) -> None:
        await self.stream.send(self.socket.take_outbox())

    async def say(self, message: bytes) -> None:
        self.socket.send_message(message)
        await self.flush()

    async def ask(self, **message: Any) -> None:
        await self.say(asking(**message))

    async def join(self) -> None:
        await self.ask(
            connect=room_pb.ConnectRequest(url="", token="", options=room_pb.RoomOptions(), request_async_id=1)
        )

    async def hear(self, kind: type) -> Any:
        while True:
            for item in self.heard:
                if isinstance(item, kind):
                    self.heard.remove(item)
                    return item
            self.heard += self.socket.receive_data(await self.stream.receive())


async def test_the_room_and_the_identity_are_the_tokens_whatever_the_request_says() -> None:
    async with serving() as (server, _):
        stranger = await Stranger.knock(server, token("ada"))
        other = mint_token(KEY, SECRET, wall=time.time(), video={"roomJoin": True, "room": "x"}, identity="eve")
        connect = room_pb.ConnectRequest(url="", token=other, options=room_pb.RoomOptions(), request_async_id=1)
        await stranger.ask(connect=connect)
        await until(lambda: people(server) == ["ada"])
        assert [room.name for room in server.rooms.list_rooms()] == ["r"]


async def test_a_token_of_wrong_types_is_refused_at_the_door() -> None:
    async with serving() as (server, rooms):
        for bad in (token("eve", canPublishSources=[["camera"]]), token("eve", canPublish="no")):
            with pytest.raises(RoomConnectError, match="HTTP 401: invalid token: grant 'canPublish"):
                await rooms.join(bad)
            with pytest.raises(RoomConnectError, match="401 Unauthorized"):
                await server.rooms.connect(server.url, bad)
        assert people(server) == []


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        (b"", "shorter than its head"),
        (wire.encode(wire.EVENT, 0), "a message of kind 2"),
        (wire.encode(wire.REQUEST, 0, b"\xff"), "no FfiRequest"),
        (wire.encode(wire.REQUEST, 5, ffi.FfiRequest(dispose={"async": True}).SerializeToString()), "a handle where"),  # type: ignore[arg-type]
    ],
)
async def test_who_breaks_the_format_is_sent_away_and_leaves_the_room(message: bytes, reason: str) -> None:
    async with serving() as (server, rooms), await rooms.join(token("bob")) as bob:
        stranger = await Stranger.knock(server, token("ada"))
        await stranger.join()
        await until(lambda: "ada" in people(server))
        await stranger.say(message)
        closed = await stranger.hear(Closed)
        assert (closed.code, closed.reason.startswith(reason)) == (4002, True)
        await stranger.flush()
        await until(lambda: people(server) == ["bob"])
        assert bob.is_open


async def test_half_a_character_in_a_token_is_replaced_and_harms_nobody() -> None:
    video = {"roomJoin": True, "room": "\ud800", "canPublishSources": ["\ud800"]}
    half = mint_token(KEY, SECRET, wall=time.time(), video=video, identity="i\ud800", name="\udc00", metadata="\ud83d")
    async with serving() as (server, rooms), await rooms.join(half) as room:
        me = room.local_participant
        assert (room.name, me.identity, me.name, me.metadata) == ("\ufffd", "i\ufffd", "\ufffd", "\ufffd")
        assert [room.name for room in server.rooms.list_rooms()] == ["\ufffd"]
        async with await rooms.join(token("ada")):
            assert people(server) == ["ada"]


async def test_a_join_that_makes_no_sense_to_the_rooms_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving() as (server, rooms):
        monkeypatch.setattr(server.rooms, "admit", lambda *_: {}["nobody"])
        with pytest.raises(RoomConnectError, match="makes no sense"):
            await rooms.join(token("ada"))


async def test_who_gives_a_handle_back_before_it_was_given_is_sent_away_alone() -> None:
    rooms = MemoryRooms({KEY: SECRET})
    ada, bob = (RoomLine(rooms, token(identity)) for identity in ("ada", "bob"))
    connect = room_pb.ConnectRequest(url="", token="", options=room_pb.RoomOptions(), request_async_id=1)
    ready = room_pb.ReadyForRoomEventRequest(room_handle=1)
    packet = room_pb.PublishDataRequest(
        local_participant_handle=2, data_ptr=wire.place(1), data_len=5, reliable=True, topic="", request_async_id=2
    )
    for line in (ada, bob):
        line.receive(asking(connect=connect))
        line.receive(asking(ready_for_room_event=ready))
    await anyio.lowlevel.checkpoint()
    ada.receive(asking(b"hello", publish_data=packet))
    for guess in range(3, 30):
        bob.receive(wire.encode(wire.DROP, guess))
    await anyio.lowlevel.checkpoint()
    assert bob.outbox.fault == wire.Fault(4002, "a handle given back before it was given")
    assert ada.outbox.fault is None


async def test_who_says_nothing_for_thirty_seconds_is_gone() -> None:
    async with serving() as (server, _):
        stranger = await Stranger.knock(server, token("ada"))
        await stranger.join()
        await until(lambda: people(server) == ["ada"])
        gone: list[float] = []
        server.rooms.observe(lambda event: gone.append(anyio.current_time()))
        await until(lambda: people(server) == [])
        assert gone[0] == 30


async def test_two_who_live_stay_although_nobody_says_anything() -> None:
    async with serving() as (server, rooms), await rooms.join(token("ada")) as ada:
        await anyio.sleep(3600)
        assert ada.is_open
        assert people(server) == ["ada"]


class LastWords:
    """A side of a connection that has something to say when its room is over."""

    def __init__(self) -> None:
        self.outbox = wire.Outbox()
        self.over = False

    def receive(self, data: bytes) -> None:
        raise AssertionError("nobody says anything")

    def end(self) -> None:
        self.outbox.put(b"the end")
        self.over = True


@pytest.mark.parametrize("busy_with", ["a pong", "a ping"])
async def test_a_room_that_ends_while_its_connection_is_busy_says_so_all_the_same(busy_with: str) -> None:
    worker, socket = WebSocket(Role.WORKER), WebSocket(Role.SERVER)
    worker.request_upgrade("h", wire.PATH, {})
    list(socket.receive_data(worker.take_outbox()))
    assert socket.accept_upgrade()
    socket.take_outbox()
    peer = Connection(ConnectionType.CLIENT)
    there, here = memory_pipe(1)  # whatever is sent has to wait for who reads it
    end = LastWords()
    why: list[str] = []

    async def serve() -> None:
        why.append(await carry(here, socket, end, []))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        if busy_with == "a pong":
            await there.send(peer.send(Ping()))
        await anyio.sleep(1 if busy_with == "a pong" else PING_AFTER_SILENCE + 1)
        end.end()
        heard: list[object] = []
        while not heard or not isinstance(heard[-1], CloseConnection):
            peer.receive_data(await there.receive())
            heard += peer.events()
        await there.send(peer.send(heard[-1].response()))
    assert b"".join(bytes(event.data) for event in heard if isinstance(event, BytesMessage)) == b"the end"
    assert heard[-1] == CloseConnection(code=1000, reason="")
    assert why == ["the room is over"]


async def test_a_refusal_whose_text_ends_with_the_stream_is_told() -> None:
    async def connector(endpoint: object) -> Any:
        here, there = memory_pipe()
        await there.send(b"HTTP/1.1 503 Service Unavailable\r\n\r\ntoo many of you")
        await there.send_eof()
        return here

    async with ServerRooms("ws://127.0.0.1", connector=connector) as rooms:
        with pytest.raises(RoomConnectError, match="HTTP 503: too many of you"):
            await rooms.connect(wire.URL, token("ada"))


async def test_another_version_is_named() -> None:
    async with serving() as (_, rooms):
        with pytest.raises(RoomConnectError, match="/rooms/v9"):
            await rooms.connect("memory:/rooms/v9", token("ada"))


async def test_without_its_block_there_is_nobody_to_carry_messages() -> None:
    with pytest.raises(RoomConnectError, match="task group"):
        await ServerRooms("ws://127.0.0.1").connect(wire.URL, token("ada"))


async def test_with_its_server_the_room_is_lost_and_who_waits_is_told() -> None:
    ended: list[int] = []
    life = anyio.CancelScope()

    async def live(*, task_status: TaskStatus[DispatchServer]) -> None:
        with life:
            async with DispatchServer(port=None, api_key=KEY, api_secret=SECRET) as server:
                task_status.started(server)
                await anyio.sleep_forever()

    async with anyio.create_task_group() as tasks:
        server = await tasks.start(live)
        async with ServerRooms("ws://127.0.0.1", connector=server.memory_connector()) as rooms:
            room = await rooms.join(token("ada"))

            async def wait() -> None:
                with pytest.raises(RoomClosedError) as caught:
                    await room.wait_for(events.DataReceived)
                ended.append(caught.value.reason)

            tasks.start_soon(wait)
            await anyio.sleep(1)
            life.cancel()
            assert (await room.wait_closed()).reason == DisconnectReason.UNKNOWN
            with pytest.raises(RoomClosedError):
                await room.local_participant.publish_data("x")
    assert ended == [DisconnectReason.UNKNOWN]


async def test_leaving_the_block_ends_its_rooms() -> None:
    async with DispatchServer(port=None, api_key=KEY, api_secret=SECRET) as server:
        async with ServerRooms("ws://127.0.0.1", connector=server.memory_connector()) as rooms:
            room = await rooms.join(token("ada"))
        assert (await room.wait_closed()).reason == DisconnectReason.UNKNOWN
        await until(lambda: people(server) == [])


async def test_a_join_that_is_given_up_at_any_step_leaves_nobody_in_the_room() -> None:
    async with serving() as (server, rooms):
        for steps in range(40):
            joined: list[Room] = []

            async def enter(joined: list[Room] = joined) -> None:
                joined.append(await rooms.join(token("ada")))

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(enter)
                for _ in range(steps):
                    await anyio.lowlevel.checkpoint()
                tasks.cancel_scope.cancel()
            if joined:
                break
            await until(lambda: people(server) == [])
        assert joined
        assert steps > 3
        await joined[0].disconnect()
        await until(lambda: people(server) == [])
