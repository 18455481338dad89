"""The native LiveKit library: four C functions, one callback, many threads.

One library per process, initialised at the first use and disposed of at exit; one :class:`NativeTransport` per event
loop.  The library calls back on threads of its own.  The callback parses the event, finds the event loop that it
belongs to (the async id says whose request it answers, the room handle whose room it is about) and puts it into that
loop's mailbox.  Everything else happens in the loops.

What the library asks of its host, and what it costs to ignore it:

* The callback lives as long as the process and never raises.
* ``ready_for_room_event`` after a successful connect, else a panic event 15 s later (see ``_transport.release``).
* ``capture_logs`` off: with it on, every debug record of WebRTC takes the interpreter lock, and one of them is the
  HTTP request with its token.
* Its own log goes to stderr, errors only unless ``RUST_LOG`` says more, and three of its targets quote tokens: of a
  refused join, and in the HTTP request at the finest level.  They are made to say less.
* Exit: dispose, then wait until no callback has come for 50 ms before the interpreter finalises.  A native thread that
  still waits for the interpreter's lock then is killed, and the library aborts the process.
* Never across a fork: the child has the memory and none of the threads.
* One host per process.  The callback is whoever's initialised last, and nobody is told: with ``livekit.rtc`` in use one
  of the two hears nothing any more.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import platform
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any

import anyio.lowlevel

from .._bounds import NATIVE_EXIT_TIMEOUT, NATIVE_MAILBOX_EVENTS_MAX, NATIVE_QUIET_TIME
from .._errors import RoomError, printable
from ._mailbox import LoopHandle, Mailbox, current_loop
from ._native_media import StreamDesk
from ._proto import SUPPORTED, ffi, installed_version, package_path
from ._proto import room as room_pb
from ._transport import ROUTED_BY_HANDLE, STREAM_EVENTS, Router, StreamSink, release

__all__ = ["NativeTransport", "native_library", "native_transport"]

_log = logging.getLogger("livekit_agent.rooms")

_CALLBACK = ctypes.CFUNCTYPE(None, ctypes.POINTER(ctypes.c_uint8), ctypes.c_size_t)
_LIBRARIES = {"Linux": "liblivekit_ffi.so", "Darwin": "liblivekit_ffi.dylib", "Windows": "livekit_ffi.dll"}

_LOSABLE = (
    "data_packet_received",
    "active_speakers_changed",
    "connection_quality_changed",
    "chat_message",
    "transcription_received",
)

# Targets of the library's log that quote tokens, and the level at which they no longer do.
_QUOTE_TOKENS = (b"livekit_ffi::room_apis=off", b"livekit::rtc_engine=error", b"tungstenite=info")

# An async id is the number of its transport and a count.  The library's own ids, given to requests without one,
# start at 1 and never get near.
_ID_BITS = 40


class _Library:
    """The process's one instance.  Methods may be called on any thread."""

    def __init__(self) -> None:
        version = installed_version()
        parts = tuple(int(part) for part in version.split(".")[:2])
        if not SUPPORTED[0] <= parts < SUPPORTED[1]:
            raise RoomError(
                f"livekit {version} is installed; rooms need livekit >=1.2,<1.3",
                code="ROOM_LIBRARY",
                hint="pip install 'livekit>=1.2,<1.3'",
            )
        if _rtc_is_in_use():
            raise RoomError(
                "livekit.rtc is in use in this process, and the native library has one listener",
                code="ROOM_LIBRARY",
                hint="make no objects of livekit.rtc's; docs/migration/from-livekit-rtc.md has what they are here",
            )
        self.pid = os.getpid()
        self.last_callback = 0.0
        self._robbed = False
        self._transports: dict[int, NativeTransport] = {}
        self._room_homes: dict[int, NativeTransport] = {}
        self._handle_homes: dict[int, NativeTransport] = {}
        self._transport_count = 0
        self.streams = StreamDesk(self)
        self._lib = self._open()
        # Kept on the instance, which lives as long as the process: the library must never call freed memory.
        self._callback = _CALLBACK(self._called)
        with _without_tokens_in_the_log():
            self._lib.livekit_ffi_initialize(self._callback, False, b"python", version.encode())
        atexit.register(self._close_quietly)

    def _open(self) -> ctypes.CDLL:
        name = _LIBRARIES.get(platform.system())
        if name is None:
            raise RoomError(f"there is no native room library for {platform.system()}", code="ROOM_LIBRARY")
        path = os.path.join(package_path(), "resources", name)
        try:
            lib = ctypes.CDLL(path)
        except OSError as exc:
            raise RoomError(f"the native room library cannot be loaded: {exc}", code="ROOM_LIBRARY") from exc
        buffer = ctypes.POINTER(ctypes.c_uint8)
        lib.livekit_ffi_initialize.argtypes = [_CALLBACK, ctypes.c_bool, ctypes.c_char_p, ctypes.c_char_p]
        lib.livekit_ffi_initialize.restype = None
        lib.livekit_ffi_request.argtypes = [
            ctypes.c_char_p,
            ctypes.c_size_t,
            ctypes.POINTER(buffer),
            ctypes.POINTER(ctypes.c_size_t),
        ]
        lib.livekit_ffi_request.restype = ctypes.c_uint64
        lib.livekit_ffi_drop_handle.argtypes = [ctypes.c_uint64]
        lib.livekit_ffi_drop_handle.restype = ctypes.c_bool
        lib.livekit_ffi_dispose.argtypes = []
        lib.livekit_ffi_dispose.restype = None
        return lib

    # --- asking -------------------------------------------------------------------------------------------------

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        """Ask the library."""
        if self.pid != os.getpid():
            raise RoomError(
                "rooms were used before this process was forked",
                code="ROOM_FORKED",
                hint="start child processes by spawn, not fork, or before the first room is joined",
            )
        if not self._robbed and _rtc_is_in_use():
            self._robbed = True
            _log.error(
                "livekit.rtc was used in this process and has taken the native library's one listener: rooms of "
                "livekit_agent hear nothing any more; see docs/migration/from-livekit-rtc.md"
            )
        data = request.SerializeToString()
        answer = ctypes.POINTER(ctypes.c_uint8)()
        length = ctypes.c_size_t()
        handle_id: int = self._lib.livekit_ffi_request(data, len(data), ctypes.byref(answer), ctypes.byref(length))
        if handle_id == 0:
            # The reason goes to the library's own log only.
            raise RoomError(f"the room library rejected the request {request.WhichOneof('message')}")
        try:
            return ffi.FfiResponse.FromString(ctypes.string_at(answer, length.value))
        finally:
            self._lib.livekit_ffi_drop_handle(handle_id)

    def drop(self, handle_id: int) -> bool:
        """Give a handle back."""
        return self.pid == os.getpid() and bool(self._lib.livekit_ffi_drop_handle(handle_id))

    @contextmanager
    def lend(self, data: bytes) -> Generator[int]:
        """The address of the bytes themselves; the library copies them while it is asked."""
        yield ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p).value or 0

    @contextmanager
    def scratch(self, data: bytes) -> Generator[tuple[int, Callable[[], bytes]]]:
        """The address of a copy that the library may change, and what it is then."""
        buffer = ctypes.create_string_buffer(data, len(data))
        yield ctypes.addressof(buffer), lambda: buffer.raw

    def read(self, buffer: room_pb.BufferInfo) -> bytes:
        """A copy of the library's memory."""
        return ctypes.string_at(buffer.data_ptr, buffer.data_len)

    # --- being called -------------------------------------------------------------------------------------------

    def _called(self, data: Any, length: int) -> None:
        """On one of the library's threads.  Must not raise."""
        self.last_callback = time.monotonic()
        try:
            self._route(ffi.FfiEvent.FromString(ctypes.string_at(data, length)))
        except Exception:
            # The boundary with native code: a safety net for bugs of ours, with nobody above to tell but the log.
            _log.exception("an event of the room library was lost")

    def _route(self, event: ffi.FfiEvent) -> None:
        kind = event.WhichOneof("message")
        if kind is None or kind == "logs":
            return
        if kind == "panic":
            # One room failed inside the library, and it does not say which.  Ending the process, as the library's own
            # Python client does, would take all the others with it.
            _log.error("the room library reports a panic: %s", printable(event.panic.message))
            for transport in list(self._transports.values()):
                transport.mail(event)
            return
        if kind in STREAM_EVENTS:
            self.streams.route(event)
            return
        if kind == "room_event":
            home = self._room_homes.get(event.room_event.room_handle)
        elif kind in ROUTED_BY_HANDLE:
            home = self._handle_homes.get(getattr(getattr(event, kind), ROUTED_BY_HANDLE[kind]))
        else:
            async_id: int = getattr(getattr(event, kind), "async_id", 0)
            home = self._transports.get(async_id >> _ID_BITS)
        if home is None:
            self._orphan(event)
        else:
            home.mail(event)
        for transport in list(self._transports.values()):
            transport.sweep()

    def _orphan(self, event: ffi.FfiEvent) -> None:
        """Nobody's: a room that is over or was given up, or a loop that is gone."""
        release(self, event)

    # --- transports come and go -----------------------------------------------------------------------------------

    def new_number(self) -> int:
        """A number for a transport."""
        self._transport_count += 1
        return self._transport_count

    def register(self, transport: NativeTransport) -> None:
        """It waits for something: send it its events."""
        self._transports[transport.number] = transport

    def unregister(self, transport: NativeTransport) -> None:
        """It waits for nothing any more."""
        self._transports.pop(transport.number, None)

    def own_room(self, room_handle: int, transport: NativeTransport | None) -> None:
        """Where a room's events go; None: nowhere."""
        if transport is None:
            self._room_homes.pop(room_handle, None)
        else:
            self._room_homes[room_handle] = transport

    def own_handle(self, handle_id: int, transport: NativeTransport | None) -> None:
        """Where the events about a handle go; None: nowhere."""
        if transport is None:
            self._handle_homes.pop(handle_id, None)
        else:
            self._handle_homes[handle_id] = transport

    # --- the end --------------------------------------------------------------------------------------------------

    def _close_quietly(self) -> None:
        """At exit, on the main thread: dispose, then hold the interpreter until the library is silent."""
        if self.pid != os.getpid():
            return
        self._lib.livekit_ffi_dispose()
        # dispose returns before the thread that delivered the last event is done with us.
        end = time.monotonic() + NATIVE_EXIT_TIMEOUT
        self.last_callback = max(self.last_callback, time.monotonic())
        while (now := time.monotonic()) < min(end, self.last_callback + NATIVE_QUIET_TIME):
            time.sleep(min(end, self.last_callback + NATIVE_QUIET_TIME) - now)


