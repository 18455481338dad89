"""Participants: read-only views of who is in the room, and what we ourselves can do there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import anyio.lowlevel

from .._bounds import DATA_PACKET_BYTES_MAX
from .._errors import RoomError, RoomPermissionError
from .._types import ConnectionQuality, ParticipantPermissions
from ._audio import AudioSource
from ._data_tracks import DataTrackPublishing
from ._enums import ParticipantKind, TrackSource
from ._link import Link
from ._messages import MessageSending
from ._model import LocalState, ParticipantState, PublicationState, RemoteState
from ._proto import ffi, room
from ._proto import track as track_pb
from ._rpc import RpcCalling
from ._stream_writers import StreamSending
from ._tracks import LocalTrack, LocalTrackPublication, RemoteTrackPublication, S
from ._transport import release
from ._video import VideoOptions, VideoSource

__all__ = ["LocalParticipant", "Participant", "RemoteParticipant"]

AnyPublication = LocalTrackPublication[AudioSource] | LocalTrackPublication[VideoSource]

DEFAULT_VIDEO = VideoOptions()


class Participant:
    """Somebody in the room, as known now."""

    def __init__(self, state: ParticipantState) -> None:
        self._state = state

    @property
    def identity(self) -> str:
        """Who it is; unique in the room."""
        return self._state.identity

    @property
    def sid(self) -> str:
        """The server's id of this visit, ``PA_…``."""
        return self._state.sid

    @property
    def name(self) -> str:
        """A name to show."""
        return self._state.name

    @property
    def metadata(self) -> str:
        """Text of the application's."""
        return self._state.metadata

    @property
    def attributes(self) -> Mapping[str, str]:
        """Values of the application's.  Replaced, not changed, when one changes."""
        return MappingProxyType(self._state.attributes)

    @property
    def kind(self) -> ParticipantKind | int:
        """Person, agent, telephone, …"""
        return self._state.kind

    @property
    def permissions(self) -> ParticipantPermissions:
        """What it may do."""
        return self._state.permissions

    @property
    def joined_at(self) -> float:
        """When it joined, seconds since 1970; 0 if unknown."""
        return self._state.joined_at

    @property
    def is_speaking(self) -> bool:
        """Whether the server hears it speak."""
        return self._state.is_speaking

    @property
    def connection_quality(self) -> ConnectionQuality | None:
        """Its link as the server judges it; None until the first judgement, some 5 s after joining."""
        return self._state.quality

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.identity!r} {self.sid}>"


class RemoteParticipant(Participant):
    """Somebody else."""

    def __init__(self, state: RemoteState) -> None:
        super().__init__(state)
        self._views = MappingProxyType(state.views)

    @property
    def track_publications(self) -> Mapping[str, RemoteTrackPublication]:
        """Its published tracks by sid (live)."""
        return self._views


