"""The seam between HTTP and frames, with peers that do it wrong."""

from __future__ import annotations

import pytest

from livekit_agent._errors import (
    AuthenticationError,
    ConnectionLostError,
    HandshakeError,
    LocalProtocolError,
    RemoteProtocolError,
)
from livekit_agent.protocol import (
    Registered,
    Registration,
    SignalConnection,
    Stage,
    UpgradeAccepted,
    UpgradeRequested,
)

from .frames import BINARY, CLOSE, PING, PONG, frame, header, pieces, read_frames, switching_protocols, upgrade_request
from .pair import TOKEN, WALL, RawServer, RawWorker, new_worker, of_type, register, registered

CUTS = pytest.mark.parametrize("cut", [1, 5, 10**6])


def answered(data: bytes, cut: int = 10**6) -> RawServer:
    """A server that answers the upgrade with ``data``."""
    server = RawServer(new_worker())
    for piece in pieces(data, cut):
        if not server.worker.finished:
            server.say(piece)
    return server


def asked(data: bytes, cut: int = 10**6) -> RawWorker:
    """A worker that begins with ``data``."""
    worker = RawWorker()
    for piece in pieces(data, cut):
        if not worker.server.finished:
            worker.say(piece)
    return worker


def http(status: str, body: bytes = b"", *lines: str) -> bytes:
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{line}\r\n" for line in (*lines, f"Content-Length: {len(body)}"))
    return head.encode() + b"\r\n" + body


# ------------------------------------------------------------------------------------ what the worker sends


def test_case_3_the_token_is_in_the_header_and_nowhere_else() -> None:
    server = RawServer(new_worker())
    assert header(server.request, "authorization") == f"Bearer {TOKEN}"
    assert server.request.count(TOKEN.encode()) == 1
    assert server.request.startswith(b"GET /agent HTTP/1.1\r\nHost: example:7880\r\n")
    assert header(server.request, "upgrade") == "websocket"
    assert header(server.request, "sec-websocket-version") == "13"
    assert header(server.request, "sec-websocket-extensions") == ""
    assert header(server.request, "sec-websocket-protocol") == ""
    assert TOKEN not in repr(server.worker)


def test_case_6_nothing_follows_the_request_before_the_101_is_read() -> None:
    worker = new_worker()
    worker.set_standing(0.5, False, 0.0)
    assert worker.data_to_send().endswith(b"\r\n\r\n")
    worker.drain(0.0)
    assert worker.data_to_send() == b""


