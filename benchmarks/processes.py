"""What is seen from outside a process: memory per held job, idle wake-ups, import, help, start → registered."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import anyio
import anyio.to_thread
import psutil

from .dispatcher import WorkerConnection, dispatcher
from .report import Figure, p50

REPOSITORY = Path(__file__).resolve().parents[1]


def environment(**more: str) -> dict[str, str]:
    paths = [str(REPOSITORY / "src"), str(REPOSITORY), os.environ.get("PYTHONPATH", "")]
    # An installed package is compiled; a clone is at its first run, unless that is forbidden.
    inherited = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**inherited, "PYTHONPATH": os.pathsep.join(filter(None, paths)), **more}


@contextmanager
def child(mode: str, who: str, backend: str, url: str, name: str = "") -> Iterator[subprocess.Popen[bytes]]:
    """A worker process that ends when this block does."""
    argv = [sys.executable, "-m", "benchmarks.child", mode, who, backend, url, name]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment(), cwd=REPOSITORY)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield process
    finally:
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# ------------------------------------------------------------------ memory


async def _hold(worker: WorkerConnection, count: int) -> None:
    gate = anyio.Semaphore(32)

    async def one() -> None:
        await worker.run_job(worker.new_job())
        gate.release()

    async with anyio.create_task_group() as group:
        for _ in range(count):
            await gate.acquire()
            group.start_soon(one)


async def _settled(process: psutil.Process) -> int:
    """Resident bytes once the process has come to rest."""
    before = 0.0
    while True:
        await anyio.sleep(0.3)
        used = sum(process.cpu_times()[:2])
        if used - before < 0.02:
            return int(process.memory_info().rss)
        before = used


async def _memory(who: str, backend: str, counts: Sequence[int]) -> tuple[int, list[int]]:
    """Resident bytes of the idle worker, and with that many jobs held, cumulatively."""
    async with dispatcher() as server:
        with child("held", who, backend, server.url) as process:
            worker = await server.next_worker(1)
            seen = psutil.Process(process.pid)
            idle = await _settled(seen)
            held: list[int] = []
            total = 0
            for count in counts:
                await _hold(worker, count - total)
                total = count
                held.append(await _settled(seen))
            process.kill()  # cancelling ten thousand jobs is another benchmark
    return idle, held


def memory(backend: str, smoke: bool) -> list[Figure]:
    counts = (50, 100) if smoke else (1_000, 10_000)
    floor_idle, floor = anyio.run(_memory, "raw", backend, counts)
    our_idle, ours = anyio.run(_memory, "ours", backend, counts)
    figures: list[Figure] = []
    for count, mine, theirs in zip(counts, ours, floor, strict=True):
        each = (mine - our_idle) / count / 1_000
        figures.append(
            Figure(
                what=f"memory per held job at {count:,}",
                backend=backend,
                ours=each,
                floor=(theirs - floor_idle) / count / 1_000,
                unit="kB",
                goal="≤ 25 kB",
                met=each <= 25,
            )
        )
    total = ours[-1] / 1e6
    figures.append(
        Figure(
            what=f"resident memory in all with {counts[-1]:,} held jobs",
            backend=backend,
            ours=total,
            floor=floor[-1] / 1e6,
            unit="MB",
            goal="≤ 400 MB",
            met=total <= 400,
        )
    )
    return figures


# --------------------------------------------------------- jobs per second


async def _rate(who: str, backend: str, jobs: int) -> tuple[float, float]:
    """Jobs per second with 1,000 in flight (the 50 ms before an end is reported are no limit then), and the worker's
    processor time for each, in microseconds.  A process of its own for the worker, as the peer has."""
    async with dispatcher() as server:
        with child("rate", who, backend, server.url) as process:
            worker = await server.next_worker(1)
            seen = psutil.Process(process.pid)
            gate = anyio.Semaphore(1_000)

            async def one() -> None:
                job = worker.new_job()
                await worker.run_job(job)
                await worker.until_ended(job)
                gate.release()

            async def run(count: int) -> None:
                async with anyio.create_task_group() as group:
                    for _ in range(count):
                        await gate.acquire()
                        group.start_soon(one)

            await run(min(jobs, 300))
            spent, began = sum(seen.cpu_times()[:2]), time.monotonic()
            await run(jobs)
            elapsed = time.monotonic() - began
            return jobs / elapsed, (sum(seen.cpu_times()[:2]) - spent) / jobs * 1e6


def rate(backend: str, smoke: bool) -> list[Figure]:
    rounds, jobs = (1, 100) if smoke else (3, 4_000)
    floor: list[tuple[float, float]] = []
    ours: list[tuple[float, float]] = []
    for _ in range(rounds):
        floor.append(anyio.run(_rate, "raw", backend, jobs))
        ours.append(anyio.run(_rate, "ours", backend, jobs))
    return [
        Figure(
            what="jobs per second, trivial handler",
            backend=backend,
            ours=p50([each[0] for each in ours]),
            floor=p50([each[0] for each in floor]),
            unit="/s",
            goal="≥ 30x the peer's threads",
        ),
        Figure(
            what="processor time of a trivial job, offer to final status",
            backend=backend,
            ours=p50([each[1] for each in ours]),
            floor=p50([each[1] for each in floor]),
            unit="µs",
        ),
    ]


# -------------------------------------------------------------------- idle


async def _idle(who: str, backend: str, seconds: float) -> tuple[float, float, float]:
    """Wake-ups a second, processor share in percent, resident MB."""
    async with dispatcher() as server:
        with child("idle", who, backend, server.url) as process:
            await server.next_worker(1)
            seen = psutil.Process(process.pid)
            await _settled(seen)
            switches, cpu, began = seen.num_ctx_switches().voluntary, sum(seen.cpu_times()[:2]), time.monotonic()
            await anyio.sleep(seconds)
            elapsed = time.monotonic() - began
            woken = (seen.num_ctx_switches().voluntary - switches) / elapsed
            share = 100 * (sum(seen.cpu_times()[:2]) - cpu) / elapsed
            return woken, share, seen.memory_info().rss / 1e6


def idle(backend: str, smoke: bool) -> list[Figure]:
    seconds = 1 if smoke else 20
    floor = anyio.run(_idle, "raw", backend, seconds)
    ours = anyio.run(_idle, "ours", backend, seconds)
    rows = (
        ("idle: wake-ups a second", "/s", "≤ 2 /s", ours[0] <= 2),
        ("idle: processor", "%", "≤ 0.1 %", ours[1] <= 0.1),
        ("idle: resident memory", "MB", "≤ 60 MB", ours[2] <= 60),
    )
    return [
        Figure(what=what, backend=backend, ours=mine, floor=theirs, unit=unit, goal=goal, met=met)
        for (what, unit, goal, met), mine, theirs in zip(rows, ours, floor, strict=True)
    ]


# ------------------------------------------------------------ import, help


def _wall(argv: Sequence[str]) -> float:
    began = time.perf_counter()
    subprocess.run(argv, env=environment(), check=True, capture_output=True, cwd=REPOSITORY)
    return (time.perf_counter() - began) * 1_000


def imports(smoke: bool) -> list[Figure]:
    rounds = 3 if smoke else 25
    bare: list[float] = []
    package: list[float] = []
    help_: list[float] = []
    for _ in range(rounds):
        bare.append(_wall([sys.executable, "-c", "pass"]))
        package.append(_wall([sys.executable, "-c", "import livekit_agent"]))
        help_.append(_wall([sys.executable, "-m", "livekit_agent", "--help"]))
    ratio = p50(package) / p50(bare)
    return [
        Figure(
            what="`import livekit_agent`, beside a bare interpreter",
            backend="none",
            ours=p50(package),
            floor=p50(bare),
            unit="ms",
            goal="≤ 1.5x",
            met=ratio <= 1.5,
        ),
        Figure(
            what="`livekit-agent --help`",
            backend="none",
            ours=p50(help_),
            floor=p50(bare),
            unit="ms",
            goal="≤ 150 ms",
            met=p50(help_) <= 150,
        ),
    ]


# ------------------------------------------------------- start → registered


def _start(who: str, backend: str, url: str, mode: str = "start") -> float:
    began = time.monotonic()
    with child(mode, who, backend, url, f"start-{time.monotonic_ns()}") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise RuntimeError("the worker ended before it was registered")
        return float(json.loads(line)["t"]) - began


async def _alone(who: str, backend: str) -> float:
    async with dispatcher() as server:
        return await anyio.to_thread.run_sync(_start, who, backend, server.url, "idle")


def start_alone(backend: str, smoke: bool) -> list[Figure]:
    """Without rooms and without a real server: what the SDK adds to what it stands on."""
    floor: list[float] = []
    ours: list[float] = []
    for _ in range(2 if smoke else 15):
        floor.append(anyio.run(_alone, "dependencies", backend, backend=backend))
        ours.append(anyio.run(_alone, "ours", backend, backend=backend))
    return [
        Figure(
            what="process start → registered, no rooms",
            backend=backend,
            ours=p50(ours) * 1_000,
            floor=p50(floor) * 1_000,
            unit="ms",
            goal="≤ 1.15x",
            met=p50(ours) <= 1.15 * p50(floor),
            note="the floor imports what a worker stands on, starts the loop, and that is all",
        )
    ]


def start(backend: str, smoke: bool, url: str) -> list[Figure]:
    floor: list[float] = []
    ours: list[float] = []
    for _ in range(2 if smoke else 9):
        floor.append(_start("raw", backend, url))
        ours.append(_start("ours", backend, url))
    return [
        Figure(
            what="process start → registered on a real livekit-server, native room library loaded",
            backend=backend,
            ours=p50(ours) * 1_000,
            floor=p50(floor) * 1_000,
            unit="ms",
            goal="≤ 350 ms",
            met=p50(ours) <= 0.35,
            note="the floor loads no room library",
        )
    ]
