"""What the server answers to an HTTP request: CORS, then the token, then the route.  Pure, the wall clock is an
argument.

The order is the real server's and is seen from outside: a bad token is refused on every path, ``/`` included, in plain
text; no token at all passes, and then each route says no in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ..rooms._remote_wire import PATH, PATHS
from ._access import Refusal, authenticate, judge_upgrade
from ._http import Request, Response, cors, preflight, text
from ._twirp import Twirp

__all__ = ["WORKER_PATH", "answer", "upgrade_grant"]

WORKER_PATH = "/agent"

_RTC_PATHS = ("/rtc", "/rtc/v1", "/rtc/validate", "/rtc/v1/validate")
_NO_RTC = (
    "this is livekit-agent's embedded dispatch server: it has no WebRTC, and its rooms live in its memory. Agents of "
    "this SDK and `livekit-agent join` can enter them; LiveKit's own clients need a real livekit-server.\n"
)
_NO_SUCH_ROOMS = f"this server's rooms are at {PATH}: the client is of another version\n"


def upgrade_grant(path: str) -> str:
    """What a token must grant to open the WebSocket at that path."""
    return "agent" if path == WORKER_PATH else "roomJoin"


def answer(request: Request, twirp: Twirp, keys: Mapping[str, str], *, wall: float) -> Response:
    """The complete answer to a request that is no worker's upgrade."""
    asked = preflight(request)
    if asked is not None:
        return asked
    response = _route(request, twirp, keys, wall)
    return replace(response, headers={**cors(request), **response.headers})


def _route(request: Request, twirp: Twirp, keys: Mapping[str, str], wall: float) -> Response:
    claims = authenticate(request.headers, request.query, keys, wall=wall)
    if isinstance(claims, Refusal):
        return _refusal(claims)
    if request.path == "/":
        return text(200, "OK")
    if request.path in (WORKER_PATH, PATH):
        grant = upgrade_grant(request.path)
        verdict = judge_upgrade(request.method, request.headers, request.query, keys, wall=wall, grant=grant)
        assert isinstance(verdict, Refusal), "an upgrade without fault goes to its WebSocket"
        return _refusal(verdict)
    if request.path.startswith(PATHS):
        return text(501, _NO_SUCH_ROOMS)
    if request.path in _RTC_PATHS:
        return text(501, _NO_RTC)
    response = twirp.answer(request, claims)
    return text(404, "404 page not found\n", {"x-content-type-options": "nosniff"}) if response is None else response


def _refusal(refusal: Refusal) -> Response:
    return Response(status=refusal.status, body=refusal.body.encode(), headers=refusal.headers)
