"""One participant's connection to rooms in memory: the library's requests in, its events out.

The order of events is the one observed on a real livekit-server 1.13.5 through the real library.  Requests change the
ledger at once; every event goes through the connection's mailbox, so nothing is ever delivered inside a request, and
what one connection hears keeps its order.

How long each of them takes is the rooms' :class:`~livekit_agent.rooms.Delays`; they never change the order of what one
connection hears.  What a real server does and this does not: its media is compressed (here exact, see
``_memory_media``), and a connection that is interrupted gets its data later (here at once).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import _bounds
from .._errors import RoomError, RoomPermissionError
from ._enums import DisconnectReason, TrackSource
from ._ledger_events import (
    DataSent,
    LedgerEvent,
    ParticipantChanged,
    ParticipantEntered,
    ParticipantGone,
    ParticipantRecord,
    QualityJudged,
    RoomChanged,
    RoomRecord,
    SpeakersHeard,
    TrackAdded,
    TrackGone,
    TrackMuteChanged,
    TrackRecord,
)
from ._mailbox import Mailbox, current_loop
from ._memory_encryption import MemoryEncryption
from ._memory_media import LocalMedia, MemoryMedia, published_media
from ._memory_network import Line, Wire
from ._memory_reconnect import MemoryReconnect
from ._memory_rpc import MemoryRpc
from ._memory_streams import MemoryStreams
from ._memory_subscriptions import MemoryPublication, MemorySubscriptions
from ._proto import ffi, handle
from ._proto import participant as participant_pb
from ._proto import room as room_pb
from ._proto import track as track_pb
from ._transport import Router
from ._wire import callback, participant_info, permission, publication_info, room_info

if TYPE_CHECKING:
    from ._memory import MemoryRooms

__all__ = ["MemoryTransport"]

_PACKET_HEADER_BYTES = 43


class MemoryTransport(MemoryRpc, MemoryStreams, MemoryReconnect, MemoryEncryption, MemoryMedia, MemorySubscriptions):
    """A transport over the ledger (see ``_transport``)."""

    def __init__(self, rooms: MemoryRooms, deliver: Callable[[ffi.FfiEvent], None] | None = None) -> None:
        """``deliver`` is where events go if not to the router: the participant is in another process."""
        MemoryRpc.__init__(self)
        MemoryStreams.__init__(self)
        MemoryReconnect.__init__(self)
        MemoryEncryption.__init__(self)
        MemorySubscriptions.__init__(self)
        self._rooms = rooms
        loop = current_loop()
        self.router = Router(self)
        self._mailbox: Mailbox[ffi.FfiEvent] = Mailbox(deliver or self.router.deliver, post=loop.post_here)
        self._line: Line[ffi.FfiEvent] = Line(rooms.clock, self._mailbox.put)
        self._reliable: Wire[DataSent] = Wire(rooms.clock, self._tell_data)
        self._lossy: Wire[DataSent] = Wire(rooms.clock, self._tell_data)
        self._news: dict[str, LedgerEvent] = {}
        self._objects: dict[int, object] = {}
        self._next_handle = 1
        self._wanted_handle = 0
        self._next_address = 1
        self._lent: dict[int, bytes] = {}
        self.remote = deliver is not None
        self.sid = ""
        """Our participant, once joined."""
        self.room_name = ""
        self._identity = ""
        self._room_handle = 0
        self._local_handle = 0
        self._ready = False
        self._held: list[ffi.FfiEvent] = []
        self._ended = False
        self._disconnecting: list[int] = []
        self._heard_tracks: dict[str, None] = {}
        self._republished: dict[str, None] = {}

    @property
    def live_handles(self) -> int:
        """How many handles were given out and not dropped."""
        return len(self._objects)

    # --- the seam -------------------------------------------------------------------------------------------------

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        """Answer a request of the library's protocol."""
        kind = request.WhichOneof("message")
        handler: Callable[[Any], ffi.FfiResponse] | None = getattr(self, f"_do_{kind}", None)
        if handler is None:
            raise RoomError(f"rooms in memory do not know the request {kind}")
        return handler(getattr(request, kind or ""))

    def drop(self, handle_id: int) -> bool:
        """Take a handle back."""
        value = self._objects.pop(handle_id, None)
        self._forget_reader(value)
        self._forget_data_stream(value)
        self.dropped_media(value)
        if value is None:
            self._rooms.media.tell("stray", self.sid, handle_id)
        return value is not None

    def close(self) -> None:
        """Whoever is behind this connection has gone: leave the room, take every handle back.  Idempotent."""
        if self.sid and not self._ended:
            self._rooms.departed(self, DisconnectReason.UNKNOWN)
        for handle_id in reversed(list(self._objects)):
            self.drop(handle_id)

    @contextmanager
    def lend(self, data: bytes) -> Generator[int]:
        """A pretended address, good for the block."""
        address = self._next_address
        self._next_address += 1
        self._lent[address] = data
        try:
            yield address
        finally:
            del self._lent[address]

    def read(self, buffer: room_pb.BufferInfo) -> bytes:
        """The bytes behind a pretended address: the buffer's handle."""
        data = self._objects[buffer.data_ptr]
        assert isinstance(data, bytes)
        return data

    # --- helpers --------------------------------------------------------------------------------------------------

    def give_next(self, handle_id: int) -> bool:
        """The next handle to be given is that one: its owner, in another process, has chosen it.  0: none.

        False if it is in use.
        """
        self._wanted_handle = handle_id
        return handle_id not in self._objects

    def _give(self, value: object) -> handle.FfiOwnedHandle:
        handle_id, self._wanted_handle = self._wanted_handle or self._next_handle, 0
        self._next_handle += handle_id == self._next_handle
        self._objects[handle_id] = value
        return handle.FfiOwnedHandle(id=handle_id)

    def _object(self, handle_id: int, kind: type[Any]) -> Any:
        value = self._objects.get(handle_id)
        if not isinstance(value, kind):
            raise RoomError("the request was rejected: unknown handle")
        return value

    def _answer(self, event: ffi.FfiEvent) -> None:
        """A callback.  Once the room has ended none comes any more, as with the real library."""
        if not self._ended:
            self._put(event)

    def _put(self, event: ffi.FfiEvent) -> None:
        """Queue an event in our line, with the delay of its kind."""
        delays = self._rooms.delays
        kind = event.WhichOneof("message") or ""
        if kind == "capture_audio_frame":
            # Comes from the thread that plays, and waits for nothing else.
            self._mailbox.put(event)
            return
        if kind == "room_event":
            kind = event.room_event.WhichOneof("message") or ""
        self._line.put(event, delays.events.get(kind, delays.other))

    def _consume(self, handle_id: int) -> None:
        """A request has used a handle up."""
        self._objects.pop(handle_id, None)

    def _send_event(self, event: ffi.FfiEvent) -> None:
        """An event that is not about the room."""
        if not self._ended:
            self._put(event)

    def _tell(self, **message: Any) -> None:
        """A room event; held back until we are ready."""
        event = ffi.FfiEvent(room_event=room_pb.RoomEvent(room_handle=self._room_handle, **message))
        if self._ready:
            self._put(event)
        else:
            self._held.append(event)

    def _sees(self, person: ParticipantRecord) -> bool:
        return person.sid != self.sid and not person.permissions.hidden

    # --- coming and going -----------------------------------------------------------------------------------------

    def _do_connect(self, request: room_pb.ConnectRequest) -> ffi.FfiResponse:
        self._auto_subscribe = request.options.auto_subscribe
        self._join_encrypted(request.options)
        if request.url in self._rooms.unreachable:
            text = "signal failure: transport connection error: IO error: Connection refused (os error 111)"
            self.refuse(request.request_async_id, text)
            return ffi.FfiResponse(connect=room_pb.ConnectResponse(async_id=request.request_async_id))
        self._rooms.admit(self, request.token, request.request_async_id)
        return ffi.FfiResponse(connect=room_pb.ConnectResponse(async_id=request.request_async_id))

    def refuse(self, async_id: int, error: str) -> None:
        """The join failed."""
        self._put(callback("connect", async_id, error))

    def welcome(self, async_id: int, room: RoomRecord, me: ParticipantRecord) -> None:
        """The join succeeded: the callback, with everybody who is there."""
        self.sid, self.room_name, self._identity = me.sid, room.name, me.identity
        people = self._rooms.ledger.participants(room.name)
        owned_room = room_pb.OwnedRoom(handle=self._give("room"), info=room_info(room, people))
        self._room_handle = owned_room.handle.id
        event = ffi.FfiEvent(connect=room_pb.ConnectCallback(async_id=async_id))
        result = event.connect.result
        result.room.CopyFrom(owned_room)
        result.local_participant.CopyFrom(
            participant_pb.OwnedParticipant(handle=self._give("local"), info=participant_info(me, state=0))
        )
        self._local_handle = result.local_participant.handle.id
        for person in people:
            if self._sees(person):
                entry = result.participants.add()
                entry.participant.CopyFrom(self._own_participant(person))
                for track in person.tracks:
                    entry.publications.append(self._own_publication(person, track))
        self._put(event)

    def _own_participant(self, person: ParticipantRecord) -> participant_pb.OwnedParticipant:
        return participant_pb.OwnedParticipant(handle=self._give("participant"), info=participant_info(person))

    def _own_publication(self, person: ParticipantRecord, track: TrackRecord) -> track_pb.OwnedTrackPublication:
        return track_pb.OwnedTrackPublication(
            handle=self._give(MemoryPublication(track.sid, person.identity)), info=publication_info(track, remote=True)
        )

    def _do_ready_for_room_event(self, request: room_pb.ReadyForRoomEventRequest) -> ffi.FfiResponse:
        self._object(request.room_handle, str)
        if not self._ready:
            self._ready = True
            held, self._held = self._held, []
            if not self._ended:
                self._tell(room_sid_changed=room_pb.RoomSidChanged(sid=self._rooms.sid_of(self.room_name)))
                self._tell(connection_state_changed=room_pb.ConnectionStateChanged(state=room_pb.CONN_CONNECTED))
                self._tell_token()
            for event in held:
                self._put(event)
            if not self._ended:
                self._announce_data_tracks()
                for person in self._rooms.ledger.participants(self.room_name):
                    for track in person.tracks if self._sees(person) else ():
                        self._subscribe(person, track)
        return ffi.FfiResponse(ready_for_room_event=room_pb.ReadyForRoomEventResponse())

    def _tell_token(self) -> None:
        self._tell(token_refreshed=room_pb.TokenRefreshed(token="in-memory"))  # noqa: S106 - not one

    def _do_disconnect(self, request: room_pb.DisconnectRequest) -> ffi.FfiResponse:
        self._object(request.room_handle, str)
        async_id = request.request_async_id
        if self._ended:
            self._put(callback("disconnect", async_id))
        else:
            self._disconnecting.append(async_id)
            reason = request.reason if request.HasField("reason") else DisconnectReason.CLIENT_INITIATED
            self._rooms.departed(self, reason)
        return ffi.FfiResponse(disconnect=room_pb.DisconnectResponse(async_id=async_id))

    def end(self, reason: int, tracks: tuple[TrackRecord, ...] = ()) -> None:
        """The room is over for us."""
        if self._ended:
            return
        self._fail_callers()
        self._end_streams()
        self._rooms.forget_schemas(self.sid)
        state = room_pb.ConnectionStateChanged(state=room_pb.CONN_DISCONNECTED)
        self._tell(connection_state_changed=state)
        wire_reason: Any = reason
        self._tell(disconnected=room_pb.Disconnected(reason=wire_reason))
        for track in tracks:
            self._tell(local_track_unpublished=room_pb.LocalTrackUnpublished(publication_sid=track.sid))
        self._tell(eos=room_pb.RoomEOS())
        for async_id in self._disconnecting:
            self._answer(callback("disconnect", async_id))
        self._ended = True

    def reconnecting(self) -> None:
        """The connection broke."""
        state = room_pb.ConnectionStateChanged(state=room_pb.CONN_RECONNECTING)
        self._tell(connection_state_changed=state)
        self._tell(reconnecting=room_pb.Reconnecting())

    def reconnected(self) -> None:
        """The connection is back, with everything as it was (a resume)."""
        state = room_pb.ConnectionStateChanged(state=room_pb.CONN_CONNECTED)
        self._tell(connection_state_changed=state)
        self._tell(reconnected=room_pb.Reconnected())

    def rejoined(self, me: ParticipantRecord, renewed: dict[str, str]) -> None:
        """The connection is back, made anew: everybody comes again, and our tracks have new sids."""
        self.sid = me.sid
        others = [person for person in self._rooms.ledger.participants(self.room_name) if self._sees(person)]
        for person in others:
            for track in person.tracks:
                self._take_back(person, track)
            gone = room_pb.ParticipantDisconnected(participant_identity=person.identity, disconnect_reason=0)  # pyright: ignore[reportArgumentType] - an enum's number
            self._tell(participant_disconnected=gone)
        for person in others:
            self._tell(participant_connected=room_pb.ParticipantConnected(info=self._own_participant(person)))
            self._tell(participant_active=room_pb.ParticipantActive(participant_identity=person.identity))
        self._tell_token()
        for track in me.tracks:
            self._republish(track, next(old for old, new in renewed.items() if new == track.sid))
        self.reconnected()
        for person in others:
            if any(track.encrypted for track in person.tracks):
                self._tell_encrypted(person, True)
            for track in person.tracks:
                publication = self._own_publication(person, track)
                published = room_pb.TrackPublished(participant_identity=person.identity, publication=publication)
                self._tell(track_published=published)
                self._subscribe(person, track)
        self._tell_updated(me)

    def _republish(self, track: TrackRecord, previous: str) -> None:
        self._republished[track.sid] = None
        for value in self._objects.values():
            if isinstance(value, LocalMedia) and value.sid == previous and value.source is not None:
                value.sid = track.sid
                self._rooms.media.publish(track, value.source, self.room_name, self._identity)
        self._rooms.media.mute(track.sid, track.muted)
        republished = room_pb.LocalTrackRepublished(
            publication_handle=self._give(MemoryPublication(track.sid, self._identity)).id,
            previous_sid=previous,
            info=publication_info(track, remote=False),
        )
        self._tell(local_track_republished=republished)

    # --- what we do -----------------------------------------------------------------------------------------------

    def _do_publish_data(self, request: room_pb.PublishDataRequest) -> ffi.FfiResponse:
        data = self._lent[request.data_ptr][: request.data_len]
        size = len(data) + len(request.topic.encode()) + _PACKET_HEADER_BYTES
        async_id = request.request_async_id
        limit = _bounds.DATA_PACKET_BYTES_MAX
        if size > limit:
            text = f"data packet size ({size} bytes) exceeds the negotiated maximum message size ({limit} bytes)"
            self._answer(callback("publish_data", async_id, text))
        elif not self._ended:
            self._rooms.ledger.send_data(
                self.sid,
                data,
                topic=request.topic,
                reliable=request.reliable,
                destinations=tuple(request.destination_identities),
            )
            self._count_sent("_reliable" if request.reliable else "_lossy", len(data))
            self._answer(callback("publish_data", async_id))
            self._rooms.settle()
        return ffi.FfiResponse(publish_data=room_pb.PublishDataResponse(async_id=async_id))

    def _do_set_local_metadata(self, request: room_pb.SetLocalMetadataRequest) -> ffi.FfiResponse:
        self._change("set_local_metadata", request.request_async_id, metadata=request.metadata)
        response = room_pb.SetLocalMetadataResponse(async_id=request.request_async_id)
        return ffi.FfiResponse(set_local_metadata=response)

    def _do_set_local_name(self, request: room_pb.SetLocalNameRequest) -> ffi.FfiResponse:
        self._change("set_local_name", request.request_async_id, name=request.name)
        return ffi.FfiResponse(set_local_name=room_pb.SetLocalNameResponse(async_id=request.request_async_id))

    def _do_set_local_attributes(self, request: room_pb.SetLocalAttributesRequest) -> ffi.FfiResponse:
        attributes = {entry.key: entry.value for entry in request.attributes}
        self._change("set_local_attributes", request.request_async_id, attributes=attributes)
        response = room_pb.SetLocalAttributesResponse(async_id=request.request_async_id)
        return ffi.FfiResponse(set_local_attributes=response)

    def _change(self, kind: str, async_id: int, **change: Any) -> None:
        if self._ended:
            return
        error: str | None = None
        try:
            self._rooms.ledger.change_own(self.sid, **change)
        except RoomError as exc:
            error = f"request error: {exc}"
        self._rooms.settle()
        self._answer(callback(kind, async_id, error))

    # --- our tracks -----------------------------------------------------------------------------------------------

    def _do_publish_track(self, request: room_pb.PublishTrackRequest) -> ffi.FfiResponse:
        track: LocalMedia = self._object(request.track_handle, LocalMedia)
        async_id = request.request_async_id
        if not self._ended:
            try:
                record = self._rooms.ledger.publish(
                    self.sid,
                    name=track.name,
                    kind=track.kind,
                    source=TrackSource(request.options.source),
                    **published_media(track, request.options, encrypted=self.encrypts),
                )
            except RoomPermissionError:
                # The real server says nothing, and the library gives up.
                text = "room failure: track publication timed out, no response received from the server"
                self._rooms.clock.later(10.0, lambda: self._answer(callback("publish_track", async_id, text)))
            else:
                track.sid = record.sid
                self._rooms.media.publish(record, track.source, self.room_name, self._identity)
                event = callback("publish_track", async_id)
                publication = event.publish_track.publication
                publication.handle.CopyFrom(self._give(MemoryPublication(record.sid, self._identity)))
                publication.info.CopyFrom(publication_info(record, remote=False))
                self._answer(event)
                self._rooms.settle()
        return ffi.FfiResponse(publish_track=room_pb.PublishTrackResponse(async_id=async_id))

    def _do_unpublish_track(self, request: room_pb.UnpublishTrackRequest) -> ffi.FfiResponse:
        async_id = request.request_async_id
        if not self._ended:
            found = self._rooms.ledger.unpublish(self.sid, request.track_sid)
            self._rooms.settle()
            self._answer(callback("unpublish_track", async_id, None if found else "room failure: track not found"))
        return ffi.FfiResponse(unpublish_track=room_pb.UnpublishTrackResponse(async_id=async_id))

    def _do_local_track_mute(self, request: track_pb.LocalTrackMuteRequest) -> ffi.FfiResponse:
        track: LocalMedia = self._object(request.track_handle, LocalMedia)
        if track.sid and not self._ended:
            self._rooms.ledger.mute(self.sid, track.sid, request.mute)
            self._rooms.settle()
        return ffi.FfiResponse(local_track_mute=track_pb.LocalTrackMuteResponse(muted=request.mute))

    def heard(self, track_sid: str) -> None:
        """Somebody subscribed to a track of ours; the first time is told."""
        self._rooms.media.joined(track_sid)
        if track_sid not in self._heard_tracks:
            self._heard_tracks[track_sid] = None
            self._tell(local_track_subscribed=room_pb.LocalTrackSubscribed(track_sid=track_sid))

    # --- what we hear ---------------------------------------------------------------------------------------------

    def hear(self, event: LedgerEvent) -> None:
        """Something happened in our room."""
        if isinstance(event, ParticipantGone) and event.participant.sid == self.sid:
            self.end(event.reason, event.participant.tracks)
            return
        if self._is_our_rejoining(event):
            return
        if not self._ended and not (self._rooms.delays.news > 0 and self._held_back(event)):
            self._hear(event)

    def _is_our_rejoining(self, event: LedgerEvent) -> bool:
        """Our own going, coming and publishing again, which :meth:`rejoined` has told."""
        match event:
            case ParticipantGone(participant=person):
                return person.identity == self._identity
            case TrackAdded(track=track):
                return track.sid in self._republished
            case _:
                return False

    def _held_back(self, event: LedgerEvent) -> bool:
        """Whether a server would keep that news for a while: comings and goings of somebody who publishes nothing."""
        person: ParticipantRecord | None = getattr(event, "participant", None)
        if person is None or not self._sees(person):
            return False
        before = self._news.pop(person.identity, None)
        match event:
            case ParticipantGone() if isinstance(before, ParticipantEntered):
                return True  # it never was there
            case ParticipantChanged() if isinstance(before, ParticipantEntered):
                # Announced at once, as it is now.
                self._hear(ParticipantEntered(room=event.room, participant=person))
                return True
            case ParticipantEntered() | ParticipantGone() if not person.has_published:
                if before is not None:
                    self._hear(before)
                self._news[person.identity] = event
                self._rooms.clock.later(self._rooms.delays.news, lambda: self._tell_news(person.identity, event))
                return True
            case _:
                if before is not None:
                    self._hear(before)
                return False

    def publishes(self, identity: str) -> None:
        """Somebody publishes something, so it is no longer held back that it is there."""
        before = self._news.pop(identity, None)
        if before is not None:
            self._hear(before)

    def _tell_news(self, identity: str, event: LedgerEvent) -> None:
        if self._news.get(identity) is event:
            del self._news[identity]
            if not self._ended:
                self._hear(event)

    def _hear(self, event: LedgerEvent) -> None:
        if isinstance(event, ParticipantEntered | ParticipantGone) and event.participant.permissions.recorder:
            self._tell(room_updated=room_info(event.room, self._rooms.ledger.participants(self.room_name)))
        match event:
            case ParticipantEntered(participant=person):
                if self._sees(person):
                    connected = room_pb.ParticipantConnected(info=self._own_participant(person))
                    self._tell(participant_connected=connected)
                    self._tell(participant_active=room_pb.ParticipantActive(participant_identity=person.identity))
            case ParticipantGone(participant=person, reason=reason):
                self._sender_left(person.identity)
                if not person.permissions.hidden:
                    for track in person.tracks:
                        self._take_back(person, track)
                    wire_reason: Any = reason
                    self._tell(
                        participant_disconnected=room_pb.ParticipantDisconnected(
                            participant_identity=person.identity, disconnect_reason=wire_reason
                        )
                    )
                    self._publisher_left(person.sid)
            case ParticipantChanged():
                self._hear_change(event)
            case TrackAdded() | TrackGone() | TrackMuteChanged():
                self._hear_track(event)
            case DataSent():
                self._hear_data(event)
            case SpeakersHeard(identities=identities):
                heard = room_pb.ActiveSpeakersChanged(participant_identities=list(identities))
                self._tell(active_speakers_changed=heard)
            case QualityJudged(participant=person, quality=quality):
                wire_quality: Any = quality
                judged = room_pb.ConnectionQualityChanged(participant_identity=person.identity, quality=wire_quality)
                self._tell(connection_quality_changed=judged)
            case RoomChanged(room=room):
                self._tell(room_metadata_changed=room_pb.RoomMetadataChanged(metadata=room.metadata))
                self._tell(room_updated=room_info(room, self._rooms.ledger.participants(room.name)))
            case _:
                pass

    def _hear_track(self, event: TrackAdded | TrackGone | TrackMuteChanged) -> None:
        person, track = event.participant, event.track
        own = person.sid == self.sid
        if not own and person.permissions.hidden:
            return
        match event:
            case TrackAdded() if own:
                self._tell(local_track_published=room_pb.LocalTrackPublished(track_sid=track.sid))
                self._tell_updated(person)
            case TrackAdded():
                if track.encrypted and len(person.tracks) == 1:
                    self._tell_encrypted(person, True)
                publication = self._own_publication(person, track)
                published = room_pb.TrackPublished(participant_identity=person.identity, publication=publication)
                self._tell(track_published=published)
                self._subscribe(person, track)
            case TrackGone() if own:
                gone = room_pb.LocalTrackUnpublished(publication_sid=track.sid)
                self._tell(local_track_unpublished=gone)
            case TrackGone():
                self._take_back(person, track)
            case TrackMuteChanged():
                # A server's mute reaches the publisher twice: by itself and with the participant.
                for _ in range(2 if own and event.by_server else 1):
                    self._tell_mute(person, track)

    def _tell_mute(self, person: ParticipantRecord, track: TrackRecord) -> None:
        if track.muted:
            self._tell(track_muted=room_pb.TrackMuted(participant_identity=person.identity, track_sid=track.sid))
        else:
            self._tell(track_unmuted=room_pb.TrackUnmuted(participant_identity=person.identity, track_sid=track.sid))

    def _hear_data(self, event: DataSent) -> None:
        if self.sid not in event.receivers:
            return
        sender = None if event.sender is None else self._rooms.connection(event.sender.sid)
        if sender is not None and not self.can_read(sender):
            return
        wires = self._rooms.wiring.among(self.sid, event.sender.sid if event.sender is not None else "")
        if wires:
            wire = self._reliable if event.reliable else self._lossy
            wire.put(event, wires, self._rooms.wiring.rng, lossy=not event.reliable)
        else:
            self._tell_data(event)

    def _tell_data(self, event: DataSent) -> None:
        if self._ended:
            return
        self._count_received("_reliable" if event.reliable else "_lossy", len(event.data))
        owned = self._give(event.data)
        buffer = room_pb.BufferInfo(data_ptr=owned.id, data_len=len(event.data))
        packet = room_pb.DataPacketReceived(
            kind=room_pb.KIND_RELIABLE if event.reliable else room_pb.KIND_LOSSY,
            participant_identity=self._known_as(event.sender),
            user=room_pb.UserPacket(data=room_pb.OwnedBuffer(handle=owned, data=buffer), topic=event.topic),
        )
        self._tell(data_packet_received=packet)

    def _known_as(self, sender: ParticipantRecord | None) -> str:
        """The identity that the library tells with a packet: none of somebody whom it was not told of."""
        if sender is None or isinstance(self._news.get(sender.identity), ParticipantEntered):
            return ""
        return sender.identity

    def _hear_change(self, event: ParticipantChanged) -> None:
        """One event for each changed field, each followed by the participant as a whole and, for us, a new token."""
        person, previous = event.participant, event.previous
        own = person.sid == self.sid
        if not own and person.permissions.hidden:
            return
        identity = person.identity
        changes: list[dict[str, Any]] = []
        if person.metadata != previous.metadata:
            metadata = room_pb.ParticipantMetadataChanged(participant_identity=identity, metadata=person.metadata)
            changes.append({"participant_metadata_changed": metadata})
        if person.name != previous.name:
            name = room_pb.ParticipantNameChanged(participant_identity=identity, name=person.name)
            changes.append({"participant_name_changed": name})
        if event.changed_attributes:
            attributes = room_pb.ParticipantAttributesChanged(
                participant_identity=identity,
                attributes=_entries(person.attributes),
                changed_attributes=_entries(event.changed_attributes),
            )
            changes.append({"participant_attributes_changed": attributes})
        if person.permissions != previous.permissions:
            allowed = room_pb.ParticipantPermissionChanged(
                participant_identity=identity, permission=permission(person.permissions)
            )
            changes.append({"participant_permission_changed": allowed})
        for change in changes:
            self._tell(**change)
            self._tell_updated(person)
            if own:
                self._tell_token()
        if own and not person.permissions.can_publish_data:
            self.take_back_data_tracks()
        if own and person.permissions.can_subscribe != previous.permissions.can_subscribe:
            self._reconsider_subscriptions(person)

    def _tell_updated(self, person: ParticipantRecord) -> None:
        updated = room_pb.ParticipantsUpdated(participants=[participant_info(person)])
        self._tell(participants_updated=updated)


def _entries(values: Any) -> list[room_pb.AttributesEntry]:
    return [room_pb.AttributesEntry(key=key, value=value) for key, value in values.items()]
