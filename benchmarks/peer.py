"""livekit-agents 1.8.9 beside ours: the same dispatcher, the same server, the peer in its own interpreter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

import anyio
import anyio.to_thread
import httpx

from .dispatcher import dispatcher
from .live import Api
from .ours import KEY, SECRET
from .report import Figure, number, p50

ROOT = Path(__file__).resolve().parents[1]
FOREIGN = ROOT / "tests" / "e2e" / "foreign"
EXECUTORS = (("thread", 2), ("process", 2))
LOST_AFTER = 10.0
"""Seconds after which a job counts as lost: under load the peer now and then never reports an end."""


def python() -> str:
    found = os.environ.get("LIVEKIT_PEER_PYTHON") or str(ROOT / ".ci/cache/foreign/peer/bin/python")
    if not Path(found).exists():
        raise SystemExit("livekit-agents is not installed: python tests/e2e/foreign/install.py")
    return found


class Peer:
    """A peer worker process and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes], lines: IO[bytes]) -> None:
        self.process = process
        self._lines = lines
        self.said: list[dict[str, object]] = []

    def read(self) -> None:
        for line in self._lines.readlines():
            if line.startswith(b"{"):
                self.said.append(json.loads(line))

    async def count(self, event: str, count: int, timeout: float = 60) -> list[dict[str, object]]:
        until = time.monotonic() + timeout
        while True:
            self.read()
            found = [message for message in self.said if message["event"] == event]
            if len(found) >= count or time.monotonic() > until:
                return found
            await anyio.sleep(0.002)


@contextmanager
def peer(url: str, name: str, executor: str, idle: int) -> Iterator[Peer]:
    env = {**os.environ, "LIVEKIT_URL": url, "LIVEKIT_API_KEY": KEY, "LIVEKIT_API_SECRET": SECRET}
    output = Path(os.environ.get("TMPDIR", "/tmp")) / f"peer-{time.monotonic_ns()}.out"
    argv = [python(), str(FOREIGN / "peer_worker.py"), name, executor, str(idle)]
    with output.open("wb") as out, output.open("rb") as lines:
        process = subprocess.Popen(argv, env=env, stdout=out, stderr=subprocess.DEVNULL, start_new_session=True)
        try:
            yield Peer(process, lines)
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # its fork server would outlive it
            output.unlink()


async def _wire(executor: str, idle: int, samples: int, jobs: int) -> tuple[float, float]:
    """Assignment → handler p50 in seconds, and jobs per second."""
    async with dispatcher() as server:
        with peer(server.url, "", executor, idle) as it:
            worker = await server.next_worker(1)
            await anyio.sleep(8 if executor == "process" else 2)  # its idle executors start after it registers
            moments: dict[str, float] = {}
            for _ in range(samples):
                job = worker.new_job()
                with anyio.move_on_after(LOST_AFTER):
                    moments[job.id] = await worker.run_job(job)
                    await worker.until_ended(job)
            started = await it.count("job", samples, 10)
            delays = [float(str(each["t"])) - moments[str(each["id"])] for each in started if each["id"] in moments]
            gate = anyio.Semaphore(8)
            ends: list[float] = []

            async def one() -> None:
                job = worker.new_job()
                with anyio.move_on_after(LOST_AFTER):
                    await worker.run_job(job)
                    await worker.until_ended(job)
                    ends.append(time.monotonic())
                gate.release()

            began = time.monotonic()
            async with anyio.create_task_group() as group:
                for _ in range(jobs):
                    await gate.acquire()
                    group.start_soon(one)
            if len(ends) < jobs:
                print(f"{executor}: {jobs - len(ends)} of {jobs} jobs never reported an end", file=sys.stderr)
            return p50(delays), len(ends) / (max(ends) - began)


async def _live(url: str, executor: str, idle: int, samples: int, bursts: Sequence[int]) -> dict[str, str]:
    """Offer → handler, bursts and start on the real server."""
    found: dict[str, str] = {}
    name = room = f"peer-{time.monotonic_ns()}"
    began = time.monotonic()
    with peer(url, name, executor, idle) as it:
        [registered, *_] = await it.count("registered", 1)
        found["start"] = f"{(float(str(registered['t'])) - began) * 1_000:,.0f} ms"
        async with httpx.AsyncClient(timeout=60) as client:
            api = Api(url.replace("ws://", "http://"), client)
            await anyio.sleep(8 if executor == "process" else 2)
            await api.call("RoomService/CreateRoom", room, name=room)
            await api.warm(room, name)
            for done in range(samples):
                await api.dispatch(room, name)
                await it.count("job", done + 2)
            offers = {str(each["id"]): float(str(each["t"])) for each in await it.count("offer", samples + 1)}
            jobs = await it.count("job", samples + 1)
            found["offer"] = f"{p50([float(str(j['t'])) - offers[str(j['id'])] for j in jobs[1:]]) * 1_000:.2f} ms"
            for size in bursts:
                ran = len(it.said) and len(await it.count("job", 0, 0))
                moment = time.monotonic()
                async with anyio.create_task_group() as group:
                    for _ in range(size):
                        group.start_soon(api.dispatch, room, name)
                jobs = (await it.count("job", ran + size, 30))[ran:]
                delays = [float(str(each["t"])) - moment for each in jobs]
                middle = f"{p50(delays) * 1_000:,.0f} ms" if delays else "none"
                found[f"burst of {size}"] = f"{middle} ({len(jobs)} of {size} ran)"
    return found


def beside(figures: Sequence[Figure], url: str | None, smoke: bool, interpreter: str = "") -> list[Figure]:
    """The figures with the peer's column filled where there is one."""
    if interpreter:
        os.environ["LIVEKIT_PEER_PYTHON"] = interpreter
    columns: dict[str, list[str]] = {}
    rates: dict[str, float] = {}
    delays: dict[str, float] = {}
    bursts = (5,) if smoke else (20, 100)
    for executor, idle in EXECUTORS:
        print(f"peer {executor}", file=sys.stderr, flush=True)
        delay, rate = anyio.run(_wire, executor, idle, 3 if smoke else 40, 5 if smoke else 60)
        delays[executor], rates[executor] = delay, rate
        columns.setdefault("assignment", []).append(f"{executor} {delay * 1e6:,.0f} µs")
        columns.setdefault("jobs per second", []).append(f"{executor} {number(rate)} /s")
        if url is not None:
            for what, text in anyio.run(_live, url, executor, idle, 3 if smoke else 20, bursts).items():
                columns.setdefault(what, []).append(f"{executor} {text}")
    full: list[Figure] = []
    for figure in figures:
        texts = [text for what, texts in columns.items() if what in figure.what for text in texts]
        met, goal = figure.met, figure.goal
        if "jobs per second" in figure.what:
            met = figure.ours >= 30 * rates["thread"]
        elif "assignment" in figure.what:
            goal = "≤ 1.6x; ≥ 10x the peer's threads, ≥ 30x its processes"
            seconds = figure.ours / 1e6
            met = bool(met) and delays["thread"] >= 10 * seconds and delays["process"] >= 30 * seconds
        full.append(replace(figure, peer="; ".join(texts), met=met, goal=goal))
    return full
