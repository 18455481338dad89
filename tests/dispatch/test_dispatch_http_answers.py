"""The HTTP side, row by row, on the embedded server and on a real one."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import anyio
import pytest
from anyio.abc import ByteStream
from http_table import KEY, SECRET, STATELESS, STORY, Answer, Row, check

from livekit_agent.dispatch import DispatchServer


def server() -> DispatchServer:
    return DispatchServer(port=None, api_key=KEY, api_secret=SECRET)


async def ask(stream: ByteStream, row: Row) -> Answer:
    await stream.send(row.raw())
    data = b""
    with anyio.fail_after(5):
        while (answer := Answer.parse(data if row.method != "HEAD" else _headless(data))) is None:
            data += await stream.receive()
    return answer


def _headless(data: bytes) -> bytes:
    """The answer to a HEAD announces a length that never comes."""
    return data.replace(b"\r\n\r\n", b"\r\nx-head: 1\r\n\r\n")


async def test_every_answer_is_the_recorded_one() -> None:
    async with server() as embedded:
        connect = embedded.memory_connector()
        for row in STATELESS:
            async with await connect(None) as stream:
                try:
                    check(row, await ask(stream, row), embedded=True)
                except Exception as exc:
                    exc.add_note(f"row: {row.name}")
                    raise


async def test_requests_share_a_connection_that_is_kept_alive() -> None:
    async with server() as embedded, await embedded.memory_connector()(None) as stream:
        for row in STATELESS:
            if (row.embedded or (row.status,))[0] != 101:
                check(row, await ask(stream, row), embedded=True)


async def test_a_rooms_story() -> None:
    async with server() as embedded, await embedded.memory_connector()(None) as stream:
        answers = {row.name: await ask(stream, row) for row in STORY}
    check_story(answers, embedded=True)


def check_story(answers: dict[str, Answer], *, embedded: bool) -> None:
    for row in STORY:
        check(row, answers[row.name], embedded=embedded)
    said = {name: json.loads(answer.body) for name, answer in answers.items()}
    room = said["create"]
    assert list(room) == [
        "sid", "name", "empty_timeout", "departure_timeout", "max_participants", "creation_time", "creation_time_ms",
        "turn_password", "enabled_codecs", "metadata", "num_participants", "num_publishers", "active_recording",
        "version",
    ]  # fmt: skip
    assert room["sid"].startswith("RM_")
    assert (room["metadata"], room["empty_timeout"], room["departure_timeout"]) == ("mm", 30, 20)
    assert (room["max_participants"], room["version"], room["num_participants"]) == (5, None, 0)
    assert isinstance(room["creation_time"], str)
    assert said["create it again: nothing changes"] == room
    assert [listed["sid"] for listed in said["list by name"]["rooms"]] == [room["sid"]]
    assert said["room metadata"] == {**room, "metadata": "z"}

    dispatch = said["dispatch"]
    created_at = dispatch["state"].pop("created_at")
    assert created_at.isdigit()
    assert dispatch == {
        "id": dispatch["id"], "agent_name": "a", "room": "r1", "metadata": "m",
        "state": {"jobs": [], "deleted_at": "0"}, "restart_policy": "JRP_NEVER", "deployment": "staging",
        "attributes": {"k": "v"},
    }  # fmt: skip
    assert sorted(listed["agent_name"] for listed in said["list dispatches"]["agent_dispatches"]) == ["", "a"]


async def test_what_needs_media_is_said_to_be_missing() -> None:
    from http_table import ADMIN, JSON, ROOMS

    async with server() as embedded, await embedded.memory_connector()(None) as stream:
        for method in ("UpdateSubscriptions", "ForwardParticipant", "PerformRpc", "MoveParticipant"):
            row = Row(name=method, path=ROOMS + method, headers={**JSON, **ADMIN}, body={"room": "r1"})
            answer = await ask(stream, row)
            assert (answer.status, json.loads(answer.body)["code"]) == (501, "unimplemented")


@pytest.mark.real_server
@pytest.mark.parametrize("row", STATELESS, ids=lambda row: row.name)
def test_the_real_server_answers_so(row: Row, real_http: tuple[str, int]) -> None:
    check(row, _ask_socket(real_http, row), embedded=False)


@pytest.mark.real_server
def test_the_real_server_tells_the_same_story(real_http: tuple[str, int]) -> None:
    check_story({row.name: _ask_socket(real_http, row) for row in STORY}, embedded=False)


def _ask_socket(address: tuple[str, int], row: Row) -> Answer:
    fix: Callable[[bytes], bytes] = _headless if row.method == "HEAD" else bytes
    with socket.create_connection(address, timeout=8) as connection:
        connection.sendall(row.raw())
        data = b""
        while (answer := Answer.parse(fix(data))) is None:
            data += connection.recv(65536)
    return answer
