"""W20: what is encoded is decoded to the same values, in both encodings, and the other way round."""

from __future__ import annotations

import dataclasses
import math
import struct
from collections.abc import Mapping
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from livekit.protocol import agent as pb
from livekit.protocol import models

from livekit_agent._errors import LocalProtocolError
from livekit_agent._types import (
    Job,
    JobMetadata,
    JobState,
    JobStatus,
    JobType,
    ParticipantInfo,
    ParticipantPermissions,
    RoomInfo,
)
from livekit_agent.protocol import (
    AvailabilityReceived,
    GoAway,
    JobAssigned,
    JobOffered,
    JobStatusReceived,
    JobTerminated,
    MessageSkipped,
    MigrateReceived,
    PingReceived,
    PongReceived,
    Registered,
    RegisterReceived,
    Registration,
    Role,
    ServerInfo,
    SimulateReceived,
    WorkerStatusReceived,
    _codec,
)

from .anything import VARIANTS, envelope
from .pair import WALL

texts = st.text(max_size=12)
int64 = st.integers(-(2**63), 2**63 - 1)
uint32 = st.integers(0, 2**32 - 1)
int32 = st.integers(-(2**31), 2**31 - 1)
attributes = st.dictionaries(texts, texts, max_size=3)
loads = st.floats(0, 1, width=32)
json_too = pytest.mark.parametrize("json", [False, True], ids=["binary", "json"])
permissions = st.builds(
    ParticipantPermissions,
    can_subscribe=st.booleans(),
    can_publish=st.booleans(),
    can_publish_data=st.booleans(),
    can_update_metadata=st.booleans(),
    can_subscribe_metrics=st.booleans(),
    can_manage_agent_session=st.booleans(),
    hidden=st.booleans(),
    recorder=st.booleans(),
    agent=st.booleans(),
    can_publish_sources=st.lists(st.integers(0, 4), max_size=3).map(tuple),
)


def through(role: Role, message: pb.WorkerMessage | pb.ServerMessage, json: bool) -> object:
    """What the other side reads."""
    return _codec.decode(role, _codec.serialize(message, json=json), wall=WALL)[1]


@json_too
@given(
    value=st.builds(
        Registration,
        job_type=st.integers(0, 2),
        agent_name=texts,
        namespace=texts,
        deployment=texts,
        version=texts,
        permissions=st.none() | permissions,
        ping_interval=uint32,
    )
)
def test_a_registration(json: bool, value: Registration) -> None:
    event = through(Role.WORKER, _codec.register(value), json)
    assert event == RegisterReceived(registration=value)


@json_too
@given(
    worker_id=texts,
    info=st.builds(
        ServerInfo,
        version=texts,
        edition=st.integers(0, 1),
        protocol=int32,
        region=texts,
        node_id=texts,
        agent_protocol=int32,
    ),
)
def test_a_register_response(json: bool, worker_id: str, info: ServerInfo) -> None:
    assert through(Role.SERVER, _codec.registered(worker_id, info), json) == Registered(
        worker_id=worker_id, server=info
    )


@json_too
@given(
    job_id=texts,
    metadata=st.none()
    | st.builds(
        JobMetadata,
        participant_identity=texts,
        participant_name=texts,
        participant_metadata=texts,
        participant_attributes=attributes,
    ),
    terminate=st.booleans(),
)
def test_an_answer(json: bool, job_id: str, metadata: JobMetadata | None, terminate: bool) -> None:
    assert through(
        Role.WORKER, _codec.answer(job_id, metadata, terminate=terminate), json
    ) == AvailabilityReceived(
        job_id=job_id, available=metadata is not None, terminate=terminate, metadata=metadata or JobMetadata()
    )  # fmt: skip


@json_too
@given(job_id=texts, status=st.sampled_from(JobStatus), error=texts)
def test_a_status(json: bool, job_id: str, status: JobStatus, error: str) -> None:
    event = through(Role.WORKER, _codec.job_status(job_id, status, error), json)
    assert event == JobStatusReceived(job_id=job_id, status=int(status), error=error)


@json_too
@given(full=st.booleans(), load=loads, job_count=uint32, draining=st.booleans())
def test_a_standing(json: bool, full: bool, load: float, job_count: int, draining: bool) -> None:
    message = _codec.worker_status(full=full, load=load, job_count=job_count, draining=draining)
    assert through(Role.WORKER, message, json) == WorkerStatusReceived(
        full=full, load=load, job_count=job_count, draining=draining
    )


