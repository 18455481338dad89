"""Rooms in memory: data tracks.

As observed on a real server: who joins later hears of them after it is ready, a sender's burst overflows a small queue
that empties when the event loop runs, a subscriber's buffer drops the oldest, and who leaves takes its tracks along,
after itself.  Unlike there nothing is lost on the way, and a subscription takes effect at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from .._bounds import DATA_TRACK_NAME_CHARS_MAX, DATA_TRACK_PUSH_FRAMES_MAX
from ._data_tracks import info_message
from ._mailbox import current_loop
from ._memory_rpc import MemoryPeer
from ._proto import data_track, ffi
from ._proto import room as room_pb
from ._wire import callback

__all__ = ["MemoryDataTracks"]


@dataclass(slots=True, eq=False)
class _Published:
    """A track, as its publisher holds it."""

    info: data_track.DataTrackInfo
    publisher: MemoryDataTracks
    queue: deque[data_track.DataTrackFrame] = field(default_factory=deque[data_track.DataTrackFrame])
    streams: dict[_Stream, None] = field(default_factory=dict["_Stream", None])
    open: bool = True


@dataclass(slots=True, eq=False)
class _Seen:
    """A track, as somebody else holds it."""

    track: _Published
    publisher: str
    """Its sid when it was announced: a full reconnect gives it another."""
    over: bool = False
    """Its holder was told that it is gone."""


@dataclass(slots=True, eq=False)
class _Stream:
    """One subscription: what waits, and whether somebody has asked for it."""

    home: MemoryDataTracks
    track: _Published
    capacity: int
    handle_id: int = 0
    asked: bool = False
    waiting: deque[data_track.DataTrackFrame] = field(default_factory=deque[data_track.DataTrackFrame])


class MemoryDataTracks(MemoryPeer):
    """The requests about data tracks."""

    def __init__(self) -> None:
        self._data_tracks: dict[str, _Published] = {}
        self._post: Callable[[Callable[[], object]], object] = current_loop().post_here

    def _encrypted(self) -> bool:
        this: Any = self
        return this.encrypts

    def _count_sent(self, label: str, size: int) -> None:
        raise NotImplementedError

    def _count_received(self, label: str, size: int) -> None:
        raise NotImplementedError

    # --- ours -----------------------------------------------------------------------------------------------------

    def _do_publish_data_track(self, request: data_track.PublishDataTrackRequest) -> ffi.FfiResponse:
        async_id = request.request_async_id
        event = ffi.FfiEvent(publish_data_track=data_track.PublishDataTrackCallback(async_id=async_id))
        answer = event.publish_data_track
        name = request.options.name
        if not self._may_publish_data():
            answer.error.code = data_track.PUBLISH_DATA_TRACK_ERROR_CODE_NOT_ALLOWED
            answer.error.message = "Data track publishing unauthorized"
        elif not 0 < len(name) <= DATA_TRACK_NAME_CHARS_MAX:
            answer.error.code = data_track.PUBLISH_DATA_TRACK_ERROR_CODE_INVALID_NAME
            answer.error.message = "Track name invalid"
        elif name in self._data_tracks:
            answer.error.code = data_track.PUBLISH_DATA_TRACK_ERROR_CODE_DUPLICATE_NAME
            answer.error.message = "Track name already taken"
        else:
            info = info_message(self._rooms.ledger.new_id("DTR_"), request.options, uses_e2ee=self._encrypted())
            track = self._data_tracks[name] = _Published(info, self)
            self._rooms.ledger.note_published(self.sid)
            for hearer in self._hearers(()):
                hearer.data_track_announced(track)
            answer.track.handle.CopyFrom(self._give(track))
            answer.track.info.CopyFrom(info)
        self._answer(event)
        return ffi.FfiResponse(publish_data_track=data_track.PublishDataTrackResponse(async_id=async_id))

    def _do_local_data_track_try_push(self, request: data_track.LocalDataTrackTryPushRequest) -> ffi.FfiResponse:
        track: _Published = self._object(request.track_handle, _Published)
        response = data_track.LocalDataTrackTryPushResponse()
        if not track.open:
            response.error.code = data_track.LOCAL_DATA_TRACK_TRY_PUSH_ERROR_CODE_TRACK_UNPUBLISHED
            response.error.message = "Failed to publish frame: track unpublished"
        elif not self.remote and len(track.queue) >= DATA_TRACK_PUSH_FRAMES_MAX:
            response.error.code = data_track.LOCAL_DATA_TRACK_TRY_PUSH_ERROR_CODE_QUEUE_FULL
            response.error.message = "Failed to publish frame: queue full"
        else:
            if not track.queue:
                self._post(lambda: _carry(track))
            frame = data_track.DataTrackFrame()
            frame.CopyFrom(request.frame)
            self._count_sent("_data_track", len(frame.payload))
            track.queue.append(frame)
        return ffi.FfiResponse(local_data_track_try_push=response)

    def _do_local_data_track_is_published(
        self, request: data_track.LocalDataTrackIsPublishedRequest
    ) -> ffi.FfiResponse:
        track: _Published = self._object(request.track_handle, _Published)
        response = data_track.LocalDataTrackIsPublishedResponse(is_published=track.open)
        return ffi.FfiResponse(local_data_track_is_published=response)

    def _do_local_data_track_unpublish(self, request: data_track.LocalDataTrackUnpublishRequest) -> ffi.FfiResponse:
        track: _Published = self._object(request.track_handle, _Published)
        self._take_back_data_track(track)
        return ffi.FfiResponse(local_data_track_unpublish=data_track.LocalDataTrackUnpublishResponse())

    def _take_back_data_track(self, track: _Published) -> None:
        if not track.open:
            return
        track.open = False
        self._data_tracks.pop(track.info.name, None)
        for stream in list(track.streams):
            stream.home.data_stream_over(stream)
        for person in self._rooms.ledger.participants(self.room_name):
            hearer = self._rooms.connection(person.sid)
            if hearer is not None and hearer is not self:
                hearer.tell_data_track_gone(track.info.sid)

    def take_back_data_tracks(self) -> None:
        """We may not publish any more."""
        for track in list(self._data_tracks.values()):
            self._take_back_data_track(track)

    # --- other people's -------------------------------------------------------------------------------------------

    def data_track_announced(self, track: _Published) -> None:
        """Somebody publishes a track."""
        if not self._ready:
            return  # heard when we are
        self.publishes(track.publisher._identity)
        owned = data_track.OwnedRemoteDataTrack(
            handle=self._give(_Seen(track, track.publisher.sid)),
            info=track.info,
            publisher_identity=track.publisher._identity,
        )
        self._tell(data_track_published=room_pb.DataTrackPublished(track=owned))

    def tell_data_track_gone(self, sid: str) -> None:
        """It is no longer published."""
        for seen in self._seen():
            seen.over |= seen.track.info.sid == sid
        self._tell(data_track_unpublished=room_pb.DataTrackUnpublished(sid=sid))

    def _seen(self) -> list[_Seen]:
        return [value for value in self._objects.values() if isinstance(value, _Seen)]

    def _publisher_left(self, sid: str) -> None:
        """Somebody has left: its tracks go after it.  Told late, perhaps, when its connection is long gone."""
        for track in [seen.track for seen in self._seen() if seen.publisher == sid and not seen.over]:
            track.open = False
            for stream in [stream for stream in track.streams if stream.home is self]:
                self.data_stream_over(stream)
            self.tell_data_track_gone(track.info.sid)

    def _announce_data_tracks(self) -> None:
        """We are ready: those that are there."""
        for person in self._rooms.ledger.participants(self.room_name):
            other: Any = self._rooms.connection(person.sid)
            if other is not None and other is not self:
                for track in other._data_tracks.values():
                    self.data_track_announced(track)

    def _do_subscribe_data_track(self, request: data_track.SubscribeDataTrackRequest) -> ffi.FfiResponse:
        seen: _Seen = self._object(request.track_handle, _Seen)
        stream = _Stream(self, seen.track, max(1, request.options.buffer_size))
        response = ffi.FfiResponse()
        owned = response.subscribe_data_track.stream
        owned.handle.CopyFrom(self._give(stream))
        stream.handle_id = owned.handle.id
        if seen.track.open and self._may_subscribe():
            seen.track.streams[stream] = None
        return response

    def _do_data_track_stream_read(self, request: data_track.DataTrackStreamReadRequest) -> ffi.FfiResponse:
        stream: _Stream = self._object(request.stream_handle, _Stream)
        stream.asked = True
        _serve(stream)
        return ffi.FfiResponse(data_track_stream_read=data_track.DataTrackStreamReadResponse())

    def _do_remote_data_track_set_pipeline_options(
        self, request: data_track.RemoteDataTrackSetPipelineOptionsRequest
    ) -> ffi.FfiResponse:
        self._object(request.track_handle, _Seen)
        response = data_track.RemoteDataTrackSetPipelineOptionsResponse()
        return ffi.FfiResponse(remote_data_track_set_pipeline_options=response)

    def data_stream_over(self, stream: _Stream) -> None:
        """The track of a subscription is over."""
        stream.track.streams.pop(stream, None)
        event = ffi.FfiEvent()
        event.data_track_stream_event.stream_handle = stream.handle_id
        event.data_track_stream_event.eos.SetInParent()
        self._send_event(event)

    def _forget_data_stream(self, value: object) -> None:
        """A handle was dropped."""
        if isinstance(value, _Stream):
            value.track.streams.pop(value, None)
            value.waiting.clear()

    # --- schemas --------------------------------------------------------------------------------------------------

    def _do_define_schema(self, request: data_track.DefineSchemaRequest) -> ffi.FfiResponse:
        async_id = request.request_async_id
        key = (self.sid, request.schema_id.SerializeToString(deterministic=True))
        self._rooms.schemas[key] = request.definition
        self._answer(callback("define_schema", async_id))
        return ffi.FfiResponse(define_schema=data_track.DefineSchemaResponse(async_id=async_id))

    def _do_get_schema(self, request: data_track.GetSchemaRequest) -> ffi.FfiResponse:
        async_id = request.request_async_id
        person = self._rooms.ledger.participant(self.room_name, request.participant_identity)
        key = ("" if person is None else person.sid, request.schema_id.SerializeToString(deterministic=True))
        definition = self._rooms.schemas.get(key)
        what = "participant" if person is None else "data blob"
        failed = "room failure: failed to fetch schema: internal error: get data blob request failed (NotFound): "
        event = callback("get_schema", async_id, None if definition is not None else f"{failed}{what} not found")
        if definition is not None:
            event.get_schema.definition = definition
        self._answer(event)
        return ffi.FfiResponse(get_schema=data_track.GetSchemaResponse(async_id=async_id))


def _carry(track: _Published) -> None:
    """What was pushed since the event loop last ran reaches those who are subscribed."""
    while track.queue:
        frame = track.queue.popleft()
        if not track.publisher._may_publish_data():  # pyright: ignore[reportPrivateUsage] - a part of it
            continue
        for stream in list(track.streams):
            home: Any = stream.home
            if not home.can_read(track.publisher):
                continue
            stream.home._count_received("_data_track", len(frame.payload))  # pyright: ignore[reportPrivateUsage]
            stream.waiting.append(frame)
            if len(stream.waiting) > stream.capacity:
                stream.waiting.popleft()
            _serve(stream)


def _serve(stream: _Stream) -> None:
    if stream.asked and stream.waiting:
        stream.asked = False
        received = data_track.DataTrackStreamFrameReceived(frame=stream.waiting.popleft())
        event = data_track.DataTrackStreamEvent(stream_handle=stream.handle_id, frame_received=received)
        stream.home._send_event(ffi.FfiEvent(data_track_stream_event=event))  # pyright: ignore[reportPrivateUsage]
