"""``livekit-agent simulate``: what it prints for people and for programs, and that each history can be lived again."""

from __future__ import annotations

import json
import logging
import math
import re
import shlex
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from livekit_agent.cli._app import run_command_line
from livekit_agent.rooms._memory_network import DELAYS
from livekit_agent.simulation import _engine, _overheard
from livekit_agent.simulation._checkers import CHECKERS, Checker
from livekit_agent.simulation._goals import GOALS
from livekit_agent.simulation._scenario import FAULT_KINDS, PROFILES, Fault, Scenario, generate
from livekit_agent.simulation._search import Summary
from livekit_agent.simulation._trace import Note

from .conftest import COMMAND, Result, environment

BACKENDS = ("asyncio", "trio")

# Most of it runs in this process: the simulation has a loop, a clock and a network of its own anyway.
Command = Callable[..., Result]


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    logger = logging.getLogger("livekit_agent")
    level = logger.level
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")

    def run(*args: str) -> Result:
        code = run_command_line(["simulate", *args])
        return Result(code, *capsys.readouterr())

    yield run
    logger.setLevel(level)


def rows(result: Result) -> list[dict[str, Any]]:
    return [json.loads(line) for line in result.out.splitlines()]


# ------------------------------------------------------------------------------------------------ json


@pytest.mark.parametrize("backend", BACKENDS)
def test_json_has_an_object_for_each_seed_and_a_last_one_in_sum(command: Command, backend: str) -> None:
    result = command("--backend", backend, "--seeds", "3", "--json")
    assert (result.code, result.err) == (0, "")
    *seeds, last = rows(result)
    assert [row["seed"] for row in seeds] == [0, 1, 2]
    for row in seeds:
        assert row.keys() == {"seed", "hash", "jobs", "faults", "violations"}
        assert (len(row["hash"]), row["violations"]) == (16, [])
        assert row["jobs"] >= 8
        assert row["faults"] >= 3
    assert last.keys() >= {"seeds", "simulated_hours", "violations", "goals", "evaluated"}
    assert (last["seeds"], last["violations"], last["backend"]) == (3, {}, backend)
    assert last["jobs"] == sum(row["jobs"] for row in seeds)
    assert last["simulated_hours"] >= 3 * 120 / 3600
    assert set(last["goals"]) | set(last["goals_missed"]) == set(GOALS)
    assert set(last["evaluated"]) == {checker.name for checker in CHECKERS}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_seed_alone_and_its_scenario_as_a_file_live_the_same_history(
    command: Command, tmp_path: Path, backend: str
) -> None:
    among = rows(command("--backend", backend, "--first-seed", "5", "--seeds", "2", "--json"))[1]
    assert among["seed"] == 6
    alone = rows(command("--backend", backend, "--seed", "0x6", "--json"))[0]
    assert alone == among
    (tmp_path / "six.json").write_text(generate(6).to_json())
    assert rows(command("--backend", backend, "--scenario", "six.json", "--json"))[0] == among


def test_another_process_lives_the_same_history(command: Command) -> None:
    here = rows(command("--seed", "3", "--json"))[0]
    done = subprocess.run(
        [*COMMAND, "simulate", "--seed", "3", "--json"], capture_output=True, text=True, env=environment(), timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout.splitlines()[0]) == here


def test_hours_are_the_total(command: Command) -> None:
    *seeds, last = rows(command("--hours", "0.08", "--json"))
    assert last["simulated_hours"] >= 0.08
    assert last["seeds"] == len(seeds)
    assert last["simulated_hours"] * (len(seeds) - 1) / len(seeds) < 0.12, "it stops with the seed that fills it"


def test_faults_restrict_what_may_happen(command: Command) -> None:
    *_, last = rows(command("--seeds", "3", "--faults", "reset,restart", "--json"))
    assert {goal for goal in last["goals"] if goal.startswith("fault: ")} == {"fault: reset", "fault: restart"}


