"""On the wire, in one process: assignment → handler.  Ours and the floor take turns."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import anyio
from livekit.protocol import agent as agent_pb

from .dispatcher import Dispatcher, WorkerConnection, dispatcher
from .ours import KEY, SECRET, Started, make_worker
from .raw import raw_worker, token
from .report import Figure, p50

Starts = dict[str, float]
Contender = Callable[[Dispatcher, Starts], AbstractAsyncContextManager[WorkerConnection]]


@asynccontextmanager
async def floor_contender(server: Dispatcher, starts: Starts) -> AsyncIterator[WorkerConnection]:
    """The hand-made worker; it reports each job's end, as one must."""
    before = len(server.workers)
    async with raw_worker(server.url, KEY, SECRET, "") as worker, anyio.create_task_group() as group:

        async def handler(job: agent_pb.Job) -> None:
            starts[job.id] = time.monotonic()
            await worker.finished(job.id)

        async def loop() -> None:
            async with anyio.create_task_group() as jobs:
                while True:
                    message = await worker.next_message()
                    match message.WhichOneof("message"):
                        case "availability":
                            await worker.accept(message.availability.job)
                        case "assignment":
                            jobs.start_soon(handler, message.assignment.job)
                        case _:
                            pass

        group.start_soon(loop)
        yield await server.next_worker(before + 1)
        group.cancel_scope.cancel()


@asynccontextmanager
async def aiohttp_contender(server: Dispatcher, starts: Starts) -> AsyncIterator[WorkerConnection]:
    """The other floor: aiohttp's client and a bare task for each job, as most workers for asyncio alone are written."""
    import asyncio

    import aiohttp

    before, tasks = len(server.workers), set[asyncio.Task[None]]()
    headers = {"Authorization": f"Bearer {token(KEY, SECRET)}"}
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{server.url}/agent", headers=headers) as socket:

        async def handler(job: agent_pb.Job) -> None:
            starts[job.id] = time.monotonic()
            ended = agent_pb.UpdateJobStatus(job_id=job.id, status=agent_pb.JS_SUCCESS)
            await socket.send_bytes(agent_pb.WorkerMessage(update_job=ended).SerializeToString())

        async def loop() -> None:
            async for frame in socket:
                message = agent_pb.ServerMessage.FromString(frame.data)
                match message.WhichOneof("message"):
                    case "availability":
                        job_id = message.availability.job.id
                        answer = agent_pb.AvailabilityResponse(
                            job_id=job_id, available=True, participant_identity=f"agent-{job_id}"
                        )
                        await socket.send_bytes(agent_pb.WorkerMessage(availability=answer).SerializeToString())
                    case "assignment":
                        task = asyncio.create_task(handler(message.assignment.job))
                        tasks.add(task)
                        task.add_done_callback(tasks.discard)
                    case _:
                        pass

        register = agent_pb.RegisterWorkerRequest(version="aiohttp")
        await socket.send_bytes(agent_pb.WorkerMessage(register=register).SerializeToString())
        reader = asyncio.create_task(loop())
        yield await server.next_worker(before + 1)
        reader.cancel()


@asynccontextmanager
async def our_contender(server: Dispatcher, starts: Starts) -> AsyncIterator[WorkerConnection]:
    """The SDK's worker."""
    before = len(server.workers)
    worker = make_worker(server.url, Started(starts.__setitem__))
    async with worker:
        yield await server.next_worker(before + 1)


async def _latency(contender: Contender, samples: int) -> list[float]:
    starts: Starts = {}
    delays: list[float] = []
    async with dispatcher() as server, contender(server, starts) as worker:
        for _ in range(samples + 20):
            job = worker.new_job()
            moment = await worker.run_job(job)
            # The same rest for everybody: the SDK reports an end 50 ms after the assignment (the real server may not
            # know the job before), so waiting for it would measure a cold processor against a warm one.
            await anyio.sleep(0.01)
            with anyio.fail_after(30):  # a job that failed before its handler began
                while job.id not in starts:  # noqa: ASYNC110 - a very busy machine; an event would be measured too
                    await anyio.sleep(0.001)
            delays.append(starts[job.id] - moment)
    return delays[20:]


def _alternate(
    measure: Callable[[Contender, int], Awaitable[list[float]]],
    contenders: Sequence[Contender],
    backend: str,
    rounds: int,
    size: int,
) -> list[list[float]]:
    delays: list[list[float]] = [[] for _ in contenders]
    for _ in range(rounds):
        for found, contender in zip(delays, contenders, strict=True):
            found += anyio.run(partial(measure, contender, size), backend=backend)
    return delays


def measure(backend: str, smoke: bool) -> list[Figure]:
    rounds, samples = (1, 20) if smoke else (6, 200)
    contenders = [floor_contender, our_contender, *([aiohttp_contender] if backend == "asyncio" else [])]
    floor, ours, *others = _alternate(_latency, contenders, backend, rounds, samples)
    latency = Figure(
        what="assignment → handler, p50",
        backend=backend,
        ours=p50(ours) * 1e6,
        floor=p50(floor) * 1e6,
        unit="µs",
        goal="≤ 1.6x",
        met=p50(ours) <= 1.6 * p50(floor),
    )
    beside = [
        Figure(
            what="the same, beside aiohttp and a bare task for each job, p50",
            backend=backend,
            ours=p50(ours) * 1e6,
            floor=p50(other) * 1e6,
            unit="µs",
            goal="≤ 2x",
            met=p50(ours) <= 2 * p50(other),
        )
        for other in others
    ]
    return [latency, *beside]
