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

from . import pages
from ._edits import DoesNotApply, Line, Name, Row, applied
from .catalog import MUTANTS, SCENARIOS, Mutant

FOUND = [mutant for mutant in MUTANTS.values() if mutant.scenario is not None]


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """What the worker warns of is what is being simulated."""
    logger = logging.getLogger("livekit_agent")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    yield
    logger.setLevel(level)


def scenario_of(mutant: Mutant) -> tuple[Scenario, str]:
    """The scenario, and the backend that it was found on."""
    assert mutant.scenario is not None
    path, backend = mutant.scenario
    return Scenario.from_json(path.read_text(encoding="utf-8")), backend


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


def test_each_has_a_scenario_in_which_it_is_found() -> None:
    assert [name for name, mutant in MUTANTS.items() if mutant.scenario is None] == []


def test_each_names_invariants_that_exist() -> None:
    names = {checker.name for checker in CHECKERS}
    assert [mutant.name for mutant in MUTANTS.values() if not mutant.caught_by or {*mutant.caught_by} - names] == []


@pytest.mark.parametrize("mutant", MUTANTS.values(), ids=lambda mutant: mutant.name)
def test_it_applies_to_the_present_source(mutant: Mutant) -> None:
    with mutant.applied():
        pass


def test_every_scenario_belongs_to_a_mutant() -> None:
    assert {path.stem.partition(".")[0] for path in SCENARIOS.glob("*.json")} <= {*MUTANTS}


# ------------------------------------------------------------------------------------ the pages about them


def test_twenty_are_found_and_ten_of_them_by_nothing_but_the_simulation() -> None:
    """By the recorded results: ``nox -s mutants`` for the search, ``nox -s survivors`` for the ordinary tests."""
    found = {name for name, row in pages.searched().items() if pages.is_found(row)}
    assert len(found) >= 20
    assert len({name for name, killer in pages.ordinary().items() if not killer} & found) >= 10


def test_of_the_cores_mutants_enough_are_killed_and_each_survivor_is_explained() -> None:
    """By the recorded result of ``nox -s mutation``."""
    rows = pages.mutation()
    survivors = [row for row in rows if not row.killer]
    assert len(rows) > 500
    assert len(survivors) <= 0.15 * len(rows)
    reasons = pages.reasons()
    assert [row.key for row in survivors if row.key not in reasons] == []
    assert [key for key in reasons if key not in {row.key for row in survivors}] == [], "killed by now"


def test_the_pages_say_what_was_recorded() -> None:
    assert [path.name for path, text in pages.written().items() if path.read_text(encoding="utf-8") != text] == []


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
