"""Workers at the dispatch core: admission, registration, and the end of a connection."""

from __future__ import annotations

import pytest
from dispatch_world import KEY, KEYS, RawWorker, World
from livekit.protocol import agent as agent_pb

from livekit_agent.dispatch import JobForgotten, JobPhase, WorkerGone, WorkerRegistered
from livekit_agent.protocol import mint_token


def refused(worker: RawWorker) -> tuple[int, str]:
    assert worker.dropped
    return worker.status_code, worker.body.decode()


def test_a_worker_registers_and_learns_its_id_and_the_server() -> None:
    world = World(version="v")
    worker = world.connect()
    assert worker.status_code == 101

    worker.say(register=agent_pb.RegisterWorkerRequest(agent_name="a", version="1"))
    answer = worker.hear("register")
    assert answer.worker_id.startswith("AW_")
    assert len(answer.worker_id) == 15
    assert answer.server_info.node_id.startswith("ND_")
    assert (answer.server_info.protocol, answer.server_info.agent_protocol) == (17, 1)
    assert (answer.server_info.version, answer.server_info.region) == ("v", "")
    assert [event.worker.agent_name for event in world.took_place(WorkerRegistered)] == ["a"]


def test_each_registration_gets_a_new_id() -> None:
    world = World()
    first = world.worker()
    first.leave()
    assert world.worker().id != first.id


@pytest.mark.parametrize(
    ("token", "answer"),
    [
        ("junk", (401, "invalid authorization token")),
        ("", (401, "no permissions to access the room")),
        (mint_token("who", "s" * 32, wall=1_700_000_000.0, video={"agent": True}), (401, "invalid API key")),
        (
            mint_token(KEY, KEYS[KEY], wall=1_700_000_000.0, video={"roomJoin": True}),
            (401, "no permissions to access the room"),
        ),
    ],
    ids=["junk", "none", "unknown key", "no agent grant"],
)
def test_who_has_no_good_token_is_refused(token: str, answer: tuple[int, str]) -> None:
    assert refused(World().connect(token=token)) == answer


@pytest.mark.parametrize(
    "token",
    [
        mint_token(KEY, "the wrong secret, the wrong secret", wall=1_700_000_000.0, video={"agent": True}),
        mint_token(KEY, KEYS[KEY], wall=1_699_990_000.0, video={"agent": True}),
        mint_token(KEY, KEYS[KEY], wall=1_700_000_100.0, video={"agent": True}),
    ],
    ids=["wrong secret", "expired", "not yet"],
)
def test_a_refusal_does_not_repeat_the_token(token: str) -> None:
    status, body = refused(World().connect(token=token))
    assert status == 401
    assert token not in body
    assert body.startswith("invalid token: ")


def test_a_token_in_the_query_counts_when_there_is_no_header() -> None:
    world = World()
    token = mint_token(KEY, KEYS[KEY], wall=world.wall, video={"agent": True})
    assert world.connect(target=f"/agent?access_token={token}", token="").status_code == 101
    assert world.connect(target=f"/agent?access_token={token}", token="junk").status_code == 401


@pytest.mark.parametrize(
    "fields",
    [{"type": 7}, {"deployment": "a_b"}, {"deployment": "a b"}, {"deployment": "x" * 65}, {"deployment": "a\x7f"}],
    ids=str,
)
def test_a_bad_registration_is_dropped_without_a_word(fields: dict[str, object]) -> None:
    world = World()
    worker = world.connect()
    message = agent_pb.RegisterWorkerRequest(deployment=str(fields.get("deployment", "")))
    if "type" in fields:
        message.type = fields["type"]
    worker.say(register=message)
    assert worker.dropped
    assert worker.close_code is None
    assert not world.core.workers


@pytest.mark.parametrize(
    "data",
    [b"", b"\x7a\x00", b"\xff\xff", bytes.fromhex("1a0908001d0000003f2001"), "not json"],
    ids=["empty", "unknown variant", "garbage", "status before register", "text that is no JSON"],
)
def test_violations_drop_the_connection_without_a_close_frame(data: bytes | str) -> None:
    worker = World().connect()
    worker.say_raw(data)
    assert worker.dropped
    assert worker.close_code is None


def test_a_second_registration_drops_the_worker() -> None:
    world = World()
    worker = world.worker()
    worker.say(register=agent_pb.RegisterWorkerRequest())
    assert worker.dropped
    assert not world.core.workers


def test_without_registration_the_connection_lives_ten_seconds_pings_or_not() -> None:
    world = World()
    worker = world.connect()
    world.advance(9.9)
    worker.say(ping=agent_pb.WorkerPing(timestamp=5))
    assert worker.hear("pong").last_timestamp == 5
    assert not worker.dropped
    world.advance(0.1)
    assert worker.dropped
    assert worker.close_code is None


def test_an_idle_worker_is_pinged_every_ten_seconds_and_kept() -> None:
    world = World()
    worker = world.worker()
    world.advance(60)
    assert worker.pings == 6
    assert not worker.dropped


def test_a_worker_that_speaks_json_is_answered_in_json() -> None:
    worker = World().connect()
    worker.say_raw('{"register": {"agentName": "a", "newField": 1}}')
    assert '"workerId"' in worker.texts[0]
    worker.say(ping=agent_pb.WorkerPing())
    assert worker.hear("pong")


def test_a_close_is_echoed_and_ends_the_worker() -> None:
    world = World()
    worker = world.worker()
    worker.close(1000)
    assert worker.close_code == 1000
    assert worker.dropped
    assert not world.core.workers


def test_a_lost_worker_leaves_its_running_job_behind_as_it_was() -> None:
    world = World()
    worker = world.worker("a")
    world.open_room()
    world.dispatch("a")
    job = worker.take_job()

    worker.leave()
    assert world.job.phase is JobPhase.FORGOTTEN
    assert world.job.status == 1  # RUNNING, for ever
    assert [event.job.id for event in world.took_place(JobForgotten)] == [job.id]
    assert [event.worker.id for event in world.took_place(WorkerGone)] == [worker.id]


def test_after_a_reconnect_old_jobs_are_strangers() -> None:
    world = World()
    worker = world.worker("a")
    world.open_room()
    dispatch = world.dispatch("a")
    job = worker.take_job()
    worker.leave()

    again = world.worker("a")
    again.say(migrate_job=agent_pb.MigrateJobRequest(job_ids=[job.id]))
    again.report(job, "SUCCESS")
    assert world.job.phase is JobPhase.FORGOTTEN
    world.delete(dispatch)
    world.advance(10)
    assert again.silent  # no termination ever comes for it


def test_a_disconnect_by_the_server_has_no_close_frame() -> None:
    world = World()
    worker = world.worker()
    assert world.core.disconnect(worker.id, *world.times)
    world.settle()
    assert worker.dropped
    assert worker.close_code is None
    assert not world.core.disconnect(worker.id, *world.times)


def test_go_away_reaches_the_worker() -> None:
    world = World()
    worker = world.worker()
    assert world.core.go_away(worker.id, "moving", *world.times)
    world.settle()
    assert worker.hear("go_away").reason == "moving"
    assert not worker.dropped
