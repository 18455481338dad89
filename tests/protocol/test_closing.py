"""What happens after somebody has said goodbye, and to peers that misuse our patience."""

from __future__ import annotations

import pytest

from livekit_agent._errors import ConnectionLostError, LocalProtocolError, RemoteProtocolError
from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.protocol import (
    AnswerExpired,
    AssignmentLapsed,
    ConnectionClosed,
    JobBook,
    JobStage,
    Stage,
    StatusDelivered,
    _connection,
    _jobs,
    _worker_side,
)

from . import frames, pair
from .pair import Pair, RawServer, RawWorker, new_worker, of_type

BROKEN = {
    "reserved opcode": frames.frame(3, b"x"),
    "bad close code": frames.frame(frames.CLOSE, b"\x00\x01"),
    "text that is not UTF-8": frames.frame(frames.TEXT, b"\xff"),
    "too large": frames.frame(2, declare=2**62),
}


@pytest.mark.parametrize("wire", BROKEN.values(), ids=BROKEN)
def test_a_broken_frame_while_a_worker_closes_ends_it_without_a_second_close(wire: bytes) -> None:
    server = RawServer(new_worker()).register()
    server.worker.close(0.0)
    server.say(wire)
    assert isinstance(server.closed.error, RemoteProtocolError)
    assert [f.close_code for f in server.frames] == [1000]


@pytest.mark.parametrize("wire", [frames.frame(2, b"x"), frames.frame(2, declare=2**62, mask=True)])
def test_a_broken_frame_while_a_server_closes_ends_it_without_a_second_close(wire: bytes) -> None:
    worker = RawWorker().register()
    worker.server.close(0.0)
    worker.say(wire)
    assert isinstance(worker.closed.error, RemoteProtocolError)
    assert [f.close_code for f in worker.frames] == [1000]


def test_garbage_messages_while_closing_are_skipped_and_then_end_it() -> None:
    server = RawServer(new_worker()).register()
    server.worker.close(0.0)
    for _ in range(4):
        server.say(frames.frame(2, b"\xff" * 10))
    assert isinstance(server.closed.error, RemoteProtocolError)
    assert [f.close_code for f in server.frames] == [1000]


def test_both_sides_close_at_once() -> None:
    two = Pair(latency=0.1).register()
    two.worker.close(two.now)
    two.server.close(two.now, 1001)
    two.advance(1)
    (worker_end,) = of_type(two.worker_events, ConnectionClosed)
    (server_end,) = of_type(two.server_events, ConnectionClosed)
    assert (worker_end.code, worker_end.error) == (1001, None)
    assert (server_end.code, server_end.error) == (1000, None)
    assert sum(f.opcode == frames.CLOSE for f in two.to_server.frames) == 1
    assert sum(f.opcode == frames.CLOSE for f in two.to_worker.frames) == 1


def test_closing_lets_no_timer_of_an_offer_fire_and_lapses_it_at_the_end() -> None:
    two = Pair(max_jobs=3).register()
    two.offer("AJ_1")
    two.offer("AJ_2")
    two.accept("AJ_2")
    two.news_of_worker()
    two.worker.close(two.now)
    assert two.worker.next_deadline() == two.now + 2.0
    assert not two.worker.accept("AJ_1", JobMetadata(), two.now)
    two.worker.decline("AJ_1", two.now)
    two.flow()
    assert two.news_of_worker() == [
        AnswerExpired(job_id="AJ_1"),
        AssignmentLapsed(job_id="AJ_2"),
        ConnectionClosed(code=1000),
    ]


def test_what_is_left_is_still_there_to_be_written_after_the_end() -> None:
    worker = new_worker()
    server = RawServer(worker).register()
    worker.receive_data(frames.close(1008, b"policy"), 0.0)
    assert worker.finished
    assert frames.read_frames(worker.data_to_send())[0][0].close_code == 1008
    assert worker.data_to_send() == b""
    assert [type(e) for e in worker.events()] == [ConnectionClosed]
    assert worker.events() == []
    with pytest.raises(LocalProtocolError):
        server.say(b"x")


