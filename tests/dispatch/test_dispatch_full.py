"""What the dispatch server does when it has enough."""

from __future__ import annotations

import time
from typing import Any

import pytest
from dispatch_world import World
from livekit.protocol import agent as agent_pb
from livekit.protocol import models as models_pb

from livekit_agent import ResourceExhaustedError, RoomConnectError
from livekit_agent.api import ApiError, LiveKitAPI
from livekit_agent.dispatch import DispatchServer, _core, _launches
from livekit_agent.dispatch._events import JobLost, JobPhase
from livekit_agent.protocol import mint_token


def test_only_jobs_that_are_over_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_launches, "SERVER_JOBS_MAX", 3)
    world = World()
    worker = world.worker("a")
    world.open_room()
    jobs = []
    for number in range(6):
        world.dispatch("a")
        jobs.append(worker.take_job(f"agent-{number}"))
        if number in (1, 3):
            worker.report(jobs[-1], "SUCCESS")
    # Four run, which is more than the bound, and none of them is forgotten; of the ended ones none is left.
    assert [job.id for job in world.jobs] == [jobs[n].id for n in (0, 2, 4, 5)]
    assert {job.phase for job in world.jobs} == {JobPhase.RUNNING}


def test_jobs_that_are_forgotten_are_forgotten_by_their_dispatch_and_their_room_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_launches, "SERVER_JOBS_MAX", 3)
    world = World()
    worker = world.worker("a", type=agent_pb.JT_PARTICIPANT)
    world.open_room()
    dispatch = world.dispatch("a")
    world.join("always there")
    first = worker.take_job("agent-0")
    world.join("agent-0", kind="AGENT")
    for number in range(1, 50):
        world.join(f"visitor-{number}")
        # Its agent never comes into the room.
        worker.report(worker.take_job(f"agent-{number}"), "FAILED")
        world.leave(f"visitor-{number}")
        assert len(dispatch.jobs) <= 6
        assert len(world.core._rooms["r"].agents) <= 6
    assert dispatch.jobs[0].id == first.id
    world.leave("agent-0")
    assert worker.hear("termination").job_id == first.id


async def test_a_room_has_so_many_dispatches_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "DISPATCHES_PER_ROOM_MAX", 3)
    world = World()
    world.open_room()  # its implicit one is the first
    world.dispatch("a")
    third = world.dispatch("b")
    with pytest.raises(ResourceExhaustedError) as caught:
        world.dispatch("c")
    assert (caught.value.resource, caught.value.limit) == ("dispatches", 3)
    world.delete(third)
    world.dispatch("c")
    async with DispatchServer() as server, LiveKitAPI(server.url, server.api_key, server.api_secret) as api:
        for name in "ab":
            await api.dispatch.create("r", name)
        with pytest.raises(ApiError) as refused:
            await api.dispatch.create("r", "c")
        assert (refused.value.status, refused.value.twirp_code) == (429, "resource_exhausted")


def test_a_simulated_job_waits_ten_seconds_for_its_answer() -> None:
    world = World()
    worker = world.worker("a")
    worker.say(simulate_job=agent_pb.SimulateJobRequest(room=models_pb.Room(name="r")))
    worker.hear_offer()
    world.advance(9.99)
    assert world.job.phase is JobPhase.OFFERED
    world.advance(0.01)
    assert world.job.phase is JobPhase.LOST
    (lost,) = world.took_place(JobLost)
    assert lost.reason == "no answer in time"


def test_a_job_that_no_worker_has_a_place_for_is_lost_with_the_number_of_the_full() -> None:
    world = World()
    for full in (True, True, False):
        standing = agent_pb.UpdateWorkerStatus(status=int(full), load=1.0 if full else 0.7)
        world.worker("a").say(update_worker=standing)
    world.open_room()
    world.dispatch("a")
    lost = world.took_place(JobLost)[-1]
    assert lost.reason == "no worker is available below the target load (2 of 3 full)"


async def test_a_list_of_agents_is_no_longer_than_a_room_may_have_dispatches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_core, "DISPATCHES_PER_ROOM_MAX", 3)
    async with DispatchServer() as server, LiveKitAPI(server.url, server.api_key, server.api_secret) as api:
        with pytest.raises(ApiError) as refused:
            await api.rooms.create("r", agents=list("abcd"))
        assert (refused.value.status, refused.value.twirp_code) == (429, "resource_exhausted")
        agents = [{"agentName": name} for name in "abcd"]
        with pytest.raises(RoomConnectError, match="too many dispatches"):
            await server.rooms.connect("", _joining(server, {"agents": agents}))
        assert server.rooms.list_rooms() == []
        async with await server.rooms.connect("", _joining(server, {"agents": agents[:3]})):
            assert [dispatch.agent_name for dispatch in await api.dispatch.list("r")] == list("abc")


@pytest.mark.parametrize(
    "config",
    [
        {"agents": 5},
        {"agents": [{"agentName": "a"}, 1]},
        {"emptyTimeout": "x"},
        {"\ud800": 1, "agents": [{"agentName": "a"}]},
    ],
)
async def test_a_token_whose_room_configuration_nobody_can_read_is_refused_as_by_a_real_server(config: Any) -> None:
    async with DispatchServer() as server:
        with pytest.raises(RoomConnectError, match=r"401 Unauthorized.*roomConfig"):
            await server.rooms.connect("", _joining(server, config))
        assert server.rooms.list_rooms() == []


def _joining(server: DispatchServer, room_config: dict[str, object]) -> str:
    grants = {"roomJoin": True, "room": "r"}
    return mint_token(
        server.api_key, server.api_secret, wall=time.time(), video=grants, identity="i", room_config=room_config
    )
