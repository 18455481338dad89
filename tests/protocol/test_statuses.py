"""A job's statuses on the wire: order, settling, and keeping a final one until its arrival is proven."""

from __future__ import annotations

import pytest

from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.protocol import ConnectionClosed, JobBook, JobStatusReceived, MigrateReceived, StatusDelivered

from . import frames, pair
from .pair import Pair, RawServer, names, new_worker, of_type

DONE = StatusDelivered(job_id="AJ_1", status=JobStatus.SUCCESS)


def statuses(two: Pair) -> list[int]:
    """The statuses that the server has heard since the last look."""
    return [event.status for event in of_type(two.news_of_server(), JobStatusReceived)]


def again(old: Pair, serial: int, *, latency: float = 0.0) -> Pair:
    """A new connection of the same worker, after the old one went."""
    two = Pair(book=old.book, serial=serial, now=old.now, latency=latency)
    two.connect()
    two.news_of_worker()
    two.said_by_worker()
    return two


def take_on(two: Pair) -> None:
    two.server.registered("AW_2", pair.INFO, two.now)
    two.flow()


def test_a_final_status_waits_until_the_server_has_recorded_the_job() -> None:
    two = Pair().register()
    two.run()
    assert statuses(two) == [1]

    two.worker.report("AJ_1", JobStatus.SUCCESS, "", two.now)
    two.advance(0.0499)
    assert statuses(two) == []
    two.advance(0.0002)
    assert statuses(two) == [2]
    assert DONE in two.news_of_worker()


def test_a_final_status_of_a_settled_job_leaves_at_once_with_a_ping_in_the_same_write() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    server.say(pair.assignment())
    server.wait(0.05)
    server.heard()
    server.worker.report("AJ_1", JobStatus.FAILED, "boom", server.now)

    status, ping = server.heard()

    assert (status.update_job.job_id, status.update_job.status, status.update_job.error) == ("AJ_1", 3, "boom")
    assert server.worker.next_deadline() > 1  # no settle timer is left behind
    assert of_type(server.events, StatusDelivered) == []
    server.say(pair.pong(ping.ping.timestamp))
    assert StatusDelivered(job_id="AJ_1", status=JobStatus.FAILED) in server.events
    assert server.worker.book.unproven() == []


def test_only_the_pong_to_a_ping_behind_it_proves_a_status() -> None:
    server = RawServer(new_worker(book=JobBook(2))).register()
    for job_id in ("AJ_1", "AJ_2"):
        server.say(pair.offer(job_id))
        server.worker.accept(job_id, JobMetadata(), server.now)
        server.say(pair.assignment(job_id))
    server.wait(1)
    server.heard()
    server.worker.report("AJ_1", JobStatus.SUCCESS, "", server.now)
    first = server.heard()[-1].ping.timestamp
    server.worker.report("AJ_2", JobStatus.SUCCESS, "", server.now)
    second = server.heard()[-1].ping.timestamp
    assert second > first, "pings of one instant have different timestamps"

    server.say(pair.pong(0), pair.pong(second + 1), pair.pong(-1))
    assert of_type(server.events, StatusDelivered) == []
    server.say(pair.pong(second))
    server.say(pair.pong(second))
    server.say(pair.pong(first))

    assert [d.job_id for d in of_type(server.events, StatusDelivered)] == ["AJ_2", "AJ_1"]


def test_a_status_lost_with_its_connection_is_said_again_on_the_next_and_proven_there() -> None:
    two = Pair(latency=0.1).register()
    two.offer()
    two.advance(0.2)
    two.accept()
    two.advance(0.2)
    two.assign()
    two.advance(0.2)
    two.worker.report("AJ_1", JobStatus.SUCCESS, "", two.now)
    two.break_off()  # the bytes are under way
    assert statuses(two) == []
    assert DONE not in two.worker_events

    two = again(two, 2)
    take_on(two)

    assert names(two.said_by_worker()) == ["update_worker", "update_job", "ping"]
    assert DONE in two.news_of_worker()
    assert two.book.unproven() == []

    two = again(two, 3)
    take_on(two)
    assert names(two.said_by_worker()) == ["update_worker"]


def test_a_status_is_said_once_a_connection_until_a_pong_proves_it() -> None:
    worker = new_worker()
    server = RawServer(worker).register()
    server.say(pair.offer())
    worker.accept("AJ_1", JobMetadata(), 0.0)
    server.say(pair.assignment())
    worker.report("AJ_1", JobStatus.SUCCESS, "", 0.0)
    server.wait(20)
    assert names(server.heard()).count("update_job") == 1
    server.eof()

    for serial in range(2, 6):
        worker = new_worker(book=worker.book, serial=serial)
        server = RawServer(worker)
        server.upgrade().say(pair.registered())
        server.wait(9)
        assert names(server.heard()) == ["register", "update_worker", "update_job", "ping"]
        server.eof()


def test_running_and_final_keep_their_order_over_a_reconnect() -> None:
    two = Pair().register()
    two.offer()
    two.accept()
    two.assign()
    two.break_off()
    two.worker.report("AJ_1", JobStatus.RUNNING, "", two.now)

    two = again(two, 2)
    take_on(two)
    first = [m.update_job.status for m in two.said_by_worker() if m.WhichOneof("message") == "update_job"]
    two.worker.report("AJ_1", JobStatus.SUCCESS, "", two.now)
    two.flow()
    second = [m.update_job.status for m in two.said_by_worker() if m.WhichOneof("message") == "update_job"]

    assert (first, second) == ([1], [2])


