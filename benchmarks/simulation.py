"""How fast the simulation is, and where its time goes: ``python -m benchmarks.simulation [--smoke] [--write]``.

The load is the goal's: one worker, 100 jobs an hour in rooms of their own, handlers of up to a minute with up to two
children, every second with clean-ups; no faults, so that an hour is an hour of work.  All that a search does is on: the
trace and its hash, every checker, the recorder and its replays.  Time is this process's processor time, of whole runs
with all four acts; medians.  Of engine (a) there is also the engine alone, two cores and the bytes between them, which
is what its goal is about.

``--write`` puts both tables into docs/simulation.md, between its two markers.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import logging
import pstats
import random
import re
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from livekit_agent.simulation._cores import CoreWorld
from livekit_agent.simulation._engine import CORES, simulate
from livekit_agent.simulation._scenario import TYPES, JobPlan, Scenario, WorkerPlan, generate
from livekit_agent.simulation._trace import Note, Trace, Value

from .report import Figure, machine, number, p50, table

BACKENDS = ("asyncio", "trio")
JOBS_PER_HOUR = 100
PAGE = Path(__file__).resolve().parents[1] / "docs" / "simulation.md"
BEGIN, END = "<!-- speed: written by python -m benchmarks.simulation --write -->", "<!-- end of speed -->"

Row = tuple[str, float | None, float | None]
"""What it says, the goal, the wish."""

ALONE: Row = ("core against core through bytes, server pings included", 15.0, 25.0)
JUDGED: Row = ("core against core with trace, judges and replays", None, None)
WHOLE: Row = ("the whole SDK with rooms", 0.7, 2.0)


def quiet_hours(hours: float, seed: int, *, workers: int = 1) -> Scenario:
    """A history without faults at the load of the goals; jobs in turns for the workers' types."""
    rng = random.Random(f"quiet:{seed}")
    span = 3600 * hours
    count = max(round(JOBS_PER_HOUR * hours), workers)
    types = TYPES[:workers]
    jobs = [
        JobPlan(
            at=rng.uniform(1.0, max(span - 60.0, 2.0)),
            type=types[index % workers],
            room=f"room-{index}",
            seconds=rng.uniform(0.0, 60.0),
            children=index % 3,
            cleanup=0.5 * (index % 2),
        )
        for index in range(count)
    ]
    return Scenario(
        seed=seed,
        scheduler_seed=seed,
        chaos_seconds=span,
        workers=tuple(WorkerPlan(type=kind) for kind in types),
        jobs=tuple(sorted(jobs, key=lambda job: job.at)),
    )


def hours_per_second(engine: str, scenario: Scenario) -> float:
    """Simulated hours for each second of processor time; nothing may have been broken meanwhile."""
    began = time.process_time()
    verdict = simulate(scenario, backend=engine)
    took = time.process_time() - began
    assert not verdict.violations, verdict.violations[0]
    assert not verdict.crash, verdict.crash
    return verdict.seconds / 3600 / took


_NOTHING = Note(0.0, "", "", "", "", {})


class _Unwritten(Trace):
    """A trace that keeps nothing."""

    def write(self, t: float, who: str, what: str, kind: str, job: str, data: dict[str, Value]) -> Note:
        """Nobody reads it."""
        return _NOTHING

    def step(self, number: int) -> None:
        """Nobody counts them."""

    def draw(self, t: float, purpose: str, value: float) -> None:
        """Nobody compares them."""


def alone(_: str, scenario: Scenario) -> float:
    """Simulated hours for each second of processor time of engine (a) with nobody who looks on."""
    world = CoreWorld(scenario, _Unwritten())
    gc.collect()
    gc.disable()  # as a search does
    began = time.process_time()
    world.live()
    took = time.process_time() - began
    gc.enable()
    assert all(worker.registered for worker in world.workers)
    return world.now / 3600 / took


def measure(backend: str, smoke: bool) -> list[Figure]:
    """The rows of one backend; ``cores`` for engine (a)."""
    with _unlogged():
        if backend != CORES:
            return [
                _speed(backend, smoke, 1, WHOLE, hours_per_second),
                _speed(backend, smoke, 3, WHOLE, hours_per_second),
                _chaos(backend, smoke),
            ]
        return [
            _speed(backend, smoke, 1, ALONE, alone),
            _speed(backend, smoke, 1, JUDGED, hours_per_second),
            _speed(backend, smoke, 3, JUDGED, hours_per_second),
            _chaos(backend, smoke),
        ]


@contextmanager
def _unlogged() -> Iterator[None]:
    """The package's warnings are what is being simulated."""
    logger = logging.getLogger("livekit_agent")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(level)


