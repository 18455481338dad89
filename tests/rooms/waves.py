"""Tones and moving pictures as plain arrays: for our tests and, in a process of its own, for another client."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

RATE = 48_000
TONE = 440.0
WIDTH, HEIGHT, PLACES = 320, 240, 8
"""A picture, and how many places a square of colour takes in turn, from left to right."""
SQUARE = (255, 160, 0)


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


def moving(number: int) -> Any:
    """The picture of that number, RGBA: all dark but one place."""
    pixels = np.full((HEIGHT, WIDTH, 4), (0, 0, 40, 255), np.uint8)
    left = WIDTH // PLACES * (number % PLACES)
    pixels[:, left : left + WIDTH // PLACES, :3] = SQUARE
    return pixels


def place_of(pixels: Any) -> int | None:
    """Where the colour is in an RGBA picture, by the pixel in the middle of each place; None if not in just one."""
    height, width = pixels.shape[:2]
    middles = [pixels[height // 2, (2 * place + 1) * width // (2 * PLACES), :3].astype(int) for place in range(PLACES)]
    lit = [place for place, pixel in enumerate(middles) if np.abs(pixel - SQUARE).max() < 45]
    return lit[0] if len(lit) == 1 else None


def went_round(places: list[int | None]) -> bool:
    """Whether the colour was seen at every place, and always moved forward, by less than half the way."""
    if None in places or set(places) != set(range(PLACES)):
        return False
    steps = [(after - before) % PLACES for before, after in pairwise(places)]  # type: ignore[operator]
    return all(step < PLACES // 2 for step in steps)
