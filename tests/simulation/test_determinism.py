"""The same seed is the same history: in two processes, with any hash seed, on any heap, with any Python (trio).

On asyncio another Python may step tasks in other numbers, so there the hash is compared within one version only.
``LIVEKIT_AGENT_PYTHONS`` names further interpreters for the comparison, separated by ``:`` (``.ci/run`` sets it); each
must have the package's dependencies installed.  ``LIVEKIT_AGENT_HASH_SEEDS`` says how many seeds are compared.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from livekit_agent.simulation._engine import CORES, simulate
from livekit_agent.simulation._scenario import generate

SCRIPT = Path(__file__).with_name("hashes.py")
SOURCE = Path(__file__).parents[2] / "src"
SEEDS = os.environ.get("LIVEKIT_AGENT_HASH_SEEDS", "20")

pytestmark = pytest.mark.timeout(600)


def start(
    backend: str, how: str = "virtual", *, hash_seed: str = "random", noise: int = 0, python: str = sys.executable
) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(SOURCE)}
    command = [python, str(SCRIPT), backend, how, SEEDS, str(noise)]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def hashes(process: subprocess.Popen[str]) -> list[str]:
    out, err = process.communicate()
    assert process.returncode == 0, err
    lines = out.split()
    assert len(lines) == int(SEEDS)
    return lines


@pytest.mark.long
def test_the_hash_depends_on_nothing_but_seed_and_backend(backend: str) -> None:
    first, second = start(backend, hash_seed="0"), start(backend, hash_seed="random", noise=200_000)
    one, two = hashes(first), hashes(second)
    assert one == two
    assert hashes(start(backend, hash_seed="1", noise=7_777)) == one
    assert len(set(one)) == len(one), "different seeds are different histories"


def test_a_run_leaves_nothing_behind_that_the_next_would_see(backend: str) -> None:
    plan = generate(3)
    first = simulate(plan, backend=backend).digest
    for engine in (CORES, "asyncio", "trio"):
        simulate(generate(0), backend=engine)
        assert simulate(plan, backend=backend).digest == first, engine


@pytest.mark.long
def test_without_the_seeded_order_the_hashes_differ(backend: str) -> None:
    """The negative control: were these equal, equality above would prove nothing."""
    first, second = start(backend, "plain", hash_seed="0"), start(backend, "plain", hash_seed="1", noise=200_000)
    assert hashes(first) != hashes(second)


def other_pythons() -> list[str]:
    return [path for path in os.environ.get("LIVEKIT_AGENT_PYTHONS", "").split(":") if path]


def test_on_trio_every_python_lives_the_same_history() -> None:
    pythons = other_pythons()
    if not pythons:
        pytest.skip("LIVEKIT_AGENT_PYTHONS names no other interpreter")
    assert [python for python in pythons if not Path(python).exists()] == [], "named, and not there"
    here = hashes(start("trio"))
    for python in pythons:
        assert hashes(start("trio", python=python)) == here, python
