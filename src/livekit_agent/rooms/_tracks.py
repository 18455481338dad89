"""Tracks and their publications, ours and other people's.

A publication is the offer of a track in a room; a track is its media.  Objects stay what they are for as long as the
publication lives: a full reconnect gives ours a new sid, and the object follows.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Generic, TypeVar

from .._bounds import AUDIO_STREAM_FRAMES, VIDEO_STREAM_FRAMES
from .._errors import RoomError
from ._audio import AudioFilter, AudioSource, AudioStage, open_audio
from ._encoded import EncodedVideoSource
from ._encryption import EncryptionType
from ._enums import AudioFeature, FrameMetadataKind, TrackKind, TrackSource, VideoQuality, known
from ._frames import AudioFrame, VideoFormat, VideoFrame, check_picture
from ._link import Link
from ._media_stream import MediaQueue, MediaStream
from ._model import PublicationState
from ._proto import ffi, room, track, track_publication
from ._session import track_statistics
from ._statistics import ConnectionStatistics
from ._video import VideoSource, open_video

if TYPE_CHECKING:
    from ._participants import LocalParticipant, RemoteParticipant

__all__ = ["LocalTrack", "LocalTrackPublication", "RemoteTrack", "RemoteTrackPublication"]

F = TypeVar("F", AudioFrame, VideoFrame)
S = TypeVar("S", AudioSource, VideoSource, EncodedVideoSource)


class _Publication:
    """What all publications tell."""

    def __init__(self, state: PublicationState, link: Link) -> None:
        self._state = state
        self._link = link

    @property
    def sid(self) -> str:
        """The server's id, ``TR_…``."""
        return self._state.sid

    @property
    def name(self) -> str:
        """The publisher's name for it."""
        return self._state.name

    @property
    def kind(self) -> TrackKind | int:
        """Audio or video."""
        return self._state.kind

    @property
    def source(self) -> TrackSource | int:
        """Microphone, camera, screen."""
        return self._state.source

    @property
    def muted(self) -> bool:
        """Whether its publisher (or the server) has muted it."""
        return self._state.muted

    @property
    def mime_type(self) -> str:
        """The codec, such as ``audio/red``; may be empty."""
        return self._state.mime_type

    @property
    def encryption(self) -> EncryptionType | int:
        """How it is encrypted end to end."""
        return known(EncryptionType, self._state.encryption)

    @property
    def simulcasted(self) -> bool:
        """Whether several sizes of it are sent at once."""
        return self._state.simulcasted

    @property
    def width(self) -> int:
        """Pixels, as its publisher announced them; 0 for sound."""
        return self._state.width

    @property
    def height(self) -> int:
        """Pixels, as its publisher announced them; 0 for sound."""
        return self._state.height

    @property
    def audio_features(self) -> tuple[AudioFeature | int, ...]:
        """What its publisher says of the sound."""
        return self._state.audio_features

    @property
    def frame_metadata(self) -> tuple[FrameMetadataKind | int, ...]:
        """What travels with each picture (:attr:`VideoFrame.metadata`)."""
        return self._state.frame_metadata

    @property
    def is_published(self) -> bool:
        """False once it has been taken back or its publisher has left."""
        return self._state.published and not self._link.over

    def __repr__(self) -> str:
        kind = self.kind.name.lower() if isinstance(self.kind, TrackKind) else self.kind
        return f"<{type(self).__name__} {self.sid} {kind}{' muted' * self.muted}>"


