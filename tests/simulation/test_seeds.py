"""Seeds of chaos and heal: every promise holds, each seed is worth its name, and together they get everywhere.

``LIVEKIT_AGENT_SEEDS`` says how many seeds per backend (30 without it), ``LIVEKIT_AGENT_FIRST_SEED`` where to begin.
CI lives through 500 by ``livekit-agent simulate --complete``.
"""

from __future__ import annotations

import logging
import os
import threading
from collections import Counter

import pytest

from livekit_agent.simulation._checkers import CHECKERS
from livekit_agent.simulation._checkers_structure import S1_nothing_left
from livekit_agent.simulation._engine import CORES, simulate
from livekit_agent.simulation._goals import GOALS
from livekit_agent.simulation._judge import Checker
from livekit_agent.simulation._overheard import overheard
from livekit_agent.simulation._scenario import FAULTS_MIN, JOBS_MIN, TYPES, JobPlan, Scenario, WorkerPlan, generate
from livekit_agent.simulation._search import replay_command
from livekit_agent.simulation._trace import Note

from .seeds import Lived, live_all

SEEDS = int(os.environ.get("LIVEKIT_AGENT_SEEDS", "30"))
FIRST = int(os.environ.get("LIVEKIT_AGENT_FIRST_SEED", "0"))

#: So many seeds reach every goal and evaluate every invariant; fewer may not.
ENOUGH = 400

pytestmark = pytest.mark.timeout(60 + 5 * SEEDS)


@pytest.mark.long
def test_seeds_keep_every_promise_and_are_worth_their_name(backend: str) -> None:
    """All that is asked of a set of seeds, in one test: lived through once, they answer every question."""
    runs = list(live_all(backend, range(FIRST, FIRST + SEEDS)))
    assert len(runs) == SEEDS
    no_promise_is_broken(runs)
    no_log_record_shows_a_secret(runs)
    each_has_two_minutes_of_chaos_eight_jobs_of_all_types_and_three_faults(runs)
    nobody_reaches_a_goal_that_is_not_named(runs)
    if SEEDS >= ENOUGH:
        every_goal_is_reached(runs)
        every_invariant_is_evaluated(runs)


def no_promise_is_broken(runs: list[Lived]) -> None:
    broken = [run for run in runs if run.violations]
    report = "\n".join(f"{run.replay}\n    " + "\n    ".join(run.violations[:5]) for run in broken)
    assert not broken, f"{len(broken)} seeds break promises:\n{report}"


def no_log_record_shows_a_secret(runs: list[Lived]) -> None:
    """Read at DEBUG, whatever went wrong in them.  CI's thousand are read by ``simulate --complete``."""
    assert [f"{run.replay}\n    {leak}" for run in runs for leak in run.leaks] == []


def each_has_two_minutes_of_chaos_eight_jobs_of_all_types_and_three_faults(runs: list[Lived]) -> None:
    for run in runs:
        assert run.chaos >= 120.0, run.replay
        assert run.jobs >= JOBS_MIN, run.replay
        assert run.types == set(TYPES), run.replay
        assert run.faults >= FAULTS_MIN, run.replay


def nobody_reaches_a_goal_that_is_not_named(runs: list[Lived]) -> None:
    assert {goal for run in runs for goal in run.goals} <= set(GOALS)


def every_goal_is_reached(runs: list[Lived]) -> None:
    reached = {goal for run in runs for goal in run.goals}
    assert [goal for goal in GOALS if goal not in reached] == []


def every_invariant_is_evaluated(runs: list[Lived]) -> None:
    evaluated: Counter[str] = Counter()
    for run in runs:
        evaluated.update(run.evaluated)
    assert [checker.name for checker in CHECKERS if not evaluated[checker.name]] == []


def test_there_are_thirty_goals() -> None:
    assert len(GOALS) >= 30


def test_what_is_overheard_would_be_found() -> None:
    with overheard() as ear:
        logging.getLogger("livekit_agent.anything").debug("joining with %s", {"token": "eyJhbGciOi"})
        logging.getLogger("livekit_agent").warning("harmless: AJ_tyeyJE66dhKh, AJ_eyJE66dhKh3t")
    assert (ear.read, ear.leaks) == (2, ["joining with {'token': 'eyJhbGciOi'}"])


