"""One connection: moves bytes between a stream and the protocol core, and sleeps until the core's deadline.

Three tasks and no decision:

- the *reader* feeds ``receive_data``;
- the *writer* is the only one that sends; everybody else appends to the core's outbox and wakes it, so one write
  carries whatever has gathered;
- the *timer* sleeps until ``next_deadline``.

``pump()`` is the drain rule (protocol/_connection.py) in one place: whoever called into the core calls it, before
awaiting anything.  Events are handed to ``on_event`` synchronously, in order; the handler may call verbs.

The session ends with the core: whatever happens, ``run`` returns the one ``ConnectionClosed``.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import ByteStream

from .._bounds import CLOSE_TIMEOUT, READ_BYTES_MAX, WRITE_TIMEOUT
from ..protocol import ConnectionClosed, Event, WorkerConnection

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["Session"]

#: What a broken stream raises, below and above AnyIO.
STREAM_ERRORS = (anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)


class Session:
    """A worker's connection while it lasts."""

    def __init__(
        self,
        stream: ByteStream,
        core: WorkerConnection,
        on_event: Callable[[Event], None],
        *,
        debug: Logger | None = None,
    ) -> None:
        self.core = core
        self.closed: ConnectionClosed | None = None
        self.ended = anyio.Event()
        """Set when the core has finished; the stream may still be closing."""
        self._stream = stream
        self._on_event = on_event
        if debug is not None:
            core.on_message = partial(debug.debug, "signal %s: %s, %d bytes")
        self._write_due = anyio.Event()
        self._rearm = anyio.Event()
        self._sleeping_until = math.inf
        self._send_scope: anyio.CancelScope | None = None
        self._pumping = False

    async def run(self) -> ConnectionClosed:
        """Serve until the connection is over.  Cancelling is safe: the stream is closed at once."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                tasks.start_soon(self._keep_time)
                self.pump()
                await self._write()
                tasks.cancel_scope.cancel()
        finally:
            await anyio.aclose_forcefully(self._stream)
        assert self.closed is not None
        return self.closed

    def pump(self) -> None:
        """The drain rule: hand out events, wake the writer, re-arm the timer.  An inner call is the outer's."""
        if self._pumping:
            return
        self._pumping = True
        try:
            while events := self.core.events():
                for event in events:
                    self._hand_out(event)
        finally:
            self._pumping = False
        if self.core.wants_to_send or self.core.finished:
            self._write_due.set()
        if self.core.next_deadline() < self._sleeping_until:
            self._rearm.set()

    def _hand_out(self, event: Event) -> None:
        if isinstance(event, ConnectionClosed):
            self.closed = event
            self.ended.set()
            if self._send_scope is not None:
                # A send is stuck on a peer that does not read, and there is nothing left worth waiting for.
                self._send_scope.cancel()
        self._on_event(event)

    async def _read(self) -> None:
        while not self.core.finished:
            try:
                data = await self._stream.receive(READ_BYTES_MAX)
            except anyio.EndOfStream:
                self.core.receive_eof(anyio.current_time())
            except STREAM_ERRORS:
                # A reset and an EOF are alike to us: the server resets when bytes of ours were still unread.
                self.core.receive_eof(anyio.current_time())
            else:
                if not self.core.finished:
                    self.core.receive_data(data, anyio.current_time())
            self.pump()

    async def _write(self) -> None:
        while True:
            self._write_due = anyio.Event()
            data = self.core.data_to_send()
            if data:
                if not await self._send(data):
                    return
            elif self.core.finished:
                return
            else:
                await self._write_due.wait()

    async def _send(self, data: bytes) -> bool:
        """Whether all of it was sent.  If not nothing may follow: how much of it went out, nobody knows."""
        timeout = CLOSE_TIMEOUT if self.core.finished else WRITE_TIMEOUT
        problem = ""
        with anyio.move_on_after(timeout) as scope:
            self._send_scope = None if self.core.finished else scope
            try:
                await self._stream.send(data)
            except STREAM_ERRORS as exc:
                problem = f"the connection broke while writing: {type(exc).__name__}"
        self._send_scope = None
        if scope.cancelled_caught:
            problem = f"the server did not read for {timeout:g} s"
        if problem and not self.core.finished:
            self.core.transport_failed(problem, anyio.current_time())
            self.pump()
        return not problem

    async def _keep_time(self) -> None:
        while not self.core.finished:
            self._rearm = anyio.Event()
            self._sleeping_until = self.core.next_deadline()
            with anyio.CancelScope(deadline=self._sleeping_until):
                await self._rearm.wait()
            self.core.handle_timeout(anyio.current_time())
            self.pump()
