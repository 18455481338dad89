"""The Go API reference, name by name: each is here and proven, or said to come later, and then not half here.

The tables are ``coverage/go.toml`` and ``coverage/go_proofs.toml``; docs/migration/from-go.md shows them to people.
"""

from __future__ import annotations

import dataclasses
import inspect
import re

import pytest

import livekit_agent
from coverage_tables import Row, code_of, exists, sections, table, test_exists
from livekit_agent import SimpleUniversalHandler, UniversalWorker, WorkerOptions, WorkerStats

ROWS: list[tuple[str, Row]] = [(chapter, row) for chapter, rows in sections(table("go")) for row in rows.values()]
PROOFS = table("proofs")["proofs"] | table("go_proofs")["proofs"]
LATER = [row for _, row in ROWS if row.out.startswith("later")]

# How many rows each chapter has: the reference is no part of this repository, so one that is lost would not be missed.
CHAPTERS = {
    "Outside types": 15,
    "Core types": 11,
    "Worker API": 22,
    "Job handling": 28,
    "Agent types": 15,
    "Media processing": 8,
    "Load balancing": 11,
    "Recovery and resilience": 3,
    "Monitoring and metrics": 23,
    "Participant coordination": 13,
    "Resource management": 4,
    "Configuration": 19,
    "Errors and versions": 8,
}


def snake(name: str) -> str:
    """``LastJobTime`` as we would write it."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def test_every_chapter_is_whole() -> None:
    chapters = [chapter for chapter, _ in ROWS]
    assert {chapter: chapters.count(chapter) for chapter in chapters} == CHAPTERS


def test_every_row_says_what_became_of_the_name() -> None:
    assert [row.key for _, row in ROWS if bool(row.names) is bool(row.out)] == []
    assert [row.key for _, row in ROWS if row.out and not row.out.startswith(("later", "deprecated there"))] == []


def test_every_name_of_ours_that_a_row_tells_is_there() -> None:
    assert [name for _, row in ROWS for name in row.names if not exists(name)] == []


def test_every_name_has_a_test_that_uses_it() -> None:
    told = {name for _, row in ROWS for name in row.names}
    assert sorted(told - PROOFS.keys()) == [], "name a test in coverage/go_proofs.toml"
    assert sorted(table("go_proofs")["proofs"].keys() - told) == [], "nobody refers to these"
    assert [f"{name}: {PROOFS[name]}" for name in told if not test_exists(PROOFS[name])] == []
    last = {name: re.split(r"[.(]", name.rstrip(")"))[-1] for name in told}
    assert [
        f"{name}: {PROOFS[name]}"
        for name in told
        if last[name][0].islower() and not re.search(rf"\b(on_)?{last[name]}\b", code_of(PROOFS[name]))
    ] == []


@pytest.mark.parametrize("key", [key for row in LATER for key in row.key.split(", ")])
def test_what_is_later_is_not_half_here(key: str) -> None:
    """An option accepted and ignored would be worse than one that is missing."""
    owner, _, member = key.partition(".")
    if owner in ("WorkerOptions", "WorkerStats") and member:
        cls = WorkerOptions if owner == "WorkerOptions" else WorkerStats
        assert snake(member) not in {field.name for field in dataclasses.fields(cls)}
        with pytest.raises(TypeError):
            cls(**{snake(member): None})  # type: ignore[arg-type]
    else:
        assert owner.removeprefix("New") not in livekit_agent.__all__


def test_names_are_turned_as_the_reference_writes_them() -> None:
    names = ["LastJobTime", "NetworkBytesIn", "EnableJobRecovery", "CPUPercent", "HealthCheckInterval"]
    turned = ["last_job_time", "network_bytes_in", "enable_job_recovery", "cpu_percent", "health_check_interval"]
    assert [snake(name) for name in names] == turned


def test_the_worker_takes_what_the_reference_says_in_its_order() -> None:
    parameters = list(inspect.signature(UniversalWorker).parameters)
    assert parameters[:5] == ["url", "api_key", "api_secret", "handler", "options"]


def test_the_simple_handler_has_the_twelve_callbacks_and_no_other() -> None:
    told = [name for chapter, row in ROWS if chapter == "Agent types" for name in row.names]
    names = sorted(name.partition("(")[2].removesuffix(")") for name in told if "(" in name)
    assert names == sorted(inspect.signature(SimpleUniversalHandler).parameters)
    assert len(names) == 12


def test_the_defaults_of_the_reference() -> None:
    options = WorkerOptions()
    assert (options.max_jobs, options.shutdown_timeout, options.agent_name) == (1, 30.0, "")
