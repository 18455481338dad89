"""The seam under a room: what :class:`~livekit_agent.rooms.Room` needs of the world, and nothing more.

A transport answers requests of the native library's protocol (``FfiRequest`` → ``FfiResponse``), delivers its events
(``FfiEvent``) through a :class:`Router`, in the event loop and in order, and owns handles.  The native one is the C
library; the one in memory is a ledger that speaks the same messages.

The rules a transport obeys:

* ``request`` never calls back: what it causes arrives through the router later, never before it returns.
* Each asynchronous request carries ``request_async_id`` (:meth:`Router.expect`); its callback comes back under it.
* Everything that carries an ``FfiOwnedHandle`` gives that handle to the receiver, who must ``drop`` it once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from typing import Any, Protocol

from .._errors import RoomError
from ._proto import ffi, handle, room

__all__ = [
    "CONSUMED",
    "ROUTED_BY_HANDLE",
    "STREAM_EVENTS",
    "Pending",
    "Router",
    "Sink",
    "StreamSink",
    "Transport",
    "opened_stream",
    "owned_handles",
    "release",
    "stream_handle",
]

Sink = Callable[[ffi.FfiEvent], None]
RoomSink = Callable[[room.RoomEvent], None]

ROUTED_BY_HANDLE = {
    "byte_stream_reader_event": "reader_handle",
    "data_track_stream_event": "stream_handle",
    "rpc_method_invocation": "local_participant_handle",
    "text_stream_reader_event": "reader_handle",
}
"""Events about a handle of ours: kind of event -> the field that holds the handle."""

STREAM_EVENTS = ("audio_stream_event", "video_stream_event")
"""Events of media streams."""

CONSUMED = {
    "byte_read_incremental": "reader_handle",
    "byte_stream_close": "writer_handle",
    "text_read_incremental": "reader_handle",
    "text_stream_close": "writer_handle",
}
"""Requests that use a handle up: kind of request -> the field that holds the handle."""


class StreamSink(Protocol):
    """Where a media stream's events go."""

    capacity: int
    """How many may wait for the event loop."""
    overrun: int
    """How many were lost because more came."""

    def deliver(self, event: ffi.FfiEvent) -> None:
        """An event, in the loop.  What it owns is given away with it."""
        ...


def stream_handle(event: ffi.FfiEvent) -> int:
    """Which stream a media event is of."""
    audio = event.HasField("audio_stream_event")
    return (event.audio_stream_event if audio else event.video_stream_event).stream_handle


def opened_stream(response: ffi.FfiResponse) -> int:
    """The handle of the media stream that a response has opened."""
    return getattr(response, response.WhichOneof("message") or "").stream.handle.id


class Transport(Protocol):
    """What a room stands on."""

    @property
    def router(self) -> Router:
        """Where this transport's events go, in this event loop."""
        ...

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        """Ask.  Raises :class:`~livekit_agent.RoomError` when the library rejects the request."""
        ...

    def drop(self, handle_id: int) -> bool:
        """Give a handle back.  False if it is not (or no longer) one."""
        ...

    def lend(self, data: bytes) -> AbstractContextManager[int]:
        """An address under which the library can read ``data`` during the ``with`` block."""
        ...

    def read(self, buffer: room.BufferInfo) -> bytes:
        """A copy of the memory that the library describes."""
        ...


def owned_handles(message: Any) -> Iterator[int]:
    """Every handle that a message hands over, found by walking it.

    For what nobody waits for: generic on purpose, so that a message kind that we never heard of leaks nothing.
    """
    if isinstance(message, handle.FfiOwnedHandle):
        yield message.id
        return
    if isinstance(message, room.LocalTrackRepublished):
        # The one place where an owned handle travels as a bare number.
        yield message.publication_handle
    for _, value in message.ListFields():
        if isinstance(value, str | bytes | int | float):
            continue
        # A sub-message has fields; a repeated one is iterated; a map of strings yields plain strings.
        for part in (value,) if hasattr(value, "ListFields") else value:
            if hasattr(part, "ListFields"):
                yield from owned_handles(part)


class _Owner(Protocol):
    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse: ...
    def drop(self, handle_id: int) -> bool: ...


def release(transport: _Owner, event: ffi.FfiEvent) -> None:
    """Give back whatever an event that nobody waits for owns."""
    if event.HasField("connect") and event.connect.HasField("result"):
        # A join that was given up has succeeded after all.  Ready first: without it the library reports a panic after
        # 15 s; then leave, else the participant stays in the room; the handles are ours in any case.
        room_handle = event.connect.result.room.handle.id
        ready = room.ReadyForRoomEventRequest(room_handle=room_handle)
        leave = room.DisconnectRequest(room_handle=room_handle)
        for request in (ffi.FfiRequest(ready_for_room_event=ready), ffi.FfiRequest(disconnect=leave)):
            # Rejected: the library has forgotten the room (it came too late); the handles are ours all the same.
            with suppress(RoomError):
                transport.request(request)
    for handle_id in owned_handles(event):
        transport.drop(handle_id)


@dataclass(slots=True)
class Pending:
    """An outstanding callback: who wants it, what to do with it if nobody does, which room's end makes it void."""

    answer: Callable[[ffi.FfiEvent | RoomError | None], None] | None
    reclaim: Sink
    room: int


@dataclass(frozen=True, slots=True)
class _Route:
    deliver: RoomSink
    lost: Callable[[], None]


