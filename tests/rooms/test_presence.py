"""Waiting for people and tracks, and a task for each participant, in memory and on a real livekit-server."""

from __future__ import annotations

import anyio
import pytest
from sounds import TONE, hum, level, sound
from venues import PATIENCE, Venue, until

from livekit_agent import RoomClosedError, RoomError, events
from livekit_agent.rooms import (
    AudioFrame,
    AudioSource,
    MemoryRooms,
    ParticipantKind,
    ParticipantKindDetail,
    ParticipantState,
    RemoteParticipant,
    Scenario,
    SipCallStatus,
    SipInfo,
    SourceStream,
    TrackKind,
    TrackSource,
    VideoFormat,
    VideoFrame,
    VideoSource,
)
from livekit_agent.rooms._wire import participant_info

# ------------------------------------------------------------------------------------------------ waiting


async def test_a_wait_for_somebody_who_is_there_is_over_at_once(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a"), await venue.join("b") as b:
            started = anyio.current_time()
            assert await b.wait_for_participant("a") is b.remote_participants["a"]
            assert await b.wait_for_participant() is b.remote_participants["a"]
            assert venue.real or anyio.current_time() == started


async def test_a_wait_for_somebody_who_comes_later_ends_when_it_fits(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, anyio.create_task_group() as group:
            found: dict[str, RemoteParticipant] = {}

            async def wait(name: str, **wanted: object) -> None:
                found[name] = await a.wait_for_participant(timeout=PATIENCE, **wanted)  # type: ignore[arg-type]

            group.start_soon(lambda: wait("identity", identity="c"))
            group.start_soon(lambda: wait("kind", kind=ParticipantKind.AGENT))
            group.start_soon(lambda: wait("where", where=lambda person: person.attributes.get("ready") == "yes"))
            async with await venue.join("b", kind="agent") as b, await venue.join("c") as c:
                await a.wait_for_participant("b", active=True, timeout=PATIENCE)
                await a.wait_for_participant("c", active=True, timeout=PATIENCE)
                await c.local_participant.set_attributes({"ready": "yes"})
                await until(lambda: len(found) == 3)
                assert {name: person.identity for name, person in found.items()} == {
                    "identity": "c",
                    "kind": "b",
                    "where": "c",
                }
                await b.wait_until(lambda: b.local_participant.state == ParticipantState.ACTIVE, PATIENCE)
                assert a.remote_participants["c"].state == ParticipantState.ACTIVE


async def test_a_wait_times_out_and_ends_with_the_room(venue: Venue) -> None:
    async with venue.open():
        room = await venue.join("a")
        with pytest.raises(TimeoutError):
            await room.wait_for_participant("nobody", timeout=0.05)
        async with anyio.create_task_group() as group:
            group.start_soon(room.disconnect)
            with pytest.raises(RoomClosedError):
                await room.wait_for_participant("nobody")
        with pytest.raises(RoomClosedError):
            await room.wait_until(lambda: False)
        assert len(room._link.watches) == 0


async def test_the_error_of_a_condition_is_its_waiters_alone(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:

            def broken() -> bool:
                if a.metadata:
                    raise KeyError(a.metadata)
                return False

            async with anyio.create_task_group() as group:
                group.start_soon(venue.update_room, "boom")
                with pytest.raises(KeyError, match="boom"):
                    await a.wait_until(broken, PATIENCE)
            assert a.is_open


@pytest.mark.virtual
async def test_what_is_true_for_a_moment_only_is_seen() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, anyio.create_task_group() as group:

        async def flicker() -> None:
            rooms.update_participant("r", "a", metadata="on")
            rooms.update_participant("r", "a", metadata="off")

        group.start_soon(flicker)
        seen = await a.wait_until(lambda: a.local_participant.metadata == "on" and a.local_participant.metadata)
        assert seen == "on"
        assert a.local_participant.metadata == "off"


async def test_a_wait_for_a_track_finds_it_before_and_after_it_is_published(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = AudioSource()
            async with anyio.create_task_group() as waiting:

                async def wait() -> None:
                    track = await b.wait_for_track("a", kind=TrackKind.AUDIO, timeout=PATIENCE)
                    assert track.name == "voice"

                waiting.start_soon(wait)
                published = await a.local_participant.publish_audio(source, name="voice")
                group.start_soon(hum, source)
            publication = await b.wait_for_publication(name="voice", source=TrackSource.MICROPHONE)
            assert publication.sid == published.sid
            assert await b.wait_for_track(name="voice") is publication.track
            with pytest.raises(TimeoutError):
                await b.wait_for_track("a", kind=TrackKind.VIDEO, timeout=0.05)
            group.cancel_scope.cancel()


async def test_who_publishes_can_wait_until_somebody_listens(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, anyio.create_task_group() as group:
            source = AudioSource()
            publication = await a.local_participant.publish_audio(source)
            group.start_soon(hum, source)
            with pytest.raises(TimeoutError):
                await publication.wait_for_subscription(timeout=0.05)
            async with await venue.join("b"):
                await publication.wait_for_subscription(timeout=PATIENCE)
                assert publication.has_subscriber
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                unheard = await a.local_participant.publish_audio(name="unheard")
                async with anyio.create_task_group() as waiting:

                    async def wait() -> None:
                        with pytest.raises(RoomError) as caught:
                            await unheard.wait_for_subscription(timeout=PATIENCE)
                        assert caught.value.code == "TRACK_UNPUBLISHED"

                    waiting.start_soon(wait)
                    await anyio.sleep(0.05)
                    await a.local_participant.unpublish_track(unheard.sid)


async def test_somebody_is_active_before_it_gets_what_we_send(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            async with await venue.join("b") as b:
                person = await a.wait_for_participant("b", timeout=PATIENCE)
                await person.wait_until_active(PATIENCE)
                heard = b.subscribe(events.DataReceived)
                await a.local_participant.publish_data(b"welcome")
                with anyio.fail_after(PATIENCE):
                    event = await anext(aiter(heard))
                assert isinstance(event, events.DataReceived)
                assert event.data == b"welcome"
            await a.wait_until(lambda: not a.remote_participants, PATIENCE)
            assert (person.is_present, person.state) == (False, ParticipantState.DISCONNECTED)
            with pytest.raises(RoomError) as caught:
                await person.wait_until_active()
            assert caught.value.code == "PARTICIPANT_LEFT"


# ------------------------------------------------------------------------------------------------ a task for each


@pytest.mark.long
async def test_each_participant_has_a_task_for_as_long_as_it_is_there(venue: Venue) -> None:
    diary: list[str] = []

    async def attend(person: RemoteParticipant) -> None:
        diary.append(f"{person.identity} came")
        try:
            await anyio.sleep_forever()
        finally:
            diary.append(f"{person.identity} went" if not person.is_present else f"{person.identity} was let go")

    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, await venue.join("agent", kind="agent"):
            await a.wait_for_participant("b", timeout=PATIENCE)
            async with a.per_participant(attend, where=lambda person: person.kind != ParticipantKind.AGENT):
                async with await venue.join("c"):
                    await until(lambda: "c came" in diary and "b came" in diary)
                    await b.disconnect()
                    await a.wait_until(lambda: "b" not in a.remote_participants, PATIENCE)
                    await a.wait_for_participant("agent", timeout=PATIENCE)
                    await until(lambda: "b went" in diary)
                    assert sorted(diary) == ["b came", "b went", "c came"]
                    del diary[:]
                await a.wait_until(lambda: "c" not in a.remote_participants, PATIENCE)
                d = await venue.join("d")
                await a.wait_for_participant("d", timeout=PATIENCE)
                await until(lambda: "d came" in diary)
            assert diary == ["c went", "d came", "d was let go"]
            await d.disconnect()


async def test_a_room_that_ends_ends_the_tasks_and_not_the_block(venue: Venue) -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def attend(person: RemoteParticipant) -> None:
        begun.set()
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await a.wait_for_participant("b", timeout=PATIENCE)
            async with a.per_participant(attend):
                await begun.wait()
                await a.disconnect()
                with anyio.fail_after(PATIENCE):
                    await ended.wait()
            assert b.is_open


@pytest.mark.virtual
async def test_an_error_in_one_task_ends_the_others_and_the_block() -> None:
    ended: list[str] = []

    async def attend(person: RemoteParticipant) -> None:
        try:
            await anyio.sleep(1)
            if person.identity == "b":
                raise ValueError("no")
            await anyio.sleep_forever()
        finally:
            ended.append(person.identity)

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b"), rooms.join("r", "c"):
        with pytest.raises(ExceptionGroup) as caught:
            async with a.per_participant(attend):
                await anyio.sleep(10)
        assert caught.group_contains(ValueError, match="no")
        assert (sorted(ended), anyio.current_time()) == (["b", "c"], 1)
        assert a.statistics().subscriptions == 0


@pytest.mark.virtual
async def test_who_comes_back_waits_until_its_earlier_visit_is_cleaned_up() -> None:
    diary: list[tuple[float, str]] = []

    async def attend(person: RemoteParticipant) -> None:
        diary.append((anyio.current_time(), "came"))
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            diary.append((anyio.current_time(), "done"))

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        async with a.per_participant(attend):
            for _ in range(2):
                async with rooms.join("r", "b"):
                    await anyio.sleep(1)
            async with rooms.join("r", "b"):
                await anyio.sleep(20)
    # The second visit was over before its turn came, so its task never ran.
    assert [entry for entry in diary if entry[1] == "came"] == [(0, "came"), (6, "came")]
    assert diary[1] == (6, "done")


# ------------------------------------------------------------------------------------------------ who they are


async def test_a_speaker_is_seen_to_speak_and_remembered(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            person = await b.wait_for_participant("a", timeout=PATIENCE)
            assert (person.is_speaking, person.last_spoke_at, person.audio_level) == (False, None, None)
            started = anyio.current_time()
            source = AudioSource()
            await a.local_participant.publish_audio(source)
            group.start_soon(hum, source)
            if not venue.real:
                venue.memory.set_speakers(venue.room, ["a"])
            await b.wait_until(lambda: person.is_speaking, PATIENCE)
            assert person.last_spoke_at is not None
            assert started <= person.last_spoke_at <= anyio.current_time()
            with (await b.wait_for_track("a", timeout=PATIENCE)).audio_frames() as frames:
                await sound(frames, 0.1)
                # Of the latest frame, which on a busy machine may be one that was made up.
                await until(lambda: person.audio_level == pytest.approx(0.354, abs=0.03))
            assert person.audio_level is None
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                spoke = person.last_spoke_at
                if not venue.real:
                    venue.memory.set_speakers(venue.room, [])
                await b.wait_until(lambda: not person.is_speaking, PATIENCE)
                assert person.last_spoke_at >= spoke


def sid_of(stream: SourceStream[AudioFrame]) -> str | None:
    return None if stream.publication is None else stream.publication.sid


async def test_a_source_is_heard_through_whatever_track_carries_it(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await a.local_participant.publish_audio(name="noise", track_source=TrackSource.SCREENSHARE_AUDIO)
            person = await b.wait_for_participant("a", timeout=PATIENCE)
            with person.audio() as heard:
                sids: list[str] = []
                for _ in range(2):
                    async with anyio.create_task_group() as group:
                        source = AudioSource()
                        publication = await a.local_participant.publish_audio(source)
                        group.start_soon(hum, source)
                        with anyio.fail_after(PATIENCE):
                            # What had come of the track before is read first.
                            while level((await anext(heard)).samples) < 0.1 or sid_of(heard) in sids:
                                pass
                        assert heard.publication is not None
                        sids.append(heard.publication.sid)
                        assert person.publication(TrackSource.MICROPHONE) is heard.publication
                        group.cancel_scope.cancel()
                        with anyio.CancelScope(shield=True):
                            await a.local_participant.unpublish_track(publication.sid)
                            await b.wait_until(lambda: person.publication(TrackSource.MICROPHONE) is None, PATIENCE)
                assert len(set(sids)) == 2
                assert heard.statistics().received > 0
                await a.disconnect()
                with anyio.fail_after(PATIENCE):
                    async for _ in heard:
                        pass


async def test_publications_are_found_by_source_and_name(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            me = a.local_participant
            voice = await me.publish_audio(name="voice")
            screen = await me.publish_audio(name="film", track_source=TrackSource.SCREENSHARE_AUDIO)
            assert me.publication(TrackSource.MICROPHONE) is voice
            assert me.publication(name="film") is screen
            assert me.publication(TrackSource.CAMERA) is None
            await b.wait_for_publication("a", name="film", timeout=PATIENCE)
            person = b.remote_participants["a"]
            found = person.publication(TrackSource.SCREENSHARE_AUDIO, name="film")
            assert found is not None
            assert found.sid == screen.sid
            assert person.publication(TrackSource.MICROPHONE, name="film") is None
            await me.unpublish_track(screen.sid)
            await b.wait_until(lambda: not found.is_published, PATIENCE)
            assert not screen.is_published
            with pytest.raises(RoomError) as caught:
                found.set_subscribed(True)
            assert caught.value.code == "TRACK_UNPUBLISHED"


async def test_a_telephone_tells_of_its_call(venue: Venue) -> None:
    said = {
        "sip.callID": "SCL_1",
        "sip.callStatus": "ringing",
        "sip.phoneNumber": "+15105550100",
        "sip.trunkID": "ST_1",
        "sip.trunkPhoneNumber": "+15105550199",
        "sip.h.X-Room": "blue",
        "sip.twilio.callSid": "CA1",
        "other": "1",
    }
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("phone", kind="sip", attributes=said) as phone:
            person = await a.wait_for_participant(kind=ParticipantKind.SIP, timeout=PATIENCE)
            call = person.sip
            assert call == SipInfo(
                call_id="SCL_1",
                call_status=SipCallStatus.RINGING,
                phone_number="+15105550100",
                trunk_id="ST_1",
                trunk_phone_number="+15105550199",
                headers={"x-room": "blue"},
                other={"twilio.callSid": "CA1"},
            )
            assert "5105550100" not in repr(call)
            assert a.local_participant.sip is None
            await phone.local_participant.set_attributes({"sip.callStatus": "active"})
            answered = await a.wait_for_participant(where=lambda who: who.sip is not None and who.sip.is_active)
            assert answered is person


def test_a_call_status_of_a_newer_server_stays_text() -> None:
    call = SipInfo.of({"sip.callStatus": "parked"})
    assert call is not None
    assert (call.call_status, call.is_active) == ("parked", False)
    assert SipInfo.of({"kind": "sip"}) is None


def test_the_level_of_a_tone_is_its_root_mean_square() -> None:
    from sounds import tone

    frame = AudioFrame(data=tone(0.05, TONE).tobytes(), sample_rate=48_000)
    assert frame.level == pytest.approx(0.5 / 2**0.5, abs=1e-3)
    assert AudioFrame(data=b"", sample_rate=48_000).level == 0


async def test_pictures_of_a_source_are_seen(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = VideoSource(320, 240)
            await a.local_participant.publish_video(source, track_source=TrackSource.SCREENSHARE)
            group.start_soon(show, source)
            person = await b.wait_for_participant("a", timeout=PATIENCE)
            with person.video(TrackSource.SCREENSHARE, format=VideoFormat.I420) as pictures:
                with anyio.fail_after(PATIENCE):
                    picture = await anext(pictures)
            assert (picture.width, picture.height, picture.format) == (320, 240, VideoFormat.I420)
            with person.video(TrackSource.CAMERA) as nothing, anyio.move_on_after(0.1) as waited:
                await anext(nothing)
            assert waited.cancelled_caught
            assert [picture async for picture in nothing] == []
            group.cancel_scope.cancel()


async def show(source: VideoSource) -> None:
    while True:
        source.capture_frame(VideoFrame(data=bytes(320 * 240 * 4), width=320, height=240))
        await anyio.sleep(0.03)


@pytest.mark.virtual
async def test_what_kind_of_its_kind_somebody_is_is_told() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b"):
        person = await a.wait_for_participant("b")
        assert person.kind_details == ()
        # A server of LiveKit's cloud says it; the open one never does.
        info = participant_info(rooms.participants("r")[1])
        info.kind_details.extend([0, 2])
        person._state.refresh(info)
        assert person.kind_details == (ParticipantKindDetail.CLOUD_AGENT, ParticipantKindDetail.CONNECTOR_WHATSAPP)


async def test_a_source_is_heard_on_when_our_own_connection_was_made_anew(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = AudioSource()
            publication = await a.local_participant.publish_audio(source)
            group.start_soon(hum, source)
            person = await b.wait_for_participant("a", timeout=PATIENCE)
            with person.audio() as heard:
                await sound(heard, 0.1)
                told = b.subscribe(events.Reconnected)
                await b.simulate(Scenario.FULL_RECONNECT)
                with anyio.fail_after(2 * PATIENCE):
                    await anext(told)
                # Everybody is somebody new; who listens to a source does not notice.
                await sound(heard, 0.1)
                again = await b.wait_for_participant("a", where=lambda it: it is not person, timeout=PATIENCE)
                assert not person.is_present
                with anyio.fail_after(PATIENCE):
                    # What had come of the track before is read first.
                    while heard.publication is not again.track_publications.get(publication.sid):
                        await anext(heard)
                group.cancel_scope.cancel()
                with anyio.fail_after(PATIENCE, shield=True):
                    await a.disconnect()
                    async for _ in heard:
                        pass


@pytest.mark.virtual
async def test_a_source_that_nobody_reads_on_is_let_go() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_audio()
        person = await b.wait_for_participant("a")
        with person.audio() as heard:
            await anext(heard)
            assert rooms.media.streams == 1
        assert rooms.media.streams == 0
        with pytest.raises(StopAsyncIteration):
            await anext(heard)
        forgotten = person.audio()
        await anext(forgotten)
        del forgotten
        await anyio.sleep(0.1)
        assert rooms.media.streams == 0
        with anyio.CancelScope() as scope, person.audio() as cancelled:
            scope.cancel()
            await anext(cancelled)
        assert scope.cancelled_caught
        assert len(b._link.watches) == 0


@pytest.mark.virtual
@pytest.mark.parametrize("published", [False, True], ids=["between two tracks", "on a track"])
async def test_two_consumers_of_one_source_are_one_too_many(published: bool) -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        if published:
            await a.local_participant.publish_audio()
            await b.wait_for_track("a")
        met: list[str] = []
        with b.remote_participants["a"].audio() as heard:

            async def read() -> None:
                try:
                    met.append(type(await anext(heard)).__name__)
                except anyio.BusyResourceError:
                    met.append("busy")

            async with anyio.create_task_group() as group:
                group.start_soon(read)
                group.start_soon(read)
                if not published:
                    await anyio.sleep(1)
                    assert met == ["busy"]
                    await a.local_participant.publish_audio()
            assert met == ["busy", "AudioFrame"]
            await anext(heard)
