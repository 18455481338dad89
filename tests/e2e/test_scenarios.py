"""One set of scenarios on both servers and both backends: what a worker, its jobs and the people in the room observe.

Each scenario uses names of its own, so the real server is shared, except by those that kill it.  Where the real server
takes its time (a cold cache records a job after 5 s), the wait is for the state, never for a while.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from backdrop import both_servers, unique

from livekit_agent import (
    AuthenticationError,
    BaseHandler,
    Job,
    JobContext,
    JobMetadata,
    JobStatus,
    JobType,
    Reject,
    WorkerStatus,
    events,
)
from livekit_agent.api import ApiError
from livekit_agent.rooms import Room

pytestmark = pytest.mark.timeout(90)


backdrop = both_servers("shared_real_server")
mortal_backdrop = both_servers("own_real_server")


LEFT = "agent worker left the room"
"""What a server writes down when an agent's participant goes while its job runs."""


class Agent(BaseHandler):
    """Remembers what it was told; ``body`` is what the job does."""

    def __init__(self, body: Callable[[JobContext], Awaitable[None]] | None = None) -> None:
        self.body = body
        self.requests: list[Job] = []
        self.contexts: dict[str, JobContext] = {}
        self.terminated: list[str] = []
        self.joined: list[tuple[str, str]] = []
        self.published: list[tuple[str, str]] = []
        self.running = anyio.Event()
        self.job_id = ""

    async def on_job_request(self, job: Job) -> JobMetadata | Reject | bool | None:
        self.requests.append(job)
        return True

    async def on_job_assigned(self, ctx: JobContext) -> None:
        self.job_id = ctx.job.id
        self.contexts[ctx.job.id] = ctx
        self.running.set()
        if self.body is not None:
            await self.body(ctx)
        else:
            await anyio.sleep_forever()

    async def on_job_terminated(self, job_id: str) -> None:
        self.terminated.append(job_id)

    async def on_participant_joined(self, ctx: JobContext, participant: Any) -> None:
        self.joined.append((ctx.job.id, participant.identity))

    async def on_track_published(self, ctx: JobContext, publication: Any, participant: Any) -> None:
        self.published.append((ctx.job.id, participant.identity))

    async def until_running(self) -> str:
        with anyio.fail_after(15):
            await self.running.wait()
        return self.job_id


async def until(condition: Callable[[], bool], timeout: float = 15) -> None:
    """Poll: for what has no event to wait for."""
    with anyio.fail_after(timeout):
        while not condition():  # noqa: ASYNC110
            await anyio.sleep(0.01)


async def until_heard_by(room: Room, identity: str) -> None:
    """Before somebody is active a real server throws away what is sent to it."""
    await room.wait_for_participant(identity, active=True, timeout=15)


async def ended(worker_events: Any) -> events.JobEnded:
    with anyio.fail_after(20):
        async for event in worker_events:
            if isinstance(event, events.JobEnded):
                return event
    raise AssertionError("the worker's events ended first")


async def until_recorded_as_left(stage: Any, end: events.JobEnded) -> None:
    """The server noticed that the agent had gone while its job ran.

    It first sends the worker a termination and then writes the end down (livekit-server, pkg/agent/worker.go,
    ``TerminateJob``); between the two a fast worker's report is now and then the first, and what it says is written.
    """
    recorded = await stage.job_end(end.job.id)
    reported = (end.status, "" if end.status is JobStatus.SUCCESS else end.reason)
    assert recorded == (JobStatus.FAILED, LEFT) or (stage.real and recorded == reported)


async def test_a_worker_registers_and_leaves(backdrop: Any) -> None:
    async with backdrop as stage:
        worker = stage.worker(Agent(), agent_name=unique("register"))
        assert worker.status is WorkerStatus.DISCONNECTED
        async with worker:
            assert worker.status is WorkerStatus.AVAILABLE
            assert worker.worker_id.startswith("AW_")
            await stage.registered(worker)
        assert worker.status is WorkerStatus.CLOSED


