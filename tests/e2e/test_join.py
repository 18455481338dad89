"""``livekit-agent join`` in a real room: the server is asked, says 404, and is joined over WebRTC."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from backdrop import unique
from child import Child, environment
from realserver import RealServer

pytestmark = [pytest.mark.timeout(120), pytest.mark.real_server]


def test_two_terminals_talk_in_a_real_room(shared_real_server: RealServer, tmp_path: Path, backend: str) -> None:
    room, env = unique("terminal"), environment(shared_real_server.url)
    join = [sys.executable, "-m", "livekit_agent", "join", room, "--backend", backend]
    with Child([*join, "--identity", "ada", "--for", "1h"], env, tmp_path / "ada.log") as ada:
        ada.wait_text(f"in room {room!r} as 'ada'")
        said = subprocess.run(
            [*join, "--identity", "bob", "--say", "hello", "--data", "42", "--for", "4s"],
            env=env, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert said.returncode == 0, said.stderr
        ada.wait_text("bob: hello")
        # A real server leaves out who sent it, for as long as it holds back the news that he is there.
        ada.wait_text("[data]: 42")
        ada.wait_text("* bob left")
        ada.process.send_signal(signal.SIGTERM)
        assert ada.ends() == 0
        assert "Traceback" not in ada.text()
