"""The demo, which is what a stranger sees first: it must be right, on both backends, and leave nothing behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from .conftest import Result

Command = Callable[..., Result]


@pytest.mark.parametrize("loop", ["asyncio", "trio"])
def test_the_demo_tells_programs_one_object_a_line(command: Command, loop: str) -> None:
    result = command("demo", "--json", "--backend", loop)
    assert (result.code, result.err) == (0, "")
    events: list[dict[str, Any]] = [json.loads(line) for line in result.out.splitlines()]
    assert all(isinstance(event["event"], str) and isinstance(event["t"], float) for event in events)
    assert [event["t"] for event in events] == sorted(event["t"] for event in events)

    summary = dict(events[-1])
    ids = {event["type"]: event["id"] for event in events if event["event"] == "job_started"}
    del summary["t"]
    assert summary == {
        "event": "summary",
        "backend": loop,
        "jobs": [{"id": ids[kind], "type": kind, "status": "success"} for kind in ("room", "participant", "publisher")],
        "reconnects": 1,
        "ok": True,
    }

    assert_the_story_has_its_beats_in_order(events)


def assert_the_story_has_its_beats_in_order(told: list[dict[str, Any]]) -> None:
    names = [event["event"] for event in told]

    def first(name: str, **fields: object) -> int:
        return next(i for i, e in enumerate(told) if e["event"] == name and fields.items() <= e.items())

    assert (
        first("server_started")
        < first("worker_registered", type="room", reconnect=False)
        < first("participant_joining")
        < first("job_started", type="room")
        < first("data_received", topic="echo", text="hello")
        < first("connection_cut")
        < first("data_received", topic="echo", text="are you still there?")
        < first("worker_registered", type="room", reconnect=True)
        < first("job_ended", type="publisher")
        < first("job_ended", type="participant")
        < first("draining", type="room", active_jobs=1)
        < first("job_ended", type="room")
        < first("stopped")
    )
    # The job was neither ended nor offered again because of the cut.
    assert names.count("job_started") == names.count("job_ended") == 3
    assert 2.0 < told[-1]["t"] < 10.0


def test_the_demo_tells_people_a_story(command: Command) -> None:
    result = command("demo", env={"LIVEKIT_LOG_LEVEL": "debug"})
    assert (result.code, result.err) == (0, "")
    assert "eyJ" not in result.out, "no token"
    lines = result.out.splitlines()
    assert lines[0] == "livekit-agent demo on asyncio"
    assert lines[-1].startswith("ok  3 jobs: room success, participant success, publisher success; 1 reconnect")
    assert "\x1b" not in result.out, "no colours where there is no terminal"
    assert all(len(line) <= 120 for line in lines)