class LocalParticipant(Participant, RpcCalling, MessageSending, StreamSending, DataTrackPublishing):
    """Ourselves.

    The calls raise :class:`RoomClosedError` when the room is over or ends meanwhile, :class:`RoomPermissionError` when
    our permissions do not allow them, and :class:`RoomError` for the rest; each is bounded in time.  Cancelling one
    takes back what it would have made: a publication that completes later is unpublished.
    """

    def __init__(self, state: LocalState, link: Link) -> None:
        Participant.__init__(self, state)
        self._link = link
        self._local = state
        self._views = MappingProxyType(state.views)

    @property
    def track_publications(self) -> Mapping[str, AnyPublication]:
        """Our published tracks by sid (live)."""
        return self._views

    # --- data ---------------------------------------------------------------------------------------------------

    async def publish_data(
        self,
        data: bytes | str,
        *,
        topic: str = "",
        reliable: bool = True,
        destination_identities: Sequence[str] = (),
    ) -> None:
        """Send a packet to everybody, or to those named.  Returns when it has been handed to the connection.

        The server says nothing about unknown destinations.  At most 64,000 bytes, topic and header included.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        payload = data.encode() if isinstance(data, str) else bytes(data)
        self._link.check_open()
        if not self.permissions.can_publish_data:
            # The server would drop it without a word.
            raise RoomPermissionError("the agent may not publish data", hint="grant canPublishData")
        if len(payload) + len(topic.encode()) > DATA_PACKET_BYTES_MAX:
            raise RoomError(
                f"a data packet of {len(payload)} bytes is larger than {DATA_PACKET_BYTES_MAX}",
                code="ROOM_DATA_TOO_LARGE",
                hint="send it in smaller packets",
            )
        with self._link.transport.lend(payload) as address:
            request = room.PublishDataRequest(
                local_participant_handle=self._link.local_handle,
                data_ptr=address,
                data_len=len(payload),
                reliable=reliable,
                topic=topic,
                destination_identities=list(destination_identities),
            )
            call = self._link.send(ffi.FfiRequest(publish_data=request))
        await self._link.finish(call, "data not published")

    # --- about ourselves ----------------------------------------------------------------------------------------

    async def set_metadata(self, metadata: str) -> None:
        """Change our metadata, for everybody to see."""
        await self._check_metadata_permission()
        request = room.SetLocalMetadataRequest(local_participant_handle=self._link.local_handle, metadata=metadata)
        await self._link.finish(self._link.send(ffi.FfiRequest(set_local_metadata=request)), "metadata not changed")

    async def set_name(self, name: str) -> None:
        """Change our name."""
        await self._check_metadata_permission()
        request = room.SetLocalNameRequest(local_participant_handle=self._link.local_handle, name=name)
        await self._link.finish(self._link.send(ffi.FfiRequest(set_local_name=request)), "name not changed")

    async def set_attributes(self, attributes: Mapping[str, str]) -> None:
        """Change the attributes named, keep the others.  The value ``""`` removes one."""
        await self._check_metadata_permission()
        entries = [room.AttributesEntry(key=key, value=value) for key, value in attributes.items()]
        request = room.SetLocalAttributesRequest(local_participant_handle=self._link.local_handle, attributes=entries)
        await self._link.finish(self._link.send(ffi.FfiRequest(set_local_attributes=request)), "attributes not changed")

    async def _check_metadata_permission(self) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._link.check_open()
        if not self.permissions.can_update_metadata:
            raise RoomPermissionError("the agent may not change its metadata", hint="grant canUpdateOwnMetadata")

    # --- tracks -------------------------------------------------------------------------------------------------

    async def publish_audio(
        self,
        source: AudioSource | None = None,
        *,
        name: str = "audio",
        track_source: TrackSource = TrackSource.MICROPHONE,
    ) -> LocalTrackPublication[AudioSource]:
        """Publish an audio track fed by ``source``; if None, by a new one (``publication.track.source``)."""
        return await self.publish_track(LocalTrack(source or AudioSource(), name=name), track_source=track_source)

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

    async def publish_track(
        self,
        track: LocalTrack[S],
        *,
        track_source: TrackSource = TrackSource.MICROPHONE,
        options: VideoOptions = DEFAULT_VIDEO,
    ) -> LocalTrackPublication[S]:
        """Publish a track.  Cancelled: a publication that the server makes nevertheless is taken back."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        link = self._link
        link.check_open()
        permissions = self.permissions
        if not permissions.can_publish or (
            permissions.can_publish_sources and track_source not in permissions.can_publish_sources
        ):
            # The server would say nothing, and the library give up after 10 s.
            raise RoomPermissionError("the agent may not publish this track", hint="grant canPublish")
        handle_id = link.own(track.create(link))
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
        view = LocalTrackPublication(state, self._link, track, self)
        self._local.publications[state.sid] = state
        self._local.views[state.sid] = view
        return view

    def detach_if_unused(self, source: AudioSource | VideoSource) -> None:
        """Let go of a source of which no track is left (called by the room)."""
        if not any(view.track.source is source for view in self._views.values()):
            source.detach(self._link)

    async def unpublish_track(self, sid: str) -> None:
        """Take a track back.  Unknown sid: :class:`RoomError`."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        request = room.UnpublishTrackRequest(
            local_participant_handle=self._link.local_handle, track_sid=sid, stop_on_unpublish=True
        )
        call = self._link.send(ffi.FfiRequest(unpublish_track=request))
        await self._link.finish(call, "track not unpublished")


def _wire_source(source: TrackSource) -> track_pb.TrackSource.ValueType:
    return track_pb.TrackSource.Value(f"SOURCE_{source.name}")