@json_too
@given(numbers=st.tuples(int64, int64), ids=st.lists(texts, max_size=4), text=texts)
def test_pings_pongs_migrations_terminations_and_go_aways(
    json: bool, numbers: tuple[int, int], ids: list[str], text: str
) -> None:
    first, second = numbers
    assert through(Role.WORKER, _codec.ping(first), json) == PingReceived(timestamp=first)
    assert through(Role.SERVER, _codec.pong(first, second), json) == PongReceived(
        last_timestamp=first, timestamp=second
    )
    assert through(Role.WORKER, _codec.migrate(ids), json) == MigrateReceived(job_ids=tuple(ids))
    assert through(Role.SERVER, _codec.termination(text), json) == JobTerminated(job_id=text)
    assert through(Role.SERVER, _codec.go_away(text), json) == GoAway(reason=text)


rooms = st.builds(
    models.Room,
    sid=texts,
    name=texts,
    metadata=texts,
    num_participants=uint32,
    max_participants=uint32,
    empty_timeout=uint32,
    departure_timeout=uint32,
    creation_time=int64,
    creation_time_ms=int64,
    active_recording=st.booleans(),
    turn_password=texts,
)
participants = st.builds(
    models.ParticipantInfo,
    sid=texts,
    identity=texts,
    metadata=texts,
    attributes=attributes,
    kind=st.integers(0, 8).filter(lambda n: n not in (5, 6)),
    state=st.integers(0, 3),
    joined_at=int64,
    joined_at_ms=int64,
    permission=st.none() | permissions.map(lambda p: p.to_proto()),
)
jobs = st.builds(
    pb.Job,
    id=texts,
    type=st.integers(0, 2) | int32,
    room=rooms,
    participant=st.none() | participants,
    metadata=texts,
    agent_name=texts,
    dispatch_id=texts,
    deployment=texts,
    attributes=attributes,
    enable_recording=st.booleans(),
    state=st.builds(
        pb.JobState, status=int32, error=texts, started_at=int64, ended_at=int64, updated_at=int64, worker_id=texts
    ),
)


@given(job=jobs, token=texts, url=texts, resuming=st.booleans())
def test_an_offer_and_an_assignment_whatever_the_job(job: pb.Job, token: str, url: str, resuming: bool) -> None:
    offered = through(Role.SERVER, _codec.offer(job, resuming), False)
    assigned = through(Role.SERVER, _codec.assignment(job, token, url), False)
    assert isinstance(offered, JobOffered)
    assert isinstance(assigned, JobAssigned)
    assert (offered.resuming, assigned.token, assigned.url) == (resuming, token, url)
    assert offered.job == assigned.job
    for value in (offered.job, assigned.job):
        assert value.raw == job
        assert (value.id, value.metadata, dict(value.attributes)) == (job.id, job.metadata, dict(job.attributes))
        assert (value.participant is None) is not job.HasField("participant")
        assert isinstance(value.type, JobType) is (0 <= job.type <= 2)
        assert _codec.job_from_proto(value.raw, received_at=WALL) == value
        assert "turn" not in repr(value)
        if job.metadata and job.metadata not in str(job.id):
            assert f"metadata={job.metadata!r}" not in repr(value)


@given(room=rooms, participant=participants)
def test_a_simulation_whatever_it_asks_for(room: models.Room, participant: models.ParticipantInfo) -> None:
    message = pb.WorkerMessage(simulate_job=pb.SimulateJobRequest(room=room, participant=participant))
    event = through(Role.WORKER, message, False)
    assert isinstance(event, SimulateReceived)
    assert event.room is not None
    assert event.room.name == room.name
    assert event.participant is not None
    assert event.participant.identity == participant.identity


def moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


ROOM = models.Room(
    sid="RM_1",
    name="lobby",
    metadata="m",
    num_participants=3,
    num_publishers=2,
    max_participants=9,
    creation_time=1_700_000_000,
    creation_time_ms=1_700_000_000_250,
    empty_timeout=300,
    departure_timeout=20,
    active_recording=True,
    turn_password="secret",
)
ROOM_INFO = RoomInfo(
    sid="RM_1",
    name="lobby",
    metadata="m",
    num_participants=3,
    num_publishers=2,
    max_participants=9,
    creation_time=moment(1_700_000_000.25),
    empty_timeout=300.0,
    departure_timeout=20.0,
    active_recording=True,
)
PERSON = models.ParticipantInfo(
    sid="PA_1",
    identity="ada",
    name="Ada",
    metadata="pm",
    attributes={"a": "1"},
    kind=models.ParticipantInfo.Kind.SIP,
    state=models.ParticipantInfo.State.ACTIVE,
    is_publisher=True,
    permission=models.ParticipantPermission(can_publish=True, can_publish_sources=[models.TrackSource.MICROPHONE]),
    joined_at=1_700_000_100,
)
PERSON_INFO = ParticipantInfo(
    sid="PA_1",
    identity="ada",
    name="Ada",
    metadata="pm",
    attributes={"a": "1"},
    kind=3,
    state=2,
    is_publisher=True,
    permissions=ParticipantPermissions(
        can_subscribe=False,
        can_publish=True,
        can_publish_data=False,
        can_update_metadata=False,
        can_publish_sources=(2,),
    ),
    joined_at=moment(1_700_000_100),
)


