"""W14, W15, W19: the same bytes give the same outcome however they are cut, whatever they are, and every time."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from wsproto import frame_protocol, utilities

from livekit_agent._errors import ConnectionLostError, HandshakeError, LocalProtocolError, RemoteProtocolError
from livekit_agent.protocol import ConnectionClosed, Event, JobBook, JobOffered, Role, SignalConnection, _codec

from . import frames, pair
from .anything import VARIANTS, envelope
from .pair import INFO, REGISTRATION, TOKEN, WALL, job


@pytest.fixture(autouse=True)
def no_chance(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """wsproto draws masks and keys; here they are all the same, so that outputs can be compared byte for byte."""
    with monkeypatch.context() as patch:
        fixed = SimpleNamespace(urandom=lambda n: b"\x5a" * n)
        patch.setattr(frame_protocol, "os", fixed)
        patch.setattr(utilities, "os", fixed)
        yield


Outcome = tuple[list[str], bytes, str]


def drive_worker(pieces: list[bytes], *, answering: bool = False) -> Outcome:
    worker = SignalConnection.worker(
        host="h", target="/agent", token=TOKEN, registration=REGISTRATION, book=JobBook(3), now=0.0, wall=WALL
    )
    events: list[Event] = []
    out = worker.data_to_send()
    for piece in pieces:
        if worker.finished:
            break
        worker.receive_data(piece, 1.0)
        for event in worker.events():
            events.append(event)
            if answering and isinstance(event, JobOffered):
                worker.accept(event.job.id, pair.JobMetadata(), 1.0)
        if not answering:
            out += worker.data_to_send()
    return [repr(e) for e in events], out + worker.data_to_send(), repr(worker)


def drive_server(pieces: list[bytes]) -> Outcome:
    server = SignalConnection.server(now=0.0, wall=WALL)
    events: list[Event] = []
    out = b""
    for piece in pieces:
        if server.finished:
            break
        server.receive_data(piece, 1.0)
        new = server.events()
        events += new
        out += server.data_to_send()
    return [repr(e) for e in events], out, repr(server)


def cut(data: bytes, at: list[int]) -> list[bytes]:
    marks = [0, *sorted({mark % (len(data) + 1) for mark in at}), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(marks) if b > a]


def the_101() -> bytes:
    worker = SignalConnection.worker(
        host="h", target="/agent", token=TOKEN, registration=REGISTRATION, book=JobBook(3), now=0.0, wall=WALL
    )
    return frames.switching_protocols(worker.data_to_send())


FRAMES_TO_WORKER = st.one_of(
    st.sampled_from(
        [
            pair.offer("AJ_1"),
            pair.offer("AJ_2"),
            pair.assignment("AJ_1"),
            pair.termination("AJ_1"),
            pair.pong(5),
            pair.go_away(),
            pair.registered("AW_2"),
        ]
    ).map(lambda m: frames.frame(2, m.SerializeToString())),
    st.sampled_from([b"", b"p" * 125]).map(lambda p: frames.frame(frames.PING, p)),
    st.just(frames.frame(frames.PONG, b"x")),
    st.sampled_from(["{}", '{"pong": {"lastTimestamp": "5"}}', "\u00e9\U0001f600", "nonsense"]).map(
        lambda t: frames.frame(frames.TEXT, t.encode())
    ),
    st.binary(max_size=20).map(lambda b: frames.frame(2, b)),
    st.just(
        frames.frame(2, b"\x2a\x06", fin=False)
        + frames.frame(frames.PING)
        + frames.frame(0, b"\x0a\x04AJ_1")
    ),
    st.sampled_from(
        [
            frames.close(1001, "g\u00e9".encode()),
            frames.close(None),
            frames.frame(2, b"x", mask=True),
            frames.frame(2, declare=2**62),
            frames.frame(2, declare=2**63),
            frames.frame(3, declare=2**40),
            frames.frame(2, b"x", rsv=4),
            frames.frame(frames.CLOSE, b"\x03"),
            frames.frame(frames.TEXT, b"\xff"),
            b"\xff\xff\xff",
        ]
    ),
)  # fmt: skip
WORDS_TO_WORKER = st.lists(FRAMES_TO_WORKER, max_size=8).map(b"".join)
CUTS = st.lists(st.integers(0, 5000), max_size=12)


@given(words=WORDS_TO_WORKER, at=CUTS)
def test_w14_a_worker_hears_and_says_the_same_however_its_bytes_are_cut(words: bytes, at: list[int]) -> None:
    data = the_101() + frames.frame(2, pair.registered().SerializeToString()) + words
    whole = drive_worker([data])
    assert drive_worker([data]) == whole, "W19: the same inputs, the same outputs"
    assert drive_worker(cut(data, at)) == whole
    assert drive_worker([bytes([b]) for b in data]) == whole


@given(words=st.lists(st.sampled_from(["AJ_1", "AJ_2", "AJ_3"]), max_size=3, unique=True), at=CUTS)
def test_w14_a_worker_that_answers_answers_the_same(words: list[str], at: list[int]) -> None:
    data = the_101() + frames.frame(2, pair.registered().SerializeToString())
    data += b"".join(frames.frame(2, pair.offer(job_id).SerializeToString()) for job_id in words)
    assert drive_worker(cut(data, at), answering=True) == drive_worker([data], answering=True)


FRAMES_TO_SERVER = st.one_of(
    st.sampled_from(
        [
            pair.register(),
            pair.answer("AJ_1"),
            pair.job_status("AJ_1", 2),
            pair.worker_status(0.5),
            pair.ping(7),
            pair.migrate("AJ_1"),
            pair.simulate(),
        ]
    ).map(lambda m: frames.frame(2, m.SerializeToString(), mask=True)),
    st.sampled_from(['{"ping": {"timestamp": "5"}}', '{"register": {"agentName": "a"}}', "[", "\u00e9"]).map(
        lambda t: frames.frame(frames.TEXT, t.encode(), mask=True)
    ),
    st.binary(max_size=20).map(lambda b: frames.frame(2, b, mask=True)),
    st.sampled_from(
        [
            frames.frame(frames.PING, b"x", mask=True),
            frames.close(1000, mask=True),
            frames.close(None, mask=True),
            frames.frame(2, b"x"),
            frames.frame(2, declare=2**63, mask=True),
            frames.frame(2, declare=2**62, mask=True),
            frames.frame(2, declare=2**63),
            frames.frame(frames.TEXT, b"\xff", mask=True),
        ]
    ),
)  # fmt: skip


@given(words=st.lists(FRAMES_TO_SERVER, max_size=8).map(b"".join), at=CUTS, request_at=CUTS)
def test_w14_a_server_hears_and_says_the_same_however_its_bytes_are_cut(
    words: bytes, at: list[int], request_at: list[int]
) -> None:
    def drive(request: list[bytes], rest: list[bytes]) -> Outcome:
        server = SignalConnection.server(now=0.0, wall=WALL)
        events: list[Event] = []
        for piece in request:
            server.receive_data(piece, 1.0)
        events += server.events()
        assert server.accept_upgrade(1.0)
        out = server.data_to_send()
        for piece in rest:
            if server.finished:
                break
            server.receive_data(piece, 1.0)
            for event in server.events():
                events.append(event)
                if type(event).__name__ == "RegisterReceived" and not server.finished:
                    # A decision between two reads would depend on the cut; the answer to the upgrade does not.
                    continue
            out += server.data_to_send()
        return [repr(e) for e in events], out, repr(server)

    request = frames.upgrade_request()
    whole = drive([request], [words] if words else [])
    assert drive(cut(request, request_at), cut(words, at)) == whole
    assert drive([bytes([b]) for b in request], [bytes([b]) for b in words]) == whole


ANSWERS = st.one_of(
    st.binary(max_size=200),
    st.binary(max_size=100).map(lambda b: b"HTTP/1.1 " + b),
    st.lists(
        st.sampled_from(
            [b"HTTP/1.1 ", b"101 x\r\n", b"200 OK\r\n", b"401 x\r\n", b"103 x\r\n", b"Content-Length: 3\r\n",
             b"Transfer-Encoding: chunked\r\n", b"Connection: Upgrade\r\n", b"Upgrade: websocket\r\n", b"\r\n", b"\n",
             b"abc", b"3\r\nabc\r\n0\r\n\r\n", b"Sec-WebSocket-Extensions: \xff\r\n", b"Location: x\r\n", b":\r\n"]
        ),
        max_size=12,
    ).map(b"".join),
)  # fmt: skip


@given(answer=ANSWERS, at=CUTS)
def test_any_answer_to_an_upgrade_is_one_typed_error_however_it_is_cut(answer: bytes, at: list[int]) -> None:
    outcomes = []
    for pieces in ([answer] if answer else [], cut(answer, at), [bytes([b]) for b in answer]):
        worker = SignalConnection.worker(
            host="h", target="/agent", token=TOKEN, registration=REGISTRATION, book=JobBook(1), now=0.0, wall=WALL
        )
        worker.data_to_send()
        for piece in pieces:
            if not worker.finished:
                worker.receive_data(piece, 1.0)
        worker.receive_eof(1.0)
        (closed,) = worker.events()
        assert isinstance(closed, ConnectionClosed)
        assert isinstance(closed.error, ConnectionLostError | HandshakeError | Exception)
        assert type(closed.error).__module__.startswith("livekit_agent")
        assert worker.data_to_send() == b""
        outcomes.append(repr(closed))
    assert len(set(outcomes)) == 1, outcomes


REQUESTS = st.binary(max_size=300) | st.binary(max_size=60).map(lambda b: b"GET /agent HTTP/1.1\r\n" + b)


@given(data=REQUESTS, at=CUTS)
def test_any_request_is_a_request_or_one_typed_error_however_it_is_cut(data: bytes, at: list[int]) -> None:
    whole = drive_server([data] if data else [])
    assert drive_server(cut(data, at)) == whole
    assert drive_server([bytes([b]) for b in data]) == whole


@settings(max_examples=200)
@given(data=st.binary(max_size=400))
def test_w15_any_bytes_to_a_registered_worker_end_at_most_in_one_documented_error(data: bytes) -> None:
    server = pair.RawServer(pair.new_worker()).register()
    events = server.say(data) if data else []
    if not server.worker.finished:
        events += server.eof()
    closed = server.closed
    assert isinstance(closed.error, RemoteProtocolError | ConnectionLostError)
    if events:
        with pytest.raises(LocalProtocolError):
            server.worker.receive_data(b"x", 1.0)


@given(payload=st.binary(max_size=300), speaker=st.sampled_from(Role))
def test_w15_any_payload_is_decoded_or_undecodable(payload: bytes, speaker: Role) -> None:
    for form in (payload, payload.decode("latin-1")):
        with contextlib.suppress(_codec.Undecodable):
            _codec.decode(speaker, form, wall=WALL)


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["JT_ROOM", "9223372036854775808", "-1", "1e5", "NaN", "Infinity", "2027-01-01T00:00:00Z"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["register", "availability", "assignment", "termination", "pong", "goAway", "update_worker", "updateJob",
             "ping", "job", "room", "participant", "id", "type", "state", "startedAt", "attributes", "metadata", "load",
             "status", "jobId", "jobIds", "token", "tracks", "permission", "canPublishSources", "kind", "joinedAt",
             "creationTimeMs", "@type", "serverInfo", "kindDetails", "version"]
        ),
        inner,
        max_size=4,
    ),
    max_leaves=12,
)  # fmt: skip


@settings(max_examples=300)
@given(value=JSON, speaker=st.sampled_from(Role))
def test_w15_any_json_is_decoded_or_undecodable(value: object, speaker: Role) -> None:
    import json

    with contextlib.suppress(_codec.Undecodable):
        _codec.decode(speaker, json.dumps(value), wall=WALL)


def test_a_whole_conversation_twice_gives_the_same_bytes() -> None:
    def once() -> tuple[bytes, list[str]]:
        two = pair.Pair().register()
        two.run()
        two.worker.report("AJ_1", pair.JobStatus.SUCCESS, "", two.now)
        two.advance(60)
        two.worker.close(two.now)
        two.flow()
        wire = b"".join(f.payload for lane in (two.to_server, two.to_worker) for f in lane.frames)
        return wire, [repr(e) for e in two.worker_events + two.server_events]

    assert once() == once()
    assert job().id == "AJ_1"
    assert INFO.protocol == 17


@pytest.mark.parametrize(("role", "variant"), VARIANTS, ids=lambda value: str(getattr(value, "name", value)).lower())
@settings(max_examples=25)
@given(data=st.data(), at=CUTS, in_frames=st.integers(1, 4), json=st.booleans())
def test_w14_any_message_is_heard_the_same_however_its_bytes_are_cut(
    role: Role, variant: str, data: st.DataObject, at: list[int], in_frames: int, json: bool
) -> None:
    message = data.draw(envelope(role, variant))
    payload = _codec.serialize(message, json=json)
    raw = payload.encode() if isinstance(payload, str) else payload
    size = -(-len(raw) // in_frames) or 1
    parts = [raw[start : start + size] for start in range(0, len(raw), size)] or [b""]
    opcodes = [frames.TEXT if json else 2, *[0] * (len(parts) - 1)]
    words = b"".join(
        frames.frame(opcode, part, fin=part is parts[-1], mask=role is Role.WORKER)
        for opcode, part in zip(opcodes, parts, strict=True)
    )
    if role is Role.SERVER:
        head = the_101() + frames.frame(2, pair.registered().SerializeToString())
        whole = drive_worker([head + words])
        assert drive_worker(cut(head + words, at)) == whole
        assert drive_worker([head, *(bytes([byte]) for byte in words)]) == whole
    else:
        whole = drive_registered([words])
        assert drive_registered(cut(words, at)) == whole
        assert drive_registered([bytes([byte]) for byte in words]) == whole


def drive_registered(pieces: list[bytes]) -> Outcome:
    """A server with a registered worker that has one job offered and one assigned."""
    server = SignalConnection.server(now=0.0, wall=WALL)
    server.receive_data(frames.upgrade_request(), 0.0)
    assert server.accept_upgrade(0.0)
    server.receive_data(frames.frame(2, pair.register().SerializeToString(), mask=True), 0.0)
    server.registered("AW_1", INFO, 0.0)
    for job_id in ("AJ_1", "AJ_2"):
        server.offer(job(job_id), 0.0)
    server.receive_data(frames.frame(2, pair.answer("AJ_1").SerializeToString(), mask=True), 0.0)
    server.assign(job("AJ_1"), "t", 0.0)
    events = server.events()
    out = server.data_to_send()
    for piece in pieces:
        if server.finished:
            break
        server.receive_data(piece, 1.0)
        events += server.events()
        out += server.data_to_send()
    return [repr(event) for event in events], out, repr(server)
