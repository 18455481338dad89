"""Two livekit-server nodes over one Redis: jobs cross nodes; a node dies under a job; Redis restarts.

What a worker can notice of this is little, and what it cannot is written in docs/proof/real-rooms.md.
"""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import pytest
from backdrop import RealBackdrop, unique
from realserver import RealServer, free_port, skip_or_fail
from test_room_ends import Idle, Witness, server_binary
from test_scenarios import Agent, ended, until, until_heard_by

from livekit_agent import ApiError, JobContext, JobStatus, WorkerStatus, events
from livekit_agent.rooms import DisconnectReason

pytestmark = [pytest.mark.real_server, pytest.mark.timeout(120)]


class Redis:
    """A redis-server that keeps nothing."""

    def __init__(self, directory: Path) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            skip_or_fail("no redis-server: Debian's redis-server has it")
            raise AssertionError("unreachable")
        self._binary = binary
        self._directory = directory
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        argv = [self._binary, "--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        self._process = subprocess.Popen(argv, cwd=self._directory, stdout=subprocess.DEVNULL)
        time.sleep(0.1)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


class Cluster:
    """Two nodes: ``a`` and ``b``."""

    def __init__(self, binary: str, directory: Path) -> None:
        self.redis = Redis(directory)
        more = f'redis: {{address: "127.0.0.1:{self.redis.port}"}}\nregion: '
        self.a, self.b = (RealServer(binary, directory, name=f"node-{name}", more=more + name) for name in "ab")

    async def host_and_other(self, room: str) -> tuple[RealServer, RealServer]:
        """The node that a room lives at, which need not be the one that was asked for it."""

        def lives_at(node: RealServer) -> bool:
            return any(line.get("msg") == "starting RTC session" and line.get("room") == room for line in node.log())

        await until(lambda: lives_at(self.a) or lives_at(self.b))
        return (self.a, self.b) if lives_at(self.a) else (self.b, self.a)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(server_binary(), tmp_path)
    made.redis.start()
    try:
        made.a.start()
        made.b.start()
        yield made
    finally:
        made.a.kill()
        made.b.kill()
        made.redis.kill()


async def test_a_dispatch_at_one_node_reaches_a_worker_at_the_other_and_they_meet_in_the_room(cluster: Cluster) -> None:
    """Dispatched at A for a worker at B; a person comes in by A and is answered by the agent."""
    name, room = unique("crossing"), unique("room")

    class Echo(Agent):
        async def on_data_received(self, ctx: JobContext, data: bytes, participant: Any) -> None:
            await ctx.room.local_participant.publish_data(b"echo: " + data)
            ctx.shutdown("answered")

    agent = Echo()
    here, there = RealBackdrop(cluster.a), RealBackdrop(cluster.b)
    async with there.worker(agent, agent_name=name, load_calculator=Idle()) as worker:
        await there.registered(worker)
        seen = worker.events(events.JobEnded)
        async with here.join(room, "ada") as ada:
            await here.dispatch(room, name, metadata="across")
            job_id = await agent.until_running()
            assert agent.requests[0].metadata == "across"
            await until_heard_by(ada, f"agent-{job_id}")
            answers = ada.subscribe(events.DataReceived)
            await ada.local_participant.publish_data(b"hello")
            with anyio.fail_after(15):
                assert (await anext(aiter(answers))).data == b"echo: hello"
        end = await ended(seen)
        assert (end.status, end.error) == (JobStatus.SUCCESS, None)
        assert await there.job_end(job_id) == (JobStatus.SUCCESS, "")


@pytest.mark.long
async def test_a_node_dies_under_a_job_whose_worker_is_at_the_other(cluster: Cluster) -> None:
    """The worker's own connection is whole and no termination comes.  The library notices the silence and joins again
    at the node that lives, which makes the room anew: the job goes on."""
    name, room = unique("orphan"), unique("room")
    agent = Witness()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(RealBackdrop(cluster.a).join(room, "ada"))
        host, other = await cluster.host_and_other(room)
        stage = RealBackdrop(other)
        worker = await stack.enter_async_context(stage.worker(agent, agent_name=name, load_calculator=Idle()))
        await stage.registered(worker)
        worker_id = worker.worker_id
        seen = worker.events(events.JobEnded)
        await stage.dispatch(room, name)
        with anyio.fail_after(20):
            await agent.running.wait()
            await stage.until_identities(room, "ada", f"agent-{agent.job_id}")
        host.kill()
        with anyio.fail_after(60):
            news = [type(await anext(agent.subscription)) for _ in range(2)]
        assert news == [events.Reconnecting, events.Reconnected]
        assert not agent.cancelled
        assert worker.worker_id == worker_id
        agent.finish.set()
        end = await ended(seen)
        assert (end.status, end.error) == (JobStatus.SUCCESS, None)


@pytest.mark.long
async def test_the_node_that_hosts_neither_dies_and_only_its_people_are_missed(cluster: Cluster) -> None:
    """Neither the room nor the worker: who came in by it is gone when the room's node gives up waiting, and the agent,
    which notices nothing else, is alone.  Then the room closes, and that is a normal end."""
    name, room = unique("bystander"), unique("room")
    agent = Witness()
    async with AsyncExitStack() as stack:
        async with RealBackdrop(cluster.a).api() as api:
            await api.rooms.create(room, departure_timeout=1)
        async with RealBackdrop(cluster.a).join(room, "ada"):
            host, other = await cluster.host_and_other(room)
            stage = RealBackdrop(host)
            worker = await stack.enter_async_context(stage.worker(agent, agent_name=name, load_calculator=Idle()))
            await stage.registered(worker)
            worker_id = worker.worker_id
            seen = worker.events(events.JobEnded)
            await stack.enter_async_context(RealBackdrop(other).join(room, "eve"))
            await stage.dispatch(room, name)
            with anyio.fail_after(20):
                await agent.running.wait()
        await stage.until_identities(room, "eve", f"agent-{agent.job_id}")
        other.kill()
        with anyio.fail_after(60):
            end = await anext(agent.subscription)
        over = await ended(seen)
        assert (over.job.id, over.status, over.error) == (agent.job_id, JobStatus.SUCCESS, None)
        # The server terminates the job as well, on the other connection: whichever comes first is what it ended of.
        assert (end.reason, over.reason) == (DisconnectReason.ROOM_CLOSED, "room closed") or (
            over.reason == "job terminated by the server"
            and end.reason in (DisconnectReason.ROOM_CLOSED, DisconnectReason.CLIENT_INITIATED)
        )
        assert worker.worker_id == worker_id
        await until(lambda: worker.status is WorkerStatus.AVAILABLE)


async def test_redis_restarts_and_neither_worker_nor_job_notices(cluster: Cluster) -> None:
    name, room, again = unique("redis"), unique("room"), unique("room")
    finish = anyio.Event()

    async def body(ctx: JobContext) -> None:
        if ctx.job.metadata == "first":
            await finish.wait()

    agent = Agent(body)
    stage = RealBackdrop(cluster.a)
    async with stage.worker(agent, agent_name=name, max_jobs=2, load_calculator=Idle()) as worker:
        await stage.registered(worker)
        seen = worker.events(events.JobEnded, events.ConnectionLost)
        worker_id = worker.worker_id
        await stage.dispatch(room, name, metadata="first")
        job_id = await agent.until_running()
        cluster.redis.kill()
        cluster.redis.start()
        with anyio.fail_after(30):
            while True:
                # Refused or unanswered until the server has found Redis again: some 3 s.
                try:
                    await stage.dispatch(again, name, metadata="second")
                except (ApiError, TimeoutError):
                    await anyio.sleep(0.2)
                else:
                    break
        second = await ended(seen)
        assert (second.job.metadata, second.status) == ("second", JobStatus.SUCCESS)
        assert (worker.worker_id, worker.status) == (worker_id, WorkerStatus.BUSY)
        finish.set()
        first = await ended(seen)
        assert (first.job.id, first.status, first.error) == (job_id, JobStatus.SUCCESS, None)
