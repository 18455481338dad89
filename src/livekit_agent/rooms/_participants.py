"""Participants: read-only views of who is in the room, and what we ourselves can do there."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

import anyio.lowlevel

from .._bounds import AUDIO_STREAM_FRAMES, DATA_PACKET_BYTES_MAX, VIDEO_STREAM_FRAMES
from .._errors import RoomError
from .._types import ConnectionQuality, ParticipantPermissions
from . import _model
from ._audio import AudioFilter, AudioStage
from ._backpressure import DataGates
from ._calls import Call
from ._data_senders import DataTrackPublishing
from ._enums import ParticipantKind, ParticipantKindDetail, ParticipantState, TrackSource
from ._follow import SourceStream
from ._frames import AudioFrame, VideoFormat, VideoFrame
from ._link import Link
from ._media_stream import MediaStream
from ._messages import MessageSending
from ._model import LocalState, RemoteState
from ._proto import ffi, room
from ._publishing import AnyPublication, Publishing
from ._rpc import RpcCalling
from ._sending import identities
from ._sip import SipInfo
from ._tracks import LocalTrackPublication, RemoteTrack, RemoteTrackPublication

__all__ = ["LocalParticipant", "Participant", "RemoteParticipant"]


class Participant:
    """Somebody in the room, as known now."""

    def __init__(self, state: _model.ParticipantState) -> None:
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
    def kind_details(self) -> tuple[ParticipantKindDetail | int, ...]:
        """What kind of its kind: an agent of the cloud's, forwarded from another room, …"""
        return self._state.kind_details

    @property
    def state(self) -> ParticipantState | int:
        """How far it is: joining, joined, active (its media is connected), gone."""
        return self._state.standing

    @property
    def sip(self) -> SipInfo | None:
        """The telephone call that it is; None for everybody else.  Changes with ``AttributesChanged``."""
        return SipInfo.of(self._state.attributes)

    @property
    def permissions(self) -> ParticipantPermissions:
        """What it may do."""
        return self._state.permissions

    @property
    def joined_at(self) -> float:
        """When it joined, seconds since 1970; 0 if unknown."""
        return self._state.joined_at

    @property
    def encrypted(self) -> bool:
        """Whether all that it publishes is encrypted end to end (``EncryptionStatusChanged``)."""
        return self._state.encrypted

    @property
    def is_speaking(self) -> bool:
        """Whether the server hears it speak."""
        return self._state.is_speaking

    @property
    def last_spoke_at(self) -> float | None:
        """When it was last heard speaking, on ``anyio.current_time()``'s clock; None: never.

        Of somebody who speaks: when the server last said so.
        """
        return self._state.last_spoke_at

    @property
    def connection_quality(self) -> ConnectionQuality | None:
        """Its link as the server judges it; None until the first judgement, some 5 s after joining."""
        return self._state.quality

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.identity!r} {self.sid}>"


