"""Sound between participants, in memory and on a real livekit-server, compared by meaning: frequency, level, gaps."""

from __future__ import annotations

import gc
import wave
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import numpy as np
import pytest
from sounds import RATE, TONE, clear_tone, found_tone, hum, level, sound, subscribed, tone
from venues import PATIENCE, MemoryVenue, Venue, next_of, subscribed_again

from livekit_agent import RoomClosedError, RoomError, events
from livekit_agent.rooms import AudioFrame, AudioSource, MemoryRooms, RemoteTrack, Room, TrackKind, VideoFormat
from livekit_agent.rooms._proto import ffi


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (16_000, 1), (48_000, 2)])
async def test_a_tone_is_heard_as_it_was_played(venue: Venue, rate: int, channels: int) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            published = await a.local_participant.publish_audio()
            group.start_soon(hum, published.track.source)
            track = await subscribed(b)
            with track.audio_frames(sample_rate=rate, num_channels=channels) as stream:
                heard = await clear_tone(stream, TONE, real=venue.real)
            group.cancel_scope.cancel()
    assert heard.shape == (rate, channels)
    assert 0.2 < level(heard) < 0.5


@pytest.mark.parametrize("rate", [8_000, 24_000, 192_000])
async def test_a_source_of_another_rate_and_two_channels_is_heard_too(venue: Venue, rate: int) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = AudioSource(sample_rate=rate, num_channels=2)
            await a.local_participant.publish_audio(source)
            group.start_soon(hum, source)
            with (await subscribed(b)).audio_frames() as stream:
                await clear_tone(stream, TONE, 0.5, real=venue.real)
            group.cancel_scope.cancel()


@pytest.mark.parametrize("frame_ms", [20, 50, 1_000])
async def test_frames_are_as_long_as_asked_for_and_miss_nothing(venue: Venue, frame_ms: int) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            group.start_soon(hum, (await a.local_participant.publish_audio()).track.source)
            track = await subscribed(b)
            with track.audio_frames(sample_rate=16_000, num_channels=2, frame_ms=frame_ms) as stream:
                with anyio.fail_after(PATIENCE):
                    frame = await anext(stream)
                await clear_tone(stream, TONE, real=venue.real)
            group.cancel_scope.cancel()
    assert (frame.sample_rate, frame.num_channels) == (16_000, 2)
    assert frame.duration == frame_ms / 1_000


