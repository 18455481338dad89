"""Recording what is fed into a worker's protocol core, and feeding it again.

While a run lasts, :func:`recorded` puts :class:`RecordedConnection` in the place of the worker's connection class.  It
behaves the same and keeps every call, so that when the connection has ended the calls can be made a second time on a
fresh connection over a copy of the job book as it was: the very same (W19), or with the inbound bytes cut otherwise
(W14).  Events and outgoing messages must be the same.  Masks and the upgrade's key are random: the first are taken off,
the second is carried over.

A replay costs as much as the connection did, so not every connection is run again, and then in one way: the ways take
turns.  The others are only watched (:class:`WatchedConnection`): what the core's driver alone sees is noted of every
one, skipped messages and the sizes of buffers.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any

from .._errors import LocalProtocolError
from ..protocol import ConnectionClosed, Event, JobBook, MessageSkipped, SignalConnection, WorkerConnection
from ._tap import who_am_i

__all__ = ["RecordedConnection", "WatchedConnection", "recorded"]

#: One connection of so many is run again.
_REPLAYED = 3

_WAYS = ("split", "twice")

Call = tuple[str, tuple[Any, ...], dict[str, Any]]
Note = Callable[..., None]


class WatchedConnection(WorkerConnection):
    """A worker's connection that notes what it skips and how much it held."""

    def __init__(self, note: Note, settings: dict[str, Any]) -> None:
        self._note = note
        self._label = who_am_i.get()
        self._peak_in = self._peak_out = 0
        super().__init__(**settings)

    def events(self) -> list[Event]:
        """As the base class; skipped messages are noted."""
        events = super().events()
        for event in events:
            if isinstance(event, MessageSkipped):
                self._note(self._label, "skip", event.kind)
        return events

    def data_to_send(self) -> bytes:
        """As the base class; the size is remembered."""
        data = super().data_to_send()
        self._peak_out = max(self._peak_out, len(data))
        return data

    def receive_data(self, data: bytes, now: float) -> None:
        """As the base class; what is held back for later is measured."""
        super().receive_data(data, now)
        held = len(self._ws._message) + len(self._ws._incoming)  # pyright: ignore[reportPrivateUsage]
        self._peak_in = max(self._peak_in, held)

    def _after_end(self) -> None:
        super()._after_end()
        self._note(self._label, "buffers", "", "", inbound=self._peak_in, outbox=self._peak_out)


class RecordedConnection(WatchedConnection):
    """A worker's connection that remembers what was done with it, and does it again ``way`` when it has ended."""

    def __init__(self, note: Note, settings: dict[str, Any], way: str) -> None:
        self._settings = settings
        self._way = way
        self._snapshot: JobBook | None = _copied(settings["book"])
        self._calls: list[Call] = []
        self._happened: list[object] = []
        self._sent: list[object] = []
        self._depth = 0
        super().__init__(note, settings)
        settings["book"].release = self._recorded_release

    def _recorded_release(self, job_id: str) -> None:
        if self._depth == 0 and not self.finished:
            self._calls.append(("release", (job_id,), {}))
        JobBook.release(self._book, job_id)

    def events(self) -> list[Event]:
        """As the base class; kept."""
        events = super().events()
        if self._snapshot is not None:
            self._happened.extend(_outline(event) for event in events)
            if any(isinstance(event, ConnectionClosed) for event in events):
                self._replay(self._snapshot)
        return events

    def data_to_send(self) -> bytes:
        """As the base class; kept."""
        self._depth += 1
        data = super().data_to_send()
        self._depth -= 1
        if self._snapshot is not None and not self.finished:
            self._calls.append(("data_to_send", (), {}))
            self._sent.extend(_messages(data))
        return data

    # ------------------------------------------------------------------------------------ again

    def _replay(self, before: JobBook) -> None:
        self._snapshot = None
        vars(self._book).pop("release", None)  # the class's own again
        cut = random.Random(f"cut:{self._label}") if self._way == "split" else None
        tracer, SignalConnection.tracer = SignalConnection.tracer, None
        try:
            happened, sent = self._run_again(before, cut)
        finally:
            SignalConnection.tracer = tracer
        difference = _difference(self._happened, happened) or _difference(self._sent, sent)
        inputs = len(self._calls)
        self._note(self._label, "replay", self._way, "", same=not difference, difference=difference, inputs=inputs)

    def _run_again(self, book: JobBook, cut: random.Random | None) -> tuple[list[object], list[object]]:
        settings: dict[str, Any] = {**self._settings, "book": book}
        connection = WorkerConnection(**settings)
        # The answer to the upgrade was made for the key of the first run.
        _handshake(connection)._nonce = _handshake(self)._nonce
        happened: list[object] = []
        sent: list[object] = []
        for name, args, kwargs in self._calls:
            if name == "release":
                book.release(*args)
            elif name == "data_to_send":
                sent.extend(_messages(connection.data_to_send()))
            elif name == "receive_data":
                data, now = args
                for piece in [data] if cut is None else _cut(data, cut):
                    if not connection.finished:
                        connection.receive_data(piece, now)
            else:
                try:
                    getattr(connection, name)(*args, **kwargs)
                except LocalProtocolError as exc:
                    happened.append(str(exc))
            happened.extend(_outline(event) for event in connection.events())
        try:
            connection.receive_data(b"more", self._now)
            error = ""
        except LocalProtocolError as exc:
            error = type(exc).__name__
        self._note(self._label, "refuses", "", "", error=error)
        return happened, sent


