"""Data tracks: named flows of frames of bytes, sent to whoever subscribes, late ones not at all.

What a track carries is like sound and pictures: each frame is worth something now, and nobody waits for a lost one.
A sender pushes, without waiting; a frame for which the connection has no room is dropped and counted.  A receiver
iterates over a bounded queue of its own.

The library is asked for one frame at a time, and holds ``capacity`` of them, dropping the oldest, while our event
loop is busy.  Invariant: as long as a queue lives, exactly one read is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel

from .. import events
from .._bounds import DATA_TRACK_FRAMES
from .._errors import DataTrackError, ResourceExhaustedError, RoomError, RoomPermissionError, printable
from ._link import Link
from ._media_stream import MediaQueue, MediaStream
from ._proto import data_track, ffi
from ._sending import Sending
from ._transport import Transport, release

if TYPE_CHECKING:
    from ._model import ParticipantState
    from ._participants import RemoteParticipant

__all__ = [
    "DataFrame",
    "DataSchema",
    "DataTrackInbox",
    "DataTrackPublishing",
    "LocalDataTrack",
    "Overflow",
    "RemoteDataTrack",
    "info_message",
]

_SCHEMA_PREFIX = "WELL_KNOWN_SCHEMA_ENCODING_"
_FRAME_PREFIX = "WELL_KNOWN_FRAME_ENCODING_"


class Overflow(Enum):
    """What a full queue does with one frame more."""

    DROP_OLDEST = "drop oldest"
    DROP_NEWEST = "drop newest"
    FAIL = "fail"
    """The iteration ends with :class:`~livekit_agent.ResourceExhaustedError`, after the frames that wait."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataFrame:
    """A frame of a data track."""

    payload: bytes = field(repr=False)
    timestamp: int | None = None
    """The sender's own, in whatever unit sender and receiver have agreed on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSchema:
    """Which schema a track's frames follow."""

    name: str
    encoding: str = ""
    """What the schema is written in: protobuf, flatbuffer, ros1_msg, ros2_msg, ros2_idl, omg_idl, json_schema, or a
    name of your own."""

    def message(self) -> data_track.DataTrackSchemaId:
        """As the library's message."""
        message = data_track.DataTrackSchemaId(name=self.name)
        if self.encoding:
            encoding: Any = _encoded(self.encoding, _SCHEMA_PREFIX, data_track.DataTrackSchemaEncoding)
            message.encoding.CopyFrom(encoding)
        return message

    @classmethod
    def of(cls, message: data_track.DataTrackSchemaId) -> DataSchema:
        """From the library's message."""
        return cls(name=message.name, encoding=_decoded(message.encoding, _SCHEMA_PREFIX))


def _encoded(text: str, prefix: str, kind: Any) -> Any:
    """An encoding's name as the library's message: one that it knows, or a custom one."""
    number = _numbers(kind).get(prefix + text.upper())
    return kind(custom=text) if number is None else kind(well_known=number)


def _decoded(message: Any, prefix: str) -> str:
    if message.HasField("well_known"):
        names = {number: name for name, number in _numbers(type(message)).items()}
        return names.get(message.well_known, "").removeprefix(prefix).lower()
    return message.custom


def _numbers(kind: Any) -> dict[str, int]:
    values = kind.DESCRIPTOR.fields_by_name["well_known"].enum_type.values
    return {value.name: value.number for value in values if value.number}


def info_message(sid: str, options: data_track.DataTrackOptions, *, uses_e2ee: bool) -> data_track.DataTrackInfo:
    """What the library says of a track with these options (for rooms in memory)."""
    info = data_track.DataTrackInfo(name=options.name, sid=sid, uses_e2ee=uses_e2ee)
    if options.HasField("schema"):
        info.schema.CopyFrom(options.schema)
    if options.HasField("frame_encoding"):
        info.frame_encoding.CopyFrom(options.frame_encoding)
    return info


