"""The numbered conformance cases of the wire specification that are the core's business, and where the others are.

A case's test is named ``test_case_<number>_…``, here or in a sibling of this file.
"""

from __future__ import annotations

import ast
import math
import re
from pathlib import Path

import pytest
from livekit.protocol import agent as pb
from livekit.protocol import models

from livekit_agent._errors import ConfigError, ConnectionLostError, HandshakeError, RemoteProtocolError
from livekit_agent._options import WorkerOptions
from livekit_agent._types import JobMetadata, JobStatus, ParticipantPermissions
from livekit_agent.protocol import (
    AnswerExpired,
    AssignmentLapsed,
    AssignmentRefused,
    ConnectionClosed,
    GoAway,
    JobAssigned,
    JobBook,
    JobOffered,
    JobStage,
    JobTerminated,
    MessageSkipped,
    PongReceived,
    Registered,
    RegisterReceived,
    Registration,
    Stage,
    WorkerStatusReceived,
)
from livekit_agent.testing import contracts

from . import frames, pair
from .pair import Pair, RawServer, RawWorker, names, new_worker, of_type

HERE, RUNTIME, SOCKETS, REAL = "tests/protocol", "tests/runtime", "tests on sockets", "tests/e2e"

#: Every number of the specification's section 8 (it has gaps) and who tests it.  Several places: the core's part here.
CASES: dict[int, tuple[str, ...]] = {
    # A. Connect and authenticate
    1: (RUNTIME,), 2: (RUNTIME, SOCKETS), 3: (HERE,), 4: (HERE, RUNTIME), 5: (HERE,), 6: (HERE,), 8: (HERE,),
    9: (HERE, RUNTIME), 10: (HERE,), 12: (HERE,), 13: (HERE,), 14: (HERE,), 15: (HERE, RUNTIME), 17: (SOCKETS,),
    18: (HERE, RUNTIME),
    # B. Registration
    19: (HERE,), 20: (HERE,), 21: (HERE,), 22: (HERE,), 23: (HERE,), 24: (HERE,), 25: (HERE,), 26: (HERE,),
    27: (HERE,), 28: (HERE,),
    # C. Availability and assignment
    29: (HERE, RUNTIME), 30: (HERE,), 31: (HERE, RUNTIME), 32: (HERE, RUNTIME), 33: (HERE,), 34: (HERE,), 35: (HERE,),
    36: (HERE,), 37: (HERE,), 38: (HERE,), 39: (HERE,), 40: (HERE,), 41: (HERE,), 42: (HERE, RUNTIME), 44: (HERE,),
    45: (HERE,), 46: (HERE,), 48: (HERE,), 49: (HERE,),
    # D. Job status
    50: (HERE, RUNTIME), 51: (HERE, RUNTIME), 52: (RUNTIME,), 53: (HERE,), 54: (HERE,), 55: (HERE, RUNTIME),
    # E. Termination, drain, shutdown
    56: (HERE, RUNTIME), 57: (HERE,), 58: (HERE,), 60: (RUNTIME,), 61: (HERE, RUNTIME), 62: (HERE,), 63: (RUNTIME,),
    64: (HERE, RUNTIME), 65: (HERE, RUNTIME), 66: (HERE, RUNTIME),
    # F. Load, ping, liveness
    67: (HERE, RUNTIME), 68: (HERE,), 69: (HERE,), 70: (RUNTIME, REAL), 71: (HERE,), 72: (HERE,), 74: (HERE,),
    75: (RUNTIME, SOCKETS), 76: (HERE,),
    # G. Hostile or broken server
    77: (HERE,), 78: (HERE,), 80: (HERE,), 81: (HERE,), 82: (HERE,), 83: (HERE,), 84: (HERE,), 85: (HERE,),
    86: (HERE, SOCKETS), 87: (HERE,), 89: (HERE,), 91: (HERE,), 92: (HERE,), 93: (HERE, RUNTIME), 95: (RUNTIME,),
    96: (HERE,), 97: (HERE,), 98: (HERE,),
    # H. Against a real server; what the server role can be asked is asked here too
    99: (REAL,), 100: (REAL,), 101: (REAL,), 102: (REAL,), 103: (REAL,), 104: (HERE, REAL), 105: (HERE, REAL),
    106: (HERE, REAL), 107: (HERE, REAL), 108: (HERE, REAL),
}  # fmt: skip


def numbers_tested(directory: Path) -> set[int]:
    """The case numbers in the names of a directory's tests."""
    found: set[int] = set()
    for path in directory.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            if function and (match := re.match(r"test_case_((?:\d+_(?:and_)?)+)", node.name)):
                found.update(int(number) for number in re.findall(r"\d+", match[1]))
    return found


def said_of(place: str) -> set[int]:
    return {number for number, places in CASES.items() if place in places}


def test_every_case_that_is_said_to_be_tested_here_is_and_no_other() -> None:
    assert numbers_tested(Path(__file__).parent) == said_of(HERE)


def test_every_case_that_is_said_to_be_asked_of_a_real_server_is_and_no_other() -> None:
    assert numbers_tested(Path(__file__).parents[1] / "e2e") == said_of(REAL)


