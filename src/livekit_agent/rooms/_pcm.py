"""Sound as numbers: bytes from arrays and WAV files, other rates and channel counts.

numpy is imported by the functions that compute, not with the module: sound that is already as wanted is only bytes.
"""

# numpy's stubs leave parts of its overloads unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
import os
import sys
import wave
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from ._frames import SAMPLE_BYTES, AudioFrame

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Converter", "pcm_bytes", "pitch_and_level", "sine", "sound_pieces", "wav_pieces"]


def pcm_bytes(data: Any, num_channels: int) -> bytes:
    """Interleaved 16-bit samples of bytes, a frame, or an array.

    An array has the shape ``(samples,)`` (interleaved), or ``(samples, channels)``; of ``int16``, or of floats from
    -1 to 1.
    """
    if isinstance(data, bytes):
        return data
    if isinstance(data, AudioFrame):
        return data.data
    if isinstance(data, bytearray | memoryview):
        return bytes(data)  # pyright: ignore[reportUnknownArgumentType] - any view's bytes
    import numpy as np

    array = np.asarray(data)
    if array.ndim == 2 and array.shape[1] != num_channels:
        raise ValueError(f"an array of shape {array.shape} has not {num_channels} channels in its columns")
    if array.ndim not in (1, 2):
        raise ValueError(f"an array of shape {array.shape} is no sound")
    if array.dtype.kind == "f":
        array = np.clip(np.rint(array * 32767.0), -32768, 32767).astype(np.int16)
    if array.dtype != np.int16:
        raise ValueError(f"samples of type {array.dtype}; 16-bit integers or floats are needed")
    return array.tobytes()


class Converter:
    """A stream of sound at one rate and channel count as one of another, piece by piece without seams.

    Channels: more than wanted are averaged, fewer are repeated.  Rates: linear interpolation, after averaging over
    the samples that fall together.  Good to about 60 dB for speech at 16 kHz and above; the native library's own
    resampler, which real rooms use, is better.
    """

    def __init__(self, rate: int, channels: int, to_rate: int, to_channels: int) -> None:
        self._rate, self._channels = rate, channels
        self._to_rate, self._to_channels = to_rate, to_channels
        self._position = 0.0
        self._last: NDArray[np.float64] | None = None

    def feed(self, data: bytes) -> bytes:
        """The next piece."""
        if (self._rate, self._channels) == (self._to_rate, self._to_channels) or not data:
            return data
        import numpy as np

        samples = np.frombuffer(data, np.int16).reshape(-1, self._channels).astype(np.float64)
        if self._to_channels != self._channels:
            samples = np.repeat(samples.mean(axis=1, keepdims=True), self._to_channels, axis=1)
        if self._rate != self._to_rate:
            samples = self._resample(samples)
        return np.clip(np.rint(samples), -32768, 32767).astype(np.int16).tobytes()

    def _resample(self, samples: NDArray[np.float64]) -> NDArray[np.float64]:
        import numpy as np

        step = self._rate / self._to_rate
        if self._rate % self._to_rate == 0 and len(samples) % round(step) == 0:
            return samples.reshape(-1, round(step), samples.shape[1]).mean(axis=1)
        # The last sample of the piece before is where this one's interpolation begins: index 0 is that sample.
        before = samples[:1] if self._last is None else self._last
        line = np.concatenate([before, samples])
        self._last = samples[-1:]
        at = np.arange(self._position, len(samples), step)
        self._position = float(at[-1] + step - len(samples)) if len(at) else self._position - len(samples)
        index = at.astype(np.intp)
        share = (at - index)[:, None]
        return line[index] * (1 - share) + line[index + 1] * share


def sound_pieces(sound: Any, sample_rate: int | None, rate: int, channels: int, seconds: float) -> Iterator[bytes]:
    """Anything that can be played, at that rate and channel count, in pieces of about that length.

    ``sample_rate`` is that of bytes or an array, if it is another one; files and frames bring theirs.
    """
    if isinstance(sound, str | os.PathLike):
        yield from wav_pieces(sound, rate, channels, seconds)  # pyright: ignore[reportUnknownArgumentType]
        return
    from_rate, from_channels = sample_rate or rate, channels
    if isinstance(sound, AudioFrame):
        from_rate, from_channels = sound.sample_rate, sound.num_channels
    data = pcm_bytes(sound, from_channels)
    if round(from_rate * seconds) <= 0:
        raise ValueError(f"no sound of {from_rate} Hz")
    converter = Converter(from_rate, from_channels, rate, channels)
    size = SAMPLE_BYTES * from_channels * round(from_rate * seconds)
    for start in range(0, len(data), size):
        yield converter.feed(data[start : start + size])


def wav_pieces(path: str | os.PathLike[str], rate: int, channels: int, seconds: float) -> Iterator[bytes]:
    """A WAV file's sound at that rate and channel count, in pieces of about that length.

    Raises :class:`wave.Error` and :class:`EOFError` for what is not one, :class:`OSError` for what cannot be read.
    """
    with wave.open(os.fspath(path), "rb") as file:
        converter = Converter(file.getframerate(), file.getnchannels(), rate, channels)
        while piece := file.readframes(max(1, round(file.getframerate() * seconds))):
            yield converter.feed(_sixteen_bit(piece, file.getsampwidth()))


def _sixteen_bit(data: bytes, width: int) -> bytes:
    """Samples of a WAV file, which are little-endian, as native ones of two bytes."""
    if width == SAMPLE_BYTES and sys.byteorder == "little":
        return data
    import numpy as np

    if width == 1:
        return ((np.frombuffer(data, np.uint8).astype(np.int16) - 128) * 256).tobytes()
    # The two high bytes of each sample are what is kept.
    columns = np.frombuffer(data, np.uint8).reshape(-1, width)[:, width - SAMPLE_BYTES :]
    return np.ascontiguousarray(columns).view("<i2").astype(np.int16).tobytes()


def sine(hz: float, seconds: float, sample_rate: int = 48_000) -> NDArray[np.int16]:
    """A tone at half of full scale, of one channel: 16-bit integers of shape (samples, 1)."""
    import numpy as np

    at = np.arange(round(seconds * sample_rate)) / sample_rate
    return np.rint(16_384 * np.sin(2 * np.pi * hz * at)).astype(np.int16)[:, None]


def pitch_and_level(samples: bytes, sample_rate: int) -> tuple[float, float]:
    """The strongest frequency in Hz and the level in dB below full scale, of one channel of 16-bit samples."""
    import numpy

    np: Any = numpy  # its stubs leave half of this unknown
    wave = np.frombuffer(samples, np.int16) / 32_768
    spectrum = abs(np.fft.rfft(wave * np.hanning(len(wave))))
    return int(spectrum.argmax()) * sample_rate / len(wave), 20 * math.log10(max(1e-5, math.sqrt((wave**2).mean())))