class _DataTrack:
    """What all data tracks tell."""

    def __init__(self, handle_id: int, info: data_track.DataTrackInfo, link: Link) -> None:
        self._handle = link.own(handle_id)
        self._info = info
        self._link = link

    @property
    def name(self) -> str:
        """Its publisher's name for it; unique among that participant's data tracks."""
        return self._info.name

    @property
    def sid(self) -> str:
        """The server's id, ``DTR_…``; another one after its publisher's full reconnect."""
        return self._info.sid

    @property
    def encrypted(self) -> bool:
        """Whether its frames are encrypted end to end."""
        return self._info.uses_e2ee

    @property
    def schema(self) -> DataSchema | None:
        """Which schema its frames follow, where the publisher says so."""
        return DataSchema.of(self._info.schema) if self._info.HasField("schema") else None

    @property
    def encoding(self) -> str:
        """How its frames are encoded, where the publisher says so."""
        return _decoded(self._info.frame_encoding, _FRAME_PREFIX)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} {self.sid}>"


# ------------------------------------------------------------------------------------------------ ours


class LocalDataTrack(_DataTrack):
    """A data track of ours.  ``async with track:`` takes it back at the end of the block."""

    def __init__(
        self, handle_id: int, info: data_track.DataTrackInfo, link: Link, may_send: Callable[[], bool]
    ) -> None:
        super().__init__(handle_id, info, link)
        self._may_send = may_send
        self._open = True
        self.pushed = 0
        """Frames that the connection has taken."""
        self.dropped = 0
        """Frames for which it had no room."""

    @property
    def published(self) -> bool:
        """Whether it can still be subscribed to."""
        if not self._open or self._link.over:
            return False
        request = data_track.LocalDataTrackIsPublishedRequest(track_handle=self._handle)
        response = self._link.request(ffi.FfiRequest(local_data_track_is_published=request))
        return response.local_data_track_is_published.is_published

    def push(self, payload: bytes | str, *, timestamp: int | None = None) -> bool:
        """Send a frame to those who are subscribed.  False: there was no room, and it was dropped and counted.

        Synchronous.  The connection takes some frames at once and then wants the event loop to run: who pushes in a
        loop awaits in it.  Frames may be lost on the way, large ones sooner (one of 100 kB arrived, of 1 MB none).
        Raises :class:`DataTrackError` when the track was taken back, :class:`RoomPermissionError` when the permission
        was, :class:`RoomClosedError` at the room's end.
        """
        self._link.check_open()
        if not self._open:
            raise _unpublished()
        if not self._may_send():
            # The library would take it, and the server throw it away.
            raise RoomPermissionError("the agent may no longer publish data", hint="grant canPublishData")
        data = payload.encode() if isinstance(payload, str) else bytes(payload)
        frame = data_track.DataTrackFrame(payload=data)
        if timestamp is not None:
            frame.user_timestamp = timestamp
        request = data_track.LocalDataTrackTryPushRequest(track_handle=self._handle, frame=frame)
        answer = self._link.request(ffi.FfiRequest(local_data_track_try_push=request)).local_data_track_try_push
        if not answer.HasField("error"):
            self.pushed += 1
            return True
        if answer.error.code == data_track.LOCAL_DATA_TRACK_TRY_PUSH_ERROR_CODE_QUEUE_FULL:
            self.dropped += 1
            return False
        if answer.error.code == data_track.LOCAL_DATA_TRACK_TRY_PUSH_ERROR_CODE_TRACK_UNPUBLISHED:
            raise _unpublished()
        raise DataTrackError(f"the frame was not sent: {printable(answer.error.message)}")

    def unpublish(self) -> None:
        """Take the track back; the streams of those who are subscribed end.  Synchronous, idempotent."""
        if self._open and not self._link.over:
            request = data_track.LocalDataTrackUnpublishRequest(track_handle=self._handle)
            self._link.request(ffi.FfiRequest(local_data_track_unpublish=request))
            self._link.drop(self._handle)
        self._open = False

    async def __aenter__(self) -> LocalDataTrack:
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.unpublish()


