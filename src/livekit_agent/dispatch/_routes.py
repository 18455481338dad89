"""What the server answers to an HTTP request: CORS, then the token, then the route.  Pure, the wall clock is an
argument.

The order is the real server's and is seen from outside: a bad token is refused on every path, ``/`` included, in plain
text; no token at all passes, and then each route says no in its own way.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ._access import Refusal, authenticate, judge_upgrade
from ._http import Request, Response, cors, preflight, text
from ._twirp import Twirp

__all__ = ["answer"]

_RTC_PATHS = ("/rtc", "/rtc/v1", "/rtc/validate", "/rtc/v1/validate")
_NO_RTC = (
    "this is livekit-agent's embedded dispatch server: it has no WebRTC, and its rooms live in the memory of its own "
    "process. Use a real livekit-server to join rooms over the network.\n"
)


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
    if request.path == "/agent":
        verdict = judge_upgrade(request.method, request.headers, request.query, keys, wall=wall)
        assert isinstance(verdict, Refusal), "an upgrade without fault goes to the worker's connection"
        return _refusal(verdict)
    if request.path in _RTC_PATHS:
        return text(501, _NO_RTC)
    response = twirp.answer(request, claims)
    return text(404, "404 page not found\n", {"x-content-type-options": "nosniff"}) if response is None else response


def _refusal(refusal: Refusal) -> Response:
    return Response(status=refusal.status, body=refusal.body.encode(), headers=refusal.headers)
