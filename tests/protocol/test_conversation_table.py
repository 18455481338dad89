"""Every cell of CONVERSATION, for both roles: what we say, what they say, and what happens where the table is empty."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from livekit.protocol import agent as pb

from livekit_agent._errors import HandshakeError, LocalProtocolError, RemoteProtocolError
from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.protocol import (
    CONVERSATION,
    SPEAKER,
    ConnectionClosed,
    Kind,
    MessageSkipped,
    Role,
    SignalConnection,
    Stage,
)

from . import frames, pair
from .pair import INFO, RawServer, RawWorker, job, new_worker

WORKER_STAGES = (Stage.UPGRADING, Stage.REGISTERING, Stage.REGISTERED, Stage.WORKER_CLOSING, Stage.CLOSED)
SERVER_STAGES = (
    Stage.IDLE,
    Stage.UPGRADING,
    Stage.OPEN,
    Stage.REGISTERING,
    Stage.REGISTERED,
    Stage.SERVER_CLOSING,
    Stage.CLOSED,
)
#: Before these no frame can be said or heard.
HTTP_STAGES = (Stage.IDLE, Stage.UPGRADING)

WORKER_MESSAGES: dict[Kind, pb.WorkerMessage] = {
    Kind.REGISTER: pair.register(),
    Kind.ANSWER: pair.answer(),
    Kind.JOB_STATUS: pair.job_status(),
    Kind.WORKER_STATUS: pair.worker_status(),
    Kind.PING: pair.ping(),
    Kind.MIGRATE: pair.migrate("AJ_1"),
    Kind.SIMULATE: pair.simulate(),
}
SERVER_MESSAGES: dict[Kind, pb.ServerMessage] = {
    Kind.REGISTERED: pair.registered(),
    Kind.OFFER: pair.offer(),
    Kind.ASSIGNMENT: pair.assignment(),
    Kind.TERMINATION: pair.termination(),
    Kind.PONG: pair.pong(),
    Kind.GO_AWAY: pair.go_away(),
}


def worker_in(stage: Stage) -> RawServer:
    """A worker in ``stage``, opposite a hand-made server."""
    server = RawServer(new_worker())
    if stage is Stage.UPGRADING:
        return server
    server.upgrade()
    if stage is not Stage.REGISTERING:
        server.say(pair.registered())
    if stage is Stage.WORKER_CLOSING:
        server.worker.close(0.0)
    if stage is Stage.CLOSED:
        server.worker.drop()
    server.heard()
    server.frames.clear()
    if stage is not Stage.CLOSED:
        server.events.clear()
    assert server.worker.stage is stage
    return server


def server_in(stage: Stage) -> RawWorker:
    """A server in ``stage``, opposite a hand-made worker."""
    worker = RawWorker()
    if stage is Stage.IDLE:
        return worker
    worker.say(frames.upgrade_request())
    if stage is not Stage.UPGRADING:
        worker.server.accept_upgrade(0.0)
    if stage in (Stage.REGISTERING, Stage.REGISTERED, Stage.SERVER_CLOSING, Stage.CLOSED):
        worker.say(pair.register())
    if stage in (Stage.REGISTERED, Stage.SERVER_CLOSING, Stage.CLOSED):
        worker.server.registered("AW_1", INFO, 0.0)
    if stage is Stage.SERVER_CLOSING:
        worker.server.close(0.0)
    if stage is Stage.CLOSED:
        worker.server.drop()
    worker.heard()
    worker.frames.clear()
    if stage is not Stage.CLOSED:
        worker.events.clear()
    assert worker.server.stage is stage
    return worker


# ------------------------------------------------------------------------------------ the table itself


def test_each_kind_has_one_speaker_but_the_end_of_the_stream() -> None:
    assert [kind for kind in Kind if kind not in SPEAKER] == [Kind.LOST]


def test_every_stage_is_in_the_table_and_can_be_reached_and_left() -> None:
    assert list(CONVERSATION) == list(Stage)
    reached, todo = {Stage.IDLE}, [Stage.IDLE]
    while todo:
        new = [after for after in CONVERSATION[todo.pop()].values() if after not in reached]
        reached.update(new)
        todo += new
    assert reached == set(Stage)
    assert all(CONVERSATION[stage][Kind.LOST] is Stage.CLOSED for stage in Stage if stage is not Stage.CLOSED)
    assert CONVERSATION[Stage.CLOSED] == {}


def test_every_kind_is_legal_somewhere() -> None:
    assert {kind for row in CONVERSATION.values() for kind in row} == set(Kind)


def test_a_closer_says_nothing_more_and_what_crosses_its_close_is_legal() -> None:
    for stage, closer in ((Stage.WORKER_CLOSING, Role.WORKER), (Stage.SERVER_CLOSING, Role.SERVER)):
        for kind in CONVERSATION[stage]:
            assert SPEAKER.get(kind) is not closer
    messages = {Role.WORKER: WORKER_MESSAGES, Role.SERVER: SERVER_MESSAGES}
    assert set(messages[Role.SERVER]) <= set(CONVERSATION[Stage.WORKER_CLOSING])
    assert set(messages[Role.WORKER]) <= set(CONVERSATION[Stage.SERVER_CLOSING])


# ------------------------------------------------------------------------------------ what they say


def _legal(stage: Stage, kind: Kind) -> bool:
    return kind in CONVERSATION[stage]


@pytest.mark.parametrize("kind", SERVER_MESSAGES, ids=lambda k: k.name)
@pytest.mark.parametrize("stage", WORKER_STAGES, ids=lambda s: s.name)
def test_what_a_server_says_to_a_worker(stage: Stage, kind: Kind) -> None:
    server = worker_in(stage)
    if stage is Stage.CLOSED:
        with pytest.raises(LocalProtocolError):
            server.say(SERVER_MESSAGES[kind])
        return
    server.say(SERVER_MESSAGES[kind])
    if _legal(stage, kind):
        assert server.worker.stage is CONVERSATION[stage][kind]
        return
    closed = server.closed
    if stage in HTTP_STAGES:
        assert isinstance(closed.error, HandshakeError)
        assert server.frames == []
    else:
        assert isinstance(closed.error, RemoteProtocolError)
        assert kind.name.lower() in str(closed.error)
        assert [f.close_code for f in server.frames] == [1002]


@pytest.mark.parametrize("kind", WORKER_MESSAGES, ids=lambda k: k.name)
@pytest.mark.parametrize("stage", SERVER_STAGES, ids=lambda s: s.name)
def test_what_a_worker_says_to_a_server(stage: Stage, kind: Kind) -> None:
    worker = server_in(stage)
    if stage is Stage.CLOSED:
        with pytest.raises(LocalProtocolError):
            worker.say(WORKER_MESSAGES[kind])
        return
    if stage is Stage.IDLE:
        worker.say(b"\x82\x80garbage that is no HTTP\r\n\r\n")
    else:
        worker.say(WORKER_MESSAGES[kind])
    if _legal(stage, kind):
        assert worker.server.stage is CONVERSATION[stage][kind]
        return
    assert isinstance(worker.closed.error, RemoteProtocolError)
    assert worker.closed.code == 1006
    assert worker.frames == []  # dropped without a Close
    assert worker.unframed == b""


def test_what_is_said_to_a_closing_worker_has_no_effect() -> None:
    server = worker_in(Stage.WORKER_CLOSING)
    for message in SERVER_MESSAGES.values():
        assert server.say(message) == []
    assert server.heard() == []
    server.say(frames.close())
    assert server.closed == ConnectionClosed(code=1000)


def test_what_is_said_to_a_closing_server_has_no_effect() -> None:
    worker = server_in(Stage.SERVER_CLOSING)
    for message in WORKER_MESSAGES.values():
        assert worker.say(message) == []
    assert worker.heard() == []
    worker.say(frames.close(mask=True))
    assert worker.closed == ConnectionClosed(code=1000)


# ------------------------------------------------------------------------------------ what we say


@pytest.mark.parametrize("kind", [k for k in SPEAKER if SPEAKER[k] is Role.WORKER], ids=lambda k: k.name)
@pytest.mark.parametrize("stage", WORKER_STAGES, ids=lambda s: s.name)
def test_what_a_worker_may_not_say_it_cannot(stage: Stage, kind: Kind) -> None:
    server = worker_in(stage)
    if _legal(stage, kind):
        return
    with pytest.raises(LocalProtocolError, match=kind.name.lower()):
        server.worker._say(kind, WORKER_MESSAGES.get(kind, pb.WorkerMessage()))  # every verb goes through this
    assert server.worker.stage is stage
    server.collect()
    assert server.frames == []


@pytest.mark.parametrize("kind", [k for k in SPEAKER if SPEAKER[k] is Role.SERVER], ids=lambda k: k.name)
@pytest.mark.parametrize("stage", SERVER_STAGES, ids=lambda s: s.name)
def test_what_a_server_may_not_say_it_cannot(stage: Stage, kind: Kind) -> None:
    worker = server_in(stage)
    if _legal(stage, kind):
        return
    with pytest.raises(LocalProtocolError, match=kind.name.lower()):
        worker.server._say(kind, SERVER_MESSAGES.get(kind, pb.ServerMessage()))
    assert worker.server.stage is stage
    worker.collect()
    assert worker.frames == []


SERVER_VERBS: dict[str, tuple[tuple[Stage, ...], Callable[[RawWorker], object]]] = {
    "accept_upgrade": ((Stage.UPGRADING,), lambda w: w.server.accept_upgrade(0.0)),
    "reject_upgrade": ((Stage.UPGRADING,), lambda w: w.server.reject_upgrade(401, b"no", None, 0.0)),
    "registered": ((Stage.REGISTERING,), lambda w: w.server.registered("AW_2", INFO, 0.0)),
    "offer": ((Stage.REGISTERED,), lambda w: w.server.offer(job(), 0.0)),
    "assign": ((), lambda w: w.server.assign(job(), "t", 0.0)),
    "terminate": ((), lambda w: w.server.terminate("AJ_1", 0.0)),
    "go_away": ((Stage.REGISTERED,), lambda w: w.server.go_away("x", 0.0)),
    "withdraw": (SERVER_STAGES, lambda w: w.server.withdraw("AJ_1", 0.0)),
    "close": (SERVER_STAGES, lambda w: w.server.close(0.0)),
    "drop": (SERVER_STAGES, lambda w: w.server.drop()),
}


@pytest.mark.parametrize("verb", SERVER_VERBS)
@pytest.mark.parametrize("stage", SERVER_STAGES, ids=lambda s: s.name)
def test_a_server_s_verbs_work_where_they_may_and_raise_elsewhere(stage: Stage, verb: str) -> None:
    worker = server_in(stage)
    allowed, call = SERVER_VERBS[verb]
    if stage in allowed:
        call(worker)
        return
    with pytest.raises(LocalProtocolError):
        call(worker)
    assert worker.server.stage is stage
    assert worker.server.data_to_send() == b""
    assert worker.server.events() == []


@pytest.mark.parametrize("stage", WORKER_STAGES, ids=lambda s: s.name)
def test_a_worker_s_verbs_about_unknown_jobs_raise_everywhere(stage: Stage) -> None:
    server = worker_in(stage)
    for call in (
        lambda: server.worker.accept("AJ_9", JobMetadata(), 0.0),
        lambda: server.worker.decline("AJ_9", 0.0),
        lambda: server.worker.report("AJ_9", JobStatus.SUCCESS, "", 0.0),
    ):
        with pytest.raises(LocalProtocolError):
            call()
    assert server.worker.stage is stage
    server.collect()
    assert server.frames == []


@pytest.mark.parametrize("stage", WORKER_STAGES, ids=lambda s: s.name)
def test_a_worker_s_standing_and_drain_are_welcome_everywhere(stage: Stage) -> None:
    server = worker_in(stage)
    server.worker.set_standing(0.5, False, 0.0)
    server.worker.drain(0.0)
    server.worker.drain(0.0)
    server.worker.renounce(0.0)
    messages = server.heard()
    assert len(messages) == (1 if stage is Stage.REGISTERED else 0)
    assert server.worker.stage is stage


# ------------------------------------------------------------------------------------ the stream's end


def peers() -> list[tuple[str, Callable[[], RawServer | RawWorker]]]:
    def at(make: Callable[[Stage], RawServer | RawWorker], stage: Stage) -> Callable[[], RawServer | RawWorker]:
        return lambda: make(stage)

    return [(f"worker-{s.name}", at(worker_in, s)) for s in WORKER_STAGES] + [
        (f"server-{s.name}", at(server_in, s)) for s in SERVER_STAGES
    ]


def own(peer: RawServer | RawWorker) -> SignalConnection:
    return peer.worker if isinstance(peer, RawServer) else peer.server


ENDINGS: dict[str, Callable[[SignalConnection], None]] = {
    "eof": lambda c: c.receive_eof(0.0),
    "drop": lambda c: c.drop(),
    "failed": lambda c: c.transport_failed("the pipe broke", 0.0),
    "close and eof": lambda c: (c.close(0.0), c.receive_eof(0.0)),  # type: ignore[func-returns-value]
    "close and silence": lambda c: (c.close(0.0), c.handle_timeout(2.0)),  # type: ignore[func-returns-value]
}


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("make", [m for _, m in peers()], ids=[n for n, _ in peers()])
def test_every_end_in_every_stage_is_told_exactly_once_and_last(
    make: Callable[[], RawServer | RawWorker], ending: str
) -> None:
    peer = make()
    connection = own(peer)
    for _ in range(2):
        ENDINGS[ending](connection)
        peer.collect()
    assert peer.closed.code == 1006
    assert connection.finished
    assert connection.next_deadline() == float("inf")
    assert f"{connection.role.name} CLOSED" in repr(connection)


@pytest.mark.parametrize("make", [m for _, m in peers()], ids=[n for n, _ in peers()])
def test_spurious_calls_change_nothing(make: Callable[[], RawServer | RawWorker]) -> None:
    peer = make()
    connection = own(peer)
    stage = connection.stage
    for _ in range(3):
        connection.handle_timeout(0.0)
        if not connection.finished:
            connection.receive_data(b"", 0.0)
        assert connection.events() == []
        assert connection.data_to_send() == b""
    assert connection.stage is stage


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 5000, 99999])
def test_a_close_code_that_may_not_be_sent_is_our_own_error(code: int) -> None:
    server = worker_in(Stage.REGISTERED)
    with pytest.raises(LocalProtocolError):
        server.worker.close(0.0, code)
    assert server.worker.stage is Stage.REGISTERED
    server.worker.close(0.0, 4999, "gr\u00fc\u00dfe \ud800" + "x" * 300)
    server.collect()
    (close,) = server.frames
    assert close.close_code == 4999
    assert len(close.payload) <= 125
    close.payload[2:].decode()


# ------------------------------------------------------------------------------------ what is tolerated


@pytest.mark.parametrize(
    "message",
    [b"", b"\x7a\x00", b"\x2b\x2c", b"\x28\x01", pb.ServerMessage().SerializeToString()],
    ids=["empty", "variant 15", "group", "wrong wire type", "unset"],
)
@pytest.mark.parametrize("stage", [Stage.REGISTERING, Stage.REGISTERED], ids=lambda s: s.name)
def test_case_78_a_worker_skips_what_it_does_not_know(stage: Stage, message: bytes) -> None:
    server = worker_in(stage)
    for _ in range(20):
        (skipped,) = server.say(frames.frame(2, message))
        assert isinstance(skipped, MessageSkipped)
    assert server.worker.stage is stage


@pytest.mark.parametrize("message", [b"", b"\x7a\x00", b"\x28\x01", b"\xff" * 10], ids=["empty", "15", "type", "junk"])
@pytest.mark.parametrize("stage", [Stage.OPEN, Stage.REGISTERED], ids=lambda s: s.name)
def test_a_server_drops_a_worker_that_says_what_it_does_not_know(stage: Stage, message: bytes) -> None:
    worker = server_in(stage)
    worker.say(frames.frame(2, message, mask=True))
    assert isinstance(worker.closed.error, RemoteProtocolError)
    assert worker.frames == []


def test_case_77_three_undecodable_messages_are_skipped_and_the_fourth_ends_the_connection() -> None:
    server = worker_in(Stage.REGISTERED)
    for _ in range(3):
        (skipped,) = server.say(frames.frame(2, b"\xff" * 10))
        assert isinstance(skipped, MessageSkipped)
    server.say(frames.frame(2, b"\xff" * 10))
    assert isinstance(server.closed.error, RemoteProtocolError)
    assert [f.close_code for f in server.frames] == [1002]


@pytest.mark.parametrize(
    ("fields", "fine"),
    [
        ({"type": 0}, True),
        ({"type": 2}, True),
        ({"type": 3}, False),
        ({"type": -1}, False),
        ({"deployment": "prod-1"}, True),
        ({"deployment": "x" * 64}, True),
        ({"deployment": "x" * 65}, False),
        ({"deployment": "a_b"}, False),
        ({"deployment": "a b"}, False),
        ({"deployment": "a\x7fb"}, False),
        ({"deployment": "\u00fc" * 33}, False),
    ],
)
def test_case_25_a_registration_with_a_bad_type_or_deployment_is_dropped(fields: dict[str, object], fine: bool) -> None:
    worker = server_in(Stage.OPEN)
    worker.say(pair.register(**fields))
    assert worker.server.finished is not fine
    if not fine:
        assert isinstance(worker.closed.error, RemoteProtocolError)
        assert worker.frames == []
