"""The pytest plugin: ``@pytest.mark.agent_seeds(200)`` runs an async test under virtual time, once per seed.

::

    @pytest.mark.agent_seeds(200)
    async def test_the_agent_greets(agent_server, agent_worker, agent_room):
        await agent_worker(Greeter())
        alice = await agent_room("lobby", "alice")
        assert (await alice.wait_for(DataReceived)).data == b"hello"

A seed decides the order in which tasks run, and how long bytes take and how they are split.  A test that fails prints
the seed, the backend and the command that runs exactly that history again.

``--agent-seed 0x1f`` runs one seed, ``--agent-seeds N`` overrides the mark's number, ``--agent-backend`` picks one
backend (both by default).
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable
from typing import Any

import pytest

__all__: list[str] = []

_FIXTURES = ("agent_server", "agent_worker", "agent_room", "agent_clock")
_BACKENDS = ("asyncio", "trio")
_SEEDS = 20
_ARGUMENTS = ("n", "faults", "limit")
_WRITTEN: pytest.StashKey[Callable[..., Any]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Register the options."""
    group = parser.getgroup("livekit-agent", "LiveKit agents under simulation")
    group.addoption("--agent-seed", type=_seed, help="run agent_seeds tests with this one seed")
    group.addoption("--agent-seeds", type=_number, help="run agent_seeds tests with so many seeds")
    group.addoption("--agent-backend", choices=_BACKENDS, help="run agent_seeds tests on this backend only")


def _seed(text: str) -> int:
    return int(text, 0)


def _number(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers",
        "agent_seeds(n=20, faults=(), limit=3600): run this async test under virtual time, once for each of n seeds, "
        "on both backends; `faults` names kinds of fault to strike meanwhile, `limit` is in virtual seconds",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test per backend."""
    if metafunc.definition.get_closest_marker("agent_seeds") is None:
        return
    if "agent_backend" not in metafunc.fixturenames:
        metafunc.fixturenames.append("agent_backend")
    only = metafunc.config.getoption("--agent-backend")
    metafunc.parametrize("agent_backend", [only] if only else list(_BACKENDS), indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Keep the test as it is written: when it is called, other plugins for async tests have put their loop around."""
    if isinstance(item, pytest.Function) and item.get_closest_marker("agent_seeds") is not None:
        item.stash[_WRITTEN] = item.obj


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object | None:
    """Run a marked test, seed by seed."""
    mark = pyfuncitem.get_closest_marker("agent_seeds")
    if mark is None:
        return None
    function = pyfuncitem.stash[_WRITTEN]
    if not inspect.iscoroutinefunction(function):
        pytest.fail("agent_seeds marks async tests", pytrace=False)
    from .._bounds import VIRTUAL_TIME_MAX
    from ._seeds import TestHungError, TestLeakError, run_seeds

    n, faults = _read(mark)
    config = pyfuncitem.config
    names = pyfuncitem._fixtureinfo.argnames  # pyright: ignore[reportPrivateUsage] - as pytest's own runner does
    arguments = {name: pyfuncitem.funcargs[name] for name in names}
    count = config.getoption("--agent-seeds") or n
    seed = config.getoption("--agent-seed")
    try:
        run_seeds(
            function,
            arguments,
            seeds=range(count) if seed is None else (seed,),
            backend=str(pyfuncitem.callspec.params["agent_backend"]),
            faults=faults,
            nodeid=_nodeid(pyfuncitem),
            limit=mark.kwargs.get("limit", VIRTUAL_TIME_MAX),
        )
    except (TestHungError, TestLeakError) as exc:
        # Found by the runner: a traceback would show the runner.
        text = "\n".join([str(exc), *getattr(exc, "__notes__", ())])
    else:
        return True
    pytest.fail(text, pytrace=False)


def _read(mark: pytest.Mark) -> tuple[int, tuple[str, ...]]:
    """The mark's number of seeds and its faults.  What it does not know is a mistake: no test passes for it."""
    from ._seeds import CONNECTION_FAULTS

    unknown = [repr(value) for value in mark.args[1:]] + [name for name in mark.kwargs if name not in _ARGUMENTS]
    if unknown:
        pytest.fail(f"agent_seeds knows no {', '.join(unknown)}; there are {', '.join(_ARGUMENTS)}", pytrace=False)
    n: object = mark.args[0] if mark.args else mark.kwargs.get("n", _SEEDS)
    if not isinstance(n, int) or n < 1:
        pytest.fail(f"agent_seeds needs a number of seeds, at least 1, not {n!r}", pytrace=False)
    faults = mark.kwargs.get("faults", ())
    faults = (faults,) if isinstance(faults, str) else tuple(faults)
    if unknown := [kind for kind in faults if kind not in CONNECTION_FAULTS]:
        known = ", ".join(CONNECTION_FAULTS)
        pytest.fail(f"agent_seeds knows no fault {', '.join(unknown)}; there are {known}", pytrace=False)
    return n, faults


def _nodeid(item: pytest.Function) -> str:
    """The test, as it is named where pytest was called: the command that is printed must work there."""
    path = os.path.relpath(item.path, item.config.invocation_params.dir)
    return "::".join([path, *item.nodeid.split("::")[1:]])


@pytest.fixture
def agent_backend(request: pytest.FixtureRequest) -> str:
    """The event loop of an ``agent_seeds`` test."""
    return request.param if hasattr(request, "param") else "asyncio"


def _placeholder(name: str, about: str) -> Any:
    def fixture(request: pytest.FixtureRequest) -> str:
        if request.node.get_closest_marker("agent_seeds") is None:
            pytest.fail(f"{name} needs @pytest.mark.agent_seeds on the test", pytrace=False)
        return name  # the runner puts the real thing in its place, a fresh one for each seed

    fixture.__doc__ = about
    return pytest.fixture(fixture, name=name)


agent_server = _placeholder("agent_server", "The dispatch server: a DispatchServer without sockets.")
agent_worker = _placeholder(
    "agent_worker", "``await agent_worker(handler, **options)``: a registered worker, stopped at the end."
)
agent_room = _placeholder("agent_room", "``await agent_room(room, identity)``: a participant in a room.")
agent_clock = _placeholder(
    "agent_clock", "``agent_clock.now()``, ``.wall()`` and ``await agent_clock.advance(seconds)``: virtual time."
)