def test_a_thread_that_was_there_before_and_ends_meanwhile_is_nobodys_leak(backend: str) -> None:
    """trio keeps idle threads for ten seconds: one of an earlier run may go at any time."""
    enough = threading.Event()
    idle = threading.Thread(target=enough.wait)
    idle.start()

    class Dismisses(Checker):
        """Lets the thread end as soon as the run has begun."""

        watches = ("act chaos",)

        def look(self, note: Note) -> None:
            enough.set()
            idle.join()

    verdict = simulate(generate(1), backend=backend, checkers=(Dismisses, S1_nothing_left))
    assert not idle.is_alive()
    assert verdict.violations == ()


def test_a_seed_has_one_to_three_workers_that_serve_all_types_between_them() -> None:
    numbers: Counter[int] = Counter()
    for seed in range(200):
        workers = generate(seed).workers
        numbers[len(workers)] += 1
        assert {name for worker in workers for name in worker.types} == set(TYPES)
        assert all(10.0 <= worker.turn_seconds <= 30.0 for worker in workers if worker.turns)
    assert set(numbers) == {1, 2, 3}
    assert min(numbers.values()) > 30


def test_a_worker_serves_its_types_one_life_after_the_other(backend: str) -> None:
    worker = WorkerPlan(type="room", turns=("publisher",), turn_seconds=20.0)
    jobs = [JobPlan(at=5.0 + 10.0 * n, type="room", room=f"r{n}") for n in range(6)]
    plan = Scenario(seed=1, scheduler_seed=1, chaos_seconds=70.0, workers=(worker,), jobs=tuple(jobs))
    verdict = simulate(plan, backend=backend)
    assert verdict.violations == ()
    notes = verdict.trace.notes
    lives = [(note.who, note.data["type"]) for note in notes if note.what == "worker" and note.kind == "started"]
    assert lives == [("w0.1", "room"), ("w0.2", "publisher"), ("w0.3", "room"), ("w0.4", "publisher")]
    # Who serves another type is not asked, and what found nobody is not given to the next one that could.
    served = [note.data["served"] for note in notes if note.what == "job" and note.kind == "launched"]
    assert served == [True, True, False, False, True, True]
    asked = [note.who.partition("#")[0] for note in notes if note.what == "hear" and note.kind == "offer"]
    assert asked == ["w0.1", "w0.1", "w0.3", "w0.3"]


def test_a_run_on_the_cores_leaves_nothing_to_the_next_run(backend: str) -> None:
    before = simulate(generate(3), backend=backend).digest
    simulate(generate(0), backend=CORES)
    assert simulate(generate(3), backend=backend).digest == before


def test_a_scenario_is_a_value_that_survives_json() -> None:
    for seed in range(50):
        scenario = generate(seed)
        assert Scenario.from_json(scenario.to_json()) == scenario
    with pytest.raises(ValueError, match="not a scenario"):
        Scenario.from_json('{"version": 1}')
    with pytest.raises(ValueError, match="version"):
        Scenario.from_json('{"version": 2}')


def test_smaller_scenarios_are_smaller_and_never_the_same() -> None:
    scenario = generate(1)
    simpler = list(scenario.smaller())
    assert scenario not in simpler
    assert all(len(other.to_json()) <= len(scenario.to_json()) + 2 for other in simpler)


def test_core_against_core_keeps_the_promises_of_the_wire() -> None:
    """Engine (a): no event loop, time as an argument, bytes on both ends."""
    evaluated: Counter[str] = Counter()
    for seed in range(FIRST, FIRST + min(SEEDS, 100)):
        verdict = simulate(generate(seed), backend=CORES)
        assert [f"{v.name}: {v.what}" for v in verdict.violations] == [], replay_command(seed, CORES)
        assert verdict.crash == ""
        assert verdict.digest == simulate(generate(seed), backend=CORES).digest
        evaluated.update(verdict.evaluated)
    # The rest of the wire's promises need faults that strike streams and frames.
    wire = {f"W{n}" for n in range(1, 21)} - {"W5", "W16"}
    assert {name for name in wire if not evaluated[name]} == set()


def test_core_against_core_notes_what_it_draws() -> None:
    """As many deliveries as there are, so many latencies were drawn; and each life of a server has ids of its own."""
    verdict = simulate(generate(1, kinds=("restart",)), backend=CORES)
    drawn: dict[str, int] = {}
    for note in verdict.trace.notes:
        if note.what == "draw":
            values = note.data["values"]
            assert isinstance(values, tuple)
            drawn[note.kind] = drawn.get(note.kind, 0) + len(values)
    lives = sum(1 for note in verdict.trace.notes if note.what == "server" and note.kind == "up")
    assert drawn.keys() >= {"network", "w0.1", *(f"server{life}" for life in range(1, lives + 1))}
    assert drawn["network"] >= sum(1 for note in verdict.trace.notes if note.what == "deliver") > 100
