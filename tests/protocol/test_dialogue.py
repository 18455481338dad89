"""One conversation from the upgrade to the goodbye, and the pair itself."""

from __future__ import annotations

import pytest

from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.protocol import (
    AvailabilityReceived,
    ConnectionClosed,
    JobAssigned,
    JobOffered,
    JobStatusReceived,
    JobTerminated,
    Registered,
    RegisterReceived,
    StatusDelivered,
    UpgradeAccepted,
    UpgradeRequested,
    WorkerStatusReceived,
)

from .frames import pieces
from .pair import INFO, Pair, names, of_type


@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_job_from_offer_to_goodbye(size: int) -> None:
    pair = Pair(cut=(lambda data: pieces(data, size)) if size else (lambda data: [data]))

    pair.flow()
    (request,) = pair.news_of_server()
    assert isinstance(request, UpgradeRequested)
    assert (request.method, request.path, request.query) == ("GET", "/agent", "")
    assert request.headers["authorization"].startswith("Bearer eyJ")
    assert request.headers["sec-websocket-version"] == "13"

    assert pair.server.accept_upgrade(pair.now)
    pair.flow()
    assert pair.news_of_worker() == [UpgradeAccepted()]
    (asked,) = pair.news_of_server()
    assert isinstance(asked, RegisterReceived)
    assert asked.registration.agent_name == "a"

    pair.server.registered("AW_1", INFO, pair.now)
    pair.flow()
    (registered,) = pair.news_of_worker()
    assert registered == Registered(worker_id="AW_1", server=INFO)
    assert pair.news_of_server() == [WorkerStatusReceived(full=False, load=0.0)]

    pair.offer("AJ_1")
    (offered,) = pair.news_of_worker()
    assert isinstance(offered, JobOffered)
    assert (offered.job.id, offered.job.room.name, offered.answer_by) == ("AJ_1", "r", 2.5)

    assert pair.accept("AJ_1", JobMetadata(participant_name="n", participant_attributes={"k": "v"}))
    answer, standing = pair.news_of_server()
    assert isinstance(answer, AvailabilityReceived)
    assert answer.metadata.participant_identity == "agent-AJ_1"
    assert standing == WorkerStatusReceived(full=True, load=1.0, job_count=1)

    pair.assign("AJ_1", token="the-token")
    (assigned,) = pair.news_of_worker()
    assert isinstance(assigned, JobAssigned)
    assert (assigned.token, assigned.url) == ("the-token", "")
    assert assigned.metadata == answer.metadata

    pair.worker.report("AJ_1", JobStatus.RUNNING, "", pair.now)
    pair.flow()
    assert pair.news_of_server() == [JobStatusReceived(job_id="AJ_1", status=1)]

    pair.server.terminate("AJ_1", pair.now)
    pair.flow()
    assert pair.news_of_worker() == [JobTerminated(job_id="AJ_1")]

    pair.worker.report("AJ_1", JobStatus.SUCCESS, "", pair.now)
    pair.advance(1)
    assert of_type(pair.news_of_server(), JobStatusReceived) == [JobStatusReceived(job_id="AJ_1", status=2)]
    assert StatusDelivered(job_id="AJ_1", status=JobStatus.SUCCESS) in pair.news_of_worker()

    pair.book.release("AJ_1")
    pair.worker.close(pair.now)
    pair.flow()
    assert pair.news_of_worker() == [ConnectionClosed(code=1000)]
    (closed,) = of_type(pair.news_of_server(), ConnectionClosed)
    assert closed.code == 1000
    assert pair.worker.finished
    assert pair.server.finished
    assert names(pair.said_by_worker()) == [
        "register", "update_worker", "availability", "update_worker", "update_job", "update_job", "ping",
        "update_worker",
    ]  # fmt: skip
    assert names(pair.said_by_server()) == ["register", "availability", "assignment", "termination", "pong"]


def test_latency_delays_each_direction() -> None:
    pair = Pair(latency=0.1).register()
    started = pair.now

    pair.offer()
    assert pair.news_of_worker() == []
    pair.advance(0.1)
    (offered,) = of_type(pair.news_of_worker(), JobOffered)

    assert offered.answer_by == started + 0.1 + 2.5