@pytest.mark.parametrize("host", ["a..b:7880", "x" * 64 + ".example", "a\udc80b", "a\r\nX-Evil: 1"])
def test_a_host_that_is_none_is_our_own_error_and_never_a_unicode_error(host: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        SignalConnection.worker(
            host=host, target="/agent", token=TOKEN, registration=Registration(), book=new_worker().book, now=0, wall=0
        )
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize("host", ["[::1]:7880", "my_host:7880", "bücher.example", "127.0.0.1", "h.example.:80"])
def test_hosts_of_every_kind_are_written(host: str) -> None:
    worker = SignalConnection.worker(
        host=host, target="/agent", token=TOKEN, registration=Registration(), book=new_worker().book, now=0, wall=0
    )
    assert header(worker.data_to_send(), "host").isascii()


@pytest.mark.parametrize("token", ["a\nb", "a\u20acb", "secret\x00token"])
def test_a_token_that_no_header_can_hold_is_not_quoted(token: str) -> None:
    with pytest.raises(LocalProtocolError) as caught:
        SignalConnection.worker(
            host="h", target="/agent", token=token, registration=Registration(), book=new_worker().book, now=0, wall=0
        )
    shown = [
        str(caught.value),
        repr(caught.value),
        str(caught.value.__cause__),
        *getattr(caught.value, "__notes__", []),
    ]
    assert not any("secret" in text or token in text for text in shown)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("target", ["/a gent", "/agent\u20ac", "/agent\r\nX: y", ""])
def test_a_target_that_is_none_is_our_own_error(target: str) -> None:
    with pytest.raises(LocalProtocolError):
        SignalConnection.worker(
            host="h", target=target, token="t", registration=Registration(), book=new_worker().book, now=0, wall=0
        )


# ------------------------------------------------------------------------------------ answers to the worker


@CUTS
def test_case_91_frames_glued_to_the_101_or_dripped_are_heard(cut: int) -> None:
    worker = new_worker()
    server = RawServer(worker)
    glued = switching_protocols(server.request) + frame(BINARY, registered().SerializeToString()) + frame(PING, b"p")

    for piece in pieces(glued, cut):
        server.say(piece)

    assert [type(e) for e in server.events] == [UpgradeAccepted, Registered]
    assert [f.payload for f in server.frames if f.opcode == PONG] == [b"p"]
    assert next(f.opcode for f in server.frames) == BINARY


@CUTS
def test_a_head_that_ends_in_bare_line_feeds_is_read_like_any_other(cut: int) -> None:
    worker = new_worker()
    server = RawServer(worker)
    head = switching_protocols(server.request).replace(b"\r\n", b"\n")
    wire = head + frame(BINARY, registered().SerializeToString()) + frame(BINARY, declare=2**62)

    for piece in pieces(wire, cut):
        if not worker.finished:
            server.say(piece)

    assert of_type(server.events, Registered)
    assert server.closed.code == 1009


def bad_101(**change: str) -> bytes:
    lines = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": "@", **change}
    head = "HTTP/1.1 101 Switching Protocols\r\n"
    return (head + "".join(f"{k}: {v}\r\n" for k, v in lines.items() if v) + "\r\n").encode("latin-1")


@CUTS
@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(bad_101(), id="wrong accept"),
        pytest.param(bad_101(**{"Sec-WebSocket-Accept": ""}), id="no accept"),
        pytest.param(bad_101(**{"Sec-WebSocket-Accept": "\xff\xfe"}), id="accept that is not ASCII"),
        pytest.param(bad_101(Upgrade="h2c"), id="another upgrade"),
        pytest.param(bad_101(Connection="keep-alive"), id="no connection upgrade"),
        pytest.param(bad_101(Connection="\xe9"), id="connection that is not ASCII"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"\x00" * 100, id="zeros"),
        pytest.param(b"HTTP/1.1 abc nonsense\r\n\r\n", id="no status"),
        pytest.param(b"HTTP/1.1 099 low\r\n\r\n", id="status below 100"),
        pytest.param(b"HTTP/9.9 101 future\r\n\r\n", id="another version"),
        pytest.param(b"HTTP/1.1 101 x\r\nbroken line\r\n\r\n", id="broken header"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", id="broken length"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", id="two lengths"),
        pytest.param(b"HTTP/1.1 101 x\r\n" + b"a: " + b"b" * 70_000 + b"\r\n\r\n", id="huge head"),
        pytest.param(b"HTTP/1.1 101 x\r\n" + b"a: b\r\n" * 70_000, id="endless head"),
    ],
)
def test_an_answer_that_is_no_101_and_no_refusal_is_one_handshake_error(answer: bytes, cut: int) -> None:
    if len(answer) > 60_000 and cut == 1:
        cut = 1_000
    server = answered(answer, cut)
    closed = server.closed
    assert isinstance(closed.error, HandshakeError)
    assert closed.error.retryable
    assert closed.code == 1006
    assert server.frames == []


@CUTS
@pytest.mark.parametrize(
    "extra",
    [
        "Sec-WebSocket-Protocol: chat\r\n",
        "Sec-WebSocket-Protocol: ch\xe4t\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate\r\n",
        "Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=100\r\n",
        "Sec-WebSocket-Extensions: f\xf6\xf6\r\n",
        "Sec-WebSocket-Extensions: x-unknown\r\n",
    ],
)
def test_case_8_what_was_not_offered_fails_the_connection(extra: str, cut: int) -> None:
    worker = new_worker()
    server = RawServer(worker)
    for piece in pieces(switching_protocols(server.request, extra), cut):
        if not worker.finished:
            server.say(piece)
    assert isinstance(server.closed.error, HandshakeError)
    assert server.frames == []


