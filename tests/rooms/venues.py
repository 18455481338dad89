"""Where the conformance suite meets: the same few verbs over rooms in memory, near and far, and on a real server.

All join by a token and all count handles: at the end every one that was given out must have been given back.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from copy import copy
from typing import Any, TypeVar

import anyio
import pytest
from realserver import KEY, SECRET, RealServer

from livekit_agent import AutoSubscribe, ConnectionQuality, ParticipantPermissions, events
from livekit_agent.api import LiveKitAPI
from livekit_agent.dispatch import DispatchServer
from livekit_agent.dispatch._room_line import RoomLine
from livekit_agent.protocol import mint_token
from livekit_agent.rooms import (
    MemoryRooms,
    NativeRooms,
    ParticipantState,
    RemoteTrackPublication,
    Room,
    Subscription,
)
from livekit_agent.rooms._remote_transport import RemoteTransport
from livekit_agent.rooms._remote_wire import URL
from livekit_agent.runtime._rooms import ServerRooms

E = TypeVar("E", bound=events.RoomEvent)

#: The real server holds the news of somebody who publishes nothing back for up to 3 s.
PATIENCE = 15.0


def token(room: str, identity: str, *, wall: float | None = None, ttl: float = 600, **claims: Any) -> str:
    grants = {"roomJoin": True, "room": room, "canUpdateOwnMetadata": True, **claims.pop("grants", {})}
    wall = time.time() if wall is None else wall
    return mint_token(KEY, SECRET, wall=wall, ttl=ttl, identity=identity, video=grants, **claims)


async def next_of(subscription: Subscription, kind: type[E], where: Callable[[E], bool] = lambda _: True) -> E:
    """The next event of that kind, whatever comes in between."""
    with anyio.fail_after(PATIENCE):
        async for event in subscription:
            if isinstance(event, kind) and where(event):
                return event
    raise AssertionError(f"the room ended before a {kind.__name__}")


async def until(condition: Callable[[], object]) -> None:
    """For what wakes nobody: what a test's own tasks have noted, what others hold of a room."""
    with anyio.fail_after(PATIENCE):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def subscribed_again(publication: RemoteTrackPublication, heard: Subscription) -> events.TrackSubscribed:
    """Have a track that was given up again.

    A real server that has not got round yet to taking it away sees no change then and sends nothing: so ask again.
    """
    with anyio.fail_after(PATIENCE):
        while True:
            publication.set_subscribed(True)
            with anyio.move_on_after(3):
                return await next_of(heard, events.TrackSubscribed)
            publication.set_subscribed(False)


class Venue:
    """The verbs."""

    url: str
    real: bool

    def __init__(self, room: str) -> None:
        self.room = room
        self.rooms: Any = None

    def open(self) -> Any:
        raise NotImplementedError

    def beside(self, number: int) -> Venue:
        """Another room of the same place, for as long as this one is open."""
        other = copy(self)
        other.room = f"{self.room}-{number}"
        return other

    async def join(
        self, identity: str, *, auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING, **claims: Any
    ) -> Room:
        return await self.rooms.connect(
            self.url, token(self.room, identity, **claims), timeout=PATIENCE, auto_subscribe=auto_subscribe
        )

    async def introduce(self, *rooms: Room) -> None:
        """Wait until each sees all the others, and sees them active.

        Before that a server throws away what is sent to them, and gives what they send without its sender.
        """
        await until(lambda: all(self._meets(other, room) for room in rooms for other in rooms if other is not room))

    @staticmethod
    def _meets(room: Room, other: Room) -> bool:
        seen = room.remote_participants.get(other.local_participant.identity)
        return seen is not None and seen.state == ParticipantState.ACTIVE

    async def delete_room(self) -> None:
        raise NotImplementedError

    async def remove(self, identity: str) -> None:
        raise NotImplementedError

    async def update(self, identity: str, **changes: Any) -> None:
        raise NotImplementedError

    async def update_room(self, metadata: str) -> None:
        raise NotImplementedError

    async def send(self, data: bytes, topic: str, to: tuple[str, ...] = ()) -> None:
        raise NotImplementedError

    async def mute(self, identity: str, track_sid: str) -> None:
        raise NotImplementedError

    async def present(self) -> list[str]:
        raise NotImplementedError

    def hang_next(self) -> None:
        """The next join is never answered."""
        raise NotImplementedError


