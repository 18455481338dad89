"""HTTP/1.1 as a conversation: any split, every bound, no I/O."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_agent._bounds import HTTP_BODY_BYTES_MAX, HTTP_HEAD_BYTES_MAX
from livekit_agent.dispatch._http import (
    BodyAhead,
    Ended,
    Fault,
    HttpConversation,
    NeedBody,
    NeedHead,
    Request,
    Response,
    Step,
    Upgrade,
)

GET = b"GET /a?b=c HTTP/1.1\r\nHost: h\r\nX-One: 1\r\nx-one: 2\r\n\r\n"
POST = b"POST /p HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
UPGRADE = b"GET /agent HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\r\n"
OK = Response(status=200, body=b"ok")


def drive(conversation: HttpConversation, pieces: list[bytes]) -> list[Step]:
    """Feed the pieces, answer every request, and give back the steps that were more than waiting."""
    steps: list[Step] = []
    for piece in pieces:
        conversation.receive_data(piece)
        while not isinstance(step := conversation.step(), NeedHead | NeedBody):
            if isinstance(step, BodyAhead):
                continue
            steps.append(step)
            if not isinstance(step, Request):
                return steps
            conversation.respond(OK)
            if not conversation.keep_alive:
                return steps
    return steps


def test_a_request_is_read() -> None:
    (request,) = drive(HttpConversation(), [GET])
    assert isinstance(request, Request)
    assert (request.method, request.path, request.query, request.body) == ("GET", "/a", "b=c", b"")
    assert request.headers["x-one"] == "1"


def test_of_a_header_that_is_there_twice_the_first_counts_unless_it_is_a_list() -> None:
    lines = "Origin: http://a.b", "Origin:", "Connection:", "Connection: close", "connection:", "Connection: foo"
    (request,) = drive(HttpConversation(), ["\r\n".join(["GET / HTTP/1.1", "Host: h", *lines, "", ""]).encode()])
    assert isinstance(request, Request)
    assert (request.headers["origin"], request.headers["connection"]) == ("http://a.b", "close, foo")


@given(st.lists(st.integers(0, len(GET + POST + CHUNKED + UPGRADE)), max_size=20))
def test_any_split_of_a_pipeline_gives_the_same_requests(cuts: list[int]) -> None:
    data = GET + POST + CHUNKED + GET + UPGRADE
    edges = [0, *sorted(cuts), len(data)]
    pieces = [data[start:end] for start, end in pairwise(edges) if start < end]
    steps = drive(HttpConversation(), pieces)
    bodies = [step.body for step in steps if isinstance(step, Request)]
    assert bodies == [b"", b"hello", b"abc", b""]
    last = steps[-1]
    assert isinstance(last, Upgrade)
    assert last.data == UPGRADE


def test_an_upgrade_is_handed_over_with_everything_behind_it() -> None:
    conversation = HttpConversation()
    conversation.receive_data(UPGRADE + b"\x81\x00pipelined")
    step = conversation.step()
    assert isinstance(step, Upgrade)
    assert step.data == UPGRADE + b"\x81\x00pipelined"
    assert step.request.path == "/agent"


def test_an_upgrade_that_is_not_taken_comes_again_as_a_request() -> None:
    conversation = HttpConversation()
    conversation.receive_data(UPGRADE)
    assert isinstance(conversation.step(), Upgrade)
    assert isinstance(conversation.step(), Request)
    conversation.respond(OK)
    assert conversation.keep_alive
    conversation.receive_data(GET)
    assert isinstance(conversation.step(), Request)


@pytest.mark.parametrize("path", ["/agent/", "/other", "/agents"])
def test_only_the_workers_path_is_an_upgrade(path: str) -> None:
    (step,) = drive(HttpConversation(), [UPGRADE.replace(b"/agent", path.encode())])
    assert isinstance(step, Request)


def test_one_slash_of_two_is_lost() -> None:
    conversation = HttpConversation()
    conversation.receive_data(UPGRADE.replace(b"/agent", b"//agent"))
    assert isinstance(conversation.step(), Upgrade)


def test_a_head_request_gets_no_body() -> None:
    conversation = HttpConversation()
    conversation.receive_data(GET.replace(b"GET", b"HEAD"))
    conversation.step()
    answer = conversation.respond(OK)
    assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"content-length: 2" in answer.lower()
    assert answer.endswith(b"\r\n\r\n")


def test_a_client_that_waits_to_be_told_is_told_once() -> None:
    conversation = HttpConversation()
    conversation.receive_data(POST.replace(b"hello", b"").replace(b"Host: h", b"Host: h\r\nExpect: 100-continue"))
    assert isinstance(conversation.step(), BodyAhead)
    step = conversation.step()
    assert isinstance(step, NeedBody)
    assert step.send.startswith(b"HTTP/1.1 100")
    again = conversation.step()
    assert isinstance(again, NeedBody)
    assert again.send == b""
    conversation.receive_data(b"hello")
    assert isinstance(conversation.step(), Request)


def test_an_http_1_0_client_is_answered_and_let_go() -> None:
    conversation = HttpConversation()
    conversation.receive_data(b"GET / HTTP/1.0\r\n\r\n")
    assert isinstance(conversation.step(), Request)
    assert b"connection: close" in conversation.respond(OK).lower()
    assert not conversation.keep_alive


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"NOT HTTP AT ALL\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: h\r\nX: " + b"x" * HTTP_HEAD_BYTES_MAX, 431),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: nope\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % (HTTP_BODY_BYTES_MAX + 1), 413),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS hello\r\n\r\n", 400),
        (b"CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n", 405),
        (b"CONNECT elsewhere:443 HTTP/1.1\r\nHost: elsewhere:443\r\n\r\n", 405),
    ],
    ids=["no http", "no host", "endless head", "bad length", "large body", "tls", "tunnel", "tunnel elsewhere"],
)
def test_faults_are_answered_and_end_the_connection(data: bytes, status: int) -> None:
    (step,) = drive(HttpConversation(), [data])
    assert isinstance(step, Fault)
    assert step.data.startswith(b"HTTP/1.1 %d " % status)
    assert b"connection: close" in step.data.lower()


def test_a_chunked_body_is_bounded_as_it_grows() -> None:
    conversation = HttpConversation()
    conversation.receive_data(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(conversation.step(), BodyAhead)
    conversation.body_limit = 10
    assert isinstance(conversation.step(), NeedBody)
    conversation.receive_data(b"b\r\nhello world\r\n")
    step = conversation.step()
    assert isinstance(step, Fault)
    assert step.data.startswith(b"HTTP/1.1 413")


@given(st.binary(max_size=300))
def test_hostile_bytes_end_in_a_fault_an_end_or_patience(data: bytes) -> None:
    conversation = HttpConversation()
    steps = drive(conversation, [data, b""]) if data else []
    assert all(isinstance(step, Fault | Ended | Request) for step in steps)


@pytest.mark.parametrize("cut", [5, len(POST) - 2])
def test_an_end_of_file_in_the_middle_ends_the_connection(cut: int) -> None:
    steps = drive(HttpConversation(), [POST[:cut], b""])
    assert [type(step) for step in steps] == [Fault]


def test_an_end_of_file_between_requests_is_an_end() -> None:
    steps = drive(HttpConversation(), [POST, b""])
    assert [type(step) for step in steps] == [Request, Ended]