def test_every_case_has_its_number_where_it_is_tested() -> None:
    """In a test's name, or in the published suite, which ``tests/e2e/test_contracts.py`` plays against our worker."""
    tests = Path(__file__).parents[1]
    named = {number for place in ("protocol", "runtime", "e2e") for number in numbers_tested(tests / place)}
    assert named | {case.number for case in contracts.CASES if case.run is not None} == set(CASES)


def test_the_table_names_every_case_of_the_specification() -> None:
    gaps = {7, 11, 16, 43, 47, 59, 73, 79, 88, 90, 94}
    assert set(CASES) == set(range(1, 109)) - gaps
    assert len(CASES) == 97


def availabilities(messages: list[pb.WorkerMessage]) -> list[tuple[str, bool, bool]]:
    return [
        (m.availability.job_id, m.availability.available, m.availability.terminate)
        for m in messages
        if m.WhichOneof("message") == "availability"
    ]


def failures(messages: list[pb.WorkerMessage]) -> list[tuple[str, int]]:
    return [(m.update_job.job_id, m.update_job.status) for m in messages if m.WhichOneof("message") == "update_job"]


# ------------------------------------------------------------------------------------ B. registration


def test_case_19_the_first_frame_is_one_binary_registration() -> None:
    registration = Registration(
        job_type=2, agent_name="a", namespace="n", deployment="d", version="9", permissions=ParticipantPermissions()
    )
    worker = new_worker(registration=registration)
    worker.set_standing(0.5, False, 0.0)
    server = RawServer(worker).upgrade()
    (first,) = server.frames
    assert (first.opcode, first.fin, first.masked) == (frames.BINARY, True, True)
    (message,) = server.heard()
    request = message.register
    assert (request.type, request.agent_name, request.namespace) == (2, "a", "n")
    assert (request.deployment, request.version) == ("d", "9")


def test_case_20_permissions_are_absent_or_written_in_full() -> None:
    (silent,) = RawServer(new_worker(registration=Registration())).upgrade().heard()
    assert not silent.register.HasField("allowed_permissions")
    nothing = ParticipantPermissions(
        can_subscribe=False, can_publish=False, can_publish_data=False, can_update_metadata=False
    )
    (message,) = RawServer(new_worker(registration=Registration(permissions=nothing))).upgrade().heard()
    assert message.register.HasField("allowed_permissions")
    full = ParticipantPermissions(hidden=True, can_publish_sources=(1, 2))
    (message,) = RawServer(new_worker(registration=Registration(permissions=full))).upgrade().heard()
    allowed = message.register.allowed_permissions
    assert (allowed.can_subscribe, allowed.can_publish, allowed.hidden, list(allowed.can_publish_sources)) == (
        True, True, True, [1, 2],
    )  # fmt: skip


@pytest.mark.parametrize("deployment", ["a_b", "a b", "a\tb", "x" * 65, "\u00fc" * 33, "a\x7f"])
def test_case_21_a_deployment_that_the_server_would_drop_us_for_is_refused_before_connecting(deployment: str) -> None:
    with pytest.raises(ConfigError):
        WorkerOptions(deployment=deployment)


def test_case_22_registered_is_told_once_and_the_standing_follows_at_once() -> None:
    worker = new_worker()
    worker.set_standing(0.25, False, 0.0)
    server = RawServer(worker).upgrade()
    server.heard()
    (event,) = server.say(pair.registered("AW_9"))
    assert isinstance(event, Registered)
    assert (event.worker_id, event.server.version) == ("AW_9", "1.13.5")
    (standing,) = server.heard()
    assert standing.update_worker.load == 0.25
    assert standing.update_worker.HasField("status")


def test_case_23_a_pong_before_the_response_is_fine_and_a_job_is_not() -> None:
    server = RawServer(new_worker()).upgrade()
    (event,) = server.say(pair.pong(5, 6))
    assert event == PongReceived(last_timestamp=5, timestamp=6)
    assert server.worker.stage is Stage.REGISTERING
    for early in (pair.offer(), pair.assignment(), pair.termination(), pair.go_away()):
        server = RawServer(new_worker()).upgrade()
        server.say(early)
        assert isinstance(server.closed.error, RemoteProtocolError)
        assert server.worker.book.get("AJ_1") is None


def test_case_24_and_92_a_registration_may_take_nine_seconds_but_not_ten() -> None:
    server = RawServer(new_worker()).upgrade()
    server.wait(9)
    assert of_type(server.say(pair.registered()), Registered)

    server = RawServer(new_worker()).upgrade()
    server.say(pair.pong(), frames.frame(frames.PING))
    server.wait(10)
    assert isinstance(server.closed.error, RemoteProtocolError)
    assert server.closed.error.retryable


def test_case_25_a_stream_that_ends_right_after_the_registration_is_named_so() -> None:
    server = RawServer(new_worker()).upgrade()
    server.eof()
    assert isinstance(server.closed.error, ConnectionLostError)
    assert "during registration" in str(server.closed.error)


