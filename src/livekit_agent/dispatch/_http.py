"""HTTP/1.1 as the dispatch server speaks it: one keep-alive connection as a conversation, without I/O (h11 parses).

A connection is driven in steps: ``step()`` says what it needs or has got; ``receive_data`` feeds it; ``respond``
turns an answer into bytes and readies the next request.  Each request has an h11 connection of its own, so that a
request which turns out to be a worker's upgrade can be handed over untouched: ``Upgrade.data`` are the bytes from its
first on, and whatever the client sent behind it.

Bounded everywhere: the head by h11's limit, the body by ours.  The bounds of time are the caller's.

CORS is answered as the real server's middleware does (any origin), before the token is looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate

import h11

from .._bounds import HTTP_BODY_BYTES_MAX, HTTP_HEAD_BYTES_MAX
from ..rooms._remote_wire import PATH
from ._access import wants_websocket

__all__ = [
    "BodyAhead",
    "Ended",
    "Fault",
    "HttpConversation",
    "NeedBody",
    "NeedHead",
    "Request",
    "Response",
    "Step",
    "Upgrade",
    "cors",
    "preflight",
    "text",
]

_METHODS = ("OPTIONS", "HEAD", "GET", "POST", "PATCH", "DELETE")
_UPGRADED = ("/agent", PATH)
"""Where WebSockets are: workers', and rooms' participants' in other processes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A complete request.  Header names are lower-case; of a repeated header the values are joined."""

    method: str
    path: str
    query: str = field(default="", repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """An answer.  Header names are lower-case; length, date and connection are the conversation's business."""

    status: int
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedHead:
    """More bytes of a request's head.  ``begun``: some have come."""

    begun: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyAhead:
    """A request's head, without its body: the moment to lower ``body_limit``.  Then ask for the next step."""

    request: Request


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedBody:
    """More bytes of a request's body.  ``send`` first, if not empty: the client asked to be told to go on."""

    send: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upgrade:
    """A WebSocket upgrade, a worker's or a participant's; all bytes of it, and of whatever came behind.

    Ask for the next step instead of taking it, and it comes again as an ordinary request.
    """

    request: Request
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The client broke HTTP or a limit: send ``data``, which may be empty, and close."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """The client will send no more requests."""


Step = Request | NeedHead | BodyAhead | NeedBody | Upgrade | Fault | Ended


class HttpConversation:
    """One connection of an HTTP client."""

    def __init__(self, *, wall: float = 0.0) -> None:
        self.wall = wall
        """Unix time for the Date header; the caller keeps it fresh."""
        self.body_limit = HTTP_BODY_BYTES_MAX
        """Bytes of this request's body; the caller lowers it, at ``BodyAhead``, for those it does not know."""
        self._begin(b"")

    def _begin(self, data: bytes) -> None:
        self._h11 = h11.Connection(h11.SERVER, max_incomplete_event_size=HTTP_HEAD_BYTES_MAX)
        self._raw = bytearray()
        self._head: h11.Request | None = None
        self._body = bytearray()
        self.body_limit = HTTP_BODY_BYTES_MAX
        if data:
            self.receive_data(data)

    def receive_data(self, data: bytes) -> None:
        """Bytes from the client; empty for its end of file."""
        if self._head is None:
            self._raw += data
        self._h11.receive_data(data)

    def step(self) -> Step:
        """The next thing that this conversation has come to."""
        while True:
            try:
                event = self._h11.next_event()
            except h11.RemoteProtocolError as exc:
                return self._refuse(exc.error_status_hint)
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return self._wait()
            match event:
                case h11.Request():
                    self._head = event
                    if event.method == b"CONNECT":
                        # With a 2xx all that follows would be the bytes of a tunnel, the answer's own body too.
                        return Fault(data=self._last_words(405, b"405 Method Not Allowed"))
                    request = _request(event, b"")
                    if request.method == "GET" and request.path in _UPGRADED and wants_websocket(request.headers):
                        return Upgrade(request=request, data=bytes(self._raw))
                    self._raw.clear()
                    if "transfer-encoding" in request.headers or request.headers.get("content-length", "0") != "0":
                        return BodyAhead(request=request)
                case h11.Data():
                    self._body += event.data
                    if len(self._body) > self.body_limit:
                        return Fault(data=self._last_words(413, b"http: request body too large\n"))
                case h11.EndOfMessage():
                    assert self._head is not None, "h11 gives the head before the end"
                    return _request(self._head, bytes(self._body))
                case _:  # ConnectionClosed
                    return Ended()

    def respond(self, response: Response) -> bytes:
        """The answer's bytes.  Afterwards look at ``keep_alive``."""
        return self._write(response)

    @property
    def keep_alive(self) -> bool:
        """After ``respond``: whether another request may come.  If so, it is begun."""
        if self._h11.our_state is not h11.DONE or self._h11.their_state is not h11.DONE:
            return False
        data, ended = self._h11.trailing_data
        self._begin(data)
        if ended:
            self._h11.receive_data(b"")
        return True

    def timed_out(self) -> bytes:
        """Last words to a client that did not finish its request in time; none to one that did not finish its head."""
        return b"" if self._head is None else self._last_words(408, b"408 Request Timeout")

    def _wait(self) -> Step:
        if self._head is None:
            return NeedHead(begun=bool(self._raw))
        length = dict(self._head.headers).get(b"content-length", b"0")
        if int(length) > self.body_limit:  # h11 has checked that it is a number
            return Fault(data=self._last_words(413, b"http: request body too large\n"))
        if self._h11.they_are_waiting_for_100_continue:
            return NeedBody(send=self._h11.send(h11.InformationalResponse(status_code=100, headers=[])) or b"")
        return NeedBody()

    def _refuse(self, status: int) -> Fault:
        if self._h11.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return Fault(data=b"")
        return Fault(data=self._last_words(status, f"{status} {_REASONS.get(status, 'Bad Request')}".encode()))

    def _last_words(self, status: int, body: bytes) -> bytes:
        headers = {"content-type": "text/plain; charset=utf-8", "connection": "close"}
        return self._write(Response(status=status, body=body, headers=headers))

    def _write(self, response: Response) -> bytes:
        # Encoded here and not by h11, which takes ASCII only: an Origin is repeated as it came.
        headers = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in response.headers.items()]
        if response.status >= 200 and response.status != 204:
            headers.append((b"content-length", str(len(response.body)).encode()))
        headers.append((b"date", formatdate(self.wall, usegmt=True).encode()))
        head = h11.Response(
            status_code=response.status, headers=headers, reason=_REASONS.get(response.status, "").encode()
        )
        bodiless = self._head is not None and self._head.method == b"HEAD"
        parts = [self._h11.send(head)]
        if response.body and not bodiless:
            parts.append(self._h11.send(h11.Data(data=response.body)))
        parts.append(self._h11.send(h11.EndOfMessage()))
        return b"".join(part or b"" for part in parts)


