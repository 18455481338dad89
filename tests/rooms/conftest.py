"""Fixtures of the room tests: venues in memory, one on a real server, for the same tests."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "e2e"))

from realserver import HOW_TO_GET_IT, NO_INTERFACE, RealServer, find_server, skip_or_fail, usable_interface
from venues import MemoryVenue, NativeVenue, RemoteVenue, Venue

_numbers = itertools.count(1)


def _start(tmp_path_factory: pytest.TempPathFactory) -> RealServer:
    binary = find_server()
    if binary is None:
        skip_or_fail(HOW_TO_GET_IT)
        raise AssertionError("unreachable")
    if not usable_interface():
        pytest.fail(NO_INTERFACE, pytrace=False)
    server = RealServer(binary, tmp_path_factory.mktemp("livekit"))
    server.start()
    return server


@pytest.fixture(scope="session")
def real_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """One server for every test that leaves it alive."""
    server = _start(tmp_path_factory)
    yield server
    server.kill()


@pytest.fixture
def own_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RealServer]:
    """A server that the test may kill."""
    server = _start(tmp_path_factory)
    yield server
    server.kill()


@pytest.fixture(
    params=[
        pytest.param("memory", marks=pytest.mark.virtual),
        pytest.param("remote", marks=pytest.mark.virtual),
        pytest.param("native", marks=pytest.mark.real_server),
    ]
)
def venue(request: pytest.FixtureRequest) -> Venue:
    """Where rooms are: in memory under virtual time, here or behind a connection, or on a real server."""
    room = f"room-{next(_numbers)}"
    if request.param == "memory":
        return MemoryVenue(room)
    if request.param == "remote":
        return RemoteVenue(room)
    return NativeVenue(room, request.getfixturevalue("real_server"))


@pytest.fixture
def native(request: pytest.FixtureRequest) -> NativeVenue:
    """On a real server only."""
    return NativeVenue(f"room-{next(_numbers)}", request.getfixturevalue("real_server"))