def test_the_end_comes_after_everything_that_was_heard_before_it() -> None:
    server = RawServer(new_worker(book=JobBook(2))).register()
    events = server.say(pair.offer("AJ_1"), frames.frame(2, b"\xff" * 9), pair.registered(), frames.frame(5))
    kinds = [type(e).__name__ for e in events]
    assert kinds == ["JobOffered", "MessageSkipped", "MessageSkipped", "AnswerExpired", "ConnectionClosed"]


def test_a_peer_that_sends_and_does_not_read_is_given_up_before_our_answers_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_connection, "OUTBOX_BYTES_MAX", 10_000)
    worker = new_worker()
    server = RawServer(worker).register()
    flood = frames.frame(frames.PING, b"x" * 125) * 20
    reads = 0
    while not worker.finished:
        worker.receive_data(flood, 0.0)
        reads += 1
    assert reads < 10
    server.events += worker.events()
    assert isinstance(server.closed.error, ConnectionLostError)
    assert "does not read" in str(server.closed.error)


def test_a_peer_that_reads_may_send_as_much_as_it_likes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_connection, "OUTBOX_BYTES_MAX", 10_000)
    server = RawServer(new_worker()).register()
    for _ in range(100):
        server.say(frames.frame(frames.PING, b"x" * 125) * 20)
    assert not server.worker.finished


def test_a_server_that_answers_no_worker_ping_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker_side, "ENDED_JOBS_MAX", 10)
    monkeypatch.setattr(_jobs, "ENDED_JOBS_MAX", 10)
    server = RawServer(new_worker(book=JobBook(1))).register()
    worker = server.worker
    for number in range(60):
        job_id = f"AJ_{number}"
        server.say(pair.offer(job_id))
        assert worker.accept(job_id, JobMetadata(), server.now)
        server.say(pair.assignment(job_id))
        server.wait(0.05)
        worker.report(job_id, JobStatus.SUCCESS, "", server.now)
        worker.book.release(job_id)
    assert len(worker._proofs) <= 10
    assert len(worker.book.unproven()) <= 10
    last = [m.ping.timestamp for m in server.heard() if m.WhichOneof("message") == "ping"][-1]
    server.say(pair.pong(last))
    assert [d.job_id for d in of_type(server.events, StatusDelivered)] == ["AJ_59"]


def test_a_watcher_of_the_book_sees_each_transition_with_its_outcome() -> None:
    two = Pair().register()
    seen: list[tuple[JobStage, object]] = []
    two.book.on_change = lambda record, event: seen.append((record.stage, record.final))
    two.run()
    two.worker.report("AJ_1", JobStatus.FAILED, "boom", two.now)
    assert seen == [
        (JobStage.ACCEPTED, None),
        (JobStage.ASSIGNED, None),
        (JobStage.RUNNING, None),
        (JobStage.ENDED, (JobStatus.FAILED, "boom")),
    ]


@pytest.mark.parametrize("stage", [Stage.OPEN, Stage.REGISTERING, Stage.REGISTERED])
def test_a_worker_that_leaves_politely_is_told_apart_from_one_that_vanishes(stage: Stage) -> None:
    def worker_in_stage() -> RawWorker:
        worker = RawWorker().upgrade()
        if stage is not Stage.OPEN:
            worker.say(pair.register())
        if stage is Stage.REGISTERED:
            worker.server.registered("AW_1", pair.INFO, 0.0)
        worker.collect()
        worker.frames.clear()
        return worker

    polite = worker_in_stage()
    polite.say(frames.close(1000, b"bye", mask=True))
    assert (polite.closed.code, polite.closed.reason) == (1000, "bye")
    assert [f.payload for f in polite.frames] == [b"\x03\xe8"]
    assert isinstance(polite.closed.error, ConnectionLostError)

    gone = worker_in_stage()
    gone.eof()
    assert gone.closed.code == 1006
    assert gone.frames == []