def test_case_26_a_response_without_id_or_server_info_is_accepted() -> None:
    server = RawServer(new_worker()).upgrade()
    (event,) = server.say(pb.ServerMessage(register=pb.RegisterWorkerResponse()))
    assert isinstance(event, Registered)
    assert (event.worker_id, event.server.version) == ("", "")
    assert server.worker.stage is Stage.REGISTERED


def test_case_27_a_second_response_is_skipped_and_jobs_go_on() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    (event,) = server.say(pair.registered("AW_2"))
    assert isinstance(event, MessageSkipped)
    assert server.worker.accept("AJ_1", JobMetadata(), 0.0)
    assert of_type(server.say(pair.assignment()), JobAssigned)


def test_case_28_a_response_with_fields_of_the_future_is_accepted() -> None:
    server = RawServer(new_worker()).upgrade()
    body = pair.registered("AW_1").register.SerializeToString() + b"\x22\x02\x08\x07" + b"\xfa\x3f\x03abc"
    future = b"\x0a" + bytes([len(body)]) + body
    (event,) = server.say(frames.frame(2, future + b"\xba\x7d\x01x"))
    assert isinstance(event, Registered)
    assert event.worker_id == "AW_1"


# ------------------------------------------------------------------------------------ C. availability and assignment


def test_case_29_an_acceptance_has_an_identity_made_from_the_job_id() -> None:
    server = RawServer(new_worker(book=JobBook(3))).register()
    (offered,) = of_type(server.say(pair.offer("AJ_1"), now=1.0), JobOffered)
    assert offered.answer_by == 3.5
    assert server.worker.accept("AJ_1", JobMetadata(participant_name="n"), 3.5)
    answer = server.heard()[0].availability
    assert (answer.job_id, answer.available, answer.participant_identity) == ("AJ_1", True, "agent-AJ_1")
    server.say(pair.offer("AJ_2"))
    server.worker.accept("AJ_2", JobMetadata(participant_identity="me"), 3.5)
    assert server.heard()[0].availability.participant_identity == "me"


@pytest.mark.parametrize("terminate", [False, True])
def test_case_30_a_rejection_says_terminate_exactly_as_asked(terminate: bool) -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.decline("AJ_1", 0.0, terminate=terminate)
    assert availabilities(server.heard()) == [("AJ_1", False, terminate)]
    assert server.wait(9) == [], "an answered offer leaves no timer behind"


def test_a_job_that_ended_leaves_no_timer_behind() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    server.say(pair.assignment())
    server.worker.report("AJ_1", JobStatus.SUCCESS, "", 0.0)
    server.wait(0.05)
    assert server.worker.next_deadline() == 15.0, "the look at the silence, and nothing else"
    assert server.wait(14) == []


def test_case_31_an_offer_without_an_answer_is_declined_at_two_and_a_half_seconds() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.wait(2.499)
    assert server.heard() == []
    assert server.wait(0.001) == [AnswerExpired(job_id="AJ_1")]
    assert availabilities(server.heard()) == [("AJ_1", False, False)]
    assert not server.worker.accept("AJ_1", JobMetadata(), server.now)
    assert server.heard() == []


@pytest.mark.parametrize(("max_jobs", "accepted"), [(1, 1), (7, 7), (None, 50)])
def test_case_32_fifty_offers_at_once_are_all_answered_and_no_more_than_capacity_accepted(
    max_jobs: int | None, accepted: int
) -> None:
    server = RawServer(new_worker(book=JobBook(max_jobs))).register()
    events = server.say(*(pair.offer(f"AJ_{n}") for n in range(50)))
    assert len(of_type(events, JobOffered)) == 50
    said = [server.worker.accept(f"AJ_{n}", JobMetadata(), 0.0) for n in range(50)]
    assert said == [n < accepted for n in range(50)]
    messages = server.heard()
    assert [yes for _, yes, _ in availabilities(messages)] == said
    assert names(messages).count("update_worker") == 1, "one standing for the whole burst"
    assert messages[-1].update_worker.job_count == accepted


def test_case_33_an_assignment_starts_the_job_once_with_its_own_token_and_url() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    message = pair.assignment(token="the-token")
    message.assignment.url = "wss://elsewhere"
    (event,) = server.say(message)
    assert isinstance(event, JobAssigned)
    assert (event.job.id, event.token, event.url) == ("AJ_1", "the-token", "wss://elsewhere")
    assert event.metadata.participant_identity == "agent-AJ_1"
    assert "the-token" not in repr(event)


def test_case_34_and_36_a_place_is_given_back_when_no_assignment_comes_and_a_late_one_is_refused() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    server.heard()
    server.wait(7.499)
    assert server.worker.book.places_taken == 1
    assert server.wait(0.001) == [AssignmentLapsed(job_id="AJ_1")]
    assert server.worker.book.places_taken == 0
    (standing,) = server.heard()
    assert standing.update_worker.status == pb.WS_AVAILABLE

    (event,) = server.say(pair.assignment())
    assert isinstance(event, AssignmentRefused)
    assert failures(server.heard()) == [("AJ_1", 3)]
    assert server.worker.book.places_taken == 0


