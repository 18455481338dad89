"""Sound and pictures through the native library's processors: echo, noise and gain, resampling, colour conversion.

Plain computation, no rooms and no event loop: the library is asked, answers at once, and its answer is copied.  So the
same objects serve real rooms and rooms in memory, in any thread, one thread at a time.  The library is loaded when the
first one is made.

Each object owns a native handle; ``with``, or :meth:`close`, gives it back.  One that is forgotten gives it back when
Python collects it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from enum import IntEnum
from types import TracebackType
from typing import Protocol, Self

from .._errors import RoomError, printable
from ._frames import SAMPLE_BYTES, AudioFrame, VideoFormat, VideoFrame, planes_of
from ._proto import audio, ffi, video
from ._proto import room as room_pb
from ._video import picture_buffer

__all__ = [
    "AudioProcessor",
    "Resampler",
    "ResamplerQuality",
    "convert_picture",
    "load_audio_filter",
]

_TICKS_A_SECOND = 100


class NativeMemory(Protocol):
    """What is needed of the library here."""

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse: ...
    def drop(self, handle_id: int) -> bool: ...
    def lend(self, data: bytes) -> AbstractContextManager[int]: ...
    def scratch(self, data: bytes) -> AbstractContextManager[tuple[int, Callable[[], bytes]]]: ...
    def read(self, buffer: room_pb.BufferInfo) -> bytes: ...


def native_library() -> NativeMemory:
    """The library; imported here, because it must not load before somebody needs it."""
    from . import _ffi

    return _ffi.native_library()


class _Native:
    """Something that owns a native handle."""

    def __init__(self, library: NativeMemory, handle_id: int) -> None:
        self._library = library
        self._handle = handle_id

    def _open_handle(self) -> int:
        if not self._handle:
            raise RoomError(f"the {type(self).__name__} is closed")
        return self._handle

    def close(self) -> None:
        """Give it back.  Idempotent."""
        handle_id, self._handle = self._handle, 0
        if handle_id:
            self._library.drop(handle_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        # Not made to the end, or the interpreter goes: then there is nothing to give back to.
        with suppress(AttributeError, TypeError):
            self.close()


class AudioProcessor(_Native):
    """WebRTC's own cleaning of sound: echo, noise, rumble, loudness.  An :class:`~livekit_agent.rooms.AudioStage`.

    Frames are of whole 10 ms.  For echo, everything that is played goes through :meth:`process_reverse` as well, and
    :meth:`set_delay` says how much later it is heard again.
    """

    def __init__(
        self,
        *,
        echo_cancellation: bool = False,
        noise_suppression: bool = False,
        high_pass_filter: bool = False,
        auto_gain_control: bool = False,
    ) -> None:
        library = native_library()
        request = audio.NewApmRequest(
            echo_canceller_enabled=echo_cancellation,
            noise_suppression_enabled=noise_suppression,
            high_pass_filter_enabled=high_pass_filter,
            gain_controller_enabled=auto_gain_control,
        )
        super().__init__(library, library.request(ffi.FfiRequest(new_apm=request)).new_apm.apm.handle.id)

    def process(self, frame: AudioFrame) -> AudioFrame:
        """The frame, cleaned; ValueError if it is not of whole 10 ms."""
        return self._through(frame, reverse=False)

    def process_reverse(self, frame: AudioFrame) -> AudioFrame:
        """Show it sound that is about to be played, so that its echo can be found."""
        return self._through(frame, reverse=True)

    def set_delay(self, seconds: float) -> None:
        """How much later than :meth:`process_reverse` its echo comes to :meth:`process`."""
        request = audio.ApmSetStreamDelayRequest(apm_handle=self._open_handle(), delay_ms=round(1000 * seconds))
        response = self._library.request(ffi.FfiRequest(apm_set_stream_delay=request))
        _check(response.apm_set_stream_delay.error, "delay not set")

    def _through(self, frame: AudioFrame, *, reverse: bool) -> AudioFrame:
        tick = SAMPLE_BYTES * frame.num_channels * (frame.sample_rate // _TICKS_A_SECOND)
        if frame.sample_rate % _TICKS_A_SECOND or len(frame.data) % tick or not frame.data:
            raise ValueError(f"a frame of {frame.samples_per_channel} samples is not of whole 10 ms")
        pieces = [
            self._tick(frame.data[start : start + tick], frame, reverse) for start in range(0, len(frame.data), tick)
        ]
        return AudioFrame(data=b"".join(pieces), sample_rate=frame.sample_rate, num_channels=frame.num_channels)

    def _tick(self, data: bytes, frame: AudioFrame, reverse: bool) -> bytes:
        with self._library.scratch(data) as (address, result):
            if reverse:
                back = audio.ApmProcessReverseStreamRequest(
                    apm_handle=self._open_handle(),
                    data_ptr=address,
                    size=len(data),
                    sample_rate=frame.sample_rate,
                    num_channels=frame.num_channels,
                )
                response = self._library.request(ffi.FfiRequest(apm_process_reverse_stream=back))
                _check(response.apm_process_reverse_stream.error, "sound not processed")
            else:
                request = audio.ApmProcessStreamRequest(
                    apm_handle=self._open_handle(),
                    data_ptr=address,
                    size=len(data),
                    sample_rate=frame.sample_rate,
                    num_channels=frame.num_channels,
                )
                response = self._library.request(ffi.FfiRequest(apm_process_stream=request))
                _check(response.apm_process_stream.error, "sound not processed")
            return result()


class ResamplerQuality(IntEnum):
    """How good, and how costly; SoX's recipes."""

    QUICK = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    VERY_HIGH = 4


