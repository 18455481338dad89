"""A room in another process's memory, as its participant's side sees it: the seam without I/O.

Requests go into an outbox, events are what comes back; other code moves the bytes (``_remote_carrier``).  The seam
answers requests at once and the server is far away: the answers come from a mirror (``_remote_mirror``), and a handle
that a request makes is chosen here.  What the server rejects all the same comes later: to whoever waits for the
callback as its error, for a stream as its end, else into the log.

One transport is one connection and joins one room.  When the connection is lost, so is the room, with reason 0: there
is no resuming, because the server has let the participant go as well.
"""

from __future__ import annotations

import logging
from collections.abc import Generator
from contextlib import contextmanager, suppress
from functools import cache
from typing import Any

from .._bounds import MESSAGE_BYTES_MAX
from .._errors import RoomError, printable
from ._enums import DisconnectReason
from ._proto import ffi
from ._proto import room as room_pb
from ._remote_mirror import KEPT, Mirror, answerable
from ._remote_wire import (
    DROP,
    EVENT,
    FEEDBACK,
    FIRST_HANDLE,
    REFUSED,
    REQUEST,
    Outbox,
    WireError,
    decode,
    encode,
    new_handle_of,
    owned_buffers,
    parse,
    place,
    placed,
    pointers,
)
from ._transport import CONSUMED, Router, owned_handles
from ._wire import callback

__all__ = ["RemoteTransport"]

_log = logging.getLogger("livekit_agent.rooms")

_STREAMS = {
    "new_audio_stream": "audio_stream_event",
    "new_video_stream": "video_stream_event",
    "subscribe_data_track": "data_track_stream_event",
}
"""Requests that open a stream -> its events."""

_MEDIA = ("capture_video_frame", "capture_encoded_video_frame")
"""Requests that may be lost when they wait for too long.  Compressed pictures too: rooms in memory do not show them."""


