"""Find the mutants: search seeds on each backend until the simulation catches each, and keep a small scenario of it.

``python -m tests.mutants.search [--mutant NAME …] [--seeds 2000] [--go-on]`` from the repository's root.

What was found goes into ``results/search.json``, from which ``pages.py`` makes the table in docs; a mutant that has no
scenario file gets one, made smaller.  With ``--go-on`` what was found stays, and what was not is searched for from
where the search ended.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
from typing import Any

from livekit_agent.simulation._checkers import CHECKERS
from livekit_agent.simulation._engine import Verdict, simulate
from livekit_agent.simulation._scenario import Scenario, generate

from .catalog import MUTANTS, RESULTS, Mutant

__all__ = ["BACKENDS", "FOUND", "caught", "main"]

BACKENDS = ("asyncio", "trio")
FOUND = RESULTS / "search.json"
SEEDS = 2000
_SHRINK_SECONDS = 8.0


def caught(mutant: Mutant, verdict: Verdict) -> str:
    """The invariant that caught it; empty for none."""
    broken = {violation.name for violation in verdict.violations}
    return next((name for name in mutant.caught_by if name in broken), "")


def find(mutant: Mutant, backend: str, seeds: range) -> tuple[int, str] | None:
    """(the seed, the invariant): the first in which the mutant is caught and the unharmed program passes."""
    for seed in seeds:
        with mutant.applied():
            name = caught(mutant, simulate(generate(seed), backend=backend))
        if name and not simulate(generate(seed), backend=backend).violations:
            return seed, name
    return None


def _holds(mutant: Mutant, scenario: Scenario, backend: str, name: str) -> bool:
    with mutant.applied():
        broken = simulate(scenario, backend=backend).violations
    # On the other backend as well the unharmed program must pass.
    return any(v.name == name for v in broken) and not any(
        simulate(scenario, backend=each).violations for each in BACKENDS
    )


def smaller(mutant: Mutant, scenario: Scenario, backend: str, name: str) -> Scenario:
    """A simpler scenario in which the same invariant still catches it, as far as the time goes."""
    until = time.monotonic() + _SHRINK_SECONDS
    progress = True
    while progress and time.monotonic() < until:
        progress = False
        for candidate in scenario.smaller():
            if time.monotonic() >= until:
                break
            if _holds(mutant, candidate, backend, name):
                scenario, progress = candidate, True
                break
    return scenario


def search(mutant: Mutant, seeds: int, before: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """A row of the results: by backend the seeds that it took (None: not found) and the invariant."""
    row = dict(before)
    for backend in BACKENDS:
        cell = before.get(backend, {"seeds": None, "within": 0})
        if cell["seeds"] is not None or cell["within"] >= seeds:
            continue
        result = find(mutant, backend, range(cell["within"], seeds))
        if result is None:
            row[backend] = {"within": seeds, "seeds": None}
            continue
        seed, name = result
        row[backend] = {"within": seeds, "seeds": seed + 1, "invariant": name}
        if mutant.scenario is None:
            path = mutant.scenario_on(backend)
            path.write_text(smaller(mutant, generate(seed), backend, name).to_json() + "\n", encoding="utf-8")
    return row


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutant", action="append", choices=list(MUTANTS))
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--go-on", action="store_true")
    arguments = parser.parse_args()
    logging.getLogger("livekit_agent").setLevel(logging.CRITICAL + 1)  # what it warns of is what is being simulated
    assert all(name in {c.name for c in CHECKERS} for mutant in MUTANTS.values() for name in mutant.caught_by)
    for mutant in MUTANTS.values():
        rows: dict[str, Any] = json.loads(FOUND.read_text(encoding="utf-8")) if FOUND.exists() else {}
        if arguments.mutant and mutant.name not in arguments.mutant:
            continue
        began = time.monotonic()
        rows[mutant.name] = row = search(mutant, arguments.seeds, rows.get(mutant.name, {}) if arguments.go_on else {})
        rows = {name: rows[name] for name in MUTANTS if name in rows}
        FOUND.parent.mkdir(exist_ok=True)
        FOUND.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        told = ", ".join(f"{backend} {cell['seeds']} {cell.get('invariant', '')}" for backend, cell in row.items())
        print(f"{mutant.name}: {told}; {time.monotonic() - began:.0f} s", flush=True)
    missed = [name for name, row in rows.items() if all(cell["seeds"] is None for cell in row.values())]
    print("not found: " + (", ".join(missed) or "none"))
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
