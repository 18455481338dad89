"""From a URL to a byte stream: TCP, TLS, an HTTP proxy.

TLS is verified, always; ``ca_file`` replaces the system's authorities.  ``ws://`` is for loopback unless
``allow_plaintext`` says otherwise: the worker's token would travel in the clear.  What fails here is a
:class:`ConnectionLostError`, to be retried; what is wrong with the URL is a :class:`ConfigError`, at once.
"""

from __future__ import annotations

import ipaddress
import ssl
from base64 import b64encode
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

import anyio
import h11
from anyio.abc import ByteStream
from anyio.streams.tls import TLSStream

from .. import __version__
from .._bounds import CONNECT_TIMEOUT, HTTP_HEAD_BYTES_MAX
from .._errors import ConfigError, ConnectionLostError, printable

__all__ = ["Connector", "Endpoint", "NetworkConnector", "parse_url"]

_SCHEMES = {"ws": False, "http": False, "wss": True, "https": True}


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
        try:
            return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback
        except ValueError:
            return False


Connector = Callable[[Endpoint], Awaitable[ByteStream]]


def parse_url(url: str, *, allow_plaintext: bool = False) -> Endpoint:
    """The endpoint of a LiveKit URL.  ConfigError for what is no URL of a server."""
    parts = _split(url)
    tls = _SCHEMES[parts.scheme.lower()]
    host = parts.hostname or ""
    port = parts.port if parts.port is not None else (443 if tls else 80)
    base = parts.path.rstrip("/")
    query = f"?{parts.query}" if parts.query else ""
    authority = parts.netloc.rpartition("@")[2]
    endpoint = Endpoint(
        host=host,
        port=port,
        tls=tls,
        target=f"{base}/agent{query}",
        url=f"{'wss' if tls else 'ws'}://{authority}{base}{query}",
    )
    if not tls and not allow_plaintext and not endpoint.loopback:
        raise _fault(
            f"{parts.scheme}:// to {host} would send the worker's token in the clear",
            "use wss://, or allow_plaintext=True on a network you trust",
        )
    return endpoint


def _split(url: str) -> SplitResult:
    if not url:
        raise _fault("no server URL", "set LIVEKIT_URL, such as wss://my-project.example or ws://localhost:7880")
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as exc:
        raise _fault(f"{printable(url, 120)!r} is no URL: {exc}") from None
    if parts.scheme.lower() not in _SCHEMES:
        raise _fault(
            f"{printable(url, 120)!r} does not begin with ws://, wss://, http:// or https://",
            "the server's address, such as ws://localhost:7880",
        )
    if not parts.hostname:
        raise _fault(f"{printable(url, 120)!r} has no host")
    if not url.isascii() or any(c.isspace() or ord(c) < 0x20 for c in parts.path + parts.query):
        raise _fault("the server URL has characters that no URL has", "percent-encode them")
    return parts


def _fault(message: str, hint: str = "") -> ConfigError:
    return ConfigError(f"url: {message}", field="url", hint=hint, code="CONFIG_URL")