def _speed(backend: str, smoke: bool, workers: int, row: Row, speed: Callable[[str, Scenario], float]) -> Figure:
    what, goal, wish = row
    runs, hours = (2, 0.05) if smoke else (9, 0.5)
    speed(backend, quiet_hours(0.02, 0, workers=workers))  # imports, caches
    reached = p50([speed(backend, quiet_hours(hours, seed, workers=workers)) for seed in range(runs)])
    judged = goal is not None and workers == 1
    return Figure(
        what=f"simulated hours a second, {what}, {workers} worker{'s' * (workers > 1)}, {JOBS_PER_HOUR} jobs an hour",
        backend="none" if backend == CORES else backend,
        ours=reached,
        unit="h/s",
        goal=f"≥ {goal:g}, wished {wish:g}" if judged else "",
        met=reached >= goal if judged else None,
    )


def _chaos(backend: str, smoke: bool) -> Figure:
    seeds = range(3 if smoke else 40)
    took: list[float] = []
    for seed in seeds:
        began = time.process_time()
        simulate(generate(seed), backend=backend)
        took.append(time.process_time() - began)
    what = "seeds of chaos and heal a second"
    return Figure(what=what, backend="none" if backend == CORES else backend, ours=len(took) / sum(took), unit="/s")


# ------------------------------------------------------------------------------------------------ where the time goes

#: The first pattern that a file's path matches names the row it counts for.
AREAS: tuple[tuple[str, str], ...] = (
    (r"simulation/_(trace|judge|history|checkers\w*|goals|tap|frames)\.py", "trace, hash, checkers"),
    (r"simulation/_(recorder|shields)\.py", "recorder and replays, without what they call"),
    (r"simulation/_(asyncio_loop|runtime)\.py", "the event loop"),
    (r"simulation/", "simulated network, people, clocks, the scripted handler"),
    (r"livekit_agent/protocol/", "protocol core and codec, both ends"),
    (r"livekit_agent/dispatch/", "dispatch server"),
    (r"livekit_agent/runtime/|livekit_agent/(context|monitoring)", "worker and jobs"),
    (r"livekit_agent/rooms/", "rooms in memory"),
    (r"livekit_agent/", "the rest of the package"),
    (r"wsproto|h11", "wsproto and h11"),
    (r"/jwt/|google/protobuf", "tokens, protobuf in Python"),
    (r"/(trio|outcome)/|/asyncio/", "the event loop"),
    (r"/anyio/", "AnyIO"),
    (r"", "the standard library"),
)


def shares(engine: str, hours: float) -> dict[str, float]:
    """Area → its share of the processor time; what C functions take counts for who calls them."""
    simulate(quiet_hours(0.02, 0), backend=engine)
    profile = cProfile.Profile(time.process_time)
    scenario = quiet_hours(hours, 1)
    profile.enable()
    simulate(scenario, backend=engine)
    profile.disable()
    stats: Any = pstats.Stats(profile)
    own: Counter[str] = Counter()
    for (path, _, _), (_, _, took, _, callers) in stats.stats.items():
        if path == "~" and callers:
            for (caller, _, _), row in callers.items():
                own[_area(caller)] += row[2]
        else:
            own[_area(path)] += took
    total = sum(own.values())
    return {name: took / total for name, took in own.items()}


def _area(path: str) -> str:
    return next(name for pattern, name in AREAS if re.search(pattern, path))


def profile_table(smoke: bool) -> str:
    """Shares of both backends and of engine (a), side by side."""
    with _unlogged():
        columns = {engine: shares(engine, 0.05 if smoke else 1.0) for engine in (*BACKENDS, CORES)}
    names = list(dict.fromkeys(name for _, name in AREAS))
    names.sort(key=lambda name: -columns["trio"].get(name, 0.0))
    rows = ["| where | asyncio | trio | core against core |", "|---|--:|--:|--:|"]
    rows += [
        f"| {name} | " + " | ".join(f"{100 * column.get(name, 0.0):.0f} %" for column in columns.values()) + " |"
        for name in names
    ]
    return "\n".join(rows)


def speed_table(figures: list[Figure]) -> str:
    """The figures for a page that has no floors and no peers."""
    rows = ["| what | on | reached | goal |", "|---|---|--:|---|"]
    rows += [f"| {f.what} | {f.backend} | {number(f.ours)} {f.unit} | {f.goal} |" for f in figures]
    return "\n".join(rows)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.simulation", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/simulation.md")
    arguments = parser.parse_args()
    figures = [figure for engine in (*BACKENDS, CORES) for figure in measure(engine, arguments.smoke)]
    print(table(figures), file=sys.stderr, flush=True)
    text = f"{speed_table(figures)}\n\n{profile_table(arguments.smoke)}\n\nMachine: {machine()}."
    print(text)
    if arguments.write:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.index(BEGIN) + len(BEGIN), page.index(END)
        PAGE.write_text(f"{page[:before]}\n{text}\n{page[after:]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