class RemoteTrack:
    """The media of somebody else's publication, while we are subscribed to it."""

    def __init__(
        self, sid: str, name: str, kind: TrackKind | int, handle_id: int, link: Link, *, encrypted: bool = False
    ) -> None:
        self.sid = sid
        self.name = name
        self.kind = kind
        self.handle = handle_id
        """The native track handle, 0 when unsubscribed.  Owned by the room: do not drop it."""
        self._link = link
        self._encrypted = encrypted
        self._queues: dict[MediaQueue[AudioFrame] | MediaQueue[VideoFrame], None] = {}

    def audio_frames(
        self,
        *,
        sample_rate: int = 48_000,
        num_channels: int = 1,
        frame_ms: int = 10,
        capacity: int = AUDIO_STREAM_FRAMES,
        stages: Sequence[AudioStage] = (),
        filter: AudioFilter | None = None,
    ) -> MediaStream[AudioFrame]:
        """Its sound from now on: ``async for frame in track.audio_frames():``.

        In frames of ``frame_ms`` (whole tens of milliseconds, at most 1,000), at the rate and channel count asked for,
        silence included: a muted track gives silence at full rate.  Each frame costs the same processor time, however
        long it is.  At most ``capacity`` frames wait; a slower consumer loses the oldest
        (:meth:`MediaStream.statistics`).  Ends when the track is unsubscribed or unpublished or the room is over.
        ``stages`` process each frame in turn when it is read; they stay yours to close.  ``filter`` is a plugin inside
        the native library.
        """
        self._check(TrackKind.AUDIO)
        stream = open_audio(
            self._link,
            self.handle,
            sample_rate=sample_rate,
            num_channels=num_channels,
            frame_ms=frame_ms,
            capacity=capacity,
            stages=stages,
            filter=filter,
        )
        return self._keep(stream)

    def video_frames(
        self, *, format: VideoFormat = VideoFormat.RGBA, capacity: int = VIDEO_STREAM_FRAMES
    ) -> MediaStream[VideoFrame]:
        """Its pictures from now on, in that format: ``async for frame in track.video_frames():``.

        I420, or one of those with pixels; else :class:`ValueError`, for the library gives no others.  Of the size that
        the publisher sends at the moment, which may change.  The rest is as in :meth:`audio_frames`.
        """
        self._check(TrackKind.VIDEO)
        return self._keep(open_video(self._link, self.handle, format=format, capacity=capacity))

    @property
    def audio_level(self) -> float | None:
        """How loud the last frame was that a stream of it has received; None where there is no stream."""
        for queue in reversed(self._queues):
            if isinstance(queue.latest, AudioFrame):
                return queue.latest.level
        return None

    async def rtc_statistics(self) -> ConnectionStatistics:
        """What WebRTC has counted of it until now."""
        self._link.check_open()
        return await track_statistics(self._link, self.handle)

    def _check(self, kind: TrackKind) -> None:
        if self.kind != kind:
            raise ValueError(f"{self!r} has no {kind.name.lower()}")
        self._link.check_open()
        if self._encrypted and not self._link.decrypts:
            # The library would decode the ciphertext: noise at full volume.
            raise RoomError(
                "the track is encrypted, and this room was joined without encryption, or it is disabled",
                code="ROOM_ENCRYPTED",
                hint="join with ConnectOptions(encryption=Encryption(...))",
            )
        if not self.handle:
            raise RoomError(
                "the track is not subscribed to any more", hint="use the track of the latest TrackSubscribed"
            )

    def _keep(self, stream: MediaStream[F]) -> MediaStream[F]:
        stream.bind(self._queues)
        return stream

    def end(self) -> None:
        """We are no longer subscribed (called by the room): its streams end."""
        self.handle = 0
        for queue in list(self._queues):
            queue.end()

    def __repr__(self) -> str:
        return f"<RemoteTrack {self.sid}>"


class RemoteTrackPublication(_Publication):
    """Somebody else's published track."""

    def __init__(self, state: PublicationState, link: Link, participant: RemoteParticipant) -> None:
        super().__init__(state, link)
        self._participant = participant

    @property
    def participant(self) -> RemoteParticipant:
        """Who published it."""
        return self._participant

    @property
    def subscribed(self) -> bool:
        """Whether its media comes to us."""
        return self._state.track is not None

    @property
    def track(self) -> RemoteTrack | None:
        """The media, while subscribed."""
        return self._state.track

    def set_subscribed(self, subscribed: bool) -> None:
        """Ask for the media, or for no more of it.  ``TrackSubscribed`` or ``TrackUnsubscribed`` follows.

        Raises :class:`RoomClosedError` when the room is over and :class:`RoomPermissionError` when it asks for what the
        agent may not have.
        """
        if subscribed:
            self._link.demand("can_subscribe", "subscribe", "canSubscribe")
        request = room.SetSubscribedRequest(subscribe=subscribed, publication_handle=self._handle)
        self._link.request(ffi.FfiRequest(set_subscribed=request))

    # --- how much of it -------------------------------------------------------------------------------------------

    @property
    def enabled(self) -> bool:
        """Whether its media comes while we are subscribed (see :meth:`pause`)."""
        return self._state.enabled

    def pause(self) -> None:
        """Ask the server to send nothing of it for a while; we stay subscribed, so :meth:`resume` is quick.

        Meanwhile its audio streams give silence and its video streams nothing.
        """
        self._enable(False)

    def resume(self) -> None:
        """Ask for its media again."""
        self._enable(True)

    def _enable(self, enabled: bool) -> None:
        request = track_publication.EnableRemoteTrackPublicationRequest(
            track_publication_handle=self._handle, enabled=enabled
        )
        self._link.request(ffi.FfiRequest(enable_remote_track_publication=request))
        self._state.enabled = enabled

    @property
    def quality(self) -> VideoQuality | None:
        """What :meth:`set_quality` asked for last; None: nothing, so the server gives the best that fits."""
        return self._state.quality

    def set_quality(self, quality: VideoQuality) -> None:
        """Ask for one of the sizes that are sent.  Needs a simulcasted video: else :class:`ValueError`.

        Pictures of that size come at the next key frame, within a second or so.
        """
        self._check_simulcast()
        request = track_publication.SetRemoteTrackPublicationQualityRequest(
            track_publication_handle=self._handle,
            quality=quality.value,  # pyright: ignore[reportArgumentType] - an enum's number
        )
        self._link.request(ffi.FfiRequest(set_remote_track_publication_quality=request))
        self._state.quality, self._state.dimensions = quality, None

    @property
    def dimensions(self) -> tuple[int, int] | None:
        """What :meth:`set_dimensions` asked for last."""
        return self._state.dimensions

    def set_dimensions(self, width: int, height: int) -> None:
        """Say how large it will be shown: the server sends the smallest of the sizes that is large enough.

        Replaces :meth:`set_quality` and is replaced by it.  The library has no request for a frame rate.
        """
        check_picture(width, height)
        self._check_simulcast()
        request = track_publication.UpdateRemoteTrackPublicationDimensionRequest(
            track_publication_handle=self._handle, width=width, height=height
        )
        self._link.request(ffi.FfiRequest(update_remote_track_publication_dimension=request))
        self._state.quality, self._state.dimensions = None, (width, height)

    def _check_simulcast(self) -> None:
        if self.kind != TrackKind.VIDEO or not self.simulcasted:
            raise ValueError(f"{self!r} is sent in one size only: no simulcasted video")

    @property
    def _handle(self) -> int:
        self._link.check_open()
        if not self._state.published:
            raise RoomError(f"{self!r} is not published any more", code="TRACK_UNPUBLISHED")
        return self._state.handle


