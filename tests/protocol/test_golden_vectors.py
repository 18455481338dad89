"""The bytes of agent-protocol's golden vectors, both ways, and what hostile bytes parse to."""

from __future__ import annotations

import pytest
from livekit.protocol import agent as pb

from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.protocol import (
    AvailabilityReceived,
    Event,
    GoAway,
    JobAssigned,
    JobOffered,
    JobStatusReceived,
    JobTerminated,
    Kind,
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

from . import pair

METADATA = JobMetadata(
    participant_identity="agent-AJ_1",
    participant_name="n",
    participant_metadata="m",
    participant_attributes={"k": "v"},
)
INFO = ServerInfo(version="1.13.5", protocol=17, node_id="ND_1", agent_protocol=1)


def offered_job() -> pb.Job:
    return pb.Job(
        id="AJ_1",
        room={"sid": "RM_1", "name": "r"},
        agent_name="a",
        state={"status": pb.JS_RUNNING, "worker_id": "AW_1"},
        dispatch_id="AD_1",
    )


def simulation() -> pb.WorkerMessage:
    return pb.WorkerMessage(simulate_job=pb.SimulateJobRequest(room={"name": "r"}))


WORKER_SAYS: list[tuple[str, str, pb.WorkerMessage, Kind, Event | type[Event]]] = [
    (
        "register", "0a061a0131420161", _codec.register(Registration(agent_name="a", version="1")),
        Kind.REGISTER, RegisterReceived(registration=Registration(agent_name="a", version="1")),
    ),
    (
        "register nothing", "0a00", _codec.register(Registration()),
        Kind.REGISTER, RegisterReceived(registration=Registration()),
    ),
    (
        "accept",
        "12220a04414a5f31100122016e2a0a6167656e742d414a5f3132016d3a060a016b120176",
        _codec.answer("AJ_1", METADATA),
        Kind.ANSWER, AvailabilityReceived(job_id="AJ_1", available=True, metadata=METADATA),
    ),
    (
        "reject", "12060a04414a5f31", _codec.answer("AJ_1", None),
        Kind.ANSWER, AvailabilityReceived(job_id="AJ_1", available=False),
    ),
    (
        "reject and terminate", "12080a04414a5f314001", _codec.answer("AJ_1", None, terminate=True),
        Kind.ANSWER, AvailabilityReceived(job_id="AJ_1", available=False, terminate=True),
    ),
    (
        "standing", "1a0908001d0000003f2001",
        _codec.worker_status(full=False, load=0.5, job_count=1, draining=False),
        Kind.WORKER_STATUS, WorkerStatusReceived(full=False, load=0.5, job_count=1),
    ),
    (
        "full", "1a020801", _codec.worker_status(full=True, load=0.0, job_count=0, draining=False),
        Kind.WORKER_STATUS, WorkerStatusReceived(full=True, load=0.0),
    ),
    (
        "success", "22080a04414a5f311002", _codec.job_status("AJ_1", JobStatus.SUCCESS, ""),
        Kind.JOB_STATUS, JobStatusReceived(job_id="AJ_1", status=2),
    ),
    (
        "failed", "220e0a04414a5f3110031a04626f6f6d", _codec.job_status("AJ_1", JobStatus.FAILED, "boom"),
        Kind.JOB_STATUS, JobStatusReceived(job_id="AJ_1", status=3, error="boom"),
    ),
    ("ping 0", "2a00", _codec.ping(0), Kind.PING, PingReceived(timestamp=0)),
    ("ping -1", "2a0b08ffffffffffffffffff01", _codec.ping(-1), Kind.PING, PingReceived(timestamp=-1)),
    (
        "migrate", "3a0c1204414a5f311204414a5f32", _codec.migrate(["AJ_1", "AJ_2"]),
        Kind.MIGRATE, MigrateReceived(job_ids=("AJ_1", "AJ_2")),
    ),
    ("simulate", "32051203120172", simulation(), Kind.SIMULATE, SimulateReceived),
]  # fmt: skip

_JOB = "0a240a04414a5f311a090a04524d5f311201723a0161420808013a0441575f314a0441445f31"
SERVER_SAYS: list[tuple[str, str, pb.ServerMessage, Kind, Event | type[Event]]] = [
    (
        "registered",
        "0a1a0a0441575f311a121206312e31332e3518112a044e445f313801",
        _codec.registered("AW_1", INFO),
        Kind.REGISTERED, Registered(worker_id="AW_1", server=INFO),
    ),
    ("offer", "1226" + _JOB, _codec.offer(offered_job()), Kind.OFFER, JobOffered),
    ("assignment", "1a29" + _JOB + "1a0174", _codec.assignment(offered_job(), "t", ""), Kind.ASSIGNMENT, JobAssigned),
    ("termination", "2a060a04414a5f31", _codec.termination("AJ_1"), Kind.TERMINATION, JobTerminated(job_id="AJ_1")),
    ("pong", "220408051006", _codec.pong(5, 6), Kind.PONG, PongReceived(last_timestamp=5, timestamp=6)),
    ("go away", "32030a0178", _codec.go_away("x"), Kind.GO_AWAY, GoAway(reason="x")),
]  # fmt: skip

VECTORS = [(Role.WORKER, *row) for row in WORKER_SAYS] + [(Role.SERVER, *row) for row in SERVER_SAYS]


@pytest.mark.parametrize(
    ("speaker", "hexed", "message", "kind", "event"),
    [(s, h, m, k, e) for s, _, h, m, k, e in VECTORS],
    ids=[f"{s.value} {n}" for s, n, *_ in VECTORS],
)
@pytest.mark.parametrize("json", [False, True])
def test_a_vector_both_ways(
    speaker: Role,
    hexed: str,
    message: pb.WorkerMessage | pb.ServerMessage,
    kind: Kind,
    event: Event | type[Event],
    json: bool,
) -> None:
    assert bytes(_codec.serialize(message)).hex() == hexed  # type: ignore[arg-type]
    payload = _codec.serialize(message, json=True) if json else bytes.fromhex(hexed)
    found, decoded = _codec.decode(speaker, payload, wall=pair.WALL)
    assert found is kind
    if isinstance(event, type):
        assert isinstance(decoded, event)
    else:
        assert decoded == event
    if isinstance(decoded, JobOffered | JobAssigned):
        job = decoded.job
        assert (job.id, job.room.sid, job.room.name, job.agent_name) == ("AJ_1", "RM_1", "r", "a")
        assert (job.dispatch_id, job.state.status, job.state.worker_id) == ("AD_1", 1, "AW_1")


@pytest.mark.parametrize(
    "hexed", ["", "7a00", "2b2c", "2801"], ids=["empty", "unknown field", "group", "wrong wire type"]
)
def test_what_parses_to_nothing_is_skipped(hexed: str) -> None:
    kind, event = _codec.decode(Role.SERVER, bytes.fromhex(hexed), wall=0)
    assert kind is None
    assert isinstance(event, MessageSkipped)


@pytest.mark.parametrize(
    "data",
    [
        bytes.fromhex("02ff"),
        bytes.fromhex("0e00"),
        bytes.fromhex("0f00"),
        bytes.fromhex("0aff"),
        bytes.fromhex("0a05414a"),
        b"\xff" * 10,
        b"\x2a\x04\x0a\x02\xff\xfe",
        b'{"pong":{}}',
        b"HTTP/1.1 200 OK",
    ],
    ids=["field 0", "wire type 6", "wire type 7", "length", "truncated", "ff", "utf-8", "json", "http"],
)
def test_case_81_what_does_not_parse_is_undecodable_and_nothing_else(data: bytes) -> None:
    with pytest.raises(_codec.Undecodable):
        _codec.decode(Role.SERVER, data, wall=0)


def test_two_variants_in_one_message_the_last_wins_and_twice_the_same_is_merged() -> None:
    pong, termination = bytes.fromhex("220408051006"), bytes.fromhex("2a060a04414a5f31")
    assert _codec.decode(Role.SERVER, pong + termination, wall=0) == (Kind.TERMINATION, JobTerminated(job_id="AJ_1"))
    merged = bytes.fromhex("22020805") + bytes.fromhex("22021006")
    assert _codec.decode(Role.SERVER, merged, wall=0)[1] == PongReceived(last_timestamp=5, timestamp=6)


def test_case_80_unknown_enum_numbers_are_kept_and_unknown_fields_are_ignored() -> None:
    kind, event = _codec.decode(Role.SERVER, pair.offer("AJ_1", type=7).SerializeToString(), wall=0)
    assert kind is Kind.OFFER
    assert isinstance(event, JobOffered)
    assert int(event.job.type) == 7
    _, event = _codec.decode(Role.WORKER, pair.job_status("AJ_1", 99).SerializeToString(), wall=0)
    assert event == JobStatusReceived(job_id="AJ_1", status=99)
    newer = bytes.fromhex("0a" + "0d" + "0a0441575f31" + "fa01" + "03" + "616263" + "0000")[:-2]
    newer = b"\x0a" + bytes([len(newer) - 2]) + newer[2:]
    _, event = _codec.decode(Role.SERVER, newer, wall=0)
    assert isinstance(event, Registered)
    assert event.worker_id == "AW_1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "1",
        "true",
        "{",
        "nonsense",
        "NaN",
        '{"pong": 5}',
        '{"pong": {"timestamp": "x"}}',
        '{"pong": {"timestamp": 1.5}}',
        '{"pong": {"timestamp": 1e400}}',
        '{"pong": {"timestamp": 99999999999999999999}}',
        '{"pong": {"timestamp": ' + "9" * 6000 + "}}",
        '{"pong": {"timestamp": true}}',
        '{"termination": {"jobId": "\\ud800"}}',
        '{"termination": {"jobId": 5}}',
        '{"termination": {}, "pong": {}}',
        '{"termination": {}, "termination": {}}',
        '{"assignment": {"job": {"attributes": [1]}}}',
        '{"assignment": {"job": {"attributes": {"a": 1}}}}',
        '{"availability": {"job": {"participant": {"attributes": {"a": null}}}}}',
        '{"a":' * 100_000,
        "[" * 100_000,
        '{"x": "' + "y" * 2**21 + '"}',
    ],
    ids=range(24),
)
def test_case_82_json_of_the_wrong_shape_is_undecodable_and_nothing_else(text: str) -> None:
    with pytest.raises(_codec.Undecodable):
        _codec.decode(Role.SERVER, text, wall=0)