class RemoteParticipant(Participant):
    """Somebody else."""

    def __init__(self, state: RemoteState, link: Link) -> None:
        super().__init__(state)
        self._link = link
        self._views = MappingProxyType(state.views)

    @property
    def track_publications(self) -> Mapping[str, RemoteTrackPublication]:
        """Its published tracks by sid (live)."""
        return self._views

    def publication(
        self, source: TrackSource | None = None, *, name: str | None = None
    ) -> RemoteTrackPublication | None:
        """The latest publication of that source, with that name, or both; None if there is none."""
        return _latest(self._views, source, name)

    @property
    def is_present(self) -> bool:
        """Whether it is in the room.  False for ever once it has left; who comes back is another object."""
        return self._state.standing != ParticipantState.DISCONNECTED

    @property
    def audio_level(self) -> float | None:
        """How loud what we hear of it is at the moment: root mean square, full scale 1.

        Of the last frame that a stream of ours has received, so None where nobody listens.
        """
        levels = [view.track.audio_level for view in self._views.values() if view.track is not None]
        heard = [level for level in levels if level is not None]
        return max(heard) if heard else None

    async def wait_until_active(self, timeout: float = math.inf) -> None:
        """Wait until its media is connected, and what we send can reach it.  At once if it is.

        Raises :class:`RoomError` (``PARTICIPANT_LEFT``) when it leaves first, :class:`TimeoutError`, and
        :class:`RoomClosedError` when the room ends first.
        """

        def there() -> bool:
            if not self.is_present:
                raise RoomError(f"{self.identity!r} left before it was active", code="PARTICIPANT_LEFT")
            return self.state == ParticipantState.ACTIVE

        await self._link.watches.until(there, timeout)

    def audio(
        self,
        source: TrackSource = TrackSource.MICROPHONE,
        *,
        sample_rate: int = 48_000,
        num_channels: int = 1,
        frame_ms: int = 10,
        capacity: int = AUDIO_STREAM_FRAMES,
        stages: Sequence[AudioStage] = (),
        filter: AudioFilter | None = None,
    ) -> SourceStream[AudioFrame]:
        """Its sound, whatever track carries it: ``async for frame in participant.audio():``.

        Waits for the track to be published and subscribed, and goes on with the next one when it is published anew or
        the connection was rebuilt.  Ends when the participant leaves.  Else as :meth:`RemoteTrack.audio_frames`.
        """

        def listen(track: RemoteTrack) -> MediaStream[AudioFrame]:
            return track.audio_frames(
                sample_rate=sample_rate,
                num_channels=num_channels,
                frame_ms=frame_ms,
                capacity=capacity,
                stages=stages,
                filter=filter,
            )

        return SourceStream(self._link, self.identity, source, listen)

    def video(
        self,
        source: TrackSource = TrackSource.CAMERA,
        *,
        format: VideoFormat = VideoFormat.RGBA,
        capacity: int = VIDEO_STREAM_FRAMES,
    ) -> SourceStream[VideoFrame]:
        """Its pictures; as :meth:`audio`."""
        return SourceStream(
            self._link, self.identity, source, lambda track: track.video_frames(format=format, capacity=capacity)
        )


