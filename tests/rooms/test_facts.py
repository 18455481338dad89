"""The facts of a real server are held: each has its cases, on both transports unless a reason stands there."""

from __future__ import annotations

import ast
from functools import cache

import pytest

from coverage_tables import TESTS, table

FACTS = table("facts")
MEMORY_ONLY, NATIVE_ONLY = {"native", "own_server"}, {"native"}


@cache
def cases(file: str) -> dict[str, set[str]]:
    """The test functions of a file and the scenarios that are played beside others: name -> what they ask for."""
    tree = ast.parse((TESTS / f"test_{file}.py").read_text())
    found: dict[str, set[str]] = {}
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            marks = {mark.id for mark in node.decorator_list if isinstance(mark, ast.Name)}
            if node.name.startswith("test_") or "beside" in marks:
                found[node.name.removeprefix("test_")] = {argument.arg for argument in node.args.args}
    return found


def asks_for(case: str) -> set[str]:
    file, _, name = case.partition("::")
    return cases(file)[name]


def scenarios() -> list[str]:
    """The conformance suite, before any parameter: what runs in memory and on a real server."""
    files = sorted(path.stem.removeprefix("test_") for path in TESTS.glob("test_*.py"))
    return [f"{file}::{name}" for file in files for name, asked in cases(file).items() if "venue" in asked]


def test_there_are_thirty_facts() -> None:
    assert list(FACTS) == [str(number) for number in range(1, 31)]


@pytest.mark.parametrize("number", FACTS)
def test_a_fact_has_its_cases(number: str) -> None:
    fact = FACTS[number]
    assert fact.keys() <= {"says", "on", "why", "cases"}
    assert fact["says"]
    assert fact["on"] in ("both", "native", "memory")
    asked = [asks_for(case) for case in fact["cases"]]
    native = [bool(names & {"venue", "native", "own_server"}) for names in asked]
    if fact["on"] == "both":
        assert "why" not in fact
        assert any(native)
        assert any("venue" in names or not there for names, there in zip(asked, native, strict=True))
    else:
        assert fact["why"]
        assert fact["cases"]


def test_most_facts_are_held_on_both() -> None:
    assert sum(fact["on"] == "both" for fact in FACTS.values()) >= 20


def test_the_suite_has_at_least_150_scenarios() -> None:
    """Distinct ones: counted before parameters, transports and backends."""
    assert len(scenarios()) >= 150, len(scenarios())