def test_the_same_answer_is_the_same_error_however_it_is_cut() -> None:
    for answer in (b"garbage\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\nhello", http("503 x", b"later"), b"\r\n\r\n"):
        texts = []
        for cut in (1, 3, 10**6):
            server = answered(answer, cut)
            if not server.worker.finished:
                server.eof()
            texts.append(str(server.closed))
        assert len(set(texts)) == 1, texts


@CUTS
@pytest.mark.parametrize("status", [401, 403])
def test_case_9_and_10_a_refused_token_is_an_authentication_error_without_the_token(status: int, cut: int) -> None:
    body = f"invalid token: {TOKEN}, error: signature".encode()
    server = answered(http(f"{status} Unauthorized", body), cut)
    error = server.closed.error
    assert isinstance(error, AuthenticationError)
    assert error.status == status
    assert str(status) in str(error)
    assert "error: signature" in str(error)
    for text in (str(error), repr(error), str(server.closed), error.hint):
        assert TOKEN not in text
        assert "eyJ" not in text


@CUTS
def test_case_97_a_token_that_the_body_s_bound_cuts_in_two_is_still_hidden(cut: int) -> None:
    for padding in range(2000, 2060, 7):
        body = b"." * padding + TOKEN.encode() * 3
        error = answered(http("401 x", body), cut if cut > 1 else 50).closed.error
        assert "eyJ" not in str(error)


def test_case_10_not_found_points_to_the_url() -> None:
    error = answered(http("404 Not Found", b"404 page not found")).closed.error
    assert isinstance(error, HandshakeError)
    assert error.status == 404
    assert "/agent" in error.hint


@CUTS
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 520])
def test_case_12_a_server_that_cannot_now_is_retryable(status: int, cut: int) -> None:
    error = answered(http(f"{status} x", b"<html>", "Retry-After: 7"), cut).closed.error
    assert isinstance(error, HandshakeError)
    assert (error.status, error.retry_after, error.retryable) == (status, 7.0, True)


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_case_13_a_redirect_is_not_followed(status: int) -> None:
    server = answered(http(f"{status} x", b"", f"Location: https://evil.example/?access_token={TOKEN}\r\n X: y"))
    error = server.closed.error
    assert isinstance(error, HandshakeError)
    assert error.status == status
    assert "evil.example" in str(error)
    assert TOKEN not in str(error)
    assert server.frames == []


@CUTS
def test_case_14_a_web_page_is_named_as_one(cut: int) -> None:
    error = answered(http("200 OK", b"<!doctype html>" + b"x" * 5000), cut if cut > 1 else 100).closed.error
    assert isinstance(error, HandshakeError)
    assert "not a LiveKit server" in str(error)


@pytest.mark.parametrize("status", ["100 Continue", "102 Processing", "103 Early Hints"])
def test_an_interim_answer_is_a_refusal(status: str) -> None:
    error = answered(f"HTTP/1.1 {status}\r\n\r\n".encode()).closed.error
    assert isinstance(error, HandshakeError)


def test_a_refusal_s_body_may_end_with_the_stream() -> None:
    server = answered(b"HTTP/1.1 401 x\r\nConnection: close\r\n\r\ninvalid API key: k")
    assert not server.worker.finished
    server.eof()
    error = server.closed.error
    assert isinstance(error, AuthenticationError)
    assert "does not know this API key" in error.hint


def test_a_refusal_whose_body_never_ends_is_still_that_refusal() -> None:
    server = answered(b"HTTP/1.1 401 x\r\nContent-Length: 1000\r\n\r\nabc")
    server.wait(10)
    assert isinstance(server.closed.error, AuthenticationError)


def test_a_refusal_s_endless_body_is_not_read_to_its_end() -> None:
    server = answered(b"HTTP/1.1 503 x\r\nTransfer-Encoding: chunked\r\n\r\n")
    server.say(b"800\r\n" + b"x" * 0x800 + b"\r\n800\r\n" + b"x" * 0x800)
    assert isinstance(server.closed.error, HandshakeError)


