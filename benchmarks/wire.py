"""On the wire, in one process: assignment → handler.  Ours and the floor take turns."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import anyio
from livekit.protocol import agent as agent_pb

from .dispatcher import Dispatcher, WorkerConnection, dispatcher
from .ours import KEY, SECRET, Started, make_worker
from .raw import raw_worker
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
            while job.id not in starts:  # noqa: ASYNC110 - a very busy machine; an event would be measured too
                await anyio.sleep(0.001)
            delays.append(starts[job.id] - moment)
    return delays[20:]


def _alternate(
    measure: Callable[[Contender, int], Awaitable[list[float]]], backend: str, rounds: int, size: int
) -> tuple[list[float], list[float]]:
    floor: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        floor += anyio.run(partial(measure, floor_contender, size), backend=backend)
        ours += anyio.run(partial(measure, our_contender, size), backend=backend)
    return floor, ours


def measure(backend: str, smoke: bool) -> list[Figure]:
    rounds, samples = (1, 20) if smoke else (6, 200)
    floor, ours = _alternate(_latency, backend, rounds, samples)
    latency = Figure(
        what="assignment → handler, p50",
        backend=backend,
        ours=p50(ours) * 1e6,
        floor=p50(floor) * 1e6,
        unit="µs",
        goal="≤ 1.6x",
        met=p50(ours) <= 1.6 * p50(floor),
    )
    return [latency]
