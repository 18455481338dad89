"""Who is in which room, and what follows from it.  Pure: verbs in, events out.

Rooms, each with participants, each with tracks: frozen records in dicts (``_ledger_events``).  A verb replaces records
and appends events; :meth:`RoomLedger.events` hands them out, in order.

The rules are the real server's (v1.13):

* A second participant with the same identity removes the first (reason 2).  Removed by a call: 4.  Room deleted: 5.
* A room that nobody ever joined closes ``empty_timeout`` after its creation, one that everybody left
  ``departure_timeout`` after the last one; agents and recorders do not count as somebody.  Reason 10 for who is left.
* Data without permission goes nowhere, silently; metadata without permission is an error.
* Revoking the permission to publish takes the tracks back.
* A hidden participant is reported like anybody; not showing it to others is up to whoever tells them.

Time comes as an argument (``now`` monotonic, ``wall`` in seconds since 1970), randomness as a generator.
After any verb: take :meth:`events` and re-read :meth:`next_deadline`.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from .._bounds import ATTRIBUTES_BYTES_MAX, METADATA_BYTES_MAX, ROOM_DEPARTURE_TIMEOUT, ROOM_EMPTY_TIMEOUT
from .._errors import RoomError, RoomPermissionError
from .._types import NO_ATTRIBUTES, ConnectionQuality, ParticipantPermissions
from ._enums import DisconnectReason, ParticipantKind, TrackKind, TrackSource
from ._ledger_events import (
    DataSent,
    LedgerEvent,
    ParticipantChanged,
    ParticipantEntered,
    ParticipantGone,
    ParticipantRecord,
    QualityJudged,
    RoomChanged,
    RoomEnded,
    RoomOpened,
    RoomRecord,
    SpeakersHeard,
    TrackAdded,
    TrackGone,
    TrackMuteChanged,
    TrackRecord,
)

__all__ = ["RoomLedger"]

_ID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


@dataclass(slots=True)
class _Room:
    record: RoomRecord
    deadline: float
    people: dict[str, ParticipantRecord] = field(default_factory=dict[str, ParticipantRecord])
    """By identity, in the order of joining."""


class RoomLedger:
    """All rooms of a pretended server."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._rooms: dict[str, _Room] = {}
        self._homes: dict[str, tuple[str, str]] = {}  # participant sid -> (room name, identity)
        self._events: list[LedgerEvent] = []
        # (deadline, room name, room sid): a heap; an entry is stale when its room is gone or has another deadline now.
        self._deadlines: list[tuple[float, str, str]] = []

    def __repr__(self) -> str:
        return f"<RoomLedger: {len(self._rooms)} rooms, {len(self._homes)} participants>"

    # --- looking ------------------------------------------------------------------------------------------------

    def events(self) -> list[LedgerEvent]:
        """What has happened since the last call, in order."""
        taken, self._events = self._events, []
        return taken

    def rooms(self) -> list[RoomRecord]:
        """The rooms that exist, oldest first."""
        return [room.record for room in self._rooms.values()]

    def room(self, name: str) -> RoomRecord | None:
        """One room."""
        room = self._rooms.get(name)
        return None if room is None else room.record

    def participants(self, room: str) -> list[ParticipantRecord]:
        """Who is in a room, in the order of joining.  Empty for an unknown room."""
        found = self._rooms.get(room)
        return [] if found is None else list(found.people.values())

    def participant(self, room: str, identity: str) -> ParticipantRecord | None:
        """One participant."""
        found = self._rooms.get(room)
        return None if found is None else found.people.get(identity)

    def member(self, sid: str) -> tuple[RoomRecord, ParticipantRecord] | None:
        """The participant with that sid, if it is still there."""
        home = self._homes.get(sid)
        if home is None:
            return None
        room = self._rooms[home[0]]
        return room.record, room.people[home[1]]

    def next_deadline(self) -> float:
        """When a room will close by itself; ``inf`` if none will."""
        while self._deadlines:
            deadline, name, sid = self._deadlines[0]
            room = self._rooms.get(name)
            if room is not None and room.record.sid == sid and room.deadline == deadline:
                return deadline
            heapq.heappop(self._deadlines)
        return math.inf

    def handle_timeout(self, now: float) -> None:
        """Close the rooms whose time has come.  Spurious calls are harmless."""
        while self.next_deadline() <= now:
            self._end(self._rooms[self._deadlines[0][1]], DisconnectReason.ROOM_CLOSED)

    # --- rooms --------------------------------------------------------------------------------------------------

    def create_room(
        self,
        name: str,
        *,
        now: float,
        wall: float,
        metadata: str = "",
        empty_timeout: float = ROOM_EMPTY_TIMEOUT,
        departure_timeout: float = ROOM_DEPARTURE_TIMEOUT,
        max_participants: int = 0,
    ) -> RoomRecord:
        """A room.  One that exists already is returned unchanged."""
        found = self._rooms.get(name)
        if found is not None:
            return found.record
        _check_size("room metadata", len(metadata.encode()), METADATA_BYTES_MAX)
        record = RoomRecord(
            sid=self.new_id("RM_"),
            name=name,
            metadata=metadata,
            empty_timeout=empty_timeout,
            departure_timeout=departure_timeout,
            max_participants=max_participants,
            created_at=wall,
        )
        self._rooms[name] = _Room(record, math.inf)
        self._set_deadline(self._rooms[name], now + empty_timeout)
        self._emit(RoomOpened(room=record))
        return record

    def delete_room(self, name: str) -> bool:
        """End a room.  False if there is none."""
        room = self._rooms.get(name)
        if room is not None:
            self._end(room, DisconnectReason.ROOM_DELETED)
        return room is not None

    def update_room_metadata(self, name: str, metadata: str) -> RoomRecord:
        """Change a room's metadata.  Raises :class:`RoomError` for an unknown room."""
        room = self._rooms.get(name)
        if room is None:
            raise RoomError("requested room does not exist", code="ROOM_NOT_FOUND")
        _check_size("room metadata", len(metadata.encode()), METADATA_BYTES_MAX)
        previous = room.record.metadata
        room.record = replace(room.record, metadata=metadata)
        self._emit(RoomChanged(room=room.record, previous_metadata=previous))
        return room.record

    def _end(self, room: _Room, reason: int) -> None:
        del self._rooms[room.record.name]
        for person in room.people.values():
            del self._homes[person.sid]
            self._emit(ParticipantGone(room=room.record, participant=person, reason=reason))
        self._emit(RoomEnded(room=room.record, reason=reason))

    # --- coming and going -----------------------------------------------------------------------------------------

    def join(
        self,
        room: str,
        identity: str,
        *,
        now: float,
        wall: float,
        name: str = "",
        metadata: str = "",
        attributes: Mapping[str, str] = NO_ATTRIBUTES,
        kind: int = ParticipantKind.STANDARD,
        permissions: ParticipantPermissions | None = None,
    ) -> ParticipantRecord:
        """Somebody comes in; the room is created if need be; an earlier visit of the same identity ends.

        Raises :class:`RoomError` when the room is full.
        """
        self.create_room(room, now=now, wall=wall)
        home = self._rooms[room]
        earlier = home.people.get(identity)
        record = ParticipantRecord(
            sid=self.new_id("PA_"),
            identity=identity,
            name=name,
            metadata=metadata,
            attributes=dict(attributes),
            kind=kind,
            permissions=permissions or ParticipantPermissions(),
            joined_at=wall,
        )
        if earlier is None and not record.dependent and _full(home):
            raise RoomError("room has exceeded its max participants", code="ROOM_FULL")
        if earlier is not None:
            self._depart(home, earlier, DisconnectReason.DUPLICATE_IDENTITY, now)
        home.people[identity] = record
        self._homes[record.sid] = (room, identity)
        if not record.dependent:
            home.deadline = math.inf
        self._emit(ParticipantEntered(room=home.record, participant=record))
        return record

    def leave(self, sid: str, *, now: float, reason: int = DisconnectReason.CLIENT_INITIATED) -> bool:
        """Somebody goes.  False if it is not there."""
        found = self._find(sid)
        if found is not None:
            self._depart(*found, reason, now)
        return found is not None

    def rejoin(self, sid: str) -> ParticipantRecord:
        """Somebody's connection was lost and made anew: it goes (reason 0) and comes, with its tracks, all as new."""
        home, person = self._require(sid)
        self._emit(ParticipantGone(room=home.record, participant=person, reason=DisconnectReason.UNKNOWN))
        after = replace(person, sid=self.new_id("PA_"), tracks=(), has_published=False)
        del self._homes[sid], home.people[person.identity]
        self._homes[after.sid] = (home.record.name, person.identity)
        self._put(home, after)
        self._emit(ParticipantEntered(room=home.record, participant=after))
        for track in person.tracks:
            renewed = replace(track, sid=self.new_id("TR_"))
            first = not after.has_published
            after = replace(after, tracks=(*after.tracks, renewed), has_published=True)
            self._put(home, after)
            self._emit(TrackAdded(room=home.record, participant=after, track=renewed, first=first))
        return after

    def remove(self, room: str, identity: str, *, now: float) -> bool:
        """Somebody is made to go.  False if it is not there."""
        person = self.participant(room, identity)
        return person is not None and self.leave(person.sid, now=now, reason=DisconnectReason.PARTICIPANT_REMOVED)

    def _depart(self, home: _Room, person: ParticipantRecord, reason: int, now: float) -> None:
        del home.people[person.identity]
        del self._homes[person.sid]
        if not person.dependent and all(other.dependent for other in home.people.values()):
            self._set_deadline(home, now + home.record.departure_timeout)
        self._emit(ParticipantGone(room=home.record, participant=person, reason=reason))

    # --- changing oneself or others -------------------------------------------------------------------------------

    def change_own(
        self,
        sid: str,
        *,
        name: str | None = None,
        metadata: str | None = None,
        attributes: Mapping[str, str] | None = None,
    ) -> None:
        """A participant changes what it says of itself.  Raises :class:`RoomPermissionError` without the grant."""
        home, person = self._require(sid)
        if not person.permissions.can_update_metadata:
            raise RoomPermissionError("NotAllowed - does not have permission to update own metadata")
        self._change(home, person, name, metadata, attributes, None)

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
        """The server changes a participant; None leaves as it is.  Raises :class:`RoomError` if it is not there."""
        person = self.participant(room, identity)
        if person is None:
            raise RoomError("participant does not exist", code="PARTICIPANT_NOT_FOUND")
        return self._change(self._rooms[room], person, name, metadata, attributes, permissions)

    def _change(
        self,
        home: _Room,
        person: ParticipantRecord,
        name: str | None,
        metadata: str | None,
        attributes: Mapping[str, str] | None,
        permissions: ParticipantPermissions | None,
    ) -> ParticipantRecord:
        merged = dict(person.attributes)
        changed: dict[str, str] = {}
        for key, value in (attributes or {}).items():
            if merged.get(key, "") != value:
                changed[key] = value
            merged.pop(key, None)
            if value:
                merged[key] = value
        if metadata is not None:
            _check_size("metadata", len(metadata.encode()), METADATA_BYTES_MAX)
        size = sum(len(key.encode()) + len(value.encode()) for key, value in merged.items())
        _check_size("attributes", size, ATTRIBUTES_BYTES_MAX)
        after = replace(
            person,
            name=person.name if name is None else name,
            metadata=person.metadata if metadata is None else metadata,
            attributes=merged,
            permissions=permissions or person.permissions,
        )
        if after == person:
            return person
        self._put(home, after)
        self._emit(ParticipantChanged(room=home.record, participant=after, previous=person, changed_attributes=changed))
        if not after.permissions.can_publish:
            for track in after.tracks:
                self.unpublish(after.sid, track.sid)
        return home.people[after.identity]

    # --- tracks ---------------------------------------------------------------------------------------------------

    def publish(
        self,
        sid: str,
        *,
        name: str = "",
        kind: TrackKind = TrackKind.AUDIO,
        source: TrackSource = TrackSource.MICROPHONE,
        mime_type: str = "audio/red",
        simulcasted: bool = False,
        width: int = 0,
        height: int = 0,
        audio_features: tuple[int, ...] = (),
        frame_metadata: tuple[int, ...] = (),
        encrypted: bool = False,
    ) -> TrackRecord:
        """A participant publishes a track.  Raises :class:`RoomPermissionError` without the grant."""
        home, person = self._require(sid)
        sources = person.permissions.can_publish_sources
        if not person.permissions.can_publish or (sources and source not in sources):
            raise RoomPermissionError("NotAllowed - does not have permission to publish")
        track = TrackRecord(
            sid=self.new_id("TR_"),
            name=name,
            kind=kind,
            source=source,
            mime_type=mime_type,
            simulcasted=simulcasted,
            width=width,
            height=height,
            audio_features=audio_features,
            frame_metadata=frame_metadata,
            encrypted=encrypted,
        )
        after = replace(person, tracks=(*person.tracks, track), has_published=True)
        self._put(home, after)
        self._emit(TrackAdded(room=home.record, participant=after, track=track, first=not person.has_published))
        return track

    def note_published(self, sid: str) -> None:
        """A participant publishes something that is no track of media: its comings and goings are news at once."""
        home, person = self._require(sid)
        self._put(home, replace(person, has_published=True))

    def unpublish(self, sid: str, track_sid: str) -> bool:
        """A track is taken back.  False if there is none."""
        home, person = self._require(sid)
        track = _track(person, track_sid)
        if track is None:
            return False
        after = replace(person, tracks=tuple(other for other in person.tracks if other is not track))
        self._put(home, after)
        self._emit(TrackGone(room=home.record, participant=after, track=track))
        return True

    def mute(self, sid: str, track_sid: str, muted: bool, *, by_server: bool = False) -> bool:
        """A track is muted or unmuted.  False if there is none; nothing is reported if it was so already."""
        home, person = self._require(sid)
        track = _track(person, track_sid)
        if track is None:
            return False
        if track.muted != muted:
            changed = replace(track, muted=muted)
            tracks = tuple(changed if other is track else other for other in person.tracks)
            after = replace(person, tracks=tracks)
            self._put(home, after)
            self._emit(TrackMuteChanged(room=home.record, participant=after, track=changed, by_server=by_server))
        return True

    # --- data and what is heard -----------------------------------------------------------------------------------

    def send_data(
        self, sid: str, data: bytes, *, topic: str = "", reliable: bool = True, destinations: Sequence[str] = ()
    ) -> None:
        """A participant sends data to all others or to those named.  Without permission it goes nowhere."""
        home, person = self._require(sid)
        if person.permissions.can_publish_data:
            self._route(home, person, data, topic, reliable, destinations)

    def send_server_data(
        self, room: str, data: bytes, *, topic: str = "", reliable: bool = True, destinations: Sequence[str] = ()
    ) -> None:
        """The server sends data.  Raises :class:`RoomError` for an unknown room."""
        home = self._rooms.get(room)
        if home is None:
            raise RoomError("requested room does not exist", code="ROOM_NOT_FOUND")
        self._route(home, None, data, topic, reliable, destinations)

    def _route(
        self,
        home: _Room,
        sender: ParticipantRecord | None,
        data: bytes,
        topic: str,
        reliable: bool,
        destinations: Sequence[str],
    ) -> None:
        receivers = tuple(
            person.sid
            for person in home.people.values()
            if person is not sender and (not destinations or person.identity in destinations)
        )
        self._emit(
            DataSent(room=home.record, sender=sender, data=data, topic=topic, reliable=reliable, receivers=receivers)
        )

    def set_speakers(self, room: str, identities: Sequence[str]) -> None:
        """Who speaks now; those who are not there are left out."""
        home = self._rooms.get(room)
        if home is not None:
            heard = tuple(identity for identity in identities if identity in home.people)
            self._emit(SpeakersHeard(room=home.record, identities=heard))

    def set_quality(self, room: str, identity: str, quality: ConnectionQuality) -> None:
        """A participant's link is judged."""
        person = self.participant(room, identity)
        if person is not None:
            self._emit(QualityJudged(room=self._rooms[room].record, participant=person, quality=quality))

    # --- inside ---------------------------------------------------------------------------------------------------

    def _emit(self, event: LedgerEvent) -> None:
        self._events.append(event)

    def _set_deadline(self, home: _Room, deadline: float) -> None:
        home.deadline = deadline
        heapq.heappush(self._deadlines, (deadline, home.record.name, home.record.sid))

    def new_id(self, prefix: str) -> str:
        """An id as a server makes them."""
        return prefix + "".join(self._rng.choices(_ID_ALPHABET, k=12))

    def _find(self, sid: str) -> tuple[_Room, ParticipantRecord] | None:
        home = self._homes.get(sid)
        if home is None:
            return None
        room = self._rooms[home[0]]
        return room, room.people[home[1]]

    def _require(self, sid: str) -> tuple[_Room, ParticipantRecord]:
        found = self._find(sid)
        if found is None:
            raise RoomError("the participant is not in the room any more", code="PARTICIPANT_NOT_FOUND")
        return found

    def _put(self, home: _Room, person: ParticipantRecord) -> None:
        home.people[person.identity] = person


def _full(home: _Room) -> bool:
    limit = home.record.max_participants
    return limit > 0 and sum(not person.dependent for person in home.people.values()) >= limit


def _track(person: ParticipantRecord, sid: str) -> TrackRecord | None:
    return next((track for track in person.tracks if track.sid == sid), None)


def _check_size(what: str, size: int, limit: int) -> None:
    if size > limit:
        raise RoomError(f"LimitExceeded - exceeds {what} size limit", code="ROOM_LIMIT_EXCEEDED")
