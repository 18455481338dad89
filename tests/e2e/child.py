"""Programs that a test starts, and the JSON lines they print."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest
from realserver import KEY, SECRET

FOREIGN = Path(__file__).parent / "foreign"
REPOSITORY = Path(__file__).resolve().parents[2]


def environment(url: str, **more: str) -> dict[str, str]:
    """This process's environment with the server's address in it, as LiveKit's tools like it."""
    plain = {name: value for name, value in os.environ.items() if not name.startswith("LIVEKIT_")}
    paths = [str(REPOSITORY / "src"), *filter(None, [plain.get("PYTHONPATH"), more.pop("PYTHONPATH", None)])]
    return {
        **plain,
        **({"LIVEKIT_URL": url} if url else {}),
        "LIVEKIT_API_KEY": KEY,
        "LIVEKIT_API_SECRET": SECRET,
        "PYTHONPATH": os.pathsep.join(paths),
        **more,
    }


class Child:
    """A running program; its output goes to a file, and lines that hold a JSON object are messages."""

    def __init__(self, argv: Sequence[str], env: Mapping[str, str], output: Path, cwd: Path | None = None) -> None:
        self._output = output
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                argv, env=dict(env), stdout=file, stderr=subprocess.STDOUT, cwd=cwd, start_new_session=True
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The whole group: a fork server or a job process would outlive the worker that started it.
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        if error is not None:
            error.add_note(f"output of the child:\n{self.text()[-4_000:]}")

    def text(self) -> str:
        return self._output.read_text(errors="replace")

    def messages(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for line in self.text().splitlines():
            line = line.removeprefix("@@")
            if line.startswith("{") and line.endswith("}"):
                found.append(json.loads(line))
        return found

    def wait_message(self, timeout: float = 30, **wanted: Any) -> dict[str, Any]:
        """The first message with these fields."""

        def match() -> dict[str, Any] | None:
            for message in self.messages():
                if all(message.get(name) == value for name, value in wanted.items()):
                    return message
            return None

        return self._wait(match, timeout, str(wanted))

    def wait_text(self, text: str, timeout: float = 30) -> str:
        """The first line with this text."""
        return self._wait(
            lambda: next((line for line in self.text().splitlines() if text in line), None), timeout, repr(text)
        )

    def _wait(self, probe: Any, timeout: float, what: str) -> Any:
        until = time.monotonic() + timeout
        while (found := probe()) is None:
            if time.monotonic() > until or (self.process.poll() is not None and probe() is None):
                pytest.fail(f"no {what} from {self.process.args}; it said:\n{self.text()[-4_000:]}", pytrace=False)
            time.sleep(0.02)
        return found

    def ends(self, timeout: float = 30) -> int:
        """Its exit code, once it has ended by itself."""
        return self.process.wait(timeout)


def json_of(argv: Sequence[str], env: Mapping[str, str]) -> dict[str, Any]:
    """Run a program to its end; its last line of output is a JSON object."""
    done = subprocess.run(argv, env=dict(env), capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result
