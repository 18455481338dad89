"""The ledger: verbs in, events out, nothing else."""

from __future__ import annotations

import math
from random import Random

import pytest

from livekit_agent import ParticipantPermissions, RoomError, RoomPermissionError
from livekit_agent.rooms import ParticipantKind
from livekit_agent.rooms._ledger import RoomLedger
from livekit_agent.rooms._ledger_events import (
    DataSent,
    ParticipantChanged,
    ParticipantEntered,
    ParticipantGone,
    RoomEnded,
    RoomOpened,
    TrackAdded,
    TrackGone,
    TrackMuteChanged,
)


def new() -> RoomLedger:
    return RoomLedger(Random(1))


def names(ledger: RoomLedger) -> list[str]:
    return [type(event).__name__ for event in ledger.events()]


def test_the_first_to_join_opens_the_room() -> None:
    ledger = new()
    person = ledger.join("r", "a", now=0, wall=1_700_000_000)
    opened, entered = ledger.events()
    assert isinstance(opened, RoomOpened)
    assert isinstance(entered, ParticipantEntered)
    assert (opened.room.name, opened.room.empty_timeout, opened.room.departure_timeout) == ("r", 300, 20)
    assert entered.participant == person
    assert (person.sid[:3], opened.room.sid[:3], person.joined_at) == ("PA_", "RM_", 1_700_000_000)
    assert ledger.member(person.sid) == (opened.room, person)
    assert ledger.events() == []


def test_ids_come_from_the_generator() -> None:
    sids = [RoomLedger(Random("x")).join("r", "a", now=0, wall=0).sid for _ in range(2)]
    assert sids[0] == sids[1]


def test_the_same_identity_throws_out_the_earlier_visit() -> None:
    ledger = new()
    first = ledger.join("r", "a", now=0, wall=0)
    ledger.events()
    second = ledger.join("r", "a", now=1, wall=1)
    gone, entered = ledger.events()
    assert isinstance(gone, ParticipantGone)
    assert isinstance(entered, ParticipantEntered)
    assert (gone.participant, gone.reason, entered.participant) == (first, 2, second)
    assert ledger.participants("r") == [second]
    assert ledger.member(first.sid) is None


def test_removing_and_deleting_have_their_reasons() -> None:
    ledger = new()
    ledger.join("r", "a", now=0, wall=0)
    ledger.join("r", "b", now=0, wall=0)
    ledger.events()
    assert ledger.remove("r", "a", now=1)
    assert not ledger.remove("r", "a", now=1)
    assert ledger.delete_room("r")
    assert not ledger.delete_room("r")
    removed, deleted, ended = ledger.events()
    assert isinstance(removed, ParticipantGone)
    assert isinstance(deleted, ParticipantGone)
    assert isinstance(ended, RoomEnded)
    assert (removed.reason, deleted.reason, ended.reason) == (4, 5, 5)
    assert ledger.rooms() == []


@pytest.mark.parametrize(
    ("kind", "permissions"),
    [
        (ParticipantKind.AGENT, None),
        (ParticipantKind.EGRESS, None),
        (ParticipantKind.STANDARD, ParticipantPermissions(agent=True)),
        (ParticipantKind.STANDARD, ParticipantPermissions(recorder=True)),
    ],
)
def test_a_room_with_only_dependents_is_empty(kind: int, permissions: ParticipantPermissions | None) -> None:
    ledger = new()
    ledger.join("r", "agent", now=0, wall=0, kind=kind, permissions=permissions)
    assert ledger.next_deadline() == 300
    person = ledger.join("r", "a", now=100, wall=0)
    assert ledger.next_deadline() == math.inf
    ledger.leave(person.sid, now=150)
    assert ledger.next_deadline() == 170
    ledger.handle_timeout(169.999)
    assert len(ledger.rooms()) == 1
    ledger.events()
    ledger.handle_timeout(170)
    gone, ended = ledger.events()
    assert isinstance(gone, ParticipantGone)
    assert isinstance(ended, RoomEnded)
    assert (gone.reason, ended.reason, ledger.next_deadline()) == (10, 10, math.inf)


def test_creating_what_exists_changes_nothing() -> None:
    ledger = new()
    first = ledger.create_room("r", now=0, wall=0, metadata="m", empty_timeout=1)
    assert ledger.create_room("r", now=0, wall=5, metadata="other") is first
    assert names(ledger) == ["RoomOpened"]


