"""What a refused upgrade means: an HTTP status, a few headers and a body become one typed error with hints.

Pure.  The body is quoted redacted, because the real server (v1.13.5) writes the whole token into it.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime

from .._errors import AuthenticationError, HandshakeError, printable
from ._websocket import Refused

__all__ = ["refusal_error"]

#: Clock differences below this are inside the server's leeway, in seconds.
_SKEW_WORTH_TELLING = 30.0

_HINTS: Mapping[int, str] = {
    404: "is the URL a LiveKit server's, and its path right? /agent is asked for below it",
    405: "something between here and the server changed the request's method",
    426: "the server wants another protocol version",
    429: "too many connections; the next attempt waits",
    502: "a proxy before the server cannot reach it",
    503: "the server, or a proxy before it, takes no connections now",
    504: "a proxy before the server got no answer from it",
}


def refusal_error(refused: Refused, *, wall: float) -> HandshakeError | AuthenticationError:
    """The error for an answer that is not a 101.  ``wall`` is our clock, to tell a skewed one."""
    status = refused.status
    body = printable(refused.body.decode("utf-8", "replace").strip(), 200)
    if status in (401, 403):
        return AuthenticationError(
            f"the server refused the worker: HTTP {status}" + (f" ({body})" if body else ""),
            status=status,
            hint=_auth_hint(refused.headers, body, wall),
        )
    if 300 <= status < 400:
        where = printable(refused.headers.get("location", "nowhere"), 120)
        return HandshakeError(
            f"the server redirects to {where} (HTTP {status})",
            status=status,
            hint="redirects are not followed, the token would go with them; use that URL if it is yours",
        )
    if 200 <= status < 300:
        return HandshakeError(
            f"not a LiveKit server: it answered the WebSocket upgrade with HTTP {status}",
            status=status,
            hint="LIVEKIT_URL should be the server's own address, not a web page's",
        )
    what = "the server has no /agent below that URL" if status == 404 else "the server refused the WebSocket upgrade"
    return HandshakeError(
        f"{what}: HTTP {status}" + (f" ({body})" if body else ""),
        status=status,
        retry_after=_retry_after(refused.headers),
        hint=_HINTS.get(status, ""),
    )


def _auth_hint(headers: Mapping[str, str], body: str, wall: float) -> str:
    skew = _server_time(headers)
    if skew is not None and abs(skew - wall) > _SKEW_WORTH_TELLING:
        direction = "behind" if wall < skew else "ahead of"
        return (
            f"your clock is {abs(skew - wall):.0f} s {direction} the server's; tokens are valid for a short time only"
        )
    if "API key" in body:
        return "the server does not know this API key; does it belong to another server?"
    if "permissions" in body:
        return "the token was read, but a proxy may have dropped its agent grant"
    return "are key and secret swapped, or from another server?"


def _server_time(headers: Mapping[str, str]) -> float | None:
    return _timestamp(headers.get("date", ""))


def _timestamp(date: str) -> float | None:
    """Unix seconds of an HTTP date, None for anything else.  A date without a zone is UTC, as all HTTP dates are."""
    try:
        parsed = parsedate_to_datetime(date)
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, LookupError):
        return None


def _retry_after(headers: Mapping[str, str]) -> float | None:
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit() and len(value) < 9:
        return float(value)
    until, now = _timestamp(value), _server_time(headers)
    return None if until is None or now is None else max(until - now, 0.0)