class Router:
    """Who waits for what: callbacks by async id, room events by room handle.  Never a broadcast.

    Single-threaded: used in its event loop only.  (After the loop is gone the native transport calls
    :meth:`reclaim` from the library's thread; then nobody else does.)
    """

    def __init__(self, transport: Transport, first_id: int = 1) -> None:
        self._transport = transport
        self._next_id = first_id
        self._pending: dict[int, Pending] = {}
        self._rooms: dict[int, _Route] = {}
        self._handles: dict[int, Sink] = {}
        self._streams: dict[int, StreamSink] = {}

    @property
    def idle(self) -> bool:
        """True when nothing is expected."""
        return not self._pending and not self._rooms and not self._handles

    @property
    def pending_calls(self) -> int:
        """How many callbacks are outstanding, abandoned ones included."""
        return len(self._pending)

    @property
    def room_handles(self) -> tuple[int, ...]:
        """The rooms that are connected."""
        return tuple(self._rooms)

    # --- expectations ------------------------------------------------------------------------------------------

    def expect(
        self,
        answer: Callable[[ffi.FfiEvent | RoomError | None], None],
        *,
        reclaim: Sink | None = None,
        room_handle: int = 0,
    ) -> int:
        """A fresh id whose callback goes to ``answer``, once.  Register before sending: no race.

        ``answer(None)`` says that ``room_handle`` is over and no callback will come, ``answer(error)`` that the
        request was rejected after it was sent (:meth:`refuse`).  ``reclaim`` gets the
        callback instead once the id is forgotten; by default its handles are dropped.
        """
        async_id = self._next_id
        self._next_id += 1
        self._pending[async_id] = Pending(answer, reclaim or self._release, room_handle)
        return async_id

    def forget(self, async_id: int) -> None:
        """Nobody waits for it any more.  When it comes, what it owns is reclaimed."""
        pending = self._pending.get(async_id)
        if pending is not None:
            pending.answer = None

    def cancel(self, async_id: int) -> None:
        """The request was never sent: nothing will come."""
        self._pending.pop(async_id, None)

    def refuse(self, async_id: int, error: RoomError) -> None:
        """The request was rejected, far away: nothing will come.  Harmless if nobody waits."""
        pending = self._pending.pop(async_id, None)
        if pending is not None and pending.answer is not None:
            pending.answer(error)

    def route_room(self, room_handle: int, deliver: RoomSink, lost: Callable[[], None]) -> None:
        """Send a room's events to ``deliver``; ``lost`` says that the library has forgotten the room."""
        self._rooms[room_handle] = _Route(deliver, lost)

    def route_handle(self, handle_id: int, deliver: Sink) -> None:
        """Send the events about a handle (``ROUTED_BY_HANDLE``) to ``deliver``."""
        self._handles[handle_id] = deliver

    def unroute_handle(self, handle_id: int) -> None:
        """Its events are released from now on.  Harmless if they were already."""
        self._handles.pop(handle_id, None)

    def open_stream(self, request: ffi.FfiRequest, sink: StreamSink) -> int:
        """Open a media stream whose events go to ``sink``.  Returns its handle, for :meth:`close_stream`."""
        handle_id = opened_stream(self._transport.request(request))
        self._streams[handle_id] = sink
        return handle_id

    def close_stream(self, handle_id: int) -> None:
        """Give a media stream back; what still comes is released.  Idempotent."""
        if self._streams.pop(handle_id, None) is not None:
            self._transport.drop(handle_id)

    def close_room(self, room_handle: int) -> None:
        """The room is over: its events are released, its pending calls are answered with None.

        The library answers some of them late (metadata after 5 s) and some never (publishing, data).
        """
        for pending in self.forget_room(room_handle):
            if pending.answer is not None:
                pending.answer(None)

    def forget_room(self, room_handle: int) -> list[Pending]:
        """As :meth:`close_room`, but nobody is told: for a loop that no longer runs.  Returns the pending calls."""
        self._rooms.pop(room_handle, None)
        over = [async_id for async_id, pending in self._pending.items() if pending.room == room_handle]
        return [self._pending.pop(async_id) for async_id in over]

    # --- deliveries --------------------------------------------------------------------------------------------

    def deliver(self, event: ffi.FfiEvent) -> None:
        """One event of the library, in the loop."""
        if event.HasField("room_event"):
            route = self._rooms.get(event.room_event.room_handle)
            if route is None:
                self._release(event)
            else:
                route.deliver(event.room_event)
            return
        kind = event.WhichOneof("message") or ""
        if kind in STREAM_EVENTS:
            stream = self._streams.get(stream_handle(event))
            (self._release if stream is None else stream.deliver)(event)
            return
        if kind in ROUTED_BY_HANDLE:
            sink = self._handles.get(getattr(getattr(event, kind), ROUTED_BY_HANDLE[kind]), self._release)
            sink(event)
            return
        pending = self._take(event)
        if pending is None:
            self._release(event)
        elif pending.answer is None:
            pending.reclaim(event)
        else:
            pending.answer(event)

    def reclaim(self, event: ffi.FfiEvent) -> None:
        """One event of the library that can no longer reach its loop."""
        pending = self._take(event)
        (pending.reclaim if pending is not None else self._release)(event)

    def probe(self) -> None:
        """The library reported a panic, which names no room: find the rooms that it has forgotten.

        A forgotten room rejects every request; "ready" a second time is accepted and ignored by a living one.
        """
        for room_handle, route in list(self._rooms.items()):
            ready = room.ReadyForRoomEventRequest(room_handle=room_handle)
            try:
                self._transport.request(ffi.FfiRequest(ready_for_room_event=ready))
            except RoomError:
                route.lost()

    def _take(self, event: ffi.FfiEvent) -> Pending | None:
        kind = event.WhichOneof("message")
        async_id: int = getattr(getattr(event, kind), "async_id", 0) if kind else 0
        return self._pending.pop(async_id, None)

    def _release(self, event: ffi.FfiEvent) -> None:
        release(self._transport, event)
