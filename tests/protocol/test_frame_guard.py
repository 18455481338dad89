"""Bounds on messages: what may pass, what is refused before it is stored, and that cutting changes nothing."""

from __future__ import annotations

import tracemalloc

import pytest
from livekit.protocol import agent as pb

from livekit_agent import _bounds
from livekit_agent._errors import RemoteProtocolError
from livekit_agent.protocol import JobOffered, MessageSkipped, _frame_guard

from .frames import BINARY, CLOSE, CONTINUATION, PING, PONG, TEXT, Frame, frame, pieces
from .pair import RawServer, RawWorker, new_worker, of_type, offer, worker_status

SMALL = 1000


@pytest.fixture
def small_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 bytes and 10 fragments a message, so that the tests stay quick."""
    monkeypatch.setattr(_frame_guard, "MESSAGE_BYTES_MAX", SMALL)
    monkeypatch.setattr(_frame_guard, "FRAGMENTS_MAX", 10)


def offer_of(size: int) -> bytes:
    """An offer that serialises to exactly ``size`` bytes."""
    for filler in range(size, 0, -1):
        data = offer("AJ_1", metadata="x" * filler).SerializeToString()
        if len(data) == size:
            return data
    raise AssertionError(size)


def refused_as_too_large(peer: RawServer | RawWorker) -> None:
    closed = peer.closed
    assert closed.code == 1009
    assert isinstance(closed.error, RemoteProtocolError)
    assert closed.error.close_code == 1009
    assert [f.close_code for f in peer.frames if f.opcode == CLOSE] == [1009]


def test_a_message_of_exactly_16_mib_passes_and_one_byte_more_is_refused_at_its_header() -> None:
    full = _bounds.MESSAGE_BYTES_MAX
    assert full == 16 * 1024 * 1024
    server = RawServer(new_worker()).register()
    payload = bytes(full)  # undecodable, but that is found out only when it has passed

    assert of_type(server.say(frame(BINARY, payload)), MessageSkipped)
    assert not server.worker.finished

    server.say(frame(BINARY, declare=full + 1))
    refused_as_too_large(server)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("cut", [1, 7, 10**6])
def test_the_bound_is_the_same_for_one_frame_and_for_the_sum_of_fragments(cut: int) -> None:
    data = offer_of(SMALL)
    whole = frame(BINARY, data)
    halves = frame(BINARY, data[:400], fin=False) + frame(CONTINUATION, data[400:])
    for wire in (whole, halves):
        server = RawServer(new_worker()).register()
        for piece in pieces(wire, cut):
            server.say(piece)
        (offered,) = of_type(server.events, JobOffered)
        assert len(offered.job.metadata) > SMALL - 100

    over = frame(BINARY, data[:400], fin=False) + frame(CONTINUATION, data[400:] + b"x")
    server = RawServer(new_worker()).register()
    for piece in pieces(over, cut):
        if not server.worker.finished:
            server.say(piece)
    refused_as_too_large(server)


@pytest.mark.parametrize("declared", [_bounds.MESSAGE_BYTES_MAX + 1, 2**32, 2**62, 2**63 - 1])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_case_85_a_huge_announcement_is_refused_before_its_body(declared: int, opcode: int) -> None:
    server = RawServer(new_worker()).register()
    server.say(frame(opcode, declare=declared))
    refused_as_too_large(server)

    worker = RawWorker().register()
    worker.say(frame(opcode, declare=declared, mask=True))
    refused_as_too_large(worker)


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize("cut", [1, 10**6])
def test_case_85_endless_empty_fragments_are_refused(cut: int) -> None:
    server = RawServer(new_worker()).register()
    endless = frame(BINARY, fin=False) + frame(CONTINUATION, fin=False) * 50

    for piece in pieces(endless, cut):
        if not server.worker.finished:
            server.say(piece)

    refused_as_too_large(server)


@pytest.mark.usefixtures("small_bounds")
def test_the_fragment_that_breaks_the_bound_does_not_complete_a_message() -> None:
    server = RawServer(new_worker()).register()
    data = offer("AJ_1").SerializeToString()
    wire = frame(BINARY, data, fin=False) + frame(CONTINUATION, fin=False) * 9 + frame(CONTINUATION)

    server.say(wire)

    assert of_type(server.events, JobOffered) == []
    refused_as_too_large(server)


@pytest.mark.usefixtures("small_bounds")
def test_counts_begin_anew_with_each_message_and_control_frames_do_not_count() -> None:
    server = RawServer(new_worker()).register()
    message = frame(BINARY, b"", fin=False) + frame(PING) * 20 + frame(CONTINUATION, b"z" * 900)
    for _ in range(3):
        server.say(message)
    assert not server.worker.finished
    assert len([f for f in server.frames if f.opcode == PONG]) == 60


@pytest.mark.usefixtures("small_bounds")
@pytest.mark.parametrize(
    ("wire", "code"),
    [
        pytest.param(frame(0x3, declare=5000), 1002, id="reserved opcode"),
        pytest.param(frame(BINARY, declare=5000, rsv=4), 1002, id="reserved bit"),
        pytest.param(frame(BINARY, declare=5000, mask=True), 1002, id="masked"),
        pytest.param(frame(BINARY, declare=5000, form=64), 1009, id="length longer than needed"),
        pytest.param(frame(BINARY, declare=2**63), 1002, id="length with its first bit set"),
        pytest.param(frame(PING, declare=5000), 1002, id="long control frame"),
        pytest.param(frame(BINARY, declare=5000), 1009, id="too large and nothing else"),
        pytest.param(frame(BINARY, b"x" * 990, fin=False) + frame(BINARY, declare=5000), 1009, id="inside another"),
    ],
)
def test_a_frame_with_two_faults_is_refused_for_the_same_one_however_it_is_cut(wire: bytes, code: int) -> None:
    seen = []
    for size in (1, 2, 3, 9, 10**6):
        server = RawServer(new_worker()).register()
        for piece in pieces(wire, size):
            if not server.worker.finished:
                server.say(piece)
        seen.append((server.events, server.frames))
        assert server.closed.code == code
    assert all(str(other) == str(seen[0]) for other in seen)


def test_what_has_come_before_the_excess_in_the_same_read_is_heard() -> None:
    server = RawServer(new_worker()).register()
    server.say(offer("AJ_1"), frame(BINARY, declare=2**62))
    assert [o.job.id for o in of_type(server.events, JobOffered)] == ["AJ_1"]
    refused_as_too_large(server)


def test_a_dripped_message_is_stored_once_not_once_a_read() -> None:
    server = RawServer(new_worker()).register()
    size = 200_000
    text = "é" * (size // 2)
    server.say(frame(TEXT, text.encode()[:0], fin=False))
    tracemalloc.start()
    for piece in pieces(frame(CONTINUATION, text.encode(), fin=False), 2):
        server.worker.receive_data(piece, 0.0)
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 2 * size


def test_case_86_a_flood_of_tiny_frames_leaves_nothing_behind() -> None:
    worker = RawWorker().register()
    flood = frame(BINARY, worker_status(0.5).SerializeToString(), mask=True) * 5_000
    tracemalloc.start()
    for piece in pieces(flood, 65_536):
        worker.server.receive_data(piece, 0.0)
        assert worker.server.events()
        worker.server.data_to_send()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < 100_000


def test_the_assignment_that_a_server_may_rightly_send_is_far_below_the_bound() -> None:
    server = RawServer(new_worker()).register()
    big = offer("AJ_1", metadata="m" * 524_288, room={"metadata": "r" * 524_288}, attributes={"k": "v" * 65_000})
    (offered,) = of_type(server.say(big), JobOffered)
    assert (len(offered.job.metadata), len(offered.job.room.metadata)) == (524_288, 524_288)
    assert isinstance(offered.job.raw, pb.Job)


def test_frames_made_by_hand_say_what_they_should() -> None:
    from .frames import read_frames

    made = frame(BINARY, b"x" * 300, mask=True) + frame(TEXT, b"y" * 70_000, fin=False) + b"\x89"
    assert read_frames(made) == ([Frame(2, b"x" * 300, True, True), Frame(1, b"y" * 70_000, False)], b"\x89")