class NetworkConnector:
    """The ordinary way: real sockets."""

    def __init__(self, *, ca_file: str | None = None, proxy: str | None = None) -> None:
        self._ca_file = ca_file
        self._proxy = proxy
        self._context: ssl.SSLContext | None = None

    async def __call__(self, endpoint: Endpoint) -> ByteStream:
        """Connect.  Cancelling is safe: the socket is closed.

        Raises ConnectionLostError, ConfigError for a ca_file or proxy that cannot be used.
        """
        context = self._tls_context() if endpoint.tls or self._proxy else None
        try:
            with anyio.fail_after(CONNECT_TIMEOUT):
                stream = await self._reach(endpoint, context)
                if endpoint.tls:
                    assert context is not None
                    stream = await _wrap(stream, endpoint.host, context)
                return stream
        except TimeoutError:
            raise ConnectionLostError(
                f"no connection to {endpoint.authority} within {CONNECT_TIMEOUT:g} s", code="CONNECT_TIMEOUT"
            ) from None
        except ssl.SSLError as exc:
            raise _tls_error(endpoint.authority, exc) from None
        except (OSError, anyio.BrokenResourceError, anyio.EndOfStream) as exc:
            if isinstance(exc, ConnectionLostError):
                raise
            cause = exc.__cause__
            if isinstance(cause, ssl.SSLError):
                raise _tls_error(endpoint.authority, cause) from None
            raise ConnectionLostError(
                f"cannot connect to {endpoint.authority}: {printable(str(exc) or type(exc).__name__, 160)}",
                code="CONNECT_FAILED",
            ) from None

    async def _reach(self, endpoint: Endpoint, context: ssl.SSLContext | None) -> ByteStream:
        if self._proxy is None:
            return await anyio.connect_tcp(endpoint.host, endpoint.port)
        proxy = urlsplit(self._proxy)
        if proxy.scheme not in ("http", "https") or not proxy.hostname:
            raise ConfigError("proxy: not an http:// or https:// URL", field="proxy", code="CONFIG_PROXY")
        tls = proxy.scheme == "https"
        stream: ByteStream = await anyio.connect_tcp(proxy.hostname, proxy.port or (443 if tls else 80))
        try:
            if tls:
                assert context is not None
                stream = await _wrap(stream, proxy.hostname, context)
            await _tunnel(stream, endpoint, proxy)
        except BaseException:
            # Not a catch-all for errors: whatever ends the attempt, the half-made tunnel must not stay open.
            await anyio.aclose_forcefully(stream)
            raise
        return stream

    def _tls_context(self) -> ssl.SSLContext:
        if self._context is None:
            try:
                self._context = ssl.create_default_context(cafile=self._ca_file)
            except (OSError, ssl.SSLError) as exc:
                raise ConfigError(
                    f"ca_file: cannot be read: {printable(str(exc), 160)}", field="ca_file", code="CONFIG_CA_FILE"
                ) from None
        return self._context


async def _wrap(stream: ByteStream, host: str, context: ssl.SSLContext) -> ByteStream:
    try:
        return await TLSStream.wrap(stream, hostname=host, ssl_context=context, standard_compatible=False)
    except BaseException:
        # As above: a failed or cancelled handshake must not leave its socket open.
        await anyio.aclose_forcefully(stream)
        raise


async def _tunnel(stream: ByteStream, endpoint: Endpoint, proxy: SplitResult) -> None:
    """CONNECT through an HTTP proxy; leaves the stream at the first byte of the tunnel."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    target = f"{host}:{endpoint.port}".encode("idna" if not host.isascii() else "ascii")
    headers = [("Host", target.decode()), ("User-Agent", f"livekit-agent-sdk/{__version__}")]
    if proxy.username is not None:
        credentials = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}".encode()
        headers.append(("Proxy-Authorization", "Basic " + b64encode(credentials).decode()))
    http = h11.Connection(h11.CLIENT, max_incomplete_event_size=HTTP_HEAD_BYTES_MAX)
    await stream.send(http.send(h11.Request(method="CONNECT", target=target, headers=headers)) or b"")
    await stream.send(http.send(h11.EndOfMessage()) or b"")
    try:
        while not isinstance(event := http.next_event(), h11.Response):
            if event is h11.NEED_DATA:
                http.receive_data(await stream.receive(4096))
    except h11.ProtocolError:
        raise ConnectionLostError("the proxy's answer is not HTTP", code="PROXY_FAILED") from None
    if not 200 <= event.status_code < 300:
        raise ConnectionLostError(
            f"the proxy refused the tunnel: HTTP {event.status_code}",
            hint="the proxy wants credentials: http://user:password@host" if event.status_code == 407 else "",
            code="PROXY_FAILED",
        )
    if http.trailing_data[0]:
        raise ConnectionLostError("the proxy sent data before the tunnel was used", code="PROXY_FAILED")


def _tls_error(authority: str, exc: ssl.SSLError) -> ConnectionLostError:
    reason = getattr(exc, "verify_message", "") or exc.reason or type(exc).__name__
    hint = ""
    if isinstance(exc, ssl.SSLCertVerificationError):
        hint = "ca_file (or SSL_CERT_FILE) names the authority of a private certificate; verification has no off switch"
    elif exc.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        hint = "the server speaks plain HTTP there: ws:// instead of wss://?"
    return ConnectionLostError(
        f"TLS to {authority} failed: {printable(str(reason), 160)}", hint=hint, code="TLS_FAILED"
    )