_LISTS = ("access-control-request-headers", "connection", "sec-websocket-version", "upgrade")
"""Headers of which all lines count; of any other the first, as Go reads them."""


def _request(head: h11.Request, body: bytes) -> Request:
    target = head.target.decode("latin-1")
    if not target.startswith("/") and "://" in target:  # the absolute form, as sent to proxies
        target = "/" + target.split("://", 1)[1].partition("/")[2]
    path, _, query = target.partition("?")
    # The real server takes one slash of two away, so that a base URL with a trailing slash works.
    path = path[1:] if path.startswith("//") else path
    headers: dict[str, str] = {}
    for raw_name, raw_value in head.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if name not in headers:
            headers[name] = value
        elif name in _LISTS and value:
            headers[name] = f"{headers[name]}, {value}" if headers[name] else value
    return Request(method=head.method.decode("latin-1"), path=path, query=query, headers=headers, body=body)


def text(status: int, body: str, headers: Mapping[str, str] | None = None) -> Response:
    """A plain text answer."""
    return Response(
        status=status, body=body.encode(), headers={"content-type": "text/plain; charset=utf-8", **(headers or {})}
    )


def cors(request: Request) -> dict[str, str]:
    """The CORS headers of an ordinary answer."""
    headers = {"vary": "Origin"}
    if origin := request.headers.get("origin"):
        headers["access-control-allow-origin"] = origin
        headers["access-control-expose-headers"] = "*"
    return headers


def preflight(request: Request) -> Response | None:
    """The answer to a browser's CORS question; None when the request is none."""
    method = request.headers.get("access-control-request-method")
    if request.method != "OPTIONS" or not method:
        return None
    headers = {"vary": "Origin, Access-Control-Request-Method, Access-Control-Request-Headers"}
    origin = request.headers.get("origin")
    if origin and method.upper() in _METHODS:
        headers["access-control-allow-origin"] = origin
        headers["access-control-allow-methods"] = method.upper()
        if asked := request.headers.get("access-control-request-headers"):
            headers["access-control-allow-headers"] = asked
        headers["access-control-max-age"] = "86400"
    return Response(status=204, headers=headers)


_REASONS: Mapping[int, str] = {
    200: "OK",
    204: "No Content",
    307: "Temporary Redirect",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    412: "Precondition Failed",
    413: "Request Entity Too Large",
    429: "Too Many Requests",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    501: "Not Implemented",
    503: "Service Unavailable",
}