def test_the_trace_is_a_note_a_line(command: Command) -> None:
    *notes, _, _ = rows(command("--seed", "1", "--trace", "--json"))
    assert len(notes) > 200
    assert all({"t", "who", "what"} <= note.keys() for note in notes)
    assert [note["t"] for note in notes] == sorted(note["t"] for note in notes)


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_trace_holds_deliveries_steps_transitions_faults_draws_and_verdicts(command: Command, backend: str) -> None:
    *notes, row, _ = rows(command("--seed", "1", "--backend", backend, "--trace", "--json"))
    by_what: dict[str, list[dict[str, Any]]] = {}
    for note in notes:
        by_what.setdefault(note["what"], []).append(note)
    assert all({"connection", "kind", "bytes", "kinds"} <= note.keys() for note in by_what["deliver"])
    assert sum(len(note["tasks"]) for note in by_what["steps"]) > 1_000, "every step, by its task's birth"
    assert all(isinstance(birth, int) for note in by_what["steps"] for birth in note["tasks"])
    assert len(by_what["fault"]) == row["faults"]
    assert {note["kind"] for note in by_what["stage"]} >= {"accept", "assign", "run", "end"}
    assert {"network", "w0.2"} <= {note["kind"] for note in by_what["draw"]}
    assert [note["kind"] for note in by_what["verdict"]] == [checker.name for checker in CHECKERS]
    assert all(note["broken"] == 0 for note in by_what["verdict"])


# ------------------------------------------------------------------------------------------------ usage


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--faults", "reset,earthquake"], "error: --faults: earthquake unknown; there are latency, "),
        (["--faults", ""], "error: --faults: nothing unknown"),
        (["--seed", "many"], "'many' is no seed: a number such as 17 or 0x11"),
        (["--seed", "1", "--seeds", "2"], "error: --seeds, --hours, --seed and --scenario exclude each other"),
        (["--hours", "0"], "--hours"),
        (["--hours", "nan"], "error: --hours: nan has no end"),
        (["--hours", "inf"], "error: --hours: inf has no end"),
        (["--seed", "1", "--first-seed", "0"], "error: --first-seed says where many seeds begin"),
        (["--scenario", __file__, "--first-seed", "7"], "error: --first-seed says where many seeds begin"),
        (["--scenario", __file__, "--faults", "reset"], "error: --faults restricts what seeds draw"),
        (["--backend", "curio"], "curio"),
        (["--scenario", "nowhere.json"], "nowhere.json"),
    ],
)
def test_mistakes_are_told_in_a_line_and_end_with_2(command: Command, arguments: list[str], error: str) -> None:
    result = command(*arguments)
    assert (result.code, result.out) == (2, "")
    assert error in result.err
    assert len(result.errors) == 1


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("[]", "not a scenario"),
        ('{"version": 9}', "scenario version 9 is not known"),
        ("{", "six.json: Expecting"),
        ("[" * 100_000, "not a scenario"),
        (generate(6).to_json().replace('"kind": "', '"kind": "very_', 1), "' is none of latency, dribble, "),
        (generate(6).to_json().replace('"type": "room"', '"type": "rooom"'), "'rooom' is none of room, participant"),
    ],
    ids=["a list", "version", "cut off", "deep", "fault", "type"],
)
def test_a_file_that_is_no_scenario_is_told(command: Command, tmp_path: Path, text: str, error: str) -> None:
    (tmp_path / "six.json").write_text(text)
    result = command("--scenario", "six.json")
    assert result.code == 2
    assert error in result.err


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"workers": []}, "it has no workers"),
        ({"delays": "sometimes"}, "'sometimes' is none of instant, livekit-1.13"),
        ({"chaos_seconds": math.nan}, "chaos_seconds cannot be nan"),
        ({"seed": "0x1"}, "seed cannot be '0x1'"),
        ({"jobs_min": True}, "jobs_min cannot be True"),
        ({"workers": [{"type": "room", "max_jobs": 0}]}, "max_jobs cannot be 0"),
        ({"workers": [{"type": "room", "job_timeout": math.inf}]}, "job_timeout cannot be inf"),
        ({"jobs": [{"at": "soon", "type": "room", "room": "r"}]}, "at cannot be 'soon'"),
        ({"jobs": [{"at": 1, "type": "room", "room": None}]}, "room cannot be None"),
        ({"faults": [{"at": -1.5, "kind": "reset"}]}, "at cannot be -1.5"),
        ({"media": [{"at": 1.0, "frames": 2.5}]}, "frames cannot be 2.5"),
    ],
    ids=str,
)
def test_a_file_that_says_what_cannot_be_is_no_broken_promise(
    command: Command, tmp_path: Path, change: dict[str, Any], error: str
) -> None:
    (tmp_path / "six.json").write_text(json.dumps({**json.loads(generate(6).to_json()), **change}))
    result = command("--scenario", "six.json")
    assert (result.code, result.out) == (2, "")
    assert f"six.json: not a scenario: {error}" in result.err