class MemoryVenue(Venue):
    url = "memory:"
    real = False

    @property
    def memory(self) -> MemoryRooms:
        """The rooms themselves."""
        return self.rooms

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[MemoryVenue]:
        transports: list[Any] = []
        async with MemoryRooms({KEY: SECRET}, delays="livekit-1.13") as rooms:
            self.rooms = rooms
            admit = rooms.admit

            def count(connection: Any, *args: Any) -> None:
                transports.append(connection)
                admit(connection, *args)

            rooms.admit = count  # type: ignore[method-assign]
            yield self
        # What is still on its way to somebody who has left is given back when it arrives.
        await anyio.sleep(0.2)
        assert [transport.live_handles for transport in transports] == [0] * len(transports)

    async def delete_room(self) -> None:
        self.memory.delete_room(self.room)

    async def remove(self, identity: str) -> None:
        assert self.memory.remove_participant(self.room, identity)

    async def update(self, identity: str, **changes: Any) -> None:
        self.memory.update_participant(self.room, identity, **changes)

    async def update_room(self, metadata: str) -> None:
        self.memory.update_room_metadata(self.room, metadata)

    async def send(self, data: bytes, topic: str, to: tuple[str, ...] = ()) -> None:
        self.memory.send_data(self.room, data, topic=topic, destination_identities=to)

    async def mute(self, identity: str, track_sid: str) -> None:
        assert self.memory.mute_track(self.room, identity, track_sid)

    async def present(self) -> list[str]:
        return [person.identity for person in self.memory.participants(self.room)]

    def hang_next(self) -> None:
        self.memory.hang_next()


class RemoteVenue(MemoryVenue):
    """Rooms in the memory of a server, over a connection that is a pair of buffers.  Both ends count handles."""

    url = URL

    def __init__(self, room: str) -> None:
        super().__init__(room)
        self.server: Any = None

    @property
    def memory(self) -> MemoryRooms:
        return self.server.rooms

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[RemoteVenue]:
        with counted_ends() as ends:
            async with (
                MemoryRooms({KEY: SECRET}, delays="livekit-1.13") as memory,
                DispatchServer(port=None, rooms=memory) as self.server,
                ServerRooms("ws://127.0.0.1", connector=self.server.memory_connector()) as self.rooms,
            ):
                yield self
                # What is still on its way to somebody who has left is given back when it arrives.
                await anyio.sleep(0.2)
                assert [(type(end).__name__, end.live_handles) for end in ends if end.live_handles] == []


