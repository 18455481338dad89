"""Running scenarios on either engine: one run, its verdict as a value."""

from __future__ import annotations

import gc
import traceback
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from ..runtime._outcome import only_leaf
from ._checkers import CHECKERS, Checker, Jury, Violation
from ._cores import CoreWorld
from ._goals import Goals
from ._recorder import recorded
from ._runtime import run_virtual
from ._scenario import Scenario
from ._shields import watched_shields
from ._trace import Note, Trace, Value
from ._world import World

__all__ = ["CORES", "Verdict", "simulate"]

CORES = "cores"
"""In place of a backend: engine (a), core against core without an event loop.  Faults that need streams, tasks or rooms
do not strike there, and what only those show is not judged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a run came to."""

    scenario: Scenario
    backend: str
    digest: str
    seconds: float
    """Virtual."""
    jobs: int
    """Jobs that a worker was assigned."""
    faults: int
    """Faults that took effect."""
    violations: tuple[Violation, ...] = ()
    evaluated: dict[str, int] = field(default_factory=dict[str, int])
    """How often each invariant was evaluated."""
    goals: frozenset[str] = frozenset()
    trace: Trace = field(default_factory=Trace, repr=False)
    crash: str = field(default="", repr=False)
    """The traceback of what came out of the run; empty when it came to its end."""


def simulate(scenario: Scenario, *, backend: str = "asyncio", checkers: Sequence[type[Checker]] = CHECKERS) -> Verdict:
    """Live through a scenario and judge it.  ``backend``: ``asyncio``, ``trio``, or :data:`CORES`."""
    trace = Trace()
    jury = Jury(scenario, checkers)
    goals = Goals(jury.history)
    trace.observe(jury.see)
    trace.observe(goals.see)
    crash = ""
    try:
        with _uncollected():
            if backend == CORES:
                cores = CoreWorld(scenario, trace)
                with recorded(cores.note, scenario.seed):
                    cores.run()
            else:
                world = World(scenario, trace, backend)
                with watched_shields(backend, world.on_shield):
                    run_virtual(world.run, backend=backend, seed=scenario.scheduler_seed, on_step=trace.step)
    except Exception as exc:
        # The search's boundary: whatever came out of the run is a finding, not the end of the search.
        crash = "".join(traceback.format_exception(exc))
        last = trace.notes[-1].t if trace.notes else 0.0
        trace.note(last, "world", "crash", type(exc).__name__, "", text=only_leaf(exc).__class__.__name__)
    jury.finish()
    end = trace.notes[-1].t
    for judge in jury.checkers:
        row: dict[str, Value] = {"evaluated": judge.evaluated, "broken": len(judge.violations)}
        trace.keep(Note(end, "jury", "verdict", judge.name, "", row))
    return Verdict(
        scenario=scenario,
        backend=backend,
        digest=trace.digest(),
        seconds=end,
        jobs=sum(1 for n in trace.notes if n.what == "stage" and n.kind == "assign"),
        faults=sum(1 for n in trace.notes if n.what == "fault"),
        violations=tuple(jury.violations),
        evaluated={judge.name: judge.evaluated for judge in jury.checkers},
        goals=frozenset(goals.reached),
        trace=trace,
        crash=crash,
    )


@contextmanager
def _uncollected() -> Generator[None]:
    """Inside the block cyclic garbage stays where it is: what a collection finalises it finalises at an instant that
    the heap's history decides, not the seed.  And a run is short; collecting during it took a twelfth of its time."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
