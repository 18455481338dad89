"""From a URL to a byte stream: TCP, TLS, an HTTP proxy.

TLS is verified, always; ``ca_file`` replaces the system's authorities.  ``ws://`` is for loopback unless
``allow_plaintext`` says otherwise: the worker's token would travel in the clear.  What fails here is a
:class:`ConnectionLostError`, to be retried; what is wrong with the URL, the proxy or the ``ca_file`` is a
:class:`ConfigError`, at once.

No message repeats a URL: it may hold a password, or be the API secret in the wrong argument.
"""

from __future__ import annotations

import ipaddress
import os
import re
import socket
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import SplitResult, unquote, urlsplit

import anyio
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from .. import __version__
from .._bounds import CONNECT_TIMEOUT, HTTP_HEAD_BYTES_MAX
from .._errors import ConfigError, ConnectionLostError, printable, redact
from .._options import is_text, valid_proxy

__all__ = ["Connector", "Endpoint", "NetworkConnector", "parse_url"]

_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}
_SUCH_AS = "write wss://host or ws://127.0.0.1:7880"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST_NAME = re.compile(rf"(?=.{{1,254}}\Z){_LABEL}(?:\.{_LABEL})*\.?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where the worker connects."""

    host: str
    port: int
    tls: bool
    target: str = "/agent"
    """Path and query of the WebSocket upgrade."""
    url: str = field(default="", repr=False)
    """The server's URL as ``ws://`` or ``wss://``, base path kept: where rooms are joined."""

    @property
    def authority(self) -> str:
        """The Host header: the port only where it is not the scheme's."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.tls else 80) else f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """Whether the traffic stays on this machine."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        address = _address(self.host)
        return address is not None and address.is_loopback


Connector = Callable[[Endpoint], Awaitable[ByteStream]]


def parse_url(url: str, *, allow_plaintext: bool = False) -> Endpoint:
    """The endpoint of a LiveKit URL.  ConfigError for what is no URL of a server."""
    parts = _split(url)
    tls = _SCHEMES[parts.scheme]
    host = parts.hostname or ""
    base = parts.path.rstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    endpoint = Endpoint(
        host=host,
        port=parts.port or (443 if tls else 80),
        tls=tls,
        target=f"{base}/agent{query}",
        url=f"{'wss' if tls else 'ws'}://{parts.netloc}{base}{query}",
    )
    if not tls and not allow_plaintext and not endpoint.loopback:
        raise _fault(
            f"{parts.scheme}:// to {host} would send the worker's token in the clear",
            "use wss://, or allow_plaintext=True (--allow-plaintext) on a network you trust",
        )
    return endpoint


def _split(url: str) -> SplitResult:
    if not url:
        raise _fault("no server URL", "set LIVEKIT_URL, such as wss://my-project.example or ws://localhost:7880")
    if not is_text(url):
        raise _fault("expected text", _SUCH_AS)
    # Before urlsplit, which removes tabs and line breaks in silence.
    if any(character <= " " or character == "\x7f" for character in url):
        raise _fault("blanks and control characters are not part of a URL", "percent-encode them in a path")
    if not url.isascii():
        raise _fault("a URL is ASCII", "percent-encode the path; write a host name in its xn-- form")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise _fault("not a URL, or its port is not one of 1 to 65535", _SUCH_AS) from None
    if parts.scheme not in _SCHEMES:
        raise _fault("the scheme must be ws, wss, http or https", _SUCH_AS)
    if not parts.hostname:
        raise _fault("no host in it", _SUCH_AS)
    if "@" in parts.netloc:
        raise _fault("it holds a user name or password", "key and secret are arguments of their own")
    if port == 0:
        raise _fault("nobody can be reached at port 0", _SUCH_AS)
    if parts.fragment:
        raise _fault("it has a fragment", "only scheme, host, port, path and query are used")
    if redact(parts.query) != parts.query:
        raise _fault("its query holds a token", "the worker mints its own tokens from key and secret")
    if _address(parts.hostname) is None and not _HOST_NAME.fullmatch(parts.hostname):
        raise _fault("its host is no host name", _SUCH_AS)
    return parts


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _fault(message: str, hint: str) -> ConfigError:
    return ConfigError(f"url: {message}", field="url", hint=hint, code="CONFIG_URL")


# ------------------------------------------------------------------------------------------------- connecting


class NetworkConnector:
    """The ordinary way: real sockets.  Raises ConfigError for a proxy that is none."""

    def __init__(self, *, ca_file: str | None = None, proxy: str | None = None) -> None:
        self._ca_file = ca_file
        self._proxy = None if proxy is None else _Proxy.parse(proxy)
        self._context: ssl.SSLContext | None = None

    async def __call__(self, endpoint: Endpoint) -> ByteStream:
        """Connect.  Cancelling is safe: the socket is closed.

        Raises ConnectionLostError, and ConfigError for a ca_file that cannot be used.
        """
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                stream = await self._reach(endpoint)
                if endpoint.tls:
                    stream = await _wrap(stream, endpoint.host, endpoint.authority, self._tls_context())
                return stream
        except TimeoutError:
            through = "" if self._proxy is None else f" through the proxy {self._proxy.authority}"
            raise ConnectionLostError(
                f"no connection to {endpoint.authority}{through} within {CONNECT_TIMEOUT:g} s", code="CONNECT_TIMEOUT"
            ) from None

    async def _reach(self, endpoint: Endpoint) -> ByteStream:
        """A byte stream to the server, before any TLS of its own."""
        if endpoint.tls:
            self._tls_context()  # a bad ca_file is found before anybody is asked
        proxy = self._proxy
        if proxy is None:
            return await _dial(endpoint.host, endpoint.port, endpoint.authority)
        stream = await _dial(proxy.host, proxy.port, f"the proxy {proxy.authority}")
        if proxy.tls:
            stream = await _wrap(stream, proxy.host, f"the proxy {proxy.authority}", self._tls_context())
        try:
            await _tunnel(stream, endpoint, proxy.authorization)
        except BaseException:
            # Not a catch-all for errors: whatever ends the attempt, the half-made tunnel must not stay open.
            await anyio.aclose_forcefully(stream)
            raise
        return stream

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = ssl.create_default_context(cafile=self._ca_file)
            except OSError as exc:  # ssl.SSLError is one
                raise ConfigError(
                    f"ca_file: {_reason(exc)}",
                    field="ca_file",
                    hint="it must name a PEM file of certificates that this user may read",
                    code="CONFIG_CA_FILE",
                ) from None
        return self._context


@dataclass(frozen=True, slots=True, kw_only=True)
class _Proxy:
    host: str
    port: int
    tls: bool
    authorization: str = field(repr=False)
    """Value of the Proxy-Authorization header; empty for none."""

    @classmethod
    def parse(cls, url: str) -> _Proxy:
        if not valid_proxy(url):
            raise ConfigError(
                "proxy: not an http:// or https:// URL",
                field="proxy",
                hint="write http://host:port; SOCKS is not supported",
                code="CONFIG_PROXY",
            )
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        authorization = ""
        if parts.username is not None:
            credentials = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            authorization = "Basic " + b64encode(credentials.encode()).decode()
        return cls(
            host=parts.hostname or "",
            port=parts.port or (443 if tls else 80),
            tls=tls,
            authorization=authorization,
        )

    @property
    def authority(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


# Each step translates its own failures, once, and says whom it could not reach.


async def _dial(host: str, port: int, peer: str) -> ByteStream:
    try:
        return await anyio.connect_tcp(host, port)
    except OSError as exc:
        raise ConnectionLostError(f"cannot connect to {peer}: {_reason(exc)}", code="CONNECT_FAILED") from None


async def _wrap(stream: ByteStream, host: str, peer: str, context: ssl.SSLContext) -> ByteStream:
    try:
        return await TLSStream.wrap(stream, hostname=host, ssl_context=context, standard_compatible=False)
    except BaseException as exc:
        # As above: a failed or cancelled handshake must not leave its socket open.
        await anyio.aclose_forcefully(stream)
        if isinstance(exc, ssl.SSLError):
            raise _tls_error(peer, exc) from None
        if isinstance(exc, anyio.EndOfStream | anyio.BrokenResourceError | OSError):
            raise ConnectionLostError(
                f"TLS to {peer} failed: the connection was closed during the handshake", code="TLS_FAILED"
            ) from None
        raise


async def _tunnel(stream: ByteStream, endpoint: Endpoint, authorization: str) -> None:
    """CONNECT through an HTTP proxy; leaves the stream at the first byte of the tunnel."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    target = f"{host}:{endpoint.port}"
    headers = [("Host", target), ("User-Agent", f"livekit-agent-sdk/{__version__}")]
    if authorization:
        headers.append(("Proxy-Authorization", authorization))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HTTP_HEAD_BYTES_MAX)
    request = http.send(h11.Request(method="CONNECT", target=target, headers=headers)) or b""
    http.send(h11.EndOfMessage())
    try:
        await stream.send(request)
        while not isinstance(event := http.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive(4096))
    except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
        raise ConnectionLostError("the proxy closed the connection instead of answering", code="PROXY_FAILED") from None
    except h11.ProtocolError:
        raise ConnectionLostError("the proxy's answer is not HTTP", code="PROXY_FAILED") from None
    if not 200 <= event.status_code < 300:
        raise ConnectionLostError(
            f"the proxy refused the tunnel: HTTP {event.status_code}",
            hint=_PROXY_HINTS.get(event.status_code, ""),
            code="PROXY_FAILED",
        )
    if http.trailing_data[0]:
        raise ConnectionLostError("the proxy sent data before the tunnel was used", code="PROXY_FAILED")


_PROXY_HINTS = {
    403: "the proxy's rules do not let you reach that host",
    407: "the proxy wants credentials, or others: http://user:password@host",
}


def _tls_error(peer: str, exc: ssl.SSLError) -> ConnectionLostError:
    reason = str(getattr(exc, "verify_message", "") or exc.reason or type(exc).__name__)
    hint = ""
    if isinstance(exc, ssl.SSLCertVerificationError):
        hint = "ca_file (or SSL_CERT_FILE) names the authority of a private certificate; verification has no off switch"
    elif exc.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        hint = "no TLS is spoken there: ws:// instead of wss://, or http:// for a proxy?"
    return ConnectionLostError(f"TLS to {peer} failed: {printable(reason, 160)}", hint=hint, code="TLS_FAILED")


def _reason(exc: BaseException) -> str:
    """Why, in the system's words: AnyIO's "All connection attempts failed" has the reasons as its cause."""
    cause = exc.__cause__
    if isinstance(cause, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", cause).exceptions
        return "; ".join(dict.fromkeys(_reason(member) for member in members))
    if isinstance(cause, OSError):
        return _reason(cause)
    if isinstance(exc, OSError) and exc.errno and not isinstance(exc, socket.gaierror | ssl.SSLError):
        return os.strerror(exc.errno)
    text = exc.strerror if isinstance(exc, OSError) else None
    return printable(text or str(exc) or type(exc).__name__, 160)
