"""Tones in rooms: sending one, and listening for it."""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np
from venues import PATIENCE
from waves import RATE, TONE, found_tone, level, tone

from livekit_agent import events
from livekit_agent.rooms import AudioFrame, AudioSource, MediaStream, RemoteTrack, Room, Subscription

__all__ = ["RATE", "TONE", "clear_tone", "found_tone", "hum", "level", "sound", "subscribed", "tone"]


async def hum(source: AudioSource, frequency: float = TONE) -> None:
    """A tone without end, in pieces that join: 50 ms hold whole periods of any multiple of 20 Hz."""
    piece = tone(0.05, frequency, source.sample_rate, source.num_channels)
    while True:
        await source.capture_frame(piece)


async def subscribed(room: Room, heard: Subscription | None = None) -> RemoteTrack:
    """The track that we subscribe to next, or have subscribed to."""
    with heard or room.subscribe(events.TrackSubscribed, replay=True) as subscription:
        with anyio.fail_after(15):
            async for event in subscription:
                if isinstance(event, events.TrackSubscribed):
                    return event.track
    raise AssertionError("the room ended")


async def sound(stream: MediaStream[AudioFrame], seconds: float) -> Any:
    """That much sound, from the first that is not silence: after it the ear has got used to it (0.3 s are left out)."""
    frames: list[Any] = []
    heard = 0.0
    with anyio.fail_after(15 + 3 * seconds):
        async for frame in stream:
            if not heard and level(frame.samples) < 0.01:
                continue
            heard += frame.duration
            frames.append(frame.samples)
            if heard >= 0.3 + seconds:
                rate = frame.sample_rate
                return np.concatenate(frames)[-round(seconds * rate) :]
    raise AssertionError("the stream ended")


async def clear_tone(stream: MediaStream[AudioFrame], frequency: float, seconds: float = 1.0, *, real: bool) -> Any:
    """So much of a tone without a gap and free of noise.

    Real sound has gaps when the machine is busy with other things: what is asked for is that so much of it comes
    without one, sooner or later.  In memory the first must do.
    """
    with anyio.fail_after(2 * PATIENCE):
        while True:
            heard = await sound(stream, seconds)
            rate = round(len(heard) / seconds)
            found = [found_tone(heard[:, channel], rate) for channel in range(heard.shape[1])]
            faint = min(level(piece) for piece in np.split(heard, round(100 * seconds)))
            right = all(abs(hertz - frequency) <= 0.002 * frequency and ratio >= 20 for hertz, ratio in found)
            if right and faint > 0.1:
                return heard
            assert real, (found, faint)
