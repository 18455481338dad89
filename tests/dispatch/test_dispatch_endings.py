"""How jobs end: by report, by deletion, by the agent leaving, by the room closing."""

from __future__ import annotations

import pytest
from dispatch_world import RawWorker, World, reporting
from livekit.protocol import agent as agent_pb

from livekit_agent._bounds import KEEPALIVE_INTERVAL
from livekit_agent.dispatch import JobEnded, JobPhase, ParticipantRemovalDue
from livekit_agent.dispatch._events import DispatchRecord

SUCCESS, FAILED, RUNNING = 2, 3, 1


def running(world: World, worker: RawWorker) -> tuple[DispatchRecord, agent_pb.Job]:
    """A job in room ``r`` whose agent has joined it."""
    dispatch = world.dispatch("a")
    job = worker.take_job()
    world.join(f"agent-{job.id}", kind="AGENT")
    return dispatch, job


@pytest.fixture
def world() -> World:
    world = World()
    world.open_room()
    return world


@pytest.fixture
def worker(world: World) -> RawWorker:
    return world.worker("a")


def test_a_report_of_success_ends_the_job(world: World, worker: RawWorker) -> None:
    _, job = running(world, worker)
    worker.report(job, "SUCCESS")
    assert (world.job.phase, world.job.status, world.job.error) == (JobPhase.ENDED, SUCCESS, "")
    assert world.job.state.ended_at is not None
    assert [(e.status, e.error) for e in world.took_place(JobEnded)] == [(SUCCESS, "")]


def test_a_report_of_failure_keeps_its_error(world: World, worker: RawWorker) -> None:
    _, job = running(world, worker)
    worker.report(job, "FAILED", "boom")
    assert (world.job.phase, world.job.status, world.job.error) == (JobPhase.ENDED, FAILED, "boom")


def test_reports_overwrite_verbatim_until_the_end(world: World, worker: RawWorker) -> None:
    _, job = running(world, worker)
    for status, error in ((1, "x"), (0, ""), (4, "cancelled?"), (99, ""), (1, "")):
        worker.report(job, status, error)
        assert (world.job.status, world.job.error) == (status, error)
        assert world.job.phase is JobPhase.RUNNING
    worker.report(job, "SUCCESS")
    worker.report(job, "FAILED", "too late")
    assert (world.job.status, world.job.error) == (SUCCESS, "")
    assert [update.status for update in world.job.history] == [1, 0, 4, 99, 1, 2]


def test_a_report_on_somebody_elses_job_changes_nothing(world: World, worker: RawWorker) -> None:
    """The real server would forget the other's job."""
    _, job = running(world, worker)
    stranger = world.worker("b")
    stranger.report(job, "FAILED", "mine!")
    assert world.job.phase is JobPhase.RUNNING
    assert not stranger.dropped


def test_a_deleted_dispatch_terminates_its_job_once_and_calls_it_a_success(world: World, worker: RawWorker) -> None:
    dispatch, job = running(world, worker)
    assert world.delete(dispatch) is dispatch
    assert worker.hear("termination").job_id == job.id
    assert (world.job.phase, world.job.status) == (JobPhase.ENDED, SUCCESS)
    worker.report(job, "FAILED", "I was told to")
    assert world.job.status == SUCCESS
    world.leave(f"agent-{job.id}")
    world.advance(10)
    assert worker.silent
    assert world.delete(dispatch) is None


@pytest.mark.parametrize("answer", [{"available": False}, {"available": False, "terminate": True}])
def test_a_deletion_passes_over_a_job_whose_end_came_in_the_same_breath_as_the_answer_it_waited_for(
    world: World, answer: dict[str, bool]
) -> None:
    worker = world.worker("a", type=agent_pb.JT_PARTICIPANT)
    dispatch = world.dispatch("a")
    world.join("alice")
    first = worker.take_job()
    world.join("bob")
    second = worker.hear_offer()
    world.delete(dispatch)
    # The protocol knows of the end when the answer is heard, the server does not yet.
    declined = agent_pb.AvailabilityResponse(job_id=second.id, **answer)
    both = worker.wire.message(availability=declined) + worker.wire.message(update_job=reporting(first.id, "FAILED"))
    worker.send_bytes(both)
    assert worker.silent
    assert not worker.dropped
    assert [(e.job.id, e.status) for e in world.took_place(JobEnded) if e.job.id == first.id] == [(first.id, FAILED)]
    assert world.core.next_deadline() == world.now + KEEPALIVE_INTERVAL


def test_an_agent_that_stays_is_removed_after_three_seconds(world: World, worker: RawWorker) -> None:
    dispatch, job = running(world, worker)
    world.delete(dispatch)
    world.advance(2.999)
    assert not world.took_place(ParticipantRemovalDue)
    world.advance(0.001)
    (due,) = world.took_place(ParticipantRemovalDue)
    assert (due.room, due.identity) == ("r", f"agent-{job.id}")


def test_an_agent_that_leaves_in_time_is_not_removed(world: World, worker: RawWorker) -> None:
    dispatch, job = running(world, worker)
    world.delete(dispatch)
    world.advance(2.9)
    world.leave(f"agent-{job.id}")
    world.advance(10)
    assert not world.took_place(ParticipantRemovalDue)
    assert worker.hear("termination")
    assert worker.silent