class Resampler(_Native):
    """Sound at another rate, piece by piece without seams (SoX).  An :class:`~livekit_agent.rooms.AudioStage`.

    It holds some milliseconds back: :meth:`flush` gives them at the end.
    """

    def __init__(
        self,
        input_rate: int,
        output_rate: int,
        *,
        num_channels: int = 1,
        quality: ResamplerQuality = ResamplerQuality.MEDIUM,
    ) -> None:
        if input_rate <= 0 or output_rate <= 0 or num_channels <= 0:
            raise ValueError(f"no resampler from {input_rate} Hz to {output_rate} Hz with {num_channels} channels")
        self.input_rate, self.output_rate, self.num_channels = input_rate, output_rate, num_channels
        library = native_library()
        request = audio.NewSoxResamplerRequest(
            input_rate=input_rate,
            output_rate=output_rate,
            num_channels=num_channels,
            input_data_type=audio.SOXR_DATATYPE_INT16I,
            output_data_type=audio.SOXR_DATATYPE_INT16I,
            quality_recipe=quality.value,  # pyright: ignore[reportArgumentType] - an enum's number
            flags=0,
        )
        response = library.request(ffi.FfiRequest(new_sox_resampler=request)).new_sox_resampler
        _check(response.error, "no resampler")
        super().__init__(library, response.resampler.handle.id)

    def process(self, frame: AudioFrame) -> AudioFrame | None:
        """The next piece; None if there is not enough for one yet."""
        if (frame.sample_rate, frame.num_channels) != (self.input_rate, self.num_channels):
            raise ValueError(f"{frame!r} does not fit a resampler from {self.input_rate} Hz")
        if not frame.data:
            return None
        with self._library.lend(frame.data) as address:
            push = audio.PushSoxResamplerRequest(
                resampler_handle=self._open_handle(), data_ptr=address, size=len(frame.data)
            )
            response = self._library.request(ffi.FfiRequest(push_sox_resampler=push)).push_sox_resampler
        return self._piece(response.output_ptr, response.size, response.error)

    def flush(self) -> AudioFrame | None:
        """What is held back; nothing may be pushed after it."""
        request = audio.FlushSoxResamplerRequest(resampler_handle=self._open_handle())
        response = self._library.request(ffi.FfiRequest(flush_sox_resampler=request)).flush_sox_resampler
        return self._piece(response.output_ptr, response.size, response.error)

    def _piece(self, address: int, size: int, error: str) -> AudioFrame | None:
        _check(error, "sound not resampled")
        if not address or not size:
            return None
        data = self._library.read(room_pb.BufferInfo(data_ptr=address, data_len=size))
        return AudioFrame(data=data, sample_rate=self.output_rate, num_channels=self.num_channels)


_CHANNELS = {
    VideoFormat.RGBA: "RGBA", VideoFormat.ABGR: "ABGR", VideoFormat.ARGB: "ARGB", VideoFormat.BGRA: "BGRA",
    VideoFormat.RGB24: "RGB",
}  # fmt: skip
"""What the bytes of a pixel are."""

