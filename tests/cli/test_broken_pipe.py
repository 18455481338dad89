"""A reader that has seen enough (``| head -1``): the command ends, says nothing, and its code is that of SIGPIPE."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import COMMAND, TIMEOUT, environment

SIGPIPE_STATUS = 141  # what a shell reports of a process that SIGPIPE ended: 128 and the signal's number, 13

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pipes of Windows break otherwise")


def read_and_leave(cwd: Path, args: list[str], *, lines: int) -> tuple[int, str, list[str]]:
    """Exit code, stderr, and what was read of stdout before its reader went away; buffered as users have it."""
    reading, writing = os.pipe()
    env = {name: value for name, value in environment().items() if name != "PYTHONUNBUFFERED"}
    reader = os.fdopen(reading)
    if not lines:
        reader.close()
    with subprocess.Popen([*COMMAND, *args], stdout=writing, stderr=subprocess.PIPE, text=True, env=env, cwd=cwd) as p:
        os.close(writing)
        read = [reader.readline() for _ in range(lines)]
        reader.close()
        _, err = p.communicate(timeout=TIMEOUT)
    return p.returncode, err, read


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    "command", [["simulate", "--json", "--seeds", "50"], ["demo", "--json"], ["demo"]], ids=" ".join
)
def test_a_command_whose_first_line_was_enough_ends_quietly(tmp_path: Path, command: list[str], backend: str) -> None:
    code, err, [first] = read_and_leave(tmp_path, [*command, "--backend", backend], lines=1)
    assert first.endswith("\n")
    assert (code, err) == (SIGPIPE_STATUS, "")


@pytest.mark.parametrize(
    "command", [["--help"], ["demo", "--help"], ["--version"], ["simulate", "--seed", "1"], ["demo"]], ids=" ".join
)
def test_a_command_that_nobody_reads_ends_quietly(tmp_path: Path, command: list[str]) -> None:
    assert read_and_leave(tmp_path, command, lines=0) == (SIGPIPE_STATUS, "", [])


def test_what_user_code_left_in_the_buffer_goes_nowhere(tmp_path: Path) -> None:
    (tmp_path / "agent.py").write_text("print('imported')\n")
    code, err, _ = read_and_leave(tmp_path, ["run", "agent:handler"], lines=0)
    assert code == SIGPIPE_STATUS
    assert "Exception ignored" not in err
    assert "Traceback" not in err


def test_an_error_that_nobody_reads_keeps_the_process_from_saying_it_otherwise(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [*COMMAND, "nonsense"], stdout=subprocess.PIPE, stderr=writing, env=environment(), cwd=tmp_path, timeout=TIMEOUT
    )
    os.close(writing)
    assert (done.returncode, done.stdout) == (SIGPIPE_STATUS, b"")
