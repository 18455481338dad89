"""The HTTP client on the embedded server, on servers that are none, and on a real one."""

from __future__ import annotations

import json
import logging
import math
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import anyio
import pytest
from anyio.abc import SocketAttribute, SocketStream
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from livekit.protocol import sip

from livekit_agent import (
    ConfigError,
    JobContext,
    JobStatus,
    ParticipantPermissions,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerOptions,
)
from livekit_agent.api import ApiError, Dispatch, LiveKitAPI, RoomAgent, SipCall
from livekit_agent.dispatch import DispatchServer
from livekit_agent.events import DataReceived, JobEnded, RoomMetadataChanged
from livekit_agent.protocol import Claims, verify_token
from livekit_agent.rooms import DisconnectReason

Sent = TypeVar("Sent", bound=Message)

KEY, SECRET = "devkey", "secretsecretsecretsecretsecret32"


@asynccontextmanager
async def both() -> AsyncIterator[tuple[DispatchServer, LiveKitAPI]]:
    """An embedded server and a client of it."""
    async with (
        DispatchServer(api_key=KEY, api_secret=SECRET) as server,
        LiveKitAPI(server.url, KEY, SECRET) as api,
    ):
        yield server, api


async def refused(call: Awaitable[object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await call
    return caught.value


# --------------------------------------------------------------------------------------------- what both servers do


async def a_rooms_life(api: LiveKitAPI, name: str) -> None:
    """What an open-source server and the embedded one do alike; no participant is needed."""
    room = await api.rooms.create(name, metadata="m", empty_timeout=30, departure_timeout=5, max_participants=7)
    assert room.sid.startswith("RM_")
    assert (room.name, room.metadata, room.empty_timeout, room.departure_timeout, room.max_participants) == (
        name, "m", 30, 5, 7,
    )  # fmt: skip
    assert room.creation_time is not None
    assert abs(room.creation_time.timestamp() - time.time()) < 60
    assert await api.rooms.create(name, metadata="ignored") == room
    assert [listed.name for listed in await api.rooms.list([name, "elsewhere"])] == [name]
    assert name in [listed.name for listed in await api.rooms.list()]

    assert (await api.rooms.update_metadata(name, "newer")).metadata == "newer"
    assert await api.rooms.participants(name) == []
    await api.rooms.send_data(name, "hi", topic="t")
    for call in (api.rooms.get_participant, api.rooms.remove_participant, api.rooms.update_participant):
        error = await refused(call(name, "nobody"))
        assert (error.status, error.twirp_code) == (404, "not_found")
        assert "participant does not exist" in error.message

    dispatch = await api.dispatch.create(name, "nobody", metadata="dm", deployment="staging", attributes={"k": "v"})
    assert dispatch.id.startswith("AD_")
    assert (dispatch.room, dispatch.agent_name, dispatch.metadata, dispatch.deployment, dispatch.attributes) == (
        name, "nobody", "dm", "staging", {"k": "v"},
    )  # fmt: skip
    assert dispatch.jobs == ()
    listed = await api.dispatch.list(name)
    assert sorted(one.agent_name for one in listed) == ["", "nobody"]
    assert await api.dispatch.list(name, dispatch.id) == [one for one in listed if one.id == dispatch.id]
    assert await api.dispatch.list(name, "AD_other") == []
    assert (await api.dispatch.delete(name, dispatch.id)).id == dispatch.id
    error = await refused(api.dispatch.delete(name, dispatch.id))
    assert (error.status, error.twirp_code) == (404, "not_found")

    await api.rooms.delete(name)
    error = await refused(api.rooms.delete(name))
    assert (error.status, error.twirp_code, error.message) == (
        404, "not_found", "RoomService.DeleteRoom: requested room does not exist",
    )  # fmt: skip
    error = await refused(api.rooms.update_metadata(name, "x"))
    assert error.twirp_code == "not_found"
    error = await refused(api.dispatch.list(name))
    assert (error.status, error.twirp_code) == (503, "unavailable")


async def agents_of_a_new_room(api: LiveKitAPI, name: str) -> None:
    await api.rooms.create(name, agents=["one", RoomAgent(agent_name="two", metadata="m", attributes={"k": "v"})])
    dispatches = {dispatch.agent_name: dispatch for dispatch in await api.dispatch.list(name)}
    assert sorted(dispatches) == ["one", "two"]
    assert (dispatches["two"].metadata, dispatches["two"].attributes) == ("m", {"k": "v"})
    await api.rooms.delete(name)


async def limits(api: LiveKitAPI, name: str) -> None:
    for call in (
        api.rooms.create("r" * 257),
        api.rooms.create(name, metadata="x" * 524_289),
        api.dispatch.create(name, deployment="a_b"),
        api.dispatch.create(name, metadata="x" * 524_289),
        api.dispatch.create(name, attributes={"k": "x" * 65_536}),
    ):
        error = await refused(call)
        assert (error.status, error.twirp_code) == (400, "invalid_argument")
    assert (await api.dispatch.create(name, metadata="ä" * 262_144)).metadata == "ä" * 262_144
    await api.rooms.delete(name)


SCENARIOS = [a_rooms_life, agents_of_a_new_room, limits]


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_on_the_embedded_server(scenario: Callable[[LiveKitAPI, str], Awaitable[None]]) -> None:
    async with both() as (_, api):
        await scenario(api, "r")


@pytest.mark.real_server
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_on_a_real_server(
    scenario: Callable[[LiveKitAPI, str], Awaitable[None]], real_url: str, backend: str
) -> None:
    async with LiveKitAPI(real_url, KEY, SECRET) as api:
        await scenario(api, f"{scenario.__name__}-{backend}")


@pytest.mark.real_server
async def test_a_real_server_without_telephones_takes_the_token_and_says_what_is_missing(real_url: str) -> None:
    async with LiveKitAPI(real_url, KEY, SECRET) as api:
        error = await refused(api.sip.create_participant("r", "ST_1", "+15550100"))
        assert (error.status, error.twirp_code) == (500, "internal")
        assert "sip not connected" in error.message
        error = await refused(api.sip.transfer_participant("r", "nobody", "tel:+15550111"))
        assert (error.status, error.twirp_code) == (404, "not_found")


@pytest.mark.real_server
async def test_a_wrong_secret_on_a_real_server_does_not_come_back_in_the_error(real_url: str) -> None:
    """v1.13.5 quotes the whole token in its answer."""
    async with LiveKitAPI(real_url, KEY, "x" * 32) as api:
        error = await refused(api.rooms.list())
    assert error.status == 401
    assert "eyJ" not in str(error)


# ---------------------------------------------------------------------------------------------- people in the room


async def test_participants_are_seen_changed_and_removed() -> None:
    async with both() as (server, api), server.rooms.join("r", "alice", name="Alice", attributes={"a": "1"}) as alice:
        (seen,) = await api.rooms.participants("r")
        assert (seen.identity, seen.name, seen.attributes, seen.state) == ("alice", "Alice", {"a": "1"}, 2)
        assert seen.sid.startswith("PA_")
        assert seen.permissions == ParticipantPermissions()
        assert await api.rooms.get_participant("r", "alice") == seen

        changed = await api.rooms.update_participant(
            "r", "alice", name="A.", metadata="m", attributes={"a": "", "b": "2"},
            permissions=ParticipantPermissions(can_publish=False),
        )  # fmt: skip
        assert (changed.name, changed.metadata, changed.attributes) == ("A.", "m", {"b": "2"})
        assert changed.permissions == ParticipantPermissions(can_publish=False)
        assert (await api.rooms.update_participant("r", "alice")).name == "A."

        await api.rooms.remove_participant("r", "alice")
        assert (await alice.wait_closed()).reason == 4
        assert await api.rooms.participants("r") == []


async def test_data_and_metadata_reach_the_room() -> None:
    async with both() as (server, api), server.rooms.join("r", "alice") as alice, server.rooms.join("r", "bob") as bob:
        heard = alice.subscribe(DataReceived, RoomMetadataChanged)
        missed = bob.subscribe(DataReceived)
        await api.rooms.send_data("r", b"\x00\xff", topic="t", reliable=False, destination_identities=["alice"])
        await api.rooms.update_metadata("r", "news")
        async for event in heard:
            if isinstance(event, DataReceived):
                assert (event.data, event.topic, event.reliable, event.participant) == (b"\x00\xff", "t", False, None)
            else:
                assert alice.metadata == "news"
                break
        missed.close()
        assert [event async for event in missed] == []


async def test_a_taken_job_is_listed_with_its_state() -> None:
    import sys

    sys.path.append(str(Path(__file__).parent.parent / "dispatch"))
    from dispatch_world import StreamWorker

    async with both() as (server, api), await server.memory_connector()(None) as stream:
        worker = await StreamWorker.register(stream, KEY, SECRET, time.time(), agent_name="a")
        dispatch = await api.dispatch.create("r", "a")
        job = (await worker.take_job()).job
        (listed,) = await api.dispatch.list("r", dispatch.id)
        assert isinstance(listed, Dispatch)
        (shown,) = listed.jobs
        assert (shown.id, shown.type, shown.participant) == (job.id, 0, "")
        assert (shown.state.status, shown.state.worker_id) == (1, worker.id)
        assert shown.state.participant_identity == f"agent-{job.id}"
        assert shown.state.started_at is not None


# ------------------------------------------------------------------------------------------------------ in a job


async def test_a_job_ends_its_room_by_the_workers_own_server_and_key() -> None:
    async def assigned(ctx: JobContext) -> None:
        async with ctx.api() as api:
            await api.rooms.delete(ctx.room.name)
        await anyio.sleep_forever()

    async with DispatchServer() as server:
        handler = SimpleUniversalHandler(job_assigned=assigned)
        worker = UniversalWorker(server.url, server.api_key, server.api_secret, handler, rooms=server.rooms)
        ended = worker.events(JobEnded)
        with anyio.fail_after(10):
            async with worker, server.rooms.join("lobby", "alice") as alice:
                assert (await alice.wait_closed()).reason == DisconnectReason.ROOM_DELETED
                assert (await anext(ended)).status is JobStatus.SUCCESS
                async with worker.api() as api:
                    assert await api.rooms.list() == []


async def test_a_workers_client_goes_the_workers_way(tmp_path: Path) -> None:
    options = WorkerOptions(allow_plaintext=True, proxy="http://127.0.0.1:9", ca_file=str(tmp_path / "none.pem"))
    handler = SimpleUniversalHandler()
    with pytest.raises(ConfigError) as caught:
        async with UniversalWorker("wss://example.com/base", KEY, SECRET, handler, options).api():
            raise AssertionError("its file of authorities is not there")
    assert caught.value.code == "CONFIG_CA_FILE"
    async with UniversalWorker("ws://example.com/base", KEY, SECRET, handler, options).api() as api:
        assert repr(api) == "<LiveKitAPI http://example.com/base>"
        # Nobody asks for the name: the proxy would be asked, and is not there.
        assert "http://example.com/base" in (await refused(api.rooms.list())).hint


# ------------------------------------------------------------------------------------------- servers that are none


@asynccontextmanager
async def answering(answer: bytes, *, then_hang: bool = False) -> AsyncIterator[tuple[str, list[bytes]]]:
    """A server that answers everything with the same bytes; the requests it was sent are kept."""
    requests: list[bytes] = []

    async def serve(stream: SocketStream) -> None:
        async with stream:
            data = b""
            while b"\r\n\r\n" not in data:
                data += await stream.receive()
            head, _, body = data.partition(b"\r\n\r\n")
            (length,) = re.findall(rb"(?i)\r\ncontent-length: (\d+)", head)
            while len(body) < int(length):
                body += await stream.receive()
            requests.append(head + b"\r\n\r\n" + body)
            await stream.send(answer)
            if then_hang:
                await anyio.sleep_forever()

    async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        yield f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}", requests
        tasks.cancel_scope.cancel()


def http(status: str, body: bytes = b"", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def claims_of(request: bytes) -> Claims:
    head = request.partition(b"\r\n\r\n")[0].decode()
    token = next(line for line in head.split("\r\n") if line.lower().startswith("authorization: Bearer ".lower()))
    return verify_token(token.partition("Bearer ")[2], {KEY: SECRET}, wall=time.time())


async def test_each_call_has_a_token_of_its_own_with_just_the_grant_it_needs() -> None:
    async with answering(http("200 OK")) as (url, requests), LiveKitAPI(url + "/base/", KEY, SECRET) as api:
        await api.dispatch.create("my room", "a")
        await api.rooms.list()
        await api.rooms.delete("r")
    grants = []
    for request in requests:
        claims = claims_of(request)
        assert claims.expires_at is not None
        assert claims.expires_at - time.time() <= 61
        grants.append(claims.video)
        assert "sip" not in claims.raw
    assert grants == [{"roomAdmin": True, "room": "my room"}, {"roomList": True}, {"roomCreate": True}]
    assert requests[0].startswith(b"POST /base/twirp/livekit.AgentDispatchService/CreateDispatch HTTP/1.1\r\n")
    assert b"content-type: application/protobuf" in requests[0].lower()


def asked(request: bytes, kind: type[Sent]) -> Sent:
    """The message that a request carries."""
    return kind.FromString(request.partition(b"\r\n\r\n")[2])


async def test_a_telephone_is_called_into_a_room() -> None:
    answer = sip.SIPParticipantInfo(
        participant_id="PA_1", participant_identity="carol", room_name="lobby", sip_call_id="SCL_1"
    )
    async with (
        answering(http("200 OK", answer.SerializeToString())) as (url, requests),
        LiveKitAPI(url, KEY, SECRET) as api,
    ):
        call = await api.sip.create_participant("lobby", "ST_1", "+15550100", identity="carol", ringing_timeout=20.5)
        assert call == SipCall(call_id="SCL_1", room="lobby", participant_identity="carol", participant_id="PA_1")
        await api.sip.create_participant(
            "lobby", "ST_1", "sip:dave@example.com", identity="dave", name="Dave", metadata="m", attributes={"k": "v"},
            from_number="+15550199", headers={"X-Who": "us"}, dtmf="1w2", play_dialtone=True, krisp=True,
            wait_until_answered=True, max_call_duration=600,
        )  # fmt: skip
    first, second = (asked(request, sip.CreateSIPParticipantRequest) for request in requests)
    assert first == sip.CreateSIPParticipantRequest(
        room_name="lobby", sip_trunk_id="ST_1", sip_call_to="+15550100", participant_identity="carol",
        ringing_timeout=Duration(seconds=20, nanos=500_000_000),
    )  # fmt: skip
    assert second == sip.CreateSIPParticipantRequest(
        room_name="lobby", sip_trunk_id="ST_1", sip_call_to="sip:dave@example.com", participant_identity="dave",
        participant_name="Dave", participant_metadata="m", participant_attributes={"k": "v"}, sip_number="+15550199",
        headers={"X-Who": "us"}, dtmf="1w2", play_dialtone=True, krisp_enabled=True, wait_until_answered=True,
        ringing_timeout=Duration(seconds=30), max_call_duration=Duration(seconds=600),
    )  # fmt: skip
    assert requests[0].startswith(b"POST /twirp/livekit.SIP/CreateSIPParticipant HTTP/1.1\r\n")
    claims = claims_of(requests[0])
    assert (claims.video, claims.raw["sip"]) == ({}, {"call": True})


async def test_a_telephone_is_handed_on() -> None:
    async with answering(http("200 OK")) as (url, requests), LiveKitAPI(url, KEY, SECRET) as api:
        await api.sip.transfer_participant("lobby", "carol", "tel:+15550111", play_dialtone=True, headers={"X": "y"})
    assert asked(requests[0], sip.TransferSIPParticipantRequest) == sip.TransferSIPParticipantRequest(
        room_name="lobby", participant_identity="carol", transfer_to="tel:+15550111", play_dialtone=True,
        headers={"X": "y"}, ringing_timeout=Duration(seconds=30),
    )  # fmt: skip
    claims = claims_of(requests[0])
    assert (claims.video, claims.raw["sip"]) == ({"roomAdmin": True, "room": "lobby"}, {"call": True})


async def test_a_telephone_that_is_busy_is_an_error_with_its_status() -> None:
    meta = b'{"sip_status_code":"486","sip_status":"Busy\\r\\nHere","n":1}'
    busy = b'{"code":"unavailable","msg":"call: busy","meta":' + meta + b"}"
    async with answering(http("503 Service Unavailable", busy)) as (url, _), LiveKitAPI(url, KEY, SECRET) as api:
        error = await refused(api.sip.create_participant("r", "ST_1", "+15550100", wait_until_answered=True))
        assert (error.status, error.twirp_code) == (503, "unavailable")
        assert error.meta == {"sip_status_code": "486", "sip_status": "Busy\\r\\nHere"}
        assert "+15550100" not in str(error)


async def test_the_words_beside_an_error_are_cut_and_counted() -> None:
    meta = {f"key {number}": "x" * 1000 for number in range(17)}
    answer = http("500 Oops", json.dumps({"code": "internal", "msg": "no", "meta": meta}).encode())
    async with answering(answer) as (url, _), LiveKitAPI(url, KEY, SECRET) as api:
        error = await refused(api.rooms.list())
        assert list(error.meta) == list(meta)[:16]
        assert max(map(len, error.meta.values())) <= 200


async def test_a_transfer_that_failed_is_an_error_although_the_call_was_answered_with_200() -> None:
    failed = sip.TransferSIPParticipantResponse(
        status=sip.SIPTransferStatus.STS_TRANSFER_FAILED,
        sip_status=sip.SIPStatus(code=sip.SIPStatusCode.SIP_STATUS_NOTFOUND, status="nobody there"),
    )
    async with answering(http("200 OK", failed.SerializeToString())) as (url, _), LiveKitAPI(url, KEY, SECRET) as api:
        error = await refused(api.sip.transfer_participant("r", "carol", "tel:+15550111"))
        assert error.message == "SIP.TransferSIPParticipant: the transfer failed: nobody there"
        assert error.meta == {"sip_status_code": "404", "sip_status": "nobody there"}


@pytest.mark.parametrize("seconds", [-1.0, math.nan, math.inf])
async def test_times_that_are_none_are_refused_before_anybody_is_asked(seconds: float) -> None:
    async with answering(http("200 OK")) as (url, requests), LiveKitAPI(url, KEY, SECRET) as api:
        with pytest.raises(ValueError, match="expected seconds"):
            await api.sip.create_participant("r", "ST_1", "+15550100", ringing_timeout=seconds)
        with pytest.raises(ValueError, match="expected seconds"):
            await api.sip.create_participant("r", "ST_1", "+15550100", max_call_duration=seconds)
        with pytest.raises(ValueError, match="expected seconds"):
            await api.sip.transfer_participant("r", "carol", "tel:+15550111", ringing_timeout=seconds)
    assert requests == []


async def test_who_waits_for_an_answer_outlasts_the_ringing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livekit_agent.api._sip.API_TIMEOUT", 0.01)
    async with answering(b"", then_hang=True) as (url, _), LiveKitAPI(url, KEY, SECRET, timeout=0.02) as api:
        call = partial(api.sip.create_participant, "r", "ST_1", "+15550100", ringing_timeout=0.04)
        handed_on = api.sip.transfer_participant("r", "c", "tel:1", ringing_timeout=0.07)
        for waits, seconds in ((call(), "0.02"), (call(wait_until_answered=True), "0.05"), (handed_on, "0.08")):
            assert f"no answer within {seconds} s" in (await refused(waits)).message


async def test_an_embedded_server_says_that_it_has_no_telephones() -> None:
    async with both() as (_, api):
        error = await refused(api.sip.create_participant("r", "ST_1", "+15550100"))
        assert error.status == 404
        assert "no telephones" in error.hint


async def test_a_redirect_is_not_followed_with_the_token() -> None:
    async with (
        answering(http("200 OK")) as (other, followed),
        answering(http("307 Temporary Redirect", b"", f"Location: {other}/x")) as (url, _),
        LiveKitAPI(url, KEY, SECRET) as api,
    ):
        error = await refused(api.rooms.list())
        assert error.status == 307
        assert "redirects" in error.message
        assert not followed


@pytest.mark.parametrize(
    ("answer", "status", "code", "says"),
    [
        (http("502 Bad Gateway", b"<html>no</html>"), 502, "", "<html>no</html>"),
        (http("404 Not Found", b"404 page not found\n"), 404, "", "404 page not found"),
        (http("403 Forbidden"), 403, "", "HTTP 403"),
        (http("200 OK", b"<html>welcome</html>"), 200, "", "not LiveKit's"),
        (http("500 Oops", b'{"code": 5, "msg": []}'), 500, "", '{"code"'),
        (http("500 Oops", b"[" * 100_000), 500, "", "[["),
        (http("409 Conflict", b'{"code":"aborted","msg":"a\\r\\nb"}'), 409, "aborted", "a\\r\\nb"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", 0, "unavailable", ""),
        (b"", 0, "unavailable", ""),
    ],
    ids=["proxy", "no livekit", "forbidden", "a page", "odd json", "deep json", "control characters", "ssh", "silence"],
)
async def test_what_is_no_livekit_server_is_one_clear_error(answer: bytes, status: int, code: str, says: str) -> None:
    async with answering(answer) as (url, _), LiveKitAPI(url, KEY, SECRET) as api:
        error = await refused(api.rooms.list())
        assert (error.status, error.twirp_code) == (status, code)
        assert says in error.message
        assert error.hint or code == "aborted" or status == 500
        assert len(error.message) < 400
        assert "\n" not in error.message


async def test_a_token_that_comes_back_is_not_repeated() -> None:
    token = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJkZXYifQ.c2lnbmF0dXJl"
    answer = http("401 Unauthorized", f"invalid token: {token}, error: nope".encode())
    async with answering(answer) as (url, _), LiveKitAPI(url, KEY, SECRET) as api:
        error = await refused(api.rooms.list())
        assert "nope" in error.message
        assert "eyJ" not in str(error)
        assert "eyJ" not in repr(error.__context__)


async def test_nobody_there_is_an_error_that_names_the_address() -> None:
    async with LiveKitAPI("ws://127.0.0.1:9", KEY, SECRET) as api:
        error = await refused(api.rooms.list())
        assert error.twirp_code == "unavailable"
        assert "http://127.0.0.1:9" in error.hint


async def test_a_server_that_never_answers_times_out() -> None:
    async with answering(b"", then_hang=True) as (url, _), LiveKitAPI(url, KEY, SECRET, timeout=0.05) as api:
        error = await refused(api.rooms.list())
        assert error.twirp_code == "deadline_exceeded"


async def test_an_answer_beyond_its_bound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("livekit_agent.api._client.API_RESPONSE_BYTES_MAX", 1000)
    async with answering(http("200 OK", b"x" * 2000)) as (url, _), LiveKitAPI(url, KEY, SECRET) as api:
        assert "larger than 1000" in (await refused(api.rooms.list())).message


async def test_a_cancelled_call_leaves_a_client_that_works() -> None:
    async with both() as (_, api):
        with anyio.move_on_after(0):
            await api.rooms.list()
        assert await api.rooms.list() == []


async def test_calls_run_side_by_side() -> None:
    async with both() as (_, api):
        async with anyio.create_task_group() as tasks:
            for number in range(20):
                tasks.start_soon(api.rooms.create, f"r{number}")
        assert len(await api.rooms.list()) == 20


async def test_a_client_outside_its_block_says_so() -> None:
    api = LiveKitAPI("ws://localhost", KEY, SECRET)
    with pytest.raises(RuntimeError, match="async with"):
        await api.rooms.list()


async def test_nothing_secret_is_logged_or_shown(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with both() as (_, api):
        await api.rooms.create("r", metadata="private")
        assert SECRET not in repr(api)
    everything = "\n".join(record.getMessage() for record in caplog.records)
    assert SECRET not in everything
    assert "eyJ" not in everything
    assert "private" not in everything


# -------------------------------------------------------------------------------------------------------- the URL


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("ws://localhost:7880", "http://localhost:7880"),
        ("wss://example.com", "https://example.com"),
        ("https://example.com/base/path/", "https://example.com/base/path"),
        ("http://127.0.0.1:1/", "http://127.0.0.1:1"),
        ("ws://[::1]:7880", "http://[::1]:7880"),
        ("wss://example.com?x=y", "https://example.com"),
    ],
)
def test_a_workers_url_becomes_the_apis(url: str, base: str) -> None:
    assert repr(LiveKitAPI(url, KEY, SECRET)) == f"<LiveKitAPI {base}>"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "expected ws"),
        ("example.com", "expected ws"),
        ("ftp://example.com", "expected ws"),
        ("ws://", "expected ws"),
        ("ws://example.com:port", "not a URL"),
        ("ws://user:pass@localhost", "a user has no place"),
        ("ws://example.com", "unencrypted"),
        ("http://10.0.0.1:7880", "unencrypted"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_at_once(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says) as caught:
        LiveKitAPI(url, KEY, SECRET)
    assert "pass" not in str(caught.value) or "place" in str(caught.value)


def test_plain_http_elsewhere_is_for_who_asks() -> None:
    assert "http://10.0.0.1" in repr(LiveKitAPI("ws://10.0.0.1", KEY, SECRET, allow_plaintext=True))


def test_a_key_and_a_secret_are_needed() -> None:
    with pytest.raises(ConfigError, match="API key"):
        LiveKitAPI("ws://localhost", KEY, "")