_TO_I420 = frozenset(
    {
        VideoFormat.RGBA, VideoFormat.ARGB, VideoFormat.BGRA, VideoFormat.RGB24,
        VideoFormat.I420, VideoFormat.I420A, VideoFormat.I422, VideoFormat.I444, VideoFormat.NV12,
    }
)  # fmt: skip
"""What the library can convert to I420.  ABGR and I010 as a source abort the process there, with a failed assertion."""


def convert_picture(frame: VideoFrame, format: VideoFormat, *, flip_vertically: bool = False) -> VideoFrame:
    """A picture in another format.

    Between two formats of pixels by moving bytes, which is exact; else by the library's converter, by way of I420.
    Raises :class:`RoomError` for what it cannot do: to I422, I444, NV12, I420A or I010, and from I010.
    """
    if frame.format in _CHANNELS and format in _CHANNELS:
        frame = _reordered(frame, format)
        return _turned_over(frame) if flip_vertically else frame
    if frame.format is format and not flip_vertically:
        return frame
    if frame.format is VideoFormat.ABGR:
        frame = _reordered(frame, VideoFormat.RGBA)
    if frame.format not in _TO_I420 or not (format in _CHANNELS or format is VideoFormat.I420):
        raise RoomError(
            f"{frame.format.name} cannot be converted to {format.name}", hint="I420 and RGBA are always possible"
        )
    if frame.format is not VideoFormat.I420 or flip_vertically:
        frame = _by_library(frame, VideoFormat.I420, flip_vertically)
    return frame if format is VideoFormat.I420 else _by_library(frame, format, False)


def _reordered(frame: VideoFrame, format: VideoFormat) -> VideoFrame:
    before, after = _CHANNELS[frame.format], _CHANNELS[format]
    if before == after:
        return frame
    data = bytearray(b"\xff") * (frame.width * frame.height * len(after))
    for place, channel in enumerate(after):
        if channel in before:
            data[place :: len(after)] = frame.data[before.index(channel) :: len(before)]
    return replace(frame, data=bytes(data), format=format)


def _turned_over(frame: VideoFrame) -> VideoFrame:
    size = frame.width * len(_CHANNELS[frame.format])
    rows = [frame.data[start : start + size] for start in range(0, len(frame.data), size)]
    return replace(frame, data=b"".join(reversed(rows)))


def _by_library(frame: VideoFrame, format: VideoFormat, flip: bool) -> VideoFrame:
    library = native_library()
    with library.lend(frame.data) as address:
        request = video.VideoConvertRequest(
            flip_y=flip,
            buffer=picture_buffer(frame, address),
            dst_type=format.value,  # pyright: ignore[reportArgumentType] - an enum's number
        )
        response = library.request(ffi.FfiRequest(video_convert=request)).video_convert
    _check(response.error, f"{frame.format.name} not converted to {format.name}")
    info = response.buffer.info
    try:
        data = _packed(library, info, format)
    finally:
        library.drop(response.buffer.handle.id)
    return replace(frame, data=data, format=format)


def _packed(library: NativeMemory, info: video.VideoBufferInfo, format: VideoFormat) -> bytes:
    """The library's planes, one behind the other and without padding."""
    planes = planes_of(format, info.width, info.height)
    sources = [(part.data_ptr, part.stride) for part in info.components] or [(info.data_ptr, info.stride)]
    parts: list[bytes] = []
    for plane, (address, stride) in zip(planes, sources, strict=True):
        stride = stride or plane.stride
        if stride == plane.stride:
            parts.append(library.read(room_pb.BufferInfo(data_ptr=address, data_len=plane.size)))
        else:
            rows = (address + row * stride for row in range(plane.height))
            parts += [library.read(room_pb.BufferInfo(data_ptr=row, data_len=plane.stride)) for row in rows]
    return b"".join(parts)


def load_audio_filter(module_id: str, path: str, *, dependencies: Sequence[str] = ()) -> None:
    """Load a plugin that filters sound inside the library; ``AudioFilter(module_id)`` then names it for a stream.

    Once per process.  Native rooms only.  Raises :class:`RoomError` when it cannot be loaded.
    """
    request = audio.LoadAudioFilterPluginRequest(plugin_path=path, dependencies=list(dependencies), module_id=module_id)
    response = native_library().request(ffi.FfiRequest(load_audio_filter_plugin=request))
    _check(response.load_audio_filter_plugin.error, f"audio filter {module_id!r} not loaded")


def _check(error: str, what: str) -> None:
    if error:
        raise RoomError(f"{what}: {printable(error)}")
