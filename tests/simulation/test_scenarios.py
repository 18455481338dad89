"""Histories that once broke a promise: each is kept as a file, small, and holds on both backends and between the cores.

To keep another: the failing run prints its shrunk scenario; put it into scenarios/ under a name that says what
happened.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from livekit_agent.simulation._engine import CORES, simulate
from livekit_agent.simulation._scenario import Scenario

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.json"))


@pytest.mark.parametrize("backend", ["trio", "asyncio", CORES])
@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_what_once_went_wrong_goes_right(path: Path, backend: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("CRITICAL", "livekit_agent")
    verdict = simulate(Scenario.from_json(path.read_text(encoding="utf-8")), backend=backend)
    assert verdict.crash == ""
    assert [f"{v.name}: {v.what}" for v in verdict.violations] == []


def test_there_are_scenarios() -> None:
    assert SCENARIOS
