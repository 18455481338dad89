"""``livekit-agent demo``: the whole of it in three seconds, with nothing else installed and nothing left behind.

One process holds a dispatch server on a free loopback port, three workers (a worker serves one type of job), a room,
and Alice, who walks in, publishes a track, talks to the agents and leaves.  In between the server cuts one worker's
connection: the job does not notice, and the worker registers again.  At the end the workers drain.

The waits between the steps are for the reader; nothing depends on them.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click
from anyio import Event

from .._bounds import DEMO_TIMEOUT
from .._types import JobStatus, JobType
from ._exit import ExitCode
from ._help import Command, Option
from ._options import backend_option
from ._story import Story, open_story

if TYPE_CHECKING:
    from .. import JobContext, UniversalWorker
    from ..dispatch import DispatchServer
    from ..rooms import Room

__all__ = ["demo"]

ROOM = "demo"
BEAT = 0.35


@click.command(cls=Command, epilog="Exits with 0 when all three jobs ended well and the worker came back.")
@click.option("--json", "as_json", is_flag=True, cls=Option, section="Output", help="Print one JSON object a line.")
@backend_option
def demo(as_json: bool, backend: str) -> int:
    """Run a server, three workers and a room in this process, and tell what happens."""
    import anyio

    from ._logging import set_up_logging

    # The story tells what the log would; a reconnect made on purpose is no news.
    set_up_logging("error")
    return ExitCode.OK if anyio.run(_demo, as_json, backend, backend=backend) else ExitCode.INTERNAL


@dataclass(slots=True)
class Tally:
    """What the workers said, for the summary and for whoever waits for it."""

    jobs: dict[str, dict[str, str]] = field(default_factory=dict[str, dict[str, str]])
    reconnects: int = 0
    reconnected: Event = field(default_factory=Event)
    watching: Event = field(default_factory=Event)
    """The publisher job runs."""


async def _demo(as_json: bool, backend: str) -> bool:
    import anyio

    story, tally = open_story(as_json), Tally()
    began = anyio.current_time()
    story.begin(
        f"livekit-agent demo on {backend}",
        "A dispatch server, three workers, a room and Alice, all in this process. No account, no keys, no network.",
    )
    with anyio.fail_after(DEMO_TIMEOUT):
        await _play(story, tally)
    order = ("room", "participant", "publisher")
    jobs = sorted(tally.jobs.values(), key=lambda job: order.index(job["type"]))
    good = len(jobs) == len(JobType) and all(job["status"] == "success" for job in jobs) and tally.reconnects == 1
    told = ", ".join(f"{job['type']} {job['status']}" for job in jobs)
    story.end(
        f"{len(jobs)} jobs: {told}; {tally.reconnects} reconnect; {anyio.current_time() - began:.1f} s",
        backend=backend,
        jobs=jobs,
        reconnects=tally.reconnects,
        ok=good,
    )
    return good


async def _play(story: Story, tally: Tally) -> None:
    from anyio import create_task_group, sleep
    from anyio.lowlevel import checkpoint

    from ..dispatch import DispatchServer

    async with DispatchServer() as server, create_task_group() as listeners:
        story.tell(
            "server_started",
            "server",
            f"listens on {server.url}; key and secret are minted for this run",
            url=server.url,
        )
        listeners.start_soon(_narrate_server, server.events(), story)
        async with _workers(server, story, tally, listeners) as workers:
            await sleep(BEAT)
            await _act(server, workers[JobType.ROOM], story, tally)
            await _drain(workers, story)
        await checkpoint()  # the listeners hear the last words
        listeners.cancel_scope.cancel()
        story.tell("stopped", "workers", "have drained and gone")


@asynccontextmanager
async def _workers(
    server: DispatchServer, story: Story, tally: Tally, listeners: Any
) -> AsyncGenerator[dict[JobType, UniversalWorker]]:
    """One worker for each type of job, registered."""
    from .. import UniversalWorker, WorkerOptions

    handlers = {JobType.ROOM: _echo(), JobType.PARTICIPANT: _greeter(), JobType.PUBLISHER: _watcher(story)}
    async with AsyncExitStack() as stack:
        workers: dict[JobType, UniversalWorker] = {}
        for job_type, handler in handlers.items():
            worker = UniversalWorker(
                server.url,
                server.api_key,
                server.api_secret,
                handler,
                WorkerOptions(job_type=job_type),
                rooms=server.rooms,
            )
            await listeners.start(_narrate, worker, _name(job_type), story, tally)
            workers[job_type] = await stack.enter_async_context(worker)
        yield workers


def _name(job_type: JobType) -> str:
    return job_type.name.lower()


# ------------------------------------------------------------------------------------------------ the three agents


def _echo() -> Any:
    """Serves rooms: says everything back, until the worker drains."""
    from .. import SimpleUniversalHandler
    from ..events import DataReceived

    handler = SimpleUniversalHandler()

    @handler.job_assigned
    async def assigned(ctx: JobContext) -> None:
        me = ctx.room.local_participant
        ctx.task_group.start_soon(_echo_until_cancelled, ctx, ctx.events(DataReceived))
        await me.publish_data("I say everything back", topic="ready")
        await ctx.shutting_down.wait()
        await me.publish_data("the worker is draining, goodbye", topic="goodbye")
        ctx.task_group.cancel_scope.cancel()

    return handler


async def _echo_until_cancelled(ctx: JobContext, packets: Any) -> None:
    async for packet in packets:
        await ctx.room.local_participant.publish_data(packet.data, topic="echo")


def _greeter() -> Any:
    """Serves participants: greets one, and stays until they leave."""
    from .. import SimpleUniversalHandler
    from ..events import ParticipantLeft

    handler = SimpleUniversalHandler()

    @handler.job_assigned
    async def assigned(ctx: JobContext) -> None:
        guest = ctx.job.participant.identity if ctx.job.participant else ""
        left = ctx.events(ParticipantLeft)
        await ctx.room.local_participant.publish_data(
            f"welcome, {guest}", topic="welcome", destination_identities=[guest]
        )
        async for event in left:
            if event.participant.identity == guest:
                return

    return handler


def _watcher(story: Story) -> Any:
    """Serves publishers: watches one's tracks, until they are gone."""
    from .. import SimpleUniversalHandler
    from ..events import TrackUnpublished

    handler = SimpleUniversalHandler()

    @handler.job_assigned
    async def assigned(ctx: JobContext) -> None:
        publisher = ctx.job.participant.identity if ctx.job.participant else ""
        async for event in ctx.events(TrackUnpublished):
            if event.participant.identity == publisher:
                return

    return handler