def _unpublished() -> DataTrackError:
    return DataTrackError("the data track is no longer published", code="DATA_TRACK_UNPUBLISHED")


class DataTrackPublishing(Sending):
    """The local participant's part of it."""

    async def publish_data_track(
        self, name: str, *, schema: DataSchema | None = None, encoding: str = ""
    ) -> LocalDataTrack:
        """Publish a data track; the others get ``DataTrackPublished``.

        ``encoding`` says how frames are encoded: ros1, cdr, protobuf, flatbuffer, cbor, msgpack, json, or a name of
        your own.  Raises :class:`DataTrackError` for a name that is taken, empty or too long (256 characters).
        Cancelled: a publication that completes nevertheless is taken back.
        """
        await self._check_may_send("publish data tracks")
        options = data_track.DataTrackOptions(name=name)
        if schema is not None:
            options.schema.CopyFrom(schema.message())
        if encoding:
            options.frame_encoding.CopyFrom(_encoded(encoding, _FRAME_PREFIX, data_track.DataTrackFrameEncoding))
        link = self._link

        def reclaim(event: ffi.FfiEvent) -> None:
            handle_id = event.publish_data_track.track.handle.id
            if handle_id and not link.over:
                unpublish = data_track.LocalDataTrackUnpublishRequest(track_handle=handle_id)
                link.transport.request(ffi.FfiRequest(local_data_track_unpublish=unpublish))
            release(link.transport, event)

        request = data_track.PublishDataTrackRequest(local_participant_handle=link.local_handle, options=options)
        call = link.send(ffi.FfiRequest(publish_data_track=request), reclaim=reclaim)
        answer = (await link.answer(call, "data track not published")).publish_data_track
        if answer.HasField("error"):
            raise _publish_error(answer.error)
        state = self._state
        return LocalDataTrack(
            answer.track.handle.id, answer.track.info, link, lambda: state.permissions.can_publish_data
        )

    async def define_data_schema(self, schema: DataSchema, definition: str) -> None:
        """Keep a schema's definition at the server, for the others to read (:meth:`data_schema`).

        Needs a server that has ``enable_participant_data_blob`` set; else :class:`RoomError` ``ROOM_UNSUPPORTED``.
        """
        await self._check_may_send("define data schemas")
        request = data_track.DefineSchemaRequest(
            local_participant_handle=self._link.local_handle, schema_id=schema.message(), definition=definition
        )
        call = self._link.send(ffi.FfiRequest(define_schema=request))
        answer = (await self._link.answer(call, "data schema not defined")).define_schema
        if "not enabled" in answer.error:
            raise RoomError(
                "the server keeps no data schemas",
                code="ROOM_UNSUPPORTED",
                hint="set enable_participant_data_blob in the server's configuration",
            )
        if answer.error:
            raise RoomError(f"data schema not defined: {printable(answer.error)}")

    async def data_schema(self, identity: str, schema: DataSchema) -> str:
        """The definition that a participant has given of a schema.  Raises :class:`DataTrackError` if none."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        request = data_track.GetSchemaRequest(
            local_participant_handle=self._link.local_handle, schema_id=schema.message(), participant_identity=identity
        )
        call = self._link.send(ffi.FfiRequest(get_schema=request))
        answer = (await self._link.answer(call, "data schema not read")).get_schema
        if answer.HasField("error"):
            raise DataTrackError(
                f"{identity!r} has no data schema {schema.name!r}: {printable(answer.error)}",
                code="DATA_TRACK_SCHEMA_UNKNOWN",
            )
        return answer.definition


def _publish_error(error: data_track.PublishDataTrackError) -> RoomError:
    text = f"data track not published: {printable(error.message)}"
    if error.code == data_track.PUBLISH_DATA_TRACK_ERROR_CODE_NOT_ALLOWED:
        return RoomPermissionError(text, hint="grant canPublishData")
    if error.code == data_track.PUBLISH_DATA_TRACK_ERROR_CODE_DUPLICATE_NAME:
        return DataTrackError(text, code="DATA_TRACK_NAME_TAKEN")
    if error.code == data_track.PUBLISH_DATA_TRACK_ERROR_CODE_INVALID_NAME:
        return DataTrackError(text, code="DATA_TRACK_NAME_INVALID", hint="1 to 256 characters")
    return DataTrackError(text)


# ------------------------------------------------------------------------------------------------ other people's


class DataQueue(MediaQueue[DataFrame]):
    """Frames of somebody's data track on their way to a consumer."""

    def __init__(self, link: Link, capacity: int, overflow: Overflow) -> None:
        super().__init__(link, capacity, _nothing)
        self._overflow = overflow

    def subscribe(self, track_handle: int) -> None:
        """Open the native stream, and ask for its first frame."""
        options = data_track.DataTrackSubscribeOptions(buffer_size=self.capacity)
        request = data_track.SubscribeDataTrackRequest(track_handle=track_handle, options=options)
        response = self._link.request(ffi.FfiRequest(subscribe_data_track=request))
        self._handle = self._link.own(response.subscribe_data_track.stream.handle.id)
        self._link.transport.router.route_handle(self._handle, self.deliver)
        self._link.attach(self, self.end)
        self._ask()

    def _ask(self) -> None:
        request = data_track.DataTrackStreamReadRequest(stream_handle=self._handle)
        try:
            response = self._link.request(ffi.FfiRequest(data_track_stream_read=request)).data_track_stream_read
        except RoomError:
            self.end()  # rejected: the library has forgotten it
            return
        if response.HasField("eos_event"):
            self._over(response.eos_event)

    def deliver(self, event: ffi.FfiEvent) -> None:
        """What was asked for: a frame, or the end."""
        message = event.data_track_stream_event
        if self.ended:
            return
        if message.HasField("eos"):
            self._over(message.eos)
            return
        frame = message.frame_received.frame
        timestamp = frame.user_timestamp if frame.HasField("user_timestamp") else None
        self.received += 1
        self._take_in(DataFrame(payload=frame.payload, timestamp=timestamp))
        if not self.ended:
            self._ask()
        self._notify()

    def _take_in(self, frame: DataFrame) -> None:
        if len(self._frames) < self.capacity:
            self._frames.append(frame)
            return
        self.dropped += 1
        match self._overflow:
            case Overflow.DROP_OLDEST:
                self._frames.popleft()
                self._frames.append(frame)
            case Overflow.DROP_NEWEST:
                pass
            case Overflow.FAIL:
                self.error = ResourceExhaustedError(
                    f"{self.capacity} frames of a data track were not consumed",
                    resource="data_track_frames",
                    used=self.capacity,
                    limit=self.capacity,
                    hint="consume faster, or let the stream drop frames",
                )
                self.end()

    def _over(self, eos: data_track.DataTrackStreamEOS) -> None:
        # Unpublished or disconnected: the ordinary ends of a track.  A subscription that was refused ends so too.
        ordinary = (
            data_track.SUBSCRIBE_DATA_TRACK_ERROR_CODE_UNPUBLISHED,
            data_track.SUBSCRIBE_DATA_TRACK_ERROR_CODE_DISCONNECTED,
        )
        if eos.HasField("error") and eos.error.code not in ordinary:
            self.error = DataTrackError(f"the data track was not received: {printable(eos.error.message)}")
        self.end()

    def _close_native(self) -> None:
        self._link.transport.router.unroute_handle(self._handle)
        self._link.drop(self._handle)


