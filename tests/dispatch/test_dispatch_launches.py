"""Which jobs a room starts, for whom, and what they carry."""

from __future__ import annotations

import pytest
from dispatch_world import KEYS, RawWorker, World
from livekit.protocol import agent as agent_pb
from livekit.protocol import models as models_pb

from livekit_agent import ParticipantPermissions
from livekit_agent.dispatch import JobLost, JobPhase
from livekit_agent.dispatch._core import Order
from livekit_agent.protocol import verify_token

ROOM, PUBLISHER, PARTICIPANT = 0, 1, 2


def offers(worker: RawWorker) -> list[agent_pb.Job]:
    """All offers heard, in order."""
    jobs = [message.availability.job for message in worker.heard]
    worker.heard.clear()
    return jobs


def test_a_new_room_offers_one_room_job_to_the_nameless() -> None:
    world = World()
    nameless, named = world.worker(), world.worker("a")
    world.open_room()
    job = nameless.hear_offer()
    assert (job.type, job.agent_name, job.room.name) == (ROOM, "", "r")
    assert job.dispatch_id.startswith("AD_")
    assert named.silent


def test_an_agents_list_leaves_the_nameless_out_unless_it_names_them() -> None:
    world = World()
    nameless, named = world.worker(), world.worker("a")
    world.open_room("one", Order(agent_name="a"))
    assert [job.room.name for job in offers(named)] == ["one"]
    assert nameless.silent

    world.open_room("two", Order(agent_name="a"), Order())
    assert len(offers(named)) == 1
    assert len(offers(nameless)) == 1


def test_an_agents_entry_with_a_bad_deployment_leaves_the_room_without_a_dispatch() -> None:
    world = World()
    nameless = world.worker()
    world.open_room("r", Order(deployment="a_b"))
    assert world.core.dispatches("r") == []
    assert nameless.silent


def test_a_dispatch_added_later_offers_its_room_job_once() -> None:
    world = World()
    world.open_room()
    worker = world.worker("a")
    assert worker.silent
    world.dispatch("a", metadata="m", attributes={"k": "v"})
    (job,) = offers(worker)
    assert (job.metadata, dict(job.attributes)) == ("m", {"k": "v"})
    world.join("alice")
    world.join("bob")
    assert worker.silent


def test_an_offer_says_running_from_the_start() -> None:
    world = World()
    worker = world.worker()
    world.open_room()
    state = worker.hear_offer().state
    assert state.status == agent_pb.JobStatus.JS_RUNNING
    assert state.worker_id == worker.id
    assert state.started_at == state.updated_at == int(world.wall * 1e9)
    assert (state.ended_at, state.agent_id, state.participant_identity) == (0, "", "")


def test_each_participant_gets_a_participant_job_while_still_joining() -> None:
    world = World()
    worker = world.worker(type=PARTICIPANT)
    world.open_room()
    assert worker.silent
    world.join("alice")
    world.join("bob")
    jobs = offers(worker)
    assert [(job.type, job.participant.identity) for job in jobs] == [(PARTICIPANT, "alice"), (PARTICIPANT, "bob")]
    assert {job.participant.state for job in jobs} == {models_pb.ParticipantInfo.State.JOINING}


def test_those_present_get_their_jobs_when_a_dispatch_is_added() -> None:
    world = World()
    joins, publishes = world.worker("a", type=PARTICIPANT), world.worker("a", type=PUBLISHER)
    world.open_room()
    world.join("alice")
    world.join("bob")
    world.publish("bob")
    world.dispatch("a")
    assert [job.participant.identity for job in offers(joins)] == ["alice", "bob"]
    assert [job.participant.identity for job in offers(publishes)] == ["bob"]


def test_a_publisher_job_comes_at_the_first_track_of_a_session() -> None:
    world = World()
    worker = world.worker(type=PUBLISHER)
    world.open_room()
    world.join("alice")
    assert worker.silent
    world.publish("alice")
    (job,) = offers(worker)
    assert (job.type, job.participant.identity, job.participant.is_publisher) == (PUBLISHER, "alice", True)
    assert job.participant.state == models_pb.ParticipantInfo.State.ACTIVE

    world.publish("alice")
    assert worker.silent
    world.leave("alice")
    world.join("alice")
    world.publish("alice")
    assert len(offers(worker)) == 1


@pytest.mark.parametrize("kind", ["AGENT", "EGRESS"])
def test_dependents_start_no_jobs(kind: str) -> None:
    world = World()
    workers = world.worker(type=PARTICIPANT), world.worker(type=PUBLISHER)
    world.open_room()
    world.join("x", kind=kind)
    world.publish("x", kind=kind)
    assert all(worker.silent for worker in workers)


