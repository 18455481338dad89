"""The simulation can find bugs: each mutant is caught in its scenario, by an invariant that it names; the unharmed
program passes there.  A mutant that no longer applies fails.

The search that found the scenarios is ``nox -s mutants``.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from livekit_agent.simulation._checkers import CHECKERS
from livekit_agent.simulation._engine import simulate
from livekit_agent.simulation._scenario import Scenario

from ._edits import DoesNotApply, Line, Name, Row, applied
from .catalog import MUTANTS, SCENARIOS, Mutant

FOUND = [mutant for mutant in MUTANTS.values() if mutant.scenario.exists()]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What the worker warns of is what is being simulated."""
    logger = logging.getLogger("livekit_agent")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def scenario_of(mutant: Mutant) -> tuple[Scenario, str]:
    """The scenario and the backend that it was found on: the seed's parity, as in the search."""
    scenario = Scenario.from_json(mutant.scenario.read_text())
    return scenario, "trio" if scenario.seed % 2 else "asyncio"


@pytest.mark.parametrize("mutant", FOUND, ids=lambda mutant: mutant.name)
def test_the_simulation_catches_it(mutant: Mutant) -> None:
    scenario, backend = scenario_of(mutant)
    with mutant.applied():
        verdict = simulate(scenario, backend=backend)
    broken = {violation.name for violation in verdict.violations}
    assert broken & {*mutant.caught_by}, f"not caught; python -m tests.mutants.search --mutant {mutant.name}"


@pytest.mark.parametrize("mutant", FOUND, ids=lambda mutant: mutant.name)
def test_the_unharmed_program_passes_the_same_scenario(mutant: Mutant) -> None:
    scenario, backend = scenario_of(mutant)
    verdict = simulate(scenario, backend=backend)
    assert verdict.violations == (), verdict.violations[0].what


def test_there_are_enough_of_them() -> None:
    assert len(FOUND) >= 20


def test_each_names_invariants_that_exist() -> None:
    names = {checker.name for checker in CHECKERS}
    assert [mutant.name for mutant in MUTANTS.values() if not mutant.caught_by or {*mutant.caught_by} - names] == []


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_it_applies_to_the_present_source(mutant: Mutant) -> None:
    with mutant.applied():
        pass


def test_every_scenario_belongs_to_a_mutant() -> None:
    assert {path.stem for path in SCENARIOS.glob("*.json")} <= {*MUTANTS}


# ------------------------------------------------------------------------------------ the edits themselves


def test_a_line_is_changed_inside_the_block_only() -> None:
    from livekit_agent.protocol._lifecycle import Backoff

    before = Backoff.reset.__code__
    with applied([Line("protocol._lifecycle:Backoff.reset", "self._attempt = 0", "self._attempt = 7")]):
        assert Backoff.reset.__code__ is not before
        assert Backoff.reset.__code__.co_qualname == before.co_qualname
    assert Backoff.reset.__code__ is before


@pytest.mark.parametrize(
    "edit",
    [
        Line("protocol._lifecycle:Backoff.reset", "not there", "x"),
        Line("protocol._lifecycle:Backoff.gone", "x", "y"),
        Line("protocol._lifecycle:Backoff.reset", "self._attempt = 0", "self._attempt = 0"),
        Name("protocol._lifecycle:GONE", 1),
        Name("protocol._lifecycle:__name__", "livekit_agent.protocol._lifecycle"),
        Row("protocol._state:JOB", ("no row", "x"), 1),
    ],
)
def test_what_does_not_apply_says_so(edit: Line | Name | Row) -> None:
    with pytest.raises(DoesNotApply), applied([edit]):
        pass
