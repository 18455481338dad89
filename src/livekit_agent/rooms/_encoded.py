"""Video that is compressed already: a camera's H.264, a file's VP8.

The library packs the frames and sends them; it neither decodes nor paces.  What the receivers' links can carry comes
back as feedback, which an encoder should follow: a new key frame when somebody joins or has lost one, and a bitrate.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .._errors import RoomError
from ._frames import FrameMetadata, check_picture
from ._link import Link
from ._proto import ffi, video
from ._publish_options import VideoCodec, VideoEncoder, VideoOptions
from ._sources import Source
from ._video import wire_metadata

if TYPE_CHECKING:
    from ._transport import Transport

__all__ = ["EncodedVideoFeedback", "EncodedVideoFrame", "EncodedVideoSource"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedVideoFrame:
    """One whole compressed picture, without container: of H.264 and H.265 an access unit with start codes."""

    data: bytes = field(repr=False)
    width: int
    height: int
    key: bool
    """Whether it can be decoded without those before it."""
    timestamp_us: int
    """When it was captured; rises from frame to frame."""
    metadata: FrameMetadata | None = None

    def __post_init__(self) -> None:
        check_picture(self.width, self.height)
        if not self.data:
            raise ValueError("a compressed picture of no bytes")


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedVideoFeedback:
    """What the receivers need."""

    key_frame_requested: bool = False
    """Somebody cannot go on without a key frame.  Told once."""
    target_bitrate: int | None = None
    """Bits a second; None: nothing new."""
    target_framerate: float | None = None
    """Frames a second; None: nothing new."""


class EncodedVideoSource(Source):
    """Where compressed pictures come from; publish it with :attr:`options`.

    The codec is the publication's and stays.  One producer.
    """

    def __init__(self, width: int, height: int, *, codec: VideoCodec) -> None:
        check_picture(width, height)
        super().__init__()
        self.width, self.height, self.codec = width, height, codec

    @property
    def options(self) -> VideoOptions:
        """How it must be published: one size, and no encoder."""
        return VideoOptions(codec=self.codec, simulcast=False, encoder=VideoEncoder.PRE_ENCODED)

    def _open(self, link: Link) -> ffi.FfiResponse:
        request = video.NewVideoSourceRequest(
            type=video.VIDEO_SOURCE_ENCODED,
            resolution=video.VideoSourceResolution(width=self.width, height=self.height),
        )
        return link.request(ffi.FfiRequest(new_video_source=request))

    def capture_frame(self, frame: EncodedVideoFrame) -> bool:
        """Send a picture.  False: the library did not take it, as nobody is ready for it.

        Does not wait and does not pace.  Raises :class:`RoomError` when the source is not published.
        """
        transport = self._published()
        with transport.lend(frame.data) as address:
            request = video.CaptureEncodedVideoFrameRequest(
                source_handle=self._handle,
                buffer=video.EncodedVideoBufferInfo(data_ptr=address, data_len=len(frame.data)),
                codec=self.codec.value,  # pyright: ignore[reportArgumentType] - an enum's number
                frame_type=video.ENCODED_FRAME_KEY if frame.key else video.ENCODED_FRAME_DELTA,
                width=frame.width,
                height=frame.height,
                timestamp_us=frame.timestamp_us,
                metadata=None if frame.metadata is None else wire_metadata(frame.metadata),
            )
            response = transport.request(ffi.FfiRequest(capture_encoded_video_frame=request))
        return response.capture_encoded_video_frame.accepted

    def take_feedback(self) -> EncodedVideoFeedback:
        """What the receivers have asked for since the last call.  Ask with every frame."""
        request = video.TakeEncodedVideoSourceFeedbackRequest(source_handle=self._handle)
        response = self._published().request(ffi.FfiRequest(take_encoded_video_source_feedback=request))
        told = response.take_encoded_video_source_feedback
        if not told.HasField("rate_control"):
            return EncodedVideoFeedback(key_frame_requested=told.keyframe_requested)
        return EncodedVideoFeedback(
            key_frame_requested=told.keyframe_requested,
            target_bitrate=told.rate_control.target_bitrate_bps,
            target_framerate=told.rate_control.framerate_fps,
        )

    def _published(self) -> Transport:
        if self._transport is None:
            raise RoomError("the video source is not published", hint="await local_participant.publish_video(source)")
        return self._transport