@contextmanager
def _without_tokens_in_the_log() -> Generator[None]:
    """The library reads ``RUST_LOG`` when it is initialised; for that moment it says less of three targets.

    Through the C library, because what Python shows of the environment is a copy, and reading that is the
    configuration's business alone.
    """
    if platform.system() == "Windows":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_char_p
    before: bytes | None = libc.getenv(b"RUST_LOG")
    libc.setenv(b"RUST_LOG", (before or b"error") + b"".join(b"," + target for target in _QUOTE_TOKENS), 1)
    try:
        yield
    finally:
        if before is None:
            libc.unsetenv(b"RUST_LOG")
        else:
            libc.setenv(b"RUST_LOG", before, 1)


class NativeTransport:
    """The library as one event loop sees it (see ``_transport``)."""

    def __init__(self, library: _Library, loop: LoopHandle) -> None:
        self._library = library
        self.loop = loop
        self.number = library.new_number()
        self.lost_events = 0
        """Data, speakers and quality events given back unseen because the event loop was blocked for too long."""
        self.router = _NativeRouter(self, library)
        self._mailbox: Mailbox[ffi.FfiEvent] = Mailbox(
            self._deliver, post=loop.post, alive=loop.alive, undeliverable=self._undeliverable
        )

    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse:
        """Ask the library."""
        return self._library.request(request)

    def drop(self, handle_id: int) -> bool:
        """Give a handle back."""
        return self._library.drop(handle_id)

    def lend(self, data: bytes) -> AbstractContextManager[int]:
        """The address of the bytes themselves; the library copies them while it is asked."""
        return self._library.lend(data)

    def read(self, buffer: room_pb.BufferInfo) -> bytes:
        """A copy of the library's memory."""
        return self._library.read(buffer)

    # --- from the library's threads -------------------------------------------------------------------------------

    def mail(self, event: ffi.FfiEvent) -> None:
        """Send an event into the loop."""
        if len(self._mailbox) >= NATIVE_MAILBOX_EVENTS_MAX and _may_be_lost(event):
            # The loop is blocked, and the library holds nothing back: its own queues have no bound that works.
            self.lost_events += 1
            release(self, event)
        else:
            self._mailbox.put(event)

    def sweep(self) -> None:
        """Reclaim what was sent to a loop that was closed before it ran."""
        self._mailbox.sweep()

    def _undeliverable(self, event: ffi.FfiEvent) -> None:
        """The loop is gone, without having left its rooms: leave them, and reclaim what comes."""
        self.router.abandon_rooms()
        if not event.HasField("panic"):
            self.router.reclaim(event)

    # --- in the loop ----------------------------------------------------------------------------------------------

    def _deliver(self, event: ffi.FfiEvent) -> None:
        if event.HasField("panic"):
            self.router.probe()
        else:
            self.router.deliver(event)