def test_case_35_an_assignment_never_offered_is_refused() -> None:
    server = RawServer(new_worker()).register()
    (event,) = server.say(pair.assignment("AJ_9"))
    assert isinstance(event, AssignmentRefused)
    assert failures(server.heard()) == [("AJ_9", 3)]


def test_case_36_an_assignment_after_a_rejection_is_refused() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.decline("AJ_1", 0.0)
    server.heard()
    assert isinstance(server.say(pair.assignment())[0], AssignmentRefused)
    assert failures(server.heard()) == [("AJ_1", 3)]


def test_case_37_the_same_assignment_twice_starts_once() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    events = server.say(pair.assignment(), pair.assignment())
    assert [type(e) for e in events] == [JobAssigned, MessageSkipped]
    server.worker.report("AJ_1", JobStatus.SUCCESS, "", 1.0)
    server.heard()
    assert [type(e) for e in server.say(pair.assignment())] == [MessageSkipped]
    assert server.heard() == []


def test_case_38_two_offers_of_one_job_are_one_question() -> None:
    server = RawServer(new_worker(book=JobBook(2))).register()
    events = server.say(pair.offer(), pair.offer())
    assert [type(e) for e in events] == [JobOffered, MessageSkipped]
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    assert availabilities(server.heard()) == [("AJ_1", True, False)]
    assert server.worker.book.places_taken == 1


def test_case_39_an_offer_of_a_running_job_is_declined_and_the_job_untouched() -> None:
    two = Pair(max_jobs=2).register()
    two.run()
    two.said_by_worker()
    server_says = frames.frame(2, pair.offer().SerializeToString())
    two.worker.receive_data(server_says, two.now)
    assert [type(e) for e in two.worker.events()] == [MessageSkipped]
    record = two.book.get("AJ_1")
    assert record is not None
    assert record.stage is JobStage.RUNNING
    two.flow()
    assert availabilities(two.said_by_worker()) == [("AJ_1", False, False)]


def test_case_40_a_resuming_offer_is_asked_and_resuming_is_not_promised() -> None:
    server = RawServer(new_worker()).register()
    message = pair.offer()
    message.availability.resuming = True
    (event,) = server.say(message)
    assert isinstance(event, JobOffered)
    assert event.resuming
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    assert server.heard()[0].availability.supports_resume is False


def test_case_41_offers_without_job_id_or_room() -> None:
    server = RawServer(new_worker()).register()
    for empty in (pb.AvailabilityRequest(), pb.AvailabilityRequest(job=pb.Job())):
        assert [type(e) for e in server.say(pb.ServerMessage(availability=empty))] == [MessageSkipped]
    assert server.heard() == []
    roomless = pb.ServerMessage(availability=pb.AvailabilityRequest(job=pb.Job(id="AJ_1")))
    assert [type(e) for e in server.say(roomless)] == [MessageSkipped]
    assert availabilities(server.heard()) == [("AJ_1", False, False)]
    assert server.worker.book.get("AJ_1") is None
    nameless = pb.Job(id="AJ_2", room=models.Room(sid="RM_1"))  # a server makes a room of any name
    assert [type(e) for e in server.say(pb.ServerMessage(availability=pb.AvailabilityRequest(job=nameless)))] == [
        JobOffered
    ]


def test_case_42_assignments_without_job_or_with_a_strange_token() -> None:
    server = RawServer(new_worker()).register()
    assert [type(e) for e in server.say(pb.ServerMessage(assignment=pb.JobAssignment()))] == [MessageSkipped]
    assert server.heard() == []
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    (event,) = server.say(pair.assignment(token=""))
    assert isinstance(event, JobAssigned)  # what a token is worth is for the room to say
    assert event.token == ""


def test_case_44_a_job_of_an_unknown_type_is_declined() -> None:
    server = RawServer(new_worker()).register()
    assert [type(e) for e in server.say(pair.offer(type=7))] == [MessageSkipped]
    assert availabilities(server.heard()) == [("AJ_1", False, False)]
    assert server.worker.book.get("AJ_1") is None


def test_case_45_large_metadata_arrives_whole() -> None:
    two = Pair().register()
    metadata, room, value = "m" * 524_288, "r" * 524_288, "v" * 65_000
    two.offer(metadata=metadata, room={"name": "r", "metadata": room}, attributes={"k": value})
    (offered,) = of_type(two.news_of_worker(), JobOffered)
    assert offered.job.metadata == metadata
    assert offered.job.room.metadata == room
    assert offered.job.attributes == {"k": value}


@pytest.mark.parametrize(
    "text", ["", "\x00", "a\x00b", "\U0001f600\u200d\U0001f680", "\u202e\u2028", "\uffff", "e\u0301"]
)
def test_case_46_any_unicode_arrives_as_it_is_both_ways(text: str) -> None:
    two = Pair().register()
    two.offer(metadata=text, attributes={text: text}, room={"name": text})
    (offered,) = of_type(two.news_of_worker(), JobOffered)
    assert (offered.job.metadata, offered.job.attributes, offered.job.room.name) == (text, {text: text}, text)
    two.accept("AJ_1", JobMetadata(participant_name=text, participant_attributes={text: text}))
    answered = two.news_of_server()[0]
    assert answered.metadata.participant_name == text  # type: ignore[attr-defined]
    assert answered.metadata.participant_attributes == {text: text}  # type: ignore[attr-defined]