@pytest.mark.parametrize("text", ["[]", '"x"', "{}", '{"future": {}}', '{"x": ' * 40 + "1" + "}" * 40])
def test_json_that_names_no_variant_is_skipped(text: str) -> None:
    assert _codec.decode(Role.SERVER, text, wall=0)[0] is None


def test_json_with_unknown_fields_and_enum_names_is_read() -> None:
    text = '{"availability": {"job": {"id": "AJ_1", "type": "JT_FUTURE", "new": {"x": [1]}}, "resuming": true}}'
    kind, event = _codec.decode(Role.SERVER, text, wall=0)
    assert kind is Kind.OFFER
    assert isinstance(event, JobOffered)
    assert (event.job.id, event.resuming) == ("AJ_1", True)


def test_groups_nested_deeper_than_protobuf_allows_are_undecodable() -> None:
    deep = b"\x7b" * 200 + b"\x7c" * 200
    with pytest.raises(_codec.Undecodable):
        _codec.decode(Role.SERVER, deep, wall=0)


def test_metadata_that_breaks_json_parsers_is_a_value_error_and_nothing_else() -> None:
    for text in ("[" * 100_000, "9" * 6_000, '{"a":' * 50_000, "x" * (4 * 2**20 + 1), "", "\x00"):
        _, event = _codec.decode(Role.SERVER, pair.offer("AJ_1", metadata=text).SerializeToString(), wall=0)
        assert isinstance(event, JobOffered)
        assert event.job.metadata == text
        with pytest.raises(ValueError):  # noqa: PT011 - json's own wording
            event.job.metadata_json()


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"pong":' * 60_000, "9" * 6_000, '{"pong": {"timestamp": "\\ud800"}}']
)
def test_case_82_hostile_json_in_a_text_frame_is_skipped_and_counted_like_garbage(text: str) -> None:
    from .frames import frame

    server = pair.RawServer(pair.new_worker()).register()
    for _ in range(3):
        assert [type(e) for e in server.say(frame(1, text.encode()))] == [MessageSkipped]
    server.say(frame(1, text.encode()))
    assert server.closed.code == 1002
