"""Microphones and speakers by way of PortAudio (``sounddevice``): what there is, and streams of raw samples.

Everything here blocks and belongs into a thread (``_devices.Desk``); the callbacks run on PortAudio's own.

The native room library has a way to devices as well, which is not used: it plays every track of every room of the
process and shows nobody a frame, so it can neither be told one agent's sound from another's nor be had in rooms in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from .._errors import DeviceError, printable
from ._devices import device_library

__all__ = ["AudioDevice", "SoundStream", "audio_devices", "close_sound", "open_input", "open_output"]

_HINT = "Debian, Ubuntu: apt install libportaudio2"
_UNSEEN = (
    "nothing is plugged in, or on Linux ALSA has no plugin for the sound server (libasound2-plugins, pipewire-alsa)"
)
_TICKS_A_SECOND = 100
_SAMPLE_TYPE = "int16"


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioDevice:
    """A microphone or a speaker, as the sound system names it."""

    name: str
    system: str
    """Which sound system has it: ``ALSA``, ``Core Audio``, ``Windows WASAPI``."""
    max_channels: int
    """Channels that it can capture or play."""
    sample_rate: int
    """Hz that it prefers; others are converted by the system, or refused."""
    is_default: bool
    """Whether it is the one that is used when none is named."""
    index: int = field(repr=False, compare=False)
    """PortAudio's number for it, good in this process."""


class SoundStream(Protocol):
    """An open device."""

    latency: float

    def start(self) -> None: ...
    def abort(self) -> None: ...
    def close(self) -> None: ...


def audio_devices(kind: str) -> tuple[AudioDevice, ...]:
    """Those that can do ``"input"`` or ``"output"``.  Raises :class:`DeviceError` where there is no sound at all."""
    sound = device_library("sounddevice", _HINT)
    with _typed_errors(sound, "the devices cannot be listed"):
        found: Sequence[Mapping[str, Any]] = sound.query_devices()
        systems: Sequence[Mapping[str, Any]] = sound.query_hostapis()
    default = _default_index(sound, kind)
    return tuple(
        AudioDevice(
            name=str(device["name"]),
            system=str(systems[int(device["hostapi"])]["name"]),
            max_channels=int(device[f"max_{kind}_channels"]),
            sample_rate=round(device["default_samplerate"]),
            is_default=index == default,
            index=index,
        )
        for index, device in enumerate(found)
        if device[f"max_{kind}_channels"] > 0
    )


def _default_index(sound: Any, kind: str) -> int:
    try:
        return int(sound.query_devices(kind=kind)["index"])
    except (sound.PortAudioError, ValueError):
        return -1  # there is none


def open_input(
    device: AudioDevice | str | None,
    sample_rate: int,
    num_channels: int,
    deliver: Callable[[bytes, bool], None],
    stopped: Callable[[], None],
) -> SoundStream:
    """Capture: ``deliver(samples, lost)`` is called every 10 ms on PortAudio's thread, ``stopped`` at the end."""

    def captured(data: Any, frames: int, times: Any, status: Any) -> None:
        deliver(bytes(data), bool(status.input_overflow))

    return _open("input", device, sample_rate, num_channels, captured, stopped)


def open_output(
    device: AudioDevice | str | None,
    sample_rate: int,
    num_channels: int,
    take: Callable[[int], bytes],
    stopped: Callable[[], None],
) -> SoundStream:
    """Play: ``take(size)`` is asked for that many bytes or less on PortAudio's thread; silence is put behind them."""

    def played(data: Any, frames: int, times: Any, status: Any) -> None:
        size = len(data)
        data[:] = take(size).ljust(size, b"\0")

    return _open("output", device, sample_rate, num_channels, played, stopped)


def _open(
    kind: str,
    device: AudioDevice | str | None,
    sample_rate: int,
    num_channels: int,
    callback: Callable[..., None],
    stopped: Callable[[], None],
) -> SoundStream:
    chosen = _chosen(kind, device)
    sound = device_library("sounddevice", _HINT)
    make: Callable[..., SoundStream] = sound.RawInputStream if kind == "input" else sound.RawOutputStream
    with _typed_errors(sound, f"{chosen.name!r} cannot be opened for {sample_rate} Hz, {num_channels} channels"):
        stream = make(
            samplerate=sample_rate,
            channels=num_channels,
            dtype=_SAMPLE_TYPE,
            blocksize=sample_rate // _TICKS_A_SECOND,
            device=chosen.index,
            callback=callback,
            finished_callback=stopped,
        )
        try:
            stream.start()
        except BaseException:
            stream.close()
            raise
    return stream


def _chosen(kind: str, device: AudioDevice | str | None) -> AudioDevice:
    """That one, the first of exactly that name, the first whose name holds it, or the default."""
    devices = audio_devices(kind)
    what = "microphone" if kind == "input" else "speaker"
    if not devices:
        raise DeviceError(f"this machine has no {what}", code="DEVICE_UNAVAILABLE", hint=_UNSEEN)
    if device is None:
        return next((found for found in devices if found.is_default), devices[0])
    if isinstance(device, AudioDevice):
        matches = [found for found in devices if (found.name, found.system) == (device.name, device.system)]
    else:
        matches = [found for found in devices if found.name == device]
        matches += [found for found in devices if device.casefold() in found.name.casefold()]
    if not matches:
        name = device.name if isinstance(device, AudioDevice) else device
        there = ", ".join(found.name for found in devices)
        raise DeviceError(f"no {what} {name!r}; there are: {printable(there)}", code="DEVICE_NOT_FOUND")
    return matches[0]


def close_sound(stream: SoundStream) -> None:
    """Stop at once and give the device back.  One that has stopped by itself is closed all the same."""
    stream.abort()
    stream.close()


@contextmanager
def _typed_errors(sound: Any, what: str) -> Generator[None]:
    """PortAudio's errors as ours.  ``sounddevice`` itself raises ValueError for what it checks before."""
    try:
        yield
    except (sound.PortAudioError, ValueError) as exc:
        raise DeviceError(f"{what}: {printable(str(exc))}") from exc
