"""Living through seeds in other processes: what the tests of whole seed sets share."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

from livekit_agent.simulation._engine import simulate
from livekit_agent.simulation._overheard import overheard
from livekit_agent.simulation._scenario import generate
from livekit_agent.simulation._search import replay_command


@dataclass(frozen=True, kw_only=True)
class Lived:
    """What is kept of a run."""

    seed: int
    digest: str
    seconds: float
    chaos: float
    jobs: int
    types: frozenset[str]
    """Of the jobs that workers were given."""
    faults: int
    violations: tuple[str, ...]
    evaluated: dict[str, int]
    goals: frozenset[str]
    leaks: tuple[str, ...]
    """Log records that show a secret."""
    replay: str


def live(backend: str, seed: int) -> Lived:
    """One seed."""
    scenario = generate(seed)
    with overheard() as ear:
        verdict = simulate(scenario, backend=backend)
    notes = verdict.trace.notes
    lives = {note.who: str(note.data["type"]) for note in notes if note.what == "worker" and note.kind == "started"}
    healed = [note.t for note in notes if note.what == "act" and note.kind == "heal"]
    return Lived(
        seed=seed,
        digest=verdict.digest,
        seconds=verdict.seconds,
        chaos=healed[0] if healed else 0.0,
        jobs=verdict.jobs,
        types=frozenset(lives[note.who] for note in notes if note.what == "stage" and note.kind == "assign"),
        faults=verdict.faults,
        violations=tuple(f"{v.name} at {v.t:g}: {v.what}" for v in verdict.violations),
        evaluated=verdict.evaluated,
        goals=verdict.goals,
        leaks=tuple(ear.leaks),
        replay=replay_command(seed, backend),
    )


def live_all(backend: str, seeds: Iterable[int]) -> Iterator[Lived]:
    """Every seed, on all processors."""
    numbers = list(seeds)
    processes = min(os.cpu_count() or 1, 8)
    if processes == 1 or len(numbers) < 4:
        yield from (live(backend, seed) for seed in numbers)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        yield from pool.map(live, [backend] * len(numbers), numbers, chunksize=4)
