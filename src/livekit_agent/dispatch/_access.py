"""Who may do what: the token check that stands before every request, the grants, and the verdict on a worker's
upgrade.

Pure: the wall clock is an argument.  The order of the checks and the wording are the real server's, except that a
refusal never repeats the token or the key (the real one quotes both).  A request without any token passes the check;
what it may do then is nothing, and the route says so in its own way.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs

from ..protocol import Claims, TokenError, verify_token

__all__ = ["Refusal", "authenticate", "judge_upgrade", "may", "token_of", "wants_websocket"]

_BEARER = "Bearer "


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """An HTTP answer that says no."""

    status: int
    body: str = ""
    headers: Mapping[str, str]


_TEXT = {"content-type": "text/plain; charset=utf-8"}


def _refused(text: str) -> Refusal:
    return Refusal(status=401, body=text, headers=_TEXT)


def authenticate(
    headers: Mapping[str, str], query: str, keys: Mapping[str, str], *, wall: float
) -> Claims | Refusal | None:
    """The claims of a valid token, the refusal of a bad one, None for none at all.  Header names are lower-case.

    A token in the query counts only when there is no Authorization header: a bad header is not rescued by it.
    """
    header = headers.get("authorization", "")
    # The HTTP parser strips trailing blanks, so "Bearer " arrives without its own.
    if header and not header.startswith(_BEARER):
        return _refused("invalid authorization header. Must start with Bearer ")
    token = token_of(headers, query)
    if not token:
        return None
    try:
        return verify_token(token, keys, wall=wall)
    except TokenError as exc:
        return _refused(str(exc))


def token_of(headers: Mapping[str, str], query: str) -> str:
    """The token of a request, unchecked; empty without one."""
    header = headers.get("authorization", "")
    return header[len(_BEARER) :] if header else (_query(query).get("access_token") or [""])[0]


def may(claims: Claims | None, grant: str, room: str | None = None) -> bool:
    """Whether the token allows ``grant``; where ``room`` is given the grant must be for exactly that room."""
    return claims is not None and claims.grants(grant) and (room is None or claims.video.get("room") == room)


def wants_websocket(headers: Mapping[str, str]) -> bool:
    """Whether both header fields of an upgrade are there."""
    return _has_token(headers.get("connection", ""), "upgrade") and _has_token(headers.get("upgrade", ""), "websocket")


def judge_upgrade(
    method: str, headers: Mapping[str, str], query: str, keys: Mapping[str, str], *, wall: float, grant: str = "agent"
) -> Claims | Refusal:
    """The verdict on a request for a WebSocket, by default ``/agent``: the claims, or the answer that refuses it."""
    claims = authenticate(headers, query, keys, wall=wall)
    if isinstance(claims, Refusal):
        return claims
    if not wants_websocket(headers):
        return Refusal(status=404, headers={})
    if not may(claims, grant):
        return _refused("no permissions to access the room")
    assert claims is not None, "may() says no to no claims"
    if method != "GET":
        return _bad(
            405, "Method Not Allowed", "the client is not using the websocket protocol: request method is not GET"
        )
    if not _has_token(headers.get("sec-websocket-version", ""), "13"):
        return _bad(400, "Bad Request", "unsupported version: 13 not found in 'Sec-Websocket-Version' header")
    if not _valid_key(headers.get("sec-websocket-key", "")):
        return _bad(
            400,
            "Bad Request",
            "not a websocket handshake: 'Sec-WebSocket-Key' header must be Base64 encoded value of 16-byte in length",
        )
    return claims


def _bad(status: int, title: str, reason: str) -> Refusal:
    headers = {**_TEXT, "x-content-type-options": "nosniff", "sec-websocket-version": "13"}
    return Refusal(status=status, body=f"{title}\nwebsocket: {reason}", headers=headers)


def _has_token(field: str, token: str) -> bool:
    return any(part.strip().lower() == token for part in field.split(","))


def _valid_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key.encode("ascii"), validate=True)) == 16
    except (binascii.Error, UnicodeEncodeError):
        return False


def _query(query: str) -> dict[str, list[str]]:
    try:
        return parse_qs(query, max_num_fields=100)
    except ValueError:
        return {}
