"""How each event of the library changes the model, and which event of ours follows from it.

One method per kind, found through a table.  All of them run in the event loop, in the order of arrival, and finish
before the event is delivered to anybody: who sees an event sees a room that has already changed.

What a real server does and this tolerates: events about identities that are already, or no longer, known (after a
reconnect joins and leaves come twice or reversed), the same mute twice, a subscription before its publication.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType

import anyio

from .. import events
from .._types import AutoSubscribe, ConnectionQuality
from . import _model
from ._connect_options import DEFAULT_OPTIONS, ConnectOptions
from ._data_receivers import DataTrackInbox
from ._encryption import RoomEncryption, state_of
from ._enums import ConnectionState, DisconnectReason, ParticipantState, known
from ._link import Link
from ._messages import ChatMessage, TranscriptionSegment
from ._model import LocalState, RemoteState, permissions_of
from ._model_tracks import RemoteTracks
from ._participants import LocalParticipant, Participant, RemoteParticipant
from ._proto import participant as participant_pb
from ._proto import room as room_pb
from ._rpc import RpcDesk
from ._stream_inbox import StreamInbox

__all__ = ["HANDLED", "IGNORED", "Model"]

IGNORED = frozenset(
    {
        "stream_header_received",
        "stream_chunk_received",
        "stream_trailer_received",
    }
)
"""Events that change nothing here.  What they own is given back."""

HANDLED = (
    "participant_connected",
    "participant_active",
    "participant_disconnected",
    "participants_updated",
    "participant_metadata_changed",
    "participant_name_changed",
    "participant_attributes_changed",
    "participant_permission_changed",
    "local_track_published",
    "local_track_unpublished",
    "local_track_republished",
    "local_track_subscribed",
    "track_published",
    "track_unpublished",
    "track_subscribed",
    "track_unsubscribed",
    "track_subscription_failed",
    "track_muted",
    "track_unmuted",
    "active_speakers_changed",
    "connection_quality_changed",
    "data_packet_received",
    "chat_message",
    "transcription_received",
    "data_track_published",
    "data_track_unpublished",
    "text_stream_opened",
    "byte_stream_opened",
    "data_channel_low_threshold_changed",
    "e2ee_state_changed",
    "participant_encryption_status_changed",
    "token_refreshed",
    "room_metadata_changed",
    "room_sid_changed",
    "room_updated",
    "moved",
    "connection_state_changed",
    "reconnecting",
    "reconnected",
)
"""Events that change the model; ``disconnected`` and ``eos`` are the room's own (``_room``)."""


