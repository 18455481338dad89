"""The harness itself: what ``tests/conftest.py`` promises, seen from outside."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

CASES = """
import asyncio
import gc
import threading

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st


async def test_runs_on_both():
    await anyio.sleep(0)


def test_a_synchronous_test_may_ask_for_the_backend(backend):
    assert backend in ("trio", "asyncio")


def test_a_synchronous_test_runs_once():
    pass


@pytest.mark.virtual
async def test_virtual_time():
    await anyio.sleep(10_000)


@pytest.mark.virtual(seed=3)
@settings(max_examples=5)
@given(delay=st.floats(0, 100))
async def test_hypothesis(delay):
    await anyio.sleep(delay)
    assert anyio.current_time() == delay


async def test_thread_left_over():
    threading.Thread(target=threading.Event().wait, args=(3,), name="straggler").start()


async def test_task_left_over(backend):
    if backend == "asyncio":
        asyncio.get_running_loop().create_task(asyncio.sleep(60), name="straggler")
    else:
        raise AssertionError("trio cannot")


async def test_unraisable():
    class Cycle:
        def __init__(self):
            self.me = self

        def __del__(self):
            raise RuntimeError("nobody hears this")

    Cycle()
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """``test name[param]`` → PASSED, FAILED …, of one run of the cases above."""
    directory = tmp_path_factory.mktemp("harness")
    shutil.copy(HERE / "conftest.py", directory)
    (directory / "test_cases.py").write_text(CASES)
    (directory / "pytest.ini").write_text(
        "[pytest]\nfilterwarnings = error\naddopts = --strict-markers -p no:asyncio\n"
        "markers =\n    virtual(seed=0): virtual time\n"
    )
    path = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-v", "--tb=short", "-p", "no:randomly", "-p", "no:cacheprovider", "."],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": path, "PYTEST_ADDOPTS": ""},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    found = dict(re.findall(r"^test_cases\.py::(\S+) (PASSED|FAILED|ERROR|SKIPPED)", done.stdout, re.MULTILINE))
    assert found, done.stdout + done.stderr
    found["output"] = done.stdout
    return found


def both(name: str, outcome: str) -> dict[str, str]:
    return {f"{name}[{backend}]": outcome for backend in ("trio", "asyncio")}


@pytest.mark.parametrize(
    "name",
    ["test_runs_on_both", "test_a_synchronous_test_may_ask_for_the_backend", "test_virtual_time", "test_hypothesis"],
)
def test_it_passes_on_both_backends(outcomes: dict[str, str], name: str) -> None:
    assert both(name, "PASSED").items() <= outcomes.items()


def test_a_synchronous_test_runs_once(outcomes: dict[str, str]) -> None:
    assert outcomes["test_a_synchronous_test_runs_once"] == "PASSED"


def test_a_thread_left_over_fails_the_test_by_name(outcomes: dict[str, str]) -> None:
    assert both("test_thread_left_over", "FAILED").items() <= outcomes.items()
    assert "threads left over: straggler" in outcomes["output"]


def test_a_task_left_over_fails_the_test_by_name(outcomes: dict[str, str]) -> None:
    assert both("test_task_left_over", "FAILED").items() <= outcomes.items()
    assert "tasks left over: ['straggler']" in outcomes["output"]


def test_an_unraisable_error_fails_the_test_it_belongs_to(outcomes: dict[str, str]) -> None:
    assert both("test_unraisable", "FAILED").items() <= outcomes.items()
    assert "nobody hears this" in outcomes["output"]
