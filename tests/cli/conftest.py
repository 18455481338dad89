"""How the command line is tested: as a process, with an environment of its own, judged by what it says and returns."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
TIMEOUT = 40.0


@dataclass
class Result:
    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("error: ")]

    @property
    def hints(self) -> list[str]:
        return [line for line in self.err.splitlines() if line.startswith("hint: ")]


class Running:
    """A command that goes on until it is told to stop.  Both its streams are one text."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.text = ""

    def _read(self, deadline: float) -> bool:
        """Take in what was said; False at the end of the stream or the time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], max(0.0, deadline - time.monotonic()))
        data = os.read(self.process.stdout.fileno(), 65_536) if ready else b""
        self.text += data.decode()
        return bool(data)

    def wait_for(self, text: str) -> str:
        """The first whole line that holds ``text``."""
        deadline = time.monotonic() + TIMEOUT
        while True:
            for line in self.text.splitlines(keepends=True):
                if text in line and line.endswith("\n"):
                    return line.rstrip("\n")
            assert self._read(deadline), f"never said {text!r}, but:\n{self.text}"

    def signal(self, number: int = signal.SIGINT) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        deadline = time.monotonic() + TIMEOUT
        while self._read(deadline):
            pass
        assert self.process.stdout is not None
        self.process.stdout.close()
        return self.process.wait(TIMEOUT)


def environment(extra: dict[str, str] | None = None) -> dict[str, str]:
    inherited = {
        k: v for k, v in os.environ.items() if not k.upper().startswith(("LIVEKIT_", "HTTPS_PROXY", "SSL_CERT"))
    }
    path = os.pathsep.join([str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**inherited, "PYTHONPATH": path, "COLUMNS": "100", "PYTHONUNBUFFERED": "1", **(extra or {})}


COMMAND = [sys.executable, "-W", "error", "-m", "livekit_agent"]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Result]:
    """Run ``livekit-agent ARGS`` to its end."""

    def run(*args: str, env: dict[str, str] | None = None) -> Result:
        done = subprocess.run(
            [*COMMAND, *args], capture_output=True, text=True, timeout=TIMEOUT, env=environment(env), cwd=tmp_path
        )
        return Result(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start ``livekit-agent ARGS``; whatever still runs at the end of the test is killed."""
    started: list[Running] = []

    def launch(*args: str, env: dict[str, str] | None = None) -> Running:
        process = subprocess.Popen(
            [*COMMAND, *args],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment(env),
            cwd=tmp_path,
        )
        started.append(Running(process))
        return started[-1]

    yield launch
    for running in started:
        if running.process.poll() is None:
            running.process.kill()
            running.wait()


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, str], str]:
    """Write a file into the directory where commands run."""

    def write_file(name: str, text: str) -> str:
        (tmp_path / name).write_text(text)
        return name

    return write_file