def test_case_48_a_job_s_switches_and_labels_are_visible() -> None:
    two = Pair().register()
    two.offer(enable_recording=True, enable_redaction=True, deployment="d", attributes={"k": "v"}, namespace="n")
    (offered,) = of_type(two.news_of_worker(), JobOffered)
    job = offered.job
    assert (job.enable_recording, job.enable_redaction, job.deployment, job.namespace) == (True, True, "d", "n")
    assert (dict(job.attributes), job.agent_name, job.dispatch_id) == ({"k": "v"}, "a", "AD_1")


def test_case_49_a_lost_connection_gives_reservations_back_at_once() -> None:
    two = Pair(max_jobs=3).register()
    two.offer("AJ_1")
    two.accept("AJ_1")
    two.offer("AJ_2")
    two.news_of_worker()
    two.break_off()
    lapsed, expired, closed = two.news_of_worker()
    assert (lapsed, expired) == (AssignmentLapsed(job_id="AJ_1"), AnswerExpired(job_id="AJ_2"))
    assert isinstance(closed, ConnectionClosed)
    assert two.book.places_taken == 0

    fresh = Pair(book=two.book, serial=2).register()
    assert not fresh.worker.accept("AJ_2", JobMetadata(), fresh.now), "an old offer is not answered on a new connection"
    fresh.flow()
    assert fresh.said_by_worker() == []


# ------------------------------------------------------------------------------------ D. statuses (more: test_statuses)


def test_case_54_a_status_waits_for_the_next_registration_and_old_standings_do_not() -> None:
    two = Pair().register()
    two.run()
    two.worker.set_standing(0.9, False, two.now)
    two.break_off()
    two.worker.report("AJ_1", JobStatus.SUCCESS, "", two.now)
    two.book.release("AJ_1")

    two = Pair(book=two.book, serial=2, now=two.now).connect()
    two.worker.set_standing(0.1, False, two.now)
    two.news_of_server()
    two.server.registered("AW_2", pair.INFO, two.now)
    two.flow()

    said = two.said_by_worker()
    assert names(said) == ["register", "update_worker", "update_job", "ping"]
    assert said[1].update_worker.load == pytest.approx(0.1)


# ------------------------------------------------------------------------------------ E. termination, drain, close


def test_case_56_a_termination_is_told_and_the_job_ends_with_one_status() -> None:
    two = Pair().register()
    two.run()
    two.news_of_worker()
    two.server.terminate("AJ_1", two.now)
    two.flow()
    assert two.news_of_worker() == [JobTerminated(job_id="AJ_1")]
    two.worker.report("AJ_1", JobStatus.SUCCESS, "", two.now)
    two.advance(5)
    assert [s for _, s in failures(two.said_by_worker())] == [1, 2]


@pytest.mark.parametrize("job_id", ["AJ_9", "", "a\r\nb\x1b[31m"])
def test_case_57_a_termination_of_nothing_is_skipped(job_id: str) -> None:
    server = RawServer(new_worker()).register()
    (event,) = server.say(pair.termination(job_id))
    assert isinstance(event, MessageSkipped)
    assert event.reason.isprintable()
    assert server.heard() == []


def test_case_57_a_termination_of_an_ended_job_is_skipped() -> None:
    two = Pair().register()
    two.run()
    two.worker.report("AJ_1", JobStatus.SUCCESS, "", two.now)
    two.advance(1)
    two.news_of_worker()
    two.worker.receive_data(frames.frame(2, pair.termination().SerializeToString()), two.now)
    assert [type(e) for e in two.worker.events()] == [MessageSkipped]


def test_case_58_a_second_termination_is_skipped() -> None:
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    server.say(pair.assignment())
    events = server.say(pair.termination(), pair.termination())
    assert [type(e) for e in events] == [JobTerminated, MessageSkipped]


def test_case_61_drain_says_full_at_once_declines_and_lets_jobs_run() -> None:
    two = Pair(max_jobs=5).register()
    two.run("AJ_1")
    two.offer("AJ_2")
    two.said_by_worker()
    two.news_of_worker()
    two.worker.drain(two.now)
    two.flow()
    said = two.said_by_worker()
    assert availabilities(said) == [("AJ_2", False, False)]
    assert (said[-1].update_worker.status, said[-1].update_worker.draining) == (pb.WS_FULL, True)
    assert two.news_of_worker() == [AnswerExpired(job_id="AJ_2")]
    assert WorkerStatusReceived(full=True, load=0.0, job_count=1, draining=True) in two.news_of_server()

    two.offer("AJ_3")
    assert availabilities(two.said_by_worker()) == [("AJ_3", False, False)]
    assert not two.worker.accept("AJ_2", JobMetadata(), two.now)
    record = two.book.get("AJ_1")
    assert record is not None
    assert record.stage is JobStage.RUNNING
    two.worker.drain(two.now)
    two.flow()
    assert two.said_by_worker() == []


