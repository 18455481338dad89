"""Group F: load, ping, liveness."""

from __future__ import annotations

import time

import anyio
from livekit.protocol import agent as pb

from ._frames import PING, PONG, frame
from ._lab import Lab, poll
from ._registration import check_load
from ._verdicts import Broken, Case, Differs, Verdict

__all__ = ["CASES"]


async def loads(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("sleep", seconds=3))
        await link.running(job)
        await anyio.sleep(3.5)
        await link.ended_with(job)
        await anyio.sleep(3.0)
        updates: list[pb.UpdateWorkerStatus] = link.heard("update_worker")
        for update in updates:
            check_load(update)
        if not updates:
            raise Broken("no report in 7 s, with a job begun and ended")
        return f"{len(updates)} reports, loads " + ", ".join(f"{u.load:.2f}" for u in updates[:4])


async def wants_more(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("sleep", seconds=4))
        await link.running(job)
        after = len(link.heard("update_worker"))
        await link.wait(lambda: len(link.heard("update_worker")) > after, "no report with a job running", 8)
        available = [u.load for u in link.heard("update_worker") if u.status == pb.WorkerStatus.WS_AVAILABLE]
        if not available:
            return "FULL with one job"
        if max(available) >= 0.7:
            raise Broken(f"AVAILABLE with load {max(available):.2f}: servers offer nothing from 0.7 on")
        return f"AVAILABLE with load {max(available):.2f} at most"


async def answers_pings(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = await link.start(link.job("sleep", seconds=1))
        payload = bytes(range(125))
        began = time.monotonic()
        await link.write(frame(PING) + frame(PING, payload))
        await link.wait(lambda: b"" in link.pongs() and payload in link.pongs(), "no pong with the payload", 2)
        took = time.monotonic() - began
        await link.ended_with(job)
        return f"after {took * 1000:.0f} ms, with a job running"


async def ignores_pongs(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        await link.write(frame(PONG) + frame(PONG, b"unasked"))
        await link.works()
        return "ignored"


async def half_open(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        link.automatic = False
        began = time.monotonic()
        if not await poll(lambda: link.ended or len(worker.links) > 1, 50):
            raise Differs("notices no silence within 50 s")
        return f"gives a silent connection up after {time.monotonic() - began:.0f} s"


async def zero_window(lab: Lab) -> str:
    async with lab.worker(receive_buffer=4096) as worker:
        link = await worker.registered()
        link.stop_reading()
        began = time.monotonic()
        ping = frame(PING, bytes(125)) * 64

        async def flood() -> None:
            while not link.ended:
                await link.write(ping)

        left = False
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flood)
            left = await poll(lambda: len(worker.links) > 1 or not worker.alive, 45)
            tasks.cancel_scope.cancel()
        if not worker.alive:
            raise Broken(f"a server that does not read ends the worker{worker.fate()}")
        if not left:
            raise Differs("stays with a server that does not read for 45 s")
        took = time.monotonic() - began
        await (await worker.registered()).works()
        return f"reconnects after {took:.0f} s and works"


async def quiet_server(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        await anyio.sleep(33)  # the core pings each 10 s, as a real server does, and answers the worker's pings
        if link.ended:
            raise Broken("it leaves a server that pings but has nothing to say")
        await link.works()
        return "stays for 33 s"


CASES = (
    Case(
        number=67,
        title="a load function that returns nonsense",
        verdict=Verdict.ADAPTER,
        why="the function is the adapter's",
    ),
    Case(number=68, title="FULL at the moment of crossing", verdict=Verdict.ADAPTER, why="the adapter has no limit"),
    Case(number=69, title="every report has a finite load, 0 to 1", run=loads, seconds=10),
    Case(number=70, title="AVAILABLE only below load 0.7", run=wants_more, seconds=8),
    Case(number=71, title="pings answered with their payload, also while busy", run=answers_pings),
    Case(number=72, title="unasked pongs ignored", run=ignores_pongs),
    Case(number=74, title="a silent connection is given up", run=half_open, seconds=45),
    Case(number=75, title="a server that does not read is given up", run=zero_window, seconds=30),
    Case(number=76, title="a quiet server that pings is kept", run=quiet_server, seconds=36),
)