def _nothing(transport: Transport, event: ffi.FfiEvent) -> DataFrame | None:
    """Frames of data own nothing of the library's; :meth:`DataQueue.deliver` reads them itself."""
    return None


class RemoteDataTrack(_DataTrack):
    """Somebody else's data track."""

    def __init__(self, owned: data_track.OwnedRemoteDataTrack, inbox: DataTrackInbox) -> None:
        super().__init__(owned.handle.id, owned.info, inbox.link)
        self.publisher_identity = owned.publisher_identity
        self._inbox = inbox
        self._open = True
        self._queues: dict[Any, None] = {}

    @property
    def participant(self) -> RemoteParticipant | None:
        """Who publishes it; None while the server has not announced them."""
        return self._inbox.people.get(self.publisher_identity)

    @property
    def published(self) -> bool:
        """Whether it can still be subscribed to."""
        return self._open and not self._link.over

    def frames(
        self, *, capacity: int = DATA_TRACK_FRAMES, overflow: Overflow = Overflow.DROP_OLDEST
    ) -> MediaStream[DataFrame]:
        """Subscribe: ``async for frame in track.frames():``; several at once get a copy each.

        At most ``capacity`` frames wait, then ``overflow`` decides.  While the event loop is busy the library holds as
        many more and drops the oldest, which it does not count.  Ends when the track or the room does.  Frames that
        are sent before the subscription has reached the publisher are lost.

        Raises :class:`RoomPermissionError` without the permission to subscribe (the library would wait for ever) and
        :class:`DataTrackError` when the track is gone.
        """
        if capacity < 1:
            raise ValueError("a queue holds at least one frame")
        self._link.check_open()
        if not self._open:
            raise _unpublished()
        if self.encrypted and not self._link.decrypts:
            # The library would hand over the ciphertext.
            raise RoomError(
                "the data track is encrypted, and this room was joined without encryption",
                code="ROOM_ENCRYPTED",
                hint="join with ConnectOptions(encryption=Encryption(...))",
            )
        if not self._inbox.local.permissions.can_subscribe:
            raise RoomPermissionError("the agent may not subscribe", hint="grant canSubscribe")
        queue = DataQueue(self._link, capacity, overflow)
        queue.subscribe(self._handle)
        stream = MediaStream(queue)
        stream.bind(self._queues)
        return stream

    def set_pipeline_options(self, *, max_partial_frames: int) -> None:
        """How many frames may be under way in parts at a time (1 at first): more tolerates more disorder."""
        if max_partial_frames < 1:
            raise ValueError("at least one frame must be under way")
        if not self._open:
            raise _unpublished()
        options = data_track.RemoteDataTrackPipelineOptions(max_partial_frames=max_partial_frames)
        request = data_track.RemoteDataTrackSetPipelineOptionsRequest(track_handle=self._handle, options=options)
        self._link.request(ffi.FfiRequest(remote_data_track_set_pipeline_options=request))

    def end(self) -> None:
        """It is no longer published (called by the room)."""
        self._open = False
        for queue in list(self._queues):
            queue.end()
        self._link.drop(self._handle)


class DataTrackInbox:
    """The data tracks of all others in a room, by sid."""

    def __init__(
        self,
        link: Link,
        local: ParticipantState,
        people: Mapping[str, RemoteParticipant],
        emit: Callable[[events.RoomEvent], None],
    ) -> None:
        self.link = link
        self.local = local
        self.people = people
        self._emit = emit
        self._tracks: dict[str, RemoteDataTrack] = {}
        self.tracks: Mapping[str, RemoteDataTrack] = MappingProxyType(self._tracks)

    def published(self, owned: data_track.OwnedRemoteDataTrack) -> None:
        """Somebody publishes one.  The handle is ours."""
        self._take_away(owned.info.sid)
        track = RemoteDataTrack(owned, self)
        self._tracks[track.sid] = track
        self._emit(events.DataTrackPublished(track=track, participant=track.participant))

    def unpublished(self, sid: str) -> None:
        """It is no longer."""
        self._take_away(sid)

    def _take_away(self, sid: str) -> None:
        track = self._tracks.pop(sid, None)
        if track is not None:
            track.end()
            self._emit(events.DataTrackUnpublished(track=track, participant=track.participant))
