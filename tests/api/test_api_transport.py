"""How the HTTP client reaches its server: TLS that is verified, a private authority, proxies; on loopback sockets."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
import trustme
from anyio.abc import ByteStream

from livekit_agent import ConfigError
from livekit_agent.api import ApiError, LiveKitAPI
from livekit_agent.dispatch import DispatchServer
from runtime.loopback import Peer, Serve, peer, relay, silence, tunnel_to

KEY, SECRET = "devkey", "secretsecretsecretsecretsecret32"
PASSWORD = "PLANTED-proxy-password"
AUTHORITY = trustme.CA()


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


def tls_of(name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    AUTHORITY.issue_cert(name).configure_cert(context)
    return context


def handing_on_to(port: int) -> Serve:
    async def serve(stream: ByteStream) -> None:
        async with await anyio.connect_tcp("127.0.0.1", port) as onward:
            await relay(stream, onward)

    return serve


@asynccontextmanager
async def behind_tls(name: str = "localhost") -> AsyncGenerator[Peer]:
    """A dispatch server behind something that ends TLS, as in production."""
    async with (
        DispatchServer(api_key=KEY, api_secret=SECRET) as server,
        peer(handing_on_to(server.port or 0), tls_of(name)) as found,
    ):
        yield found


async def test_a_private_authority_is_trusted_when_it_is_named_and_not_otherwise(ca_file: str) -> None:
    async with behind_tls() as server:
        url = f"wss://localhost:{server.port}"
        async with LiveKitAPI(url, KEY, SECRET, ca_file=ca_file) as api:
            assert await api.rooms.list() == []
        async with LiveKitAPI(url, KEY, SECRET) as api:
            with pytest.raises(ApiError, match="certificate verify failed") as refused:
                await api.rooms.list()
    assert (refused.value.status, refused.value.twirp_code) == (0, "unavailable")


async def test_a_certificate_for_another_host_is_refused(ca_file: str) -> None:
    async with behind_tls("other.example") as server:
        async with LiveKitAPI(f"https://localhost:{server.port}", KEY, SECRET, ca_file=ca_file) as api:
            with pytest.raises(ApiError, match="certificate verify failed"):
                await api.rooms.list()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_is_asked_to_connect_and_is_verified_by_the_same_authority(scheme: str, ca_file: str) -> None:
    heads: list[bytes] = []
    async with behind_tls("lk.example") as server:
        async with peer(tunnel_to(server.port, heads), tls_of("localhost") if scheme == "https" else None) as proxy:
            through = f"{scheme}://me:{PASSWORD}@localhost:{proxy.port}"
            async with LiveKitAPI("https://lk.example", KEY, SECRET, proxy=through, ca_file=ca_file) as api:
                assert await api.rooms.list() == []
                assert PASSWORD not in repr(api)
    assert heads[0].startswith(b"CONNECT lk.example:443 HTTP/1.1\r\n")
    assert b"bearer" not in heads[0].lower()


async def test_a_proxy_that_proves_nothing_is_refused(ca_file: str) -> None:
    async with peer(silence, tls_of("other.example")) as proxy:
        through = f"https://localhost:{proxy.port}"
        async with LiveKitAPI("https://lk.example", KEY, SECRET, proxy=through, ca_file=ca_file) as api:
            with pytest.raises(ApiError, match="certificate verify failed"):
                await api.rooms.list()
    assert proxy.heard == []


@pytest.mark.parametrize("proxy", ["socks5://u:p@h:1", "h:1", "http://h:99999", "http://h/path"])
def test_what_is_no_proxy_is_found_at_once_and_not_repeated(proxy: str) -> None:
    with pytest.raises(ConfigError) as caught:
        LiveKitAPI("wss://lk.example", KEY, SECRET, proxy=proxy)
    assert (caught.value.field, caught.value.code) == ("proxy", "CONFIG_PROXY")
    assert proxy not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize("content", [None, "no certificate"])
async def test_a_ca_file_that_is_none_is_a_config_error(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError) as caught:
        async with LiveKitAPI("wss://lk.example", KEY, SECRET, ca_file=str(path)):
            pass
    assert (caught.value.field, caught.value.code) == ("ca_file", "CONFIG_CA_FILE")