class _NativeRouter(Router):
    """A router that tells the library which events are its own, and only while it waits for any."""

    def __init__(self, transport: NativeTransport, library: _Library) -> None:
        super().__init__(transport, first_id=(transport.number << _ID_BITS) + 1)
        self._owner = transport
        self._library = library

    def expect(self, answer: Any, *, reclaim: Any = None, room_handle: int = 0) -> int:
        self._library.register(self._owner)
        return super().expect(answer, reclaim=reclaim, room_handle=room_handle)

    def cancel(self, async_id: int) -> None:
        super().cancel(async_id)
        self._retire()

    def route_room(self, room_handle: int, deliver: Any, lost: Any) -> None:
        self._library.register(self._owner)
        self._library.own_room(room_handle, self._owner)
        super().route_room(room_handle, deliver, lost)

    def route_handle(self, handle_id: int, deliver: Any) -> None:
        self._library.register(self._owner)
        self._library.own_handle(handle_id, self._owner)
        super().route_handle(handle_id, deliver)

    def unroute_handle(self, handle_id: int) -> None:
        self._library.own_handle(handle_id, None)
        super().unroute_handle(handle_id)
        self._retire()

    def open_stream(self, request: ffi.FfiRequest, sink: StreamSink) -> int:
        handle_id = self._library.streams.open(request, sink, self._owner.loop, self.deliver)
        self._streams[handle_id] = sink
        return handle_id

    def close_stream(self, handle_id: int) -> None:
        self._library.streams.close(handle_id)
        super().close_stream(handle_id)

    def close_room(self, room_handle: int) -> None:
        self._library.own_room(room_handle, None)
        super().close_room(room_handle)
        self._retire()

    def deliver(self, event: ffi.FfiEvent) -> None:
        super().deliver(event)
        self._retire()

    def reclaim(self, event: ffi.FfiEvent) -> None:
        super().reclaim(event)
        self._retire()

    def abandon_rooms(self) -> None:
        """The loop is gone: leave its rooms, so that nobody stays in them."""
        for handle_id in list(self._handles):
            self._library.own_handle(handle_id, None)
            super().unroute_handle(handle_id)
        for room_handle in self.room_handles:
            self._library.own_room(room_handle, None)
            self.forget_room(room_handle)
            disconnect = room_pb.DisconnectRequest(room_handle=room_handle)
            # Rejected: the library has forgotten the room; the others are to be left all the same.
            with suppress(RoomError):
                self._library.request(ffi.FfiRequest(disconnect=disconnect))
            self._library.drop(room_handle)

    def _retire(self) -> None:
        if self.idle:
            self._library.unregister(self._owner)


def _may_be_lost(event: ffi.FfiEvent) -> bool:
    return event.HasField("room_event") and event.room_event.WhichOneof("message") in _LOSABLE


_transport: anyio.lowlevel.RunVar[NativeTransport] = anyio.lowlevel.RunVar("livekit_agent_native_transport")
_library: _Library | None = None
_library_lock = threading.Lock()


def _rtc_is_in_use() -> bool:
    """Whether ``livekit.rtc`` has initialised the library: to import it does no harm, its first object does."""
    module = sys.modules.get("livekit.rtc._ffi_client")
    return module is not None and getattr(getattr(module, "FfiClient", None), "_instance", None) is not None


def native_library() -> _Library:
    """The process's library; loaded at the first call."""
    global _library
    with _library_lock:
        # A forked child keeps the parent's instance, which then refuses every request.
        if _library is None:
            _library = _Library()
        return _library


def native_transport() -> NativeTransport:
    """The running event loop's transport; loads the library at the first call."""
    library = native_library()
    try:
        return _transport.get()
    except LookupError:
        transport = NativeTransport(library, current_loop())
        _transport.set(transport)
        return transport