def _recording(name: str) -> Callable[..., Any]:
    method = getattr(WatchedConnection, name)

    def call(self: RecordedConnection, *args: Any, **kwargs: Any) -> Any:
        if self._depth == 0 and self._snapshot is not None:  # pyright: ignore[reportPrivateUsage]
            self._calls.append((name, args, kwargs))  # pyright: ignore[reportPrivateUsage]
        self._depth += 1  # pyright: ignore[reportPrivateUsage]
        try:
            return method(self, *args, **kwargs)
        except LocalProtocolError as exc:
            self._happened.append(str(exc))  # pyright: ignore[reportPrivateUsage]
            raise
        finally:
            self._depth -= 1  # pyright: ignore[reportPrivateUsage]

    call.__name__ = name
    call.__doc__ = method.__doc__
    return call


for _name in (
    "accept", "decline", "report", "set_standing", "drain", "renounce", "receive_data", "receive_eof",
    "handle_timeout", "close", "drop", "transport_failed",
):  # fmt: skip
    setattr(RecordedConnection, _name, _recording(_name))


@contextmanager
def recorded(note: Note, first: int) -> Generator[None]:
    """Inside the block every worker's connection is a recorded one; ``note(who, what, kind, job, **data)``.

    ``first``, the seed, says whose turn it is first: a quiet history has one connection, and of those one in three is
    run again as well.
    """
    count = first

    def make(**settings: Any) -> WatchedConnection:
        nonlocal count
        settings = {"serial": 1, **settings}
        number, count = count, count + 1
        if number % _REPLAYED:
            return WatchedConnection(note, settings)
        return RecordedConnection(note, settings, _WAYS[number // _REPLAYED % len(_WAYS)])

    original = SignalConnection.__dict__["worker"]
    SignalConnection.worker = staticmethod(make)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        SignalConnection.worker = original


def _copied(book: JobBook) -> JobBook:
    """The book as it is now, without who watches it."""
    twin = JobBook(book.max_jobs)
    records = {job_id: copy.copy(record) for job_id, record in book._records.items()}  # pyright: ignore[reportPrivateUsage]
    state = {name: value for name, value in vars(book).items() if name not in ("release", "on_change")}
    for name, value in state.items():
        setattr(twin, name, dict(value) if isinstance(value, dict) else value)  # pyright: ignore[reportUnknownArgumentType]
    twin._records = records  # pyright: ignore[reportPrivateUsage]
    unproven = book._unproven  # pyright: ignore[reportPrivateUsage]
    twin._unproven = {job_id: records[job_id] for job_id in unproven}  # pyright: ignore[reportPrivateUsage]
    return twin


def _handshake(connection: WorkerConnection) -> Any:
    handshake = connection._ws._handshake.handshake  # pyright: ignore[reportPrivateUsage]
    assert hasattr(handshake, "_nonce"), "wsproto has renamed the upgrade's key"
    return handshake


def _outline(event: Event) -> object:
    if isinstance(event, ConnectionClosed):
        return ("closed", event.code, event.reason, type(event.error).__name__, str(event.error))
    return event


def _messages(data: bytes) -> list[bytes]:
    """What a client sends: frames without their masks; a head only by its first line, for the key is random."""
    if data.startswith(b"GET "):
        head, _, data = data.partition(b"\r\n\r\n")
        return [head.partition(b"\r\n")[0], *_messages(data)]
    frames: list[bytes] = []
    while data:
        length, header = data[1] & 0x7F, 2
        if length >= 126:
            header = 4 if length == 126 else 10
            length = int.from_bytes(data[2:header], "big")
        mask, body = data[header : header + 4], data[header + 4 : header + 4 + length]
        key = (mask * (length // 4 + 1))[:length]
        plain = (int.from_bytes(body, "big") ^ int.from_bytes(key, "big")).to_bytes(length, "big")
        frames.append(data[:1] + plain)
        data = data[header + 4 + length :]
    return frames


def _cut(data: bytes, rng: random.Random) -> list[bytes]:
    pieces: list[bytes] = []
    while data:
        size = rng.choice((1, 1, 2, 3, 7, 50, len(data)))
        pieces.append(data[:size])
        data = data[size:]
    return pieces


def _difference(first: list[object], second: list[object]) -> str:
    for number, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return f"output {number}: {one!r:.200} and {other!r:.200}"
    return "" if len(first) == len(second) else f"{len(first)} and {len(second)} outputs"
