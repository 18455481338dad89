"""On a real livekit-server: offer → handler, and bursts of dispatches.  Ours and the hand-made loop take turns."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import httpx
import jwt

from livekit_agent.runtime._transport import Endpoint, NetworkConnector

from .ours import KEY, SECRET, Started, Tap, make_worker
from .raw import RawWorker, token
from .report import Figure, p50


class Api:
    """CreateRoom, CreateDispatch and ListDispatch, by hand: the same client whoever is measured."""

    def __init__(self, http_url: str, client: httpx.AsyncClient) -> None:
        self._url = http_url
        self._client = client

    async def call(self, method: str, room_name: str, /, **body: object) -> Any:
        grants = {"roomAdmin": True, "roomCreate": True, "room": room_name}
        claims = {"iss": KEY, "exp": int(time.time()) + 600, "video": grants}
        answer = await self._client.post(
            f"{self._url}/twirp/livekit.{method}",
            json=body,
            headers={"Authorization": f"Bearer {jwt.encode(claims, SECRET)}"},
        )
        answer.raise_for_status()
        return answer.json()

    async def dispatch(self, room: str, agent_name: str) -> str:
        made = await self.call("AgentDispatchService/CreateDispatch", room, room=room, agent_name=agent_name)
        return str(made["id"])

    async def warm(self, room: str, agent_name: str) -> None:
        """One dispatch, and wait until the server has written it down: the 5 s window of its cold cache is over."""
        made = await self.dispatch(room, agent_name)
        while True:
            listed = await self.call("AgentDispatchService/ListDispatch", room, room=room)
            if any(entry["id"] == made and entry["state"]["jobs"] for entry in listed["agent_dispatches"]):
                return
            await anyio.sleep(0.1)


class Record:
    """When each job's offer was received and its handler began; the dispatch's id names it."""

    def __init__(self) -> None:
        self.offered: dict[str, float] = {}
        self.began: dict[str, float] = {}
        self._news = anyio.Event()

    def start(self, dispatch_id: str, moment: float) -> None:
        self.began[dispatch_id] = moment
        self._news.set()
        self._news = anyio.Event()

    async def until(self, count: int, timeout: float) -> None:
        with anyio.move_on_after(timeout):
            while len(self.began) < count:
                await self._news.wait()


Contender = Callable[[str, str, Record], Any]


@asynccontextmanager
async def our_contender(url: str, name: str, record: Record) -> AsyncIterator[None]:
    """The SDK's worker, without rooms: joining one takes the server 40 ms and is not what is compared."""
    taps: list[Tap] = []

    async def connect(endpoint: Endpoint) -> Tap:
        taps.append(Tap(await NetworkConnector()(endpoint)))
        return taps[-1]

    class Handler(Started):
        async def on_job_request(self, job: Any) -> bool:
            record.offered[job.dispatch_id] = taps[-1].received_at
            return True

        async def on_job_assigned(self, ctx: Any) -> None:
            record.start(ctx.job.dispatch_id, time.monotonic())

    async with make_worker(url, Handler(lambda *_: None), name=name, connector=connect):
        yield


@asynccontextmanager
async def raw_contender(url: str, name: str, record: Record) -> AsyncIterator[None]:
    host, port = url.removeprefix("ws://").split(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        tap = Tap(stream)
        worker = RawWorker(tap, f"{host}:{port}", f"Bearer {token(KEY, SECRET)}")
        await worker.register(name)

        async def handler(job: Any) -> None:
            record.start(job.dispatch_id, time.monotonic())
            await worker.finished(job.id)

        async def loop() -> None:
            async with anyio.create_task_group() as jobs:
                while True:
                    message = await worker.next_message()
                    match message.WhichOneof("message"):
                        case "availability":
                            record.offered[message.availability.job.dispatch_id] = tap.received_at
                            await worker.accept(message.availability.job)
                        case "assignment":
                            jobs.start_soon(handler, message.assignment.job)
                        case _:
                            pass

        async with anyio.create_task_group() as group:
            group.start_soon(loop)
            yield
            group.cancel_scope.cancel()


@asynccontextmanager
async def _stage(contender: Contender, url: str, warm: bool = True) -> AsyncIterator[tuple[Api, Record, str, str]]:
    """A registered contender and, unless nobody cares for the figures, a warm server."""
    http_url, record = url.replace("ws://", "http://"), Record()
    name = room = f"bench-{time.monotonic_ns()}"
    limits = httpx.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx.AsyncClient(timeout=60, limits=limits) as client, contender(url, name, record):
        api = Api(http_url, client)
        await anyio.sleep(0.2)  # registered a moment before it is in the server's pool
        await api.call("RoomService/CreateRoom", room, name=room)
        if warm:
            await api.warm(room, name)
        record.began.clear()
        yield api, record, room, name
        await api.call("RoomService/DeleteRoom", room, room=room)


async def _singles(contender: Contender, url: str, samples: int) -> list[float]:
    async with _stage(contender, url, warm=samples > 5) as (api, record, room, name):
        for done in range(samples):
            await api.dispatch(room, name)
            await record.until(done + 1, 10)
        return [record.began[each] - record.offered[each] for each in record.began]


async def _burst(contender: Contender, url: str, size: int) -> list[float]:
    """Seconds from before each CreateDispatch to the first line of its handler; a job that never ran is missing."""
    sent: dict[str, float] = {}
    async with _stage(contender, url, warm=size > 5) as (api, record, room, name):

        async def one() -> None:
            moment = time.monotonic()
            sent[await api.dispatch(room, name)] = moment

        async with anyio.create_task_group() as group:
            for _ in range(size):
                group.start_soon(one)
        await record.until(size, 30)
        return [record.began[each] - sent[each] for each in sent if each in record.began]


def _alternate(
    run: Callable[[Contender, str, int], Awaitable[list[float]]], backend: str, url: str, rounds: int, size: int
) -> tuple[list[float], list[float]]:
    floor: list[float] = []
    ours: list[float] = []
    for _ in range(rounds):
        floor += anyio.run(partial(run, raw_contender, url, size), backend=backend)
        ours += anyio.run(partial(run, our_contender, url, size), backend=backend)
    return floor, ours


def measure(backend: str, smoke: bool, url: str) -> list[Figure]:
    floor, ours = _alternate(_singles, backend, url, 1 if smoke else 2, 5 if smoke else 30)
    figures = [
        Figure(
            what="offer → handler on a real livekit-server, p50",
            backend=backend,
            ours=p50(ours) * 1_000,
            floor=p50(floor) * 1_000,
            unit="ms",
            goal="≤ 1.25x",
            met=p50(ours) <= 1.25 * p50(floor),
        )
    ]
    for size in (5,) if smoke else (20, 100):
        rounds = 1 if smoke else 3
        floor, ours = _alternate(_burst, backend, url, rounds, size)
        figures.append(
            Figure(
                what=f"burst of {size} dispatches, p50",
                backend=backend,
                ours=p50(ours) * 1_000,
                floor=p50(floor) * 1_000,
                unit="ms",
                goal="all run, p50 within 30 ms of the floor",
                met=len(ours) == size * rounds and p50(ours) - p50(floor) <= 0.030,
                note=f"{len(ours)} of {size * rounds} ran; at most {max(ours) * 1_000:.0f} ms",
            )
        )
    return figures