@pytest.mark.parametrize("body", [b"zz\r\n", b"-1\r\n", b"f" * 30_000])
def test_a_refusal_with_a_broken_body_keeps_its_status(body: bytes) -> None:
    server = answered(b"HTTP/1.1 401 x\r\nTransfer-Encoding: chunked\r\n\r\n" + body)
    if not server.worker.finished:
        server.eof()
    assert isinstance(server.closed.error, AuthenticationError)


def test_case_15_a_server_that_accepts_and_says_nothing_is_given_ten_seconds() -> None:
    server = RawServer(new_worker())
    assert server.wait(9.99) == []
    server.wait(0.01)
    assert isinstance(server.closed.error, HandshakeError)
    assert "10 s" in str(server.closed.error)


def test_dripped_bytes_do_not_move_the_handshake_s_deadline() -> None:
    server = RawServer(new_worker())
    for _ in range(9):
        server.say(b"", now=server.now)
        server.wait(1)
    server.say(b"HTTP/1.1 101 ")
    server.wait(1)
    assert isinstance(server.closed.error, HandshakeError)


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 101 Switching"])
def test_a_stream_that_ends_during_the_handshake(said: bytes) -> None:
    server = answered(said)
    server.eof()
    assert isinstance(server.closed.error, ConnectionLostError)
    assert "during the WebSocket handshake" in str(server.closed.error)


# ------------------------------------------------------------------------------------ requests to the server


@CUTS
def test_a_request_is_told_with_lower_case_names_and_the_first_of_repeated_headers(cut: int) -> None:
    worker = asked(upgrade_request("X-Real-IP: 1\r\nx-real-ip: 2\r\n", target="//agent?protocol=1&a=b"), cut)
    (request,) = worker.events
    assert isinstance(request, UpgradeRequested)
    assert (request.method, request.path, request.query) == ("GET", "//agent", "protocol=1&a=b")
    assert request.headers["x-real-ip"] == "1"
    assert TOKEN not in repr(request)


def test_the_101_has_three_headers() -> None:
    worker = asked(upgrade_request("Sec-WebSocket-Protocol: chat\r\nSec-WebSocket-Extensions: permessage-deflate\r\n"))
    assert worker.server.accept_upgrade(0.0)
    worker.collect()
    assert worker.head.split(b"\r\n")[1:-2]
    assert all(
        line.split(b":")[0].lower() in (b"upgrade", b"connection", b"sec-websocket-accept")
        for line in worker.head.split(b"\r\n")[1:-2]
    )
    assert header(worker.head, "sec-websocket-accept") == "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="


@CUTS
@pytest.mark.parametrize("glued", [b"\x00", frame(BINARY, b"", mask=True), b"GET / HTTP/1.1\r\n\r\n"])
def test_pipelined_bytes_end_the_connection_without_an_answer(glued: bytes, cut: int) -> None:
    worker = asked(upgrade_request() + glued, cut)
    assert isinstance(worker.closed.error, RemoteProtocolError)
    assert worker.head == b""
    assert worker.unframed == b""
    with pytest.raises(LocalProtocolError):
        worker.server.accept_upgrade(0.0)


