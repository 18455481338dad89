"""A room under events in any order: it never breaks, tells a story that makes sense, and gives every handle back once.

After reconnects a real server's joins and leaves come twice or reversed, subscriptions before publications, news of
people who are gone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_agent import RoomConnectError, RoomError, events
from livekit_agent.rooms import ConnectionState, DisconnectReason, Room
from livekit_agent.rooms._proto import ffi
from livekit_agent.rooms._proto import participant as participant_pb
from livekit_agent.rooms._proto import room as room_pb
from livekit_agent.rooms._proto import track as track_pb
from livekit_agent.rooms._transport import Router


class Library:
    """Gives out numbered handles and notes what comes back."""

    def __init__(self) -> None:
        self.router = Router(self)
        self.given = 0
        self.dropped: list[int] = []
        self.asked: list[str] = []
        self.reject: tuple[str, ...] = ()

    def handle(self) -> int:
        self.given += 1
        return self.given

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        kind = str(request.WhichOneof("message"))
        self.asked.append(kind)
        if kind in self.reject:
            raise RoomError("rejected")
        return ffi.FfiResponse()

    def drop(self, handle_id: int) -> bool:
        self.dropped.append(handle_id)
        return True

    @contextmanager
    def lend(self, data: bytes) -> Iterator[int]:
        yield 1

    def read(self, buffer: room_pb.BufferInfo) -> bytes:
        return b"data"

    def person(self, identity: str, visit: int = 0) -> participant_pb.OwnedParticipant:
        owned = participant_pb.OwnedParticipant()
        owned.handle.id = self.handle()
        owned.info.identity, owned.info.sid = identity, f"PA_{identity}{visit}"
        return owned

    def room(self) -> Room:
        result = room_pb.ConnectCallback.Result()
        result.room.handle.id = self.handle()
        result.room.info.name, result.room.info.sid = "r", "RM_r"
        result.local_participant.CopyFrom(self.person("me"))
        return Room(self, result)

    def say(self, **message: Any) -> None:
        self.router.deliver(ffi.FfiEvent(room_event=room_pb.RoomEvent(room_handle=1, **message)))

    def say_drawn(self, kind: str, identity: str, number: int, flag: bool) -> None:
        """One event of that kind, about that person and its n-th visit or track."""
        sid = f"TR_{identity}{number}"
        who = {"participant_identity": identity}
        message: Any
        match kind:
            case "participant_connected":
                message = room_pb.ParticipantConnected(info=self.person(identity, number))
            case "participant_disconnected":
                message = room_pb.ParticipantDisconnected(**who, disconnect_reason=number)  # type: ignore[arg-type]
            case "participants_updated":
                info = self.person(identity, number).info
                self.dropped.append(self.given)  # it carries no handle after all
                message = room_pb.ParticipantsUpdated(participants=[info])
            case "participant_metadata_changed":
                message = room_pb.ParticipantMetadataChanged(**who, metadata=str(number))
            case "participant_name_changed":
                message = room_pb.ParticipantNameChanged(**who, name=str(number))
            case "track_published":
                message = room_pb.TrackPublished(**who)
                message.publication.handle.id = self.handle()
                message.publication.info.sid = sid
            case "track_unpublished":
                message = room_pb.TrackUnpublished(**who, publication_sid=sid)
            case "track_subscribed":
                message = room_pb.TrackSubscribed(**who)
                message.track.handle.id = self.handle()
                message.track.info.sid = sid
            case "track_unsubscribed":
                message = room_pb.TrackUnsubscribed(**who, track_sid=sid)
            case "track_muted" | "track_unmuted":
                kind = "track_muted" if flag else "track_unmuted"
                message = (room_pb.TrackMuted if flag else room_pb.TrackUnmuted)(**who, track_sid=sid)
            case "local_track_republished":
                message = room_pb.LocalTrackRepublished(publication_handle=self.handle(), previous_sid=sid)
                message.info.sid = sid + "'"
            case "local_track_unpublished":
                message = room_pb.LocalTrackUnpublished(publication_sid=sid)
            case "active_speakers_changed":
                message = room_pb.ActiveSpeakersChanged(participant_identities=[identity, "me"][: number + 1])
            case "connection_quality_changed":
                message = room_pb.ConnectionQualityChanged(**who, quality=number)  # type: ignore[arg-type]
            case "data_packet_received":
                message = room_pb.DataPacketReceived(**who)
                message.user.data.handle.id = self.handle()
            case "text_stream_opened":
                message = room_pb.RoomEvent().text_stream_opened.__class__()
                message.reader.handle.id = self.handle()
            case "connection_state_changed":
                message = room_pb.ConnectionStateChanged(state=number)  # type: ignore[arg-type]
            case _:
                raise AssertionError(kind)
        self.say(**{kind: message})


KINDS = st.sampled_from(
    [
        "participant_connected",
        "participant_connected",
        "participant_disconnected",
        "participants_updated",
        "participant_metadata_changed",
        "participant_name_changed",
        "track_published",
        "track_unpublished",
        "track_subscribed",
        "track_unsubscribed",
        "track_muted",
        "track_unmuted",
        "local_track_republished",
        "local_track_unpublished",
        "active_speakers_changed",
        "connection_quality_changed",
        "data_packet_received",
        "text_stream_opened",
        "connection_state_changed",
    ]
)
STORIES = st.lists(st.tuples(KINDS, st.sampled_from(["a", "b", "me"]), st.integers(0, 2), st.booleans()), max_size=40)


@pytest.mark.virtual
@given(story=STORIES)
async def test_any_order_of_events_makes_sense_and_leaks_nothing(story: list[tuple[str, str, int, bool]]) -> None:
    library = Library()
    room = library.room()
    heard = room.subscribe()
    for step in story:
        library.say_drawn(*step)
        assert room.is_open, f"{step} broke the room"
    library.say(disconnected=room_pb.Disconnected(reason=participant_pb.ROOM_DELETED))
    library.say(eos=room_pb.RoomEOS())
    check_the_story([event async for event in heard])
    assert sorted(library.dropped) == list(range(1, library.given + 1))
    assert room.statistics().handles == 0
    assert library.router.idle


def check_the_story(told: list[events.RoomEvent]) -> None:
    """Joins and leaves alternate for each person, tracks live inside visits, subscriptions inside tracks."""
    present: dict[str, dict[str, bool]] = {}
    for event in told:
        match event:
            case events.ParticipantJoined(participant=person):
                assert person.identity not in present
                present[person.identity] = {}
            case events.ParticipantLeft(participant=person):
                assert present.pop(person.identity) == {}
            case events.TrackPublished(publication=publication, participant=person):
                assert publication.sid not in present[person.identity]
                present[person.identity][publication.sid] = False
            case events.TrackUnpublished(publication=publication, participant=person):
                assert present[person.identity].pop(publication.sid) is False
            case events.TrackSubscribed(publication=publication, participant=person):
                assert present[person.identity][publication.sid] is False
                present[person.identity][publication.sid] = True
            case events.TrackUnsubscribed(publication=publication, participant=person):
                assert present[person.identity][publication.sid] is True
                present[person.identity][publication.sid] = False
            case _:
                pass
    assert told[-1:] == [events.Disconnected(reason=5)]
    assert sum(isinstance(event, events.Disconnected) for event in told) == 1


@pytest.mark.virtual
async def test_a_visit_that_is_told_twice_is_one_visit_and_a_new_one_ends_the_old() -> None:
    library = Library()
    room = library.room()
    heard = room.subscribe()
    library.say(participant_connected=room_pb.ParticipantConnected(info=library.person("a", 1)))
    library.say(participant_connected=room_pb.ParticipantConnected(info=library.person("a", 1)))
    first = room.remote_participants["a"]
    library.say(participant_connected=room_pb.ParticipantConnected(info=library.person("a", 2)))
    second = room.remote_participants["a"]
    assert first is not second
    assert [heard.next_nowait() for _ in range(4)] == [
        events.ParticipantJoined(participant=first),
        events.ParticipantLeft(participant=first),
        events.ParticipantJoined(participant=second),
        None,
    ]


@pytest.mark.virtual
async def test_a_subscription_before_its_publication_is_told_in_order_and_completed_later() -> None:
    library = Library()
    room = library.room()
    heard = room.subscribe(events.TrackPublished, events.TrackSubscribed)
    library.say(participant_connected=room_pb.ParticipantConnected(info=library.person("a")))
    library.say_drawn("track_subscribed", "a", 1, False)
    publication = track_pb.OwnedTrackPublication()
    publication.handle.id = library.handle()
    publication.info.sid, publication.info.mime_type = "TR_a1", "audio/red"
    library.say(track_published=room_pb.TrackPublished(participant_identity="a", publication=publication))
    assert [type(event).__name__ for event in (heard.next_nowait(), heard.next_nowait(), heard.next_nowait())] == [
        "TrackPublished", "TrackSubscribed", "NoneType",
    ]  # fmt: skip
    [view] = room.remote_participants["a"].track_publications.values()
    assert (view.mime_type, view.subscribed) == ("audio/red", True)


@pytest.mark.virtual
async def test_a_track_that_comes_and_goes_before_its_listener_runs_is_waited_out() -> None:
    library = Library()
    room = library.room()
    library.say(participant_connected=room_pb.ParticipantConnected(info=library.person("a")))
    heard = room.remote_participants["a"].audio()
    ended = anyio.Event()

    async def listen() -> None:
        assert [frame async for frame in heard] == []
        ended.set()

    async with anyio.create_task_group() as group:
        group.start_soon(listen)
        await anyio.sleep(1)
        publication = track_pb.OwnedTrackPublication()
        publication.info.sid, publication.info.source = "TR_a1", track_pb.SOURCE_MICROPHONE
        library.say(track_published=room_pb.TrackPublished(participant_identity="a", publication=publication))
        # In one step of the event loop, as one burst of the library's brings them.
        library.say_drawn("track_subscribed", "a", 1, True)
        library.say_drawn("track_unsubscribed", "a", 1, True)
        await anyio.sleep(1)
        assert not ended.is_set()
        library.say_drawn("participant_disconnected", "a", 1, True)
        with anyio.fail_after(1):
            await ended.wait()


@pytest.mark.virtual
async def test_the_numbers_of_a_room_are_what_the_server_said_last() -> None:
    library = Library()
    room = library.room()
    assert (room.num_participants, room.num_publishers, room.max_participants) == (0, 0, 0)
    library.say(room_updated=room_pb.RoomInfo(num_participants=3, num_publishers=2, max_participants=9))
    assert (room.num_participants, room.num_publishers, room.max_participants) == (3, 2, 9)


@pytest.mark.virtual
async def test_a_reason_of_a_newer_server_stays_a_number() -> None:
    for number, reason in ((4, DisconnectReason.PARTICIPANT_REMOVED), (0, DisconnectReason.UNKNOWN), (99, 99)):
        library = Library()
        room = library.room()
        room._reason = number
        library.say(eos=room_pb.RoomEOS())
        end = await room.wait_closed()
        assert (end.reason, type(end.reason)) == (reason, type(reason))
        assert room.disconnect_reason is end.reason


@pytest.mark.virtual
async def test_the_end_without_a_reason_has_the_one_we_asked_for() -> None:
    library = Library()
    room = library.room()
    room._leave_quietly()
    room._asked_reason = 16
    library.say(eos=room_pb.RoomEOS())
    assert room.disconnect_reason == 16


@pytest.mark.virtual
async def test_a_room_that_never_ends_is_given_up_in_time() -> None:
    library = Library()
    room = library.room()
    await room.disconnect()
    assert anyio.current_time() == 2
    assert sorted(library.dropped) == [1, 2]
    assert (room.connection_state, room.disconnect_reason) == (ConnectionState.DISCONNECTED, 1)


@pytest.mark.virtual
async def test_a_room_that_the_library_forgot_is_left_at_once() -> None:
    library = Library()
    room = library.room()
    library.reject = ("disconnect",)
    await room.disconnect()
    assert anyio.current_time() == 0
    assert not room.is_open


@pytest.mark.virtual
async def test_a_room_that_was_forgotten_before_it_began_is_no_room() -> None:
    library = Library()
    library.reject = ("ready_for_room_event",)
    with pytest.raises(RoomConnectError, match="given up"):
        library.room()
    assert sorted(library.dropped) == [1, 2]
    assert library.router.idle


@pytest.mark.virtual
async def test_a_bug_of_ours_ends_the_room_and_not_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library()
    room = library.room()

    def bug(event: room_pb.RoomEvent) -> None:
        raise KeyError("a bug")

    monkeypatch.setitem(room._model._handlers, "room_sid_changed", bug)
    library.say(room_sid_changed=room_pb.RoomSidChanged(sid="RM_x"))
    assert not room.is_open
    assert library.asked[-1] == "disconnect"
    assert sorted(library.dropped) == [1, 2]


@pytest.mark.virtual
async def test_two_consumers_of_one_subscription_are_one_too_many() -> None:
    heard = Library().room().subscribe()
    async with anyio.create_task_group() as group:
        group.start_soon(heard.__anext__)
        await anyio.sleep(1)
        with pytest.raises(anyio.BusyResourceError):
            await anext(heard)
        group.cancel_scope.cancel()
