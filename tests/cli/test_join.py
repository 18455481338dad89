"""``livekit-agent join``: a participant in the terminal, in a room of another process."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import wave
from collections.abc import Callable
from pathlib import Path

import pytest

from .conftest import COMMAND, TIMEOUT, Result, Running, environment
from .test_running import server_environment

Command = Callable[..., Result]
Start = Callable[..., Running]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_two_terminals_talk_across_processes(start: Start, command: Command, loop: str) -> None:
    env = server_environment(start("serve", "--port", "0", "--backend", loop))
    ada = start("join", "lobby", "--identity", "ada", "--for", "1h", "--backend", loop, env=env)
    ada.wait_for("in room 'lobby' as 'ada'")

    said = command("join", "lobby", "--identity", "bob", "--say", "hello", "--data", "42", "--json", env=env)
    assert (said.code, said.err) == (0, "")
    messages = [json.loads(line) for line in said.out.splitlines()]
    assert messages[0] == {"event": "joined", "room": "lobby"}
    assert {"event": "participant_joined", "identity": "ada"} in messages
    assert messages[-1] == {"event": "left", "reason": 1}

    ada.wait_for("* bob joined")
    ada.wait_for("bob: hello")
    ada.wait_for("bob [data]: 42")
    ada.wait_for("* bob left")
    ada.signal()
    assert ada.wait() == 0
    assert "Traceback" not in ada.text


def test_a_wav_is_heard_as_speech(start: Start, command: Command, tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "loud.wav"), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(8_000)
        file.writeframes(b"\x00\x40\x00\xc0" * 4_000)
    env = server_environment(start("serve", "--port", "0"))
    ada = start("join", "lobby", "--identity", "ada", "--for", "1h", "--json", env=env)
    ada.wait_for("joined")
    played = command("join", "lobby", "--identity", "bob", "--play", "loud.wav", env=env)
    assert played.code == 0, played.err
    assert "* played loud.wav" in played.out
    ada.wait_for('{"event": "participant_left", "identity": "bob"}')


def test_the_keyboard_says_asks_and_quits(start: Start, tmp_path: Path) -> None:
    env = server_environment(start("serve", "--port", "0"))
    ada = start("join", "lobby", "--identity", "ada", "--for", "1h", env=env)
    ada.wait_for("as 'ada'")
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "join", "lobby", "--identity", "bob"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment(env), cwd=tmp_path,
    )  # fmt: skip
    os.close(theirs)
    bob = Running(process)
    try:
        bob.wait_for("* ada is here")
        os.write(ours, b"good morning\n/data 1 2\n/dance\n/play nothing.wav\n/who\n/quit\n")
        ada.wait_for("bob: good morning")
        ada.wait_for("bob [data]: 1 2")
        assert bob.wait() == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    assert "/data TEXT" in bob.text
    assert "! [Errno 2] No such file or directory: 'nothing.wav'" in bob.text
    assert "* here: bob, ada" in bob.text


def test_for_no_time_at_all_it_leaves_at_once_and_asks_no_keyboard(start: Start, tmp_path: Path) -> None:
    env = environment(server_environment(start("serve", "--port", "0")))
    for nothing in ("0", "0s"):
        argv = [*COMMAND, "join", "lobby", "--for", nothing]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env, cwd=tmp_path) as ada:
            try:
                assert ada.wait(TIMEOUT) == 0, "a keyboard that says nothing keeps it"
            finally:
                ada.kill()


def test_with_its_server_the_room_is_lost(start: Start) -> None:
    server = start("serve", "--port", "0")
    env = server_environment(server)
    ada = start("join", "lobby", "--identity", "ada", "--for", "1h", env=env)
    ada.wait_for("as 'ada'")
    server.signal(signal.SIGKILL)
    server.wait()
    assert ada.wait() == 69
    assert "error: the connection to the room is lost" in ada.text


def test_who_is_not_let_in_is_told_why(start: Start, command: Command) -> None:
    env = server_environment(start("serve", "--port", "0"))
    wrong = "wrong" + env["LIVEKIT_API_SECRET"]
    refused = command("join", "lobby", env={**env, "LIVEKIT_API_SECRET": wrong})
    assert (refused.code, len(refused.errors), len(refused.hints)) == (77, 1, 1)
    assert "eyJ" not in refused.err
    proxied = command("join", "lobby", env={**env, "LIVEKIT_API_SECRET": wrong, "HTTPS_PROXY": "http://127.0.0.1:9"})
    assert proxied.code == 77, "the proxy is never asked about this machine's own servers"
    nobody = command("join", "lobby", env={**env, "LIVEKIT_URL": "ws://127.0.0.1:9"})
    assert (nobody.code, len(nobody.errors)) == (69, 1)
    unset = command("join", "lobby")
    assert unset.code == 78
