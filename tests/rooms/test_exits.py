"""Processes that end, in every way, with the native library loaded: the right exit code and no native panic.

A native thread that waits for the interpreter while it goes takes the whole process down, now and then: hence many.
``LIVEKIT_AGENT_EXITS`` says how many over both backends; 200 in CI.
"""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from venues import NativeVenue, token

pytestmark = [pytest.mark.real_server, pytest.mark.timeout(900)]

CHILD = Path(__file__).with_name("exit_child.py")

# How it ends -> the exit code, and what it may print.
ENDINGS = {
    "clean": (0, ""),
    "cancelled join": (0, ""),
    "failing": (1, "RuntimeError: the program failed"),
    "failing in the room": (1, "RuntimeError: the program failed inside the room"),
    "exit in the room": (3, ""),
    "cancelled": (0, ""),
    "interrupted": (-2, "KeyboardInterrupt"),
    "left open": (0, ""),
    "forked": (0, ""),
}
PANIC = ("panicked", "fatal", "abort", "SIGABRT", "Fatal Python error", "core dumped")


def exits() -> int:
    return int(os.environ.get("LIVEKIT_AGENT_EXITS", 2 * len(ENDINGS))) // 2


@pytest.mark.long
def test_every_exit_is_quiet_and_has_its_code(native: NativeVenue, backend: str) -> None:
    wrong: list[str] = []
    for number, mode in enumerate(itertools.islice(itertools.cycle(ENDINGS), exits())):
        code, words = ENDINGS[mode]
        done = subprocess.run(
            [sys.executable, str(CHILD), mode, backend, native.url, token(native.room, f"guest-{number}")],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        quiet = not any(word in done.stderr for word in PANIC) and (done.stderr == "" or words in done.stderr)
        if done.returncode != code or not quiet or (words and words not in done.stderr):
            wrong.append(f"{backend} {mode}: {done.returncode} instead of {code}\n{done.stderr[-2_000:]}")
    assert not wrong, "\n".join([f"{len(wrong)} of {exits()} exits went wrong", *wrong[:5]])
