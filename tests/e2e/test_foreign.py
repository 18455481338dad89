"""Programs that nobody here wrote, against ours: server SDKs, workers, and a room client.

Each runs in a process of its own, with its own interpreter where it needs one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from backdrop import unique
from child import FOREIGN, Child, environment, json_of
from foreign.install import DEFAULT, NODE
from realserver import KEY, SECRET, RealServer, skip_or_fail

from livekit_agent.protocol import mint_token

pytestmark = pytest.mark.timeout(120)

# Recorded from livekit-server 1.13.5; the test below asks it again.
TOUR = {
    "same_room": True,
    "metadata": "m",
    "updated": "new",
    "found": True,
    "deleted": True,
    "people": 0,
    "missing": "404 not_found",
    "gone": 0,
}


@pytest.fixture
def serve(tmp_path: Path, backend: str) -> Iterator[str]:
    """``livekit-agent serve`` in a process of its own; its URL."""
    argv = [sys.executable, "-m", "livekit_agent", "serve", "--port", "0", "--backend", backend]
    with Child(argv, environment(""), tmp_path / "serve.log") as server:
        line = server.wait_text("dispatch server on ")
        yield line.split()[-1]
        server.process.send_signal(signal.SIGTERM)
        assert server.ends() == 0


def peer_python() -> str:
    python = os.environ.get("LIVEKIT_PEER_PYTHON") or str(DEFAULT / "peer" / "bin" / "python")
    if not Path(python).exists():
        skip_or_fail("livekit-agents is not installed: python tests/e2e/foreign/install.py")
    return python


def node_modules_parent() -> str:
    modules = os.environ.get("LIVEKIT_NODE_MODULES") or str(DEFAULT / "node" / "node_modules")
    if shutil.which("node") is None or not (Path(modules) / "livekit-server-sdk").exists():
        skip_or_fail("node or its packages are not installed: python tests/e2e/foreign/install.py")
    return str(Path(modules).parent)


def python_tour(url: str, room: str, agent: str) -> dict[str, object]:
    return json_of([sys.executable, str(FOREIGN / "api_client.py"), "tour", room, agent], environment(url))


def node_tour(url: str, room: str, agent: str) -> dict[str, object]:
    env = environment(url, NODE_MODULES_PARENT=node_modules_parent())
    return json_of(["node", str(FOREIGN / "node_client.mjs"), room, agent], env)


def dispatch(url: str, room: str, agent: str, metadata: str) -> str:
    """By livekit-api."""
    argv = [sys.executable, str(FOREIGN / "api_client.py"), "dispatch", room, agent, metadata]
    return str(json_of(argv, environment(url))["id"])


@pytest.mark.parametrize("tour", [python_tour, node_tour])
def test_the_server_sdks_see_on_our_server_what_they_see_on_a_real_one(serve: str, tour: object) -> None:
    room, agent = unique("tour"), unique("agent")
    assert callable(tour)
    assert tour(serve, room, agent) == {**TOUR, "listed": [room], "agents": sorted(["", agent])}


@pytest.mark.real_server
@pytest.mark.parametrize("tour", [python_tour, node_tour])
def test_the_recorded_answers_are_those_of_the_real_server(shared_real_server: RealServer, tour: object) -> None:
    room, agent = unique("tour"), unique("agent")
    assert callable(tour)
    assert tour(shared_real_server.url, room, agent) == {**TOUR, "listed": [room], "agents": sorted(["", agent])}


def _foreign_worker_gets_a_job(worker: Child, url: str, name: str) -> None:
    worker.wait_message(event="registered", timeout=60)
    time.sleep(0.2)  # a worker is registered a moment before it is in the pool, by its own framework's account
    room = unique("room")
    dispatch(url, room, name, "for you")
    offer = worker.wait_message(event="offer", timeout=20)
    job = worker.wait_message(event="job", timeout=60)
    assert job["id"] == offer["id"]
    assert (job["room"], job["metadata"]) == (room, "for you")


@pytest.mark.parametrize("executor", ["thread", "process"])
def test_a_worker_of_livekit_agents_registers_with_serve_and_gets_a_job(
    serve: str, tmp_path: Path, executor: str
) -> None:
    name = unique("peer")
    argv = [peer_python(), str(FOREIGN / "peer_worker.py"), name, executor, "1"]
    with Child(argv, environment(serve), tmp_path / "peer.log") as worker:
        _foreign_worker_gets_a_job(worker, serve, name)
        worker.process.send_signal(signal.SIGINT)


@pytest.mark.long
def test_a_worker_of_the_javascript_framework_registers_with_serve_and_gets_a_job(serve: str, tmp_path: Path) -> None:
    name = unique("node")
    env = environment(serve, NODE_MODULES_PARENT=node_modules_parent())
    with Child(["node", str(FOREIGN / "node_worker.mjs"), name], env, tmp_path / "node.log") as worker:
        _foreign_worker_gets_a_job(worker, serve, name)
        worker.process.send_signal(signal.SIGINT)


def names_of_livekit_client() -> dict[str, set[str]]:
    """Public members and events of livekit-client, from the declarations of the package that is installed."""
    source = Path(node_modules_parent()) / "node_modules" / "livekit-client" / "dist" / "src" / "room"

    def body(file: str, head: str) -> list[str]:
        text = re.sub(r"/\*.*?\*/", "", (source / file).read_text(), flags=re.DOTALL)
        found = re.search(rf"{head}\b[^\n]*\n(.*?)^\}}", text, re.DOTALL | re.MULTILINE)
        assert found, head
        return found[1].splitlines()

    def members(file: str, name: str) -> set[str]:
        member = re.compile(r" {4}(?:(?:static|readonly|abstract|get|set) )*(?!constructor)([A-Za-z]\w*)[?!]?\s*[(<:;]")
        public = [line for line in body(file, f"class {name}") if not re.match(r" +(private|protected)\b", line)]
        return {found[1] for line in public if (found := member.match(line))}

    def events(name: str) -> set[str]:
        return {found[1] for line in body("events.d.ts", f"enum {name}") if (found := re.match(r" {4}(\w+) =", line))}

    anybody = members("participant/Participant.d.ts", "Participant")
    return {
        "Room": members("Room.d.ts", "Room"),
        "Participant": anybody,
        "LocalParticipant": members("participant/LocalParticipant.d.ts", "LocalParticipant") - anybody,
        "RoomEvent": events("RoomEvent"),
        "ParticipantEvent": events("ParticipantEvent"),
    }


def test_every_name_of_livekit_client_is_in_the_table_of_what_there_is() -> None:
    """An upgrade that brings a new one fails here: say where it went (tests/rooms/test_coverage.py does the rest)."""
    table = tomllib.loads((Path(__file__).parents[1] / "coverage" / "livekit_client.toml").read_text())
    assert table.pop("version") == NODE["livekit-client"]
    table["LocalParticipant"]["engine"] = {}  # the room's, again
    assert {name: set(section) for name, section in table.items()} == names_of_livekit_client()


ECHO = '''
from livekit_agent import BaseHandler

class Echo(BaseHandler):
    """Answers each packet, and is done after the first."""

    async def on_data_received(self, ctx, data, participant):
        await ctx.room.local_participant.publish_data(b"echo: " + data, topic="echo")
        ctx.shutdown("answered")

handler = Echo()
'''


@pytest.mark.real_server
def test_the_run_command_serves_a_person_who_uses_other_software_in_a_real_room(
    shared_real_server: RealServer, tmp_path: Path, backend: str
) -> None:
    """Worker: ``livekit-agent run``.  Dispatched by livekit-api.  The person: the livekit package's rtc.Room."""
    server, name, room = shared_real_server, unique("cli"), unique("room")
    (tmp_path / "echo_agent.py").write_text(ECHO)
    command = [sys.executable, "-m", "livekit_agent", "run", "echo_agent:handler"]
    command += ["--agent-name", name, "--backend", backend]
    env = environment(server.url, PYTHONPATH=str(tmp_path))
    token = mint_token(KEY, SECRET, wall=time.time(), video={"roomJoin": True, "room": room}, identity="ada")
    with Child(command, env, tmp_path / "worker.log", cwd=tmp_path) as worker:
        until = time.monotonic() + 30
        while not any(line.get("agentName") == name for line in server.log()):
            assert time.monotonic() < until, worker.text()
            assert worker.process.poll() is None, worker.text()
            time.sleep(0.02)
        dispatch(server.url, room, name, "{}")
        person = [sys.executable, str(FOREIGN / "rtc_participant.py"), server.url, token, "hello"]
        with Child(person, env, tmp_path / "person.log") as ada:
            answer = ada.wait_message(event="data", timeout=40)
            assert (answer["text"], answer["topic"]) == ("echo: hello", "echo")
            job_id = answer["sender"].removeprefix("agent-")
            ada.wait_message(event="left")
            assert ada.ends() == 0
        until = time.monotonic() + 30
        while not (end := [line for line in server.log() if line.get("jobID") == job_id and "status" in line]):
            assert time.monotonic() < until, worker.text()
            time.sleep(0.02)
        assert (end[0]["msg"], end[0]["status"], end[0]["error"]) == ("job ended", "JS_SUCCESS", "")
        worker.process.send_signal(signal.SIGTERM)
        assert worker.ends() == 0
        text = worker.text()
    assert SECRET not in text
    assert "eyJ" not in text
    assert "Traceback" not in text


