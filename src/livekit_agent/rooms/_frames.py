"""Frames of audio and video: plain values that own a copy of their bytes.

A frame's memory is Python's: it was copied out of the native library once, and the numpy views on it are read-only
because others may hold the same frame.  numpy is imported when a view is first asked for, not before.
"""

# numpy's stubs leave parts of its overloads unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import IntEnum
from operator import mul
from typing import TYPE_CHECKING, Any, NamedTuple

from .._bounds import PICTURE_SIDE_MAX, SENT_PICTURE_SIDE_MIN

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Samples = NDArray[np.int16]
    #: What is taken for samples: those, or floats from -1 to 1.
    SamplesGiven = NDArray[np.int16] | NDArray[np.floating[Any]]
    Pixels = NDArray[np.uint8]

__all__ = [
    "AudioFrame",
    "FrameMetadata",
    "Plane",
    "VideoFormat",
    "VideoFrame",
    "VideoRotation",
    "check_picture",
    "check_sent_picture",
    "planes_of",
]

SAMPLE_BYTES = 2

SAMPLE_RATES = range(8_000, 192_001)
"""Hz, of what is published, subscribed to, captured from a microphone and played by a speaker."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AudioFrame:
    """Sound of all channels for a moment: signed 16 bit, interleaved, in the machine's byte order."""

    data: bytes = field(repr=False)
    sample_rate: int
    num_channels: int = 1

    def __post_init__(self) -> None:
        if self.sample_rate <= 0 or self.num_channels <= 0 or len(self.data) % (SAMPLE_BYTES * self.num_channels):
            raise ValueError(
                f"{len(self.data)} bytes are no frame of {self.sample_rate} Hz and {self.num_channels} channels"
            )

    @property
    def samples_per_channel(self) -> int:
        """How many samples each channel has."""
        return len(self.data) // (SAMPLE_BYTES * self.num_channels)

    @property
    def duration(self) -> float:
        """Seconds."""
        return self.samples_per_channel / self.sample_rate

    @property
    def level(self) -> float:
        """How loud it is: root mean square of all samples, full scale 1.  Computed anew each time, without numpy."""
        samples = memoryview(self.data).cast("h")
        return math.sqrt(sum(map(mul, samples, samples)) / len(samples)) / 32_768 if len(samples) else 0.0

    @property
    def samples(self) -> Samples:
        """A read-only view of shape ``(samples_per_channel, num_channels)``; no copy."""
        import numpy as np

        return np.frombuffer(self.data, np.int16).reshape(-1, self.num_channels)


class VideoFormat(IntEnum):
    """How the pixels of a frame lie in memory; the library's numbers."""

    RGBA = 0  #: Bytes R, G, B, A for each pixel.
    ABGR = 1  #: Bytes A, B, G, R.
    ARGB = 2  #: Bytes A, R, G, B.
    BGRA = 3  #: Bytes B, G, R, A.
    RGB24 = 4  #: Bytes R, G, B.
    I420 = 5  #: Planes Y, U, V; U and V at half width and height.  What the codecs use: the cheapest.
    I420A = 6  #: As I420, and a plane A.
    I422 = 7  #: Planes Y, U, V; U and V at half width.
    I444 = 8  #: Planes Y, U, V, all of full size.
    I010 = 9  #: As I420, with two bytes a sample.  The library can neither send nor give it.
    NV12 = 10  #: A plane Y and one of U, V pairs at half width and height.


class VideoRotation(IntEnum):
    """How far the picture must be turned clockwise before it is shown; the library's numbers."""

    NONE = 0  #: Not at all.
    CLOCKWISE_90 = 1  #: A quarter.
    CLOCKWISE_180 = 2  #: Upside down.
    CLOCKWISE_270 = 3  #: Three quarters.


PIXEL_BYTES = {
    VideoFormat.RGBA: 4, VideoFormat.ABGR: 4, VideoFormat.ARGB: 4, VideoFormat.BGRA: 4, VideoFormat.RGB24: 3
}  # fmt: skip
"""Formats with one plane of whole pixels."""

GIVEN = frozenset([*PIXEL_BYTES, VideoFormat.I420])
"""Formats in which a stream gives pictures."""


class Plane(NamedTuple):
    """One plane's place in a frame's bytes."""

    #: Where it begins.
    offset: int
    #: Bytes in a row.
    stride: int
    #: Rows.
    height: int

    @property
    def size(self) -> int:
        """Bytes."""
        return self.stride * self.height