# ------------------------------------------------------------------------------------------------ what happens


async def _act(server: DispatchServer, worker: UniversalWorker, story: Story, tally: Tally) -> None:
    """Alice's visit, and the cut in the middle of it."""
    import anyio

    from ..events import DataReceived
    from ..rooms import AudioSource

    story.tell(
        "participant_joining",
        "alice",
        f"walks into room {ROOM!r}; nobody was there before",
        room=ROOM,
        identity="alice",
    )
    async with server.rooms.join(ROOM, "alice", name="Alice") as room:
        with room.subscribe(DataReceived) as packets:
            await _hear(packets, story, "ready", "welcome")
            await anyio.sleep(BEAT)
            story.tell("track_publishing", "alice", "publishes a track of silence", room=ROOM, identity="alice")
            publication = await room.local_participant.publish_audio(AudioSource(), name="microphone")
            await tally.watching.wait()
            await anyio.sleep(BEAT)
            await _say(room, packets, story, "hello")
            await anyio.sleep(BEAT)
            story.tell(
                "connection_cut",
                "server",
                "cuts the room worker's connection, on purpose, in the middle of its job",
                worker_id=worker.worker_id,
            )
            server.disconnect_worker(worker.worker_id)
            await _say(room, packets, story, "are you still there?")
            await tally.reconnected.wait()
            await anyio.sleep(BEAT)
            story.tell("track_unpublishing", "alice", "takes her track down", room=ROOM, identity="alice")
            await room.local_participant.unpublish_track(publication.sid)
            await anyio.sleep(BEAT)
            story.tell(
                "participant_leaving",
                "alice",
                "leaves; the echo agent stays with the empty room",
                room=ROOM,
                identity="alice",
            )
    await anyio.sleep(BEAT)


