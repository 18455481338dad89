"""The real server, for what must work on both."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "e2e"))

from realserver import HOW_TO_GET_IT, RealServer, find_server, skip_or_fail


@pytest.fixture(scope="session")
def real_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a real server; no media are needed."""
    binary = find_server()
    if binary is None:
        skip_or_fail(HOW_TO_GET_IT)
        raise AssertionError("unreachable")
    server = RealServer(binary, tmp_path_factory.mktemp("livekit"))
    server.start()
    yield f"ws://127.0.0.1:{server.port}"
    server.kill()
