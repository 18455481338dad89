"""The JOB machine and the book that keeps it: every cell, places, memory."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from livekit_agent._errors import LocalProtocolError
from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.protocol import (
    JOB,
    AssignmentRefused,
    Input,
    JobBook,
    JobOffered,
    JobRecord,
    JobStage,
    MessageSkipped,
    _jobs,
    _worker_side,
    report_status,
)

from . import pair
from .pair import Pair, RawServer, new_worker, of_type

#: The shortest way to each stage.
WAY: dict[JobStage, tuple[Input, ...]] = {
    JobStage.OFFERED: (),
    JobStage.ACCEPTED: (Input.ACCEPT,),
    JobStage.DECLINED: (Input.DECLINE,),
    JobStage.LAPSED: (Input.LOST,),
    JobStage.ASSIGNED: (Input.ACCEPT, Input.ASSIGN),
    JobStage.RUNNING: (Input.ACCEPT, Input.ASSIGN, Input.RUN),
    JobStage.TERMINATING: (Input.ACCEPT, Input.ASSIGN, Input.TERMINATE),
    JobStage.ENDED: (Input.ACCEPT, Input.ASSIGN, Input.END),
}
CELLS = list(itertools.product(JobStage, Input))


def record_in(book: JobBook, stage: JobStage, job_id: str = "AJ_1") -> JobRecord:
    record = book.open(job_id, 1)
    for step in WAY[stage]:
        if step is Input.END:
            book.end(record, JobStatus.SUCCESS, "")
        else:
            book.change(record, step)
    assert record.stage is stage
    return record


@pytest.mark.parametrize(("stage", "event"), CELLS, ids=lambda v: v.name)
def test_every_cell_is_a_transition_or_our_own_error(stage: JobStage, event: Input) -> None:
    book = JobBook(5)
    record = record_in(book, stage)
    places, reserved = book.places_taken, book.reserved
    if event in JOB[stage]:
        assert record.allows(event)
        book.change(record, event)
        assert record.stage is JOB[stage][event]
        return
    assert not record.allows(event)
    with pytest.raises(LocalProtocolError, match=event.name.lower()):
        book.change(record, event)
    assert record.stage is stage
    assert (book.places_taken, book.reserved) == (places, reserved)


def test_what_ended_stays_ended() -> None:
    for stage in (JobStage.DECLINED, JobStage.LAPSED, JobStage.ENDED):
        assert set(JOB[stage].values()) <= {stage}
    assert list(JOB) == list(JobStage)
    assert {event for row in JOB.values() for event in row} == set(Input)


def test_every_transition_is_told_after_it_was_taken() -> None:
    told: list[tuple[str, Input, JobStage]] = []
    book = JobBook(5)
    book.on_change = lambda record, event: told.append((record.job_id, event, record.stage))
    record_in(book, JobStage.ENDED, "AJ_1")
    record_in(book, JobStage.DECLINED, "AJ_2")
    assert told == [
        ("AJ_1", Input.ACCEPT, JobStage.ACCEPTED),
        ("AJ_1", Input.ASSIGN, JobStage.ASSIGNED),
        ("AJ_1", Input.END, JobStage.ENDED),
        ("AJ_2", Input.DECLINE, JobStage.DECLINED),
    ]


HOLDING = (JobStage.ACCEPTED, JobStage.ASSIGNED, JobStage.RUNNING, JobStage.TERMINATING, JobStage.ENDED)


@pytest.mark.parametrize("stage", JobStage, ids=lambda s: s.name)
def test_places_are_taken_by_the_answer_and_given_back_by_release(stage: JobStage) -> None:
    book = JobBook(1)
    record = record_in(book, stage)
    assert book.places_taken == (1 if stage in HOLDING else 0)
    assert book.reserved == (1 if stage is JobStage.ACCEPTED else 0)
    assert book.open_offers == (1 if stage is JobStage.OFFERED else 0)
    assert book.full is (stage in HOLDING)
    for _ in range(2):
        book.release(record.job_id)
        assert book.places_taken == 0
    book.release("AJ_unknown")


@pytest.mark.parametrize("stage", JobStage, ids=lambda s: s.name)
def test_a_lost_connection_ends_promises_and_nothing_else(stage: JobStage) -> None:
    book = JobBook(5)
    record_in(book, stage)
    promised = stage in (JobStage.OFFERED, JobStage.ACCEPTED)
    assert book.lose_connection() == ([("AJ_1", stage)] if promised else [])
    assert book.places_taken == (1 if stage in HOLDING and not promised else 0)
    assert (book.reserved, book.open_offers) == (0, 0)


def test_unknown_and_live_and_unproven_are_told_apart() -> None:
    book = JobBook(10)
    for number, stage in enumerate(JobStage):
        record_in(book, stage, f"AJ_{number}")
    assert [r.stage for r in book.live()] == [JobStage.ASSIGNED, JobStage.RUNNING, JobStage.TERMINATING]
    assert [r.stage for r in book.unproven()] == [JobStage.ENDED]
    assert [r.stage for r in book.offered()] == [JobStage.OFFERED]
    assert [r.stage for r in book.accepted()] == [JobStage.ACCEPTED]
    assert book.get("AJ_99") is None


# ------------------------------------------------------------------------------------ memory


@pytest.fixture
def short_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jobs, "ENDED_JOBS_MAX", 10)


@pytest.mark.usefixtures("short_memory")
@pytest.mark.parametrize("order", ["prove first", "release first"])
def test_the_oldest_ended_jobs_are_forgotten_and_live_ones_never(order: str) -> None:
    book = JobBook(1000)
    live = record_in(book, JobStage.RUNNING, "AJ_live")
    for number in range(30):
        record = record_in(book, JobStage.ENDED, f"AJ_{number}")
        assert book.get(f"AJ_{number}") is record
        if order == "prove first":
            book.prove(record)
            book.release(record.job_id)
        else:
            book.release(record.job_id)
            book.prove(record)
    assert book.get("AJ_19") is None
    assert book.get("AJ_20") is not None
    assert book.get("AJ_live") is live
    assert book.places_taken == 1


@pytest.mark.usefixtures("short_memory")
def test_declined_and_lapsed_jobs_are_forgotten_too() -> None:
    book = JobBook(1000)
    for number in range(30):
        record_in(book, (JobStage.DECLINED, JobStage.LAPSED)[number % 2], f"AJ_{number}")
    assert sum(book.get(f"AJ_{n}") is not None for n in range(30)) == 10


@pytest.mark.usefixtures("short_memory")
def test_a_job_offered_again_is_not_forgotten_in_the_place_of_its_older_self() -> None:
    book = JobBook(1000)
    record_in(book, JobStage.DECLINED, "AJ_again")
    again = record_in(book, JobStage.RUNNING, "AJ_again")
    for number in range(30):
        record_in(book, JobStage.DECLINED, f"AJ_{number}")
    assert book.get("AJ_again") is again


def test_a_job_offered_again_stands_where_its_new_offer_came() -> None:
    book = JobBook(5)
    for job_id, stage in (("AJ_1", JobStage.DECLINED), ("AJ_2", JobStage.OFFERED), ("AJ_1", JobStage.OFFERED)):
        record_in(book, stage, job_id)
    assert [record.job_id for record in book.offered()] == ["AJ_2", "AJ_1"]


@pytest.mark.usefixtures("short_memory")
def test_a_server_that_proves_nothing_does_not_make_the_book_grow() -> None:
    book = JobBook(1000)
    for number in range(50):
        record = record_in(book, JobStage.ENDED, f"AJ_{number}")
        book.release(record.job_id)
    assert [r.job_id for r in book.unproven()] == [f"AJ_{n}" for n in range(40, 50)]
    assert sum(book.get(f"AJ_{n}") is not None for n in range(50)) <= 20


def test_offers_are_bounded_even_when_nobody_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_worker_side, "OFFERS_MAX", 5)
    server = RawServer(new_worker(book=JobBook(None))).register()
    for number in range(8):
        server.say(pair.offer(f"AJ_{number}"))
    assert len(of_type(server.events, JobOffered)) == 5
    assert [m.availability.job_id for m in server.heard()] == ["AJ_5", "AJ_6", "AJ_7"]
    server.worker.decline("AJ_0", 0.0)
    server.say(pair.offer("AJ_8"))
    assert len(of_type(server.events, JobOffered)) == 6


# ------------------------------------------------------------------------------------ the same cells, on the wire


def worker_with(stage: JobStage) -> RawServer:
    """A registered worker that knows AJ_1 in ``stage``."""
    server = RawServer(new_worker(book=JobBook(2))).register()
    server.say(pair.offer())
    worker = server.worker
    if stage is JobStage.DECLINED:
        worker.decline("AJ_1", 0.0)
    elif stage is not JobStage.OFFERED:
        worker.accept("AJ_1", JobMetadata(), 0.0)
    if stage is JobStage.LAPSED:
        server.wait(7.5)
    elif stage not in (JobStage.OFFERED, JobStage.ACCEPTED, JobStage.DECLINED):
        server.say(pair.assignment())
    if stage is JobStage.RUNNING:
        worker.report("AJ_1", JobStatus.RUNNING, "", 0.0)
    if stage is JobStage.TERMINATING:
        server.say(pair.termination())
    if stage is JobStage.ENDED:
        worker.report("AJ_1", JobStatus.SUCCESS, "", 0.0)
    record = worker.book.get("AJ_1")
    assert record is not None
    assert record.stage is stage
    server.wait(1)
    server.heard()
    server.frames.clear()
    server.events.clear()
    return server


ALIVE = (JobStage.ASSIGNED, JobStage.RUNNING, JobStage.TERMINATING, JobStage.ENDED)


@pytest.mark.parametrize("stage", JobStage, ids=lambda s: s.name)
def test_an_offer_of_a_job_we_know(stage: JobStage) -> None:
    server = worker_with(stage)
    events = server.say(pair.offer())
    answers = [m.availability for m in server.heard() if m.WhichOneof("message") == "availability"]
    if stage in (JobStage.DECLINED, JobStage.LAPSED):
        assert [type(e) for e in events] == [JobOffered]
        assert answers == []
    elif stage is JobStage.OFFERED:
        assert [type(e) for e in events] == [MessageSkipped]
        assert answers == []
    else:
        assert [type(e) for e in events] == [MessageSkipped]
        assert [(a.job_id, a.available, a.terminate) for a in answers] == [("AJ_1", False, False)]


@pytest.mark.parametrize("stage", JobStage, ids=lambda s: s.name)
def test_an_assignment_of_a_job_we_know(stage: JobStage) -> None:
    server = worker_with(stage)
    (event,) = server.say(pair.assignment())
    statuses = [m.update_job for m in server.heard() if m.WhichOneof("message") == "update_job"]
    if stage is JobStage.ACCEPTED:
        assert type(event).__name__ == "JobAssigned"
        assert statuses == []
    elif stage in ALIVE:
        assert isinstance(event, MessageSkipped)
        assert statuses == []
    else:
        assert isinstance(event, AssignmentRefused)
        assert [(s.job_id, s.status) for s in statuses] == [("AJ_1", 3)]


@pytest.mark.parametrize("stage", JobStage, ids=lambda s: s.name)
def test_a_termination_of_a_job_we_know(stage: JobStage) -> None:
    server = worker_with(stage)
    (event,) = server.say(pair.termination())
    heard = stage in (JobStage.ASSIGNED, JobStage.RUNNING)
    assert type(event).__name__ == ("JobTerminated" if heard else "MessageSkipped")
    assert server.heard() == []


@pytest.mark.parametrize("status", [JobStatus.RUNNING, JobStatus.SUCCESS, JobStatus.FAILED, JobStatus.PENDING])
@pytest.mark.parametrize("stage", JobStage, ids=lambda s: s.name)
def test_a_report_about_a_job_we_know(stage: JobStage, status: JobStatus) -> None:
    server = worker_with(stage)
    event = Input.RUN if status is JobStatus.RUNNING else Input.END
    crossed = stage is JobStage.TERMINATING and status is JobStatus.RUNNING
    legal = status is not JobStatus.PENDING and event in JOB[stage]
    if not legal and not crossed:
        with pytest.raises(LocalProtocolError):
            server.worker.report("AJ_1", status, "", server.now)
        assert server.heard() == []
        return
    server.worker.report("AJ_1", status, "", server.now)
    statuses = [m.update_job.status for m in server.heard() if m.WhichOneof("message") == "update_job"]
    assert statuses == ([] if crossed else [status])


@pytest.mark.parametrize("stage", JobStage, ids=lambda s: s.name)
def test_an_answer_to_an_offer_that_is_not_open_sends_nothing(stage: JobStage) -> None:
    server = worker_with(stage)
    if stage is JobStage.OFFERED:
        assert server.worker.accept("AJ_1", JobMetadata(), server.now)
        return
    assert not server.worker.accept("AJ_1", JobMetadata(), server.now)
    server.worker.decline("AJ_1", server.now, terminate=True)
    assert server.heard() == []


def server_with(stage: JobStage) -> Pair:
    """A server that knows AJ_1 in ``stage``."""
    two = Pair(max_jobs=2).register()
    two.server.offer(pair.job(), 0.0)
    if stage is JobStage.LAPSED:
        raise AssertionError("a server's book does not outlive its connection")
    if stage is not JobStage.OFFERED:
        two.flow()
        if stage is JobStage.DECLINED:
            two.worker.decline("AJ_1", 0.0)
        else:
            two.worker.accept("AJ_1", JobMetadata(), 0.0)
        two.flow()
    if stage in ALIVE:
        two.assign()
    if stage is JobStage.RUNNING:
        two.worker.report("AJ_1", JobStatus.RUNNING, "", 0.0)
    if stage is JobStage.TERMINATING:
        two.server.terminate("AJ_1", 0.0)
    if stage is JobStage.ENDED:
        two.worker.report("AJ_1", JobStatus.SUCCESS, "", 0.0)
        two.advance(1)
    if stage is not JobStage.OFFERED:
        two.flow()
    record = two.server.book.get("AJ_1")
    assert record is not None
    assert record.stage is stage
    two.news_of_server()
    two.server.data_to_send()
    return two


SERVED = [stage for stage in JobStage if stage is not JobStage.LAPSED]


@pytest.mark.parametrize("stage", SERVED, ids=lambda s: s.name)
@pytest.mark.parametrize("verb", ["offer", "assign", "terminate", "withdraw"])
def test_a_server_s_verb_about_a_job_it_knows(stage: JobStage, verb: str) -> None:
    server = server_with(stage).server
    calls = {
        "offer": lambda: server.offer(pair.job(), 0.0),
        "assign": lambda: server.assign(pair.job(), "t", 0.0),
        "terminate": lambda: server.terminate("AJ_1", 0.0),
        "withdraw": lambda: server.withdraw("AJ_1", 0.0),
    }
    legal = {
        "offer": stage is JobStage.DECLINED,
        "assign": Input.ASSIGN in JOB[stage],
        "terminate": Input.TERMINATE in JOB[stage],
        "withdraw": True,
    }[verb]
    if legal:
        calls[verb]()
        assert bool(server.data_to_send()) is (verb != "withdraw")
        return
    with pytest.raises(LocalProtocolError):
        calls[verb]()
    record = server.book.get("AJ_1")
    assert record is not None
    assert record.stage is stage
    assert server.data_to_send() == b""


@pytest.mark.parametrize("stage", SERVED, ids=lambda s: s.name)
@pytest.mark.parametrize("available", [True, False])
def test_an_answer_to_a_job_the_server_knows(stage: JobStage, available: bool) -> None:
    two = server_with(stage)
    two.server.receive_data(_masked(pair.answer("AJ_1", available)), 0.0)
    (event,) = two.server.events()
    assert type(event).__name__ == ("AvailabilityReceived" if stage is JobStage.OFFERED else "MessageSkipped")


def test_terminate_wins_over_available() -> None:
    two = server_with(JobStage.OFFERED)
    two.server.receive_data(_masked(pair.answer("AJ_1", available=True, terminate=True)), 0.0)
    (event,) = two.server.events()
    assert event.terminate  # type: ignore[attr-defined]
    with pytest.raises(LocalProtocolError):
        two.server.assign(pair.job(), "t", 0.0)


@pytest.mark.parametrize("stage", SERVED, ids=lambda s: s.name)
@pytest.mark.parametrize("status", [0, 1, 2, 3, 4, 99])
def test_a_status_of_a_job_the_server_knows(stage: JobStage, status: int) -> None:
    two = server_with(stage)
    two.server.receive_data(_masked(pair.job_status("AJ_1", status)), 0.0)
    (event,) = two.server.events()
    running = stage in (JobStage.ASSIGNED, JobStage.RUNNING, JobStage.TERMINATING)
    assert type(event).__name__ == ("JobStatusReceived" if running else "MessageSkipped")
    record = two.server.book.get("AJ_1")
    assert record is not None
    if running:
        assert (record.stage is JobStage.ENDED) is (status in (2, 3))


def test_a_verb_that_cannot_be_encoded_leaves_the_machine_where_it_was() -> None:
    two = server_with(JobStage.ACCEPTED)
    with pytest.raises(LocalProtocolError):
        two.server.assign(pair.job(), "token \ud800", 0.0)
    two.assign()  # so it can be said again, rightly


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"participant_identity": "\ud800"}, ValueError),
        ({"participant_name": 5}, TypeError),
        ({"participant_metadata": b"bytes"}, TypeError),
        ({"participant_attributes": {"k": 1}}, TypeError),
        ({"participant_attributes": {"\udfff": "v"}}, ValueError),
        ({"participant_attributes": {5: "v"}}, TypeError),
    ],
)
def test_an_answer_that_cannot_be_encoded_cannot_be_built(fields: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error, match="text"):
        JobMetadata(**fields)


def test_a_job_s_status_may_be_entered_without_any_connection() -> None:
    book = JobBook(1)
    record = record_in(book, JobStage.ASSIGNED)
    report_status(book, "AJ_1", JobStatus.RUNNING, "")
    report_status(book, "AJ_1", JobStatus.FAILED, "boom \ud800 \x00" + "x" * 5000)
    assert record.final is not None
    status, text = record.final
    assert status is JobStatus.FAILED
    assert len(text) <= 1000
    text.encode()
    with pytest.raises(LocalProtocolError):
        report_status(book, "AJ_1", JobStatus.FAILED, "again")


def _masked(message: object) -> bytes:
    from .frames import frame

    return frame(2, message.SerializeToString(), mask=True)  # type: ignore[attr-defined]
