"""WebSocket on bytes, for both roles: bytes in, ``Item`` values out, bytes out.

wsproto does the handshake and the frames, but for plain ones, which go past it (``_plain_frames.py``): whole,
unfragmented binary messages, nearly all there is.  What it leaves to its user is here:

- reassembly of fragmented messages and their bounds (``_frame_guard.py``);
- the seam between handshake and frames: bytes glued to a 101 are frames, bytes sent before it are a fault;
- errors: wsproto reports a broken frame as a close event with a text, h11 and header decoding raise a handful of
  exception classes.  All of them become one ``Failed`` item, after which nothing is read.

permessage-deflate is never offered or accepted: 261 KB of it can become 256 MiB.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto

import h11
import wsproto
from wsproto import events as ws
from wsproto import frame_protocol
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError

from .._bounds import (
    CLOSE_REASON_CHARS_MAX,
    FRAGMENTS_MAX,
    HANDSHAKE_BYTES_MAX,
    MESSAGE_BYTES_MAX,
    REFUSAL_BYTES_MAX,
)
from .._errors import LocalProtocolError, printable
from ._frame_guard import FrameGuard
from ._plain_frames import ONE_INTEGER_BYTES, MaskPool, plain_frame, xor
from ._state import Role

__all__ = [
    "Accepted",
    "Closed",
    "Failed",
    "Item",
    "Pulse",
    "Refused",
    "Requested",
    "WebSocket",
]

_HTTP = b"HTTP/"

#: Where an HTTP head ends.  h11's own rule, bare line feeds included: were ours narrower, h11 would take what follows
#: such a head for the stream's first frames, past the guard.
_HEAD_END = re.compile(rb"\n\r?\n")

#: What a well- or ill-meaning peer's handshake can make wsproto and h11 raise.
_HANDSHAKE_FAULTS = (ProtocolError, h11.ProtocolError, UnicodeError, ValueError, IndexError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    """The server answered 101."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """The server answered something else."""

    status: int
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Requested:
    """A client asks for the upgrade.  Header names are lower-case; of repeated ones the first counts."""

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pulse:
    """A ping (answered already) or a pong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Closed:
    """The peer's Close frame (answered already), or the answer to ours."""

    code: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The peer broke the rules.  A Close with ``code`` is in the outbox; 0 says that none was possible."""

    code: int
    reason: str


#: What happened.  A whole message is its bare payload, text frames giving str: a box around each would cost as much as
#: finding it.
Item = bytes | str | Accepted | Refused | Requested | Pulse | Closed | Failed


class _Phase(Enum):
    HANDSHAKE = auto()
    REFUSAL = auto()
    """Reading the body of a refusal (client)."""
    REQUESTED = auto()
    """The request is with our user; bytes now are a fault (server)."""
    FRAMES = auto()
    DONE = auto()


class WebSocket:
    """One WebSocket, client (worker) or server side."""

    def __init__(self, role: Role) -> None:
        self._client = role is Role.WORKER
        self._handshake = wsproto.WSConnection(
            wsproto.ConnectionType.CLIENT if self._client else wsproto.ConnectionType.SERVER
        )
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HANDSHAKE_BYTES_MAX)
        self._request: h11.Request | None = None
        self._guard = FrameGuard(masked=not self._client)
        # Drawn where wsproto draws its own: who fixes the one (a test that compares bytes) has fixed the other.
        self._masks = MaskPool(frame_protocol.os.urandom)  # pyright: ignore[reportPrivateImportUsage]
        self._phase = _Phase.HANDSHAKE
        self._incoming = bytearray()
        self._refusal: tuple[int, dict[str, str], bytearray] = (0, {}, bytearray())
        #: The fragments of the message under way.  Text is kept encoded: one buffer, of as many bytes as were received.
        self._message = bytearray()
        self._outbox = bytearray()
        self._we_closed = False

    # ------------------------------------------------------------------------------------ out

    def take_outbox(self) -> bytes:
        """The bytes to be written, once."""
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    @property
    def outbox_bytes(self) -> int:
        """How many bytes wait to be taken."""
        return len(self._outbox)

    def request_upgrade(self, host: str, target: str, headers: Mapping[str, str]) -> None:
        """Client: ask for the upgrade.  LocalProtocolError when that cannot be put into an HTTP request."""
        try:
            extra = [(name.encode("ascii"), value.encode("latin-1")) for name, value in headers.items()]
            data = self._handshake.send(ws.Request(host=host, target=target, extra_headers=extra))
        except _HANDSHAKE_FAULTS as exc:
            # Not the fault's own text: h11 quotes the header, which is the token.
            raise LocalProtocolError(
                f"host {printable(host, 80)!r}, path {printable(target, 80)!r} and token make no HTTP request "
                f"({type(exc).__name__})"
            ) from None
        self._outbox += data

    def accept_upgrade(self) -> bool:
        """Server: answer 101.  False when the request is not a valid upgrade; then reject it."""
        assert self._request is not None
        headers = [(n, v) for n, v in self._request.headers if n.lower() != b"authorization"]
        if any(n == b"transfer-encoding" or (n == b"content-length" and v != b"0") for n, v in headers):
            return False  # its body would be read as frames
        try:
            self._handshake.initiate_upgrade_connection(headers, self._request.target)
            answer = self._handshake.send(ws.AcceptConnection())
        except _HANDSHAKE_FAULTS:
            return False
        self._outbox += answer
        self._phase = _Phase.FRAMES
        return True

    def reject_upgrade(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        """Server: answer anything else and end the exchange.  LocalProtocolError for what is no HTTP answer."""
        assert self._request is not None
        if self._request.method == b"HEAD" or status in (204, 304):
            body = b""
        try:
            lines = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()]
            lines += [(b"content-length", str(len(body)).encode()), (b"connection", b"close")]
            parts = [h11.Response(status_code=status, headers=lines), h11.Data(data=body), h11.EndOfMessage()]
            answer = b"".join(self._http.send(part) or b"" for part in parts)
        except _HANDSHAKE_FAULTS as exc:
            raise LocalProtocolError(f"no HTTP answer: {exc}") from None
        self._outbox += answer
        self._phase = _Phase.DONE

    def send_message(self, payload: bytes | str) -> None:
        """One message in one frame."""
        if isinstance(payload, str):
            self._outbox += self._handshake.send(ws.TextMessage(data=payload))
        elif (
            self._phase is _Phase.FRAMES
            and not self._we_closed
            and (not self._client or len(payload) <= ONE_INTEGER_BYTES)
        ):
            self._outbox += plain_frame(payload, self._masks.take() if self._client else None)
        else:
            self._outbox += self._handshake.send(ws.BytesMessage(data=payload))

    def send_ping(self) -> None:
        """A ping with an empty payload, as the real server sends them."""
        self._outbox += self._handshake.send(ws.Ping())

    def send_close(self, code: int, reason: str) -> None:
        """Our Close; the peer's is awaited."""
        self._we_closed = True
        self._outbox += self._handshake.send(ws.CloseConnection(code=code, reason=reason))

    # ------------------------------------------------------------------------------------ in

    def receive_data(self, data: bytes) -> Iterator[Item]:
        """What ``data`` says.  Iterate fully; after ``Closed``, ``Failed`` or ``Refused`` nothing more comes."""
        # No generator of its own: nearly all that comes are frames, and each layer of them would cost as much as one.
        return self._receive_frames(data) if self._phase is _Phase.FRAMES else self._receive_handshake(data)

    def _receive_handshake(self, data: bytes) -> Iterator[Item]:
        if self._phase is _Phase.REQUESTED:
            # The real server closes such a connection without an answer: the 101 has to come first.
            yield self._fail(0, "bytes before the upgrade was answered")
        elif self._phase is _Phase.REFUSAL:
            yield from self._receive_refusal(data)
        elif self._phase is _Phase.HANDSHAKE:
            yield from self._receive_head(data)

    def receive_eof(self) -> Iterator[Item]:
        """The stream ended: a refusal may end that way; any other end is our caller's to judge."""
        if self._phase is _Phase.REFUSAL:
            yield self._finish_refusal()

    def _receive_head(self, data: bytes) -> Iterator[Item]:
        searched = max(len(self._incoming) - 2, 0)
        self._incoming += data
        found = _HEAD_END.search(self._incoming, searched)
        end = len(self._incoming) if found is None else found.end()
        if self._client and not self._incoming.startswith(_HTTP[: len(self._incoming)]):
            yield self._fail(0, "the answer is not HTTP")
        elif end > HANDSHAKE_BYTES_MAX:
            yield self._fail(0, f"HTTP head larger than {HANDSHAKE_BYTES_MAX} bytes")
        elif found is not None:
            head, rest = bytes(self._incoming[:end]), bytes(self._incoming[end:])
            self._incoming = bytearray()
            try:
                yield from self._client_head(head) if self._client else self._server_head(head, rest)
            except _HANDSHAKE_FAULTS as exc:
                yield self._fail(0, str(exc) or type(exc).__name__)
            if rest:
                yield from self._receive_rest(rest)

    def _receive_rest(self, rest: bytes) -> Iterator[Item]:
        """What came glued to the head of an answer."""
        if self._phase is _Phase.FRAMES:
            yield from self._receive_frames(rest)
        elif self._phase is _Phase.REFUSAL:
            yield from self._receive_refusal(rest)

    def _client_head(self, head: bytes) -> Iterator[Item]:
        self._handshake.receive_data(head)
        for event in self._handshake.events():
            if isinstance(event, ws.AcceptConnection):
                self._phase = _Phase.FRAMES
                yield Accepted()
            elif isinstance(event, ws.RejectConnection):
                self._refusal = (event.status_code, _headers(event.headers), bytearray())
                self._phase = _Phase.REFUSAL
                if not event.has_body:
                    yield self._finish_refusal()
            elif isinstance(event, ws.RejectData) and event.body_finished:
                yield self._finish_refusal()

    def _receive_refusal(self, data: bytes) -> Iterator[Item]:
        body = self._refusal[2]
        finished = False
        try:
            self._handshake.receive_data(data)
            for event in self._handshake.events():
                if isinstance(event, ws.RejectData):
                    body += event.data
                    finished = event.body_finished
        except _HANDSHAKE_FAULTS:
            finished = True  # the status is what counts; a broken body adds nothing
        if finished or len(body) > REFUSAL_BYTES_MAX:
            yield self._finish_refusal()

    def _finish_refusal(self) -> Refused:
        self._phase = _Phase.DONE
        status, headers, body = self._refusal
        return Refused(status=status, headers=headers, body=bytes(body[:REFUSAL_BYTES_MAX]))

    def _server_head(self, head: bytes, rest: bytes) -> Iterator[Item]:
        self._http.receive_data(head)
        request = self._http.next_event()
        if not isinstance(request, h11.Request):
            raise ValueError("not an HTTP request")
        if rest:
            yield self._fail(0, "bytes before the upgrade was answered")
            return
        self._request = request
        self._phase = _Phase.REQUESTED
        path, _, query = request.target.decode("ascii").partition("?")
        yield Requested(
            method=request.method.decode("ascii"), path=path, query=query, headers=_headers(list(request.headers))
        )

    def _receive_frames(self, data: bytes) -> Iterator[Item]:
        # The direct path: wsproto is between two messages, and stays there.
        found, position = self._guard.plain(data, 0)
        while found:
            for start, end in found:
                payload = data[start:end]
                yield payload if self._client else xor(payload, data[start - 4 : start])
            found, position = self._guard.plain(data, position)
        if position < len(data):
            yield from self._receive_other_frames(data[position:] if position else data)

    def _receive_other_frames(self, data: bytes) -> Iterator[Item]:
        before = self._guard.excess(data)
        self._handshake.receive_data(data if before is None else data[:before])
        for event in self._handshake.events():
            item = self._frame_item(event)
            if item is not None:
                yield item
            if self._phase is _Phase.DONE:
                return
        if before is not None:
            yield self._fail(1009, f"message larger than {MESSAGE_BYTES_MAX} bytes or {FRAGMENTS_MAX} fragments")

    def _frame_item(self, event: ws.Event) -> Item | None:
        if isinstance(event, ws.TextMessage):
            self._message += event.data.encode()
            return self._whole_message().decode() if event.message_finished else None
        if isinstance(event, ws.BytesMessage):
            self._message += event.data
            return self._whole_message() if event.message_finished else None
        if isinstance(event, ws.Ping):
            if not self._we_closed:
                self._outbox += self._handshake.send(event.response())
            return Pulse()
        if isinstance(event, ws.Pong):
            return Pulse()
        if isinstance(event, ws.CloseConnection):
            return self._closed(event)
        return None

    def _whole_message(self) -> bytes:
        whole, self._message = bytes(self._message), bytearray()
        return whole

    def _closed(self, event: ws.CloseConnection) -> Item:
        # wsproto reports a frame it cannot parse as a Close that the peer never sent; its state tells the two apart.
        state = self._handshake.state
        genuine = state in (
            wsproto.connection.ConnectionState.REMOTE_CLOSING,
            wsproto.connection.ConnectionState.CLOSED,
        )
        code, reason = int(event.code), event.reason or ""
        if not genuine:
            # wsproto's own words for a bad text name the byte's place in what it was given: how the bytes were cut.
            not_utf8 = code == CloseReason.INVALID_FRAME_PAYLOAD_DATA
            return self._fail(code, "text that is not UTF-8" if not_utf8 else reason or "broken frame")
        if not self._we_closed:
            # The same code and no reason, as the real server does.
            self._outbox += self._handshake.send(ws.CloseConnection(code=event.code))
        self._phase = _Phase.DONE
        return Closed(code=code, reason=reason)

    def _fail(self, code: int, reason: str) -> Failed:
        # The real server ends without a Close on text that is not UTF-8, and with one on any other broken frame.
        mute = not self._client and code == CloseReason.INVALID_FRAME_PAYLOAD_DATA
        if code and not mute and not self._we_closed:
            self._outbox += self._handshake.send(ws.CloseConnection(code=code, reason=reason[:CLOSE_REASON_CHARS_MAX]))
        self._phase = _Phase.DONE
        return Failed(code=code, reason=reason)


def _headers(pairs: list[tuple[bytes, bytes]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in pairs:
        headers.setdefault(name.decode("latin-1").lower(), value.decode("latin-1"))
    return headers
