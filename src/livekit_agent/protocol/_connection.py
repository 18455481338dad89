"""One signalling connection, sans-IO: what both roles share.

The drain rule
==============

A connection never does anything by itself.  Whoever drives it calls ``receive_data``, ``receive_eof``,
``handle_timeout`` or a verb, and after *each* of these, before awaiting anything:

1. takes ``events()`` and acts on them,
2. takes ``data_to_send()`` and has it written in order by one writer,
3. sleeps no longer than ``next_deadline()``,
4. closes the stream once ``finished`` is true and the data is written.

Spurious calls are harmless.  Time is an argument: ``now`` in seconds on any monotonic clock.

Errors
======

A verb that the state does not allow raises :class:`LocalProtocolError` and sends nothing.  Nothing that a peer sends
raises: its faults end the connection with a :class:`ConnectionClosed` event that carries the typed error.  Afterwards
the connection refuses input.

Roles are the two subclasses: ``_worker_side.py`` and ``_server_side.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from .._bounds import CLOSE_TIMEOUT, OUTBOX_BYTES_MAX
from .._errors import ConnectionLostError, LocalProtocolError, RemoteProtocolError, printable
from . import _codec
from ._events import ConnectionClosed, Event, MessageSkipped
from ._jobs import JobBook
from ._state import CONVERSATION, SPEAKER, Kind, Role, Stage
from ._timers import Timer, TimerTable
from ._websocket import Closed, Failed, Item, Pulse, WebSocket

if TYPE_CHECKING:
    from google.protobuf.message import Message as ProtoMessage

    from ._events import Registration
    from ._server_side import ServerConnection
    from ._worker_side import WorkerConnection

__all__ = ["SignalConnection", "Tracer"]


class Tracer(Protocol):
    """Who is told of every message of every connection.  Must not raise, block or call into the connection."""

    def said(self, connection: SignalConnection, kind: Kind, message: ProtoMessage, now: float) -> None:
        """A connection put a message into its outbox."""
        ...

    def heard(self, connection: SignalConnection, kind: Kind, event: Event, now: float) -> None:
        """A connection took a message in, legal in its stage."""
        ...

    def ended(self, connection: SignalConnection, event: ConnectionClosed) -> None:
        """A connection finished."""
        ...


class SignalConnection:
    """Base of both roles; make one with :meth:`worker` or :meth:`server`."""

    role: ClassVar[Role]

    tracer: ClassVar[Tracer | None] = None
    """For simulation and recording: told of everything said and heard, in order, by every connection of the process."""

    def __init__(self, *, now: float, wall: float, book: JobBook) -> None:
        self._stage = Stage.IDLE
        self._book = book
        self._ws = WebSocket(self.role)
        self._timers = TimerTable()
        self._events: list[Event] = []
        self._wall_offset = wall - now
        self._now = now
        self._last_heard = now
        self._json = False
        self.on_message: Callable[[str, str, int], None] | None = None
        """For debugging: told "out" or "in", the kind and the size of every message; never its content."""

    @staticmethod
    def worker(
        *,
        host: str,
        target: str,
        token: str,
        registration: Registration,
        book: JobBook,
        now: float,
        wall: float,
        serial: int = 1,
    ) -> WorkerConnection:
        """The worker's end; the upgrade request is in ``data_to_send()`` at once.  ``serial`` counts connections."""
        from ._worker_side import WorkerConnection

        return WorkerConnection(
            host=host,
            target=target,
            token=token,
            registration=registration,
            book=book,
            now=now,
            wall=wall,
            serial=serial,
        )

    @staticmethod
    def server(*, now: float, wall: float = 0.0) -> ServerConnection:
        """The server's end of one worker's connection."""
        from ._server_side import ServerConnection

        return ServerConnection(now=now, wall=wall)

    # ------------------------------------------------------------------------------------ drive surface

    @property
    def stage(self) -> Stage:
        """How far the conversation has come."""
        return self._stage

    @property
    def finished(self) -> bool:
        """Nothing more will be sent or heard: write what is left and close the stream."""
        return self._stage is Stage.CLOSED

    @property
    def book(self) -> JobBook:
        """The jobs of this end."""
        return self._book

    def events(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return events

    @property
    def wants_to_send(self) -> bool:
        """Whether ``data_to_send`` would give bytes; a driver need not wake its writer otherwise."""
        return self._ws.outbox_bytes > 0

    def data_to_send(self) -> bytes:
        """The bytes to write next."""
        return self._ws.take_outbox()

    def next_deadline(self) -> float:
        """When ``handle_timeout`` is due, ``inf`` if never."""
        return self._timers.next_deadline()

    def receive_data(self, data: bytes, now: float) -> None:
        """Bytes came.  Never raises for what a peer sent; LocalProtocolError after the connection has finished."""
        if self.finished:
            raise LocalProtocolError("the connection has finished and takes no more input")
        if not data:
            return  # says nothing, so it is no sign of life either
        self._now = self._last_heard = now
        if self._ws.outbox_bytes > OUTBOX_BYTES_MAX:
            self._lost(f"the peer sends and does not read: {self._ws.outbox_bytes} bytes wait for it")
            return
        for item in self._ws.receive_data(data):
            self._on_item(item, now)
            if self._stage is Stage.CLOSED:
                return

    def receive_eof(self, now: float) -> None:
        """The stream ended.  Harmless after the connection has finished."""
        if self.finished:
            return
        self._now = now
        for item in self._ws.receive_eof():
            self._on_item(item, now)
        if not self.finished:
            self._lost(f"the peer closed the stream{_WHEN.get(self._stage, '')}")

    def handle_timeout(self, now: float) -> None:
        """Fire every timer that is due."""
        self._now = max(now, self._now)
        while (key := self._timers.pop_due(now)) is not None:
            self._on_timer(key[0], key[1], now)

    def close(self, now: float, code: int = 1000, reason: str = "") -> None:
        """Say goodbye; the peer's answer is awaited for 2 s.  Harmless when closing or closed already."""
        if not (1000 <= code < 5000 and code not in _NEVER_SENT):
            raise LocalProtocolError(f"{code} is not a close code that may be sent")
        self._now = now
        ours = Kind.WORKER_CLOSE if self.role is Role.WORKER else Kind.SERVER_CLOSE
        if self._stage in (Stage.IDLE, Stage.UPGRADING):
            self.drop("closed during the handshake")
        elif self._stage in (Stage.OPEN, Stage.REGISTERING, Stage.REGISTERED):
            self._before_close(now)
            self._step(ours)
            self._ws.send_close(code, reason.encode("utf-8", "replace").decode())
            self._timers.clear()
            self._timers.set(Timer.CLOSE, now + CLOSE_TIMEOUT)

    def drop(self, reason: str = "dropped") -> None:
        """End without a word, as the real server does.  Harmless when finished."""
        if not self.finished:
            self._step(Kind.LOST)
            self._end(1006, reason, None)

    def transport_failed(self, text: str, now: float) -> None:
        """The driver could not write, or gave the stream up: the connection is lost.  Harmless when finished."""
        self._now = now
        if not self.finished:
            self._lost(text)

    def __repr__(self) -> str:
        return f"<SignalConnection {self.role.name} {self._stage.name}>"

    # ------------------------------------------------------------------------------------ speaking

    def _say(self, kind: Kind, message: ProtoMessage) -> None:
        self._step(kind)
        if self.tracer is not None:
            self.tracer.said(self, kind, message, self._now)
        payload = _codec.serialize(message, json=self._json)
        if self.on_message is not None:
            self.on_message("out", kind.name.lower(), len(payload))
        self._ws.send_message(payload)

    def _step(self, kind: Kind) -> None:
        """Walk the table for something *we* say or decide."""
        row = CONVERSATION[self._stage]
        if kind not in row:
            raise LocalProtocolError(f"{kind.name.lower()} is not possible when the conversation is {self._stage.name}")
        self._stage = row[kind]

    # ------------------------------------------------------------------------------------ hearing

    def _on_item(self, item: Item, now: float) -> None:
        if isinstance(item, bytes | str):
            self._on_message(item, now)
        elif isinstance(item, Closed):
            self._on_closed(item)
        elif isinstance(item, Failed):
            self._fail(item)
        elif not isinstance(item, Pulse):
            self._on_handshake(item, now)

    def _on_message(self, payload: bytes | str, now: float) -> None:
        if self.role is Role.SERVER:
            # The real server answers in the encoding of the last frame it read.
            self._json = isinstance(payload, str)
        try:
            kind, event = _codec.decode(self._peer, payload, wall=now + self._wall_offset, known=self._book.offered_job)
        except _codec.Undecodable as exc:
            self._on_undecodable(str(exc), now)
            return
        if self.on_message is not None:
            self.on_message("in", "unknown" if kind is None else kind.name.lower(), len(payload))
        if kind is None:
            self._on_unknown(event)
            return
        row = CONVERSATION[self._stage]
        if kind not in row:
            self._violation(f"{kind.name.lower()} is not possible when the conversation is {self._stage.name}")
            return
        if self.tracer is not None:
            self.tracer.heard(self, kind, event, now)
        unheard = self._stage in (Stage.WORKER_CLOSING, Stage.SERVER_CLOSING)
        before, self._stage = self._stage, row[kind]
        if not unheard:
            self._HEARERS[kind](self, event, now, before)

    def _on_closed(self, item: Closed) -> None:
        asked = self._stage in (Stage.WORKER_CLOSING, Stage.SERVER_CLOSING)
        theirs, ours = Kind.SERVER_CLOSE, Kind.WORKER_CLOSE
        if self.role is Role.SERVER:
            theirs, ours = ours, theirs
        self._stage = CONVERSATION[self._stage][theirs]
        if not asked:
            self._stage = CONVERSATION[self._stage][ours]
        reason = printable(item.reason, 125)
        error = None if asked else self._close_error(item.code, reason)
        self._end(item.code, reason, error)

    def _close_error(self, code: int, reason: str) -> Exception | None:
        text = f"the peer closed the connection with code {code}" + (f" ({reason})" if reason else "")
        return ConnectionLostError(text, last_close_code=code)

    def _lost(self, text: str) -> None:
        """The connection is gone without a Close."""
        self._step(Kind.LOST)
        self._end(1006, text, ConnectionLostError(text, last_close_code=1006))

    def _fail(self, item: Failed) -> None:
        """The peer broke the rules of WebSocket; a Close is in the outbox where one could be said."""
        self._step(Kind.LOST)
        if item.code:
            text = f"broken WebSocket data: {printable(item.reason)}"
            self._end(item.code, text, RemoteProtocolError(text, close_code=item.code))
        else:
            error = self._handshake_fault(f"broken WebSocket handshake: {printable(item.reason)}")
            self._end(1006, str(error), error)

    def _end(self, code: int, reason: str, error: Exception | None) -> None:
        self._stage = Stage.CLOSED
        self._timers.clear()
        self._after_end()
        closed = ConnectionClosed(code=code, reason=reason, error=error)
        self._events.append(closed)
        if self.tracer is not None:
            self.tracer.ended(self, closed)

    def _skip(self, kind: str, reason: str) -> None:
        self._events.append(MessageSkipped(kind=kind, reason=printable(reason)))

    # ------------------------------------------------------------------------------------ filled in by the roles

    _peer: ClassVar[Role]
    _HEARERS: ClassVar[Mapping[Kind, Callable[[Any, Any, float, Stage], None]]]

    def _on_handshake(self, item: Item, now: float) -> None:
        raise AssertionError(item)

    def _handshake_fault(self, text: str) -> Exception:
        raise AssertionError(text)

    def _on_timer(self, timer: Timer, job_id: str, now: float) -> None:
        raise AssertionError(timer)

    def _on_undecodable(self, what: str, now: float) -> None:
        raise AssertionError(what)

    def _on_unknown(self, event: Event) -> None:
        raise AssertionError(event)

    def _violation(self, text: str) -> None:
        raise AssertionError(text)

    def _before_close(self, now: float) -> None:
        """Last words before our Close."""

    def _after_end(self) -> None:
        """What the connection's end does to the jobs."""


#: Close codes that stand for something else than a Close frame with that code (RFC 6455, 7.4.1).
_NEVER_SENT = (1004, 1005, 1006, 1015)

#: What was going on when a stream ended, for the error text.
_WHEN = {
    Stage.UPGRADING: " during the WebSocket handshake",
    Stage.OPEN: " before registration",
    Stage.REGISTERING: " during registration",
}

assert all(kind in SPEAKER for kind in Kind if kind is not Kind.LOST)