def test_whatever_the_server_tells_of_a_job_arrives() -> None:
    job = pb.Job(
        id="AJ_1",
        type=pb.JT_PUBLISHER,
        room=ROOM,
        participant=PERSON,
        namespace="ns",
        metadata="jm",
        agent_name="greeter",
        dispatch_id="AD_1",
        deployment="blue",
        attributes={"b": "2"},
        enable_recording=True,
        enable_redaction=True,
        state=pb.JobState(
            status=pb.JS_RUNNING,
            error="e",
            started_at=1_700_000_200_500_000_000,
            updated_at=1_700_000_201_000_000_000,
            ended_at=1_700_000_202_000_000_000,
            participant_identity="agent",
            worker_id="AW_1",
        ),
    )
    event = through(Role.SERVER, _codec.offer(job), False)
    assert isinstance(event, JobOffered)
    assert event.job == Job(
        id="AJ_1",
        type=JobType.PUBLISHER,
        room=ROOM_INFO,
        participant=PERSON_INFO,
        namespace="ns",
        metadata="jm",
        agent_name="greeter",
        dispatch_id="AD_1",
        deployment="blue",
        attributes={"b": "2"},
        enable_recording=True,
        enable_redaction=True,
        created_at=moment(WALL),
        updated_at=moment(1_700_000_201),
        state=JobState(
            status=1,
            error="e",
            started_at=moment(1_700_000_200.5),
            updated_at=moment(1_700_000_201),
            ended_at=moment(1_700_000_202),
            participant_identity="agent",
            worker_id="AW_1",
        ),
        packed=job.SerializeToString(deterministic=True),
    )


def test_a_time_that_is_not_set_or_cannot_be_is_none() -> None:
    assert _codec.room_from_proto(models.Room()).creation_time is None
    assert _codec.room_from_proto(models.Room(creation_time=7)).creation_time == moment(7)
    assert _codec.room_from_proto(models.Room(creation_time=2**62)).creation_time is None
    assert _codec.participant_from_proto(models.ParticipantInfo(joined_at_ms=1)).joined_at == moment(0.001)
    state = pb.JobState(started_at=1, updated_at=-1)
    job = _codec.job_from_proto(pb.Job(state=state), received_at=WALL)
    assert (job.state.started_at, job.state.updated_at, job.state.ended_at) == (moment(1e-9), None, None)


def test_a_simulation_arrives_with_what_it_names_and_nothing_else() -> None:
    whole = pb.SimulateJobRequest(type=pb.JT_PARTICIPANT, room=ROOM, participant=PERSON)
    assert through(Role.WORKER, pb.WorkerMessage(simulate_job=whole), False) == SimulateReceived(
        job_type=2, room=ROOM_INFO, participant=PERSON_INFO
    )
    bare = pb.WorkerMessage(simulate_job=pb.SimulateJobRequest(type=pb.JT_ROOM))
    assert through(Role.WORKER, bare, False) == SimulateReceived(job_type=0, room=None, participant=None)


@json_too
def test_that_a_job_can_be_resumed_is_said_with_a_yes_only(json: bool) -> None:
    yes = through(Role.WORKER, _codec.answer("AJ_1", JobMetadata(), resume=True), json)
    no = through(Role.WORKER, _codec.answer("AJ_1", None, resume=True), json)
    assert isinstance(yes, AvailabilityReceived)
    assert isinstance(no, AvailabilityReceived)
    assert (yes.supports_resume, no.supports_resume) == (True, False)


def test_a_message_without_a_variant_that_is_known_is_skipped_by_name() -> None:
    for role in Role:
        kind, event = _codec.decode(role, b"", wall=WALL)
        assert kind is None
        assert isinstance(event, MessageSkipped)
        assert event.kind == "unknown"


def test_a_variant_that_this_version_does_not_handle_is_skipped_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_codec, "_DECODERS", {Role.WORKER: {}})
    kind, event = _codec.decode(Role.WORKER, _codec.serialize(_codec.ping(1)), wall=WALL)
    assert kind is None
    assert isinstance(event, MessageSkipped)
    assert event.kind == "ping"