def test_a_deleted_room_leaves_no_deadline_to_its_successor() -> None:
    ledger = new()
    ledger.create_room("r", now=0, wall=0, empty_timeout=10)
    ledger.delete_room("r")
    ledger.create_room("r", now=5, wall=0, empty_timeout=100)
    assert ledger.next_deadline() == 105


def test_own_changes_need_the_permission() -> None:
    ledger = new()
    may_not = ParticipantPermissions(can_update_metadata=False)
    person = ledger.join("r", "a", now=0, wall=0, permissions=may_not)
    with pytest.raises(RoomPermissionError, match="NotAllowed"):
        ledger.change_own(person.sid, metadata="x")
    assert ledger.update_participant("r", "a", metadata="x").metadata == "x"


def test_attributes_merge_and_an_empty_value_removes() -> None:
    ledger = new()
    person = ledger.join("r", "a", now=0, wall=0, attributes={"keep": "1", "drop": "1", "same": "1"})
    ledger.events()
    ledger.change_own(person.sid, attributes={"drop": "", "same": "1", "new": "2", "absent": ""})
    [changed] = ledger.events()
    assert isinstance(changed, ParticipantChanged)
    assert dict(changed.changed_attributes) == {"drop": "", "new": "2"}
    assert dict(changed.participant.attributes) == {"keep": "1", "same": "1", "new": "2"}
    ledger.change_own(person.sid, attributes={"same": "1"})
    assert ledger.events() == []


@pytest.mark.parametrize(
    "change", [{"metadata": "x" * 524_289}, {"attributes": {"k": "x" * 65_536}}], ids=["metadata", "attributes"]
)
def test_what_is_too_large_is_refused(change: dict[str, object]) -> None:
    ledger = new()
    person = ledger.join("r", "a", now=0, wall=0)
    with pytest.raises(RoomError, match="LimitExceeded"):
        ledger.change_own(person.sid, **change)  # type: ignore[arg-type]
    assert ledger.participant("r", "a") == person


def test_a_track_lives_and_dies() -> None:
    ledger = new()
    person = ledger.join("r", "a", now=0, wall=0)
    ledger.events()
    track = ledger.publish(person.sid, name="voice")
    assert ledger.mute(person.sid, track.sid, True)
    assert ledger.mute(person.sid, track.sid, True)
    assert ledger.unpublish(person.sid, track.sid)
    assert not ledger.unpublish(person.sid, track.sid)
    assert not ledger.mute(person.sid, track.sid, False)
    ledger.publish(person.sid)
    added, muted, gone, again = ledger.events()
    assert isinstance(added, TrackAdded)
    assert isinstance(again, TrackAdded)
    assert isinstance(muted, TrackMuteChanged)
    assert isinstance(gone, TrackGone)
    assert (added.first, again.first, muted.track.muted) == (True, False, True)


def test_only_the_sources_granted_may_be_published() -> None:
    ledger = new()
    camera_only = ParticipantPermissions(can_publish_sources=(1,))
    person = ledger.join("r", "a", now=0, wall=0, permissions=camera_only)
    with pytest.raises(RoomPermissionError):
        ledger.publish(person.sid)


def test_data_is_routed_and_dies_silently_without_permission() -> None:
    ledger = new()
    a = ledger.join("r", "a", now=0, wall=0)
    b = ledger.join("r", "b", now=0, wall=0, permissions=ParticipantPermissions(can_publish_data=False))
    c = ledger.join("r", "c", now=0, wall=0)
    ledger.events()
    ledger.send_data(a.sid, b"1")
    ledger.send_data(a.sid, b"2", destinations=["c", "a", "nobody"])
    ledger.send_data(b.sid, b"never")
    ledger.send_server_data("r", b"3")
    with pytest.raises(RoomError, match="does not exist"):
        ledger.send_server_data("unknown", b"")
    sent = [event for event in ledger.events() if isinstance(event, DataSent)]
    assert [(event.data, event.receivers) for event in sent] == [
        (b"1", (b.sid, c.sid)),
        (b"2", (c.sid,)),
        (b"3", (a.sid, b.sid, c.sid)),
    ]


def test_verbs_of_who_is_gone_say_so() -> None:
    ledger = new()
    person = ledger.join("r", "a", now=0, wall=0)
    assert ledger.leave(person.sid, now=0)
    assert not ledger.leave(person.sid, now=0)
    with pytest.raises(RoomError) as caught:
        ledger.publish(person.sid)
    assert caught.value.code == "PARTICIPANT_NOT_FOUND"
    with pytest.raises(RoomError):
        ledger.update_participant("r", "a")
    with pytest.raises(RoomError):
        ledger.update_room_metadata("unknown", "x")
