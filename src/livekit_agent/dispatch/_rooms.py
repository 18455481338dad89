"""Where rooms and dispatches meet: the ledger's events start and end jobs, the services' verbs act on the ledger.

The one place that knows both the rooms' records and the wire's messages.  Everything here is synchronous: a verb
changes the ledger, the ledger's observer tells the core, and by the time the verb returns the offers are on their
way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from .._errors import ResourceExhaustedError, RoomError
from ..protocol._codec import permissions_from_proto
from ..rooms._ledger_events import (
    LedgerEvent,
    ParticipantChanged,
    ParticipantEntered,
    ParticipantGone,
    RoomChanged,
    RoomEnded,
    RoomOpened,
    TrackAdded,
    TrackGone,
    TrackMuteChanged,
)
from ._core import check_dispatches
from ._messages import (
    create_room_request,
    orders_of,
    participant_message,
    room_message,
    track_message,
)

if TYPE_CHECKING:
    from livekit.protocol import models as models_pb
    from livekit.protocol import room as room_pb

    from ..rooms import MemoryRooms
    from ._core import DispatchCore, Order
    from ._events import DispatchRecord

__all__ = ["Desk", "RoomBook"]

Clock = Callable[[], tuple[float, float]]


class RoomBook:
    """Rooms in memory as the services and the dispatcher see them (``RoomKeeper``)."""

    def __init__(self, rooms: MemoryRooms, core: DispatchCore, *, clock: Clock, settle: Callable[[], None]) -> None:
        """``clock`` gives (monotonic, Unix) seconds; ``settle`` sends what the core has decided."""
        self._rooms = rooms
        self._core = core
        self._clock = clock
        self._settle = settle
        self._agents: dict[str, list[Order]] = {}
        """Agents lists of rooms that are being created right now."""
        self._close: Callable[[], None] = lambda: None

    def open(self) -> None:
        """Begin to follow the ledger, with the rooms that are there already."""
        ledger = self._rooms.ledger
        for room in ledger.rooms():
            self._observe(RoomOpened(room=room))
            for person in ledger.participants(room.name):
                self._observe(ParticipantEntered(room=room, participant=person))
                if person.tracks:
                    self._observe(TrackAdded(room=room, participant=person, track=person.tracks[0], first=True))
        self._close = self._rooms.observe(self._observe)
        self._rooms.on_room_config = self._configure

    def close(self) -> None:
        """Follow no longer."""
        self._rooms.on_room_config = None
        self._close()

    def _configure(self, room: str, config: Mapping[str, object]) -> None:
        """A token's ``roomConfig`` counts when its join creates the room: so it is created here, just before.

        Raises RoomError, which refuses the join.
        """
        request = create_room_request(room, config)
        try:
            self.create(request, orders_of(request.agents))
        except ResourceExhaustedError as exc:
            raise RoomError(exc.message, code=exc.code) from None

    # -------------------------------------------------------------------------------------------- what happens there

    def _observe(self, event: LedgerEvent) -> None:
        now, wall = self._clock()
        room = event.room.name
        snapshot = room_message(event.room, self._rooms.ledger.participants(room))
        match event:
            case RoomOpened():
                self._core.room_opened(snapshot, self._agents.pop(room, ()), now, wall)
            case RoomEnded():
                self._core.room_ended(room)
            case RoomChanged():
                self._core.room_changed(snapshot)
            case ParticipantEntered():
                self._core.room_changed(snapshot)
                self._core.participant_entered(room, participant_message(event.participant), now, wall)
            case ParticipantGone():
                self._core.room_changed(snapshot)
                self._core.participant_gone(room, event.participant.identity, now, wall)
            case TrackAdded():
                self._core.room_changed(snapshot)
                self._core.track_published(room, participant_message(event.participant), now, wall)
            case ParticipantChanged() | TrackGone() | TrackMuteChanged():
                self._core.room_changed(snapshot)
                self._core.participant_changed(room, participant_message(event.participant))
            case _:
                return  # data, speakers and the like concern no job
        self._settle()

    # --------------------------------------------------------------------------------------------------- RoomKeeper

    def create(self, request: room_pb.CreateRoomRequest, agents: Iterable[Order]) -> models_pb.Room:
        """See ``RoomKeeper``."""
        if self._rooms.ledger.room(request.name) is None:
            orders = list(agents)
            check_dispatches(len(orders))
            self._agents[request.name] = orders
            try:
                self._rooms.create_room(
                    request.name,
                    metadata=request.metadata,
                    max_participants=request.max_participants,
                    # Zero on the wire is "the server's default", which the ledger knows.
                    **({"empty_timeout": float(request.empty_timeout)} if request.empty_timeout else {}),
                    **({"departure_timeout": float(request.departure_timeout)} if request.departure_timeout else {}),
                )
            finally:
                self._agents.pop(request.name, None)
        return self.room(request.name)

    def rooms(self) -> list[models_pb.Room]:
        """See ``RoomKeeper``."""
        ledger = self._rooms.ledger
        return [room_message(room, ledger.participants(room.name)) for room in ledger.rooms()]

    def room(self, name: str) -> models_pb.Room:
        """See ``RoomKeeper``."""
        record = self._rooms.ledger.room(name)
        if record is None:
            raise KeyError(name)
        return room_message(record, self._rooms.ledger.participants(name))

    def delete(self, name: str) -> None:
        """See ``RoomKeeper``."""
        if not self._rooms.delete_room(name):
            raise KeyError(name)

    def participants(self, room: str) -> list[models_pb.ParticipantInfo]:
        """See ``RoomKeeper``.  Nobody is in a room that is not live."""
        return [participant_message(person) for person in self._rooms.ledger.participants(room)]

    def participant(self, room: str, identity: str) -> models_pb.ParticipantInfo:
        """See ``RoomKeeper``."""
        person = self._rooms.ledger.participant(room, identity)
        if person is None:
            raise KeyError(identity)
        return participant_message(person)

    def remove(self, room: str, identity: str) -> None:
        """See ``RoomKeeper``."""
        if not self._rooms.remove_participant(room, identity):
            raise KeyError(identity)

    def update_participant(self, request: room_pb.UpdateParticipantRequest) -> models_pb.ParticipantInfo:
        """See ``RoomKeeper``."""
        try:
            person = self._rooms.update_participant(
                request.room,
                request.identity,
                name=request.name or None,
                metadata=request.metadata or None,
                attributes=dict(request.attributes),
                permissions=permissions_from_proto(request.permission) if request.HasField("permission") else None,
            )
        except RoomError:
            raise KeyError(request.identity) from None
        return participant_message(person)

    def set_metadata(self, room: str, metadata: str) -> models_pb.Room:
        """See ``RoomKeeper``."""
        try:
            self._rooms.update_room_metadata(room, metadata)
        except RoomError:
            raise KeyError(room) from None
        return self.room(room)

    def send_data(self, request: room_pb.SendDataRequest) -> None:
        """See ``RoomKeeper``.  Destinations may be named by identity or, as older clients do, by sid."""
        ledger = self._rooms.ledger
        sids = list(request.destination_sids)
        destinations = [
            *request.destination_identities,
            *(person.identity for person in ledger.participants(request.room) if person.sid in sids),
        ]
        if sids and not destinations:
            return  # named, but nobody of that name is there
        try:
            self._rooms.send_data(
                request.room,
                request.data,
                topic=request.topic,
                destination_identities=destinations,
                reliable=request.kind == 0,
            )
        except RoomError:
            raise KeyError(request.room) from None

    def mute(self, room: str, identity: str, track_sid: str) -> models_pb.TrackInfo | None:
        """See ``RoomKeeper``."""
        if not self._rooms.mute_track(room, identity, track_sid):
            return None
        person = self._rooms.ledger.participant(room, identity)
        assert person is not None, "somebody's track was muted"
        return next(track_message(track) for track in person.tracks if track.sid == track_sid)


class Desk:
    """Dispatches as the services see them (``DispatchDesk``): the core's, with the clock read."""

    def __init__(self, core: DispatchCore, *, clock: Clock, settle: Callable[[], None]) -> None:
        self._core = core
        self._clock = clock
        self._settle = settle

    def create(self, room: str, order: Order) -> DispatchRecord:
        """See ``DispatchDesk``."""
        dispatch = self._core.create_dispatch(room, order, *self._clock())
        self._settle()
        return dispatch

    def delete(self, room: str, dispatch_id: str) -> DispatchRecord | None:
        """See ``DispatchDesk``."""
        dispatch = self._core.delete_dispatch(room, dispatch_id, *self._clock())
        self._settle()
        return dispatch

    def list(self, room: str) -> list[DispatchRecord]:
        """See ``DispatchDesk``."""
        return self._core.dispatches(room)
