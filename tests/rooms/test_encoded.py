"""Video that is compressed already, in memory and on a real livekit-server."""

from __future__ import annotations

import base64
import itertools

import anyio
import numpy as np
import pytest
from venues import PATIENCE, Venue

from livekit_agent import RoomError
from livekit_agent.rooms import EncodedVideoFeedback, EncodedVideoFrame, EncodedVideoSource, VideoCodec

#: 64 x 48 pixels of red in VP8: a key frame.
RED = base64.b64decode("EAQAnQEqQAAwADkFAAEcJAwsLETMJEAQABOtUB/AH9AQOdwwgGm1ABAA/v1u8//kb+PnRv/I4//8Sp7jieP//EaA")


#: The same picture again, for who has the one before.
STILL_RED = base64.b64decode("EQQA42OoBGevEE9PsQov3o7gH+daoD+AIHDvzDQAWGqqogD++kXL/2tD6tD6tD+W7/+Q/fyH7+Q/f/ILAA==")


def picture(number: int, *, key: bool = True) -> EncodedVideoFrame:
    data = RED if key else STILL_RED
    return EncodedVideoFrame(data=data, width=64, height=48, key=key, timestamp_us=1_000_000 + 33_333 * number)


async def send(source: EncodedVideoSource, asked: list[int], rates: list[EncodedVideoFeedback]) -> None:
    """A key frame first, and one whenever somebody asks."""
    for number in itertools.count():
        feedback = source.take_feedback()
        if feedback.key_frame_requested:
            asked.append(number)
        if feedback.target_bitrate is not None:
            rates.append(feedback)
        source.capture_frame(picture(number, key=number == 0 or feedback.key_frame_requested))
        await anyio.sleep(0.033)


async def test_compressed_pictures_are_sent_as_they_are_when_somebody_needs_one(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, anyio.create_task_group() as group:
            source = EncodedVideoSource(64, 48, codec=VideoCodec.VP8)
            asked: list[int] = []
            rates: list[EncodedVideoFeedback] = []
            await a.local_participant.publish_encoded_video(source, name="film")
            group.start_soon(send, source, asked, rates)
            await anyio.sleep(0.2)
            async with await venue.join("b") as b:
                track = await b.wait_for_track("a", name="film", timeout=PATIENCE)
                [seen] = b.remote_participants["a"].track_publications.values()
                assert (seen.simulcasted, seen.width, seen.height, seen.mime_type) == (False, 64, 48, "video/VP8")
                if venue.real:
                    # Rooms in memory do not decompress.
                    with track.video_frames() as frames, anyio.fail_after(PATIENCE):
                        frame = await anext(frames)
                    assert (frame.width, frame.height) == (64, 48)
                    assert np.abs(frame.pixels[24, 32, :3].astype(int) - (255, 0, 0)).max() < 25
                with anyio.fail_after(PATIENCE):
                    while not asked:  # noqa: ASYNC110 - feedback is asked for, not told
                        await anyio.sleep(0.02)
                    while venue.real and not rates:  # noqa: ASYNC110 - as above; rooms in memory have no links to judge
                        await anyio.sleep(0.02)
                assert all((rate.target_bitrate or 0) > 0 for rate in rates)
                assert source.capture_frame(picture(9_999))
                if not venue.real:
                    # A real receiver may just have asked again.
                    assert source.take_feedback().key_frame_requested is False, "it is told once"
            group.cancel_scope.cancel()


async def test_a_source_that_is_not_published_takes_no_compressed_picture() -> None:
    source = EncodedVideoSource(64, 48, codec=VideoCodec.VP8)
    with pytest.raises(RoomError, match="not published"):
        source.capture_frame(picture(0))
    with pytest.raises(RoomError, match="not published"):
        source.take_feedback()


def test_a_compressed_picture_without_size_or_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="no bytes"):
        EncodedVideoFrame(data=b"", width=64, height=48, key=True, timestamp_us=0)
    with pytest.raises(ValueError, match="picture"):
        EncodedVideoFrame(data=RED, width=0, height=48, key=True, timestamp_us=0)
    with pytest.raises(ValueError, match="picture"):
        EncodedVideoSource(64, 0, codec=VideoCodec.VP8)
