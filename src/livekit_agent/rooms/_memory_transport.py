"""One participant's connection to rooms in memory: the library's requests in, its events out.

The order of events is the one observed on a real livekit-server 1.13.5 through the real library.  Requests change the
ledger at once; every event goes through the connection's mailbox, so nothing is ever delivered inside a request, and
what one connection hears keeps its order.

How long each of them takes is the rooms' :class:`~livekit_agent.rooms.Delays`; they never change the order of what one
connection hears.  What a real server does and this does not: its media is compressed (here exact, see
``_memory_hub``), and a connection that is interrupted gets its data later (here at once).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from .. import _bounds
from .._errors import RoomError, RoomPermissionError
from ._enums import DisconnectReason, TrackSource
from ._ledger_events import (
    ParticipantRecord,
    RoomRecord,
    TrackRecord,
)
from ._mailbox import Mailbox, current_loop
from ._memory_hearing import MemoryHearing
from ._memory_hub import LocalMedia
from ._memory_media import MemoryMedia, published_media
from ._memory_network import Line
from ._memory_subscriptions import MemoryPublication
from ._proto import ffi, handle
from ._proto import participant as participant_pb
from ._proto import room as room_pb
from ._proto import track as track_pb
from ._transport import Router
from ._wire import callback, participant_info, publication_info

if TYPE_CHECKING:
    from ._memory import MemoryRooms

__all__ = ["MemoryTransport"]

_PACKET_HEADER_BYTES = 43


class MemoryTransport(MemoryHearing, MemoryMedia):
    """A transport over the ledger (see ``_transport``)."""

    def __init__(self, rooms: MemoryRooms, deliver: Callable[[ffi.FfiEvent], None] | None = None) -> None:
        """``deliver`` is where events go if not to the router: the participant is in another process."""
        self._rooms = rooms
        MemoryHearing.__init__(self)
        loop = current_loop()
        self.router = Router(self)
        self._mailbox: Mailbox[ffi.FfiEvent] = Mailbox(deliver or self.router.deliver, post=loop.post_here)
        self._line: Line[ffi.FfiEvent] = Line(rooms.clock, self._mailbox.put)
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
        owned_room = room_pb.OwnedRoom(handle=self._give("room"), info=self._rooms.info_of(room))
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
