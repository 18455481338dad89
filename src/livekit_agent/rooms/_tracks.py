"""Tracks and their publications, ours and other people's.

A publication is the offer of a track in a room; a track is its media.  Objects stay what they are for as long as the
publication lives: a full reconnect gives ours a new sid, and the object follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from .._bounds import AUDIO_STREAM_FRAMES, VIDEO_STREAM_FRAMES
from .._errors import RoomError
from ._audio import AudioSource, open_audio
from ._enums import TrackKind, TrackSource
from ._frames import AudioFrame, VideoFormat, VideoFrame
from ._link import Link
from ._media_stream import MediaQueue, MediaStream
from ._model import PublicationState
from ._proto import ffi, room, track
from ._video import VideoSource, open_video

if TYPE_CHECKING:
    from ._participants import LocalParticipant, RemoteParticipant

__all__ = ["LocalTrack", "LocalTrackPublication", "RemoteTrack", "RemoteTrackPublication"]

F = TypeVar("F", AudioFrame, VideoFrame)
S = TypeVar("S", AudioSource, VideoSource)


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

    def __repr__(self) -> str:
        kind = self.kind.name.lower() if isinstance(self.kind, TrackKind) else self.kind
        return f"<{type(self).__name__} {self.sid} {kind}{' muted' * self.muted}>"


class RemoteTrack:
    """The media of somebody else's publication, while we are subscribed to it."""

    def __init__(self, sid: str, name: str, kind: TrackKind | int, handle_id: int, link: Link) -> None:
        self.sid = sid
        self.name = name
        self.kind = kind
        self.handle = handle_id
        """The native track handle, 0 when unsubscribed.  Owned by the room: do not drop it."""
        self._link = link
        self._queues: dict[MediaQueue[AudioFrame] | MediaQueue[VideoFrame], None] = {}

    def audio_frames(
        self, *, sample_rate: int = 48_000, num_channels: int = 1, capacity: int = AUDIO_STREAM_FRAMES
    ) -> MediaStream[AudioFrame]:
        """Its sound from now on, in frames of 10 ms: ``async for frame in track.audio_frames():``.

        At the rate and channel count asked for, silence included: a muted track gives silence at full rate.  At most
        ``capacity`` frames wait; a slower consumer loses the oldest (:meth:`MediaStream.statistics`).  Ends when the
        track is unsubscribed or unpublished or the room is over.
        """
        self._check(TrackKind.AUDIO)
        stream = open_audio(
            self._link, self.handle, sample_rate=sample_rate, num_channels=num_channels, capacity=capacity
        )
        return self._keep(stream)

    def video_frames(
        self, *, format: VideoFormat = VideoFormat.RGBA, capacity: int = VIDEO_STREAM_FRAMES
    ) -> MediaStream[VideoFrame]:
        """Its pictures from now on, in that format: ``async for frame in track.video_frames():``.

        Of the size that the publisher sends at the moment, which may change.  The rest is as in :meth:`audio_frames`.
        """
        self._check(TrackKind.VIDEO)
        return self._keep(open_video(self._link, self.handle, format=format, capacity=capacity))

    def _check(self, kind: TrackKind) -> None:
        if self.kind != kind:
            raise ValueError(f"{self!r} has no {kind.name.lower()}")
        self._link.check_open()
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

        Raises :class:`RoomClosedError` when the room is over.
        """
        request = room.SetSubscribedRequest(subscribe=subscribed, publication_handle=self._state.handle)
        self._link.request(ffi.FfiRequest(set_subscribed=request))


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
