"""docs/design/state-machines.md shows every cell of the tables and nothing else."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from types import ModuleType

import pytest

from livekit_agent.protocol import CONVERSATION, JOB

SCRIPT = Path(__file__).parents[2] / "docs" / "design" / "draw_states.py"


@pytest.fixture(scope="module")
def draw() -> ModuleType:
    spec = importlib.util.spec_from_file_location("draw_states", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_tables_say(draw: ModuleType) -> None:
    assert draw.PAGE.read_text(encoding="utf-8") == draw.page(), "run: python docs/design/draw_states.py"


@pytest.mark.parametrize("table", [CONVERSATION, JOB], ids=["conversation", "job"])
def test_every_state_and_every_event_of_the_tables_is_in_the_picture(
    draw: ModuleType, table: Mapping[Enum, Mapping[Enum, Enum]]
) -> None:
    pictures = draw.page().split("```mermaid\n")[1:]
    (picture,) = [p.split("```")[0] for p in pictures if all(draw.state(s) in p for s in table)]
    for source, row in table.items():
        arrows = [line for line in picture.splitlines() if line.strip().startswith(f"{draw.state(source)} -->")]
        assert arrows
        for event, target in row.items():
            assert any(
                f"--> {draw.state(target)} :" in line and event.name.lower().replace("_", " ") in line
                for line in arrows
            )