async def _hear(packets: Any, story: Story, *topics: str) -> None:
    """Wait for one packet of each topic."""
    missing = list(topics)
    while missing:
        packet = await anext(packets)
        if packet.topic in missing:
            missing.remove(packet.topic)
        sender = packet.participant.identity if packet.participant else "server"
        actor = {"ready": "room agent", "echo": "room agent", "welcome": "participant agent"}.get(packet.topic, sender)
        said = packet.data.decode()
        story.tell("data_received", actor, f'says "{said}"', room=ROOM, identity=sender, topic=packet.topic, text=said)


async def _say(room: Room, packets: Any, story: Story, text: str) -> None:
    story.tell("data_sent", "alice", f'says "{text}"', room=ROOM, identity="alice", text=text)
    await room.local_participant.publish_data(text)
    await _hear(packets, story, "echo")


async def _drain(workers: dict[JobType, UniversalWorker], story: Story) -> None:
    import anyio

    story.tell("stopping", "workers", "are told to stop: no new jobs, running ones may finish")
    async with anyio.create_task_group() as stops:
        for worker in workers.values():
            stops.start_soon(worker.stop)


# ------------------------------------------------------------------------------------------------ telling it


async def _narrate_server(feed: Any, story: Story) -> None:
    from ..dispatch import JobForgotten, JobOffered

    async for event in feed:
        match event:
            case JobOffered():
                kind, worker_id = _name(event.job.type), event.worker.id
                story.tell(
                    "job_offered",
                    "server",
                    f"offers {kind} job {event.job.id} to {worker_id}",
                    id=event.job.id,
                    type=kind,
                    worker_id=worker_id,
                )
            case JobForgotten():
                story.tell(
                    "job_forgotten",
                    "server",
                    f"forgets job {event.job.id} with its worker's connection, as livekit-server does",
                    id=event.job.id,
                )
            case _:
                pass


async def _narrate(worker: UniversalWorker, name: str, story: Story, tally: Tally, *, task_status: Any) -> None:
    from .. import events

    stream = worker.events(events.WorkerEvent)
    task_status.started()
    async for event in stream:
        match event:
            case events.Registered():
                if event.reconnect:
                    tally.reconnects += 1
                    tally.reconnected.set()
                again = "is back" if event.reconnect else "registered"
                story.tell(
                    "worker_registered",
                    f"{name} worker",
                    f"{again} as {event.worker_id}" + ("; its job never noticed" if event.reconnect else ""),
                    type=name,
                    worker_id=event.worker_id,
                    reconnect=event.reconnect,
                )
            case events.ConnectionLost():
                story.tell(
                    "connection_lost",
                    f"{name} worker",
                    f"lost its connection; the job runs on, next try in {event.retry_in:.2f} s",
                    type=name,
                    retry_in=round(event.retry_in, 3),
                )
            case events.JobStarted():
                if event.job.type is JobType.PUBLISHER:
                    tally.watching.set()
                about = event.job.participant.identity if event.job.participant else event.job.room.name
                story.tell(
                    "job_started",
                    f"{name} worker",
                    f"takes job {event.job.id} about {'participant' if event.job.participant else 'room'} {about!r}",
                    id=event.job.id,
                    type=name,
                    room=event.job.room.name,
                )
            case events.JobEnded():
                status = "success" if event.status is JobStatus.SUCCESS else "failed"
                tally.jobs[event.job.id] = {"id": event.job.id, "type": name, "status": status}
                story.tell(
                    "job_ended",
                    f"{name} worker",
                    f"ended job {event.job.id}: {status}" + (f" ({event.reason})" if event.reason else ""),
                    id=event.job.id,
                    type=name,
                    status=status,
                )
            case events.Draining():
                jobs = worker.stats.active_jobs
                story.tell(
                    "draining",
                    f"{name} worker",
                    "drains; its job may finish" if jobs else "drains; it has no job",
                    type=name,
                    timeout=event.timeout,
                    active_jobs=jobs,
                )
            case _:
                pass