def test_several_jobs_of_a_dispatch_are_ended_in_turn() -> None:
    world = World()
    world.open_room()
    worker = world.worker("a", type=2)
    for name in ("alice", "bob", "carol"):
        world.join(name)
    dispatch = world.dispatch("a")
    offers = [worker.hear_offer() for _ in range(3)]
    for job in offers:
        worker.accept(job)
    jobs = [worker.hear_assignment().job.id for _ in offers]
    for job_id in jobs:
        world.join(f"agent-{job_id}", kind="AGENT")

    world.delete(dispatch)
    times: list[float] = []
    for job_id in jobs:
        assert worker.hear("termination").job_id == job_id
        assert worker.silent
        times.append(world.now)
        world.advance(3.0)
    assert times == [0.0, 3.0, 6.0]
    assert len(world.took_place(ParticipantRemovalDue)) == 3


def test_agents_that_leave_at_once_let_all_terminations_go_at_once() -> None:
    world = World()
    world.open_room()
    worker = world.worker("a", type=2)
    world.join("alice")
    world.join("bob")
    dispatch = world.dispatch("a")
    for job in [worker.hear_offer(), worker.hear_offer()]:
        worker.accept(job, f"agent-{job.id}")
    jobs = [worker.hear_assignment().job for _ in range(2)]
    for job in jobs:
        world.join(f"agent-{job.id}", kind="AGENT")
    world.delete(dispatch)
    for job in jobs:
        assert worker.hear("termination").job_id == job.id
        world.leave(f"agent-{job.id}")
    assert world.now == 0.0


def test_a_job_that_its_worker_ended_is_neither_terminated_nor_removed(world: World, worker: RawWorker) -> None:
    dispatch, job = running(world, worker)
    worker.report(job, "SUCCESS")
    world.delete(dispatch)
    world.advance(10)
    assert worker.silent
    assert not world.took_place(ParticipantRemovalDue)


def test_a_job_accepted_after_its_dispatch_was_deleted_is_assigned_and_then_terminated(
    world: World, worker: RawWorker
) -> None:
    dispatch = world.dispatch("a")
    job = worker.hear_offer()
    world.delete(dispatch)
    assert worker.silent
    worker.accept(job)
    assert worker.hear_assignment().job.id == job.id
    assert worker.hear("termination").job_id == job.id
    assert world.job.status == SUCCESS


def test_an_agent_that_leaves_its_room_while_running_has_failed(world: World, worker: RawWorker) -> None:
    _, job = running(world, worker)
    world.leave(f"agent-{job.id}")
    assert worker.hear("termination").job_id == job.id
    assert (world.job.phase, world.job.status, world.job.error) == (
        JobPhase.ENDED,
        FAILED,
        "agent worker left the room",
    )


def test_an_agent_that_reported_before_it_left_has_succeeded(world: World, worker: RawWorker) -> None:
    _, job = running(world, worker)
    worker.report(job, "SUCCESS")
    world.leave(f"agent-{job.id}")
    assert worker.silent
    assert world.job.status == SUCCESS


def test_a_shared_identity_belongs_to_the_last_job(world: World, worker: RawWorker) -> None:
    """The second session throws the first out, and it is the second job that the server ends."""
    world.dispatch("a")
    first = worker.take_job("same")
    world.join("same", kind="AGENT")
    world.dispatch("a")
    second = worker.take_job("same")
    world.leave("same")
    world.join("same", kind="AGENT")
    assert worker.hear("termination").job_id == second.id
    assert world.core.jobs[first.id].phase is JobPhase.RUNNING
    assert world.core.jobs[second.id].status == FAILED


def test_a_room_that_closes_ends_the_jobs_whose_agents_are_in_it(world: World, worker: RawWorker) -> None:
    _, job = running(world, worker)
    world.leave(f"agent-{job.id}")  # a closing room sends everybody away first
    world.close_room()
    assert worker.hear("termination").job_id == job.id
    assert world.job.error == "agent worker left the room"


def test_a_room_that_closes_tells_nothing_to_a_job_whose_agent_never_came(world: World, worker: RawWorker) -> None:
    world.dispatch("a")
    worker.take_job()
    world.close_room()
    world.advance(60)
    assert worker.silent
    assert world.job.phase is JobPhase.RUNNING


def test_an_offer_outlives_its_room(world: World, worker: RawWorker) -> None:
    world.dispatch("a")
    job = worker.hear_offer()
    world.close_room()
    worker.accept(job)
    assert worker.hear_assignment().job.id == job.id
    assert worker.silent


def test_a_room_opened_again_has_dispatches_of_its_own(world: World) -> None:
    old = world.dispatch("a")
    world.close_room()
    world.open_room()
    assert old.id not in [dispatch.id for dispatch in world.core.dispatches("r")]
    assert len(world.core.dispatches("r")) == 1


def test_a_listed_dispatch_keeps_showing_its_job_as_it_was_assigned(world: World, worker: RawWorker) -> None:
    from livekit_agent.dispatch._messages import dispatch_message

    dispatch, job = running(world, worker)
    worker.report(job, "FAILED", "boom")
    (shown,) = dispatch_message(dispatch).state.jobs
    assert (shown.id, shown.state.status, shown.state.error) == (job.id, RUNNING, "")
    assert shown.state.participant_identity == f"agent-{job.id}"


def test_a_room_that_is_not_live_has_no_dispatches() -> None:
    world = World()
    for call in (world.core.dispatches, lambda name: world.core.delete_dispatch(name, "AD_x", 0.0, 0.0)):
        with pytest.raises(KeyError):
            call("nowhere")
