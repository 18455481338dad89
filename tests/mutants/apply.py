"""A pytest plugin: run any tests under a mutant.

``python -m pytest -p tests.mutants.apply --mutant NAME tests/protocol tests/runtime``

Tests that fail have caught it; when all pass, the mutant has survived them.  Processes that the tests start make the
same mistake: they find ``children/sitecustomize.py`` on their path.
"""

from __future__ import annotations

import os
from collections.abc import Generator
from pathlib import Path

import pytest

from ._edits import Edit, applied
from .catalog import MUTANTS


def edits_of(names: str) -> tuple[Edit, ...]:
    """Of one mutant, or of several, joined by +."""
    return tuple(edit for name in names.split("+") for edit in MUTANTS[name].edits)


def in_children(name: str) -> None:
    """From here on the processes that this one starts make the mistake as well."""
    os.environ["NAMED_MUTANT"] = name
    children = str(Path(__file__).with_name("children"))
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (children, os.environ.get("PYTHONPATH"))))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutant", required=True, help="The mistake that the program makes; a+b for both at once.")


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None]:
    """From here to the end of the process, so that modules collected later see it as well."""
    name = session.config.getoption("--mutant")
    in_children(name)
    mutated = applied(edits_of(name))
    mutated.__enter__()
    session.config.add_cleanup(lambda: mutated.__exit__(None, None, None))
    return (yield)
