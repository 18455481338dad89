"""The HTTP client: one call is one POST with a token of its own.

A token is minted per call, lives a minute and grants exactly what the call needs.  It goes to the server that was
named and nowhere else: redirects are not followed, the environment's proxies are not read (give ``proxy``), plain
http is for loopback unless ``allow_plaintext`` says otherwise.  Every failure is an :class:`ApiError` without
secrets.
"""

from __future__ import annotations

import ipaddress
import json
import ssl
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import anyio
import httpx
from google.protobuf.message import DecodeError, Message

from .. import __version__
from .._bounds import API_ERROR_WORDS_MAX, API_RESPONSE_BYTES_MAX, API_TIMEOUT
from .._errors import ApiError, ConfigError, printable
from .._options import valid_proxy
from ..protocol import mint_token
from ._dispatch import DispatchApi
from ._rooms import RoomApi
from ._sip import SipApi

__all__ = ["LiveKitAPI"]

M = TypeVar("M", bound=Message)

_TOKEN_TTL = 60.0
_SCHEMES = {"ws": "http", "wss": "https", "http": "http", "https": "https"}
_BUS_PREFIX = "twirp error unknown: "


class LiveKitAPI:
    """LiveKit's HTTP API: ``async with LiveKitAPI(url, key, secret) as api``, and in a job ``ctx.api()``.

    ``api.dispatch``, ``api.rooms`` and ``api.sip`` are AgentDispatchService, RoomService and the calls of SIPService;
    :meth:`call` takes any other.  ``url`` is the server's, as for a worker (``ws``, ``wss``, ``http`` or ``https``,
    with its base path).  ``timeout``: seconds per call, everything included.

    Resource handling: connections are kept alive until the block is left.  Calls may run side by side.
    Error handling: :class:`ConfigError` for a URL, proxy or ``ca_file`` that cannot be used.  :class:`ApiError` with
    ``status`` and ``twirp_code``; after it the next call works as ever.
    """

    def __init__(
        self,
        url: str,
        api_key: str,
        api_secret: str,
        *,
        timeout: float = API_TIMEOUT,
        ca_file: str | None = None,
        proxy: str | None = None,
        allow_plaintext: bool = False,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        if not api_key or not api_secret:
            raise ConfigError("an API key and its secret are needed", field="api_key", source="LiveKitAPI")
        self._base = _http_url(url, allow_plaintext)
        self._key = api_key
        self._secret = api_secret
        self._timeout = timeout
        if proxy is not None and not valid_proxy(proxy):
            raise ConfigError(
                "proxy: not an http:// or https:// URL",
                field="proxy",
                source="LiveKitAPI",
                hint="write http://host:port; SOCKS is not supported",
                code="CONFIG_PROXY",
            )
        self._ca_file = ca_file
        self._proxy = proxy
        self._wall = wall_clock
        self._client: httpx.AsyncClient | None = None
        self.dispatch = DispatchApi(self)
        """Who is sent into which room."""
        self.rooms = RoomApi(self)
        """Rooms and who is in them."""
        self.sip = SipApi(self)
        """Telephones."""

    def __repr__(self) -> str:
        return f"<LiveKitAPI {self._base}>"

    async def __aenter__(self) -> LiveKitAPI:
        # The system's authorities, as for the worker; httpx by itself would bring its own list.
        context = self._tls_context()
        self._client = httpx.AsyncClient(
            verify=context or False,
            proxy=_proxy(self._proxy, context),
            timeout=None,  # noqa: S113 - one deadline for the whole call, below
            follow_redirects=False,
            trust_env=False,
            headers={"user-agent": f"livekit-agent-sdk/{__version__}", "accept-encoding": "identity"},
        )
        await self._client.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.__aexit__(kind, error, trace)

    def _tls_context(self) -> ssl.SSLContext | None:
        """For the server or a proxy that speaks TLS; None where nobody does, for it takes 15 ms to make."""
        if not any(url.startswith("https:") for url in (self._base, self._proxy or "")):
            return None
        try:
            return ssl.create_default_context(cafile=self._ca_file)
        except OSError as exc:  # ssl.SSLError is one
            raise ConfigError(
                f"ca_file: {printable(exc.strerror or type(exc).__name__, 160)}",
                field="ca_file",
                source="LiveKitAPI",
                hint="it must name a PEM file of certificates that this user may read",
                code="CONFIG_CA_FILE",
            ) from None

    async def call(
        self,
        service: str,
        method: str,
        request: Message,
        answer: type[M],
        grant: Mapping[str, object],
        *,
        sip: Mapping[str, object] | None = None,
        timeout: float | None = None,
    ) -> M:
        """One call of any Twirp method: the answer, decoded.

        ``grant`` is the token's video grant, ``sip`` its SIP one; ``timeout`` are seconds, None those of the client.
        Cancel-safe on this side; the server may have acted all the same.
        """
        if self._client is None:
            raise RuntimeError("use `async with LiveKitAPI(...) as api`")
        url = f"{self._base}/twirp/livekit.{service}/{method}"
        extra = {"sip": dict(sip)} if sip else None
        token = mint_token(self._key, self._secret, wall=self._wall(), ttl=_TOKEN_TTL, video=grant, extra=extra)
        headers = {"authorization": f"Bearer {token}", "content-type": "application/protobuf"}
        what = f"{service}.{method}"
        seconds = self._timeout if timeout is None else timeout
        try:
            with anyio.fail_after(seconds):
                async with self._client.stream(
                    "POST", url, content=request.SerializeToString(), headers=headers
                ) as response:
                    body = await _read(response, what)
        except TimeoutError:
            raise ApiError(
                f"{what}: no answer within {seconds:g} s",
                twirp_code="deadline_exceeded",
                hint="is the URL right?",
            ) from None
        except httpx.HTTPError as exc:
            # Without its cause: the exception holds the request, and the request the token.
            raise ApiError(
                f"{what}: {_why(exc)}", twirp_code="unavailable", hint=f"is a LiveKit server listening at {self._base}?"
            ) from None
        if response.status_code != 200:
            raise _refused(what, response, body)
        message = answer()
        try:
            message.ParseFromString(body)
        except DecodeError:
            raise ApiError(f"{what}: the answer is not LiveKit's", status=200, hint=_NOT_LIVEKIT) from None
        return message


def _proxy(url: str | None, context: ssl.SSLContext | None) -> httpx.Proxy | None:
    """httpx would verify a proxy by a list of its own, and wants no context for one that speaks no TLS."""
    if url is None:
        return None
    return httpx.Proxy(url, ssl_context=context if url.startswith("https:") else None)


def _why(error: BaseException) -> str:
    """What went wrong, in the words of the first in the chain that has any: on trio a failed handshake has none."""
    cause: BaseException | None = error
    while cause is not None:
        if text := printable(str(cause)):
            return text
        cause = cause.__cause__ or cause.__context__
    return type(error).__name__


_NOT_LIVEKIT = "is that URL a LiveKit server's, and its base path right?"
_HINTS: Mapping[int, str] = {
    401: "are key and secret this server's?",
    403: "a proxy before the server refused the call",
    404: _NOT_LIVEKIT,
    405: _NOT_LIVEKIT,
    501: _NOT_LIVEKIT,
    502: "a proxy before the server cannot reach it",
    503: "a proxy before the server cannot reach it",
    504: "a proxy before the server cannot reach it",
}


async def _read(response: httpx.Response, what: str) -> bytes:
    body = bytearray()
    try:
        async for chunk in response.aiter_bytes():
            body += chunk
            if len(body) > API_RESPONSE_BYTES_MAX and not response.is_closed:
                # Leaving the loop would abandon httpx's generators; with the stream closed their next read ends them.
                await response.aclose()
    except httpx.HTTPError:
        if len(body) <= API_RESPONSE_BYTES_MAX:
            raise
    if len(body) > API_RESPONSE_BYTES_MAX:
        limit = f"{API_RESPONSE_BYTES_MAX} bytes"
        raise ApiError(f"{what}: the answer is larger than {limit}", status=response.status_code)
    return bytes(body)


def _refused(what: str, response: httpx.Response, body: bytes) -> ApiError:
    """The error for an answer that is not 200: Twirp's JSON, or the plain text of whatever stands before it."""
    status = response.status_code
    if 300 <= status < 400:
        where = printable(response.headers.get("location", "nowhere"), 120)
        return ApiError(
            f"{what}: the server redirects to {where}",
            status=status,
            hint="redirects are not followed, the token would go with them; use that URL if it is yours",
        )
    code, text, meta = _twirp_error(body)
    hint = ""
    if not code:
        text = printable(body.decode("utf-8", "replace").strip(), 200)
        hint = _HINTS.get(status, "")
        if status == 404 and what.startswith("SIP."):
            hint = "an embedded dispatch server has no telephones; is that URL LiveKit Cloud's or a livekit-server's?"
    elif code == "bad_route":
        hint = _NOT_LIVEKIT
    elif code == "not_found":
        hint = "it may have ended; ask for a list of what there is"
    elif code == "unavailable":
        hint = "a room that is not live has no dispatches; a server may also have no node for it"
    return ApiError(f"{what}: {text or f'HTTP {status}'}", status=status, twirp_code=code, meta=meta, hint=hint)


def _twirp_error(body: bytes) -> tuple[str, str, dict[str, str]]:
    """Its code, its text and what it says beside; nothing of what is none."""
    nothing: tuple[str, str, dict[str, str]] = "", "", {}
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        return nothing
    if not isinstance(value, dict):
        return nothing
    error = cast("dict[str, Any]", value)
    code, text, beside = error.get("code"), error.get("msg"), error.get("meta")
    if not isinstance(code, str) or not isinstance(text, str):
        return nothing
    said = list(cast("dict[str, Any]", beside).items())[:API_ERROR_WORDS_MAX] if isinstance(beside, dict) else []
    meta = {printable(key, 40): printable(word, 200) for key, word in said if isinstance(word, str)}
    return printable(code, 40), printable(text.removeprefix(_BUS_PREFIX), 200), meta


def _http_url(url: str, allow_plaintext: bool) -> str:
    """The base of all calls, without a slash at its end."""

    def fault(message: str, hint: str = "") -> ConfigError:
        return ConfigError(f"url: {message}", field="url", source="LiveKitAPI", hint=hint)

    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise fault("not a URL") from None
    scheme = _SCHEMES.get(parts.scheme)
    if scheme is None or not host:
        raise fault("expected ws://, wss://, http:// or https:// and a host")
    if parts.username is not None or parts.password is not None:
        raise fault("a user has no place in it", "keys are arguments of their own")
    if scheme == "http" and not allow_plaintext and not _loopback(host):
        raise fault("the token would travel unencrypted", "use https, or allow_plaintext=True in a network of your own")
    authority = f"[{host}]" if ":" in host else host
    base = f"{scheme}://{authority}" + (f":{port}" if port is not None else "") + parts.path.rstrip("/")
    try:
        return str(httpx.URL(base)).rstrip("/")
    except httpx.InvalidURL:
        raise fault("not a URL") from None


def _loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
