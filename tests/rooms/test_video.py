"""Pictures between participants, in memory and on a real livekit-server, compared by colour."""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np
import pytest
from sounds import subscribed
from venues import PATIENCE, Venue
from waves import HEIGHT, PLACES, WIDTH, moving, place_of, went_round

from livekit_agent import RoomError
from livekit_agent.rooms import MemoryRooms, VideoCodec, VideoFormat, VideoFrame, VideoOptions, VideoSource
from livekit_agent.rooms._media_stream import MediaQueue
from livekit_agent.rooms._proto import ffi
from livekit_agent.rooms._proto import video as video_pb
from livekit_agent.rooms._video import picture_buffer

RED, BLUE = (255, 0, 0), (0, 0, 255)


def two_halves() -> Any:
    """Red on the left, blue on the right."""
    pixels = np.zeros((240, 320, 4), np.uint8)
    pixels[:, :160] = (*RED, 255)
    pixels[:, 160:] = (*BLUE, 255)
    return pixels


async def show(source: VideoSource) -> None:
    """Show the picture until cancelled, some thirty times a second."""
    frame = VideoFrame.of(two_halves())
    while True:
        source.capture_frame(frame)
        await anyio.sleep(0.03)


@pytest.mark.parametrize("format", [VideoFormat.RGBA, VideoFormat.I420])
async def test_a_picture_is_seen_in_its_colours(venue: Venue, format: VideoFormat) -> None:
    options = VideoOptions(codec=VideoCodec.VP8, simulcast=False, max_bitrate=2_000_000, max_framerate=30)
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = VideoSource(320, 240)
            await a.local_participant.publish_video(source, options=options)
            group.start_soon(show, source)
            with (await subscribed(b)).video_frames(format=format) as stream, anyio.fail_after(PATIENCE):
                for _ in range(10):
                    frame = await anext(stream)
            group.cancel_scope.cancel()
    assert (frame.width, frame.height, frame.format) == (320, 240, format)
    if format is VideoFormat.RGBA:
        assert frame.data == frame.pixels.tobytes()
        assert np.abs(frame.pixels[120, 40, :3].astype(int) - RED).max() < 25
        assert np.abs(frame.pixels[120, 280, :3].astype(int) - BLUE).max() < 25
    else:
        luma, _, red_difference = frame.planes
        assert luma.shape == (240, 320)
        # Red is brighter than blue, and its red difference is on the other side of grey.
        assert int(luma[120, 40]) > int(luma[120, 280])
        assert int(red_difference[60, 20]) > 128 > int(red_difference[60, 140])


#: Red, 64 x 48, its bytes in each format (BT.601, limited range).
RED_AS = {
    VideoFormat.RGBA: bytes((255, 0, 0, 255)) * 3_072,
    VideoFormat.ABGR: bytes((255, 0, 0, 255)) * 3_072,
    VideoFormat.ARGB: bytes((255, 255, 0, 0)) * 3_072,
    VideoFormat.BGRA: bytes((0, 0, 255, 255)) * 3_072,
    VideoFormat.RGB24: bytes((255, 0, 0)) * 3_072,
    VideoFormat.I420: bytes((82,)) * 3_072 + bytes((90,)) * 768 + bytes((240,)) * 768,
    VideoFormat.I420A: bytes((82,)) * 3_072 + bytes((90,)) * 768 + bytes((240,)) * 768 + bytes((255,)) * 3_072,
    VideoFormat.I422: bytes((82,)) * 3_072 + bytes((90,)) * 1_536 + bytes((240,)) * 1_536,
    VideoFormat.I444: bytes((82,)) * 3_072 + bytes((90,)) * 3_072 + bytes((240,)) * 3_072,
    VideoFormat.NV12: bytes((82,)) * 3_072 + bytes((90, 240)) * 768,
}


async def seen(venue: Venue, sent: VideoFormat, asked: VideoFormat) -> VideoFrame:
    """A red picture, sent in one format and asked for in another."""
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = VideoSource(64, 48)
            await a.local_participant.publish_video(source)

            async def show_red() -> None:
                while True:
                    source.capture_frame(VideoFrame(data=RED_AS[sent], width=64, height=48, format=sent))
                    await anyio.sleep(0.03)

            group.start_soon(show_red)
            with (await subscribed(b)).video_frames(format=asked) as stream, anyio.fail_after(PATIENCE):
                frame = await anext(stream)
            group.cancel_scope.cancel()
    assert frame.format is asked
    return frame


