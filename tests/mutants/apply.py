"""A pytest plugin: run any tests under a mutant.

``python -m pytest -p tests.mutants.apply --mutant NAME tests/protocol tests/runtime``

Tests that fail have caught it; when all pass, the mutant has survived them.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from .catalog import MUTANTS


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--mutant", choices=list(MUTANTS), required=True, help="The mistake that the program makes.")


@pytest.hookimpl(wrapper=True)
def pytest_sessionstart(session: pytest.Session) -> Generator[None]:
    """From here to the end of the process, so that modules collected later see it as well."""
    mutant = MUTANTS[session.config.getoption("--mutant")]
    mutated = mutant.applied()
    mutated.__enter__()
    session.config.add_cleanup(lambda: mutated.__exit__(None, None, None))
    return (yield)
