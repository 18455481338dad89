"""Sound and pictures on their way: processors, stages of a stream, the mixer, sound and pictures in step."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from realserver import skip_or_fail
from sounds import RATE, TONE, found_tone, hum, level, sound, tone
from venues import PATIENCE, NativeVenue, Venue

from livekit_agent import RoomError
from livekit_agent.rooms import (
    AudioFilter,
    AudioFrame,
    AudioMixer,
    AudioOptions,
    AudioProcessor,
    AudioSource,
    AvSynchronizer,
    MediaStream,
    MemoryRooms,
    Resampler,
    ResamplerQuality,
    VideoFormat,
    VideoFrame,
    VideoSource,
    load_audio_filter,
)
from livekit_agent.rooms._frames import planes_of


def frames_of(samples: Any, rate: int = RATE, ms: int = 10) -> list[AudioFrame]:
    size = rate * ms // 1000
    return [
        AudioFrame(data=samples[at : at + size].tobytes(), sample_rate=rate, num_channels=samples.shape[1])
        for at in range(0, len(samples), size)
    ]


# ------------------------------------------------------------------------------------------------ the library's


def test_rumble_is_taken_out_and_a_voice_is_not() -> None:
    with AudioProcessor(high_pass_filter=True) as processor:
        rumble = [processor.process(frame) for frame in frames_of(tone(1, 20))]
        assert rumble[-1].level < 0.1 * frames_of(tone(1, 20))[-1].level
    with AudioProcessor(high_pass_filter=True) as processor:
        voice = [processor.process(frame) for frame in frames_of(tone(1, 440))]
        assert voice[-1].level == pytest.approx(0.354, abs=0.05)


def test_steady_noise_is_made_quieter() -> None:
    noise = np.random.default_rng(0).normal(0, 1_000, (2 * RATE, 1)).astype(np.int16)
    with AudioProcessor(noise_suppression=True) as processor:
        cleaned = [processor.process(frame) for frame in frames_of(noise)]
    assert cleaned[-1].level < 0.5 * frames_of(noise)[-1].level


def test_an_echo_is_taken_out() -> None:
    played = np.random.default_rng(1).normal(0, 4_000, (4 * RATE, 1)).astype(np.int16)
    delay = RATE // 50
    echo = np.concatenate([np.zeros((delay, 1), np.int16), played[:-delay] // 2])
    with AudioProcessor(echo_cancellation=True) as processor:
        left: list[AudioFrame] = []
        for out, back in zip(frames_of(played), frames_of(echo), strict=True):
            processor.process_reverse(out)
            processor.set_delay(0.02)
            left.append(processor.process(back))
    last = np.concatenate([frame.samples for frame in left[-50:]])
    assert level(last) < 0.2 * level(echo[-RATE // 2 :])


def test_a_frame_that_is_not_of_whole_10_ms_is_refused() -> None:
    with AudioProcessor() as processor:
        assert processor.process(frames_of(tone(0.03), ms=30)[0]).duration == 0.03
        with pytest.raises(ValueError, match="10 ms"):
            processor.process(AudioFrame(data=bytes(100), sample_rate=RATE))
    processor.close()
    with pytest.raises(RoomError, match="closed"):
        processor.process(frames_of(tone(0.01))[0])


@pytest.mark.parametrize("quality", [ResamplerQuality.QUICK, ResamplerQuality.VERY_HIGH])
def test_a_tone_is_the_same_at_another_rate(quality: ResamplerQuality) -> None:
    with Resampler(48_000, 16_000, num_channels=2, quality=quality) as resampler:
        pieces = [resampler.process(frame) for frame in frames_of(tone(1, channels=2))]
        pieces.append(resampler.flush())
    samples = np.concatenate([piece.samples for piece in pieces if piece is not None])
    assert samples.shape == pytest.approx((16_000, 2), abs=20)
    frequency, clean = found_tone(samples[1_000:-1_000, 0], 16_000)
    assert frequency == pytest.approx(TONE, rel=0.002)
    assert clean > 30


def test_a_resampler_takes_what_it_was_made_for() -> None:
    with Resampler(48_000, 8_000) as resampler:
        with pytest.raises(ValueError, match="does not fit"):
            resampler.process(AudioFrame(data=bytes(100), sample_rate=16_000))
        assert resampler.process(AudioFrame(data=b"", sample_rate=48_000)) is None
    with pytest.raises(ValueError, match="no resampler"):
        Resampler(0, 8_000)


PIXELS = [VideoFormat.RGBA, VideoFormat.ABGR, VideoFormat.ARGB, VideoFormat.BGRA, VideoFormat.RGB24]


@pytest.mark.parametrize("format", [VideoFormat.I420, *PIXELS])
@pytest.mark.parametrize("size", [(320, 240), (33, 17)])
def test_a_picture_keeps_its_colours_in_another_format(format: VideoFormat, size: tuple[int, int]) -> None:
    pixels = np.zeros((size[1], size[0], 4), np.uint8)
    pixels[:, :] = (200, 30, 60, 255)
    frame = VideoFrame.of(pixels)
    there = frame.converted(format)
    assert (there.width, there.height, there.format) == (*size, format)
    assert there.converted(format) is there
    back = there.converted(VideoFormat.I420).converted(VideoFormat.RGBA)
    assert np.abs(back.pixels[size[1] // 2, size[0] // 2, :3].astype(int) - (200, 30, 60)).max() < 6


def test_a_picture_between_orders_of_pixels_loses_nothing() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    frame = VideoFrame.of(pixels)
    for first in PIXELS[:4]:
        for second in PIXELS[:4]:
            assert frame.converted(first).converted(second).converted(VideoFormat.RGBA).data == frame.data
    assert bytes(frame.converted(VideoFormat.ABGR).pixels[2, 3]) == bytes(pixels[2, 3])[::-1]
    opaque = frame.converted(VideoFormat.RGB24).converted(VideoFormat.RGBA)
    assert np.array_equal(opaque.pixels[:, :, :3], pixels[:, :, :3])
    assert bool((opaque.pixels[:, :, 3] == 255).all())


@pytest.mark.parametrize("format", [VideoFormat.RGBA, VideoFormat.I420])
def test_a_picture_can_be_turned_over(format: VideoFormat) -> None:
    pixels = np.zeros((4, 4, 4), np.uint8)
    pixels[:2] = 255
    turned = VideoFrame.of(pixels).converted(format, flip_vertically=True).converted(VideoFormat.RGBA)
    assert int(turned.pixels[0, 0, 0]) < 5
    assert int(turned.pixels[3, 0, 0]) > 250


@pytest.mark.parametrize(
    ("before", "after"),
    [(VideoFormat.I010, VideoFormat.RGBA), (VideoFormat.RGBA, VideoFormat.NV12), (VideoFormat.I420, VideoFormat.I444)],
)
def test_what_would_abort_the_library_or_cannot_be_done_is_refused(before: VideoFormat, after: VideoFormat) -> None:
    size = sum(plane.size for plane in planes_of(before, 16, 16))
    with pytest.raises(RoomError, match="cannot be converted"):
        VideoFrame(data=bytes(size), width=16, height=16, format=before).converted(after)


def test_a_filter_that_is_not_there_cannot_be_loaded() -> None:
    with pytest.raises(RoomError, match="not loaded"):
        load_audio_filter("nothing", "/nonexistent/libfilter.so")


# ------------------------------------------------------------------------------------------------ stages


class Halves:
    """Half as loud, and every second frame only."""

    def __init__(self) -> None:
        self.seen = 0

    def process(self, frame: AudioFrame) -> AudioFrame | None:
        self.seen += 1
        if self.seen % 2:
            return None
        return AudioFrame(
            data=(frame.samples // 2).tobytes(), sample_rate=frame.sample_rate, num_channels=frame.num_channels
        )


async def heard_at(loudness: float, frames: MediaStream[AudioFrame], *, real: bool) -> None:
    """A while of it is as loud as that.  Real sound has gaps on a busy machine: sooner or later it is."""
    with anyio.fail_after(PATIENCE):
        while level(await sound(frames, 0.3)) != pytest.approx(loudness, abs=0.03):
            assert real


async def test_a_stream_goes_through_its_stages(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = AudioSource()
            await a.local_participant.publish_audio(source)
            group.start_soon(hum, source)
            track = await b.wait_for_track("a", timeout=PATIENCE)
            halves = Halves()
            with Resampler(48_000, 16_000) as resampler:
                with track.audio_frames(stages=[halves, resampler]) as frames:
                    await heard_at(0.354 / 2, frames, real=venue.real)
                    assert halves.seen >= 2 * (frames.statistics().received // 4)
            group.cancel_scope.cancel()


@pytest.mark.virtual
async def test_a_stage_that_fails_fails_its_reader_and_nothing_else() -> None:
    class Broken:
        def process(self, frame: AudioFrame) -> AudioFrame | None:
            raise ValueError("broken")

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_audio()
        track = await b.wait_for_track("a")
        with track.audio_frames(stages=[Broken()]) as frames:
            with pytest.raises(ValueError, match="broken"):
                await anext(frames)
        assert b.is_open


@pytest.mark.virtual
async def test_rooms_in_memory_have_no_filters_of_the_library() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        await a.local_participant.publish_audio()
        track = await b.wait_for_track("a")
        with pytest.raises(RoomError, match="no filters"):
            track.audio_frames(filter=AudioFilter(module_id="krisp"))
        assert "krisp" in repr(AudioFilter(module_id="krisp", options={"token": "secret"}))
        assert "secret" not in repr(AudioFilter(module_id="krisp", options={"token": "secret"}))


# ------------------------------------------------------------------------------------------------ the mixer


async def played(samples: Any, rate: int = RATE, pause: float = 0.01) -> AsyncGenerator[AudioFrame]:
    for frame in frames_of(samples, rate):
        await anyio.sleep(pause)
        yield frame


@pytest.mark.virtual
async def test_two_tones_become_one_sound() -> None:
    heard: list[Any] = []
    async with AudioMixer(num_channels=1) as mixer:
        async with (
            aclosing(played(tone(1, 440, level=0.2))) as low,
            aclosing(played(tone(1, 1_000, rate=16_000, channels=2, level=0.2), rate=16_000)) as high,
        ):
            mixer.add(low)
            mixer.add(high)
            mixer.end_input()
            async for frame in mixer:
                assert (frame.sample_rate, frame.num_channels, frame.duration) == (RATE, 1, 0.02)
                heard.append(frame.samples)
    samples = np.concatenate(heard)[:, 0]
    assert len(samples) == pytest.approx(RATE, abs=2 * 960)
    spectrum = np.abs(np.fft.rfft(samples[:RATE] * np.hanning(len(samples[:RATE]))))
    loud = np.argsort(spectrum)[-6:] * RATE / len(samples[:RATE])
    assert {round(frequency, -2) for frequency in loud} == {400, 1000}


def test_a_mixer_whose_frames_would_be_empty_is_refused() -> None:
    with pytest.raises(ValueError, match="no mixer of 49 Hz"):
        AudioMixer(sample_rate=49)


@pytest.mark.virtual
async def test_an_input_that_says_nothing_holds_nobody_up() -> None:
    async def silent() -> AsyncGenerator[AudioFrame]:
        await anyio.sleep_forever()
        yield AudioFrame(data=b"", sample_rate=RATE)

    async with aclosing(played(tone(1))) as speaking, aclosing(silent()) as waiting:
        async with AudioMixer(patience=0.05) as mixer:
            mixer.add(speaking)
            mixer.add(waiting)
            first = await anext(mixer)
            assert first.level > 0.3
            assert anyio.current_time() == pytest.approx(0.07, abs=0.011)


@pytest.mark.virtual
async def test_an_error_of_an_input_is_the_blocks() -> None:
    async def broken() -> AsyncGenerator[AudioFrame]:
        yield frames_of(tone(0.01))[0]
        raise OSError("gone")

    with pytest.raises(ExceptionGroup) as caught:
        async with aclosing(broken()) as stream, AudioMixer() as mixer:
            mixer.add(stream)
            await anyio.sleep(1)
    assert caught.group_contains(OSError, match="gone")
    with pytest.raises(RuntimeError):
        mixer.add(played(tone(0.01)))


# ------------------------------------------------------------------------------------------------ in step


@pytest.mark.virtual
async def test_pictures_come_at_their_time_and_follow_the_sound() -> None:
    shown: list[float] = []
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        audio, video = AudioSource(queue_size_ms=100), VideoSource(64, 48)
        await a.local_participant.publish_audio(audio)
        await a.local_participant.publish_video(video)
        synchronizer = AvSynchronizer(audio, video, fps=25)
        picture = VideoFrame(data=bytes(64 * 48 * 4), width=64, height=48)

        async def speak() -> None:
            for frame in frames_of(tone(2)):
                await synchronizer.push_audio(frame)

        async def look() -> None:
            for _ in range(50):
                await synchronizer.push_video(picture)
                shown.append(anyio.current_time())

        async with anyio.create_task_group() as group:
            group.start_soon(speak)
            group.start_soon(look)
        assert abs(synchronizer.delay) < 0.05
        await synchronizer.wait_for_playout()
        steps = np.diff(shown)
        assert np.allclose(steps, 0.04, atol=0.011)
        assert shown[-1] == pytest.approx(49 / 25, abs=0.05)
        # The sound waits for three seconds; the pictures that belong to it wait as well.
        await anyio.sleep(3)
        synchronizer.reset()
        before = anyio.current_time()
        await synchronizer.push_video(picture)
        assert anyio.current_time() == before
        assert b.is_open


# ------------------------------------------------------------------------------------------------ before the connection


async def test_what_was_said_before_the_connection_arrives(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("agent") as agent, await venue.join("ann") as ann:
            with agent.preconnect_audio() as recordings:
                publication = await ann.local_participant.publish_audio(options=AudioOptions(preconnect_buffer=True))
                await agent.wait_for_publication("ann", timeout=PATIENCE)
                await (await ann.wait_for_participant("agent", timeout=PATIENCE)).wait_until_active(PATIENCE)
                said = frames_of(tone(0.5, rate=16_000), rate=16_000)
                await ann.local_participant.send_preconnect_audio(publication, said, destination_identities=["agent"])
                with anyio.fail_after(PATIENCE):
                    heard = await anext(recordings)
                assert (heard.identity, heard.track_sid) == ("ann", publication.sid)
                assert heard.frame.data == b"".join(frame.data for frame in said)
                assert (heard.frame.sample_rate, heard.frame.num_channels) == (16_000, 1)
                await ann.local_participant.send_bytes(
                    b"OggS", topic="lk.agent.pre-connect-audio-buffer", mime_type="audio/opus"
                )
                with anyio.fail_after(PATIENCE), pytest.raises(RoomError) as caught:
                    await anext(recordings)
                assert caught.value.code == "PRECONNECT_FORMAT"
            with pytest.raises(ValueError, match="different rates"):
                await ann.local_participant.send_preconnect_audio(publication, [])


# ------------------------------------------------------------------------------------------------ a plugin

HALVES = """\
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
int32_t audio_filter_on_load(const char *options) { return 0; }
void *audio_filter_create(uint32_t rate, const char *options, const char *stream) { return malloc(1); }
void audio_filter_destroy(void *self) { free(self); }
void audio_filter_process_int16(void *self, size_t count, const int16_t *in, int16_t *out) {
    for (size_t i = 0; i < count; i++) out[i] = in[i] / 2;
}
void audio_filter_process_float(void *self, size_t count, const float *in, float *out) {
    for (size_t i = 0; i < count; i++) out[i] = in[i] / 2;
}
void audio_filter_update_stream_info(void *self, const char *stream) {}
"""


@pytest.fixture
def plugin(tmp_path: Path) -> str:
    """The path of a filter plugin that makes everything half as loud."""
    compiler = shutil.which("cc")
    if compiler is None:
        skip_or_fail("no C compiler to make a filter plugin with")
    source, library = tmp_path / "halves.c", tmp_path / "halves.so"
    source.write_text(HALVES)
    subprocess.run([str(compiler), "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return str(library)


@pytest.mark.real_server
async def test_a_filter_inside_the_library_changes_what_is_heard(
    native: NativeVenue, plugin: str, backend: str
) -> None:
    module_id = f"halves-{backend}"
    load_audio_filter(module_id, plugin)
    async with native.open():
        async with await native.join("a") as a, await native.join("b") as b, anyio.create_task_group() as group:
            source = AudioSource()
            await a.local_participant.publish_audio(source)
            group.start_soon(hum, source)
            track = await b.wait_for_track("a", timeout=PATIENCE)
            with track.audio_frames(filter=AudioFilter(module_id=module_id, options={"how": "much"})) as frames:
                await heard_at(0.354 / 2, frames, real=True)
            group.cancel_scope.cancel()