async def test_a_named_dispatch_runs_and_its_success_is_recorded_although_the_agent_leaves(backdrop: Any) -> None:
    name, room = unique("named"), unique("room")

    async def body(ctx: JobContext) -> None:
        assert ctx.room.name == room
        assert ctx.room.local_participant.identity == f"agent-{ctx.job.id}"

    async with backdrop as stage:
        agent = Agent(body)
        worker = stage.worker(agent, agent_name=name)
        async with worker:
            await stage.registered(worker)
            seen = worker.events(events.JobEnded)
            await stage.create_room(room)
            dispatch_id = await stage.dispatch(room, name, metadata='{"order": 66}')
            end = await ended(seen)
            assert (end.status, end.error) == (JobStatus.SUCCESS, None)
            assert await stage.job_end(end.job.id) == (JobStatus.SUCCESS, "")
            await stage.until_identities(room)
    [job] = agent.requests
    assert (job.type, job.room.name, job.agent_name, job.dispatch_id) == (JobType.ROOM, room, name, dispatch_id)
    assert job.metadata_json() == {"order": 66}
    assert job.participant is None
    assert agent.terminated == [job.id]


async def test_an_unnamed_worker_gets_every_new_room(backdrop: Any) -> None:
    room = unique("room")

    async def body(ctx: JobContext) -> None:
        return None

    async with backdrop as stage:
        agent = Agent(body)
        worker = stage.worker(agent)
        async with worker:
            await stage.registered(worker)
            seen = worker.events(events.JobEnded)
            await stage.create_room(room)
            end = await ended(seen)
            assert end.job.room.name == room
            assert await stage.job_end(end.job.id) == (JobStatus.SUCCESS, "")


async def test_a_participant_job_runs_for_each_person_who_joins(backdrop: Any) -> None:
    name, room = unique("participant"), unique("room")
    async with backdrop as stage:
        agent = Agent()
        worker = stage.worker(agent, agent_name=name, job_type=JobType.PARTICIPANT, max_jobs=None)
        async with worker:
            await stage.registered(worker)
            await stage.create_room(room, name)
            async with stage.join(room, "ada"):
                await until(lambda: len(agent.contexts) == 1)
                async with stage.join(room, "grace"):
                    await until(lambda: len(agent.contexts) == 2)
                    assert sorted(job.participant.identity for job in agent.requests) == ["ada", "grace"]
                    assert {job.type for job in agent.requests} == {JobType.PARTICIPANT}
                    for job in agent.requests:
                        await until(lambda job=job: {(job.id, "ada"), (job.id, "grace")} <= set(agent.joined))
            report = await worker.stop(timeout=0)
            assert len(report.cancelled) == 2


async def test_a_publisher_job_runs_when_somebody_publishes(backdrop: Any) -> None:
    from livekit_agent.rooms import AudioSource

    name, room = unique("publisher"), unique("room")
    async with backdrop as stage:
        agent = Agent()
        worker = stage.worker(agent, agent_name=name, job_type=JobType.PUBLISHER)
        async with worker:
            await stage.registered(worker)
            await stage.create_room(room, name)
            async with stage.join(room, "ada") as ada:
                source = AudioSource(sample_rate=48_000, num_channels=1)
                publication = await ada.local_participant.publish_audio(source, name="microphone")
                job_id = await agent.until_running()
                [job] = agent.requests
                assert job.type is JobType.PUBLISHER
                assert job.participant is not None
                assert job.participant.identity == "ada"
                await until(lambda: (job_id, "ada") in agent.published)
                await ada.local_participant.unpublish_track(publication.sid)
            await worker.stop(timeout=0)


async def test_a_declined_job_is_offered_to_the_next_worker(backdrop: Any) -> None:
    name, room = unique("decline"), unique("room")
    asked: list[str] = []

    class Fussy(Agent):
        async def on_job_request(self, job: Job) -> JobMetadata | Reject | bool | None:
            asked.append(job.id)
            return len(asked) > 1

    async with backdrop as stage:
        first, second = Fussy(), Fussy()
        one, two = stage.worker(first, agent_name=name), stage.worker(second, agent_name=name)
        async with one, two:
            await stage.registered(one)
            await stage.registered(two)
            await stage.create_room(room)
            await stage.dispatch(room, name)
            await until(lambda: bool(first.contexts or second.contexts))
            assert len(asked) == 2
            assert asked[0] == asked[1]
            assert len(first.contexts) + len(second.contexts) == 1
            await one.stop(timeout=0)
            await two.stop(timeout=0)