def test_running_that_was_never_said_is_dropped_by_the_final_status() -> None:
    two = Pair().register()
    two.offer()
    two.accept()
    two.assign()
    two.break_off()
    two.worker.report("AJ_1", JobStatus.RUNNING, "", two.now)
    two.worker.report("AJ_1", JobStatus.FAILED, "x", two.now)

    two = again(two, 2)
    take_on(two)

    said = [m.update_job.status for m in two.said_by_worker() if m.WhichOneof("message") == "update_job"]
    assert said == [3]


def test_running_is_said_once_over_all_connections() -> None:
    two = Pair().register()
    two.run()
    two.break_off()
    for serial in (2, 3):
        two = again(two, serial)
        take_on(two)
        assert names(two.said_by_worker()) == ["update_worker", "migrate_job"]
        assert MigrateReceived(job_ids=("AJ_1",)) in two.news_of_server()
        two.break_off()


def test_statuses_of_many_jobs_are_said_again_in_the_order_they_were_decided() -> None:
    two = Pair(max_jobs=None).register()
    for number in range(5):
        two.run(f"AJ_{number}")
    two.break_off()
    for number in (3, 0, 4):
        two.worker.report(f"AJ_{number}", JobStatus.SUCCESS, "", two.now)

    two = again(two, 2)
    take_on(two)

    said = two.said_by_worker()
    assert [m.update_job.job_id for m in said if m.WhichOneof("message") == "update_job"] == ["AJ_3", "AJ_0", "AJ_4"]
    assert [list(m.migrate_job.job_ids) for m in said if m.WhichOneof("message") == "migrate_job"] == [["AJ_1", "AJ_2"]]
    assert names(said)[-1] == "ping"
    assert names(said).count("ping") == 1


def test_the_settle_time_of_a_lost_connection_does_not_hold_the_next_one_up() -> None:
    two = Pair().register()
    two.run()
    two.worker.report("AJ_1", JobStatus.SUCCESS, "", two.now)
    two.break_off()

    two = again(two, 2)
    take_on(two)
    assert "update_job" in names(two.said_by_worker())
    two.advance(1)
    assert "update_job" not in names(two.said_by_worker())


def test_case_55_a_status_leaves_before_the_close_even_if_it_has_not_settled() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    server.say(pair.assignment())
    server.heard()
    server.worker.report("AJ_1", JobStatus.SUCCESS, "", 0.01)
    assert server.heard() == []
    server.worker.set_standing(0.0, True, 0.01)
    server.worker.close(0.01)

    said = server.heard()

    assert names(said) == ["update_job"]
    assert [f.opcode for f in server.frames] == [frames.CLOSE]
    assert [r.job_id for r in server.worker.book.unproven()] == ["AJ_1"]
    assert server.wait(1) == []


def test_a_report_while_closing_or_closed_is_kept_for_the_next_connection() -> None:
    server = RawServer(new_worker(book=JobBook(2))).register()
    for job_id in ("AJ_1", "AJ_2"):
        server.say(pair.offer(job_id))
        server.worker.accept(job_id, JobMetadata(), server.now)
        server.say(pair.assignment(job_id))
    server.heard()
    server.worker.close(1.0)
    server.worker.report("AJ_1", JobStatus.SUCCESS, "", 1.0)
    server.say(frames.close())
    assert server.closed == ConnectionClosed(code=1000)
    server.worker.report("AJ_2", JobStatus.SUCCESS, "", 1.0)
    assert server.heard() == []
    assert [r.job_id for r in server.worker.book.unproven()] == ["AJ_1", "AJ_2"]


def test_case_51_an_error_s_text_is_bounded_valid_and_without_tokens() -> None:
    two = Pair().register()
    two.run()
    two.advance(1)
    two.news_of_server()
    secret = pair.TOKEN
    two.worker.report("AJ_1", JobStatus.FAILED, f"line\nnext \ud800 Bearer {secret} " + "x" * 5000, two.now)
    two.flow()
    (heard,) = of_type(two.news_of_server(), JobStatusReceived)
    assert len(heard.error) == 1000
    assert heard.error.endswith("…")
    assert heard.error.startswith("line\\nnext ? Bearer [redacted")
    assert secret not in heard.error


def test_case_50_and_53_a_second_final_status_and_status_4_cannot_be_said() -> None:
    assert [int(s) for s in JobStatus] == [0, 1, 2, 3]


@pytest.mark.parametrize("wall", [0.0, 1.8e9, 4e12])
def test_ping_timestamps_are_unique_and_do_not_go_back_with_the_clock(wall: float) -> None:
    book = JobBook(None)
    worker = new_worker(book=book)
    server = RawServer(worker).register()
    seen = []
    for number in range(20):
        job_id = f"AJ_{number}"
        server.say(pair.offer(job_id))
        worker.accept(job_id, JobMetadata(), server.now)
        server.say(pair.assignment(job_id))
        server.wait(0.05)
        worker.report(job_id, JobStatus.SUCCESS, "", server.now)
        seen += [m.ping.timestamp for m in server.heard() if m.WhichOneof("message") == "ping"]
    assert len(set(seen)) == 20
    assert seen == sorted(seen)