def test_the_demo_tells_its_story_as_json(tmp_path: Path, backend: str) -> None:
    argv = [sys.executable, "-m", "livekit_agent", "demo", "--json", "--backend", backend]
    with Child(argv, environment(""), tmp_path / "demo.log") as demo:
        assert demo.ends(60) == 0, demo.text()
        lines = [json.loads(line) for line in demo.text().splitlines()]
    assert all({"event", "t"} <= set(line) for line in lines[:-1])
    summary = lines[-1]
    assert (summary["event"], summary["backend"], summary["reconnects"], summary["ok"]) == ("summary", backend, 1, True)
    assert sorted(job["type"] for job in summary["jobs"]) == ["participant", "publisher", "room"]
    assert {job["status"] for job in summary["jobs"]} == {"success"}


@pytest.mark.real_server
def test_the_visitor_of_dev_walks_into_a_real_room_by_the_same_command(
    shared_real_server: RealServer, tmp_path: Path, backend: str
) -> None:
    example = Path(__file__).parents[2] / "examples" / "echo_audio.py"
    command = [sys.executable, "-m", "livekit_agent", "dev", str(example), "--agent-name", unique("dev")]
    command += ["--room", unique("room"), "--play", "440", "--backend", backend]
    with Child(command, environment(shared_real_server.url), tmp_path / "dev.log") as dev:
        dev.wait_text("visitor: plays 440")
        assert "about 44" in dev.wait_text("visitor: hears agent-AJ_")
        dev.process.send_signal(signal.SIGINT)
        assert dev.ends() == 0