async def test_a_rejection_with_terminate_asks_nobody_else(backdrop: Any) -> None:
    name, room = unique("reject"), unique("room")
    asked: list[str] = []

    class Final(Agent):
        async def on_job_request(self, job: Job) -> JobMetadata | Reject | bool | None:
            asked.append(job.id)
            return Reject(terminate=True) if job.metadata == "no" else True

    async with backdrop as stage:
        first, second = Final(), Final()
        one, two = stage.worker(first, agent_name=name), stage.worker(second, agent_name=name)
        async with one, two:
            await stage.registered(one)
            await stage.registered(two)
            await stage.create_room(room)
            await stage.dispatch(room, name, metadata="no")
            await until(lambda: len(asked) == 1)
            await stage.dispatch(room, name, metadata="yes")
            await until(lambda: bool(first.contexts or second.contexts))
            assert len(asked) == 2
            await one.stop(timeout=0)
            await two.stop(timeout=0)


async def test_deleting_the_dispatch_terminates_the_job(backdrop: Any) -> None:
    name, room = unique("terminate"), unique("room")
    async with backdrop as stage:
        agent = Agent()
        worker = stage.worker(agent, agent_name=name)
        async with worker:
            await stage.registered(worker)
            seen = worker.events(events.JobEnded)
            await stage.create_room(room)
            dispatch_id = await stage.dispatch(room, name)
            job_id = await agent.until_running()
            await stage.until_identities(room, f"agent-{job_id}")
            await stage.delete_dispatch(room, dispatch_id)
            end = await ended(seen)
            assert (end.job.id, end.status, end.error) == (job_id, JobStatus.SUCCESS, None)
            assert await stage.job_end(job_id) == (JobStatus.SUCCESS, "")
            await stage.until_identities(room)
            assert worker.status is WorkerStatus.AVAILABLE
    assert agent.terminated == [job_id]


async def test_deleting_the_room_ends_the_job(backdrop: Any) -> None:
    name, room = unique("deleteroom"), unique("room")
    async with backdrop as stage:
        agent = Agent()
        worker = stage.worker(agent, agent_name=name)
        async with worker:
            await stage.registered(worker)
            seen = worker.events(events.JobEnded)
            await stage.create_room(room)
            await stage.dispatch(room, name)
            job_id = await agent.until_running()
            await stage.recorded(room, job_id)
            await stage.until_identities(room, f"agent-{job_id}")
            await stage.delete_room(room)
            end = await ended(seen)
            # To the worker a closed room is a normal end.
            assert (end.job.id, end.status) == (job_id, JobStatus.SUCCESS)
            await until_recorded_as_left(stage, end)
    assert agent.terminated == [job_id]


async def test_an_error_in_the_handler_is_recorded_as_failed(backdrop: Any) -> None:
    name, room = unique("failing"), unique("room")

    async def body(ctx: JobContext) -> None:
        raise ValueError("boom")

    async with backdrop as stage:
        agent = Agent(body)
        worker = stage.worker(agent, agent_name=name)
        async with worker:
            await stage.registered(worker)
            seen = worker.events(events.JobEnded)
            await stage.create_room(room)
            await stage.dispatch(room, name)
            end = await ended(seen)
            assert (end.status, repr(end.error)) == (JobStatus.FAILED, "ValueError('boom')")
            assert await stage.job_end(end.job.id) == (JobStatus.FAILED, "ValueError: boom")
            assert worker.status is WorkerStatus.AVAILABLE
    assert agent.terminated == [end.job.id]


async def test_a_draining_worker_finishes_its_job_and_takes_no_other(backdrop: Any) -> None:
    name, room = unique("drain"), unique("room")
    finish = anyio.Event()

    async def body(ctx: JobContext) -> None:
        await ctx.shutting_down.wait()
        await finish.wait()

    async with backdrop as stage:
        agent = Agent(body)
        worker = stage.worker(agent, agent_name=name, max_jobs=5)
        async with worker:
            await stage.registered(worker)
            await stage.create_room(room)
            await stage.dispatch(room, name)
            job_id = await agent.until_running()
            async with anyio.create_task_group() as group:
                group.start_soon(worker.stop, 20)
                await until(lambda: worker.status is WorkerStatus.DRAINING)
                await stage.dispatch(room, name, metadata="too late")
                await anyio.sleep(0.5)  # the real server would have offered it after 0.2 s
                assert len(agent.contexts) == 1
                finish.set()
        assert await stage.job_end(job_id) == (JobStatus.SUCCESS, "")
        assert worker.status is WorkerStatus.CLOSED
    assert list(agent.contexts) == agent.terminated == [job_id]


