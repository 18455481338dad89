"""What the library says, message by message: the facts below the room's own events, in memory as on a real server.

The room tidies up (an end is told once, a mute once); here its transport is listened to directly, so that a room in
memory is held to what a real server does before the tidying.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import anyio
import numpy as np
import pytest
from sounds import RATE, found_tone, hum, level, tone
from test_conformance import feed
from venues import PATIENCE, Venue, next_of, token, until

from livekit_agent import ParticipantPermissions, RoomConnectError, RoomError, events
from livekit_agent.rooms import AudioSource, DisconnectReason, Room, RpcCode
from livekit_agent.rooms._calls import Call
from livekit_agent.rooms._proto import audio, ffi
from livekit_agent.rooms._proto import room as room_pb
from livekit_agent.rooms._proto import track as track_pb


class Wire:
    """Everything that the rooms of a test were told, by identity."""

    def __init__(self) -> None:
        self.said: defaultdict[str, list[Any]] = defaultdict(list)
        self.joined: dict[str, Any] = {}

    def kinds(self, identity: str, *only: str) -> list[str]:
        kinds = [event.WhichOneof("message") for event in self.said[identity]]
        return [kind for kind in kinds if not only or kind in only]

    def messages(self, identity: str, kind: str) -> list[Any]:
        return [getattr(event, kind) for event in self.said[identity] if event.WhichOneof("message") == kind]

    async def until(self, identity: str, kind: str, count: int = 1) -> None:
        await until(lambda: len(self.messages(identity, kind)) >= count)


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    return listening(monkeypatch)


def listening(monkeypatch: pytest.MonkeyPatch) -> Wire:
    """Note everything that rooms are told from now on."""
    heard = Wire()
    receive, make = Room._receive, Room.__init__

    def note(room: Room, event: Any) -> None:
        copy = type(event)()
        copy.CopyFrom(event)
        heard.said[room.local_participant.identity].append(copy)
        receive(room, event)

    def begin(room: Room, transport: Any, result: Any, *options: Any) -> None:
        copy = type(result)()
        copy.CopyFrom(result)
        heard.joined[result.local_participant.info.identity] = copy
        make(room, transport, result, *options)

    monkeypatch.setattr(Room, "_receive", note)
    monkeypatch.setattr(Room, "__init__", begin)
    return heard


async def ask(room: Room, request: ffi.FfiRequest) -> Any:
    """The callback of a request that is made past all of the room's own checks."""
    call = room._link.send(request)
    event = await call.wait(PATIENCE)
    return getattr(event, event.WhichOneof("message") or "")


def disconnecting(room: Room) -> ffi.FfiRequest:
    return ffi.FfiRequest(disconnect=room_pb.DisconnectRequest(room_handle=room._link.room_handle))


# ------------------------------------------------------------------------------------------------ joining