def test_draining_a_connection_that_is_over_or_closing_tells_nothing_twice() -> None:
    two = Pair(max_jobs=5).register()
    two.offer("AJ_1")
    two.worker.close(two.now)
    two.worker.drain(two.now)
    two.flow()
    assert of_type(two.worker_events, AnswerExpired) == [AnswerExpired(job_id="AJ_1")]


def test_case_62_what_was_accepted_before_the_drain_is_honoured() -> None:
    two = Pair(max_jobs=5).register()
    two.offer("AJ_1")
    two.accept("AJ_1")
    two.worker.drain(two.now)
    two.assign("AJ_1")
    assert of_type(two.news_of_worker(), JobAssigned)

    two.worker.receive_data(frames.frame(2, pair.assignment("AJ_7").SerializeToString()), two.now)
    assert of_type(two.worker.events(), AssignmentRefused)


def test_renounced_promises_are_free_and_a_late_assignment_is_refused() -> None:
    two = Pair(max_jobs=5).register()
    two.offer("AJ_1")
    two.accept("AJ_1")
    two.news_of_worker()
    two.worker.renounce(two.now)
    assert two.worker.events() == [AssignmentLapsed(job_id="AJ_1")]
    assert two.book.places_taken == 0
    two.assign("AJ_1")
    assert of_type(two.news_of_worker(), AssignmentRefused)
    two.advance(20)
    assert of_type(two.news_of_worker(), AssignmentLapsed) == []


def test_case_64_a_draining_worker_that_reconnects_is_full_from_its_first_standing() -> None:
    two = Pair().register()
    two.run()
    two.worker.drain(two.now)
    two.break_off()

    two = Pair(book=two.book, serial=2, now=two.now)
    two.worker.drain(two.now)
    two.connect()
    two.server.registered("AW_2", pair.INFO, two.now)
    two.flow()
    said = two.said_by_worker()
    assert names(said) == ["register", "update_worker", "migrate_job"]
    assert (said[1].update_worker.status, said[1].update_worker.draining) == (pb.WS_FULL, True)


def test_case_65_a_close_waits_two_seconds_for_its_echo_and_no_longer() -> None:
    server = RawServer(new_worker()).register()
    server.worker.close(0.0)
    server.worker.close(0.0)
    server.collect()
    assert [f.close_code for f in server.frames] == [1000]
    assert server.wait(1.999) == []
    (closed,) = server.wait(0.001)
    assert isinstance(closed, ConnectionClosed)
    assert (closed.code, closed.error) == (1006, None)

    server = RawServer(new_worker()).register()
    server.worker.close(0.0, 1001, "bye")
    server.say(frames.close(1001))
    assert server.closed == ConnectionClosed(code=1001)


def test_case_66_go_away_is_told_and_changes_nothing_by_itself() -> None:
    two = Pair(max_jobs=2).register()
    two.run()
    two.news_of_worker()
    two.server.go_away("moving", two.now)
    two.flow()
    assert two.news_of_worker() == [GoAway(reason="moving")]
    two.offer("AJ_2")
    assert of_type(two.news_of_worker(), JobOffered)


# ------------------------------------------------------------------------------------ F. load, ping, liveness


@pytest.mark.parametrize(
    ("load", "said"), [(math.nan, 1.0), (math.inf, 1.0), (-math.inf, 0.0), (-1.0, 0.0), (7.0, 1.0), (0.5, 0.5)]
)
def test_case_67_no_load_that_a_server_chokes_on_is_ever_said(load: float, said: float) -> None:
    server = RawServer(new_worker()).register()
    server.worker.set_standing(load, True, 0.0)
    (message,) = server.heard()
    assert message.update_worker.load == said


def test_case_68_full_leaves_in_the_same_write_as_the_answer_that_took_the_last_place() -> None:
    server = RawServer(new_worker(book=JobBook(2))).register()
    server.say(pair.offer("AJ_1"), pair.offer("AJ_2"))
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    first = server.heard()
    server.worker.accept("AJ_2", JobMetadata(), 0.0)
    second = server.heard()
    assert [m.update_worker.status for m in (first[-1], second[-1])] == [pb.WS_AVAILABLE, pb.WS_FULL]
    assert names(second) == ["availability", "update_worker"]
    assert second[-1].update_worker.load == 1.0
    server.worker.book.release("AJ_2")
    (freed,) = server.heard()
    assert freed.update_worker.status == pb.WS_AVAILABLE


def test_case_69_every_standing_names_status_and_load() -> None:
    server = RawServer(new_worker()).register()
    server.worker.set_standing(0.3, False, 0.0)
    server.worker.set_standing(0.3, True, 0.0)
    (message,) = server.heard()
    assert (message.update_worker.status, message.update_worker.HasField("status")) == (pb.WS_FULL, True)
    assert message.update_worker.load == pytest.approx(0.3)


def test_a_standing_is_said_again_only_when_it_changed_enough_and_creeping_adds_up() -> None:
    server = RawServer(new_worker()).register()
    loads = []
    for step in range(100):
        server.worker.set_standing(step * 0.004, False, 0.0)
        loads += [m.update_worker.load for m in server.heard()]
    assert 30 <= len(loads) <= 40
    assert loads[-1] > 0.38


