"""Tones and pictures to send, and how to recognise them."""

from __future__ import annotations

from typing import Any

import anyio
import numpy as np

from livekit_agent import events
from livekit_agent.rooms import AudioFrame, AudioSource, MediaStream, RemoteTrack, Room, Subscription

RATE = 48_000
TONE = 440.0


def tone(seconds: float, frequency: float = TONE, rate: int = RATE, channels: int = 1, level: float = 0.5) -> Any:
    """A sine wave of shape (samples, channels), as 16-bit integers."""
    at = np.arange(round(seconds * rate)) / rate
    wave = np.rint(level * 32767 * np.sin(2 * np.pi * frequency * at)).astype(np.int16)
    return np.repeat(wave[:, None], channels, axis=1)


def level(samples: Any) -> float:
    """Root mean square, full scale 1."""
    return float(np.sqrt(np.mean((samples.astype(np.float64) / 32768) ** 2)))


def found_tone(samples: Any, rate: int) -> tuple[float, float]:
    """The strongest frequency and its ratio to everything else in dB, of one channel."""
    wave = samples.astype(np.float64)
    spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave)), 8 * len(wave))) ** 2
    frequencies = np.fft.rfftfreq(8 * len(wave), 1 / rate)
    peak = float(frequencies[int(np.argmax(spectrum))])
    near = np.abs(frequencies - peak) < 15
    return peak, 10 * float(np.log10(spectrum[near].sum() / spectrum[~near].sum()))


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
    skip = 30
    with anyio.fail_after(15 + 3 * seconds):
        async for frame in stream:
            if skip == 30 and level(frame.samples) < 0.01:
                continue
            skip -= 1
            if skip < 0:
                frames.append(frame.samples)
                if len(frames) >= round(seconds * 100):
                    break
    return np.concatenate(frames)