async def test_a_job_lives_through_the_death_of_the_server(mortal_backdrop: Any) -> None:
    name, room, again = unique("restart"), unique("room"), unique("room")
    finish = anyio.Event()

    async def body(ctx: JobContext) -> None:
        if ctx.job.metadata == "first":
            await finish.wait()

    async with mortal_backdrop as stage:
        agent = Agent(body)
        worker = stage.worker(agent, agent_name=name, max_jobs=5)
        async with worker:
            await stage.registered(worker)
            seen = worker.events(events.Registered, events.ConnectionLost, events.JobEnded)
            await stage.create_room(room)
            await stage.dispatch(room, name, metadata="first")
            job_id = await agent.until_running()
            first_id = worker.worker_id
            await stage.kill()
            await until(lambda: worker.status is WorkerStatus.DISCONNECTED)
            await stage.restart()
            await until(lambda: worker.status is WorkerStatus.BUSY, timeout=40)
            assert worker.worker_id != first_id
            await stage.registered(worker)
            finish.set()
            end = await ended(seen)
            assert (end.job.id, end.status) == (job_id, JobStatus.SUCCESS)
            await stage.create_room(again)
            await stage.dispatch(again, name, metadata="second")
            end = await ended(seen)
            assert end.job.id != job_id
            assert await stage.job_end(end.job.id) == (JobStatus.SUCCESS, "")
    assert agent.terminated[0] == job_id
    assert len(agent.terminated) == 2


async def test_an_agent_that_is_removed_from_its_room_fails(backdrop: Any) -> None:
    name, room = unique("removed"), unique("room")
    async with backdrop as stage:
        agent = Agent()
        worker = stage.worker(agent, agent_name=name)
        async with worker:
            await stage.registered(worker)
            seen = worker.events(events.JobEnded)
            await stage.create_room(room)
            await stage.dispatch(room, name)
            job_id = await agent.until_running()
            await stage.recorded(room, job_id)
            await stage.until_identities(room, f"agent-{job_id}")
            await stage.remove_participant(room, f"agent-{job_id}")
            end = await ended(seen)
            # The worker learns it twice, from the room and by a termination, on two connections.  Whichever is first
            # decides what it makes of it; the real server's termination usually is.
            assert end.job.id == job_id
            assert (end.status, end.reason) in (
                (JobStatus.FAILED, "agent removed from the room"),
                (JobStatus.SUCCESS, "job terminated by the server"),
            )
            await until_recorded_as_left(stage, end)
    assert agent.terminated == [job_id]


async def test_a_wrong_secret_is_fatal_and_says_so(backdrop: Any) -> None:
    wrong = "another-secret-another-secret-32"
    async with backdrop as stage:
        worker = stage.worker(Agent(), agent_name=unique("wrong"), secret=wrong)
        with pytest.raises(AuthenticationError) as caught, anyio.fail_after(15):
            await worker.start()
        assert caught.value.status == 401
        text = f"{caught.value!s} {caught.value!r} {caught.value.__notes__}"
        assert wrong not in text
        assert "eyJ" not in text