class Model:
    """The room as known now."""

    def __init__(
        self,
        result: room_pb.ConnectCallback.Result,
        link: Link,
        emit: Callable[[events.RoomEvent], None],
        auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
        options: ConnectOptions = DEFAULT_OPTIONS,
    ) -> None:
        self._link = link
        self._emit = emit
        self._read_room(result.room.info)
        self.metadata = result.room.info.metadata
        self.token = ""
        self.state = ConnectionState.CONNECTED
        self._local = link.me = LocalState.of(result.local_participant.info)
        # The library's answer to a join is made before its media was connected, and given after.
        self._local.standing = ParticipantState.ACTIVE
        self.local = LocalParticipant(self._local, link, lambda reliable: emit(events.DataBufferLow(reliable=reliable)))
        self.encryption = RoomEncryption(link, self._local, options.encryption)
        self.rpc = RpcDesk(link)
        self.streams = StreamInbox(link)
        self._remote: dict[str, RemoteState] = {}
        self._views: dict[str, RemoteParticipant] = {}
        self.remote = link.people = MappingProxyType(self._views)
        self.tracks = RemoteTracks(link, self._remote, emit, auto_subscribe)
        self.data_tracks = DataTrackInbox(link, self._local, self.remote, emit)
        for entry in result.participants:
            state = self._add(entry.participant)
            for owned in entry.publications:
                self.tracks.add(state, owned)
        self._handlers: dict[str, Callable[[room_pb.RoomEvent], None]] = {
            kind: getattr(self, f"_on_{kind}", None) or getattr(self.tracks, f"on_{kind}") for kind in HANDLED
        }

    def apply(self, kind: str, event: room_pb.RoomEvent) -> bool:
        """Change the model.  False: this kind is none of ours, and what it owns is still to be given back."""
        handler = self._handlers.get(kind)
        if handler is None:
            return False
        handler(event)
        return True

    # --- who is there ---------------------------------------------------------------------------------------------

    def _participant(self, identity: str) -> tuple[_model.ParticipantState, Participant] | None:
        if identity == self._local.identity:
            return self._local, self.local
        state = self._remote.get(identity)
        return None if state is None else (state, state.view)

    def _add(self, owned: participant_pb.OwnedParticipant) -> RemoteState:
        state = RemoteState.of(owned)
        self._link.own(state.handle)
        state.view = RemoteParticipant(state, self._link)
        self._remote[state.identity] = state
        self._views[state.identity] = state.view
        return state

    def _remove(self, state: RemoteState, reason: int) -> None:
        for sid in list(state.publications):
            self.tracks.remove(state, sid)
        del self._remote[state.identity]
        del self._views[state.identity]
        state.standing = ParticipantState.DISCONNECTED
        state.is_speaking = False
        self._link.drop(state.handle)
        self._emit(events.ParticipantLeft(participant=state.view, reason=known(DisconnectReason, reason)))

    def _on_participant_connected(self, event: room_pb.RoomEvent) -> None:
        owned = event.participant_connected.info
        known_state = self._remote.get(owned.info.identity)
        if known_state is not None and known_state.sid == owned.info.sid:
            # The library says it again after a resume: nobody came, only the handle is new.
            self._link.drop(known_state.handle)
            known_state.handle = self._link.own(owned.handle.id)
            known_state.read(owned.info)
            return
        if known_state is not None:
            self._remove(known_state, 0)  # its leaving was lost in a reconnect
        state = self._add(owned)
        self._emit(events.ParticipantJoined(participant=state.view))

    def _on_participant_active(self, event: room_pb.RoomEvent) -> None:
        """It can receive now; ``participant_connected`` has announced it."""
        found = self._participant(event.participant_active.participant_identity)
        if found is not None:
            state, view = found
            state.standing = ParticipantState.ACTIVE
            self._emit(events.ParticipantActive(participant=view))

    def _on_participant_disconnected(self, event: room_pb.RoomEvent) -> None:
        gone = event.participant_disconnected
        state = self._remote.get(gone.participant_identity)
        if state is not None:
            self._remove(state, gone.disconnect_reason)

    def _on_participants_updated(self, event: room_pb.RoomEvent) -> None:
        for info in event.participants_updated.participants:
            found = self._participant(info.identity)
            if found is not None:
                previous_sid = found[0].sid
                found[0].refresh(info)
                if found[0] is self._local and previous_sid != info.sid:
                    self._emit(events.Rejoined(participant=self.local, previous_sid=previous_sid))

    # --- what they say of themselves --------------------------------------------------------------------------------

    def _on_participant_metadata_changed(self, event: room_pb.RoomEvent) -> None:
        change = event.participant_metadata_changed
        found = self._participant(change.participant_identity)
        if found is not None:
            state, view = found
            previous, state.metadata = state.metadata, change.metadata
            self._emit(events.MetadataChanged(participant=view, previous=previous))

    def _on_participant_name_changed(self, event: room_pb.RoomEvent) -> None:
        change = event.participant_name_changed
        found = self._participant(change.participant_identity)
        if found is not None:
            state, view = found
            previous, state.name = state.name, change.name
            self._emit(events.NameChanged(participant=view, previous=previous))

    def _on_participant_attributes_changed(self, event: room_pb.RoomEvent) -> None:
        change = event.participant_attributes_changed
        found = self._participant(change.participant_identity)
        if found is not None:
            state, view = found
            # A new dict: whoever holds the old one keeps what was.
            state.attributes = {entry.key: entry.value for entry in change.attributes}
            changed = {entry.key: entry.value for entry in change.changed_attributes}
            self._emit(events.AttributesChanged(participant=view, changed=changed))

    def _on_participant_permission_changed(self, event: room_pb.RoomEvent) -> None:
        change = event.participant_permission_changed
        found = self._participant(change.participant_identity)
        if found is not None:
            state, view = found
            state.permissions = permissions_of(change.permission)
            self._emit(events.PermissionsChanged(participant=view))

    def _on_active_speakers_changed(self, event: room_pb.RoomEvent) -> None:
        speaking = dict.fromkeys(event.active_speakers_changed.participant_identities)
        now = anyio.current_time()
        changed: list[RemoteState] = []
        for state in (self._local, *self._remote.values()):
            if state.is_speaking or state.identity in speaking:
                state.last_spoke_at = now
            if state.is_speaking != (state.identity in speaking):
                state.is_speaking = not state.is_speaking
                if isinstance(state, RemoteState):
                    changed.append(state)
        found = [self._participant(identity) for identity in speaking]
        self._emit(events.ActiveSpeakersChanged(speakers=tuple(entry[1] for entry in found if entry)))
        for state in changed:
            self._emit(events.SpeakingChanged(participant=state.view, speaking=state.is_speaking))

    def _on_connection_quality_changed(self, event: room_pb.RoomEvent) -> None:
        change = event.connection_quality_changed
        found = self._participant(change.participant_identity)
        if found is not None:
            state, view = found
            state.quality = ConnectionQuality(change.quality)
            self._emit(events.ConnectionQualityChanged(participant=view, quality=state.quality))

    def _on_data_packet_received(self, event: room_pb.RoomEvent) -> None:
        packet = event.data_packet_received
        if packet.HasField("sip_dtmf"):
            self._on_dtmf(packet)
            return
        if not packet.HasField("user"):
            return
        owned = packet.user.data
        data = self._link.transport.read(owned.data)
        self._link.transport.drop(owned.handle.id)
        sender = self._remote.get(packet.participant_identity)
        self._emit(
            events.DataReceived(
                data=data,
                participant=None if sender is None else sender.view,
                topic=packet.user.topic,
                reliable=packet.kind == room_pb.KIND_RELIABLE,
                identity=packet.participant_identity,
            )
        )

    def _on_dtmf(self, packet: room_pb.DataPacketReceived) -> None:
        self._emit(
            events.DtmfReceived(
                digit=packet.sip_dtmf.digit,
                code=packet.sip_dtmf.code,
                participant=self._views.get(packet.participant_identity),
                identity=packet.participant_identity,
            )
        )

    def _on_chat_message(self, event: room_pb.RoomEvent) -> None:
        chat = event.chat_message
        self._emit(
            events.ChatReceived(
                message=ChatMessage.of(chat.message),
                participant=self._views.get(chat.participant_identity),
                identity=chat.participant_identity,
            )
        )

    def _on_text_stream_opened(self, event: room_pb.RoomEvent) -> None:
        self.streams.text_opened(event.text_stream_opened)

    def _on_byte_stream_opened(self, event: room_pb.RoomEvent) -> None:
        self.streams.bytes_opened(event.byte_stream_opened)

    def _on_data_track_published(self, event: room_pb.RoomEvent) -> None:
        self.data_tracks.published(event.data_track_published.track)

    def _on_data_track_unpublished(self, event: room_pb.RoomEvent) -> None:
        self.data_tracks.unpublished(event.data_track_unpublished.sid)

    def _on_transcription_received(self, event: room_pb.RoomEvent) -> None:
        said = event.transcription_received
        found = self._participant(said.participant_identity)
        self._emit(
            events.TranscriptionReceived(
                segments=tuple(TranscriptionSegment.of(segment) for segment in said.segments),
                participant=None if found is None else found[1],
                track_sid=said.track_sid,
                identity=said.participant_identity,
            )
        )

    # --- tracks of anybody's ----------------------------------------------------------------------------------------

    def _on_track_muted(self, event: room_pb.RoomEvent) -> None:
        self._set_muted(event.track_muted.participant_identity, event.track_muted.track_sid, True)

    def _on_track_unmuted(self, event: room_pb.RoomEvent) -> None:
        self._set_muted(event.track_unmuted.participant_identity, event.track_unmuted.track_sid, False)

    def _set_muted(self, identity: str, sid: str, muted: bool) -> None:
        found = self._participant(identity)
        publication = found[0].publications.get(sid) if found else None
        if found is None or publication is None or publication.muted == muted:
            return  # a server's mute arrives twice at the publisher
        publication.muted = muted
        view = self._local.views[sid] if found[0] is self._local else self._remote[identity].views[sid]
        kind = events.TrackMuted if muted else events.TrackUnmuted
        self._emit(kind(publication=view, participant=found[1]))

    # --- our own tracks ---------------------------------------------------------------------------------------------

    def _on_local_track_published(self, event: room_pb.RoomEvent) -> None:
        view = self._local.views.get(event.local_track_published.track_sid)
        if view is not None:
            self._emit(events.LocalTrackPublished(publication=view, participant=self.local))

    def _on_local_track_unpublished(self, event: room_pb.RoomEvent) -> None:
        sid = event.local_track_unpublished.publication_sid
        publication = self._local.publications.pop(sid, None)
        if publication is None:
            return
        publication.published = False
        view = self._local.views.pop(sid)
        self._link.drop(publication.handle)
        self._link.drop(publication.track_handle)
        self.local.detach_if_unused(view.track.source)
        self._emit(events.LocalTrackUnpublished(publication=view, participant=self.local))

    def _on_local_track_republished(self, event: room_pb.RoomEvent) -> None:
        change = event.local_track_republished
        handle_id = self._link.own(change.publication_handle)
        publication = self._local.publications.pop(change.previous_sid, None)
        if publication is None:
            self._link.drop(handle_id)
            return
        view = self._local.views.pop(change.previous_sid)
        self._link.drop(publication.handle)
        publication.handle = handle_id
        publication.refresh(change.info)
        self._local.publications[publication.sid] = publication
        self._local.views[publication.sid] = view
        self._emit(
            events.LocalTrackRepublished(publication=view, participant=self.local, previous_sid=change.previous_sid)
        )

    def _on_local_track_subscribed(self, event: room_pb.RoomEvent) -> None:
        view = self._local.views.get(event.local_track_subscribed.track_sid)
        if view is not None:
            view.mark_subscribed()
            self._emit(events.LocalTrackSubscribed(publication=view, participant=self.local))

    # --- the room itself --------------------------------------------------------------------------------------------

    def _read_room(self, info: room_pb.RoomInfo) -> None:
        self.sid = info.sid
        self.name = info.name
        self.num_participants = info.num_participants
        self.num_publishers = info.num_publishers
        self.max_participants = info.max_participants
        self.empty_timeout = float(info.empty_timeout)
        self.departure_timeout = float(info.departure_timeout)
        self.created_at = info.creation_time / 1000
        self.is_recording = info.active_recording

    def _on_room_metadata_changed(self, event: room_pb.RoomEvent) -> None:
        previous, self.metadata = self.metadata, event.room_metadata_changed.metadata
        self._emit(events.RoomMetadataChanged(previous=previous, metadata=self.metadata))

    def _on_room_sid_changed(self, event: room_pb.RoomEvent) -> None:
        self.sid = event.room_sid_changed.sid

    def _on_room_updated(self, event: room_pb.RoomEvent) -> None:
        # Metadata has an event of its own, which comes first.
        recording = self.is_recording
        self._read_room(event.room_updated)
        if self.is_recording != recording:
            self._emit(events.RecordingChanged(recording=self.is_recording))

    def _on_moved(self, event: room_pb.RoomEvent) -> None:
        previous = self.name
        self._read_room(event.moved)
        self.metadata = event.moved.metadata
        self._emit(events.RoomMoved(previous_name=previous, name=self.name))

    def _on_token_refreshed(self, event: room_pb.RoomEvent) -> None:
        # Kept, and told to nobody: not in an event, not in the log.
        self.token = event.token_refreshed.token

    def _on_e2ee_state_changed(self, event: room_pb.RoomEvent) -> None:
        change = event.e2ee_state_changed
        found = self._participant(change.participant_identity)
        if found is not None:
            self._emit(events.EncryptionStateChanged(participant=found[1], state=state_of(change.state)))

    def _on_participant_encryption_status_changed(self, event: room_pb.RoomEvent) -> None:
        change = event.participant_encryption_status_changed
        found = self._participant(change.participant_identity)
        if found is not None:
            found[0].encrypted = change.is_encrypted
            self._emit(events.EncryptionStatusChanged(participant=found[1], encrypted=change.is_encrypted))

    def _on_data_channel_low_threshold_changed(self, event: room_pb.RoomEvent) -> None:
        """What was asked for, and is known here."""

    def _on_connection_state_changed(self, event: room_pb.RoomEvent) -> None:
        self.state = ConnectionState(event.connection_state_changed.state)
        self._link.reconnecting = self.state is ConnectionState.RECONNECTING

    def _on_reconnecting(self, event: room_pb.RoomEvent) -> None:
        self._emit(events.Reconnecting())

    def _on_reconnected(self, event: room_pb.RoomEvent) -> None:
        self._emit(events.Reconnected())
