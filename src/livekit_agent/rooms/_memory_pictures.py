"""Pictures in rooms in memory: other formats, the sizes of simulcast, and which of them somebody gets.

What a real connection compresses and a real server chooses, as exact arithmetic.
"""

# numpy's stubs leave parts of its overloads unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from dataclasses import replace
from typing import Any

from .._errors import RoomError
from ._enums import FrameMetadataKind, VideoQuality
from ._frames import FrameMetadata, VideoFormat, VideoFrame
from ._ledger_events import TrackRecord

__all__ = ["as_sent", "layers_of", "repainted"]

_SHORT_SIDES = (180, 360)


def layers_of(width: int, height: int) -> list[tuple[int, int]]:
    """The sizes in which the library sends a video that is simulcast, the smallest first."""
    long_side, short_side = max(width, height), min(width, height)
    smaller = _SHORT_SIDES if long_side >= 960 else _SHORT_SIDES[:1] if long_side >= 480 else ()
    return [
        *((round(width * side / short_side), round(height * side / short_side)) for side in smaller),
        (width, height),
    ]


def as_sent(
    frame: VideoFrame, track: TrackRecord, quality: VideoQuality | None, dimensions: tuple[int, int] | None
) -> VideoFrame:
    """A picture as somebody gets it who asked for that quality, or for a size of at least those dimensions."""
    frame = replace(frame, metadata=_carried(frame.metadata, track.frame_metadata))
    if not track.simulcasted:
        return frame
    layers = layers_of(frame.width, frame.height)
    chosen = layers[-1]
    if quality is not None:
        chosen = layers[min(quality, len(layers) - 1)]
    elif dimensions is not None:
        enough = [size for size in layers if size[0] >= dimensions[0] and size[1] >= dimensions[1]]
        chosen = enough[0] if enough else layers[-1]
    return frame if chosen == (frame.width, frame.height) else _resized(frame, *chosen)


def _carried(metadata: FrameMetadata | None, kinds: tuple[int, ...]) -> FrameMetadata | None:
    """What of the metadata is sent: what was announced."""
    if metadata is None:
        return None
    sent = FrameMetadata(
        user_timestamp=metadata.user_timestamp if FrameMetadataKind.USER_TIMESTAMP in kinds else None,
        frame_id=metadata.frame_id if FrameMetadataKind.FRAME_ID in kinds else None,
        user_data=metadata.user_data if FrameMetadataKind.USER_DATA in kinds else None,
    )
    return None if sent == FrameMetadata() else sent


def _resized(frame: VideoFrame, width: int, height: int) -> VideoFrame:
    """In another size, each pixel the nearest one; RGBA."""
    import numpy as np

    pixels = repainted(frame, VideoFormat.RGBA).pixels
    rows = np.arange(height) * frame.height // height
    columns = np.arange(width) * frame.width // width
    data = pixels[rows][:, columns].tobytes()
    return replace(frame, data=data, width=width, height=height, format=VideoFormat.RGBA)


_ORDER = {
    VideoFormat.RGBA: (0, 1, 2, 3), VideoFormat.ABGR: (3, 2, 1, 0), VideoFormat.ARGB: (1, 2, 3, 0),
    VideoFormat.BGRA: (2, 1, 0, 3), VideoFormat.RGB24: (0, 1, 2),
}  # fmt: skip
"""Where red, green, blue and alpha are in a pixel."""


def repainted(frame: VideoFrame, format: VideoFormat) -> VideoFrame:
    """A frame in another format, of those with pixels or I420 (BT.601, limited range)."""
    import numpy as np

    if frame.format is format:
        return frame
    rgb = frame.pixels[:, :, _ORDER[frame.format][:3]] if frame.format in _ORDER else _rgb_of(frame)
    if format in _ORDER:
        order = _ORDER[format]
        pixels = np.full((frame.height, frame.width, len(order)), 255, np.uint8)
        for channel in range(3):
            pixels[:, :, order[channel]] = rgb[:, :, channel]
        data = pixels.tobytes()
    elif format is VideoFormat.I420:
        data = _i420_of(rgb)
    else:
        raise RoomError(f"rooms in memory do not convert to {format.name}", hint="use RGBA or I420")
    return replace(frame, data=data, format=format)


def _samples_of(frame: VideoFrame) -> tuple[Any, Any, Any]:
    """Brightness and the two colours, each as large as its plane."""
    planes: Any = frame.planes
    if frame.format is VideoFormat.NV12:
        return planes[0], planes[1][:, ::2], planes[1][:, 1::2]
    return planes[0], planes[1], planes[2]


def _rgb_of(frame: VideoFrame) -> Any:
    import numpy as np

    y, u, v = (plane.astype(np.float32) for plane in _samples_of(frame))
    rows, columns = (-(-size // part) for size, part in zip(y.shape, u.shape, strict=True))
    size = slice(frame.height), slice(frame.width)
    u, v = (plane.repeat(rows, axis=0).repeat(columns, axis=1)[size] - 128 for plane in (u, v))
    y = 1.164 * (y - 16)
    rgb = np.stack([y + 1.596 * v, y - 0.392 * u - 0.813 * v, y + 2.017 * u], axis=2)
    return np.clip(np.rint(rgb), 0, 255).astype(np.uint8)


def _i420_of(rgb: Any) -> bytes:
    import numpy as np

    red, green, blue = (rgb[:, :, channel].astype(np.float32) for channel in range(3))
    y = 16 + 0.257 * red + 0.504 * green + 0.098 * blue
    # Every second pixel's colour, of every second row: exact for areas, good enough for edges.
    u = (128 - 0.148 * red - 0.291 * green + 0.439 * blue)[::2, ::2]
    v = (128 + 0.439 * red - 0.368 * green - 0.071 * blue)[::2, ::2]
    return b"".join(np.clip(np.rint(plane), 0, 255).astype(np.uint8).tobytes() for plane in (y, u, v))