@pytest.mark.parametrize("payload", [b"", b"x", b"y" * 125])
def test_case_71_a_ping_is_answered_with_its_payload_in_every_open_stage(payload: bytes) -> None:
    for server in (RawServer(new_worker()).upgrade(), RawServer(new_worker()).register()):
        server.frames.clear()
        server.say(frames.frame(frames.PING, payload))
        assert [(f.opcode, f.payload, f.masked) for f in server.frames] == [(frames.PONG, payload, True)]
    server.worker.close(0.0)
    server.collect()
    server.frames.clear()
    server.say(frames.frame(frames.PING, payload))
    assert server.frames == [], "nothing follows our Close"


def test_case_72_unsolicited_pongs_are_ignored() -> None:
    server = RawServer(new_worker()).register()
    assert server.say(frames.frame(frames.PONG), frames.frame(frames.PONG, b"x" * 125)) == []
    assert server.frames == []


def test_case_74_silence_is_pinged_after_15_seconds_and_given_up_after_30() -> None:
    server = RawServer(new_worker()).register()
    server.wait(14.999)
    assert server.frames == []
    server.wait(0.001)
    assert [(f.opcode, f.payload) for f in server.frames] == [(frames.PING, b"")]
    server.wait(14.999)
    assert not server.worker.finished
    server.wait(0.001)
    assert isinstance(server.closed.error, ConnectionLostError)
    assert server.closed.code == 1006


def test_case_76_a_server_that_only_pings_or_only_answers_pings_keeps_its_worker() -> None:
    server = RawServer(new_worker()).register()
    for _ in range(60):
        server.wait(10)
        server.say(frames.frame(frames.PING))
    assert {f.opcode for f in server.frames} == {frames.PONG}

    server = RawServer(new_worker()).register()
    for _ in range(60):
        server.wait(15)
        server.say(frames.frame(frames.PONG))
    assert {f.opcode for f in server.frames} == {frames.PING}
    assert not server.worker.finished


def test_an_idle_pair_wakes_for_each_ping_and_each_look_at_the_silence_and_no_more() -> None:
    two = Pair().register()
    wakes = 0
    while two.now < 3600:
        until = min(two.worker.next_deadline(), two.server.next_deadline())
        two.advance(until - two.now)
        wakes += 1
    assert wakes == 2 * 360 - 1
    assert not two.worker.finished
    assert not two.server.finished


# ------------------------------------------------------------------------------------ G. hostile or broken server