@CUTS
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\r\n\r\n", id="blank lines"),
        pytest.param(b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + b"\n\n", id="TLS"),
        pytest.param(b"GET /agent\r\n\r\n", id="HTTP 0.9"),
        pytest.param(b"GET  /agent HTTP/1.1\r\n\r\n", id="two blanks"),
        pytest.param(b"GET /agent HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET /agent HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", id="target that is not ASCII"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: " + b"y" * 70_000 + b"\r\n\r\n", id="huge head"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 70_000, id="endless head"),
    ],
)
def test_a_request_that_is_no_http_ends_the_connection_without_an_answer(data: bytes, cut: int) -> None:
    worker = asked(data, cut if len(data) < 60_000 else max(cut, 1_000))
    assert isinstance(worker.closed.error, RemoteProtocolError)
    assert worker.closed.code == 1006
    assert (worker.head, worker.unframed) == (b"", b"")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET /agent HTTP/1.1\r\nHost: a\r\n\r\n", id="no upgrade"),
        pytest.param(b"GET /agent HTTP/1.0\r\n\r\n", id="HTTP 1.0"),
        pytest.param(upgrade_request().replace(b"Version: 13", b"Version: 12"), id="version 12"),
        pytest.param(upgrade_request().replace(b"Sec-WebSocket-Key", b"X-Key"), id="no key"),
        pytest.param(upgrade_request().replace(b"example:7880", b"xn--\xff"), id="host that is no IDNA"),
        pytest.param(upgrade_request().replace(b"Connection: Upgrade", b"Connection: \xe9"), id="not ASCII"),
        pytest.param(upgrade_request("Transfer-Encoding: chunked\r\n"), id="with a body to come"),
        pytest.param(upgrade_request("Content-Length: 5\r\n"), id="with a body announced"),
        pytest.param(upgrade_request("Sec-WebSocket-Extensions: \xe9\r\n"), id="extension that is not ASCII"),
    ],
)
def test_a_request_that_is_no_upgrade_cannot_be_accepted_but_can_be_refused(data: bytes) -> None:
    worker = asked(data)
    (request,) = worker.events
    assert isinstance(request, UpgradeRequested)
    assert not worker.server.accept_upgrade(0.0)
    assert worker.server.data_to_send() == b""
    worker.server.reject_upgrade(400, b"Bad Request", {"sec-websocket-version": "13"}, 0.0)
    worker.collect()
    assert worker.head.startswith(b"HTTP/1.1 400 ")
    assert worker.unframed == b"Bad Request"
    assert worker.closed.error is None


@pytest.mark.parametrize(
    ("method", "status", "body"), [("HEAD", 200, b""), ("GET", 204, b""), ("GET", 304, b""), ("POST", 405, b"no")]
)
def test_an_answer_without_a_body_has_none(method: str, status: int, body: bytes) -> None:
    worker = asked(f"{method} / HTTP/1.1\r\nHost: a\r\n\r\n".encode())
    worker.server.reject_upgrade(status, b"no", None, 0.0)
    worker.collect()
    assert worker.head.startswith(f"HTTP/1.1 {status} ".encode())
    assert worker.unframed == body