class LocalParticipant(Participant, RpcCalling, MessageSending, Publishing, DataTrackPublishing):
    """Ourselves.

    The calls raise :class:`RoomClosedError` when the room is over or ends meanwhile, :class:`RoomPermissionError` when
    our permissions do not allow them, and :class:`RoomError` for the rest; each is bounded in time.  Cancelling one
    takes back what it would have made: a publication that completes later is unpublished.
    """

    def __init__(
        self, state: LocalState, link: Link, on_buffer_low: Callable[[bool], None] = lambda reliable: None
    ) -> None:
        Participant.__init__(self, state)
        self._link = link
        self._local = state
        self._gates = DataGates(link, on_buffer_low)
        self._views = MappingProxyType(state.views)

    @property
    def track_publications(self) -> Mapping[str, AnyPublication]:
        """Our published tracks by sid (live)."""
        return self._views

    def publication(self, source: TrackSource | None = None, *, name: str | None = None) -> AnyPublication | None:
        """Our latest publication of that source, with that name, or both; None if there is none."""
        return _latest(self._views, source, name)

    # --- data ---------------------------------------------------------------------------------------------------

    async def publish_data(
        self,
        data: bytes | str,
        *,
        topic: str = "",
        reliable: bool = True,
        destination_identities: Sequence[str] = (),
    ) -> None:
        """Send a packet to everybody, or to those named.  Returns when the connection has taken it.

        Waits first while the connection has more than a threshold of bytes still to take (:meth:`data_buffered`,
        :meth:`set_data_threshold`), in the order of the calls.  The server says nothing about unknown destinations.
        At most 64,000 bytes, topic and header included.  Cancelled while it waits, nothing is sent.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        payload = data.encode() if isinstance(data, str) else bytes(data)
        self._link.check_open()
        self._link.demand("can_publish_data", "publish data", "canPublishData")
        if len(payload) + len(topic.encode()) > DATA_PACKET_BYTES_MAX:
            raise RoomError(
                f"a data packet of {len(payload)} bytes is larger than {DATA_PACKET_BYTES_MAX}",
                code="ROOM_DATA_TOO_LARGE",
                hint="send it in smaller packets",
            )
        taken = await self._gates[reliable].enter(len(payload))
        try:
            call = self._send_packet(payload, topic, reliable, destination_identities, taken)
        except BaseException:
            taken()
            raise
        await self._link.finish(call, "data not published")

    def _send_packet(
        self, payload: bytes, topic: str, reliable: bool, destinations: Sequence[str], taken: Callable[[], None]
    ) -> Call:
        with self._link.transport.lend(payload) as address:
            request = room.PublishDataRequest(
                local_participant_handle=self._link.local_handle,
                data_ptr=address,
                data_len=len(payload),
                reliable=reliable,
                topic=topic,
                destination_identities=identities(destinations),
            )
            # Given up or not, the connection has it until it answers.
            return self._link.send(
                ffi.FfiRequest(publish_data=request), reclaim=lambda _: taken(), on_answer=lambda _: taken()
            )

    def data_buffered(self, *, reliable: bool = True) -> int:
        """How many bytes of packets the connection has been given and has not taken yet."""
        return self._gates[reliable].pending

    def set_data_threshold(self, size: int, *, reliable: bool = True) -> None:
        """How many bytes the connection may have still to take before :meth:`publish_data` waits (2 MiB at first).

        ``DataBufferLow`` tells when it was more and is no longer.
        """
        self._gates.set_threshold(size, reliable)

    # --- about ourselves ----------------------------------------------------------------------------------------

    async def set_metadata(self, metadata: str) -> None:
        """Change our metadata, for everybody to see."""
        await self._check_metadata_permission()
        request = room.SetLocalMetadataRequest(local_participant_handle=self._link.local_handle, metadata=metadata)
        await self._change(
            ffi.FfiRequest(set_local_metadata=request), "metadata not changed", lambda: self.metadata == metadata
        )

    async def set_name(self, name: str) -> None:
        """Change our name."""
        await self._check_metadata_permission()
        request = room.SetLocalNameRequest(local_participant_handle=self._link.local_handle, name=name)
        await self._change(ffi.FfiRequest(set_local_name=request), "name not changed", lambda: self.name == name)

    async def set_attributes(self, attributes: Mapping[str, str]) -> None:
        """Change the attributes named, keep the others.  The value ``""`` removes one."""
        await self._check_metadata_permission()
        entries = [room.AttributesEntry(key=key, value=value) for key, value in attributes.items()]
        request = room.SetLocalAttributesRequest(local_participant_handle=self._link.local_handle, attributes=entries)
        await self._change(
            ffi.FfiRequest(set_local_attributes=request),
            "attributes not changed",
            lambda: all(self.attributes.get(key, "") == value for key, value in attributes.items()),
        )

    async def _change(self, request: ffi.FfiRequest, what: str, holds: Callable[[], bool]) -> None:
        """Ask the server for a change of ourselves.

        The library begins to listen for the server's answer only when it has asked (rust-sdks, ``set_attributes``:
        ``send_request``, then ``get_response``): an answer that is faster is lost, and 5 s later the library says
        "request timeout" of a change that everybody has seen.  What we have become is the proof then.
        """
        try:
            await self._link.finish(self._link.send(request), what)
        except RoomError as exc:
            if not (exc.code == "ROOM_TIMEOUT" and holds()):
                raise

    async def _check_metadata_permission(self) -> None:
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._link.check_open()
        self._link.demand("can_update_metadata", "change its metadata", "canUpdateOwnMetadata")


P = TypeVar("P", bound="RemoteTrackPublication | LocalTrackPublication[Any]")


def _latest(publications: Mapping[str, P], source: TrackSource | None, name: str | None) -> P | None:
    for publication in reversed(list(publications.values())):
        if (source is None or publication.source == source) and (name is None or publication.name == name):
            return publication
    return None
