"""Fixtures of the end-to-end tests: the servers, and the reasons why one may be missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from realserver import HOW_TO_GET_IT, NO_INTERFACE, RealServer, find_server, skip_or_fail, usable_interface

SERVERS = ("embedded", "real")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "/e2e/" in item.nodeid or item.nodeid.startswith("e2e/"):
            item.add_marker(pytest.mark.e2e)


def _binary() -> str:
    binary = find_server()
    if binary is None:
        skip_or_fail(HOW_TO_GET_IT)
        raise AssertionError("unreachable")
    if not usable_interface():
        skip_or_fail(NO_INTERFACE)
    return binary


@pytest.fixture(scope="session")
def shared_real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One server for all scenarios that do not kill it."""
    server = RealServer(_binary(), tmp_path_factory.mktemp("livekit"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server that the test may kill."""
    server = RealServer(_binary(), tmp_path_factory.mktemp("livekit"))
    server.start()
    yield server
    server.kill()
