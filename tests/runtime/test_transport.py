"""From a URL to a byte stream, on real loopback sockets and both backends.

Goal: whatever a network, a proxy or a certificate does, there is a stream, or one typed error that says whom it is
about, and never an open socket left.  A peer counts its open connections; "nothing left" is what it sees.
"""

from __future__ import annotations

import base64
import datetime
import logging
import re
import socket
import ssl
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trustme

from livekit_agent import (
    Config,
    ConfigError,
    ConnectionLostError,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerOptions,
)
from livekit_agent.dispatch import DispatchServer
from livekit_agent.runtime import _transport
from livekit_agent.runtime._transport import Endpoint, NetworkConnector, parse_url

from .loopback import peer, read_head, relay, saying, silence, tunnel_to

# ------------------------------------------------------------------------------------------------------ the URL


@pytest.mark.parametrize(
    ("url", "host", "port", "tls", "target", "room_url", "authority"),
    [
        ("ws://localhost:7880", "localhost", 7880, False, "/agent", "ws://localhost:7880", "localhost:7880"),
        ("http://localhost:7880", "localhost", 7880, False, "/agent", "ws://localhost:7880", "localhost:7880"),
        ("ws://localhost", "localhost", 80, False, "/agent", "ws://localhost", "localhost"),
        ("wss://lk.example", "lk.example", 443, True, "/agent", "wss://lk.example", "lk.example"),
        ("https://lk.example", "lk.example", 443, True, "/agent", "wss://lk.example", "lk.example"),
        ("HTTPS://LK.Example", "lk.example", 443, True, "/agent", "wss://LK.Example", "lk.example"),
        ("wss://lk.example:443", "lk.example", 443, True, "/agent", "wss://lk.example:443", "lk.example"),
        ("wss://lk.example:80", "lk.example", 80, True, "/agent", "wss://lk.example:80", "lk.example:80"),
        ("wss://lk.example/", "lk.example", 443, True, "/agent", "wss://lk.example", "lk.example"),
        ("wss://lk.example/a/b//", "lk.example", 443, True, "/a/b/agent", "wss://lk.example/a/b", "lk.example"),
        ("wss://lk.example/a?x=1", "lk.example", 443, True, "/a/agent?x=1", "wss://lk.example/a?x=1", "lk.example"),
        ("ws://[::1]:7880/rtc", "::1", 7880, False, "/rtc/agent", "ws://[::1]:7880/rtc", "[::1]:7880"),
        ("wss://[2001:DB8::1]", "2001:db8::1", 443, True, "/agent", "wss://[2001:DB8::1]", "[2001:db8::1]"),
        ("wss://my_host.example.:8443", "my_host.example.", 8443, True, "/agent", "wss://my_host.example.:8443",
         "my_host.example.:8443"),
    ],
)  # fmt: skip
def test_a_url_becomes_an_endpoint(
    url: str, host: str, port: int, tls: bool, target: str, room_url: str, authority: str
) -> None:
    endpoint = parse_url(url)
    assert (endpoint.host, endpoint.port, endpoint.tls, endpoint.target) == (host, port, tls, target)
    assert (endpoint.url, endpoint.authority) == (room_url, authority)


