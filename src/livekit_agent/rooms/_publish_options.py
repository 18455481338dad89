"""How a track of ours is sent: what the library can be told when it is published.

Checked here, when the value is built: what the library does not like makes it fail with an error that says nothing, or
is ignored.  None everywhere means: as the library chooses.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from ._enums import FrameMetadataKind
from ._proto import room as room_pb

__all__ = ["AudioOptions", "DegradationPreference", "VideoCodec", "VideoEncoder", "VideoOptions"]

_SCALABILITY = re.compile(r"(L[1-3]T[1-3](_KEY|_KEY_SHIFT)?|L[1-3]T[1-3]h(_KEY)?|S[1-3]T[1-3]h?)")


class VideoCodec(IntEnum):
    """How video is compressed; the library's numbers."""

    VP8 = 0  #: Understood by everybody.
    H264 = 1  #: Hardware encoders and telephones.
    AV1 = 2  #: Best quality for its bits, costly to encode.
    VP9 = 3  #: Between VP8 and AV1.
    H265 = 4  #: Apple's devices.  A server that has not enabled it takes VP8 instead.


class VideoEncoder(IntEnum):
    """What compresses video; the library's numbers.  One that is not there falls back to software."""

    AUTO = 0
    SOFTWARE = 1
    HARDWARE = 2
    NVENC = 3
    VAAPI = 4
    VIDEOTOOLBOX = 5
    PRE_ENCODED = 6
    """Nothing: the source gives compressed frames (:class:`EncodedVideoSource`)."""


class DegradationPreference(IntEnum):
    """What gives way where the link or the processor cannot keep up; the library's numbers."""

    BALANCED = 0
    MAINTAIN_FRAMERATE = 1  #: Smaller pictures: movement matters.
    MAINTAIN_RESOLUTION = 2  #: Fewer pictures: text matters.
    MAINTAIN_FRAMERATE_AND_RESOLUTION = 4  #: Coarser pictures.


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioOptions:
    """How an audio track is sent.  None: as the library chooses."""

    max_bitrate: int | None = None
    """Bits a second; for speech 20,000 to 32,000, for music 48,000 and more."""
    dtx: bool | None = None
    """Send hardly anything while it is silent.  The library does by default."""
    red: bool | None = None
    """Send each packet twice, against loss.  The library does by default."""
    stream: str | None = None
    """Tracks with the same name of a stream are played in step by receivers; by default those of one camera."""
    preconnect_buffer: bool = False
    """Announce that what was said before is sent as well (:meth:`LocalParticipant.send_preconnect_audio`)."""

    def __post_init__(self) -> None:
        if self.max_bitrate is not None and self.max_bitrate <= 0:
            raise ValueError(f"no audio of {self.max_bitrate} bit/s")

    def write(self, options: room_pb.TrackPublishOptions) -> None:
        """Put them into the library's message."""
        if self.max_bitrate is not None:
            options.audio_encoding.max_bitrate = self.max_bitrate
        if self.dtx is not None:
            options.dtx = self.dtx
        if self.red is not None:
            options.red = self.red
        if self.stream is not None:
            options.stream = self.stream
        if self.preconnect_buffer:
            options.preconnect_buffer = True


@dataclass(frozen=True, slots=True, kw_only=True)
class VideoOptions:
    """How a video track is sent.  None: as the library chooses."""

    codec: VideoCodec | None = None
    simulcast: bool | None = None
    """Send several sizes at once, so that each receiver gets one that its link can carry.  The library does by
    default, where the longer side is 480 pixels or more."""
    max_bitrate: int | None = None
    """Bits a second.  Needs ``max_framerate``."""
    max_framerate: float | None = None
    """Frames a second.  Needs ``max_bitrate``."""
    stream: str | None = None
    """Tracks with the same name of a stream are played in step by receivers."""
    frame_metadata: Sequence[FrameMetadataKind] = ()
    """What of :attr:`VideoFrame.metadata` is sent along; receivers are told."""
    scalability_mode: str | None = None
    """Layers within one VP9 or AV1 stream, as WebRTC names them: ``L3T3_KEY``, ``L1T2``."""
    encoder: VideoEncoder | None = None
    degradation: DegradationPreference | None = None

    def __post_init__(self) -> None:
        if (self.max_bitrate is None) != (self.max_framerate is None):
            raise ValueError("the library takes a bitrate and a frame rate together, or neither")
        if self.max_bitrate is not None and (self.max_bitrate <= 0 or not (self.max_framerate or 0) > 0):
            raise ValueError(f"no video of {self.max_bitrate} bit/s and {self.max_framerate} frames/s")
        if self.scalability_mode is not None:
            if not _SCALABILITY.fullmatch(self.scalability_mode):
                raise ValueError(f"{self.scalability_mode!r} is no scalability mode such as L3T3_KEY")
            if self.codec not in (VideoCodec.VP9, VideoCodec.AV1):
                raise ValueError("only VP9 and AV1 have scalability modes")
        object.__setattr__(self, "frame_metadata", tuple(dict.fromkeys(self.frame_metadata)))

    def write(self, options: room_pb.TrackPublishOptions) -> None:
        """Put them into the library's message."""
        if self.codec is not None:
            options.video_codec = self.codec.value  # pyright: ignore[reportAttributeAccessIssue] - an enum's number
        if self.simulcast is not None:
            options.simulcast = self.simulcast
        if self.max_bitrate is not None and self.max_framerate is not None:
            options.video_encoding.max_bitrate = self.max_bitrate
            options.video_encoding.max_framerate = self.max_framerate
        if self.stream is not None:
            options.stream = self.stream
        for kind in self.frame_metadata:
            options.frame_metadata_features.append(kind.value)  # pyright: ignore[reportArgumentType] - a number
        if self.scalability_mode is not None:
            options.scalability_mode = self.scalability_mode
        if self.encoder is not None:
            options.video_encoder = self.encoder.value  # pyright: ignore[reportAttributeAccessIssue] - a number
        if self.degradation is not None:
            options.degradation_preference = self.degradation.value  # pyright: ignore[reportAttributeAccessIssue]