def near(one: bytes, other: bytes) -> bool:
    return len(one) == len(other) and all(abs(a - b) < 25 for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("format", RED_AS)
async def test_a_picture_may_be_sent_in_any_format(venue: Venue, format: VideoFormat) -> None:
    assert near((await seen(venue, format, VideoFormat.RGBA)).data, RED_AS[VideoFormat.RGBA])


@pytest.mark.parametrize("format", [*VideoFormat][:6])
async def test_a_picture_may_be_had_as_pixels_in_any_order_or_as_i420(venue: Venue, format: VideoFormat) -> None:
    assert near((await seen(venue, VideoFormat.RGBA, format)).data, RED_AS[format])


@pytest.mark.parametrize("format", [*VideoFormat][6:])
async def test_a_format_in_which_the_library_gives_nothing_is_refused(venue: Venue, format: VideoFormat) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await a.local_participant.publish_video(VideoSource(64, 48))
            track = await b.wait_for_track("a", timeout=PATIENCE)
            with pytest.raises(ValueError, match=f"no stream gives pictures in {format.name}"):
                track.video_frames(format=format)


async def test_who_asks_the_library_itself_for_such_a_format_gets_nothing_and_harms_nobody(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            source = VideoSource(64, 48)
            await a.local_participant.publish_video(source)
            track = await b.wait_for_track("a", timeout=PATIENCE)
            asked = video_pb.NewVideoStreamRequest(
                track_handle=track.handle,
                type=video_pb.VIDEO_STREAM_NATIVE,
                format=video_pb.NV12,
                normalize_stride=True,
            )
            queue: MediaQueue[VideoFrame] = MediaQueue(b._link, 1, lambda transport, event: None)
            queue.open(ffi.FfiRequest(new_video_stream=asked))
            with track.video_frames() as stream, anyio.fail_after(PATIENCE):
                while stream.statistics().received < 3:
                    source.capture_frame(VideoFrame(data=RED_AS[VideoFormat.RGBA], width=64, height=48))
                    await anyio.sleep(0.03)
            assert (queue.received, queue.ended) == (0, False)
            queue.close()


@pytest.mark.virtual
async def test_a_source_that_sends_it_all_the_same_is_refused_in_memory() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        source = VideoSource(64, 48)
        await a.local_participant.publish_video(source)
        frame = VideoFrame(data=bytes(9_216), width=64, height=48, format=VideoFormat.I010)
        with a._transport.lend(frame.data) as address:
            asked = video_pb.CaptureVideoFrameRequest(
                source_handle=source._handle, buffer=picture_buffer(frame, address)
            )
            with pytest.raises(RoomError, match="I010"):
                a._transport.request(ffi.FfiRequest(capture_video_frame=asked))


async def keep_moving(source: VideoSource) -> None:
    """Show a colour that takes another place each tenth of a second."""
    number = 0
    while True:
        source.capture_frame(VideoFrame.of(moving(number // 3)))
        number += 1
        await anyio.sleep(0.033)


async def test_a_colour_that_moves_is_seen_where_it_is(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = VideoSource(WIDTH, HEIGHT)
            await a.local_participant.publish_video(source)
            group.start_soon(keep_moving, source)
            with (await subscribed(b)).video_frames() as stream, anyio.fail_after(2 * PATIENCE):
                places = [place_of((await anext(stream)).pixels) for _ in range(10 * PLACES)]
                while venue.real and not went_round(places):
                    # A busy machine shows some too late: sooner or later a whole round is seen.
                    places = [place_of((await anext(stream)).pixels) for _ in range(10 * PLACES)]
            group.cancel_scope.cancel()
    assert went_round(places), places


async def test_the_smallest_picture_that_may_be_sent_arrives(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = VideoSource(4, 4)
            await a.local_participant.publish_video(source, options=VideoOptions(simulcast=True))

            async def show_it() -> None:
                while True:
                    source.capture_frame(VideoFrame(data=bytes(64), width=4, height=4))
                    await anyio.sleep(0.03)

            group.start_soon(show_it)
            with (await subscribed(b)).video_frames() as stream, anyio.fail_after(PATIENCE):
                frame = await anext(stream)
            group.cancel_scope.cancel()
    # A real server begins with whichever of the sizes comes first.
    assert frame.width == frame.height in (1, 2, 4)


async def test_the_pictures_end_with_the_track(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, anyio.create_task_group() as group:
            source = VideoSource(320, 240)
            publication = await a.local_participant.publish_video(source)
            group.start_soon(show, source)
            with (await subscribed(b)).video_frames() as stream, anyio.fail_after(PATIENCE):
                await anext(stream)
                group.cancel_scope.cancel()
                with anyio.CancelScope(shield=True):
                    await a.local_participant.unpublish_track(publication.sid)
                    async for _ in stream:
                        pass
            assert stream.ended
            await a.local_participant.publish_video(source)
            source.capture_frame(VideoFrame.of(two_halves()))
            source.close()
            with pytest.raises(RoomError, match="not published"):
                source.capture_frame(VideoFrame.of(two_halves()))


@pytest.mark.parametrize(("width", "height"), [(0, 240), (320, 0), (-1, 240)])
def test_a_picture_without_size_is_refused_before_the_library_sees_it(width: int, height: int) -> None:
    with pytest.raises(ValueError, match="picture"):
        VideoSource(width, height)
    with pytest.raises(ValueError, match="picture"):
        VideoFrame(data=b"", width=width, height=height)


def test_a_picture_of_which_the_library_would_send_half_is_refused() -> None:
    frame = VideoFrame(data=bytes(9_216), width=64, height=48, format=VideoFormat.I010)
    with pytest.raises(ValueError, match="no pictures in I010"):
        VideoSource(64, 48).capture_frame(frame)


def test_a_picture_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="takes 307200"):
        VideoFrame(data=bytes(100), width=320, height=240)


def test_a_source_that_is_not_published_takes_no_picture() -> None:
    with pytest.raises(RoomError, match="not published"):
        VideoSource(320, 240).capture_frame(VideoFrame.of(two_halves()))


@pytest.mark.parametrize(
    "options", [{"max_bitrate": 1}, {"max_framerate": 30}, {"max_bitrate": 0, "max_framerate": 30}]
)
def test_options_that_the_library_would_ignore_or_choke_on_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="frame"):
        VideoOptions(**options)
