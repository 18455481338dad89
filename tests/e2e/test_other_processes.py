"""Rooms of ``livekit-agent serve`` from other processes: an agent's, a person's, and who has no business there."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import anyio
import httpx
import pytest
from backdrop import unique
from child import Child, environment
from realserver import KEY, SECRET

from livekit_agent import RoomConnectError, ServerRooms, events
from livekit_agent.api import LiveKitAPI
from livekit_agent.protocol import mint_token
from livekit_agent.rooms import NativeRooms

pytestmark = pytest.mark.timeout(90)

ECHO = '''
from livekit_agent import BaseHandler

class Echo(BaseHandler):
    """Answers the first packet, and is done."""

    async def on_data_received(self, ctx, data, participant):
        await ctx.room.local_participant.publish_data(b"echo: " + data, topic="echo")
        ctx.shutdown("answered")

handler = Echo()
'''


@pytest.fixture
def serve(tmp_path: Path, backend: str) -> Iterator[str]:
    """``livekit-agent serve`` in a process of its own; its URL."""
    argv = [sys.executable, "-m", "livekit_agent", "serve", "--port", "0", "--backend", backend]
    with Child(argv, environment(""), tmp_path / "serve.log") as server:
        yield server.wait_text("dispatch server on ").split()[-1]
        server.process.send_signal(signal.SIGTERM)
        assert server.ends() == 0
        assert "Traceback" not in server.text()


def token(room: str, identity: str) -> str:
    return mint_token(KEY, SECRET, wall=time.time(), video={"roomJoin": True, "room": room}, identity=identity)


async def test_a_worker_in_another_process_takes_a_job_echoes_and_ends_in_success(
    serve: str, tmp_path: Path, backend: str
) -> None:
    (tmp_path / "echo_agent.py").write_text(ECHO)
    command = [sys.executable, "-m", "livekit_agent", "run", "echo_agent:handler", "--backend", backend]
    command += ["--agent-name", "echo"]
    room = unique("room")
    with Child(command, environment(serve, PYTHONPATH=str(tmp_path)), tmp_path / "worker.log", tmp_path) as worker:
        worker.wait_text("registered as AW_")
        async with LiveKitAPI(serve, KEY, SECRET) as api, ServerRooms(serve) as rooms:
            await api.dispatch.create(room, "echo")
            async with await rooms.join(token(room, "ada")) as here:
                with here.subscribe(events.ParticipantJoined, replay=True) as joined:
                    agent = (await joined.__anext__()).participant
                with here.subscribe(events.DataReceived) as packets, here.subscribe(events.ParticipantLeft) as left:
                    await here.local_participant.publish_data(b"hello")
                    with anyio.fail_after(20):
                        packet = await packets.__anext__()
                    assert (packet.data, packet.topic, packet.participant) == (b"echo: hello", "echo", agent)
                    with anyio.fail_after(20):
                        assert (await left.__anext__()).participant is agent
        assert "SUCCESS" in worker.wait_text("ended")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.ends() == 0
        text = worker.text()
    assert [secret for secret in (SECRET, "eyJ", "Traceback") if secret in text] == []


async def test_an_ordinary_client_is_told_why_within_a_second(serve: str) -> None:
    took: list[float] = []
    for _ in range(3):  # a machine may be busy for once; a client that waits for its time-out waits each time
        began = time.monotonic()
        with pytest.raises(RoomConnectError, match=r"has no WebRTC.*real livekit-server"):
            await NativeRooms().connect(serve, token("room", "browser"))
        took.append(time.monotonic() - began)
    assert min(took) < 1
    async with httpx.AsyncClient() as client:
        for path in ("/rtc", "/rtc/v1", "/rtc/validate"):
            answer = await client.get(serve.replace("ws", "http", 1) + path)
            assert (answer.status_code, "has no WebRTC" in answer.text) == (501, True)
