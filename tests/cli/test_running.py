"""Commands that go on: what they do, and how they end at a signal."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from livekit_agent import Config, api
from livekit_agent.cli._visitor import real_door

from .conftest import ROOT, Result, Running

Command = Callable[..., Result]
Start = Callable[..., Running]
Write = Callable[[str, str], str]

ECHO = str(ROOT / "examples" / "echo.py")
WAITER = "from livekit_agent import BaseHandler\nclass Waiter(BaseHandler):\n    pass\n"


def server_environment(server: Running) -> dict[str, str]:
    """What the command printed to be copied."""
    server.wait_for("Ctrl+C ends it")
    return dict(re.findall(r"(LIVEKIT_[A-Z_]+)=(\S+)", server.text))


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_dev_runs_an_agent_on_an_embedded_server_and_sends_a_visitor(start: Start, loop: str) -> None:
    dev = start("dev", ECHO, "--room", "demo", "--say", "hello", "--backend", loop)
    dev.wait_for("visitor: hello")
    answer = dev.wait_for(": hello")
    assert dev.wait_for("agent-AJ_").endswith(": hello"), answer
    dev.signal()
    assert dev.wait() == 0
    assert "Traceback" not in dev.text


def test_what_dev_tells_to_type_in_another_terminal_meets_one_agent(start: Start, command: Command) -> None:
    dev = start("dev", ECHO)
    assert dev.wait_for("livekit-agent ").strip() == "livekit-agent join my-room"
    dev.wait_for("registered as AW_")
    joined = command("join", "my-room", "--data", "ping", "--for", "3s", env=server_environment(dev))
    assert joined.code == 0
    assert len(re.findall(r"agent-AJ_\w+ joined", joined.out)) == 1, joined.out
    assert "[data]: ping" in joined.out, "said when somebody was there to hear it"
    dev.signal()
    assert dev.wait() == 0
    assert "job lost" not in dev.text


def test_what_dev_tells_of_a_named_agent_orders_it_first(start: Start) -> None:
    dev = start("dev", ECHO, "--agent-name", "echo")
    dev.wait_for("livekit-agent join my-room")
    assert "  livekit-agent dispatch create my-room --agent-name echo\n  livekit-agent join my-room\n" in dev.text


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_visitor_of_dev_plays_and_tells_what_it_hears(start: Start, loop: str) -> None:
    echo = ECHO.replace("echo.py", "echo_audio.py")
    dev = start("dev", echo, "--room", "demo", "--play", "440", "--backend", loop)
    dev.wait_for("visitor: plays 440")
    assert "about 440 Hz at" in dev.wait_for("visitor: hears agent-AJ_")
    dev.signal()
    assert dev.wait() == 0
    assert "Traceback" not in dev.text


@pytest.mark.parametrize(
    ("example", "flag", "said", "answer"),
    [
        ("chat_bot", "--chat", "hello", "you said: hello"),
        ("rpc_calculator", "--call", "add 1 2 3.5", "6.5"),
        ("rpc_calculator", "--call", "add one", "numbers with spaces between them, please (2000)"),
    ],
)
@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_visitor_of_dev_chats_and_calls(
    start: Start, loop: str, example: str, flag: str, said: str, answer: str
) -> None:
    dev = start("dev", ECHO.replace("echo.py", f"{example}.py"), "--room", "demo", flag, said, "--backend", loop)
    assert dev.wait_for("agent-AJ_").endswith(f": {answer}")
    dev.signal()
    assert dev.wait() == 0
    assert "Traceback" not in dev.text


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(("--chat", "hello"), "need --room"), (("--room", "demo", "--call", " "), "--call: which method?")],
)
def test_a_visitor_needs_a_room_and_a_method(start: Start, arguments: tuple[str, ...], told: str) -> None:
    dev = start("dev", ECHO, *arguments)
    assert dev.wait() == 2
    assert told in dev.text


async def test_the_visitors_dispatch_goes_the_way_of_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, object] = {}

    class Recorded:
        def __init__(self, *arguments: object, **way: object) -> None:
            asked.update(way)
            raise LookupError("far enough")

    monkeypatch.setattr(api, "LiveKitAPI", Recorded)
    config = Config(url="wss://lk.example", api_key="k", api_secret="s", ca_file="ca.pem", proxy_url="http://p:1")
    with pytest.raises(LookupError):
        async with real_door(config, "agent", allow_plaintext=False)("room"):
            pass
    assert asked == {"ca_file": "ca.pem", "proxy": "http://p:1", "allow_plaintext": False}


def test_a_visitor_cannot_play_what_is_not_there(start: Start) -> None:
    dev = start("dev", ECHO, "--room", "demo", "--play", "missing.wav")
    assert dev.wait() == 2
    assert "no file 'missing.wav'" in dev.text


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_first_signal_drains_and_the_second_cancels(start: Start, write: Write, number: int, code: int) -> None:
    dev = start("dev", write("agent.py", WAITER), "--room", "demo", "--shutdown-timeout", "1h")
    dev.wait_for("assigned job")
    dev.wait_for("visitor: in room")
    dev.signal(number)
    dev.wait_for("a second signal cancels")
    dev.signal(number)
    assert dev.wait() == code
    assert "FAILED (worker cancelled)" in dev.text


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_a_handler_that_exits_ends_the_process_with_its_code(start: Start, write: Write, loop: str) -> None:
    leaver = WAITER.replace("    pass", "    async def on_job_assigned(self, ctx):\n        raise SystemExit(3)")
    dev = start("dev", write("agent.py", leaver), "--room", "demo", "--backend", loop)
    assert dev.wait() == 3
    assert "Traceback" not in dev.text
    assert "bug" not in dev.text


def test_serve_dispatch_and_run_work_across_processes(start: Start, command: Command, write: Write) -> None:
    server = start("serve", "--port", "0")
    env = server_environment(server)
    write("agent.py", WAITER)
    worker = start("run", "agent:Waiter", "--agent-name", "waiter", env=env)
    worker.wait_for("registered as AW_")

    created = command("dispatch", "create", "lobby", "--agent-name", "waiter", "--json", env=env)
    assert created.code == 0, created.err
    (dispatch,) = json.loads(created.out)
    assert (dispatch["room"], dispatch["agent_name"]) == ("lobby", "waiter")
    # The room lives in the server's process, and the worker is in it all the same.
    server.wait_for("assigned job")

    listed = command("dispatch", "list", "lobby", env=env)
    assert dispatch["id"] in listed.out
    deleted = command("dispatch", "delete", "lobby", dispatch["id"], env=env)
    assert (deleted.code, deleted.out.split()[0]) == (0, dispatch["id"])
    assert server.wait_for("job ended")
    gone = command("dispatch", "delete", "lobby", dispatch["id"], env=env)
    assert gone.code == 1
    assert (len(gone.errors), len(gone.hints)) == (1, 1)

    worker.signal()
    assert worker.wait() == 0
    server.signal()
    assert server.wait() == 0


def test_a_wrong_secret_ends_the_worker_with_77_and_shows_nothing(start: Start, command: Command, write: Write) -> None:
    server = start("serve", "--port", "0")
    env = server_environment(server)
    wrong = "wrong" + env["LIVEKIT_API_SECRET"]
    write("agent.py", WAITER)
    result = command("run", "agent:Waiter", "--log-level", "debug", env={**env, "LIVEKIT_API_SECRET": wrong})
    assert result.code == 77
    assert wrong not in result.err
    assert "eyJ" not in result.err
    assert "hint" in result.err
    assert "Traceback" not in result.err
    asked = command("dispatch", "list", "lobby", env={**env, "LIVEKIT_API_SECRET": wrong})
    assert asked.code == 77
    assert "Traceback" not in asked.err


def test_a_server_that_is_not_there(command: Command, write: Write) -> None:
    env = {"LIVEKIT_URL": "ws://127.0.0.1:9", "LIVEKIT_API_KEY": "key", "LIVEKIT_API_SECRET": "secret"}
    write("agent.py", WAITER)
    gave_up = command("run", "agent:Waiter", "--max-connect-failures", "2", env=env)
    assert gave_up.code == 75
    assert "Traceback" not in gave_up.err
    asked = command("dispatch", "list", "lobby", env=env)
    assert asked.code == 69
    assert len(asked.errors) == 1


def test_a_port_that_is_taken(start: Start, command: Command) -> None:
    server = start("serve", "--port", "0")
    port = server_environment(server)["LIVEKIT_URL"].rpartition(":")[2]
    result = command("serve", "--port", port)
    assert result.code == 69
    assert len(result.errors) == 1
    assert "Traceback" not in result.err


def test_token_mints_what_the_server_will_accept(command: Command) -> None:
    from livekit_agent.protocol import verify_token

    env = {"LIVEKIT_API_KEY": "key", "LIVEKIT_API_SECRET": "secret-" * 6}
    result = command("token", "--room", "r", "--identity", "me", "--name", "Me", "--ttl", "5m", "--no-publish", env=env)
    assert result.code == 0, result.err
    import time

    claims = verify_token(result.out.strip(), {"key": "secret-" * 6}, wall=time.time())
    expected: dict[str, Any] = {
        "room": "r",
        "roomJoin": True,
        "canPublish": False,
        "canSubscribe": True,
        "canPublishData": True,
    }
    assert (claims.identity, claims.name, dict(claims.video)) == ("me", "Me", expected)


def test_run_takes_all_that_can_be_named(start: Start, write: Write) -> None:
    env = server_environment(start("serve", "--port", "0"))
    write(
        "agent.py",
        "from livekit_agent import BaseHandler, Config, UniversalWorker, WorkerOptions\n"
        "class Waiter(BaseHandler):\n    pass\n"
        "handler = Waiter()\n"
        "options = WorkerOptions(agent_name='from-the-module')\n"
        "def make(config):\n    return UniversalWorker.from_config(config, handler)\n"
        "worker = UniversalWorker.from_config(Config.from_env(), handler)\n",
    )
    for name in ("Waiter", "handler", "make", "worker"):
        running = start("run", f"agent:{name}", env=env)
        running.wait_for("registered as AW_")
        running.signal(signal.SIGTERM)
        assert running.wait() == 0
        assert ("'from-the-module' is named" in running.text) == (name in ("Waiter", "handler"))