class LocalTrack(Generic[S]):
    """An audio or video track of ours, ready to be published in one room after another."""

    def __init__(self, source: S, *, name: str = "") -> None:
        self.source = source
        self.kind = TrackKind.AUDIO if isinstance(source, AudioSource) else TrackKind.VIDEO
        self.name = name or self.kind.name.lower()

    def create(self, link: Link) -> int:
        """A native track handle in that room; the caller owns it."""
        source_handle = self.source.attach(link)
        if self.kind is TrackKind.VIDEO:
            video_request = track.CreateVideoTrackRequest(name=self.name, source_handle=source_handle)
            return link.request(ffi.FfiRequest(create_video_track=video_request)).create_video_track.track.handle.id
        request = track.CreateAudioTrackRequest(name=self.name, source_handle=source_handle)
        response = link.request(ffi.FfiRequest(create_audio_track=request))
        return response.create_audio_track.track.handle.id

    def __repr__(self) -> str:
        return f"<LocalTrack {self.name!r}>"


class LocalTrackPublication(_Publication, Generic[S]):
    """A published track of ours."""

    def __init__(
        self, state: PublicationState, link: Link, track_: LocalTrack[S], participant: LocalParticipant
    ) -> None:
        super().__init__(state, link)
        self._track = track_
        self._participant = participant
        self._has_subscriber = False

    @property
    def participant(self) -> LocalParticipant:
        """Ourselves."""
        return self._participant

    @property
    def track(self) -> LocalTrack[S]:
        """The media."""
        return self._track

    @property
    def has_subscriber(self) -> bool:
        """Whether anybody has subscribed to it since it was published."""
        return self._has_subscriber

    async def wait_for_subscription(self, timeout: float = math.inf) -> None:
        """Wait until somebody is subscribed to it.  At once if anybody has been since it was published.

        Raises :class:`RoomError` (``TRACK_UNPUBLISHED``) when it is taken back first, :class:`TimeoutError`, and
        :class:`RoomClosedError` when the room ends first.
        """

        def heard() -> bool:
            if not self._state.published:
                raise RoomError(f"{self!r} was taken back before anybody subscribed", code="TRACK_UNPUBLISHED")
            return self._has_subscriber

        await self._link.watches.until(heard, timeout)

    async def rtc_statistics(self) -> ConnectionStatistics:
        """What WebRTC has counted of it until now."""
        self._link.check_open()
        return await track_statistics(self._link, self._state.track_handle)

    def mute(self) -> None:
        """Send silence; everybody, ourselves included, gets ``TrackMuted``."""
        self._mute(True)

    def unmute(self) -> None:
        """Send the source's samples again."""
        self._mute(False)

    def _mute(self, mute: bool) -> None:
        request = track.LocalTrackMuteRequest(track_handle=self._state.track_handle, mute=mute)
        self._link.request(ffi.FfiRequest(local_track_mute=request))

    def mark_subscribed(self) -> None:
        """Somebody has subscribed (called by the room)."""
        self._has_subscriber = True