async def test_the_first_that_a_room_says_are_these_three(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a"):
            await wire.until("a", "token_refreshed")
    # The first two come from two tasks of the real library (rust-sdks, livekit-ffi/src/server/room.rs): nearly always
    # in this order, and nobody promises it.
    opening = ["room_sid_changed", "connection_state_changed"]
    assert wire.kinds("a")[:2] in ([opening, opening[::-1]] if venue.real else [opening])
    assert wire.kinds("a")[2] == "token_refreshed"
    assert [message.state for message in wire.messages("a", "connection_state_changed")][:1] == [1]


async def test_the_answer_to_a_join_has_the_sid_and_says_joining_of_us_and_active_of_others(
    venue: Venue, wire: Wire
) -> None:
    async with venue.open():
        async with await venue.join("a", attributes={"k": "v"}) as a:
            async with await venue.join("b"):
                result = wire.joined["b"]
                assert result.room.info.sid == a.sid
                assert (result.room.info.name, result.local_participant.info.state) == (venue.room, 0)
                [peer] = [entry.participant.info for entry in result.participants]
                assert (peer.identity, peer.state, dict(peer.attributes)) == ("a", 2, {"k": "v"})
                # In milliseconds.
                assert peer.joined_at > 1e12


async def test_a_room_that_is_told_ready_twice_does_not_mind(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            ready = room_pb.ReadyForRoomEventRequest(room_handle=a._link.room_handle)
            for _ in range(2):
                a._link.request(ffi.FfiRequest(ready_for_room_event=ready))
            await a.local_participant.publish_data(b"x")
            await wire.until("a", "token_refreshed")
    assert wire.kinds("a", "room_sid_changed", "eos") == ["room_sid_changed", "eos"]


async def test_no_publication_is_announced_to_who_comes_later(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("c"), anyio.create_task_group() as group:
            publication = await a.local_participant.publish_audio()
            group.start_soon(feed, publication.track.source)
            await wire.until("c", "track_subscribed")
            publication.mute()
            await wire.until("c", "track_muted")
            async with await venue.join("b"):
                await wire.until("b", "track_subscribed")
                people = {entry.participant.info.identity: entry for entry in wire.joined["b"].participants}
                [known] = people["a"].publications
                assert (known.info.sid, known.info.muted, known.info.mime_type) == (publication.sid, True, "audio/red")
                assert wire.messages("b", "track_published") == []
            group.cancel_scope.cancel()


async def test_a_publication_that_was_given_back_cannot_be_subscribed_to(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            heard = b.subscribe(events.TrackPublished)
            await a.local_participant.publish_audio()
            publication = (await next_of(heard, events.TrackPublished)).publication
            b._link.drop(publication._state.handle)
            with pytest.raises(RoomError):
                publication.set_subscribed(True)


@pytest.mark.parametrize(
    ("fault", "code"), [("garbage", "401"), ("expired", "401"), ("no grant", "401"), ("no room", "40")]
)
async def test_a_refusal_has_the_code_of_the_server(venue: Venue, fault: str, code: str) -> None:
    bad = {
        "garbage": "eyJhbGciOiJIUzI1NiJ9.bm90IGpzb24.c2lnbmF0dXJl",
        "expired": token(venue.room, "a", wall=1_000_000_000),
        "no grant": token(venue.room, "a", grants={"roomJoin": False}),
        "no room": token("", "a"),
    }[fault]
    async with venue.open():
        started = anyio.current_time()
        with pytest.raises(RoomConnectError, match=code):
            await venue.rooms.connect(venue.url, bad, timeout=PATIENCE)
        assert anyio.current_time() - started < 3
        assert await venue.present() == []


# ------------------------------------------------------------------------------------------------ leaving


async def test_the_end_is_said_in_this_order_and_answered_after_it(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        room = await venue.join("a")
        await room.local_participant.publish_audio()
        await wire.until("a", "local_track_published")
        await room.disconnect()
    order = ["connection_state_changed", "disconnected", "eos"]
    said = list(dict.fromkeys(wire.kinds("a", *order)[1:]))
    # The real library's forwarding task hears of the close while it has words left, and takes either first (rust-sdks,
    # livekit-ffi/src/server/room.rs): of our own leaving it says as many of them as it likes.
    assert said in ([order, [order[0], order[2]], [order[2]]] if venue.real else [order])
    assert wire.kinds("a")[-1] == "eos"
    assert wire.kinds("a", "local_track_unpublished") == ["local_track_unpublished"]
    # Behind the word of the end nothing comes but our own tracks, taken back.
    last = wire.kinds("a")[wire.kinds("a").index("disconnected") if "disconnected" in said else -1 :]
    assert set(last) <= {"disconnected", "local_track_unpublished", "eos"}


async def test_leaving_twice_is_answered_twice(venue: Venue) -> None:
    async with venue.open():
        room = await venue.join("a")
        router = room._transport.router
        answers: list[Any] = []
        for _ in range(2):
            request = disconnecting(room)
            # No room: an answer after the end is meant.
            request.disconnect.request_async_id = router.expect(answers.append)
            room._transport.request(request)
        with anyio.fail_after(PATIENCE):
            while len(answers) < 2:  # noqa: ASYNC110 - below everything that could wake us
                await anyio.sleep(0.01)
        await room.wait_closed()


async def test_a_handle_can_be_given_back_once(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = audio.NewAudioSourceRequest(
                type=audio.AUDIO_SOURCE_NATIVE, sample_rate=48_000, num_channels=1, queue_size_ms=100
            )
            made = a._link.request(ffi.FfiRequest(new_audio_source=source)).new_audio_source.source
            assert a._transport.drop(made.handle.id)
            assert not a._transport.drop(made.handle.id)


async def test_the_reason_that_one_leaves_with_is_echoed(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a"):
            b = await venue.join("b")
            await wire.until("a", "participant_connected")
            await b.disconnect(DisconnectReason.USER_REJECTED)
            await wire.until("a", "participant_disconnected")
            [gone] = wire.messages("a", "participant_disconnected")
            assert (gone.participant_identity, gone.disconnect_reason) == ("b", DisconnectReason.USER_REJECTED)


# ------------------------------------------------------------------------------------------------ who is there


async def test_who_comes_is_connected_and_then_active(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a"), await venue.join("b"):
            await wire.until("a", "participant_active")
            both = wire.kinds("a", "participant_connected", "participant_active")
            assert both == ["participant_connected", "participant_active"]


@pytest.mark.parametrize("field", ["metadata", "name", "attributes"])
async def test_a_change_by_the_server_is_said_three_times(venue: Venue, wire: Wire, field: str) -> None:
    """As itself, as the participant as a whole, and, to the one it is about, as a new token."""
    async with venue.open():
        async with await venue.join("a"), await venue.join("b"):
            await wire.until("a", "participant_active")
            before = {identity: len(wire.said[identity]) for identity in "ab" if identity in wire.said}
            await venue.update("a", **{field: {"k": "v"} if field == "attributes" else "new"})
            change = f"participant_{field}_changed"
            await wire.until("a", change)
            await wire.until("b", change)
            await wire.until("a", "token_refreshed", 2)
            kinds = (change, "participants_updated", "token_refreshed")
            own = [event.WhichOneof("message") for event in wire.said["a"][before["a"] :]]
            # News of the other may still come before it.
            own = own[own.index(change) :]
            assert [kind for kind in own if kind in kinds] == list(kinds)
            assert len(wire.messages("b", change)) == 1


async def test_a_value_that_is_too_large_is_refused_by_the_server(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            with pytest.raises(RoomError, match="exceeds attributes size limit") as caught:
                await a.local_participant.set_attributes({"k": "x" * 70_000})
            assert caught.value.code == "ROOM_LIMIT_EXCEEDED"
            assert dict(a.local_participant.attributes) == {}


async def test_a_change_without_permission_is_refused_in_these_words(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a", grants={"canUpdateOwnMetadata": False}) as a:
            request = room_pb.SetLocalMetadataRequest(local_participant_handle=a._link.local_handle, metadata="x")
            answer = await ask(a, ffi.FfiRequest(set_local_metadata=request))
            assert answer.error == "request error: NotAllowed - does not have permission to update own metadata"


async def test_a_room_that_changes_says_its_metadata_and_then_itself(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a"):
            await venue.update_room("new")
            await wire.until("a", "room_metadata_changed")
            [changed] = wire.messages("a", "room_metadata_changed")
            assert changed.metadata == "new"
            # A room tells of itself for other reasons too: last what it said last.
            await until(lambda: wire.kinds("a", "room_metadata_changed", "room_updated")[-1] == "room_updated")


# ------------------------------------------------------------------------------------------------ tracks


async def test_a_track_has_no_sid_before_it_is_published(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = AudioSource().attach(a._link)
            request = track_pb.CreateAudioTrackRequest(name="voice", source_handle=source)
            made = a._link.request(ffi.FfiRequest(create_audio_track=request)).create_audio_track.track
            a._link.own(made.handle.id)
            assert (made.info.sid, made.info.name, made.info.remote) == ("TR_unknown", "voice", False)


async def test_a_publication_is_answered_before_it_is_told(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            await wire.until("a", "token_refreshed")
            at_answer: list[list[str]] = []
            adopt = type(a.local_participant)._adopt

            def note(*args: Any) -> Any:
                at_answer.append(wire.kinds("a", "local_track_published"))
                return adopt(a.local_participant, *args)

            a.local_participant._adopt = note  # type: ignore[method-assign]
            await a.local_participant.publish_audio()
            await wire.until("a", "local_track_published")
            await until(
                lambda: wire.kinds("a", "local_track_published", "participants_updated")[-1] == "participants_updated"
            )
            assert at_answer == [[]]


async def test_a_track_that_is_taken_back_is_told_before_it_is_answered(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            publication = await a.local_participant.publish_audio()
            await a.local_participant.unpublish_track(publication.sid)
            assert wire.kinds("a", "local_track_unpublished") == ["local_track_unpublished"]


async def test_a_mute_by_the_server_is_said_twice_to_the_publisher_and_told_once(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b"):
            heard = a.subscribe(events.TrackMuted)
            publication = await a.local_participant.publish_audio()
            await wire.until("b", "track_published")
            await venue.mute("a", publication.sid)
            await wire.until("a", "track_muted", 2)
            await wire.until("b", "track_muted")
            assert publication.muted
            assert (await next_of(heard, events.TrackMuted)).publication is publication
            assert heard.next_nowait() is None


async def test_a_mute_of_our_own_is_said_once_to_each(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b"):
            publication = await a.local_participant.publish_audio()
            await wire.until("b", "track_published")
            publication.mute()
            await wire.until("a", "track_muted")
            await wire.until("b", "track_muted")
            publication.unmute()
            await wire.until("b", "track_unmuted")
            assert Counter(wire.kinds("b", "track_muted", "track_unmuted")) == {"track_muted": 1, "track_unmuted": 1}


async def test_a_subscription_given_up_is_told_at_once(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            heard = b.subscribe(events.TrackSubscribed)
            publication = await a.local_participant.publish_audio()
            group.start_soon(feed, publication.track.source)
            subscribed = await next_of(heard, events.TrackSubscribed)
            started = anyio.current_time()
            subscribed.publication.set_subscribed(False)
            await wire.until("b", "track_unsubscribed")
            assert venue.real or anyio.current_time() - started < 1
            # And nothing of it reaches the publisher.
            assert publication.has_subscriber
            assert wire.kinds("a", "local_track_unpublished") == []
            group.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------ sound


async def test_frames_of_any_length_are_taken(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = AudioSource()
            await a.local_participant.publish_audio(source)
            for duration in (0.007, 0.01, 0.013, 0.1):
                await source.capture_frame(duration=duration)


async def test_sound_of_another_shape_is_refused_by_the_library(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = AudioSource(48_000)
            await a.local_participant.publish_audio(source)
            with a._transport.lend(bytes(960)) as address:
                frame = audio.AudioFrameBufferInfo(
                    data_ptr=address, num_channels=1, sample_rate=16_000, samples_per_channel=480
                )
                handle = source.attach(a._link)
                request = audio.CaptureAudioFrameRequest(source_handle=handle, buffer=frame)
                call = a._link.send(ffi.FfiRequest(capture_audio_frame=request))
            answer = (await call.wait(PATIENCE)).capture_audio_frame
            assert "sample_rate and num_channels don't match" in answer.error


def capturing(room: Room, source: AudioSource, samples: int) -> Call:
    """A capture past all of the source's own checks and turns."""
    with room._transport.lend(bytes(2 * samples * source.num_channels)) as address:
        frame = audio.AudioFrameBufferInfo(
            data_ptr=address,
            num_channels=source.num_channels,
            sample_rate=source.sample_rate,
            samples_per_channel=samples,
        )
        request = audio.CaptureAudioFrameRequest(source_handle=source.attach(room._link), buffer=frame)
        return room._link.send(ffi.FfiRequest(capture_audio_frame=request))


async def test_a_second_capture_before_the_first_has_found_room_is_refused(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = AudioSource(queue_size_ms=50)
            await a.local_participant.publish_audio(source)
            first, second = capturing(a, source, 24_000), capturing(a, source, 480)
            said = (await second.wait(PATIENCE)).capture_audio_frame.error
            assert said == "an RtcError occurred: InvalidState - failed to capture frame"
            assert (await first.wait(PATIENCE)).capture_audio_frame.error == ""
            assert (await capturing(a, source, 480).wait(PATIENCE)).capture_audio_frame.error == ""


async def test_without_a_queue_frames_have_10_ms(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = AudioSource(16_000, 2, queue_size_ms=0)
            await a.local_participant.publish_audio(source)
            await source.capture_frame(duration=0.01)
            said = (await capturing(a, source, 240).wait(PATIENCE)).capture_audio_frame.error
            assert said.endswith("InvalidState - direct capture requires 10ms frames: got 240 frames, expected 160")


async def test_who_floods_a_source_without_a_queue_is_heard_for_four_seconds_at_most(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            source = AudioSource(queue_size_ms=0)
            await a.local_participant.publish_audio(source)
            track = await b.wait_for_track("a", timeout=PATIENCE)
            with track.audio_frames(capacity=1_000) as frames:
                for _ in range(50):
                    await source.capture_frame()
                    await anyio.sleep(0.01)
                # A second of a tone, five of another one: more than a receiver keeps, which then forgets what it has.
                for frequency in (400, 1_000, 1_000, 1_000, 1_000, 1_000):
                    piece = tone(1, frequency)
                    for at in range(0, len(piece), 480):
                        await source.capture_frame(piece[at : at + 480])
                heard: list[Any] = []
                quiet = 0
                with anyio.fail_after(PATIENCE):
                    while not heard or quiet < 100:  # until it is over
                        frame = await anext(frames)
                        if level(frame.samples) > 0.05:
                            heard.append(frame)
                            quiet = 0
                        else:
                            quiet += 1
            loud = [frame.samples for frame in heard]
            assert 1.0 < len(loud) / 100 < 4.3
            assert found_tone(np.concatenate(loud[-50:-5])[:, 0], RATE)[0] == pytest.approx(1_000, rel=0.01)


async def test_a_frame_longer_than_the_queue_waits_for_room(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = AudioSource(queue_size_ms=100)
            await a.local_participant.publish_audio(source)
            started = anyio.current_time()
            await source.capture_frame(duration=0.5)
            assert 0.25 < anyio.current_time() - started < (PATIENCE if venue.real else 1.5)


async def test_a_capture_that_is_given_up_leaves_its_source_usable(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = AudioSource(queue_size_ms=50)
            await a.local_participant.publish_audio(source)
            with anyio.move_on_after(0.05) as scope:
                await source.capture_frame(duration=1)
            assert scope.cancelled_caught
            with anyio.fail_after(PATIENCE):
                await source.capture_frame(duration=0.01)


async def test_who_makes_a_sound_speaks_and_who_stops_does_not(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            own, theirs = a.subscribe(events.ActiveSpeakersChanged), b.subscribe(events.ActiveSpeakersChanged)
            publication = await a.local_participant.publish_audio()
            group.start_soon(hum, publication.track.source)
            heard = await next_of(theirs, events.ActiveSpeakersChanged, lambda event: bool(event.speakers))
            assert heard.speakers == (b.remote_participants["a"],)
            assert b.remote_participants["a"].is_speaking
            mine = await next_of(own, events.ActiveSpeakersChanged, lambda event: bool(event.speakers))
            assert mine.speakers == (a.local_participant,)
            assert a.local_participant.is_speaking
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await next_of(theirs, events.ActiveSpeakersChanged, lambda event: not event.speakers)
                assert not b.remote_participants["a"].is_speaking


# ------------------------------------------------------------------------------------------------ data


async def test_five_hundred_packets_arrive_in_order(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            heard = b.subscribe(events.DataReceived)
            await venue.introduce(a, b)
            async with anyio.create_task_group() as group:

                async def send() -> None:
                    for number in range(500):
                        await a.local_participant.publish_data(str(number))

                group.start_soon(send)
                got = [(await next_of(heard, events.DataReceived)).data for _ in range(500)]
            assert got == [str(number).encode() for number in range(500)]


async def test_what_is_too_large_with_its_header_is_refused_in_these_words(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            with a._transport.lend(bytes(64_000)) as address:
                request = room_pb.PublishDataRequest(
                    local_participant_handle=a._link.local_handle, data_ptr=address, data_len=64_000, reliable=True
                )
                call = a._link.send(ffi.FfiRequest(publish_data=request))
            answer = (await call.wait(PATIENCE)).publish_data
            assert answer.error.endswith("exceeds the negotiated maximum message size (64000 bytes)")


async def test_data_without_permission_goes_nowhere_without_a_word(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a", grants={"canPublishData": False}) as a, await venue.join("b") as b:
            heard = b.subscribe(events.DataReceived)
            await venue.introduce(a, b)
            with a._transport.lend(b"x") as address:
                request = room_pb.PublishDataRequest(
                    local_participant_handle=a._link.local_handle, data_ptr=address, data_len=1, reliable=True
                )
                call = a._link.send(ffi.FfiRequest(publish_data=request))
            assert not (await call.wait(PATIENCE)).publish_data.error
            await anyio.sleep(0.3)
            assert heard.next_nowait() is None


async def test_a_text_of_a_hundred_kilobytes_arrives_whole(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.text_streams("long") as streams:
                await a.local_participant.send_text("ä" * 50_000, topic="long")
                with anyio.fail_after(PATIENCE):
                    assert await (await anext(streams)).read_all() == "ä" * 50_000


async def test_a_megabyte_comes_in_pieces_of_at_most_fifteen_thousand(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.byte_streams("big") as streams:
                await a.local_participant.send_bytes(bytes(1_000_000), topic="big")
                with anyio.fail_after(PATIENCE):
                    pieces = [len(piece) async for piece in await anext(streams)]
            assert sum(pieces) == 1_000_000
            assert max(pieces) <= 15_000


async def test_a_reader_that_is_opened_late_loses_nothing(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.text_streams("late") as streams:
                async with a.local_participant.stream_text(topic="late") as writer:
                    for piece in ("one ", "two ", "three"):
                        await writer.write(piece)
                await anyio.sleep(0.5)
                with anyio.fail_after(PATIENCE):
                    assert await (await anext(streams)).read_all() == "one two three"


async def test_a_stream_that_is_closed_takes_no_more(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            async with a.local_participant.stream_text(topic="t") as writer:
                await writer.write("all")
            with pytest.raises(RoomError):
                await writer.write("more")


# ------------------------------------------------------------------------------------------------ calls


async def test_a_call_carries_twenty_kilobytes_both_ways(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)

            async def double(call: Any) -> str:
                return str(call.payload) * 2

            async with b.serve_rpc({"double": double}):
                assert await a.local_participant.perform_rpc("b", "double", "x" * 10_000) == "x" * 20_000


async def test_the_called_side_is_told_who_calls_and_how_long_there_is(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            calls: list[Any] = []

            async def note(call: Any) -> str:
                calls.append(call)
                return ""

            async with b.serve_rpc({"note": note}):
                await a.local_participant.perform_rpc("b", "note", "p", timeout=15)
            [call] = calls
            assert (call.caller_identity, call.method, call.payload, call.timeout) == ("a", "note", "p", 8.0)


async def test_a_method_that_nobody_serves_is_refused_at_once(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            started = anyio.current_time()
            with pytest.raises(Exception, match="Method not supported at destination") as caught:
                await a.local_participant.perform_rpc("b", "nothing")
            assert caught.value.rpc_code == RpcCode.UNSUPPORTED_METHOD  # type: ignore[attr-defined]
            # Who does not answer at all is given seven seconds.
            assert anyio.current_time() - started < 6


async def test_a_call_is_answered_once(venue: Venue) -> None:
    from livekit_agent.rooms._proto import rpc as rpc_pb

    async with venue.open():
        async with await venue.join("a") as a:
            response = rpc_pb.RpcMethodInvocationResponseRequest(
                local_participant_handle=a._link.local_handle, invocation_id=987_654, payload=""
            )
            answer = a._link.request(ffi.FfiRequest(rpc_method_invocation_response=response))
            assert answer.rpc_method_invocation_response.error == "No caller found"


# ------------------------------------------------------------------------------------------------ permissions


async def test_revoking_and_granting_are_told_to_the_one_and_to_the_others(venue: Venue, wire: Wire) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b"):
            await wire.until("a", "participant_active")
            revoked = ParticipantPermissions(can_publish_data=False)
            await venue.update("a", permissions=revoked)
            await wire.until("a", "participant_permission_changed")
            assert not a.local_participant.permissions.can_publish_data
            await venue.update("a", permissions=ParticipantPermissions())
            await wire.until("a", "participant_permission_changed", 2)
            assert a.local_participant.permissions.can_publish_data
            await a.local_participant.publish_data(b"again")
