"""Find the mutants: search seeds until the simulation catches each, make the scenario smaller, write the table.

``python -m tests.mutants.search [--mutant NAME] [--seeds 2000] [--keep]`` from the repository's root.  With ``--keep``
only mutants whose committed scenario no longer finds them are searched for.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from livekit_agent.simulation._checkers import CHECKERS
from livekit_agent.simulation._engine import Verdict, simulate
from livekit_agent.simulation._scenario import Scenario, generate

from .catalog import MUTANTS, Mutant

__all__ = ["caught", "main"]

BACKENDS = ("asyncio", "trio")
SEEDS = 2000
_SHRINK_SECONDS = 8.0


def caught(mutant: Mutant, verdict: Verdict) -> str:
    """The invariant that caught it; empty for none."""
    broken = {violation.name for violation in verdict.violations}
    return next((name for name in mutant.caught_by if name in broken), "")


def find(mutant: Mutant, seeds: int, first: int = 0) -> tuple[int, str, str] | None:
    """(seeds needed, backend, invariant): even seeds on asyncio, odd ones on trio."""
    for number in range(first, first + seeds):
        backend = BACKENDS[number % 2]
        with mutant.applied():
            name = caught(mutant, simulate(generate(number), backend=backend))
        if name and not simulate(generate(number), backend=backend).violations:
            return number - first + 1, backend, name
    return None


def _holds(mutant: Mutant, scenario: Scenario, backend: str, name: str) -> bool:
    with mutant.applied():
        broken = simulate(scenario, backend=backend).violations
    # On the other backend as well the unharmed program must pass: the file is replayed on both.
    return any(v.name == name for v in broken) and not any(
        simulate(scenario, backend=each).violations for each in BACKENDS
    )


def smaller(mutant: Mutant, scenario: Scenario, backend: str, name: str) -> Scenario:
    """A simpler scenario in which the same invariant still catches it, as far as the time goes."""
    until = time.monotonic() + _SHRINK_SECONDS

    def simpler() -> Iterator[Scenario]:
        return scenario.smaller()

    progress = True
    while progress and time.monotonic() < until:
        progress = False
        for candidate in simpler():
            if time.monotonic() >= until:
                break
            if _holds(mutant, candidate, backend, name):
                scenario, progress = candidate, True
                break
    return scenario


def replay(mutant: Mutant) -> dict[str, str]:
    """The invariant that catches it in its committed scenario, on each backend where one does."""
    if not mutant.scenario.exists():
        return {}
    scenario = Scenario.from_json(mutant.scenario.read_text())
    found: dict[str, str] = {}
    for backend in BACKENDS:
        with mutant.applied():
            name = caught(mutant, simulate(scenario, backend=backend))
        if name:
            found[backend] = name
    return found


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mutant", action="append", choices=list(MUTANTS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--table", type=Path)
    arguments = parser.parse_args()
    logging.getLogger("livekit_agent").setLevel(logging.CRITICAL + 1)  # what it warns of is what is being simulated
    assert all(name in {c.name for c in CHECKERS} for mutant in MUTANTS.values() for name in mutant.caught_by)
    rows: list[str] = []
    missed = 0
    for mutant in MUTANTS.values():
        if arguments.mutant and mutant.name not in arguments.mutant:
            continue
        if arguments.keep and replay(mutant):
            continue
        began = time.monotonic()
        result = find(mutant, arguments.seeds)
        if result is None:
            missed += 1
            row = f"| `{mutant.name}` | {mutant.about} | not found | {arguments.seeds} | |"
        else:
            seeds, backend, name = result
            scenario = smaller(mutant, generate(seeds - 1), backend, name)
            mutant.scenario.write_text(scenario.to_json() + "\n")
            row = f"| `{mutant.name}` | {mutant.about} | {name} | {seeds} | {backend} |"
        rows.append(row)
        print(row, f"{time.monotonic() - began:.0f} s", flush=True)
    if arguments.table is not None:
        arguments.table.write_text("\n".join(rows) + "\n")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