def planes_of(format: VideoFormat, width: int, height: int) -> tuple[Plane, ...]:
    """The planes of a picture, one behind the other and without padding."""
    half_width, half_height = (width + 1) // 2, (height + 1) // 2
    if format in PIXEL_BYTES:
        shapes = [(width * PIXEL_BYTES[format], height)]
    elif format is VideoFormat.I422:
        shapes = [(width, height), (half_width, height), (half_width, height)]
    elif format is VideoFormat.I444:
        shapes = [(width, height)] * 3
    elif format is VideoFormat.NV12:
        shapes = [(width, height), (2 * half_width, half_height)]
    elif format is VideoFormat.I010:
        shapes = [(2 * width, height), (2 * half_width, half_height), (2 * half_width, half_height)]
    else:
        shapes = [(width, height), (half_width, half_height), (half_width, half_height)]
        if format is VideoFormat.I420A:
            shapes.append((width, height))
    planes: list[Plane] = []
    offset = 0
    for stride, rows in shapes:
        planes.append(Plane(offset, stride, rows))
        offset += stride * rows
    return tuple(planes)


def check_picture(width: int, height: int) -> None:
    """Raise :class:`ValueError` for a size that no picture has.

    In Python, before the native library sees it: a width of 0 makes it abort the process.
    """
    if not (0 < width <= PICTURE_SIDE_MAX and 0 < height <= PICTURE_SIDE_MAX):
        raise ValueError(f"a picture of {width} x {height}; each side must be 1 to {PICTURE_SIDE_MAX} pixels")


def check_sent_picture(width: int, height: int) -> None:
    """As :func:`check_picture`, for a picture that the library is to send.

    Its encoders make pictures of a half and a quarter of each side, also without simulcast, and abort the process when
    that is 0.
    """
    check_picture(width, height)
    if width < SENT_PICTURE_SIDE_MIN or height < SENT_PICTURE_SIDE_MIN:
        raise ValueError(
            f"a picture of {width} x {height} cannot be sent; each side must be {SENT_PICTURE_SIDE_MIN} pixels or more"
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameMetadata:
    """What an application sends along with a picture (see ``VideoOptions.frame_metadata``)."""

    user_timestamp: int | None = None
    """A time of the application's, 0 to 2**64 - 1."""
    frame_id: int | None = None
    """A number, 0 to 2**32 - 1."""
    user_data: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name, value, bits in (("user_timestamp", self.user_timestamp, 64), ("frame_id", self.frame_id, 32)):
            if value is not None and not 0 <= value < 2**bits:
                raise ValueError(f"{name} {value} does not fit {bits} bits")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class VideoFrame:
    """A picture.  Cannot be built with bytes that do not fit its size and format."""

    data: bytes = field(repr=False)
    width: int
    height: int
    format: VideoFormat = VideoFormat.RGBA
    timestamp_us: int = 0
    """When it was captured, microseconds of the capturer's clock; 0 when given to a source: now."""
    rotation: VideoRotation = VideoRotation.NONE
    metadata: FrameMetadata | None = None

    def __post_init__(self) -> None:
        check_picture(self.width, self.height)
        size = sum(plane.size for plane in planes_of(self.format, self.width, self.height))
        if len(self.data) != size:
            raise ValueError(
                f"{len(self.data)} bytes are no picture of {self.width} x {self.height} in {self.format.name}, "
                f"which takes {size}"
            )

    @classmethod
    def of(cls, pixels: Any, format: VideoFormat = VideoFormat.RGBA) -> VideoFrame:
        """From an array of shape ``(height, width, bytes per pixel)`` and type ``uint8``."""
        height, width = pixels.shape[:2]
        return cls(data=pixels.tobytes(), width=int(width), height=int(height), format=format)

    def converted(self, format: VideoFormat, *, flip_vertically: bool = False) -> VideoFrame:
        """The picture in another format: pixels of another order, or from and to I420.

        Raises :class:`RoomError` for what cannot be done: to I422, I444, NV12, I420A or I010, and from I010.  The
        native library is loaded for it where bytes cannot just be moved.
        """
        from ._processing import convert_picture

        return convert_picture(self, format, flip_vertically=flip_vertically)

    @property
    def planes(self) -> tuple[Pixels, ...]:
        """Read-only views of the planes, each of shape ``(rows, bytes in a row)``; no copy."""
        import numpy as np

        return tuple(
            np.frombuffer(self.data, np.uint8, plane.size, plane.offset).reshape(plane.height, plane.stride)
            for plane in planes_of(self.format, self.width, self.height)
        )

    @property
    def pixels(self) -> Pixels:
        """A read-only view of shape ``(height, width, bytes per pixel)``, for the formats that have pixels."""
        size = PIXEL_BYTES.get(self.format)
        if size is None:
            raise ValueError(f"{self.format.name} has planes, not pixels; ask for RGBA")
        return self.planes[0].reshape(self.height, self.width, size)
