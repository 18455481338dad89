"""Rooms in memory: the requests about sound and pictures of one connection, and what is sent to its consumers.

What flows between connections, and when, is the hub's (``_memory_hub``).
"""

# numpy's stubs leave parts of its overloads unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from .._bounds import AUDIO_FRAME_MS_MAX
from .._errors import RoomError
from ._enums import AudioFeature, VideoQuality
from ._frames import GIVEN, PIXEL_BYTES, SAMPLE_BYTES, VideoFormat, VideoFrame, VideoRotation
from ._memory_hub import (
    TICKS_A_SECOND,
    AudioSourceState,
    AudioStreamState,
    LocalMedia,
    MediaStreamState,
    VideoSourceState,
    VideoStreamState,
)
from ._memory_pictures import layers_of, repainted
from ._proto import audio, ffi, handle, video
from ._proto import room as room_pb
from ._proto import track as track_pb
from ._publish_options import VideoCodec
from ._video import metadata_of, wire_metadata
from ._wire import callback, describe_new_track

if TYPE_CHECKING:
    from ._memory import MemoryRooms

__all__ = ["MemoryMedia", "published_media"]


class MemoryMedia:
    """The requests about media of one connection (a part of :class:`MemoryTransport`)."""

    sid: str
    _rooms: MemoryRooms
    _lent: dict[int, bytes]
    _objects: dict[int, object]
    _mailbox: Any
    hears: Callable[[str], bool]
    is_enabled: Callable[[str], bool]
    wanted_size: Callable[[str], tuple[VideoQuality | None, tuple[int, int] | None]]
    _give: Callable[[object], handle.FfiOwnedHandle]
    _object: Callable[[int, type[Any]], Any]
    _answer: Callable[[ffi.FfiEvent], None]

    @property
    def rooms(self) -> MemoryRooms:
        """The rooms that this connection is to."""
        return self._rooms

    def dropped_media(self, value: object) -> None:
        """A handle was given back: streams of it end, and say so."""
        if isinstance(value, LocalMedia):
            over = [stream for stream in self._streams_here() if stream.media is value]
        else:
            over = [value] if isinstance(value, MediaStreamState) else []
            for stream in over:
                self._rooms.media.tell("closed", self.sid, stream.handle)
        for stream in over:
            self._rooms.media.close(stream)
            ended, stream.over = stream.handle, True
            if isinstance(stream, AudioStreamState):
                end = audio.AudioStreamEvent(stream_handle=ended, eos=audio.AudioStreamEOS())
                self._mailbox.put(ffi.FfiEvent(audio_stream_event=end))
            else:
                over_video = video.VideoStreamEvent(stream_handle=ended, eos=video.VideoStreamEOS())
                self._mailbox.put(ffi.FfiEvent(video_stream_event=over_video))

    def _streams_here(self) -> list[MediaStreamState]:
        return [value for value in self._objects.values() if isinstance(value, MediaStreamState)]

    def tell_feedback(self, source: int) -> None:
        """There is feedback for a video source (replaced where the participant is in another process)."""

    # --- out ------------------------------------------------------------------------------------------------------

    def _do_new_audio_source(self, request: audio.NewAudioSourceRequest) -> ffi.FfiResponse:
        response = ffi.FfiResponse()
        owned = response.new_audio_source.source
        owned.handle.CopyFrom(self._give(AudioSourceState(request)))
        owned.info.type = request.type
        return response

    def _do_capture_audio_frame(self, request: audio.CaptureAudioFrameRequest) -> ffi.FfiResponse:
        source: AudioSourceState = self._object(request.source_handle, AudioSourceState)
        frame = request.buffer
        async_id = request.request_async_id
        refusal = source.refusal(frame)
        if refusal:
            self._answer(callback("capture_audio_frame", async_id, refusal))
        else:
            size = SAMPLE_BYTES * frame.num_channels * frame.samples_per_channel
            source.packets += -(-frame.samples_per_channel * TICKS_A_SECOND // frame.sample_rate)
            source.octets += size
            self._rooms.media.play(source, self._lent[frame.data_ptr][:size])
            now = self._rooms.now()
            source.plays_until = max(now, source.plays_until) + frame.samples_per_channel / frame.sample_rate
            wait = source.plays_until - now - source.queue_s
            if source.queue_s == 0 or wait <= 0:
                self._answer(callback("capture_audio_frame", async_id))
            else:
                source.full = True
                self._rooms.clock.later(wait, lambda: self._taken(source, async_id))
        return ffi.FfiResponse(capture_audio_frame=audio.CaptureAudioFrameResponse(async_id=async_id))

    def _taken(self, source: AudioSourceState, async_id: int) -> None:
        source.full = False
        self._answer(callback("capture_audio_frame", async_id))

    def _do_clear_audio_buffer(self, request: audio.ClearAudioBufferRequest) -> ffi.FfiResponse:
        source: AudioSourceState = self._object(request.source_handle, AudioSourceState)
        source.plays_until = 0.0
        source.sound.clear()
        return ffi.FfiResponse(clear_audio_buffer=audio.ClearAudioBufferResponse())

    def _do_create_audio_track(self, request: track_pb.CreateAudioTrackRequest) -> ffi.FfiResponse:
        source: AudioSourceState = self._object(request.source_handle, AudioSourceState)
        response = ffi.FfiResponse()
        self._new_track(response.create_audio_track.track, LocalMedia(request.name, source=source))
        return response

    def _new_track(self, owned: track_pb.OwnedTrack, media: LocalMedia) -> None:
        owned.handle.CopyFrom(self._give(media))
        describe_new_track(owned.info, media.name, media.kind)

    def _do_new_video_source(self, request: video.NewVideoSourceRequest) -> ffi.FfiResponse:
        response = ffi.FfiResponse()
        owned = response.new_video_source.source
        source = VideoSourceState(request)
        owned.handle.CopyFrom(self._give(source))
        owned.info.type = request.type
        source.tell = partial(self.tell_feedback, owned.handle.id)
        return response

    def _do_create_video_track(self, request: track_pb.CreateVideoTrackRequest) -> ffi.FfiResponse:
        source: VideoSourceState = self._object(request.source_handle, VideoSourceState)
        response = ffi.FfiResponse()
        self._new_track(response.create_video_track.track, LocalMedia(request.name, source=source))
        return response

    def _do_capture_video_frame(self, request: video.CaptureVideoFrameRequest) -> ffi.FfiResponse:
        source: VideoSourceState = self._object(request.source_handle, VideoSourceState)
        info = request.buffer
        frame = VideoFrame(
            data=self._lent[info.data_ptr],
            width=info.width,
            height=info.height,
            format=VideoFormat(info.type),
            timestamp_us=request.timestamp_us or round(self._rooms.now() * 1e6),
            rotation=VideoRotation(request.rotation),
            metadata=metadata_of(request.metadata) if request.HasField("metadata") else None,
        )
        if frame.format is VideoFormat.I010:
            raise RoomError("rooms in memory do not read I010, and a source does not send it")
        source.packets += 1
        source.octets += len(frame.data)
        self._rooms.media.show(source, frame)
        return ffi.FfiResponse(capture_video_frame=video.CaptureVideoFrameResponse())

    def _do_capture_encoded_video_frame(self, request: video.CaptureEncodedVideoFrameRequest) -> ffi.FfiResponse:
        # Taken and packed, but nobody here can unpack it: receivers see no picture.
        source: VideoSourceState = self._object(request.source_handle, VideoSourceState)
        response = video.CaptureEncodedVideoFrameResponse(accepted=self._rooms.media.is_published(source))
        return ffi.FfiResponse(capture_encoded_video_frame=response)

    def _do_take_encoded_video_source_feedback(
        self, request: video.TakeEncodedVideoSourceFeedbackRequest
    ) -> ffi.FfiResponse:
        source: VideoSourceState = self._object(request.source_handle, VideoSourceState)
        wanted, source.key_frame_wanted = source.key_frame_wanted, False
        response = video.TakeEncodedVideoSourceFeedbackResponse(keyframe_requested=wanted)
        return ffi.FfiResponse(take_encoded_video_source_feedback=response)

    # --- in -------------------------------------------------------------------------------------------------------

    def _do_new_audio_stream(self, request: audio.NewAudioStreamRequest) -> ffi.FfiResponse:
        media: LocalMedia = self._object(request.track_handle, LocalMedia)
        if request.HasField("audio_filter_module_id"):
            raise RoomError("rooms in memory have no filters of the native library", hint="use a stage instead")
        frame_ms = request.frame_size_ms or 10
        if frame_ms not in range(10, AUDIO_FRAME_MS_MAX + 1, 10):  # may come from another process
            raise RoomError(f"no frames of {frame_ms} ms")
        stream = AudioStreamState(self, media, request.sample_rate, request.num_channels, frame_ms)
        response = ffi.FfiResponse()
        owned = response.new_audio_stream.stream
        owned.handle.CopyFrom(self._give(stream))
        owned.info.type = request.type
        stream.handle = owned.handle.id
        self._rooms.media.open(stream)
        return response

    def tell_sound(self, stream: AudioStreamState, piece: bytes) -> None:
        """A frame for a consumer."""
        owned = self._give(piece)
        info = audio.AudioFrameBufferInfo(
            data_ptr=owned.id,
            num_channels=stream.channels,
            sample_rate=stream.rate,
            samples_per_channel=len(piece) // (SAMPLE_BYTES * stream.channels),
        )
        frame = audio.AudioFrameReceived(frame=audio.OwnedAudioFrameBuffer(handle=owned, info=info))
        event = audio.AudioStreamEvent(stream_handle=stream.handle, frame_received=frame)
        self._mailbox.put(ffi.FfiEvent(audio_stream_event=event))

    def _do_new_video_stream(self, request: video.NewVideoStreamRequest) -> ffi.FfiResponse:
        media: LocalMedia = self._object(request.track_handle, LocalMedia)
        wanted = VideoFormat(request.format) if request.HasField("format") else None
        stream = VideoStreamState(self, media, wanted)
        response = ffi.FfiResponse()
        owned = response.new_video_stream.stream
        owned.handle.CopyFrom(self._give(stream))
        owned.info.type = request.type
        stream.handle = owned.handle.id
        self._rooms.media.open(stream)
        return response

    def tell_picture(self, stream: VideoStreamState, frame: VideoFrame) -> None:
        """A frame for a consumer, as it asked for it."""
        if stream.format is not None and stream.format not in GIVEN:
            return  # as the library: not a word, and never a picture
        shown = frame if stream.format is None else repainted(frame, stream.format)
        owned = self._give(shown.data)
        info = video.VideoBufferInfo(
            type=shown.format.value,  # pyright: ignore[reportArgumentType] - an enum's number
            width=shown.width,
            height=shown.height,
            data_ptr=owned.id,
            stride=shown.width * PIXEL_BYTES.get(shown.format, 0),
        )
        received = video.VideoFrameReceived(
            buffer=video.OwnedVideoBuffer(handle=owned, info=info),
            timestamp_us=shown.timestamp_us,
            rotation=shown.rotation.value,  # pyright: ignore[reportArgumentType] - an enum's number
            metadata=None if shown.metadata is None else wire_metadata(shown.metadata),
        )
        event = video.VideoStreamEvent(stream_handle=stream.handle, frame_received=received)
        self._mailbox.put(ffi.FfiEvent(video_stream_event=event))


def published_media(
    track: LocalMedia, options: room_pb.TrackPublishOptions, *, encrypted: bool = False
) -> dict[str, Any]:
    """What a server says of a track that is published with these options (for :meth:`RoomLedger.publish`)."""
    if not isinstance(track.source, VideoSourceState):
        features = [AudioFeature.NO_DTX] if options.HasField("dtx") and not options.dtx else []
        if options.preconnect_buffer:
            features.append(AudioFeature.PRECONNECT_BUFFER)
        # Redundant packets cannot be taken apart by a server that cannot read them.
        plain = encrypted or (options.HasField("red") and not options.red)
        return {
            "mime_type": "audio/opus" if plain else "audio/red",
            "audio_features": tuple(features),
            "encrypted": encrypted,
        }
    width, height = track.source.width, track.source.height
    codec = VideoCodec(options.video_codec)
    # As a server that has not enabled it.
    name = VideoCodec.VP8.name if codec is VideoCodec.H265 else codec.name
    simulcast = options.simulcast or not options.HasField("simulcast")
    return {
        "mime_type": f"video/{name}",
        "width": width,
        "height": height,
        "simulcasted": simulcast and len(layers_of(width, height)) > 1,
        "frame_metadata": tuple(options.frame_metadata_features),
        "encrypted": encrypted,
    }
