"""Who is asked, how often, and who never."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import pytest
from dispatch_world import RawWorker, World
from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.protocol import agent as agent_pb

from livekit_agent.dispatch import JobLost, JobOffered, JobPhase
from livekit_agent.dispatch._selection import bid, choose

FULL = agent_pb.WorkerStatus.WS_FULL


def asked(world: World, *workers: RawWorker) -> RawWorker:
    """The one worker that has an offer."""
    (worker,) = [worker for worker in workers if worker.heard]
    return worker


def test_one_worker_is_asked_at_a_time() -> None:
    world = World()
    workers = [world.worker() for _ in range(5)]
    world.open_room()
    asked(world, *workers)


def test_a_no_goes_on_to_the_next_each_asked_once() -> None:
    world = World()
    workers = [world.worker() for _ in range(3)]
    world.open_room()
    order = []
    for _ in workers:
        worker = asked(world, *workers)
        order.append(worker.id)
        worker.decline(worker.hear_offer())
    assert sorted(order) == sorted(worker.id for worker in workers)
    assert all(worker.silent for worker in workers)
    assert world.job.asked == order
    assert world.job.phase is JobPhase.LOST


def test_terminate_ends_it_for_everybody_as_a_success() -> None:
    world = World()
    workers = [world.worker() for _ in range(2)]
    world.open_room()
    worker = asked(world, *workers)
    worker.decline(worker.hear_offer(), terminate=True)
    assert all(worker.silent for worker in workers)
    assert (world.job.phase, world.job.status) == (JobPhase.ENDED, 2)


def test_a_worker_that_leaves_unanswered_hands_the_offer_on() -> None:
    world = World()
    workers = [world.worker() for _ in range(2)]
    world.open_room()
    first = asked(world, *workers)
    first.leave()
    (second,) = [worker for worker in workers if worker is not first]
    assert second.take_job()


def test_an_answer_counts_until_the_budget_is_spent() -> None:
    for delay, phase in ((2.795, JobPhase.RUNNING), (2.8, JobPhase.LOST)):
        world = World()
        worker = world.worker()
        world.open_room()
        job = worker.hear_offer()
        world.advance(delay)
        worker.accept(job)
        assert world.job.phase is phase, delay


def test_the_budget_is_shared_by_all_who_are_asked() -> None:
    world = World()
    workers = [world.worker() for _ in range(2)]
    world.open_room()
    first = asked(world, *workers)
    world.advance(2.0)
    first.decline(first.hear_offer())
    second = asked(world, *workers)
    world.advance(0.8)
    second.accept(second.hear_offer())
    assert world.job.phase is JobPhase.LOST
    assert second.silent
    assert not second.dropped


def test_silence_is_not_passed_on_and_a_late_answer_changes_nothing() -> None:
    world = World()
    workers = [world.worker() for _ in range(2)]
    world.open_room()
    first = asked(world, *workers)
    job = first.hear_offer()
    world.advance(5)
    assert all(worker.silent for worker in workers)
    first.accept(job)
    assert first.silent
    assert [event.reason for event in world.took_place(JobLost) if event.job] == ["no answer in time"]


def test_an_answer_for_a_job_never_offered_changes_nothing() -> None:
    world = World()
    worker = world.worker()
    worker.accept("AJ_nothing")
    assert worker.silent
    assert not worker.dropped


def test_an_answer_given_twice_counts_once() -> None:
    world = World()
    worker = world.worker()
    world.open_room()
    job = worker.take_job()
    worker.accept(job)
    assert worker.silent
    assert not worker.dropped


def test_the_full_are_not_asked() -> None:
    world = World()
    full, free = world.worker(), world.worker()
    full.status(status=FULL)
    for name in "abcdefgh":
        world.open_room(name)
    assert full.silent
    assert len(free.heard) == 8


def test_the_draining_are_not_asked() -> None:
    world = World()
    worker = world.worker()
    worker.status(draining=True, load=0.0)
    world.open_room()
    assert worker.silent
    worker.status(load=0.0)
    world.open_room("later")
    assert worker.hear_offer()


def test_a_status_that_is_absent_stays_and_a_load_that_is_absent_is_zero() -> None:
    world = World()
    worker = world.worker()
    worker.status(status=FULL, load=0.5)
    worker.status()
    record = world.core.workers[worker.id]
    assert (record.full, record.load) == (True, 0.0)
    worker.status(status=agent_pb.WorkerStatus.WS_AVAILABLE)
    assert not record.full


@pytest.mark.parametrize(("load", "offered"), [(0.65, True), (0.7, False), (0.75, False), (1.0, False), (7.0, False)])
def test_a_lone_worker_is_asked_below_the_target_load(load: float, offered: bool) -> None:
    world = World()
    worker = world.worker(load=load)
    world.open_room()
    assert worker.silent is not offered


def test_one_above_the_target_may_win_while_a_sibling_bids() -> None:
    winners = Counter[str]()
    for seed in range(200):
        world = World(seed=seed)
        busy, free = world.worker(load=0.9), world.worker(load=0.5)
        world.open_room()
        winners["busy" if asked(world, busy, free) is busy else "free"] += 1
    assert 10 < winners["busy"] < 70  # one in six by weight: 0.1 against 0.5


@pytest.mark.parametrize("load", [math.nan, math.inf, -math.inf])
def test_a_load_that_is_no_number_excludes_its_own_worker_only(load: float) -> None:
    """The real server gives nobody of the key a job (NaN), or this one every job (-inf)."""
    world = World()
    odd, sane = world.worker(load=load), world.worker(load=0.1)
    for name in "abcd":
        world.open_room(name)
    assert odd.silent
    assert len(sane.heard) == 4
    odd.status(load=0.0)
    sane.status(status=FULL)
    world.open_room("again")
    assert odd.hear_offer()


def test_equal_workers_share_alike() -> None:
    world = World()
    workers = [world.worker(load=0.0) for _ in range(5)]
    for number in range(100):
        world.open_room(f"r{number}")
    counts = [len(worker.heard) for worker in workers]
    assert sum(counts) == 100
    assert max(counts) < 35


@given(st.lists(st.floats(), max_size=8), st.floats(0.1, 1.0))
def test_a_bid_is_never_negative_and_never_no_number(loads: list[float], target: float) -> None:
    assert 0.0 <= bid(loads, target) <= target * len(loads) * (1 + 1e-12)


@given(st.lists(st.tuples(st.integers(), st.floats()), max_size=8), st.integers())
def test_only_who_has_room_is_chosen(candidates: list[tuple[int, float]], seed: int) -> None:
    able = [worker for worker, load in candidates if math.isfinite(load) and load < 1.0]
    chosen = choose(candidates, random.Random(seed))
    assert chosen in able if able else chosen is None


actions = st.lists(
    st.one_of(
        st.tuples(st.just("dispatch"), st.just(0)),
        st.tuples(
            st.sampled_from(["accept", "decline", "terminate", "leave", "full", "free", "end"]), st.integers(0, 3)
        ),
        st.tuples(st.just("load"), st.integers(0, 3), st.floats()),
        st.tuples(st.just("wait"), st.floats(0.0, 4.0)),
    ),
    max_size=40,
)


@settings(max_examples=60)
@given(actions, st.integers(0, 2**32))
def test_whatever_happens_a_job_has_one_worker_and_nobody_is_asked_twice_or_while_full(
    script: list[tuple[Any, ...]], seed: int
) -> None:
    world = World(seed=seed)
    workers = [world.worker("a") for _ in range(4)]
    assigned = Counter[str]()
    world.open_room()
    for action in script:
        worker = workers[action[1]] if action[0] not in ("dispatch", "wait") else workers[0]
        before = {w.id: world.core.workers[w.id].full for w in workers if w.id in world.core.workers}
        seen = len(world.took_place(JobOffered))
        _play(world, worker, action)
        for event in world.took_place(JobOffered)[seen:]:
            # Nobody who was full when this step began, and has not said otherwise in it, was asked.
            assert not before[event.worker.id] or action[0] == "free"
        for w in workers:
            for message in [m for m in w.heard if m.WhichOneof("message") == "assignment"]:
                w.heard.remove(message)
                assigned[message.assignment.job.id] += 1
    world.advance(10)
    assert not [job_id for job_id, times in assigned.items() if times > 1]
    for job in world.jobs:
        assert len(job.asked) == len(set(job.asked))
        assert job.phase is not JobPhase.OFFERED


def _play(world: World, worker: RawWorker, action: tuple[object, ...]) -> None:
    offers = [m for m in worker.heard if m.WhichOneof("message") == "availability"]
    match action:
        case ("dispatch", _):
            world.dispatch("a")
        case ("wait", float(seconds)):
            world.advance(seconds)
        case _ if worker.dropped:
            pass
        case ("accept" | "decline" | "terminate" as answer, _) if offers:
            worker.heard.remove(offers[0])
            job = offers[0].availability.job
            if answer == "accept":
                worker.accept(job)
            else:
                worker.decline(job, terminate=answer == "terminate")
        case ("leave", _):
            worker.leave()
        case ("full", _):
            worker.status(status=FULL)
        case ("free", _):
            worker.status(status=agent_pb.WorkerStatus.WS_AVAILABLE)
        case ("load", _, float(load)):
            worker.status(load=load)
        case ("end", _):
            for job_id in list(world.core.workers[worker.id].jobs):
                worker.report(job_id, "SUCCESS")
        case _:
            pass
