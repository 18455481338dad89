"""Running scenarios: one run of engine (b), its verdict as a value."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ._checkers import CHECKERS, Checker, Violation
from ._goals import reached
from ._runtime import run_virtual
from ._scenario import Scenario
from ._trace import Trace
from ._world import World

__all__ = ["Verdict", "simulate"]


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


def simulate(scenario: Scenario, *, backend: str = "asyncio", checkers: Sequence[type[Checker]] = CHECKERS) -> Verdict:
    """Live through a scenario and judge it."""
    trace = Trace()
    judges = [checker(scenario) for checker in checkers]
    for judge in judges:
        trace.observe(judge.see)
    world = World(scenario, trace)
    run_virtual(world.run, backend=backend, seed=scenario.scheduler_seed, on_step=trace.step)
    for judge in judges:
        judge.finish()
    return Verdict(
        scenario=scenario,
        backend=backend,
        digest=trace.digest(),
        seconds=trace.notes[-1].t,
        jobs=sum(1 for n in trace.notes if n.what == "hear" and n.kind == "assignment"),
        faults=sum(1 for n in trace.notes if n.what == "fault"),
        violations=tuple(v for judge in judges for v in judge.violations),
        evaluated={judge.name: judge.evaluated for judge in judges},
        goals=frozenset(reached(trace.notes)),
        trace=trace,
    )
