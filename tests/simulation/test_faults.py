"""A fault counts when something met with it, and not before.

The world of these tests is quiet: one worker that registers at once, and a ping of the server's each ten seconds.
"""

from __future__ import annotations

import pytest

from livekit_agent.simulation._engine import simulate
from livekit_agent.simulation._scenario import Fault, JobPlan, Scenario, WorkerPlan


def struck(backend: str, *faults: Fault, jobs: tuple[JobPlan, ...] = ()) -> list[tuple[str, float]]:
    """The faults that took effect, and when."""
    scenario = Scenario(
        seed=1,
        scheduler_seed=1,
        chaos_seconds=40.0,
        workers=(WorkerPlan(type="room"),),
        jobs=jobs,
        faults=faults,
    )
    verdict = simulate(scenario, backend=backend)
    assert verdict.violations == ()
    notes = [(note.kind, round(note.t, 1)) for note in verdict.trace.notes if note.what == "fault"]
    assert verdict.faults == len(notes)
    return notes


@pytest.mark.parametrize("kind", ["latency", "dribble", "stall", "choke"])
def test_what_nothing_meets_with_does_not_count(backend: str, kind: str) -> None:
    assert struck(backend, Fault(at=12.0, kind=kind, seconds=3.0, value=500)) == []


@pytest.mark.parametrize("kind", ["latency", "dribble", "stall", "choke", "late_pong"])
def test_it_counts_when_a_ping_or_its_pong_meets_with_it(backend: str, kind: str) -> None:
    assert struck(backend, Fault(at=19.0, kind=kind, seconds=3.0, value=500)) == [(kind, 20.0)]


def test_what_is_on_its_way_already_is_held_back_at_once(backend: str) -> None:
    slow = Fault(at=18.0, kind="latency", seconds=4.0, value=900)
    notes = struck(backend, slow, Fault(at=20.02, kind="stall", seconds=1.0, value=0))
    assert notes == [("latency", 20.0), ("stall", 20.0)]


@pytest.mark.parametrize("kind", ["join_refused", "join_hangs"])
def test_a_scripted_join_counts_when_somebody_joins(backend: str, kind: str) -> None:
    fault = Fault(at=12.0, kind=kind)
    assert struck(backend, fault) == []
    assert struck(backend, fault, jobs=(JobPlan(at=25.0, type="room", room="lobby"),)) == [(kind, 25.0)]


@pytest.mark.parametrize("kind", ["refuse_connect", "hang_connect", "http_error", "clock_skew"])
def test_a_fault_of_dials_counts_once_and_not_for_a_later_one_of_its_kind(backend: str, kind: str) -> None:
    over_at_once = Fault(at=12.0, kind=kind, seconds=0.0)
    assert struck(backend, over_at_once) == []
    assert [name for name, _ in struck(backend, over_at_once, Fault(at=25.0, kind=kind, seconds=5.0))] == [kind]


def test_one_direction_ends_once(backend: str) -> None:
    end = Fault(at=12.0, kind="half_close", value=1)
    assert len(struck(backend, end, Fault(at=12.0, kind="half_close", value=3))) == 1
