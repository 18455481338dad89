"""Which tracks come, and how much of them, in memory and on a real livekit-server."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import anyio
import numpy as np
import pytest
from sounds import hum, level
from venues import PATIENCE, Venue, next_of

from livekit_agent import AutoSubscribe, RoomClosedError, RoomPermissionError, events
from livekit_agent.rooms import (
    AudioFrame,
    AudioSource,
    LocalTrackPublication,
    MediaStream,
    RemoteTrackPublication,
    Room,
    TrackKind,
    VideoFrame,
    VideoOptions,
    VideoQuality,
    VideoSource,
)

WIDTH, HEIGHT = 960, 540


class Stage(NamedTuple):
    """Ann sends a tone and a large picture, Bob is there too."""

    ann: Room
    bob: Room
    voice: LocalTrackPublication[AudioSource]
    face: LocalTrackPublication[VideoSource]


@asynccontextmanager
async def a_stage(
    venue: Venue, auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING, simulcast: bool = True
) -> AsyncGenerator[Stage]:
    async with await venue.join("ann") as ann, anyio.create_task_group() as group:
        voice = await ann.local_participant.publish_audio(AudioSource(), name="voice")
        face = await ann.local_participant.publish_video(
            VideoSource(WIDTH, HEIGHT), name="face", options=VideoOptions(simulcast=simulcast)
        )
        group.start_soon(hum, voice.track.source)
        group.start_soon(show, face.track.source)
        async with await venue.join("bob", auto_subscribe=auto_subscribe) as bob:
            yield Stage(ann, bob, voice, face)
        group.cancel_scope.cancel()


async def show(source: VideoSource) -> None:
    pixels = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    pixels[:] = (255, 0, 0, 255)
    frame = VideoFrame.of(pixels)
    while True:
        source.capture_frame(frame)
        await anyio.sleep(0.03)


async def published(bob: Room) -> dict[TrackKind, RemoteTrackPublication]:
    return {
        kind: await bob.wait_for_publication("ann", kind=kind, timeout=PATIENCE)
        for kind in (TrackKind.AUDIO, TrackKind.VIDEO)
    }


async def until_heard(frames: MediaStream[AudioFrame], *, loud: bool) -> None:
    """Ten frames in a row are loud, or silent."""
    row = 0
    with anyio.fail_after(PATIENCE):
        async for frame in frames:
            row = row + 1 if (level(frame.samples) > 0.1) is loud else 0
            if row == 10:
                return
    raise AssertionError("the track ended")


async def until_quiet(frames: MediaStream[Any]) -> None:
    """For half a second nothing comes.  What was under way may, and on a busy machine for a while."""
    with anyio.fail_after(PATIENCE):
        while True:
            with anyio.move_on_after(0.5):
                await anext(frames)
                continue
            return


async def until_seen(frames: MediaStream[VideoFrame], width: int) -> None:
    with anyio.fail_after(PATIENCE):
        async for frame in frames:
            if frame.width == width:
                return
    raise AssertionError("the track ended")


# ------------------------------------------------------------------------------------------------ by itself


@pytest.mark.parametrize("mode", AutoSubscribe)
async def test_what_comes_by_itself_is_what_was_asked_for_at_the_join(venue: Venue, mode: AutoSubscribe) -> None:
    wanted = {
        AutoSubscribe.EVERYTHING: {TrackKind.AUDIO, TrackKind.VIDEO},
        AutoSubscribe.AUDIO: {TrackKind.AUDIO},
        AutoSubscribe.VIDEO: {TrackKind.VIDEO},
        AutoSubscribe.NOTHING: set[TrackKind](),
    }[mode]
    async with venue.open(), a_stage(venue, mode) as stage:
        # Tracks that were there at the join, and one that comes later.
        there = await published(stage.bob)
        later = await stage.ann.local_participant.publish_audio(stage.voice.track.source, name="later")
        more = await stage.bob.wait_for_publication("ann", name="later", timeout=PATIENCE)
        assert more.sid == later.sid
        for publication in (*there.values(), more):
            if publication.kind in wanted:
                await stage.bob.wait_until(lambda it=publication: it.subscribed, PATIENCE)  # type: ignore[misc]
        await anyio.sleep(0.3)
        assert {kind for kind, publication in there.items() if publication.subscribed} == wanted
        assert more.subscribed is (TrackKind.AUDIO in wanted)


async def test_asking_for_what_one_may_not_have_is_refused_at_once(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b", grants={"canSubscribe": False}) as b:
            await a.local_participant.publish_audio(name="voice")
            publication = await b.wait_for_publication("a", name="voice", timeout=PATIENCE)
            with pytest.raises(RoomPermissionError, match="may not subscribe"):
                publication.set_subscribed(True)
            publication.set_subscribed(False)
            assert not publication.subscribed


async def test_what_does_not_come_by_itself_can_be_asked_for_and_given_up(venue: Venue) -> None:
    async with venue.open(), a_stage(venue, AutoSubscribe.NOTHING) as stage:
        voice = (await published(stage.bob))[TrackKind.AUDIO]
        voice.set_subscribed(True)
        track = await stage.bob.wait_for_track("ann", kind=TrackKind.AUDIO, timeout=PATIENCE)
        with track.audio_frames() as frames:
            await until_heard(frames, loud=True)
            voice.set_subscribed(False)
            with anyio.fail_after(PATIENCE):
                async for _ in frames:
                    pass
        assert not voice.subscribed


# ------------------------------------------------------------------------------------------------ how much of it


async def test_a_pause_is_silence_without_unsubscribing(venue: Venue) -> None:
    async with venue.open(), a_stage(venue) as stage:
        pubs = await published(stage.bob)
        track = await stage.bob.wait_for_track("ann", kind=TrackKind.AUDIO, timeout=PATIENCE)
        film = await stage.bob.wait_for_track("ann", kind=TrackKind.VIDEO, timeout=PATIENCE)
        heard = stage.bob.subscribe(events.TrackSubscribed, events.TrackUnsubscribed)
        with track.audio_frames() as sound, film.video_frames(capacity=1) as pictures:
            await until_heard(sound, loud=True)
            await until_seen(pictures, WIDTH)
            for publication in pubs.values():
                publication.pause()
            await until_heard(sound, loud=False)
            await until_quiet(pictures)
            assert [publication.enabled for publication in pubs.values()] == [False, False]
            assert [publication.subscribed for publication in pubs.values()] == [True, True]
            for publication in pubs.values():
                publication.resume()
            await until_heard(sound, loud=True)
            await until_seen(pictures, WIDTH)
            assert [publication.enabled for publication in pubs.values()] == [True, True]
        assert len(heard) == 0


async def test_a_smaller_picture_comes_when_it_is_asked_for(venue: Venue) -> None:
    async with venue.open(), a_stage(venue) as stage:
        face = (await published(stage.bob))[TrackKind.VIDEO]
        assert (face.simulcasted, face.width, face.height) == (True, WIDTH, HEIGHT)
        film = await stage.bob.wait_for_track("ann", kind=TrackKind.VIDEO, timeout=PATIENCE)
        with film.video_frames() as pictures:
            await until_seen(pictures, WIDTH)
            face.set_quality(VideoQuality.LOW)
            assert (face.quality, face.dimensions) == (VideoQuality.LOW, None)
            await until_seen(pictures, 320)
            face.set_dimensions(480, 270)
            assert (face.quality, face.dimensions) == (None, (480, 270))
            await until_seen(pictures, 640)
            face.set_quality(VideoQuality.HIGH)
            await until_seen(pictures, WIDTH)


async def test_what_cannot_be_smaller_says_so(venue: Venue) -> None:
    async with venue.open(), a_stage(venue, simulcast=False) as stage:
        pubs = await published(stage.bob)
        assert not pubs[TrackKind.VIDEO].simulcasted
        for publication in pubs.values():
            with pytest.raises(ValueError, match="one size"):
                publication.set_quality(VideoQuality.LOW)
            with pytest.raises(ValueError, match="one size"):
                publication.set_dimensions(320, 240)
            with pytest.raises(ValueError, match="picture"):
                publication.set_dimensions(0, 240)


# ------------------------------------------------------------------------------------------------ who may


async def test_a_publisher_decides_who_may_have_its_tracks(venue: Venue) -> None:
    async with venue.open(), a_stage(venue) as stage:
        bob, me = stage.bob, stage.ann.local_participant
        pubs = await published(bob)
        track = await bob.wait_for_track("ann", kind=TrackKind.AUDIO, timeout=PATIENCE)
        await bob.wait_for_track("ann", kind=TrackKind.VIDEO, timeout=PATIENCE)
        heard = bob.subscribe(events.TrackSubscribed, events.TrackUnsubscribed, events.TrackSubscriptionFailed)
        with track.audio_frames() as frames:
            await until_heard(frames, loud=True)
            me.set_subscription_permissions(everybody=False)
            # Revoked: no frames, not even silence, and no event.
            await until_quiet(frames)
            assert (len(heard), pubs[TrackKind.AUDIO].subscribed) == (0, True)
            me.set_subscription_permissions(everybody=False, tracks={"bob": [stage.voice.sid], "eve": None})
            gone = await next_of(heard, events.TrackUnsubscribed)
            assert gone.track is track
            again = await next_of(heard, events.TrackSubscribed)
            assert again.publication is pubs[TrackKind.AUDIO]
            with anyio.fail_after(PATIENCE):
                async for _ in frames:
                    pass
        with again.track.audio_frames() as frames:
            await until_heard(frames, loud=True)
        assert len(heard) == 0
        me.set_subscription_permissions(everybody=True)
        assert (await next_of(heard, events.TrackSubscribed)).track.kind == TrackKind.VIDEO


async def test_who_may_not_subscribe_sees_the_track_and_gets_it_when_it_may(venue: Venue) -> None:
    async with venue.open(), a_stage(venue) as stage:
        me = stage.ann.local_participant
        await published(stage.bob)
        await stage.bob.wait_for_track("ann", kind=TrackKind.VIDEO, timeout=PATIENCE)
        me.set_subscription_permissions(everybody=False)
        secret = await me.publish_audio(stage.voice.track.source, name="secret")
        seen = await stage.bob.wait_for_publication("ann", name="secret", timeout=PATIENCE)
        await anyio.sleep(0.3)
        assert not seen.subscribed
        me.set_subscription_permissions(everybody=False, tracks={"bob": [secret.sid]})
        assert (await stage.bob.wait_for_track("ann", name="secret", timeout=PATIENCE)).sid == secret.sid


async def test_permission_is_given_for_tracks_and_for_nothing_else(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("ann") as ann:
            voice = await ann.local_participant.publish_audio()
            wrong: list[Any] = [[""], ["voice"], ["PA_x"], voice.sid, [voice.sid, "x"]]
            for sids in wrong:
                with pytest.raises(ValueError, match="is no track's sid"):
                    ann.local_participant.set_subscription_permissions(everybody=False, tracks={"bob": sids})
            ann.local_participant.set_subscription_permissions(everybody=False, tracks={"bob": [voice.sid], "eve": []})


async def test_after_the_end_a_publication_takes_no_wishes(venue: Venue) -> None:
    async with venue.open(), a_stage(venue) as stage:
        face = (await published(stage.bob))[TrackKind.VIDEO]
        await stage.bob.disconnect()
        wishes: list[Any] = [
            face.pause,
            face.resume,
            lambda: face.set_quality(VideoQuality.LOW),
            lambda: face.set_subscribed(True),
            lambda: stage.bob.local_participant.set_subscription_permissions(everybody=True),
        ]
        for wish in wishes:
            with pytest.raises(RoomClosedError):
                wish()
