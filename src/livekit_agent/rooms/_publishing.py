"""Publishing tracks, taking them back, and who may have them: the local participant's part of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import MappingProxyType
from typing import TYPE_CHECKING, cast

import anyio.lowlevel

from .._errors import RoomError, RoomPermissionError, printable
from .._types import ParticipantPermissions
from ._audio import AudioSource
from ._encoded import EncodedVideoSource
from ._enums import TrackKind, TrackSource
from ._frames import AudioFrame
from ._link import Link
from ._model import LocalState, PublicationState
from ._preconnect import TOPIC, attributes_of
from ._proto import ffi, room
from ._proto import track as track_pb
from ._publish_options import AudioOptions, VideoOptions
from ._sources import Source
from ._stream_writers import StreamSending
from ._tracks import LocalTrack, LocalTrackPublication, S
from ._transport import release
from ._video import VideoSource

if TYPE_CHECKING:
    from ._participants import LocalParticipant

__all__ = ["AnyPublication", "Publishing"]

AnyPublication = (
    LocalTrackPublication[AudioSource] | LocalTrackPublication[VideoSource] | LocalTrackPublication[EncodedVideoSource]
)

DEFAULT_AUDIO = AudioOptions()
DEFAULT_VIDEO = VideoOptions()
#: What every track's sid begins with.
_TRACK = "TR_"
NOBODY: Mapping[str, Sequence[str] | None] = MappingProxyType({})


class Publishing(StreamSending):
    """The part of the local participant that deals with its tracks."""

    _link: Link
    _local: LocalState
    _views: Mapping[str, AnyPublication]

    @property
    def permissions(self) -> ParticipantPermissions:
        """What we may do."""
        return self._local.permissions

    async def publish_audio(
        self,
        source: AudioSource | None = None,
        *,
        name: str = "audio",
        track_source: TrackSource = TrackSource.MICROPHONE,
        options: AudioOptions = DEFAULT_AUDIO,
    ) -> LocalTrackPublication[AudioSource]:
        """Publish an audio track fed by ``source``; if None, by a new one (``publication.track.source``)."""
        track = LocalTrack(source or AudioSource(), name=name)
        return await self.publish_track(track, track_source=track_source, options=options)

    async def publish_video(
        self,
        source: VideoSource,
        *,
        name: str = "video",
        track_source: TrackSource = TrackSource.CAMERA,
        options: VideoOptions = DEFAULT_VIDEO,
    ) -> LocalTrackPublication[VideoSource]:
        """Publish a video track fed by ``source``: a camera's, or ``TrackSource.SCREENSHARE``."""
        return await self.publish_track(LocalTrack(source, name=name), track_source=track_source, options=options)

    async def publish_encoded_video(
        self,
        source: EncodedVideoSource,
        *,
        name: str = "video",
        track_source: TrackSource = TrackSource.CAMERA,
    ) -> LocalTrackPublication[EncodedVideoSource]:
        """Publish a video track of pictures that are compressed already."""
        track = LocalTrack(source, name=name)
        return await self.publish_track(track, track_source=track_source, options=source.options)

    async def send_preconnect_audio(
        self,
        publication: LocalTrackPublication[AudioSource],
        frames: Sequence[AudioFrame],
        *,
        destination_identities: Sequence[str] = (),
    ) -> None:
        """Send what was recorded before ``publication`` was there, usually to the agents.

        Publish it with ``AudioOptions(preconnect_buffer=True)``, so that they wait for it.  All frames of one rate.
        """
        await self.send_bytes(
            b"".join(frame.data for frame in frames),
            topic=TOPIC,
            name="preconnect-audio",
            mime_type="audio/pcm",
            attributes=attributes_of(publication.sid, frames),
            destination_identities=destination_identities,
        )

    async def publish_track(
        self,
        track: LocalTrack[S],
        *,
        track_source: TrackSource | None = None,
        options: AudioOptions | VideoOptions | None = None,
    ) -> LocalTrackPublication[S]:
        """Publish a track; by default as a microphone's or a camera's.

        Cancelled: a publication that the server makes nevertheless is taken back.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        link = self._link
        link.check_open()
        audio = track.kind is TrackKind.AUDIO
        if track_source is None:
            track_source = TrackSource.MICROPHONE if audio else TrackSource.CAMERA
        if options is None:
            options = DEFAULT_AUDIO if audio else DEFAULT_VIDEO
        if isinstance(options, AudioOptions) is not audio:
            raise ValueError(f"{type(options).__name__} for {track!r}, which is {track.kind.name.lower()}")
        permissions = self.permissions
        if not permissions.can_publish or (
            permissions.can_publish_sources and track_source not in permissions.can_publish_sources
        ):
            # The server would say nothing, and the library give up after 10 s.
            raise RoomPermissionError("the agent may not publish this track", hint="grant canPublish")
        try:
            handle_id = link.own(track.create(link))
        except BaseException:
            self.detach_if_unused(track.source)
            raise
        wire_options = room.TrackPublishOptions(source=_wire_source(track_source))
        options.write(wire_options)
        request = room.PublishTrackRequest(
            local_participant_handle=link.local_handle, track_handle=handle_id, options=wire_options
        )
        published: list[LocalTrackPublication[S]] = []

        def on_answer(event: ffi.FfiEvent) -> None:
            # In the model before the events that follow; the waiter may run much later.
            if event.publish_track.HasField("publication"):
                published.append(self._adopt(event.publish_track.publication, track, handle_id))

        def reclaim(event: ffi.FfiEvent) -> None:
            # Cancelled: else it would stay published for everybody.
            sid = event.publish_track.publication.info.sid
            if sid and not link.over:
                unpublish = room.UnpublishTrackRequest(
                    local_participant_handle=link.local_handle, track_sid=sid, stop_on_unpublish=True
                )
                # Rejected: the library has forgotten the room, and the track with it.
                with suppress(RoomError):
                    link.transport.request(ffi.FfiRequest(unpublish_track=unpublish))
            if not published:
                release(link.transport, event)

        try:
            call = link.send(ffi.FfiRequest(publish_track=request), reclaim=reclaim, on_answer=on_answer)
            await link.finish(call, "track not published")
        except BaseException:
            if not published:
                link.drop(handle_id)
                self.detach_if_unused(track.source)
            raise
        return published[0]

    def _adopt(
        self, owned: track_pb.OwnedTrackPublication, track: LocalTrack[S], track_handle: int
    ) -> LocalTrackPublication[S]:
        state = PublicationState.of(owned)
        state.track_handle = track_handle
        self._link.own(state.handle)
        view = LocalTrackPublication(state, self._link, track, cast("LocalParticipant", self))
        self._local.publications[state.sid] = state
        self._local.views[state.sid] = view
        return view

    def detach_if_unused(self, source: Source) -> None:
        """Let go of a source of which no track is left (called by the room)."""
        if not any(view.track.source is source for view in self._views.values()):
            source.detach(self._link)

    async def unpublish_track(self, sid: str) -> None:
        """Take a track back.  Unknown sid: :class:`RoomError`."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._link.check_open()
        if not sid.startswith(_TRACK):
            # The library ends the process over what cannot be a track's.
            raise RoomError(f"track not unpublished: {printable(sid, 80)!r} is no track's sid: track not found")
        request = room.UnpublishTrackRequest(
            local_participant_handle=self._link.local_handle, track_sid=sid, stop_on_unpublish=True
        )
        call = self._link.send(ffi.FfiRequest(unpublish_track=request))
        await self._link.finish(call, "track not unpublished")

    # --- who may have them ----------------------------------------------------------------------------------------

    def set_subscription_permissions(
        self, *, everybody: bool, tracks: Mapping[str, Sequence[str] | None] = NOBODY
    ) -> None:
        """Say who may subscribe to our tracks: everybody, or only those named, each to all of them (None) or to those
        whose sids are given.

        Replaces what was said before.  Who is no longer allowed gets no more frames, and no event; who is allowed
        again is subscribed anew.  A full reconnect gives tracks new sids (``LocalTrackRepublished``): say it again.
        Raises :class:`RoomClosedError` when the room is over, and :class:`ValueError` for what is no track's sid, over
        which the library would end the process.
        """
        wrong = [sid for sids in tracks.values() for sid in sids or () if not sid.startswith(_TRACK)]
        if wrong:
            raise ValueError(f"{printable(wrong[0], 80)!r} is no track's sid; give a list of them, or None")
        request = track_pb.SetTrackSubscriptionPermissionsRequest(
            local_participant_handle=self._link.local_handle,
            all_participants_allowed=everybody,
            permissions=[
                track_pb.ParticipantTrackPermission(
                    participant_identity=identity, allow_all=sids is None, allowed_track_sids=sids or ()
                )
                for identity, sids in tracks.items()
            ],
        )
        self._link.request(ffi.FfiRequest(set_track_subscription_permissions=request))


def _wire_source(source: TrackSource) -> track_pb.TrackSource.ValueType:
    return track_pb.TrackSource.Value(f"SOURCE_{source.name}")
