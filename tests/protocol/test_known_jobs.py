"""An assignment repeats its offer: what is the same is not decoded, and not kept, twice; what differs is told anew."""

from __future__ import annotations

import pytest
from livekit.protocol import agent as pb

from livekit_agent._types import JobMetadata
from livekit_agent.protocol import JobAssigned, JobOffered, _codec

from . import pair
from .pair import WALL


def test_what_has_not_changed_is_the_offered_job_itself() -> None:
    known = _codec.job_from_proto(pair.job("AJ_1", metadata="m"), received_at=WALL)

    again = _codec.job_from_proto(pair.job("AJ_1", metadata="m"), received_at=WALL + 1, known=known)

    assert again is known


def test_the_order_in_which_a_server_writes_attributes_changes_nothing() -> None:
    names = [f"name-{number}" for number in range(50)]
    forth, back = (pair.job("AJ_1", attributes=dict.fromkeys(order, "x")) for order in (names, names[::-1]))

    known = _codec.job_from_proto(forth, received_at=WALL)

    assert _codec.job_from_proto(back, received_at=WALL, known=known) is known


@pytest.mark.parametrize("change", ["state", "metadata", "room"])
def test_what_has_changed_is_told_as_if_nothing_had_been_known(change: str) -> None:
    known = _codec.job_from_proto(pair.job("AJ_1", metadata="m"), received_at=WALL)
    message = pb.Job.FromString(pair.job("AJ_1", metadata="m").SerializeToString())
    if change == "state":
        message.state.participant_identity = "agent-AJ_1"
    elif change == "metadata":
        message.metadata = "another"
    else:
        message.room.num_participants = 7

    told = _codec.job_from_proto(message, received_at=WALL + 1, known=known)

    assert told != known
    assert told == _codec.job_from_proto(message, received_at=WALL)
    assert (told.room is known.room) is (change != "room")


def test_a_connection_remembers_an_offered_job_until_it_is_assigned() -> None:
    server = pair.RawServer(pair.new_worker()).register()
    (offered,) = pair.of_type(server.say(pair.offer("AJ_1")), JobOffered)
    server.worker.accept("AJ_1", JobMetadata(), 1.0)
    record = server.worker.book.get("AJ_1")
    assert record is not None
    assert record.offered is offered.job

    (assigned,) = pair.of_type(server.say(pair.assignment("AJ_1")), JobAssigned)

    assert assigned.job is offered.job
    assert record.offered is None


def test_a_declined_job_is_not_remembered() -> None:
    server = pair.RawServer(pair.new_worker()).register()
    server.say(pair.offer("AJ_1"))
    record = server.worker.book.get("AJ_1")
    assert record is not None

    server.worker.decline("AJ_1", 1.0)

    assert record.offered is None