@pytest.mark.parametrize(
    "url",
    [
        "",
        None,
        7880,
        b"wss://lk.example",
        "localhost:7880",
        "lk.example",
        "ftp://lk.example",
        "wss://",
        "wss:///path",
        "wss://:7880",
        "wss://lk.example:0",
        "wss://lk.example:65536",
        "wss://lk.example:port",
        "wss://[::1",
        "wss://lk example",
        "wss://lk.example/a b",
        " wss://lk.example",
        "wss://lk.example\n",
        "wss://lk.exa\tmple",
        "wss://lk.example/\r\nX-Injected: 1",
        "wss://lk.example/\x7f",
        "wss://münchen.example",
        "wss://user:hunter2@lk.example",
        "wss://user@lk.example",
        "wss://lk.example#part",
        "wss://lk.example?access_token=abc",
        "wss://lk.example?token=eyJhbGciOiJIUzI1NiJ9.e30.c2ln",
        "wss://a..b",
        "wss://-a.example",
        "wss://" + "a" * 64 + ".example",
        "wss://" + "a." * 127 + "example",
        "wss://lk.exam%70le",
    ],
)
def test_what_is_no_url_of_a_server_is_a_config_error_with_a_hint(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_url(url)
    assert caught.value.field == "url"
    assert caught.value.code == "CONFIG_URL"
    assert caught.value.hint


@pytest.mark.parametrize(
    "url", ["s3cr3t-value", "wss://u:s3cr3t-value@h", "s3cr3t-value://h", "wss://h:s3cr3t-value", "s3cr3t-value h"]
)
def test_no_message_repeats_a_url_because_it_may_be_the_secret(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        UniversalWorker(url, "key", "secret", SimpleUniversalHandler())
    assert "s3cr3t" not in f"{caught.value} {caught.value!r} {caught.value.hint}"


@pytest.mark.parametrize("host", ["localhost", "a.localhost", "127.0.0.1", "127.8.9.1", "[::1]"])
def test_plain_text_stays_on_this_machine(host: str) -> None:
    assert parse_url(f"ws://{host}").loopback


@pytest.mark.parametrize("host", ["lk.example", "localhost.example", "10.0.0.1", "[fe80::1]", "127.0.0.1.example"])
def test_plain_text_leaves_this_machine_only_when_asked_to(host: str) -> None:
    with pytest.raises(ConfigError, match="in the clear") as caught:
        parse_url(f"http://{host}")
    assert "allow_plaintext=True" in caught.value.hint
    assert not parse_url(f"http://{host}", allow_plaintext=True).tls


async def test_a_worker_speaks_plain_text_elsewhere_only_with_allow_plaintext(monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr(anyio, "connect_tcp", never)
    with pytest.raises(ConfigError, match="in the clear"):
        UniversalWorker("ws://lk.example", "key", "secret", SimpleUniversalHandler())
    allowed = WorkerOptions(allow_plaintext=True)
    worker = UniversalWorker("ws://lk.example", "key", "secret", SimpleUniversalHandler(), allowed)
    with pytest.raises(AssertionError, match="a connection was tried"):
        await worker.start()


# ---------------------------------------------------------------------------------------------------------- TCP


def at(port: int, *, tls: bool = False, host: str = "127.0.0.1") -> Endpoint:
    return Endpoint(host=host, port=port, tls=tls)


def resolving(monkeypatch: pytest.MonkeyPatch, **hosts: str) -> None:
    """A resolver that knows these names (``_`` for the dot) and no other."""
    known = {name.replace("_", "."): address for name, address in hosts.items()}
    real = socket.getaddrinfo

    def lookup(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
        name = host.decode() if isinstance(host, bytes) else host
        if name in known:
            return real(known[name], port, *args, **kwargs)
        if name[:1].isdigit() or ":" in name:
            return real(host, port, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", lookup)


async def refused(connector: NetworkConnector, endpoint: Endpoint) -> ConnectionLostError:
    """The error of an attempt that must fail."""
    with pytest.raises(ConnectionLostError) as caught, anyio.fail_after(10):
        await connector(endpoint)
    assert caught.value.retryable
    return caught.value


async def closed_port() -> int:
    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
        return int(listener.extra(anyio.abc.SocketAttribute.local_port))


async def test_a_stream_carries_bytes_both_ways() -> None:
    async with peer(saying(b"hello")) as server:
        async with await NetworkConnector()(at(server.port)) as stream:
            assert await stream.receive() == b"hello"
            await stream.send(b"hi")
        await server.until(lambda p: p.heard == [b"hi"] and p.open == 0)


async def test_a_refused_connection_says_so_in_the_systems_words() -> None:
    port = await closed_port()
    error = await refused(NetworkConnector(), at(port))
    assert str(error) == f"cannot connect to 127.0.0.1:{port}: Connection refused"
    assert error.code == "CONNECT_FAILED"


async def test_two_addresses_that_refuse_are_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    port = await closed_port()

    def both(*args: Any, **kwargs: Any) -> Any:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", port)) for n in (1, 2)]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    error = await refused(NetworkConnector(), at(port, host="two.example"))
    assert str(error).endswith(": Connection refused")


async def test_an_unknown_name_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch)
    error = await refused(NetworkConnector(), at(443, host="nowhere.example"))
    assert "nowhere.example" in str(error)
    assert "Name or service not known" in str(error)


@pytest.mark.virtual
async def test_an_address_that_swallows_everything_costs_ten_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    async def black_hole(host: str, port: int) -> Any:
        await anyio.sleep_forever()

    monkeypatch.setattr(anyio, "connect_tcp", black_hole)
    began = anyio.current_time()
    with pytest.raises(ConnectionLostError, match="within 10 s") as caught:
        await NetworkConnector()(at(443))
    assert caught.value.code == "CONNECT_TIMEOUT"
    assert anyio.current_time() - began == 10.0


# ---------------------------------------------------------------------------------------------------------- TLS

AUTHORITY = trustme.CA()
GOOD = ("127.0.0.1", "localhost", "lk.example")


@pytest.fixture(scope="module")
def ca_file(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("ca") / "ca.pem"
    AUTHORITY.cert_pem.write_to_path(str(path))
    return str(path)


def server_tls(*names: str, authority: trustme.CA = AUTHORITY, **issue: Any) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*(names or GOOD), **issue).configure_cert(context)
    return context


async def test_tls_with_a_private_authority_works_when_it_is_named(ca_file: str) -> None:
    async with peer(saying(b"hello"), server_tls()) as server:
        async with await NetworkConnector(ca_file=ca_file)(at(server.port, tls=True)) as stream:
            assert await stream.receive() == b"hello"
            await stream.send(b"hi")
        await server.until(lambda p: p.heard == [b"hi"] and p.open == 0)


async def test_ipv4_addresses_and_names_are_both_verified(ca_file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    resolving(monkeypatch, lk_example="127.0.0.1")
    async with peer(saying(b"hello"), server_tls("lk.example")) as server:
        connector = NetworkConnector(ca_file=ca_file)
        async with await connector(at(server.port, tls=True, host="lk.example")) as stream:
            assert await stream.receive() == b"hello"
        error = await refused(connector, at(server.port, tls=True))
    assert "IP address mismatch" in str(error)


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (partial(server_tls, "other.example"), "not valid for"),
        (partial(server_tls, not_after=datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)), "certificate has expired"),
        (partial(server_tls, authority=trustme.CA()), "unable to get local issuer certificate"),
    ],
    ids=["wrong host", "expired", "unknown authority"],
)
async def test_a_certificate_that_proves_nothing_is_refused(certificate: Any, said: str, ca_file: str) -> None:
    async with peer(silence, certificate()) as server:
        error = await refused(NetworkConnector(ca_file=ca_file), at(server.port, tls=True))
        await server.until(lambda p: p.came == 1 and p.open == 0)
    assert said in str(error)
    assert error.code == "TLS_FAILED"
    assert "ca_file" in error.hint


async def test_a_self_signed_certificate_is_refused_with_the_way_out(tmp_path: Path, ca_file: str) -> None:
    alone = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    alone.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    alone.cert_pem.write_to_path(str(tmp_path / "cert.pem"))
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    async with peer(silence, context) as server:
        error = await refused(NetworkConnector(ca_file=ca_file), at(server.port, tls=True))
        await server.until(lambda p: p.open == 0)
    assert "self-signed certificate" in str(error)
    assert "ca_file" in error.hint


async def test_without_a_ca_file_the_systems_authorities_decide() -> None:
    async with peer(silence, server_tls()) as server:
        error = await refused(NetworkConnector(), at(server.port, tls=True))
    assert error.code == "TLS_FAILED"


async def test_a_tls_client_at_a_plain_server_is_told_what_it_met(ca_file: str) -> None:
    async with peer(saying(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as server:
        error = await refused(NetworkConnector(ca_file=ca_file), at(server.port, tls=True))
        await server.until(lambda p: p.open == 0)
    assert "ws:// instead of wss://" in error.hint


async def test_an_alert_in_the_handshake_is_named(ca_file: str) -> None:
    async def refuse(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.send(bytes([21, 3, 3, 0, 2, 2, 40]))  # alert, TLS 1.2, fatal, handshake_failure

    async with peer(refuse) as server:
        error = await refused(NetworkConnector(ca_file=ca_file), at(server.port, tls=True))
        await server.until(lambda p: p.open == 0)
    assert "HANDSHAKE_FAILURE" in str(error)


async def test_a_server_that_leaves_during_the_handshake_is_named(ca_file: str) -> None:
    async def leave(stream: anyio.abc.ByteStream) -> None:
        await stream.receive()
        await stream.aclose()

    async with peer(leave) as server:
        error = await refused(NetworkConnector(ca_file=ca_file), at(server.port, tls=True))
    assert "closed during the handshake" in str(error)
    assert error.code == "TLS_FAILED"


async def test_a_server_that_never_answers_the_handshake_costs_the_connect_timeout(
    ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_transport, "CONNECT_TIMEOUT", 0.05)
    async with peer(silence) as server:
        error = await refused(NetworkConnector(ca_file=ca_file), at(server.port, tls=True))
        assert error.code == "CONNECT_TIMEOUT"
        await server.until(lambda p: p.came == 1 and p.open == 0)


async def test_a_plain_client_at_a_tls_server_gets_no_further_and_tries_again() -> None:
    async with peer(silence, server_tls()) as server:
        worker = UniversalWorker(
            f"ws://127.0.0.1:{server.port}",
            "key",
            "secret",
            SimpleUniversalHandler(),
            WorkerOptions(max_connect_failures=1),
        )
        with pytest.raises(ConnectionLostError, match="gave up"), anyio.fail_after(10):
            await worker.start()
        await server.until(lambda p: p.open == 0)


@pytest.mark.parametrize("content", [None, "", "not a certificate", "-----BEGIN CERTIFICATE-----\nnonsense\n"])
async def test_a_ca_file_that_is_none_ends_the_worker_at_once(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    async with peer(silence) as server:
        worker = UniversalWorker(
            f"wss://127.0.0.1:{server.port}",
            "key",
            "secret",
            SimpleUniversalHandler(),
            WorkerOptions(ca_file=str(path)),
        )
        with pytest.raises(ConfigError) as caught, anyio.fail_after(10):
            await worker.start()
        assert server.came == 0
    assert caught.value.code == "CONFIG_CA_FILE"
    assert caught.value.hint


# -------------------------------------------------------------------------------------------------------- proxy


def basic(text: str) -> bytes:
    return b"Basic " + base64.b64encode(text.encode())


async def test_a_proxy_is_asked_to_connect_and_then_out_of_the_way(ca_file: str) -> None:
    heads: list[bytes] = []
    async with peer(saying(b"hello"), server_tls("lk.example")) as server:
        async with peer(tunnel_to(server.port, heads)) as proxy:
            connector = NetworkConnector(ca_file=ca_file, proxy=f"http://127.0.0.1:{proxy.port}")
            async with await connector(at(443, tls=True, host="lk.example")) as stream:
                assert await stream.receive() == b"hello"
                await stream.send(b"hi")
            await server.until(lambda p: p.heard == [b"hi"] and p.open == 0)
            await proxy.until(lambda p: p.open == 0)
    lines = heads[0].split(b"\r\n")
    assert lines[0] == b"CONNECT lk.example:443 HTTP/1.1"
    assert b"Host: lk.example:443" in lines
    assert b"authorization" not in heads[0].lower()


async def test_credentials_of_the_proxy_go_to_the_proxy_unquoted() -> None:
    heads: list[bytes] = []
    async with peer(saying(b"hello")) as server, peer(tunnel_to(server.port, heads)) as proxy:
        connector = NetworkConnector(proxy=f"http://us%40er:p%3Ass@127.0.0.1:{proxy.port}/")
        async with await connector(at(7880, host="::1")) as stream:
            assert await stream.receive() == b"hello"
    assert b"CONNECT [::1]:7880 HTTP/1.1" in heads[0]
    assert b"Proxy-Authorization: " + basic("us@er:p:ss") in heads[0]
    assert server.heard == []  # and to nobody else


async def test_a_proxy_may_be_spoken_to_in_tls_itself(ca_file: str) -> None:
    heads: list[bytes] = []
    async with peer(saying(b"hello"), server_tls("lk.example")) as server:
        async with peer(tunnel_to(server.port, heads), server_tls("localhost")) as proxy:
            connector = NetworkConnector(ca_file=ca_file, proxy=f"https://localhost:{proxy.port}")
            async with await connector(at(443, tls=True, host="lk.example")) as stream:
                assert await stream.receive() == b"hello"
                await stream.send(b"hi")
            await server.until(lambda p: p.heard == [b"hi"])
            await proxy.until(lambda p: p.open == 0)


async def test_an_https_proxy_is_verified_and_named(ca_file: str) -> None:
    async with peer(silence, server_tls("other.example")) as proxy:
        connector = NetworkConnector(ca_file=ca_file, proxy=f"https://localhost:{proxy.port}")
        error = await refused(connector, at(443, tls=True, host="lk.example"))
        await proxy.until(lambda p: p.open == 0)
    assert f"TLS to the proxy localhost:{proxy.port} failed" in str(error)


@pytest.mark.parametrize(
    ("answer", "said", "hint"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n", "HTTP 407", "credentials"),
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "HTTP 403", "rules"),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "HTTP 502", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\n\r\n", "HTTP 302", ""),
        (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", "not HTTP", ""),
        (b"\x00" * 64, "not HTTP", ""),
        (b"HTTP/1.1 200 OK\r\nX-Long: " + b"x" * 70_000, "not HTTP", ""),
        (b"HTTP/1.1 200 OK\r\n\r\nand more", "before the tunnel was used", ""),
    ],
    ids=["407", "403", "502", "redirect", "ssh", "zeros", "endless head", "bytes after the head"],
)
async def test_a_proxy_that_does_not_connect_is_one_error(answer: bytes, said: str, hint: str) -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await stream.send(answer)

    async with peer(serve) as proxy:
        connector = NetworkConnector(proxy=f"http://user:hunter2@127.0.0.1:{proxy.port}")
        error = await refused(connector, at(443, host="lk.example"))
        await proxy.until(lambda p: p.came == 1 and p.open == 0)
    assert said in str(error)
    assert hint in error.hint
    assert error.code == "PROXY_FAILED"
    assert "hunter2" not in f"{error!r} {error.hint}"


async def test_interim_answers_of_a_proxy_are_passed_over() -> None:
    async def serve(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\n")

    async with peer(serve) as proxy:
        stream = await NetworkConnector(proxy=f"http://127.0.0.1:{proxy.port}")(at(443, host="lk.example"))
        await stream.aclose()


async def test_a_proxy_that_hangs_up_is_named() -> None:
    async def leave(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await stream.aclose()

    async with peer(leave) as proxy:
        error = await refused(NetworkConnector(proxy=f"http://127.0.0.1:{proxy.port}"), at(443, host="lk.example"))
    assert str(error) == "the proxy closed the connection instead of answering"


async def test_a_proxy_that_never_answers_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_transport, "CONNECT_TIMEOUT", 0.05)
    async with peer(silence) as proxy:
        error = await refused(NetworkConnector(proxy=f"http://127.0.0.1:{proxy.port}"), at(443, host="lk.example"))
        await proxy.until(lambda p: p.open == 0)
    assert f"no connection to lk.example:443 through the proxy 127.0.0.1:{proxy.port}" in str(error)


async def test_a_proxy_that_refuses_the_connection_is_named_and_not_the_server() -> None:
    port = await closed_port()
    error = await refused(NetworkConnector(proxy=f"http://u:hunter2@127.0.0.1:{port}"), at(443, host="lk.example"))
    assert str(error) == f"cannot connect to the proxy 127.0.0.1:{port}: Connection refused"


@pytest.mark.parametrize(
    "proxy",
    [
        "",
        "proxy:3128",
        "socks5://h:1",
        "http://",
        "http://h:port",
        "http://h:70000",
        "http://[::1",
        "http://h/p",
        "http://h h",
    ],
)
def test_what_is_no_proxy_is_found_before_anything_is_connected(proxy: str) -> None:
    with pytest.raises(ConfigError, match=r"^proxy: not an"):
        NetworkConnector(proxy=proxy)


async def test_a_worker_lives_behind_a_proxy_that_the_environment_names(
    ca_file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolving(monkeypatch, lk_example="127.0.0.1")
    heads: list[bytes] = []
    tls = server_tls("lk.example")
    async with DispatchServer(api_key="key", api_secret="secret") as server:

        async def to_server(stream: anyio.abc.ByteStream) -> None:
            async with await anyio.connect_tcp("127.0.0.1", server.port or 0) as onward:
                await relay(stream, onward)

        async with peer(to_server, tls) as front, peer(tunnel_to(front.port, heads)) as proxy:
            environ = {
                "LIVEKIT_URL": f"wss://lk.example:{front.port}",
                "LIVEKIT_API_KEY": "key",
                "LIVEKIT_API_SECRET": "secret",
                "HTTPS_PROXY": f"http://user:hunter2@127.0.0.1:{proxy.port}",
                "SSL_CERT_FILE": ca_file,
            }
            for no_proxy, through in (("", 1), ("other.example", 1), ("lk.example", 0), ("*", 0), (".example", 0)):
                heads.clear()
                config = Config.from_env({**environ, "NO_PROXY": no_proxy})
                worker = UniversalWorker.from_config(config, SimpleUniversalHandler(), rooms=server.rooms)
                with anyio.fail_after(10):
                    async with worker:
                        assert worker.worker_id in server.workers
                assert len(heads) == through, no_proxy
                if through:
                    assert f"CONNECT lk.example:{front.port} ".encode() in heads[0]
                    assert basic("user:hunter2") in heads[0]
                assert "hunter2" not in f"{worker.options!r} {config!r}"


async def test_loopback_never_goes_through_the_proxy_of_the_environment() -> None:
    config = Config.from_env({"LIVEKIT_URL": "wss://127.0.0.1:1", "HTTPS_PROXY": "http://127.0.0.1:2"})
    assert config.options().proxy is None


# ------------------------------------------------------------------------------------------------- cancellation


async def cancelled_when(connector: NetworkConnector, endpoint: Endpoint, waiting: Any) -> None:
    async def connect() -> None:
        await connector(endpoint)
        raise AssertionError("connected")

    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(connect)
            await waiting()
            tasks.cancel_scope.cancel()


async def test_cancelling_during_the_handshake_closes_the_socket(ca_file: str) -> None:
    async with peer(silence) as server:
        endpoint = at(server.port, tls=True)
        await cancelled_when(NetworkConnector(ca_file=ca_file), endpoint, lambda: server.until(lambda p: bool(p.heard)))
        await server.until(lambda p: p.open == 0)


async def test_cancelling_during_the_proxys_answer_closes_the_socket() -> None:
    async with peer(silence) as proxy:
        connector = NetworkConnector(proxy=f"http://127.0.0.1:{proxy.port}")
        await cancelled_when(connector, at(443, host="lk.example"), lambda: proxy.until(lambda p: bool(p.heard)))
        await proxy.until(lambda p: p.open == 0)


async def test_cancelling_during_the_handshake_inside_the_tunnel_closes_the_socket(ca_file: str) -> None:
    async def swallow(stream: anyio.abc.ByteStream) -> None:
        await read_head(stream)
        await stream.send(b"HTTP/1.1 200 OK\r\n\r\n")

    async with peer(swallow) as proxy:
        connector = NetworkConnector(ca_file=ca_file, proxy=f"http://127.0.0.1:{proxy.port}")
        endpoint = at(443, tls=True, host="lk.example")
        await cancelled_when(connector, endpoint, lambda: proxy.until(lambda p: bool(p.heard)))
        await proxy.until(lambda p: p.open == 0)


async def test_cancelling_at_any_step_of_connecting_leaves_no_socket(ca_file: str) -> None:
    """One loop turn later each time, until the attempt gets through: every await of the attempt is hit."""
    async with peer(saying(b"hello"), server_tls("lk.example")) as server:
        async with peer(tunnel_to(server.port, [])) as proxy:
            connector = NetworkConnector(ca_file=ca_file, proxy=f"http://127.0.0.1:{proxy.port}")
            endpoint = at(443, tls=True, host="lk.example")
            got_through = False
            turns = 0
            while not got_through:

                async def attempt() -> None:
                    nonlocal got_through
                    stream = await connector(endpoint)
                    got_through = True
                    await anyio.aclose_forcefully(stream)

                with anyio.fail_after(10):
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(attempt)
                        for _ in range(turns):
                            await anyio.lowlevel.checkpoint()
                        tasks.cancel_scope.cancel()
                    await proxy.until(lambda p: p.open == 0)
                    await server.until(lambda p: p.open == 0)
                turns = turns + 1 if turns < 40 else turns * 2
            assert turns > 3


# ---------------------------------------------------------------------------------------------------- redirects


async def test_a_redirect_is_not_followed_and_its_target_hears_nothing() -> None:
    async with peer(silence) as elsewhere:

        async def redirect(stream: anyio.abc.ByteStream) -> None:
            await read_head(stream)
            await stream.send(
                f"HTTP/1.1 307 Temporary Redirect\r\nLocation: ws://127.0.0.1:{elsewhere.port}/agent\r\n"
                "Content-Length: 0\r\n\r\n".encode()
            )

        async with peer(redirect) as server:
            worker = UniversalWorker(
                f"ws://127.0.0.1:{server.port}",
                "key",
                "secret",
                SimpleUniversalHandler(),
                WorkerOptions(max_connect_failures=1),
            )
            with pytest.raises(ConnectionLostError, match="redirects to") as caught, anyio.fail_after(10):
                await worker.start()
            assert server.came == 1
        assert elsewhere.came == 0
    assert caught.value.__cause__ is not None
    assert "not followed" in caught.value.__cause__.hint  # type: ignore[attr-defined]


# -------------------------------------------------------------------------------------------------------- debug


async def test_websocket_debug_tells_kinds_and_sizes_and_no_contents(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with DispatchServer() as server:
        options = WorkerOptions(agent_name="echo", websocket_debug=True)
        handler = SimpleUniversalHandler(job_assigned=lambda ctx: None)
        worker = UniversalWorker(server.url, server.api_key, server.api_secret, handler, options, rooms=server.rooms)
        with anyio.fail_after(10):
            async with worker:
                server.create_dispatch("room", "echo", metadata="m3tadata-of-a-customer")
                await server.wait_for(lambda: any(job.ended_at for job in server.jobs.values()))
    told = [r.getMessage() for r in caplog.records if r.name == "livekit_agent" and r.levelno == logging.DEBUG]
    text = "\n".join(told)
    assert all(re.fullmatch(r"signal (in|out): [a-z_]+, \d+ bytes", line) for line in told), text
    kinds = [line.partition(",")[0].removeprefix("signal ") for line in told]
    conversation = [kind for kind in kinds if kind != "out: worker_status"]
    assert conversation[:6] == [
        "out: register",
        "in: registered",
        "in: offer",
        "out: answer",
        "in: assignment",
        "out: job_status",
    ]
    everything = "\n".join(f"{r.getMessage()} {r.args}" for r in caplog.records if r.name == "livekit_agent")
    assert "m3tadata" not in everything
    assert "eyJ" not in everything


async def test_without_websocket_debug_no_message_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "livekit_agent")
    async with DispatchServer() as server:
        worker = UniversalWorker(
            server.url, server.api_key, server.api_secret, SimpleUniversalHandler(), rooms=server.rooms
        )
        with anyio.fail_after(10):
            async with worker:
                pass
    assert not [r for r in caplog.records if "signal" in r.getMessage()]