@pytest.mark.parametrize("grant", ["agent", "recorder"])
def test_the_grants_of_dependents_start_no_jobs_either(grant: str) -> None:
    world = World()
    worker = world.worker(type=PARTICIPANT)
    world.open_room()
    world.join("x", permission=models_pb.ParticipantPermission(**{grant: True}))
    assert worker.silent


@pytest.mark.parametrize("kind", ["SIP", "INGRESS", "CONNECTOR", "BRIDGE"])
def test_other_kinds_do_start_jobs(kind: str) -> None:
    world = World()
    worker = world.worker(type=PARTICIPANT)
    world.open_room()
    world.join("x", kind=kind)
    assert len(offers(worker)) == 1


def test_each_namespace_with_workers_gets_a_job_of_its_own() -> None:
    world = World()
    one, two = world.worker(namespace="one"), world.worker(namespace="two")
    world.open_room()
    (first,), (second,) = offers(one), offers(two)
    assert first.id != second.id
    assert (first.namespace, second.namespace) == ("one", "two")
    assert first.dispatch_id == second.dispatch_id


def test_a_deployment_must_match_exactly() -> None:
    world = World()
    plain, staging = world.worker("a"), world.worker("a", deployment="staging")
    world.open_room()
    world.dispatch("a", deployment="staging")
    assert plain.silent
    assert [job.deployment for job in offers(staging)] == ["staging"]


def test_a_worker_that_comes_later_does_not_get_the_lost_job() -> None:
    world = World()
    world.open_room()
    world.dispatch("a")
    assert [event.reason for event in world.took_place(JobLost)][-1] == "no worker is registered for it"
    assert world.worker("a").silent


def test_an_assignment_brings_a_token_signed_with_the_workers_own_key() -> None:
    world = World()
    worker = world.worker("a", key="otherkey")
    world.open_room()
    world.dispatch("a")
    job = worker.hear_offer()
    worker.accept(job, "me", participant_name="N", participant_metadata="M", participant_attributes={"k": "v"})
    assignment = worker.hear_assignment()
    claims = verify_token(assignment.token, {"otherkey": KEYS["otherkey"]}, wall=world.wall)
    assert (claims.identity, claims.name, claims.metadata, claims.kind) == ("me", "N", "M", "agent")
    assert claims.attributes == {"k": "v", "lk.agent_name": "a"}
    assert claims.video["room"] == "r"
    assert claims.video["agent"] is True
    assert claims.video["canPublish"] is True
    assert claims.expires_at == world.wall + 3600
    assert assignment.job.state.participant_identity == "me"
    assert assignment.url == ""


def test_the_workers_permissions_are_taken_literally() -> None:
    world = World()
    message = ParticipantPermissions(can_publish=False, hidden=True).to_proto()
    worker = world.worker(allowed_permissions=message)
    world.open_room()
    job = worker.hear_offer()
    worker.accept(job)
    video = verify_token(worker.hear_assignment().token, KEYS, wall=world.wall).video
    assert (video["canPublish"], video["canSubscribe"], video["hidden"]) == (False, True, True)


def test_a_delayed_launch_offers_later_and_to_those_who_are_there_then() -> None:
    world = World(launch_delay=0.2)
    world.open_room()
    worker = world.worker()
    assert worker.silent
    world.advance(0.2)
    assert worker.hear_offer()


def test_a_simulated_job_is_offered_to_who_asked_and_belongs_to_no_dispatch() -> None:
    world = World()
    worker, other = world.worker(), world.worker()
    worker.say(simulate_job=agent_pb.SimulateJobRequest(room=models_pb.Room(name="sim")))
    job = worker.hear_offer()
    assert (job.type, job.dispatch_id, job.room.name) == (ROOM, "", "sim")
    assert other.silent
    world.advance(9.9)
    worker.accept(job)
    assert worker.hear_assignment().job.id == job.id


def test_a_declined_simulation_is_over() -> None:
    world = World()
    worker = world.worker()
    participant = models_pb.ParticipantInfo(identity="p")
    worker.say(simulate_job=agent_pb.SimulateJobRequest(room=models_pb.Room(name="s"), participant=participant))
    job = worker.hear_offer()
    assert job.type == PUBLISHER
    worker.decline(job)
    assert worker.silent
    assert world.job.phase is JobPhase.LOST


def test_a_simulation_without_a_room_is_ignored() -> None:
    """It crashes the real server when it is accepted."""
    world = World()
    worker = world.worker()
    worker.say(simulate_job=agent_pb.SimulateJobRequest())
    assert worker.silent
    assert not worker.dropped
