"""The ledger against a model, for as long as hypothesis likes.

The model knows the rules and nothing of the ledger's inside: who is in which room, what is published, when a room
closes by itself.  A second opinion, ``Mirror``, hears only the events and must believe the same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from livekit_agent import ParticipantPermissions, RoomError, RoomPermissionError
from livekit_agent.rooms import ParticipantKind
from livekit_agent.rooms._ledger import RoomLedger
from livekit_agent.rooms._ledger_events import (
    DataSent,
    LedgerEvent,
    ParticipantChanged,
    ParticipantEntered,
    ParticipantGone,
    ParticipantRecord,
    RoomChanged,
    RoomEnded,
    RoomOpened,
    TrackAdded,
    TrackGone,
    TrackMuteChanged,
)

ROOMS = st.sampled_from(["r", "s"])
PEOPLE = st.sampled_from(["a", "b", "c"])
KEYS = st.sampled_from(["k", "l"])
PERMISSIONS = st.builds(
    ParticipantPermissions, can_publish=st.booleans(), can_publish_data=st.booleans(), can_update_metadata=st.booleans()
)


class Mirror:
    """What somebody believes who hears only the events."""

    def __init__(self) -> None:
        self.rooms: dict[str, str] = {}
        self.people: dict[tuple[str, str], ParticipantRecord] = {}
        self.sids: list[str] = []

    def hear(self, event: LedgerEvent) -> None:
        room = event.room.name
        match event:
            case RoomOpened():
                assert room not in self.rooms
                self.rooms[room] = event.room.metadata
                self.sids.append(event.room.sid)
            case RoomChanged():
                assert self.rooms[room] == event.previous_metadata
                self.rooms[room] = event.room.metadata
            case RoomEnded():
                del self.rooms[room]
                assert not [key for key in self.people if key[0] == room]
            case ParticipantEntered(participant=person):
                assert room in self.rooms
                assert (room, person.identity) not in self.people
                self.people[room, person.identity] = person
                self.sids.append(person.sid)
            case ParticipantGone(participant=person):
                assert self.people.pop((room, person.identity)) == person
            case ParticipantChanged(participant=person, previous=previous):
                assert self.people[room, person.identity] == previous != person
                self.people[room, person.identity] = person
            case TrackAdded(participant=person, track=track):
                self.sids.append(track.sid)
                assert track in person.tracks
                self.people[room, person.identity] = person
            case TrackGone(participant=person, track=track):
                assert track not in person.tracks
                assert track in self.people[room, person.identity].tracks
                self.people[room, person.identity] = person
            case TrackMuteChanged(participant=person):
                self.people[room, person.identity] = person
            case _:
                pass


@dataclass
class Person:
    """Somebody, by the model."""

    sid: str
    dependent: bool
    permissions: ParticipantPermissions
    metadata: str = ""
    attributes: dict[str, str] = field(default_factory=dict)
    tracks: dict[str, bool] = field(default_factory=dict)
    """sid to muted."""


@dataclass
class Home:
    """A room, by the model."""

    departure_timeout: float
    most: int
    closes_at: float
    metadata: str = ""
    people: dict[str, Person] = field(default_factory=dict)

    def independent(self) -> int:
        return sum(not person.dependent for person in self.people.values())


class Ledger(RuleBasedStateMachine):
    """Each rule does to the model what it does to the ledger, and says which events that must have caused."""

    @initialize(seed=st.integers(0, 5), most=st.integers(0, 2))
    def begin(self, seed: int, most: int) -> None:
        self.ledger = RoomLedger(Random(seed))
        self.mirror = Mirror()
        self.now = 0.0
        self.homes: dict[str, Home] = {}
        self.gone_sids: list[str] = []
        self.create("r", 300.0, 20.0, most)

    def hear(self) -> list[LedgerEvent]:
        events = self.ledger.events()
        for event in events:
            self.mirror.hear(event)
        return events

    def expect(self, *kinds: type[LedgerEvent]) -> list[LedgerEvent]:
        events = self.hear()
        assert [type(event) for event in events] == list(kinds)
        return events

    def find(self, room: str, identity: str) -> Person | None:
        home = self.homes.get(room)
        return None if home is None else home.people.get(identity)

    # ------------------------------------------------------------------------------------ rooms

    @rule(
        room=ROOMS,
        empty=st.sampled_from([5.0, 300.0]),
        departure=st.sampled_from([2.0, 20.0]),
        most=st.sampled_from([0, 0, 1, 2]),
    )
    def create(self, room: str, empty: float, departure: float, most: int) -> None:
        record = self.ledger.create_room(
            room, now=self.now, wall=self.now, empty_timeout=empty, departure_timeout=departure, max_participants=most
        )
        assert record.name == room
        if room in self.homes:
            self.expect()
            return
        self.homes[room] = Home(departure, most, self.now + empty)
        self.expect(RoomOpened)

    @rule(room=ROOMS)
    def delete(self, room: str) -> None:
        assert self.ledger.delete_room(room) is (room in self.homes)
        self.ended([room] if room in self.homes else [], reason=5)

    def ended(self, rooms: list[str], reason: int) -> None:
        events = iter(self.hear())
        for room in rooms:
            for person in self.homes.pop(room).people.values():
                gone = next(events)
                assert isinstance(gone, ParticipantGone)
                assert (gone.participant.sid, gone.reason) == (person.sid, reason)
                self.gone_sids.append(person.sid)
            end = next(events)
            assert isinstance(end, RoomEnded)
            assert (end.room.name, end.reason) == (room, reason)
        assert list(events) == []

    @rule(room=ROOMS, metadata=st.sampled_from(["", "x", "y", "ä" * 262_145]))
    def describe(self, room: str, metadata: str) -> None:
        home = self.homes.get(room)
        if home is None or len(metadata) > 2:
            with pytest.raises(RoomError):
                self.ledger.update_room_metadata(room, metadata)
            self.expect()
            return
        self.ledger.update_room_metadata(room, metadata)
        home.metadata = metadata
        self.expect(RoomChanged)

    @rule(seconds=st.sampled_from([0.0, 1.0, 2.0, 4.999, 5.0, 20.0, 299.0, 300.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.ledger.handle_timeout(self.now)
        due = sorted((home.closes_at, name) for name, home in self.homes.items() if home.closes_at <= self.now)
        self.ended([name for _, name in due], reason=10)

    # ------------------------------------------------------------------------------------ people

    @rule(room=ROOMS, identity=PEOPLE, agent=st.booleans(), permissions=PERMISSIONS)
    def join(self, room: str, identity: str, agent: bool, permissions: ParticipantPermissions) -> None:
        kind = ParticipantKind.AGENT if agent else ParticipantKind.STANDARD
        earlier, home = self.find(room, identity), self.homes.get(room)
        full = home is not None and earlier is None and not agent and 0 < home.most <= home.independent()
        if full:
            with pytest.raises(RoomError):
                self.ledger.join(room, identity, now=self.now, wall=self.now, kind=kind, permissions=permissions)
            self.expect()
            return
        record = self.ledger.join(room, identity, now=self.now, wall=self.now, kind=kind, permissions=permissions)
        expected: list[type[LedgerEvent]] = []
        if home is None:
            home = self.homes[room] = Home(20.0, 0, self.now + 300.0)
            expected.append(RoomOpened)
        if earlier is not None:
            self.depart(home, identity)
            expected.append(ParticipantGone)
        home.people[identity] = Person(record.sid, agent, permissions)
        if not agent:
            home.closes_at = math.inf
        for event in self.expect(*expected, ParticipantEntered):
            assert not isinstance(event, ParticipantGone) or event.reason == 2

    def depart(self, home: Home, identity: str) -> None:
        person = home.people.pop(identity)
        self.gone_sids.append(person.sid)
        if not person.dependent and not home.independent():
            home.closes_at = self.now + home.departure_timeout

    @rule(room=ROOMS, identity=PEOPLE, removed=st.booleans())
    def leave(self, room: str, identity: str, removed: bool) -> None:
        person = self.find(room, identity)
        if removed:
            assert self.ledger.remove(room, identity, now=self.now) is (person is not None)
        elif person is not None:
            assert self.ledger.leave(person.sid, now=self.now)
        if person is None:
            self.expect()
            return
        self.depart(self.homes[room], identity)
        (gone,) = self.expect(ParticipantGone)
        assert isinstance(gone, ParticipantGone)
        assert gone.reason == (4 if removed else 1)

    @rule(
        room=ROOMS, identity=PEOPLE, metadata=st.sampled_from(["", "x"]), key=st.sampled_from("kl"), own=st.booleans()
    )
    def change(self, room: str, identity: str, metadata: str, key: str, own: bool) -> None:
        person = self.find(room, identity)
        if person is None:
            with pytest.raises(RoomError):
                self.ledger.update_participant(room, identity, metadata=metadata)
            return
        attributes = {key: metadata}
        if own and not person.permissions.can_update_metadata:
            with pytest.raises(RoomPermissionError):
                self.ledger.change_own(person.sid, metadata=metadata, attributes=attributes)
            self.expect()
            return
        if own:
            self.ledger.change_own(person.sid, metadata=metadata, attributes=attributes)
        else:
            self.ledger.update_participant(room, identity, metadata=metadata, attributes=attributes)
        before = (person.metadata, dict(person.attributes))
        person.metadata = metadata
        person.attributes.pop(key, None)
        if metadata:
            person.attributes[key] = metadata
        self.expect(*[ParticipantChanged] * (before != (person.metadata, person.attributes)))

    @rule(room=ROOMS, identity=PEOPLE, permissions=PERMISSIONS)
    def permit(self, room: str, identity: str, permissions: ParticipantPermissions) -> None:
        person = self.find(room, identity)
        if person is None:
            return
        self.ledger.update_participant(room, identity, permissions=permissions)
        expected: list[type[LedgerEvent]] = [ParticipantChanged] * (person.permissions != permissions)
        if expected and not permissions.can_publish:
            expected += [TrackGone] * len(person.tracks)
            person.tracks.clear()
        person.permissions = permissions
        self.expect(*expected)

    # ------------------------------------------------------------------------------------ tracks and data

    @rule(room=ROOMS, identity=PEOPLE)
    def publish(self, room: str, identity: str) -> None:
        person = self.find(room, identity)
        if person is None:
            return
        if not person.permissions.can_publish:
            with pytest.raises(RoomPermissionError):
                self.ledger.publish(person.sid)
            self.expect()
            return
        person.tracks[self.ledger.publish(person.sid).sid] = False
        self.expect(TrackAdded)

    @rule(room=ROOMS, identity=PEOPLE, pick=st.integers(0, 3), muted=st.booleans())
    def mute(self, room: str, identity: str, pick: int, muted: bool) -> None:
        person = self.find(room, identity)
        if person is None:
            return
        sid = [*person.tracks, "TR_none"][pick % (len(person.tracks) + 1)]
        assert self.ledger.mute(person.sid, sid, muted) is (sid in person.tracks)
        changed = person.tracks.get(sid, muted) != muted
        if sid in person.tracks:
            person.tracks[sid] = muted
        self.expect(*[TrackMuteChanged] * changed)

    @rule(room=ROOMS, identity=PEOPLE, pick=st.integers(0, 3))
    def unpublish(self, room: str, identity: str, pick: int) -> None:
        person = self.find(room, identity)
        if person is not None:
            sid = [*person.tracks, "TR_none"][pick % (len(person.tracks) + 1)]
            there = person.tracks.pop(sid, None) is not None
            assert self.ledger.unpublish(person.sid, sid) is there
            self.expect(*[TrackGone] * there)

    @rule(room=ROOMS, identity=PEOPLE, to=st.lists(PEOPLE, max_size=2))
    def send(self, room: str, identity: str, to: list[str]) -> None:
        person = self.find(room, identity)
        if person is None:
            return
        self.ledger.send_data(person.sid, b"x", destinations=to)
        for event in self.expect(*[DataSent] * person.permissions.can_publish_data):
            assert isinstance(event, DataSent)
            others = [(name, other) for name, other in self.homes[room].people.items() if other is not person]
            assert list(event.receivers) == [other.sid for name, other in others if not to or name in to]

    # ------------------------------------------------------------------------------------ always

    @invariant()
    def the_ledger_says_what_the_model_says(self) -> None:
        assert {room.name: room.metadata for room in self.ledger.rooms()} == {
            name: home.metadata for name, home in self.homes.items()
        }
        for name, home in self.homes.items():
            people = self.ledger.participants(name)
            assert [(p.identity, p.sid) for p in people] == [(i, p.sid) for i, p in home.people.items()]
            for record in people:
                person = home.people[record.identity]
                assert (record.metadata, dict(record.attributes)) == (person.metadata, person.attributes)
                assert {track.sid: track.muted for track in record.tracks} == person.tracks
                assert (record.permissions, record.dependent) == (person.permissions, person.dependent)
        assert self.ledger.next_deadline() == min((h.closes_at for h in self.homes.values()), default=math.inf)

    @invariant()
    def the_events_alone_tell_the_same(self) -> None:
        assert self.mirror.rooms == {name: home.metadata for name, home in self.homes.items()}
        told = {(room, p.identity): p for room in self.mirror.rooms for p in self.ledger.participants(room)}
        assert told == self.mirror.people
        assert len(self.mirror.sids) == len(dict.fromkeys(self.mirror.sids))

    @invariant()
    def who_has_gone_is_nobody(self) -> None:
        assert all(self.ledger.member(sid) is None for sid in self.gone_sids[-5:])


TestLedger = Ledger.TestCase
TestLedger.settings = settings(max_examples=100, stateful_step_count=40)
