"""A fault counts when something met with it, and not before.

The world of these tests is quiet: one worker that registers at once, and a ping of the server's each ten seconds.
"""

from __future__ import annotations

import pytest

from livekit_agent.simulation._engine import CORES, Verdict, simulate
from livekit_agent.simulation._scenario import Fault, JobPlan, Scenario, WorkerPlan


def lived(backend: str, *faults: Fault, jobs: tuple[JobPlan, ...] = ()) -> Verdict:
    """Forty seconds of that world with these faults, in which nothing may go wrong."""
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
    return verdict


def struck(backend: str, *faults: Fault, jobs: tuple[JobPlan, ...] = ()) -> list[tuple[str, float]]:
    """The faults that took effect, and when."""
    verdict = lived(backend, *faults, jobs=jobs)
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


#: Two faults of a kind that overlap: neither may take the other away with its end.
OVERLAPS = {
    "the first ends first": ((12.0, 7.0), (15.0, 12.0)),
    "the second ends first": ((12.0, 15.0), (15.0, 4.0)),
}


@pytest.mark.parametrize("spans", OVERLAPS.values(), ids=OVERLAPS)
@pytest.mark.parametrize("kind", ["latency", "dribble"])
def test_the_end_of_a_fault_leaves_one_that_overlaps_it(
    backend: str, kind: str, spans: tuple[tuple[float, float], ...]
) -> None:
    faults = [Fault(at=at, kind=kind, seconds=seconds, value=500) for at, seconds in spans]
    assert struck(backend, *faults) == [(kind, 20.0)]


def test_of_two_latencies_the_greater_is_in_force_and_then_the_other_again(backend: str) -> None:
    small = Fault(at=9.0, kind="latency", seconds=25.0, value=1)
    great = Fault(at=15.0, kind="latency", seconds=6.0, value=900)
    assert struck(backend, small, great) == [("latency", 10.0), ("latency", 20.0)]
    # What the smaller one never met with alone is not its doing.
    hidden = Fault(at=16.0, kind="latency", seconds=4.5, value=1)
    assert struck(backend, great, hidden) == [("latency", 20.0)]


@pytest.mark.parametrize("kind", ["latency", "dribble"])
@pytest.mark.parametrize("spans", OVERLAPS.values(), ids=OVERLAPS)
def test_faults_of_a_network_overlap_on_the_cores_too(kind: str, spans: tuple[tuple[float, float], ...]) -> None:
    faults = [Fault(at=at, kind=kind, seconds=seconds, value=950) for at, seconds in spans]
    alone = lived(CORES, max(faults, key=lambda fault: fault.at + fault.seconds))
    notes = [note for note in lived(CORES, *faults).trace.notes if 20.0 <= note.t < 22.5 and note.what == "deliver"]
    assert notes == [note for note in alone.trace.notes if 20.0 <= note.t < 22.5 and note.what == "deliver"]
    assert len(notes) > 2 if kind == "dribble" else notes[0].t > 20.01


@pytest.mark.parametrize("spans", [((12.0, 15.0), (13.0, 0.5)), ((12.0, 2.0), (13.0, 14.0))])
def test_a_server_that_is_down_twice_is_up_when_both_are_over_on_the_cores_too(
    spans: tuple[tuple[float, float], ...],
) -> None:
    verdict = lived(CORES, *(Fault(at=at, kind="restart", seconds=seconds) for at, seconds in spans))
    ups = [note.t for note in verdict.trace.notes if note.what == "server" and note.kind == "up"]
    assert ups == [0.0, 27.0]


@pytest.mark.parametrize("spans", [((12.0, 15.0), (13.0, 0.5)), ((12.0, 2.0), (13.0, 14.0))])
@pytest.mark.parametrize("kind", ["refuse_connect", "hang_connect", "http_error"])
def test_a_fault_of_dials_lasts_as_long_as_the_longest(
    backend: str, kind: str, spans: tuple[tuple[float, float], ...]
) -> None:
    verdict = lived(backend, *(Fault(at=at, kind=kind, seconds=seconds) for at, seconds in spans))
    back = [note.t for note in verdict.trace.notes if note.what == "event" and note.kind == "registered"]
    assert back[0] < 1.0
    assert back[1] > 27.0


def test_a_clock_that_is_put_right_by_one_fault_is_still_wrong_by_another(backend: str) -> None:
    first = Fault(at=12.0, kind="clock_skew", seconds=4.0, value=1)
    second = Fault(at=14.0, kind="clock_skew", seconds=14.0, value=599)  # its tokens have expired
    verdict = lived(backend, first, second)
    back = [note.t for note in verdict.trace.notes if note.what == "event" and note.kind == "registered"]
    assert [12.0 < t < 14.0 for t in back].count(True) == 1
    assert back[-1] > 28.0
    assert not [t for t in back if 14.0 < t < 28.0]


def test_a_room_that_was_interrupted_twice_is_back_when_both_are_over(backend: str) -> None:
    job = JobPlan(at=5.0, type="room", room="lobby", do="hang")
    first = Fault(at=12.0, kind="room_interrupted", seconds=4.0)
    second = Fault(at=14.0, kind="room_interrupted", seconds=8.0)
    within = Fault(at=15.0, kind="room_interrupted", seconds=1.0)
    assert struck(backend, first, second, within, jobs=(job,)) == [
        ("room_interrupted", 12.0),
        ("room_interrupted", 14.0),
    ]