def test_the_profiles_of_scenarios_are_those_of_rooms() -> None:
    assert set(PROFILES) == set(DELAYS)


def test_every_fault_that_can_be_named_is_known() -> None:
    assert set(FAULT_KINDS) >= {"reset", "restart", "hang", "go_away", "duplicate_identity"}


# ------------------------------------------------------------------------------------------------ a broken promise


class X1_no_resets(Checker):
    """Connections are never reset."""

    watches = ("fault",)

    def look(self, note: Note) -> None:
        self.judge(note.kind != "reset", f"a reset struck {note.who}")


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A promise that nobody keeps, among the real ones."""
    monkeypatch.setitem(_engine.simulate.__kwdefaults__, "checkers", (*CHECKERS, X1_no_resets))


@pytest.mark.usefixtures("planted")
def test_a_broken_promise_is_told_with_its_name_time_tail_and_command(command: Command, tmp_path: Path) -> None:
    result = command("--seeds", "50", "--faults", "reset,restart")
    assert result.code == 1
    lines = result.out.splitlines()
    first = next(line for line in lines if " broken at " in line)
    assert first.startswith("X1 broken at ")
    assert "  promise:  Connections are never reset." in lines
    assert next(line for line in lines if "happened:" in line).startswith("  happened: a reset struck ")
    assert sum(line.startswith('    {"t":') for line in lines) == 12

    seed = first.split()[-1]
    assert f"  again:    livekit-agent simulate --backend asyncio --seed {seed} --faults reset,restart" in lines
    file = f"scenario-X1-{seed}.json"
    assert f"  smaller:  livekit-agent simulate --backend asyncio --scenario {file}" in lines
    small = Scenario.from_json((tmp_path / file).read_text())
    assert [fault.kind for fault in small.faults] == ["reset"]
    assert len(small.jobs) < 2, "jobs that nothing needs are gone"
    assert "  broken: X1 (" in result.out


@pytest.mark.usefixtures("planted")
def test_both_commands_that_a_failure_prints_find_it_again(command: Command) -> None:
    *_, failed, last = rows(command("--seeds", "50", "--faults", "reset,restart", "--json"))
    keys = {"seed", "hash", "jobs", "faults", "violations", "replay", "last", "scenario", "faults_left"}
    assert failed.keys() == keys
    broke = failed["violations"][0]
    assert failed["last"][-1].items() >= {"t": broke["t"], "what": "fault", "kind": "reset"}.items()
    assert failed["faults_left"] == 1
    assert {violation["name"] for violation in failed["violations"]} == {"X1"}
    assert last["violations"]["X1"] >= 1
    smaller = rows(command("--scenario", failed["scenario"], "--no-shrink", "--json"))
    assert {violation["name"] for violation in smaller[0]["violations"]} == {"X1"}
    replay = shlex.split(failed["replay"])
    assert replay[:2] == ["livekit-agent", "simulate"]
    again = rows(command(*replay[2:], "--no-shrink", "--json"))[0]
    assert (again["hash"], again["violations"]) == (failed["hash"], failed["violations"])


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "which",
    [
        ("--seeds", "4"),
        ("--hours", "0.1"),
        ("--seed", "0x1"),
        ("--scenario", "one.json"),
        ("--seeds", "2", "--complete"),
    ],
    ids=" ".join,
)
def test_the_last_object_counts_what_those_of_the_seeds_hold(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, which: tuple[str, ...]
) -> None:
    class X2_no_faults(Checker):
        """Nothing happens."""

        watches = ("fault",)

        def look(self, note: Note) -> None:
            self.judge(False, note.kind)

    checkers = _engine.simulate.__kwdefaults__["checkers"]
    monkeypatch.setitem(_engine.simulate.__kwdefaults__, "checkers", (*checkers, X2_no_faults))
    (tmp_path / "one.json").write_text(generate(1).to_json())
    result = command("--backend", backend, "--json", "--no-shrink", *which)
    assert (result.code, result.err) == (1, "")
    *seeds, last = rows(result)
    assert last["violations"] == Counter(broken["name"] for row in seeds for broken in row["violations"])
    assert last["violations"]["X2"] == last["faults"] == sum(row["faults"] for row in seeds)
    assert last["evaluated"]["X2"] == last["faults"]
    assert last["seeds"] == len(seeds)


@pytest.mark.usefixtures("planted")
@pytest.mark.parametrize("output", [(), ("--json",)], ids=["people", "json"])
def test_a_scenario_that_fails_is_to_be_lived_again_from_its_file(
    command: Command, tmp_path: Path, output: tuple[str, ...]
) -> None:
    plan = replace(generate(1), faults=(Fault(at=20.0, kind="reset"),), faults_min=0)
    (tmp_path / "my plan.json").write_text(plan.to_json())
    result = command("--scenario", "my plan.json", "--no-shrink", *output)
    assert result.code == 1
    assert "livekit-agent simulate --backend asyncio --scenario 'my plan.json'" in result.out
    assert "--seed 0x1" not in result.out


@pytest.mark.parametrize("output", [(), ("--json",)], ids=["people", "json"])
def test_a_run_that_crashes_shows_where(
    command: Command, monkeypatch: pytest.MonkeyPatch, output: tuple[str, ...]
) -> None:
    def ashes(world: _engine.World) -> None:
        raise LookupError("ashes")

    monkeypatch.setattr(_engine.World, "_take_census", ashes)
    result = command("--seed", "1", "--no-shrink", *output)
    assert result.code == 1
    assert "in ashes" in result.out
    assert "LookupError: ashes" in result.out


def test_complete_fails_for_a_secret_in_the_log(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Summary, "missed", lambda self: [])
    monkeypatch.setattr(Summary, "idle", lambda self: [])
    clean = command("--seed", "1", "--complete")
    assert clean.code == 0
    assert re.search(r"^  log       [1-9]\d* records read, 0 of them with a secret$", clean.out, re.M)

    monkeypatch.setattr(_overheard.Eavesdropper, "SECRETS", re.compile("registered as"))
    talkative = command("--seed", "1", "--complete", "--json")
    *_, last = rows(talkative)
    assert talkative.code == 1
    assert last["log_records_read"] > len(last["leaks"]) > 0
    assert command("--seed", "1").code == 0, "nobody listens, so nothing is said of it"


@pytest.mark.usefixtures("planted")
def test_without_shrinking_the_search_goes_on(command: Command, tmp_path: Path) -> None:
    result = command("--seeds", "4", "--faults", "reset", "--no-shrink", "--json")
    assert result.code == 1
    *seeds, last = rows(result)
    assert len(seeds) == last["seeds"] == 4
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------ people


def test_the_summary_for_people(command: Command) -> None:
    result = command("--seeds", "2", "--backend", "trio")
    assert result.code == 0
    first, *figures, empty, last = result.out.strip().splitlines()
    assert first.startswith("2 histories on trio: 0.1 simulated hours")
    assert [line[:11].strip() for line in figures if line[2] != " "] == ["jobs", "faults", "promises", "goals", "took"]
    assert any("in the middle history" in line for line in figures)
    assert (empty, last) == ("", "  nothing broken")
