"""How tracks are published, and what receivers are told of it, in memory and on a real livekit-server."""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np
import pytest
from venues import PATIENCE, Venue

from livekit_agent.rooms import (
    AudioFeature,
    AudioOptions,
    AudioSource,
    DegradationPreference,
    FrameMetadata,
    FrameMetadataKind,
    LocalTrack,
    TrackSource,
    VideoCodec,
    VideoEncoder,
    VideoFrame,
    VideoOptions,
    VideoSource,
)

EVERY_KIND = (FrameMetadataKind.USER_TIMESTAMP, FrameMetadataKind.FRAME_ID, FrameMetadataKind.USER_DATA)


@pytest.mark.parametrize(
    ("options", "mime_type", "features"),
    [
        (AudioOptions(), "audio/red", ()),
        (AudioOptions(red=False, max_bitrate=24_000, stream="table"), "audio/opus", ()),
        (AudioOptions(dtx=False), "audio/red", (AudioFeature.NO_DTX,)),
        (AudioOptions(dtx=True, preconnect_buffer=True), "audio/red", (AudioFeature.PRECONNECT_BUFFER,)),
    ],
)
async def test_receivers_are_told_how_sound_is_sent(
    venue: Venue, options: AudioOptions, mime_type: str, features: tuple[AudioFeature, ...]
) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            ours = await a.local_participant.publish_audio(name="voice", options=options)
            assert ours.audio_features == features
            seen = await b.wait_for_publication("a", name="voice", timeout=PATIENCE)
            assert (seen.mime_type, seen.audio_features) == (mime_type, features)
            assert (seen.simulcasted, seen.width, seen.height) == (False, 0, 0)


@pytest.mark.parametrize(
    ("size", "options", "mime_type", "simulcasted"),
    [
        ((320, 240), VideoOptions(), "video/VP8", False),
        ((640, 360), VideoOptions(simulcast=False, codec=VideoCodec.H264), "video/H264", False),
        ((640, 360), VideoOptions(degradation=DegradationPreference.MAINTAIN_RESOLUTION), "video/VP8", True),
        (
            (640, 360),
            VideoOptions(codec=VideoCodec.VP9, scalability_mode="L3T3_KEY", encoder=VideoEncoder.SOFTWARE, stream="s"),
            "video/VP9",
            True,
        ),
        ((640, 360), VideoOptions(codec=VideoCodec.AV1, max_bitrate=500_000, max_framerate=15), "video/AV1", True),
        # A server that has not enabled it has it sent as VP8.
        ((640, 360), VideoOptions(codec=VideoCodec.H265), "video/VP8", True),
    ],
)
async def test_receivers_are_told_how_pictures_are_sent(
    venue: Venue, size: tuple[int, int], options: VideoOptions, mime_type: str, simulcasted: bool
) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await a.local_participant.publish_video(
                VideoSource(*size), name="film", track_source=TrackSource.SCREENSHARE, options=options
            )
            seen = await b.wait_for_publication("a", source=TrackSource.SCREENSHARE, timeout=PATIENCE)
            assert (seen.mime_type, seen.simulcasted) == (mime_type, simulcasted)
            assert (seen.width, seen.height) == size


async def test_what_is_said_of_a_picture_travels_with_it(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = VideoSource(320, 240)
            options = VideoOptions(simulcast=False, frame_metadata=EVERY_KIND)
            await a.local_participant.publish_video(source, options=options)
            group.start_soon(show_numbered, source)
            track = await b.wait_for_track("a", timeout=PATIENCE)
            [seen] = b.remote_participants["a"].track_publications.values()
            assert seen.frame_metadata == EVERY_KIND
            got: list[FrameMetadata] = []
            with track.video_frames(capacity=50) as frames, anyio.fail_after(PATIENCE):
                async for frame in frames:
                    if frame.metadata is not None:
                        got.append(frame.metadata)
                        if len(got) == 5:
                            break
            group.cancel_scope.cancel()
    numbers = [metadata.frame_id for metadata in got]
    assert numbers == sorted({number for number in numbers if number is not None})
    assert [metadata.user_timestamp for metadata in got] == [1_000 * (number or 0) for number in numbers]
    assert [metadata.user_data for metadata in got] == [str(number).encode() for number in numbers]


async def show_numbered(source: VideoSource) -> None:
    number = 0
    while True:
        number += 1
        pixels = np.full((240, 320, 4), number % 256, np.uint8)
        metadata = FrameMetadata(user_timestamp=1_000 * number, frame_id=number, user_data=str(number).encode())
        source.capture_frame(
            VideoFrame(data=pixels.tobytes(), width=320, height=240, metadata=metadata),
        )
        await anyio.sleep(0.03)


async def test_what_was_not_announced_does_not_travel(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = VideoSource(320, 240)
            await a.local_participant.publish_video(source, options=VideoOptions(simulcast=False))
            group.start_soon(show_numbered, source)
            track = await b.wait_for_track("a", timeout=PATIENCE)
            with track.video_frames() as frames, anyio.fail_after(PATIENCE):
                for _ in range(5):
                    assert (await anext(frames)).metadata is None
            group.cancel_scope.cancel()


async def test_options_of_the_other_kind_are_refused(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            with pytest.raises(ValueError, match="which is audio"):
                await a.local_participant.publish_track(LocalTrack(AudioSource()), options=VideoOptions())
            with pytest.raises(ValueError, match="which is video"):
                await a.local_participant.publish_track(LocalTrack(VideoSource(320, 240)), options=AudioOptions())
            published = await a.local_participant.publish_track(LocalTrack(VideoSource(320, 240)))
            assert published.source == TrackSource.CAMERA
            film = LocalTrack(AudioSource(), name="film")
            published = await a.local_participant.publish_track(film, track_source=TrackSource.SCREENSHARE_AUDIO)
            assert (published.source, published.name) == (TrackSource.SCREENSHARE_AUDIO, "film")


@pytest.mark.parametrize(
    "options",
    [
        {"scalability_mode": "nonsense", "codec": VideoCodec.VP9},
        {"scalability_mode": "L3T3_KEY"},
        {"scalability_mode": "L1T2", "codec": VideoCodec.VP8},
    ],
)
def test_a_scalability_mode_that_makes_the_library_fail_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="scalability"):
        VideoOptions(**options)


def test_numbers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="bit/s"):
        AudioOptions(max_bitrate=0)
    with pytest.raises(ValueError, match="32 bits"):
        FrameMetadata(frame_id=2**32)
    with pytest.raises(ValueError, match="64 bits"):
        FrameMetadata(user_timestamp=-1)