async def test_frames_are_ten_milliseconds_in_read_only_views(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            group.start_soon(hum, (await a.local_participant.publish_audio()).track.source)
            with (await subscribed(b)).audio_frames(num_channels=2) as stream:
                with anyio.fail_after(PATIENCE):
                    frame = await anext(stream)
            group.cancel_scope.cancel()
    assert (frame.sample_rate, frame.num_channels, frame.samples_per_channel) == (RATE, 2, 480)
    assert frame.duration == 0.01
    assert frame.samples.shape == (480, 2)
    assert frame.data == frame.samples.tobytes()
    with pytest.raises(ValueError, match="read-only"):
        frame.samples[0, 0] = 1


async def test_what_waits_can_be_forgotten_and_a_source_closed_and_published_again(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = AudioSource(queue_size_ms=1000)
            await a.local_participant.publish_audio(source)
            await source.capture_frame(duration=1)
            assert source.queued_duration > 0
            source.clear_queue()
            assert source.queued_duration == 0
            began = anyio.current_time()
            await source.wait_for_playout()
            assert venue.real or anyio.current_time() == began
            began = anyio.current_time()
            await source.capture_frame(duration=0.1)
            await source.wait_for_playout()
            assert anyio.current_time() - began >= 0.1
            assert source.queued_duration == 0
            source.close()
            source.close()
            with pytest.raises(RoomError, match="not published"):
                await source.capture_frame()
            await a.local_participant.publish_audio(source, name="again")
            await source.capture_frame()


async def test_a_muted_track_is_silence_and_sounds_again(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            published = await a.local_participant.publish_audio()
            group.start_soon(hum, published.track.source)
            news = b.subscribe(events.TrackMuted, events.TrackUnmuted)
            with (await subscribed(b)).audio_frames() as stream:
                await sound(stream, 0.1)
                published.mute()
                await next_of(news, events.TrackMuted)
                with anyio.fail_after(PATIENCE):
                    quiet = 0
                    while quiet < 20:
                        quiet = quiet + 1 if level((await anext(stream)).samples) < 0.001 else 0
                published.unmute()
                await next_of(news, events.TrackUnmuted)
                assert level(await sound(stream, 0.1)) > 0.2
            group.cancel_scope.cancel()


async def hum_while_published(source: AudioSource) -> None:
    with suppress(RoomError):
        await hum(source)


async def drained(stream: Any) -> None:
    with anyio.fail_after(PATIENCE):
        async for _ in stream:
            pass


async def test_frames_end_when_the_track_is_unsubscribed_and_a_new_track_follows(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            group.start_soon(hum, (await a.local_participant.publish_audio()).track.source)
            track = await subscribed(b)
            stream = track.audio_frames()
            [publication] = b.remote_participants["a"].track_publications.values()
            publication.set_subscribed(False)
            await drained(stream)
            assert stream.ended
            with pytest.raises(RoomError, match="not subscribed"):
                track.audio_frames()
            news = b.subscribe(events.TrackSubscribed)
            again = (await subscribed_again(publication, news)).track
            assert again is not track
            with again.audio_frames() as stream:
                await clear_tone(stream, TONE, 0.5, real=venue.real)
            group.cancel_scope.cancel()


async def test_frames_end_when_the_track_is_unpublished_and_its_successor_is_another(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            first = await a.local_participant.publish_audio()
            group.start_soon(hum_while_published, first.track.source)
            stream = (await subscribed(b)).audio_frames()
            news = b.subscribe(events.TrackSubscribed)
            await a.local_participant.unpublish_track(first.sid)
            await drained(stream)
            second = await a.local_participant.publish_audio(name="second")
            group.start_soon(hum, second.track.source, 660)
            with (await subscribed(b, news)).audio_frames() as stream:
                await clear_tone(stream, 660, 0.5, real=venue.real)
            group.cancel_scope.cancel()


async def test_frames_end_with_the_room(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            b = await venue.join("b")
            source = (await a.local_participant.publish_audio()).track.source
            async with anyio.create_task_group() as group:
                group.start_soon(hum, source)
                track = await subscribed(b)
                stream = track.audio_frames()
                await b.disconnect()
                await drained(stream)
                with pytest.raises(RoomClosedError):
                    track.audio_frames()
                group.cancel_scope.cancel()


async def test_a_slow_consumer_loses_the_oldest_frames_of_its_own_only(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            group.start_soon(hum, (await a.local_participant.publish_audio()).track.source)
            track = await subscribed(b)
            with track.audio_frames(capacity=5) as slow, track.audio_frames() as brisk:
                count = 0
                with anyio.fail_after(PATIENCE):
                    async for _ in brisk:
                        count += 1
                        if count == 60:
                            break
                lost = slow.statistics()
                assert lost.waiting == 5
                assert lost.dropped == lost.received - 5 > 20
                assert brisk.statistics().dropped == 0
                # A loop that a busy machine keeps waiting loses some before they are anybody's.
                assert venue.real or lost.overrun == 0
            assert slow.statistics().waiting == 0
            group.cancel_scope.cancel()


async def test_an_iterator_left_half_way_closes_by_itself(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            group.start_soon(hum, (await a.local_participant.publish_audio()).track.source)
            track = await subscribed(b)
            with anyio.fail_after(PATIENCE):
                async for _ in track.audio_frames():
                    break
                gc.collect()
                while track._queues:  # noqa: ASYNC110
                    await anyio.sleep(0.01)
                stream = track.audio_frames()
                await stream.aclose()
                assert (stream.ended, list(track._queues)) == (True, [])
            group.cancel_scope.cancel()


async def test_a_wait_for_a_frame_that_is_cancelled_loses_none(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            group.start_soon(hum, (await a.local_participant.publish_audio()).track.source)
            with (await subscribed(b)).audio_frames() as stream:
                taken = 0
                with anyio.fail_after(PATIENCE):
                    while taken < 20:
                        with anyio.move_on_after(0.003):
                            await anext(stream)
                            taken += 1
                counted = stream.statistics()
                assert counted.received - counted.dropped == taken + counted.waiting
            group.cancel_scope.cancel()


async def test_a_wav_file_is_played_to_its_end(venue: Venue, tmp_path: Path) -> None:
    path = tmp_path / "tone.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(2)
        file.setsampwidth(2)
        file.setframerate(16_000)
        file.writeframes(tone(1.005, 600, 16_000, 2).tobytes())
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = (await a.local_participant.publish_audio()).track.source
            group.start_soon(hum, source, 0)
            track = await subscribed(b)
            group.cancel_scope.cancel()
            with anyio.fail_after(PATIENCE, shield=True):
                # A busy machine loses some of it: once it comes as it was.
                while not await is_played(source, path, track):
                    assert venue.real


async def is_played(source: AudioSource, path: Path, track: RemoteTrack) -> bool:
    with track.audio_frames(capacity=500) as stream:
        started = anyio.current_time()
        await source.play(path)
        assert anyio.current_time() - started >= 1.0
        assert source.queued_duration == 0
        frames: list[AudioFrame] = []
        while (frame := stream.next_nowait()) is not None:
            frames.append(frame)
    pieces = [frame.samples for frame in frames if level(frame.samples) > 0.1]
    if not 80 <= len(pieces) <= 105:
        return False
    frequency, _ = found_tone(np.concatenate(pieces)[9_600:38_400, 0], RATE)
    return abs(frequency - 600) <= 1.2


async def test_a_play_that_is_cancelled_stops_the_sound(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            source = AudioSource(queue_size_ms=1000)
            await a.local_participant.publish_audio(source)
            with anyio.move_on_after(0.3):
                await source.play(tone(5))
            assert source.queued_duration == 0
            await source.wait_for_playout()
            await source.capture_frame(tone(0.01))
            assert b.is_open


async def test_sound_that_does_not_fit_is_refused_before_the_library_sees_it(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            source = (await a.local_participant.publish_audio()).track.source
            for broken in (b"", b"abc", np.zeros((480, 2), np.int16), np.zeros(480, np.int32)):
                with pytest.raises(ValueError, match=r"samples|channels"):
                    await source.capture_frame(broken)
            for rate in (-1, 4):
                with pytest.raises(ValueError, match=f"no sound of {rate} Hz"):
                    await source.play(bytes(960), sample_rate=rate)
            with pytest.raises(ValueError, match="does not fit"):
                await source.capture_frame(AudioFrame(data=bytes(960), sample_rate=16_000))
            await source.capture_frame(np.zeros(480, np.float32))
            await source.capture_frame(memoryview(bytes(960)))


async def test_what_a_track_does_not_have_is_refused(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            group.start_soon(hum, (await a.local_participant.publish_audio()).track.source)
            track = await subscribed(b)
            assert track.kind is TrackKind.AUDIO
            with pytest.raises(ValueError, match="has no video"):
                track.video_frames(format=VideoFormat.I420)
            lengths = [{"frame_ms": wrong} for wrong in (-10, 0, 15, 20.5, 1_010)]
            for wrong in ({"sample_rate": 0}, {"num_channels": 3}, {"capacity": 0}, *lengths):
                with pytest.raises(ValueError, match="no frames"):
                    track.audio_frames(**wrong)
            group.cancel_scope.cancel()


async def test_frames_that_another_process_asks_for_are_bounded_too() -> None:
    """Who speaks the transport's wire format is not held by our arguments' checks."""
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_audio()
        track = await subscribed(b)
        transport = track._link.transport  # pyright: ignore[reportPrivateUsage]
        for frame_ms in (1, 15, 1_010, 2**32 - 1):
            request = ffi.FfiRequest()
            request.new_audio_stream.track_handle = track.handle
            request.new_audio_stream.sample_rate, request.new_audio_stream.num_channels = RATE, 1
            request.new_audio_stream.frame_size_ms = frame_ms
            with pytest.raises(RoomError, match=f"no frames of {frame_ms} ms"):
                transport.request(request)


@pytest.mark.parametrize("rate", [-48_000, 0, 49, 1_500, 7_999, 192_001, 1_000_000])
def test_a_rate_over_which_the_library_would_end_the_process_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match=f"no audio source of {rate} Hz"):
        AudioSource(rate)


async def test_a_source_feeds_two_real_rooms_and_in_memory_one(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.beside(1).join("a") as b:
            source = AudioSource()
            await a.local_participant.publish_audio(source)
            if venue.real:
                await b.local_participant.publish_audio(source)
                await source.play(bytes(9_600))
                await a.disconnect()
                await source.play(bytes(9_600))
            else:
                with pytest.raises(RoomError, match="in memory one participant's"):
                    await b.local_participant.publish_audio(source)
                await a.disconnect()
                await b.local_participant.publish_audio(source)
                await source.play(bytes(9_600))


@pytest.mark.parametrize("queue", [-10, 1, 7, 205])
def test_a_queue_over_which_the_library_would_end_the_process_is_refused(queue: int) -> None:
    with pytest.raises(ValueError, match=f"no audio source of .* {queue} ms"):
        AudioSource(queue_size_ms=queue)


# ------------------------------------------------------------------------------------------------ memory only: exact


@pytest.mark.virtual
async def test_in_memory_every_sample_arrives_once_and_in_order() -> None:
    venue = MemoryVenue("exact")
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            source = (await a.local_participant.publish_audio()).track.source
            numbers = np.arange(1, 48_001, dtype=np.int64).astype(np.int16)
            with (await subscribed(b)).audio_frames(capacity=1000) as stream:
                await source.play(numbers)
                await anyio.sleep(0.1)
                frames = []
                while (frame := stream.next_nowait()) is not None:
                    frames.append(frame.samples[:, 0])
    heard = np.concatenate(frames)
    [start] = np.flatnonzero(heard == 1)[:1]
    assert np.array_equal(heard[start : start + 48_000], numbers)
    assert not heard[start + 48_000 :].any()


class Withheld:
    """The library's answers to captures, which nobody has been given yet."""

    def __init__(self, room: Room, monkeypatch: pytest.MonkeyPatch) -> None:
        transport: Any = room._link.transport
        self._deliver = transport.router.deliver
        self.events: list[Any] = []
        monkeypatch.setattr(transport._mailbox, "_deliver", self._keep)

    def _keep(self, event: Any) -> None:
        if event.HasField("capture_audio_frame"):
            self.events.append(event)
        else:
            self._deliver(event)

    def give(self, error: str = "") -> None:
        for event in self.events:
            event.capture_audio_frame.error = error
            self._deliver(event)
        self.events.clear()


@pytest.mark.virtual
async def test_a_frame_for_which_there_is_room_waits_for_no_answer_but_the_next_one_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        source = AudioSource(queue_size_ms=100)
        await a.local_participant.publish_audio(source)
        answers = Withheld(a, monkeypatch)
        await source.capture_frame(duration=0.1)
        with anyio.move_on_after(1) as patience:
            await source.capture_frame()
        assert patience.cancelled_caught, "one capture at a time"
        await anyio.lowlevel.checkpoint()
        answers.give()
        await source.capture_frame()
        assert anyio.current_time() == pytest.approx(1)


@pytest.mark.virtual
async def test_what_the_library_has_against_a_frame_is_told_with_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        source = AudioSource()
        await a.local_participant.publish_audio(source)
        answers = Withheld(a, monkeypatch)
        await source.capture_frame()
        await anyio.sleep(0.1)
        answers.give("not like this")
        with pytest.raises(RoomError, match="audio frame not captured: not like this"):
            await source.capture_frame()
        await source.capture_frame()


@pytest.mark.virtual
async def test_what_the_library_has_against_the_last_frame_is_told_to_who_waits_for_its_playout(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        source = AudioSource()
        await a.local_participant.publish_audio(source)
        answers = Withheld(a, monkeypatch)
        async with anyio.create_task_group() as group:

            async def answer_late() -> None:
                await anyio.sleep(0.5)
                answers.give("not the last")

            group.start_soon(answer_late)
            with pytest.raises(RoomError, match="audio frame not captured: not the last"):
                await source.play(tone(0.1))
            assert anyio.current_time() == pytest.approx(0.5)
        await source.wait_for_playout()
        await source.capture_frame()
        with anyio.move_on_after(1) as patience:
            await source.wait_for_playout()
        assert patience.cancelled_caught
        answers.give()
        await source.capture_frame()


@pytest.mark.virtual
async def test_what_the_library_has_against_a_frame_after_which_nobody_asks_is_logged(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        source = AudioSource()
        publication = await a.local_participant.publish_audio(source)
        answers = Withheld(a, monkeypatch)
        await source.capture_frame()
        await anyio.sleep(0.1)
        answers.give("nor this one")
        await a.local_participant.unpublish_track(publication.sid)
        assert caplog.messages == ["audio frame not captured: nor this one"]


@pytest.mark.virtual
async def test_in_memory_the_clock_of_sound_stops_when_nobody_listens() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_audio()
        with (await subscribed(b)).audio_frames() as stream:
            started = anyio.current_time()
            for _ in range(100):
                await anext(stream)
            assert anyio.current_time() - started == pytest.approx(1.0)
            assert rooms.media.running
        await anyio.sleep(0.02)
        assert (rooms.media.running, rooms.media.streams) == (False, 0)