def test_text_is_read_up_to_its_bound_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    text = _codec.serialize(_codec.ping(1), json=True)
    monkeypatch.setattr(_codec, "JSON_CHARS_MAX", len(text))
    assert _codec.decode(Role.WORKER, text, wall=WALL)[1] == PingReceived(timestamp=1)
    with pytest.raises(_codec.Undecodable):
        _codec.decode(Role.WORKER, f"{text!s} ", wall=WALL)
    long = _codec.serialize(_codec.ping(2**62), json=False)
    monkeypatch.setattr(_codec, "JSON_CHARS_MAX", 1)
    assert _codec.decode(Role.WORKER, long, wall=WALL)[1] == PingReceived(timestamp=2**62)


@given(st.integers(0, 2**32 - 1))
def test_any_float_of_load_is_read_as_a_finite_number(bits: int) -> None:
    load = struct.unpack("<f", struct.pack("<I", bits))[0]
    message = pb.WorkerMessage(update_worker=pb.UpdateWorkerStatus(load=load))
    event = through(Role.WORKER, message, False)
    assert isinstance(event, WorkerStatusReceived)
    assert math.isfinite(event.load)
    assert event.full is None


def test_equal_messages_are_equal_bytes_whatever_the_order_of_their_attributes() -> None:
    pairs = [(f"k{n}", str(n)) for n in range(50)]
    forward = JobMetadata(participant_attributes=dict(pairs))
    backward = JobMetadata(participant_attributes=dict(reversed(pairs)))
    assert _codec.serialize(_codec.answer("AJ_1", forward)) == _codec.serialize(_codec.answer("AJ_1", backward))


@pytest.mark.parametrize(
    "build",
    [
        lambda: _codec.ping(2**63),
        lambda: _codec.migrate(["\ud800"]),
        lambda: _codec.go_away("\ud800"),
        lambda: _codec.termination("\ud800"),
        lambda: _codec.registered("\ud800", ServerInfo()),
        lambda: _codec.registered("AW_1", ServerInfo(protocol=2**40)),
        lambda: _codec.register(Registration(agent_name="\ud800")),
        lambda: _codec.register(Registration(ping_interval=-1)),
        lambda: _codec.register(Registration(job_type=2**40)),
        lambda: _codec.assignment(pb.Job(), "\ud800", ""),
        lambda: _codec.job_status("\ud800", JobStatus.FAILED, ""),
        lambda: _codec.worker_status(full=True, load=0.0, job_count=-1, draining=False),
    ],
)
def test_what_cannot_be_encoded_is_our_own_error(build: object) -> None:
    with pytest.raises(LocalProtocolError, match="cannot be encoded"):
        build()  # type: ignore[operator]


def test_a_registration_that_cannot_be_encoded_is_found_before_anything_is_sent() -> None:
    from .pair import new_worker

    with pytest.raises(LocalProtocolError):
        new_worker(registration=Registration(agent_name="\ud800"))


def test_every_variant_is_walked() -> None:
    """What the definition says must be what the codec knows; a new one is noticed here."""
    assert [(role.name, variant) for role, variant in VARIANTS] == [
        *(("WORKER", name) for name in ("register", "availability", "update_worker", "update_job", "ping",
                                        "simulate_job", "migrate_job")),
        *(("SERVER", name) for name in ("register", "availability", "assignment", "termination", "pong", "go_away")),
    ]  # fmt: skip


@pytest.mark.parametrize(("role", "variant"), VARIANTS, ids=lambda value: str(getattr(value, "name", value)).lower())
@settings(max_examples=40)
@given(data=st.data())
def test_w20_any_message_means_the_same_in_both_encodings_and_encoded_again(
    role: Role, variant: str, data: st.DataObject
) -> None:
    message = data.draw(envelope(role, variant))
    kind, event = _codec.decode(role, message.SerializeToString(), wall=WALL)
    assert kind is not None
    again = type(message).FromString(message.SerializeToString())
    for payload in (again.SerializeToString(), _codec.serialize(again, json=True)):
        other_kind, other = _codec.decode(role, payload, wall=WALL)
        assert (other_kind, _said(other)) == (kind, _said(event))


def _said(value: object) -> object:
    """What counts of a value: a map has no order, and a load that is no number is not equal to itself."""
    if dataclasses.is_dataclass(value):
        return {each.name: _said(getattr(value, each.name)) for each in dataclasses.fields(value) if each.compare}
    if isinstance(value, Mapping):
        return dict(value)
    return repr(value)
