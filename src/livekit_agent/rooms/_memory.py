"""Rooms in this process's memory: several participants, no network, no native library, no threads.

The same :class:`Room` code as over the native library runs on top; below it is a pure ledger.  Used by tests, the demo
and ``dev``; under virtual time everything happens at exact instants.

Synchronous inside: a verb changes the ledger, and every connection hears of it through its own mailbox, later, in
order.  ``async with`` is needed for what takes time by itself: rooms that close when empty, audio pacing, latency.
Use one :class:`MemoryRooms` in one event loop.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import anyio

from .._bounds import ROOM_DEPARTURE_TIMEOUT, ROOM_EMPTY_TIMEOUT, ROOM_JOIN_TIMEOUT
from .._errors import RoomError
from .._types import AutoSubscribe, ConnectionQuality, ParticipantPermissions
from ._connect_options import DEFAULT_OPTIONS, ConnectOptions
from ._enums import DisconnectReason, ParticipantKind
from ._ledger import RoomLedger
from ._ledger_events import (
    LedgerEvent,
    ParticipantChanged,
    ParticipantGone,
    ParticipantRecord,
    RoomRecord,
    TrackAdded,
)
from ._memory_clock import MemoryClock
from ._memory_counts import Counts
from ._memory_hub import MediaHub
from ._memory_joining import Joining, Pass, Refused, read_token
from ._memory_network import INSTANT, Delays, Network, Wiring, delays_named
from ._memory_transport import MemoryTransport
from ._proto import room as room_pb
from ._room import Room, join
from ._wire import room_info

__all__ = ["MemoryRooms"]


class MemoryRooms(anyio.AsyncContextManagerMixin):
    """Rooms in memory; a :class:`~livekit_agent.rooms.RoomConnector`.

    ``keys`` are the API keys whose tokens are accepted; None accepts any token unchecked.  ``rng`` makes ids and draws
    what a network loses; ``wall_clock`` is the time of day.

    ``delays`` says how long things take: a profile's name, ``"instant"`` or ``"livekit-1.13"`` (what a real server
    takes), or a :class:`Delays`.  Order and errors are a real server's in either case.  ``network`` is every
    participant's wire unless :meth:`set_network` gives it another.  ``latency`` (seconds) further delays the answer to
    a join.
    """

    def __init__(
        self,
        keys: Mapping[str, str] | None = None,
        *,
        rng: random.Random | None = None,
        wall_clock: Callable[[], float] = time.time,
        latency: float = 0.0,
        delays: Delays | str = INSTANT,
        network: Network | None = None,
        options: ConnectOptions = DEFAULT_OPTIONS,
    ) -> None:
        self.keys = keys
        self.delays = delays_named(delays)
        self.wiring = Wiring(network or Network(), rng)
        self._options = options
        self.unreachable: list[str] = []
        """Urls at which nobody answers (tests)."""
        self.ledger = RoomLedger(rng or random.Random())
        self.clock = MemoryClock(self.ledger.next_deadline, self._look)
        self._counts = Counts(self.ledger, self.clock, self.delays.counting, self.now, self._counted)
        self._wall_clock = wall_clock
        self._latency = latency
        self.on_room_config: Callable[[str, Mapping[str, object]], None] | None = None
        """Told of the ``roomConfig`` of a token whose join is about to create its room (the dispatch server)."""
        self._observers: dict[int, Callable[[LedgerEvent], None]] = {}
        self._connections: dict[str, dict[str, MemoryTransport]] = {}  # room name -> participant sid -> connection
        self._by_sid: dict[str, MemoryTransport] = {}
        self._tickets: dict[str, Pass] = {}
        self._count = 0
        self.media = MediaHub(self)
        self.schemas: dict[tuple[str, bytes], str] = {}
        """Definitions of data schemas: by participant sid and schema id."""
        self._settling = False
        self._script: deque[str | None] = deque()

    def __repr__(self) -> str:
        return f"<MemoryRooms: {len(self.ledger.rooms())} rooms, {len(self._by_sid)} connections>"

    # --- joining --------------------------------------------------------------------------------------------------

    async def connect(
        self,
        url: str,
        token: str,
        *,
        timeout: float = ROOM_JOIN_TIMEOUT,
        auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
        options: ConnectOptions | None = None,
    ) -> Room:
        """Join the room that the token names (see :class:`~livekit_agent.rooms.RoomConnector`)."""
        return await join(
            MemoryTransport(self),
            url,
            token,
            timeout=timeout,
            auto_subscribe=auto_subscribe,
            options=options or self._options,
        )

    def join(
        self,
        room: str,
        identity: str,
        *,
        name: str = "",
        metadata: str = "",
        attributes: Mapping[str, str] | None = None,
        permissions: ParticipantPermissions | None = None,
        kind: int = ParticipantKind.STANDARD,
        timeout: float = ROOM_JOIN_TIMEOUT,
        auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
        options: ConnectOptions | None = None,
    ) -> Joining:
        """Join without a token: ``room = await rooms.join(...)``, or ``async with rooms.join(...) as room``."""
        entry = Pass(
            room=room,
            identity=identity,
            name=name,
            metadata=metadata,
            attributes=dict(attributes or {}),
            kind=kind,
            permissions=permissions or ParticipantPermissions(),
        )
        return Joining(self, entry, timeout, auto_subscribe, options or self._options)

    def ticket(self, entry: Pass) -> str:
        """A one-time word that lets one connection in."""
        ticket = f"ticket-{self._number()}"
        self._tickets[ticket] = entry
        return ticket

    def refuse_next(self, error: str = "signal failure: client error: 503 Service Unavailable") -> None:
        """The next join fails with that error (tests)."""
        self._script.append(error)

    def hang_next(self) -> None:
        """The next join is never answered (tests)."""
        self._script.append(None)

    def forget_script(self) -> None:
        """Undo what :meth:`refuse_next` and :meth:`hang_next` have in store."""
        self._script.clear()

    def admit(self, connection: MemoryTransport, token: str, async_id: int) -> None:
        """Let a connection in, or not; called by the transport."""
        ticket = self._tickets.pop(token, None)
        if self._script:
            error = self._script.popleft()
            if error is not None:
                connection.refuse(async_id, error)
        elif self._latency > 0:
            self.clock.later(self._latency, lambda: self._admit(connection, ticket, token, async_id))
        else:
            self._admit(connection, ticket, token, async_id)

    def _admit(self, connection: MemoryTransport, ticket: Pass | None, token: str, async_id: int) -> None:
        try:
            entry = ticket or read_token(token, self.keys, wall=self._wall_clock())
            if entry.room_config and self.on_room_config is not None and self.ledger.room(entry.room) is None:
                self.on_room_config(entry.room, entry.room_config)
            record = self.ledger.join(
                entry.room,
                entry.identity,
                now=self.now(),
                wall=self._wall_clock(),
                name=entry.name,
                metadata=entry.metadata,
                attributes=entry.attributes,
                kind=entry.kind,
                permissions=entry.permissions,
            )
        except (Refused, RoomError) as exc:
            connection.refuse(async_id, str(exc))
            return
        room = self.ledger.room(entry.room)
        assert room is not None
        # Everybody else first: the newcomer's callback already shows the room without an earlier visit of its own.
        self.settle()
        if self.ledger.member(record.sid) is None:
            # An observer has thrown it out at once.
            connection.refuse(async_id, "signal failure: the participant was removed while joining")
            return
        self._connections.setdefault(room.name, {})[record.sid] = connection
        self._by_sid[record.sid] = connection
        connection.welcome(async_id, room, record)
        self._counts.changed(room)
        if self.delays.first_quality > 0 and self.clock.running:
            self.clock.later(self.delays.first_quality, lambda: self._judge_first(record))

    def _judge_first(self, record: ParticipantRecord) -> None:
        if (found := self.ledger.member(record.sid)) is not None:
            self.set_quality(found[0].name, record.identity, ConnectionQuality.EXCELLENT)

    def departed(self, connection: MemoryTransport, reason: int) -> None:
        """A connection leaves; called by the transport."""
        self.ledger.leave(connection.sid, now=self.now(), reason=reason)
        self.settle()

    # --- what happens -----------------------------------------------------------------------------------------------

    def observe(self, callback: Callable[[LedgerEvent], None]) -> Callable[[], None]:
        """Call back synchronously for everything that happens, in order.  Returns how to stop that."""
        number = self._number()
        self._observers[number] = callback

        def unobserve() -> None:
            self._observers.pop(number, None)

        return unobserve

    def settle(self) -> None:
        """Tell observers and connections what the ledger reports.

        Verbs called by an observer take effect at once and are told after what is being told now.
        """
        if self._settling:
            return
        self._settling = True
        try:
            while batch := self.ledger.events():
                for event in batch:
                    self._tell(event)
        finally:
            self._settling = False
        self.clock.rearm()

    def _tell(self, event: LedgerEvent) -> None:
        self.media.hear(event)
        self._counts.before(event)
        for observer in list(self._observers.values()):
            observer(event)
        members = self._connections.get(event.room.name, {})
        # Who did it hears it first: others' reactions to it (a subscription) come back after it.
        subject: str = getattr(getattr(event, "participant", None), "sid", "")
        if subject in members:
            members[subject].hear(event)
        for sid, connection in list(members.items()):
            if sid != subject:
                connection.hear(event)
        if isinstance(event, ParticipantGone):
            members.pop(subject, None)
            self._by_sid.pop(subject, None)
            self.wiring.forget(subject)
            if not members:
                self._connections.pop(event.room.name, None)
        if isinstance(event, ParticipantGone | ParticipantChanged | TrackAdded):
            self._counts.changed(event.room)

    def _counted(self, room: RoomRecord) -> None:
        for connection in list(self._connections.get(room.name, {}).values()):
            connection.counted(room)

    def info_of(self, room: RoomRecord) -> room_pb.RoomInfo:
        """The library's message of a room, with what is said of how many are there."""
        return room_info(room, self.ledger.participants(room.name), self._counts.of(room))

    def connection(self, sid: str) -> MemoryTransport | None:
        """A participant's connection."""
        return self._by_sid.get(sid)

    def sid_of(self, room: str) -> str:
        """A room's sid."""
        record = self.ledger.room(room)
        return "" if record is None else record.sid

    # --- the server's verbs -----------------------------------------------------------------------------------------

    def create_room(
        self,
        name: str,
        *,
        metadata: str = "",
        empty_timeout: float = ROOM_EMPTY_TIMEOUT,
        departure_timeout: float = ROOM_DEPARTURE_TIMEOUT,
        max_participants: int = 0,
    ) -> RoomRecord:
        """A room; one that exists is returned unchanged."""
        record = self.ledger.create_room(
            name,
            now=self.now(),
            wall=self._wall_clock(),
            metadata=metadata,
            empty_timeout=empty_timeout,
            departure_timeout=departure_timeout,
            max_participants=max_participants,
        )
        self.settle()
        return record

    def delete_room(self, name: str) -> bool:
        """End a room; everybody leaves with reason 5.  False if there is none."""
        found = self.ledger.delete_room(name)
        self.settle()
        return found

    def list_rooms(self) -> list[RoomRecord]:
        """The rooms that exist."""
        return self.ledger.rooms()

    def participants(self, room: str) -> list[ParticipantRecord]:
        """Who is in a room."""
        return self.ledger.participants(room)

    def remove_participant(self, room: str, identity: str) -> bool:
        """Make somebody leave, with reason 4.  False if it is not there."""
        found = self.ledger.remove(room, identity, now=self.now())
        self.settle()
        return found

    def update_participant(
        self,
        room: str,
        identity: str,
        *,
        name: str | None = None,
        metadata: str | None = None,
        attributes: Mapping[str, str] | None = None,
        permissions: ParticipantPermissions | None = None,
    ) -> ParticipantRecord:
        """Change a participant; None leaves as it is.  Raises :class:`RoomError` if it is not there."""
        try:
            return self.ledger.update_participant(
                room, identity, name=name, metadata=metadata, attributes=attributes, permissions=permissions
            )
        finally:
            self.settle()

    def update_room_metadata(self, room: str, metadata: str) -> RoomRecord:
        """Change a room's metadata.  Raises :class:`RoomError` for an unknown room."""
        record = self.ledger.update_room_metadata(room, metadata)
        self.settle()
        return record

    def send_data(
        self,
        room: str,
        data: bytes,
        *,
        topic: str = "",
        destination_identities: Sequence[str] = (),
        reliable: bool = True,
    ) -> None:
        """Data from the server, to all or to those named.  Raises :class:`RoomError` for an unknown room."""
        self.ledger.send_server_data(room, data, topic=topic, reliable=reliable, destinations=destination_identities)
        self.settle()

    def mute_track(self, room: str, identity: str, track_sid: str, muted: bool = True) -> bool:
        """Mute somebody's track.  False if there is none."""
        person = self.ledger.participant(room, identity)
        found = person is not None and self.ledger.mute(person.sid, track_sid, muted, by_server=True)
        self.settle()
        return found

    # --- what a server hears and a network does ---------------------------------------------------------------------

    def set_speakers(self, room: str, identities: Sequence[str]) -> None:
        """Who speaks now, loudest first."""
        self.ledger.set_speakers(room, identities)
        self.settle()

    def set_quality(self, room: str, identity: str, quality: ConnectionQuality) -> None:
        """How somebody's link is judged."""
        self.ledger.set_quality(room, identity, quality)
        self.settle()

    def interrupt(self, room: str, identity: str) -> None:
        """Somebody's connection breaks; it reconnects until :meth:`restore` or :meth:`lose`."""
        self._connection_of(room, identity).reconnecting()

    def restore(self, room: str, identity: str, *, resume: bool = True) -> None:
        """The broken connection is back: with everything as it was, or, without ``resume``, made anew.

        Made anew, everybody else comes again, and our tracks are published again, under new sids; others see us leave
        and come, with new tracks.
        """
        connection = self._connection_of(room, identity)
        if resume:
            connection.reconnected()
            return
        before = self.ledger.member(connection.sid)
        assert before is not None
        members = self._connections[room]
        del members[connection.sid], self._by_sid[connection.sid]
        after = self.ledger.rejoin(connection.sid)
        members[after.sid] = self._by_sid[after.sid] = connection
        self.wiring.renew(connection.sid, after.sid)
        renewed = {old.sid: new.sid for old, new in zip(before[1].tracks, after.tracks, strict=True)}
        # The sounds first, for others subscribe as they hear of it; their reactions come behind our own news.
        connection.rejoined(after, renewed)
        self.settle()
        connection.publish_data_tracks_again()

    def lose(self, room: str, identity: str) -> None:
        """Somebody's connection is lost for good (reason 0)."""
        self.departed(self._connection_of(room, identity), DisconnectReason.UNKNOWN)

    def connection_named(self, room: str, identity: str) -> MemoryTransport | None:
        """The connection of whoever has that identity now."""
        person = self.ledger.participant(room, identity)
        return None if person is None else self._by_sid.get(person.sid)

    def _connection_of(self, room: str, identity: str) -> MemoryTransport:
        connection = self.connection_named(room, identity)
        if connection is None:
            raise RoomError(f"{identity!r} has no connection to room {room!r}", code="PARTICIPANT_NOT_FOUND")
        return connection

    def set_network(self, room: str, identity: str, network: Network) -> None:
        """Give somebody another wire from now on.  Raises :class:`RoomError` if it is not there."""
        self.wiring.set(self._connection_of(room, identity).sid, network)

    # --- time -------------------------------------------------------------------------------------------------------

    def now(self) -> float:
        """The event loop's clock."""
        return self.clock.now()

    def _look(self, now: float) -> None:
        self.ledger.handle_timeout(now)
        self.settle()

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[MemoryRooms]:
        async with self.clock.started():
            try:
                yield self
            finally:
                self.close()

    def close(self) -> None:
        """The server goes away: everybody who is left loses the room (reason 3)."""
        for connection in list(self._by_sid.values()):
            self.ledger.leave(connection.sid, now=self.now(), reason=DisconnectReason.SERVER_SHUTDOWN)
        self.settle()

    def forget_schemas(self, sid: str) -> None:
        """Who leaves takes its schemas along."""
        for key in [key for key in self.schemas if key[0] == sid]:
            del self.schemas[key]

    def new_id(self, prefix: str) -> str:
        """An id for something that a participant sends."""
        return f"{prefix}{self._number()}"

    def wall_ms(self) -> int:
        """The time of day as messages carry it."""
        return round(self._wall_clock() * 1000)

    def _number(self) -> int:
        self._count += 1
        return self._count