async def test_a_track_is_muted_by_the_server_and_heard_again_only_by_its_publisher(backdrop: Any) -> None:
    from livekit_agent.rooms import AudioSource

    room = unique("mute")
    async with backdrop as stage:
        await stage.create_room(room)
        async with stage.join(room, "ada") as ada, stage.join(room, "bob") as bob, stage.api() as api:
            own = ada.subscribe(events.TrackMuted, events.TrackUnmuted)
            heard = bob.subscribe(events.TrackMuted, events.TrackUnmuted)
            published = bob.subscribe(events.TrackPublished)
            source = AudioSource(sample_rate=48_000, num_channels=1)
            publication = await ada.local_participant.publish_audio(source, name="microphone")
            with anyio.fail_after(15):
                await anext(aiter(published))
                assert await api.rooms.mute_track(room, "ada", publication.sid)
                for subscription in (own, heard):
                    event = await anext(aiter(subscription))
                    assert isinstance(event, events.TrackMuted)
                    assert (event.publication.sid, event.participant.identity) == (publication.sid, "ada")
            assert await api.rooms.mute_track(room, "ada", publication.sid), "again is no error, and no news"
            assert not await api.rooms.mute_track(room, "ada", "TR_none")
            for sid in (publication.sid, "TR_none"):
                with pytest.raises(ApiError) as refused:
                    await api.rooms.mute_track(room, "ada", sid, muted=False)
                assert (refused.value.status, refused.value.twirp_code) == (412, "failed_precondition")
                assert refused.value.message.endswith("remote unmute not enabled")
            with pytest.raises(ApiError) as refused:
                await api.rooms.mute_track(room, "nobody", publication.sid)
            assert (refused.value.status, refused.value.twirp_code) == (503, "unavailable")
            assert (publication.muted, ada.local_participant.identity) == (True, "ada")
            publication.unmute()
            with anyio.fail_after(15):
                for subscription in (own, heard):
                    assert isinstance(await anext(aiter(subscription)), events.TrackUnmuted)


async def test_data_is_echoed_through_the_room(backdrop: Any) -> None:
    name, room = unique("echo"), unique("room")

    class Echo(Agent):
        async def on_data_received(self, ctx: JobContext, data: bytes, participant: Any) -> None:
            assert participant.identity == "ada"
            await ctx.room.local_participant.publish_data(b"echo: " + data, topic="echo")

    async with backdrop as stage:
        agent = Echo()
        worker = stage.worker(agent, agent_name=name)
        async with worker:
            await stage.registered(worker)
            await stage.create_room(room)
            async with stage.join(room, "ada") as ada:
                await stage.dispatch(room, name)
                job_id = await agent.until_running()
                await until_heard_by(ada, f"agent-{job_id}")
                answers = ada.subscribe(events.DataReceived)
                await ada.local_participant.publish_data(b"hello", topic="chat")
                with anyio.fail_after(15):
                    answer = await anext(aiter(answers))
                assert answer.data == b"echo: hello"
                assert answer.topic == "echo"
                assert answer.participant is not None
                assert answer.participant.identity == f"agent-{job_id}"
            await worker.stop(timeout=0)
            # Cancelled by the worker's own stop: that is a failure, and the server hears why.
            assert (await stage.job_end(job_id))[0] is JobStatus.FAILED


@pytest.mark.long
async def test_a_burst_of_a_hundred_dispatches_all_run(backdrop: Any) -> None:
    """A worker without a limit; the real server launches about 25 at a time, so the first ones warm its cache."""
    name, room = unique("burst"), unique("room")

    async def body(ctx: JobContext) -> None:
        return None

    async with backdrop as stage:
        agent = Agent(body)
        worker = stage.worker(agent, agent_name=name, max_jobs=None)
        async with worker:
            await stage.registered(worker)
            await stage.create_room(room)
            await stage.dispatch(room, name)
            await stage.recorded(room, await agent.until_running())
            async with anyio.create_task_group() as group:
                for _ in range(100):
                    group.start_soon(stage.dispatch, room, name)
            await until(lambda: len(agent.terminated) == 101, timeout=60)
    assert len(set(agent.terminated)) == 101


async def test_case_70_max_jobs_is_never_exceeded_and_the_last_slot_is_used(backdrop: Any) -> None:
    name, room = unique("limit"), unique("room")
    async with backdrop as stage:
        agent = Agent()
        worker = stage.worker(agent, agent_name=name, max_jobs=3)
        async with worker:
            await stage.registered(worker)
            await stage.create_room(room)
            for held in (1, 2, 3):
                await stage.dispatch(room, name)
                await until(lambda held=held: len(agent.contexts) == held)
            assert worker.status is WorkerStatus.FULL
            await stage.dispatch(room, name)
            await anyio.sleep(0.5)  # the real server would have offered it after 0.2 s
            assert len(agent.contexts) == 3
            await worker.stop(timeout=0)
    assert sorted(agent.terminated) == sorted(agent.contexts)
