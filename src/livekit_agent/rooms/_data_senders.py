"""Data tracks of ours: publishing one, pushing frames into it, and the definitions of their schemas."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

import anyio
import anyio.lowlevel

from .._errors import DataTrackError, RoomError, RoomPermissionError, printable
from ._data_tracks import DataSchema, DataTrack, frame_encoding, unpublished_error
from ._link import Link
from ._proto import data_track, ffi
from ._sending import Sending
from ._transport import release

__all__ = ["DataTrackPublishing", "LocalDataTrack"]


class LocalDataTrack(DataTrack):
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
            raise unpublished_error()
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
            raise unpublished_error()
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
            options.frame_encoding.CopyFrom(frame_encoding(encoding))
        link = self._link

        def reclaim(event: ffi.FfiEvent) -> None:
            handle_id = event.publish_data_track.track.handle.id
            if handle_id and not link.over:
                unpublish = data_track.LocalDataTrackUnpublishRequest(track_handle=handle_id)
                # Rejected: the library has forgotten the room, and the track with it.
                with suppress(RoomError):
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
