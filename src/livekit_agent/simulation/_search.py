"""Searching seeds, and making what was found small.

Shrinking edits the scenario, which is a value, and keeps an edit only if the *same* invariant is still violated: a
smaller history that breaks another promise is another finding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from statistics import median

from ._checkers import CHECKERS
from ._engine import Verdict, simulate
from ._goals import GOALS
from ._scenario import Scenario, generate

__all__ = ["Summary", "replay_command", "search", "shrink"]

_SHRINK_RUNS = 300


@dataclass(slots=True, kw_only=True)
class Summary:
    """What a set of runs came to."""

    runs: int = 0
    seconds: float = 0.0
    """Virtual."""
    jobs: list[int] = field(default_factory=list[int])
    faults: list[int] = field(default_factory=list[int])
    violations: Counter[str] = field(default_factory=Counter[str])
    goals: Counter[str] = field(default_factory=Counter[str])
    evaluated: Counter[str] = field(default_factory=Counter[str])
    records: int = 0
    """Log records that were read for secrets; none unless somebody listened."""
    leaks: list[str] = field(default_factory=list[str])
    """Those that show one."""

    def add(self, verdict: Verdict) -> None:
        """Count a run."""
        self.runs += 1
        self.seconds += verdict.seconds
        self.jobs.append(verdict.jobs)
        self.faults.append(verdict.faults)
        self.violations.update(v.name for v in verdict.violations)
        self.goals.update(verdict.goals)
        self.evaluated.update(verdict.evaluated)

    @property
    def hours(self) -> float:
        """Simulated hours."""
        return self.seconds / 3600

    @property
    def median_jobs(self) -> float:
        """Jobs of the middle run."""
        return median(self.jobs) if self.jobs else 0

    @property
    def median_faults(self) -> float:
        """Faults that took effect in the middle run."""
        return median(self.faults) if self.faults else 0

    def missed(self) -> list[str]:
        """Goals that no run reached."""
        return [goal for goal in GOALS if not self.goals[goal]]

    def idle(self) -> list[str]:
        """Invariants that were never evaluated: a check that cannot fail proves nothing."""
        return [checker.name for checker in CHECKERS if not self.evaluated[checker.name]]


def search(
    seeds: Iterable[int],
    *,
    backend: str,
    kinds: tuple[str, ...] | None = None,
    run: Callable[..., Verdict] = simulate,
) -> Iterator[Verdict]:
    """The verdict of each seed, in order."""
    for seed in seeds:
        yield run(generate(seed, kinds=kinds), backend=backend)


def shrink(
    scenario: Scenario,
    name: str,
    *,
    backend: str,
    runs: int = _SHRINK_RUNS,
    run: Callable[..., Verdict] = simulate,
) -> Scenario:
    """A smaller scenario that still violates the invariant ``name``; at most ``runs`` runs are spent on it.

    Greedy: the first simpler scenario that still fails is taken and simplified further, until none does.
    """
    spent = 0
    progress = True
    while progress:
        progress = False
        for candidate in scenario.smaller():
            if spent >= runs:
                return scenario
            spent += 1
            verdict = run(candidate, backend=backend)
            if any(violation.name == name for violation in verdict.violations):
                scenario = candidate
                progress = True
                break
    return scenario


def replay_command(seed: int, backend: str, kinds: tuple[str, ...] | None = None) -> str:
    """The one command that lives through a seed again; ``kinds`` as the search was restricted to."""
    restricted = f" --faults {','.join(kinds)}" if kinds else ""
    return f"livekit-agent simulate --backend {backend} --seed {seed:#x}{restricted}"