class RemoteTransport:
    """A transport over a connection (see ``_transport``)."""

    def __init__(self) -> None:
        self.router = Router(self)
        self.outbox = Outbox()
        self.over = False
        """Nothing more is wanted: the room has ended, or was never joined.  Send what waits and close."""
        self.lost_why = ""
        """Why the connection is no longer there."""
        self._joining = 0
        self._leaving: dict[int, None] = {}
        self._ended = False
        self._handles: dict[int, None] = {}
        self._buffers: dict[int, bytes] = {}
        self._streams: dict[int, str] = {}
        self._mirror = Mirror()
        self._next_handle = FIRST_HANDLE
        self._lent: dict[int, bytes] = {}
        self._next_address = 1

    @property
    def live_handles(self) -> int:
        """How many handles we hold."""
        return len(self._handles) + len(self._buffers)

    # --- the seam -------------------------------------------------------------------------------------------------

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        """Send a request, and say at once what the library would say."""
        kind = request.WhichOneof("message") or ""
        asked = getattr(request, kind)
        if self.lost_why:
            raise RoomError(f"the connection to the room's server is lost: {self.lost_why}")
        if not answerable(kind):
            raise RoomError(f"rooms of another process cannot answer the request {kind}")
        for name in _handle_fields(asked.DESCRIPTOR):
            if getattr(asked, name) and getattr(asked, name) not in self._handles:
                raise RoomError("the request was rejected: unknown handle")
        number = self._next_handle if new_handle_of(kind) else 0
        message = self._packed(request, kind, number)
        if kind == "connect":
            if self._joining:
                raise RoomError("a connection is for one room")
            self._joining = request.connect.request_async_id
        elif kind == "disconnect":
            self._leaving[request.disconnect.request_async_id] = None
        if kind == "local_data_track_try_push" and not self._mirror.may_push(asked):
            return self._mirror.refuse_push(asked)
        if number:
            self._next_handle += 1
            self._handles[number] = None
        if kind in _STREAMS:
            self._streams[number] = _STREAMS[kind]
        if kind not in KEPT and message:
            self.outbox.put(message, media=kind in _MEDIA, sent=self._mirror.sent(kind, asked))
        if kind in CONSUMED:
            self._handles.pop(getattr(asked, CONSUMED[kind]), None)
        return self._mirror.answer(kind, asked, number)

    def drop(self, handle_id: int) -> bool:
        """Give a handle back."""
        if self._buffers.pop(handle_id, None) is not None:
            return True
        if handle_id not in self._handles:
            return False
        del self._handles[handle_id]
        self._streams.pop(handle_id, None)
        self._mirror.encoded.dropped(handle_id)
        if not self.lost_why:
            self.outbox.put(encode(DROP, handle_id))
        return True

    @contextmanager
    def lend(self, data: bytes) -> Generator[int]:
        """A pretended address, good for the block; the bytes after the first have the numbers after it."""
        address = self._next_address
        self._next_address += len(data) + 1
        self._lent[address] = data
        try:
            yield address
        finally:
            del self._lent[address]

    def read(self, buffer: room_pb.BufferInfo) -> bytes:
        """The bytes that came beside an event."""
        return self._buffers[buffer.data_ptr]

    def _packed(self, request: ffi.FfiRequest, kind: str, number: int) -> bytes:
        """A request as it is sent; nothing if it is answered here alone."""
        buffers: list[bytes] = []
        if kind in ("connect", "e2ee") or self._lent:
            copy = ffi.FfiRequest()
            copy.CopyFrom(request)
            request = copy
        if kind == "connect":
            # The token came with the connection, in the place for tokens.
            request.connect.url = request.connect.token = ""
            self._mirror.keys.join(request.connect.options)
        elif kind == "e2ee":
            beside = self._mirror.keys.leaves(request.e2ee)
            if beside is None:
                return b""
            buffers += beside
        for pointed in pointers(request):
            start = next(a for a, data in self._lent.items() if a <= pointed.data_ptr <= a + len(data))
            if self._lent[start] not in buffers:
                buffers.append(self._lent[start])
            pointed.data_ptr = place(buffers.index(self._lent[start]) + 1, pointed.data_ptr - start)
        message = encode(REQUEST, number, request.SerializeToString(), buffers)
        if len(message) > MESSAGE_BYTES_MAX:
            raise RoomError(
                f"{len(message)} bytes are too much for one message to a room's server ({MESSAGE_BYTES_MAX})",
                code="ROOM_DATA_TOO_LARGE",
                hint="send it in smaller pieces; for pictures, I420 takes less than half of RGBA",
            )
        return message

    # --- the connection's side ------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """A message from the server; for what is none, the outbox has a fault."""
        try:
            self._hear(data)
        except WireError as exc:
            self.outbox.fail(4002, str(exc))

    def _hear(self, data: bytes) -> None:
        frame = decode(data, EVENT, REFUSED, FEEDBACK)
        if frame.kind == FEEDBACK:
            self._mirror.encoded.told(frame.number, frame.body)
            return
        if frame.kind == REFUSED:
            self._refused(frame.number, frame.body.decode(errors="replace"))
            return
        event = parse(ffi.FfiEvent, frame.body)
        for handle_id in owned_handles(event):
            if handle_id >= FIRST_HANDLE:
                raise WireError("a handle that is not the server's to give")
            if handle_id:
                self._handles[handle_id] = None
        for owner, pointed in owned_buffers(event):
            number, _ = placed(pointed.data_ptr, frame.buffers)
            owner.id = pointed.data_ptr = self._next_handle
            self._buffers[owner.id] = frame.buffers[number]
            self._next_handle += 1
        self._deliver(event)

    def _deliver(self, event: ffi.FfiEvent) -> None:
        kind = event.WhichOneof("message")
        if kind == "connect" and event.connect.async_id == self._joining:
            self._joining = 0
            self.over = bool(event.connect.error)
        instead = self._mirror.hear(event)
        if instead is not None:
            # Rejected: we have left, and whoever it was for has been told.
            with suppress(RoomError):
                self.request(instead)
            return
        self.router.deliver(event)
        self._ended |= kind == "room_event" and event.room_event.HasField("eos")
        if kind == "disconnect":
            self._leaving.pop(event.disconnect.async_id, None)
        if self._ended and not self._leaving:
            self.over = True
            self.outbox.wake()

    def _refused(self, number: int, reason: str) -> None:
        """The server has rejected what we have answered for it."""
        if number and number == self._joining:
            self._deliver(callback("connect", number, reason))
            return
        error = RoomError(f"the room's server rejected the request: {printable(reason)}")
        if number in self._streams:
            # Whoever reads it is told as if the track were over.
            event = ffi.FfiEvent()
            message = getattr(event, self._streams.pop(number))
            message.stream_handle = number
            message.eos.SetInParent()
            self.router.deliver(event)
        elif 0 < number < FIRST_HANDLE:
            self.router.refuse(number, error)
            return
        _log.warning("%s", error.message)

    def lost(self, why: str) -> None:
        """The connection is gone.  Once; what was still there is told to whoever waits."""
        if self.lost_why:
            return
        self.lost_why = why
        self.over = True
        if self._joining:
            self.router.deliver(callback("connect", self._joining, f"signal failure: {why}"))
        for room_handle in self.router.room_handles:
            state = room_pb.ConnectionStateChanged(state=room_pb.CONN_DISCONNECTED)
            reason: Any = DisconnectReason.UNKNOWN
            for message in (
                room_pb.RoomEvent(room_handle=room_handle, connection_state_changed=state),
                room_pb.RoomEvent(room_handle=room_handle, disconnected=room_pb.Disconnected(reason=reason)),
                room_pb.RoomEvent(room_handle=room_handle, eos=room_pb.RoomEOS()),
            ):
                self.router.deliver(ffi.FfiEvent(room_event=message))


@cache
def _handle_fields(kind: Any) -> tuple[str, ...]:
    return tuple(field.name for field in kind.fields if field.name.endswith("_handle"))
