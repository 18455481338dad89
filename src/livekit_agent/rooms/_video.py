"""Pictures, out and in: the source that feeds a video track of ours, and the frames of somebody else's."""

from __future__ import annotations

from .._bounds import VIDEO_STREAM_FRAMES
from .._errors import RoomError
from ._frames import (
    GIVEN,
    PIXEL_BYTES,
    FrameMetadata,
    VideoFormat,
    VideoFrame,
    VideoRotation,
    check_sent_picture,
    planes_of,
)
from ._link import Link
from ._media_stream import MediaQueue, MediaStream
from ._proto import ffi, video
from ._proto import room as room_pb
from ._sources import Source
from ._transport import Transport

__all__ = ["VideoSource", "metadata_of", "open_video", "picture_buffer", "wire_metadata"]


class VideoSource(Source):
    """Where a video track's pictures come from.

    Make it anywhere, publish it (:meth:`LocalParticipant.publish_video`), then feed it.  ``width`` and ``height`` are
    what receivers are told at first; frames may have other sizes, of 4 pixels a side or more.  ``screencast`` keeps
    text sharp: fewer frames rather than smaller ones.
    """

    def __init__(self, width: int, height: int, *, screencast: bool = False) -> None:
        check_sent_picture(width, height)
        super().__init__()
        self.width = width
        self.height = height
        self.screencast = screencast

    def _open(self, link: Link) -> ffi.FfiResponse:
        request = video.NewVideoSourceRequest(
            type=video.VIDEO_SOURCE_NATIVE,
            resolution=video.VideoSourceResolution(width=self.width, height=self.height),
            is_screencast=self.screencast,
        )
        return link.request(ffi.FfiRequest(new_video_source=request))

    def capture_frame(self, frame: VideoFrame) -> None:
        """Send a picture.

        Does not wait, so it does not pace: send frames as often as they should be seen.  The encoder leaves out what
        it cannot keep up with.  ``frame.metadata`` travels as far as ``VideoOptions.frame_metadata`` said.

        Raises :class:`RoomError` when the source is not published, and :class:`ValueError` for a picture with a side of
        less than 4 pixels, over which the library would end the process, and for one in I010, of which it would send
        the upper half.
        """
        check_sent_picture(frame.width, frame.height)
        if frame.format is VideoFormat.I010:
            raise ValueError("the library sends no pictures in I010; send I420")
        transport = self._transport
        if transport is None:
            raise RoomError("the video source is not published", hint="await local_participant.publish_video(source)")
        with transport.lend(frame.data) as address:
            request = video.CaptureVideoFrameRequest(
                source_handle=self._handle,
                buffer=picture_buffer(frame, address),
                timestamp_us=frame.timestamp_us,
                rotation=frame.rotation.value,  # pyright: ignore[reportArgumentType] - an enum's number
                metadata=None if frame.metadata is None else wire_metadata(frame.metadata),
            )
            transport.request(ffi.FfiRequest(capture_video_frame=request))


def picture_buffer(frame: VideoFrame, address: int) -> video.VideoBufferInfo:
    """A picture at that address, for the library."""
    info = video.VideoBufferInfo(
        type=frame.format.value,  # pyright: ignore[reportArgumentType] - an enum's number
        width=frame.width,
        height=frame.height,
        data_ptr=address,
        stride=frame.width * PIXEL_BYTES.get(frame.format, 0),
    )
    if frame.format not in PIXEL_BYTES:
        for plane in planes_of(frame.format, frame.width, frame.height):
            info.components.add(data_ptr=address + plane.offset, stride=plane.stride, size=plane.size)
    return info


def open_video(
    link: Link, track_handle: int, *, format: VideoFormat, capacity: int = VIDEO_STREAM_FRAMES
) -> MediaStream[VideoFrame]:
    """The frames of a track from now on (see :meth:`RemoteTrack.video_frames`)."""
    if capacity < 1:
        raise ValueError(f"no frames can wait in a queue of {capacity}")
    if format not in GIVEN:
        # The library would take it, and never give a picture.
        raise ValueError(f"no stream gives pictures in {format.name}; ask for I420, or a format with pixels")
    request = video.NewVideoStreamRequest(
        track_handle=track_handle,
        type=video.VIDEO_STREAM_NATIVE,
        format=format.value,  # pyright: ignore[reportArgumentType] - an enum's number
        normalize_stride=True,
    )
    queue = MediaQueue(link, capacity, _read_frame)
    queue.open(ffi.FfiRequest(new_video_stream=request))
    return MediaStream(queue)


def _read_frame(transport: Transport, event: ffi.FfiEvent) -> VideoFrame | None:
    """A frame, copied out of the library's memory, which is given back; None at the end of the stream."""
    message = event.video_stream_event
    if not message.HasField("frame_received"):
        return None
    received = message.frame_received
    info = received.buffer.info
    format = VideoFormat(info.type)
    # normalize_stride was asked for: the planes lie one behind the other, without padding.
    size = sum(plane.size for plane in planes_of(format, info.width, info.height))
    data = transport.read(room_pb.BufferInfo(data_ptr=info.data_ptr, data_len=size))
    transport.drop(received.buffer.handle.id)
    return VideoFrame(
        data=data,
        width=info.width,
        height=info.height,
        format=format,
        timestamp_us=received.timestamp_us,
        rotation=VideoRotation(received.rotation),
        metadata=metadata_of(received.metadata) if received.HasField("metadata") else None,
    )


def wire_metadata(metadata: FrameMetadata) -> video.FrameMetadata:
    """As the library's message."""
    return video.FrameMetadata(
        user_timestamp=metadata.user_timestamp, frame_id=metadata.frame_id, user_data=metadata.user_data
    )


def metadata_of(message: video.FrameMetadata) -> FrameMetadata:
    """From the library's message."""
    return FrameMetadata(
        user_timestamp=message.user_timestamp if message.HasField("user_timestamp") else None,
        frame_id=message.frame_id if message.HasField("frame_id") else None,
        user_data=message.user_data if message.HasField("user_data") else None,
    )