@pytest.mark.parametrize("headers", [{"x": "a\r\nb"}, {"bad name": "v"}, {"x": "\u20ac"}])
def test_an_answer_that_is_no_http_is_our_own_error_and_can_be_made_again(headers: dict[str, str]) -> None:
    worker = asked(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
    with pytest.raises(LocalProtocolError):
        worker.server.reject_upgrade(400, b"", headers, 0.0)
    assert worker.server.data_to_send() == b""
    worker.server.reject_upgrade(400, b"", None, 0.0)
    assert worker.server.finished


@pytest.mark.parametrize("name", ["accept", "reject"])
def test_an_upgrade_is_answered_once(name: str) -> None:
    worker = RawWorker().upgrade()
    with pytest.raises(LocalProtocolError):
        if name == "accept":
            worker.server.accept_upgrade(0.0)
        else:
            worker.server.reject_upgrade(400, b"", None, 0.0)
    assert worker.server.stage is Stage.OPEN
    assert worker.server.data_to_send() == b""


def test_a_worker_that_never_asks_is_dropped() -> None:
    worker = RawWorker()
    worker.say(b"GET /agent")
    assert worker.wait(9.9) == []
    worker.wait(0.1)
    assert isinstance(worker.closed.error, RemoteProtocolError)
    assert worker.head == b""


# ------------------------------------------------------------------------------------ broken frames


BROKEN = [
    pytest.param(frame(0x0, b"x"), 1002, id="continuation of nothing"),
    pytest.param(frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"), 1002, id="message inside a message"),
    *[pytest.param(frame(op, b"x"), 1002, id=f"opcode {op:x}") for op in (3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF)],
    *[pytest.param(frame(BINARY, b"x", rsv=r), 1002, id=f"rsv {r}") for r in (1, 2, 4)],
    pytest.param(frame(PING, b"x" * 126), 1002, id="ping of 126 bytes"),
    pytest.param(frame(PING, b"x", fin=False), 1002, id="fragmented ping"),
    pytest.param(frame(CLOSE, b"\x03\xe8", fin=False), 1002, id="fragmented close"),
    pytest.param(frame(BINARY, b"x", form=16), 1002, id="16-bit length for 1"),
    pytest.param(frame(BINARY, b"x", form=64), 1002, id="64-bit length for 1"),
    pytest.param(frame(BINARY, b"x" * 300, form=64), 1002, id="64-bit length for 300"),
    pytest.param(frame(CLOSE, b"\x03"), 1002, id="close with one byte"),
    *[
        pytest.param(frame(CLOSE, code.to_bytes(2, "big")), 1002, id=f"close {code}")
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65535)
    ],
]


@CUTS
@pytest.mark.parametrize(("wire", "code"), BROKEN)
def test_case_84_a_broken_frame_is_answered_with_1002(wire: bytes, code: int, cut: int) -> None:
    server = RawServer(new_worker()).register()
    for piece in pieces(wire, cut):
        if not server.worker.finished:
            server.say(piece)
    closed = server.closed
    assert isinstance(closed.error, RemoteProtocolError)
    assert (closed.code, closed.error.close_code) == (code, code)
    assert [f.close_code for f in server.frames] == [code]


def test_case_84_a_masked_frame_from_a_server_and_an_unmasked_one_from_a_worker_are_broken() -> None:
    server = RawServer(new_worker()).register()
    server.say(frame(BINARY, registered().SerializeToString(), mask=True))
    assert server.closed.code == 1002

    worker = RawWorker().register()
    worker.say(frame(BINARY, register().SerializeToString()))
    assert worker.closed.code == 1002
    assert [f.close_code for f in worker.frames] == [1002]


@CUTS
@pytest.mark.parametrize("text", [b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"ok\xf0\x9f"])
def test_case_82_text_that_is_not_utf8_is_1007_to_a_server_and_silence_to_a_worker(text: bytes, cut: int) -> None:
    server = RawServer(new_worker()).register()
    for piece in pieces(frame(1, text), cut):
        if not server.worker.finished:
            server.say(piece)
    assert server.closed.code == 1007
    assert [f.close_code for f in server.frames] == [1007]

    worker = RawWorker().register()
    worker.say(frame(1, text, mask=True))
    assert isinstance(worker.closed.error, RemoteProtocolError)
    assert worker.frames == []  # as the real server: the stream ends, no Close


def test_a_compressed_frame_that_was_never_negotiated_is_broken() -> None:
    # aiohttp CVE-2026-59881, undici CVE-2026-1526: bombs behind the compression bit.
    import zlib

    bomb = zlib.compress(bytes(10**6), wbits=-15)
    server = RawServer(new_worker()).register()
    server.say(frame(BINARY, bomb, rsv=4))
    assert server.closed.code == 1002


def test_nothing_is_said_after_a_fault_and_nothing_more_is_heard() -> None:
    server = RawServer(new_worker()).register()
    server.say(frame(0x3, b"x") + frame(BINARY, registered().SerializeToString()))
    assert server.closed.code == 1002
    with pytest.raises(LocalProtocolError):
        server.worker.receive_data(b"x", 0.0)
    server.worker.receive_eof(0.0)
    server.worker.handle_timeout(1000.0)
    server.worker.close(0.0)
    server.worker.drop()
    assert server.worker.events() == []
    assert server.worker.data_to_send() == b""
    assert server.worker.next_deadline() == float("inf")


def test_the_wall_clock_of_the_tests_is_what_the_events_say() -> None:
    server = RawServer(new_worker()).register()
    from .pair import offer

    (offered,) = server.say(offer(), now=1.0)
    assert offered.job.created_at.timestamp() == WALL + 1.0  # type: ignore[attr-defined]
    assert read_frames(b"") == ([], b"")
