"""The native library's media streams on their way into event loops: bounded, and none lost before its handle is known.

The library sends a stream's frames from threads of its own, to the process's one callback, and holds nothing back.
So each stream has a mailbox with the stream's own bound: while its event loop is blocked the oldest frame's buffer is
given back at once, and counted.  A stream's handle is known only from the response that opens it, and its first
events may come before that: those wait here, a bounded number of them, while any stream is being opened.

Thread-safe: the callback runs on the library's threads, the rest in event loops, several perhaps.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Protocol

from .._bounds import EARLY_STREAM_EVENTS_MAX
from ._mailbox import LoopHandle, Mailbox
from ._proto import ffi
from ._transport import StreamSink, opened_stream, release, stream_handle

__all__ = ["StreamDesk"]


class _Library(Protocol):
    def request(self, request: ffi.FfiRequest) -> ffi.FfiResponse: ...
    def drop(self, handle_id: int) -> bool: ...


class StreamDesk:
    """Every open media stream of the process."""

    def __init__(self, library: _Library) -> None:
        self._library = library
        # Held for a few dictionary operations only.  Re-entrant: a mailbox whose loop is gone closes its stream.
        self._lock = threading.RLock()
        self._homes: dict[int, tuple[StreamSink, Mailbox[ffi.FfiEvent]]] = {}
        self._opening = 0
        self._early: deque[ffi.FfiEvent] = deque()

    def open(
        self, request: ffi.FfiRequest, sink: StreamSink, loop: LoopHandle, deliver: Callable[[ffi.FfiEvent], None]
    ) -> int:
        """Open a stream for that loop, in it.  Returns its handle."""
        with self._lock:
            self._opening += 1
        handle_id = 0
        try:
            handle_id = opened_stream(self._library.request(request))
        finally:
            self._opened(handle_id, sink, loop, deliver)
        return handle_id

    def _opened(
        self, handle_id: int, sink: StreamSink, loop: LoopHandle, deliver: Callable[[ffi.FfiEvent], None]
    ) -> None:
        strays: list[ffi.FfiEvent] = []
        with self._lock:
            self._opening -= 1
            early, self._early = self._early, deque[ffi.FfiEvent]()
            if handle_id:

                def undeliverable(event: ffi.FfiEvent) -> None:
                    # The loop is gone without having closed its stream: nobody else will.
                    release(self._library, event)
                    if self.close(handle_id):
                        self._library.drop(handle_id)

                mailbox = Mailbox(deliver, post=loop.post, alive=loop.alive, undeliverable=undeliverable)
                self._homes[handle_id] = sink, mailbox
            for event in early:
                if stream_handle(event) == handle_id:
                    self._homes[handle_id][1].put(event)
                elif self._opening:
                    self._early.append(event)
                else:
                    strays.append(event)
        for event in strays:
            release(self._library, event)

    def close(self, handle_id: int) -> bool:
        """No more of this stream; what waits for its loop is given back.  False if that was done."""
        with self._lock:
            home = self._homes.pop(handle_id, None)
        return home is not None

    def route(self, event: ffi.FfiEvent) -> None:
        """An event of some stream, on a thread of the library's."""
        lost: ffi.FfiEvent | None = event
        with self._lock:
            home = self._homes.get(stream_handle(event))
            if home is not None:
                sink, mailbox = home
                lost = mailbox.take_oldest() if len(mailbox) >= sink.capacity else None
                sink.overrun += lost is not None
                # In the lock: the order of two threads' events is the order in which they came.
                mailbox.put(event)
            elif self._opening:
                self._early.append(event)
                lost = self._early.popleft() if len(self._early) > EARLY_STREAM_EVENTS_MAX else None
        if lost is not None:
            release(self._library, lost)