def test_case_83_a_hundred_fragments_with_pings_between_are_one_message() -> None:
    server = RawServer(new_worker()).register()
    data = pair.offer("AJ_1", metadata="x" * 1000).SerializeToString()
    cuts = list(frames.pieces(data, len(data) // 99))
    for number, piece in enumerate(cuts):
        opcode = frames.CONTINUATION if number else frames.BINARY
        server.say(frames.frame(opcode, piece, fin=number == len(cuts) - 1))
        server.say(frames.frame(frames.PING, bytes([number % 256])))
    assert len(of_type(server.events, JobOffered)) == 1
    assert [f.payload for f in server.frames] == [bytes([n % 256]) for n in range(len(cuts))]


CODES = [1000, 1001, None, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 3000, 3999, 4000, 4999]


@pytest.mark.parametrize("reason", [b"", "gr\u00fc\u00dfe\r\n\x1b[0m".encode(), b"x" * 123])
@pytest.mark.parametrize("code", CODES)
def test_case_87_a_close_of_any_code_is_echoed_and_retryable_and_jobs_run_on(code: int | None, reason: bytes) -> None:
    if code is None and reason:
        return
    server = RawServer(new_worker()).register()
    server.say(pair.offer())
    server.worker.accept("AJ_1", JobMetadata(), 0.0)
    server.say(pair.assignment())
    server.heard()
    server.say(frames.close(code, reason))
    closed = server.closed
    assert isinstance(closed.error, ConnectionLostError)
    assert closed.code == closed.error.last_close_code == (code or 1005)
    assert closed.reason.isprintable()
    assert str(closed.error).isprintable()
    (echo,) = server.frames
    assert echo.payload == (b"" if code is None else code.to_bytes(2, "big"))
    assert [r.job_id for r in server.worker.book.live()] == ["AJ_1"]


def test_a_message_after_a_close_in_the_same_read_is_not_heard() -> None:
    server = RawServer(new_worker()).register()
    events = server.say(pair.offer("AJ_1"), frames.close(), pair.offer("AJ_2"), b"\xff\xff")
    assert [type(e) for e in events] == [JobOffered, AnswerExpired, ConnectionClosed]
    assert server.worker.book.get("AJ_2") is None


@pytest.mark.parametrize("cut", [0, 1, 2, 5])
def test_case_89_an_end_without_a_close_is_1006_even_in_the_middle_of_a_frame(cut: int) -> None:
    server = RawServer(new_worker()).register()
    if cut:
        server.say(frames.frame(2, pair.offer().SerializeToString())[:cut])
    server.eof()
    assert isinstance(server.closed.error, ConnectionLostError)
    assert server.closed.code == 1006
    assert of_type(server.events, JobOffered) == []


def test_case_93_after_a_restart_jobs_are_named_and_go_on() -> None:
    two = Pair(max_jobs=3).register("AW_1")
    two.run("AJ_1")
    two.run("AJ_2")
    two.break_off()

    two = Pair(book=two.book, serial=2, now=two.now).connect()
    two.server.registered("AW_2", pair.INFO, two.now)
    two.flow()
    said = two.said_by_worker()
    assert names(said) == ["register", "update_worker", "migrate_job"]
    assert list(said[2].migrate_job.job_ids) == ["AJ_1", "AJ_2"]
    assert said[1].update_worker.job_count == 2

    two.worker.report("AJ_1", JobStatus.SUCCESS, "", two.now)
    two.flow()
    assert of_type(two.news_of_server(), MessageSkipped), "the server has forgotten the job, and that is harmless"
    assert not two.server.finished


def test_case_96_two_workers_in_one_process_share_nothing() -> None:
    one, other = Pair().register(), Pair().register()
    one.run()
    assert (one.book.places_taken, other.book.places_taken) == (1, 0)
    one.worker.drop()
    one.flow()
    other.run()
    assert of_type(other.news_of_worker(), JobAssigned)


def test_case_98_the_server_s_own_attribute_is_left_out() -> None:
    two = Pair().register()
    two.offer()
    two.accept("AJ_1", JobMetadata(participant_attributes={"lk.agent_name": "x", "k": "v"}))
    assert two.news_of_server()[0].metadata.participant_attributes == {"k": "v"}  # type: ignore[attr-defined]


def test_case_53_there_is_no_way_to_say_status_4() -> None:
    assert not any(int(status) == 4 for status in JobStatus)


# ------------------------------------------------------------------------------------ H. the server role


def test_case_104_what_ends_a_worker_s_connection_without_a_close() -> None:
    for words in (
        [pair.register(), pair.register()],
        [pair.worker_status()],
        [frames.frame(2, b"", mask=True)],
        [pair.register(deployment="a_b")],
    ):
        worker = RawWorker().upgrade()
        worker.say(*words)
        assert isinstance(worker.closed.error, RemoteProtocolError)
        assert worker.frames == []


def test_case_105_the_server_answers_in_the_encoding_of_the_last_frame_it_read() -> None:
    worker = RawWorker().upgrade()
    worker.say(frames.frame(frames.TEXT, b'{"register": {"agentName": "a", "unknown": 1}}', mask=True))
    assert isinstance(worker.events[-1], RegisterReceived)
    worker.server.registered("AW_1", pair.INFO, 0.0)
    worker.collect()
    (text,) = worker.frames
    assert text.opcode == frames.TEXT
    assert b'"workerId": "AW_1"' in text.payload
    worker.frames.clear()
    worker.say(pair.ping(5))
    (message,) = worker.heard()
    assert message.pong.last_timestamp == 5
    worker.say(frames.frame(frames.TEXT, b'{"ping": {"timestamp": "-1"}}', mask=True))
    assert worker.frames[-1].opcode == frames.TEXT
    assert b'"lastTimestamp": "-1"' in worker.frames[-1].payload


def test_case_106_a_silent_worker_stays_registered_and_sees_six_pings_a_minute() -> None:
    worker = RawWorker().register()
    worker.wait(60)
    assert [(f.opcode, f.payload) for f in worker.frames] == [(frames.PING, b"")] * 6
    assert not worker.server.finished


def test_case_107_no_registration_within_ten_seconds_ends_it_pings_or_not() -> None:
    worker = RawWorker().upgrade()
    for _ in range(9):
        worker.wait(1)
        worker.say(pair.ping(1), frames.frame(frames.PING, mask=True))
    worker.wait(0.999)
    assert not worker.server.finished
    worker.wait(0.001)
    assert isinstance(worker.closed.error, RemoteProtocolError)
    assert not any(f.opcode == frames.CLOSE for f in worker.frames)


def test_case_108_two_mebibytes_and_one_byte_are_accepted_as_by_the_released_server() -> None:
    worker = RawWorker().register()
    big = pair.worker_status(0.5)
    padded = big.SerializeToString() + b"\xfa\x7f\x80\x80\x80\x01" + bytes(2**21)
    assert len(padded) > 2**21
    events = worker.say(frames.frame(2, padded, mask=True))
    assert [type(e) for e in events] == [WorkerStatusReceived]


@pytest.mark.parametrize("load", [math.nan, math.inf, -math.inf])
def test_a_worker_whose_load_is_no_number_counts_as_full(load: float) -> None:
    worker = RawWorker().register()
    (event,) = worker.say(pair.worker_status(load))
    assert isinstance(event, WorkerStatusReceived)
    assert event.load == 1.0


def test_pongs_hold_the_server_s_milliseconds() -> None:
    worker = RawWorker().upgrade()
    worker.say(pair.ping(-(2**63)), now=1.5)
    (message,) = worker.heard()
    assert (message.pong.last_timestamp, message.pong.timestamp) == (-(2**63), int((pair.WALL + 1.5) * 1000))
    assert HandshakeError().retryable