@contextmanager
def counted_ends() -> Generator[list[Any]]:
    """Every end of a connection to a room on a server that is made meanwhile."""
    ends: list[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        for kind in (RemoteTransport, RoomLine):

            def note(end: Any, *args: Any, make: Any = kind.__init__) -> None:
                ends.append(end)
                make(end, *args)

            patch.setattr(kind, "__init__", note)
        yield ends


class NativeVenue(Venue):
    real = True

    def __init__(self, room: str, server: RealServer) -> None:
        super().__init__(room)
        self.server = server
        self.url = server.url

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[NativeVenue]:
        self.rooms = NativeRooms()
        with counted_handles() as live:
            async with LiveKitAPI(self.server.http_url, KEY, SECRET) as self.api:
                yield self
            with anyio.move_on_after(5):
                while live:  # noqa: ASYNC110 - filled by the library's threads
                    await anyio.sleep(0.05)
            assert live == {}, f"native handles left over: {live}"

    async def join(
        self, identity: str, *, auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING, **claims: Any
    ) -> Room:
        """Until the server counts it as active it throws away what others send to it: some moments later."""
        room = await super().join(identity, auto_subscribe=auto_subscribe, **claims)
        try:
            with anyio.fail_after(PATIENCE):
                while not await self._counts(room):  # noqa: ASYNC110 - the server tells nobody outside
                    await anyio.sleep(0.01)
        except BaseException:
            with anyio.CancelScope(shield=True):
                await room.disconnect()
            raise
        return room

    async def _counts(self, room: Room) -> bool:
        return any(
            (person.sid, person.state) == (room.local_participant.sid, ParticipantState.ACTIVE)
            for person in await self.api.rooms.participants(self.room)
        )

    async def introduce(self, *rooms: Room) -> None:
        """The server holds the news of somebody who publishes nothing back for 3 s: so each publishes something."""
        for room in rooms:
            me = room.local_participant
            if me.permissions.can_publish and any(not self._meets(other, room) for other in rooms if other is not room):
                await me.publish_audio(name="hello")
        await super().introduce(*rooms)

    async def delete_room(self) -> None:
        await self.api.rooms.delete(self.room)

    async def remove(self, identity: str) -> None:
        await self.api.rooms.remove_participant(self.room, identity)

    async def update(self, identity: str, **changes: Any) -> None:
        await self.api.rooms.update_participant(self.room, identity, **changes)

    async def update_room(self, metadata: str) -> None:
        await self.api.rooms.update_metadata(self.room, metadata)

    async def send(self, data: bytes, topic: str, to: tuple[str, ...] = ()) -> None:
        await self.api.rooms.send_data(self.room, data, topic=topic, destination_identities=to)

    async def mute(self, identity: str, track_sid: str) -> None:
        from livekit.protocol import room as pb

        request = pb.MuteRoomTrackRequest(room=self.room, identity=identity, track_sid=track_sid, muted=True)
        grant = {"roomAdmin": True, "room": self.room}
        await self.api.call("RoomService", "MutePublishedTrack", request, pb.MuteRoomTrackResponse, grant)

    async def present(self) -> list[str]:
        return [person.identity for person in await self.api.rooms.participants(self.room)]


class counted_handles:
    """Every native handle that arrives in a response or an event, until it is dropped: ``{handle: where from}``."""

    def __enter__(self) -> dict[int, str]:
        from livekit_agent.rooms import _ffi
        from livekit_agent.rooms._transport import CONSUMED, owned_handles

        self._library = library = _ffi._Library
        self._originals = library.request, library.drop, library._route
        request, drop, route = self._originals
        live: dict[int, str] = {}

        def counting_request(lib: Any, message: Any) -> Any:
            response = request(lib, message)
            kind = message.WhichOneof("message")
            if kind in CONSUMED:
                live.pop(getattr(getattr(message, kind), CONSUMED[kind]), None)
            live.update(dict.fromkeys(owned_handles(response), str(message.WhichOneof("message"))))
            return response

        def counting_drop(lib: Any, handle: int) -> bool:
            live.pop(handle, None)
            return drop(lib, handle)

        def counting_route(lib: Any, event: Any) -> None:
            kind = event.WhichOneof("message")
            detail = event.room_event.WhichOneof("message") if kind == "room_event" else ""
            live.update(dict.fromkeys(owned_handles(event), f"{kind} {detail}"))
            route(lib, event)

        library.request, library.drop, library._route = counting_request, counting_drop, counting_route
        return live

    def __exit__(self, *exc: object) -> None:
        self._library.request, self._library.drop, self._library._route = self._originals


__all__ = [
    "PATIENCE",
    "ConnectionQuality",
    "Mapping",
    "MemoryVenue",
    "NativeVenue",
    "RemoteVenue",
    "ParticipantPermissions",
    "Venue",
    "counted_handles",
    "next_of",
    "subscribed_again",
    "token",
    "until",
]
