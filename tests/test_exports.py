"""What the package shows, and what importing it costs, told by the names of the modules that get loaded."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

import livekit_agent

# `import livekit_agent` within 1.5x of a bare interpreter; these alone would break that.
HEAVY = (
    "enum", "dataclasses", "typing", "logging", "asyncio", "anyio", "trio", "numpy", "httpx", "livekit", "google",
    "wsproto", "h11", "jwt", "psutil", "click", "rich", "ctypes", "ssl", "socket", "json", "re",
)  # fmt: skip


def loaded_by(code: str) -> list[str]:
    """The top-level modules that ``code`` loads in an interpreter of its own."""
    program = (
        "import sys; before = set(sys.modules)\n"
        f"{code}\n"
        "loaded = sorted({name.split('.')[0] for name in set(sys.modules) - before})\n"
        "import json; print(json.dumps(loaded))"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _WITH_PATH + program], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout.splitlines()[-1])


# -S: site's .pth files of a development environment load modules of their own, which are not ours to answer for.
_WITH_PATH = f"import sys; sys.path[:0] = {[path for path in sys.path if path]!r}\n"


@pytest.mark.parametrize("name", livekit_agent.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(livekit_agent, name) is not None


def test_the_names_of_dir_and_of_star_are_the_public_ones() -> None:
    assert sorted(livekit_agent.__all__) == dir(livekit_agent)
    assert len(set(livekit_agent.__all__)) == len(livekit_agent.__all__)
    assert [name for name in livekit_agent.__all__ if name.startswith("_") and name != "__version__"] == []


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="Worker"):
        _ = livekit_agent.Worker  # type: ignore[attr-defined]


def test_what_type_checkers_see_is_what_there_is() -> None:
    """The names under TYPE_CHECKING are the ones that are loaded lazily: neither list can drift."""
    import ast
    from pathlib import Path

    tree = ast.parse(Path(livekit_agent.__file__).read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {alias.asname for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}
    assert seen == set(livekit_agent.__all__) - {"__version__", "PROTOCOL_VERSION"}


def test_importing_the_package_loads_nothing_that_costs() -> None:
    loaded = loaded_by("import livekit_agent; livekit_agent.__version__; dir(livekit_agent)")
    assert "livekit_agent" in loaded
    assert [name for name in loaded if name in HEAVY] == []


def test_an_option_or_a_config_needs_no_event_loop() -> None:
    loaded = loaded_by("import livekit_agent; livekit_agent.Config(); livekit_agent.WorkerOptions()")
    assert [name for name in loaded if name in ("asyncio", "anyio", "trio", "numpy", "httpx", "livekit", "jwt")] == []


def test_the_protocol_core_loads_no_event_loop() -> None:
    loaded = loaded_by("import livekit_agent.protocol")
    assert [name for name in loaded if name in ("asyncio", "anyio", "trio", "numpy", "httpx", "ssl")] == []


def test_a_worker_is_built_without_rooms_numbers_or_http() -> None:
    loaded = loaded_by(
        "import livekit_agent as la\n"
        "la.UniversalWorker('ws://127.0.0.1:1', 'key', 'secret', la.SimpleUniversalHandler(), la.WorkerOptions())"
    )
    assert [name for name in loaded if name in ("trio", "numpy", "httpx", "ctypes.util", "click", "rich")] == []


DEMO_ON_ASYNCIO = """
import anyio, livekit_agent as la
from livekit_agent.dispatch import DispatchServer
async def main():
    done = anyio.Event()
    handler = la.SimpleUniversalHandler()
    @handler.job_assigned
    async def assigned(ctx):
        done.set()
    async with DispatchServer() as server:
        worker = la.UniversalWorker(server.url, server.api_key, server.api_secret, handler, rooms=server.rooms)
        async with worker, server.rooms.join("r", "alice"):
            await done.wait()
anyio.run(main, backend="asyncio")
"""


def test_a_whole_job_on_asyncio_never_imports_trio_nor_what_it_does_not_use() -> None:
    loaded = loaded_by(DEMO_ON_ASYNCIO)
    assert "asyncio" in loaded
    assert [name for name in loaded if name in ("trio", "httpx", "click", "rich", "numpy")] == []


def test_the_command_lines_help_loads_no_event_loop() -> None:
    loaded = loaded_by(
        "import sys; sys.argv = ['livekit-agent', '--help']\n"
        "import io, contextlib\n"
        "from livekit_agent.__main__ import main\n"
        "with contextlib.redirect_stdout(io.StringIO()): main()"
    )
    assert "click" in loaded
    assert [name for name in loaded if name in ("asyncio", "anyio", "trio", "numpy", "httpx", "livekit", "jwt")] == []


def test_a_worker_is_made_without_what_only_rooms_need() -> None:
    program = (
        "import sys; from livekit_agent import *; "
        "UniversalWorker('ws://localhost:1', 'k', 's' * 32, SimpleUniversalHandler(), WorkerOptions()); "
        "assert not [name for name in sys.modules if name.startswith(('livekit_agent.rooms', 'livekit_agent._room_'))]"
    )
    assert "anyio" in loaded_by(program)


def test_every_event_is_found_by_its_public_name() -> None:
    from livekit_agent import _room_events, _worker_events, events

    assert dir(events) == sorted(events.__all__) == sorted(_room_events.__all__ + _worker_events.__all__)
    for name in events.__all__:
        assert getattr(events, name) in vars(_room_events if name in _room_events.__all__ else _worker_events).values()
    with pytest.raises(AttributeError, match="Nonsense"):
        _ = events.Nonsense  # type: ignore[attr-defined]
