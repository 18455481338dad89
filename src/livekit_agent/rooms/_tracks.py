"""Tracks and their publications, ours and other people's, and the source that feeds an audio track.

A publication is the offer of a track in a room; a track is its media.  Objects stay what they are for as long as the
publication lives: a full reconnect gives ours a new sid, and the object follows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._bounds import ROOM_REQUEST_TIMEOUT
from .._errors import RoomError
from ._calls import Call, failure
from ._enums import TrackKind, TrackSource
from ._link import Link
from ._model import PublicationState
from ._proto import audio, ffi, room, track
from ._transport import Transport

if TYPE_CHECKING:
    from ._participants import LocalParticipant, RemoteParticipant

__all__ = ["AudioSource", "LocalTrack", "LocalTrackPublication", "RemoteTrack", "RemoteTrackPublication"]

_SAMPLE_BYTES = 2


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

    def __init__(self, sid: str, name: str, kind: TrackKind | int, handle_id: int) -> None:
        self.sid = sid
        self.name = name
        self.kind = kind
        self.handle = handle_id
        """The native track handle, 0 when unsubscribed.  Owned by the room: do not drop it."""

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


class AudioSource:
    """Where an audio track's samples come from: signed 16 bit, interleaved.

    Make it anywhere, publish it (:meth:`LocalParticipant.publish_audio`), then feed it.  The native source is made at
    the first publishing and given back when the last room that uses it ends, or by :meth:`close`.
    """

    def __init__(self, sample_rate: int = 48_000, num_channels: int = 1, *, queue_size_ms: int = 200) -> None:
        if sample_rate <= 0 or num_channels not in (1, 2) or queue_size_ms < 0:
            raise ValueError(f"no audio source of {sample_rate} Hz, {num_channels} channels, {queue_size_ms} ms")
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.queue_size_ms = queue_size_ms
        self._transport: Transport | None = None
        self._handle = 0
        self._rooms: dict[int, Link] = {}
        self._capturing: anyio.Lock | None = None

    def attach(self, link: Link) -> int:
        """The native handle, for a track in that room."""
        if self._handle and self._transport is not link.transport:
            raise RoomError("an audio source can be used in one event loop at a time", hint="make another one")
        if not self._handle:
            request = audio.NewAudioSourceRequest(
                type=audio.AUDIO_SOURCE_NATIVE,
                sample_rate=self.sample_rate,
                num_channels=self.num_channels,
                queue_size_ms=self.queue_size_ms,
            )
            response = link.request(ffi.FfiRequest(new_audio_source=request))
            self._transport = link.transport
            self._handle = response.new_audio_source.source.handle.id
        self._rooms[link.room_handle] = link
        link.attach(self, lambda: self.detach(link))
        return self._handle

    def detach(self, link: Link) -> None:
        """No track of it is left in that room, or the room is over."""
        link.detach(self)
        self._rooms.pop(link.room_handle, None)
        if not self._rooms:
            self.close()

    def close(self) -> None:
        """Give the native source back.  Idempotent; publishing it again makes a new one."""
        handle_id, self._handle = self._handle, 0
        transport, self._transport = self._transport, None
        self._rooms.clear()
        if handle_id and transport is not None:
            transport.drop(handle_id)

    async def capture_frame(self, data: bytes | None = None, *, duration: float = 0.01) -> None:
        """Queue samples, or ``duration`` seconds of silence when there are none.

        Returns when the queue has taken them all, which is the real-time pacing.  One capture at a time: a second
        one waits for the first.  Raises :class:`ValueError` for a broken frame and :class:`RoomError` when the source
        is not published or the room ends.  Cancelling it leaves the source usable; the samples may still be heard.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        frame_bytes = _SAMPLE_BYTES * self.num_channels
        if data is None:
            data = bytes(frame_bytes * max(1, round(self.sample_rate * duration)))
        if not data or len(data) % frame_bytes:
            raise ValueError(f"{len(data)} bytes are not whole samples of {self.num_channels} channels of 16 bit")
        samples = len(data) // frame_bytes
        if self._capturing is None:
            # Not in __init__: a source may be made where no event loop runs.
            self._capturing = anyio.Lock()
        async with self._capturing:
            await self._capture(data, samples)

    async def _capture(self, data: bytes, samples: int) -> None:
        transport = self._transport
        if transport is None:
            raise RoomError("the audio source is not published", hint="await local_participant.publish_audio(source)")
        with transport.lend(data) as address:
            buffer = audio.AudioFrameBufferInfo(
                data_ptr=address,
                num_channels=self.num_channels,
                sample_rate=self.sample_rate,
                samples_per_channel=samples,
            )
            request = audio.CaptureAudioFrameRequest(source_handle=self._handle, buffer=buffer)
            # With one room its end fails the capture; a source of several rooms goes on in the others.
            home = next(iter(self._rooms)) if len(self._rooms) == 1 else 0
            call = Call(transport, ffi.FfiRequest(capture_audio_frame=request), room_handle=home)
        seconds = samples / self.sample_rate + self.queue_size_ms / 1000
        event = await call.wait(seconds + ROOM_REQUEST_TIMEOUT)
        if event.capture_audio_frame.error:
            raise failure(event.capture_audio_frame.error, "audio frame not captured")

    def clear_queue(self) -> None:
        """Forget the samples that were not sent yet."""
        if self._transport is not None:
            request = audio.ClearAudioBufferRequest(source_handle=self._handle)
            self._transport.request(ffi.FfiRequest(clear_audio_buffer=request))


class LocalTrack:
    """An audio track of ours, ready to be published in one room after another."""

    def __init__(self, source: AudioSource, *, name: str = "audio") -> None:
        self.source = source
        self.name = name
        self.kind = TrackKind.AUDIO

    def create(self, link: Link) -> int:
        """A native track handle in that room; the caller owns it."""
        request = track.CreateAudioTrackRequest(name=self.name, source_handle=self.source.attach(link))
        response = link.request(ffi.FfiRequest(create_audio_track=request))
        return response.create_audio_track.track.handle.id

    def __repr__(self) -> str:
        return f"<LocalTrack {self.name!r}>"


class LocalTrackPublication(_Publication):
    """A published track of ours."""

    def __init__(self, state: PublicationState, link: Link, track_: LocalTrack, participant: LocalParticipant) -> None:
        super().__init__(state, link)
        self._track = track_
        self._participant = participant
        self._has_subscriber = False

    @property
    def participant(self) -> LocalParticipant:
        """Ourselves."""
        return self._participant

    @property
    def track(self) -> LocalTrack:
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
