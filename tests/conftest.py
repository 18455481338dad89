"""How tests run: each ``async def test_…`` on trio and on asyncio, in real time or, marked ``virtual``, in virtual.

Real time is ``anyio.run``; virtual time is ``livekit_agent.simulation.run_virtual`` with seed 0, or the mark's
``seed=``.  After each test nothing may be left: no asyncio task, no thread, no unraisable error.  Fixtures are
synchronous; a test that needs something asynchronous opens it with ``async with``, where its nesting can be seen.
"""

from __future__ import annotations

import gc
import inspect
import os
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import anyio
import pytest
from hypothesis import HealthCheck, settings

from livekit_agent.simulation import run_virtual

BACKENDS = ("trio", "asyncio")

settings.register_profile("default", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("default"), derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """``-n auto``: one more than there are cores, because some of the tests wait for processes in real time."""
    return (os.cpu_count() or 1) + 1


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.get_closest_marker("long") is None)  # stable: else as they were shuffled


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> str:
    """The name of the backend this test runs on; a synchronous test that asks for it runs on both as well."""
    return str(request.param)


def _is_async(function: Any) -> bool:
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", function)
    return inspect.iscoroutinefunction(inner)


def _names(mark: pytest.Mark) -> list[str]:
    names = mark.args[0] if mark.args else mark.kwargs["argnames"]
    return [name.strip() for name in names.split(",")] if isinstance(names, str) else list(names)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if any("backend" in _names(mark) for mark in metafunc.definition.iter_markers("parametrize")):
        return  # the test chooses for itself
    if _is_async(metafunc.function) and "backend" not in metafunc.fixturenames:
        metafunc.fixturenames.append("backend")
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", BACKENDS, indirect=True)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not _is_async(pyfuncitem.obj):
        return None
    backend = pyfuncitem.callspec.params["backend"]
    mark = pyfuncitem.get_closest_marker("virtual")
    run = partial(_run_real, backend) if mark is None else partial(_run_virtual, backend, mark.kwargs.get("seed", 0))
    kwargs = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    if hasattr(pyfuncitem.obj, "hypothesis"):
        # hypothesis calls the inner test once per example; each example is a run of its own.
        handle = pyfuncitem.obj.hypothesis
        inner = handle.inner_test
        handle.inner_test = lambda **drawn: run(partial(inner, **drawn))
        try:
            pyfuncitem.obj(**kwargs)
        finally:
            handle.inner_test = inner
    else:
        run(partial(pyfuncitem.obj, **kwargs))
    # Here rather than later: pytest looks for unraisable errors when this hook is over, so what a clean-up left behind
    # fails the test it belongs to.  Two generations, at a tenth of the cost of three.
    gc.collect(1)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    leaked = _threads_left(before)
    if leaked:
        pytest.fail(f"threads left over: {', '.join(sorted(leaked))}")


def _threads_left(before: set[threading.Thread]) -> list[str]:
    """Threads that are new and still there after a second in which they may finish.

    trio keeps idle workers for ten seconds to use them again, and names them so.  Dummies are threads of a native
    library that Python has seen once; their end is not visible.
    """

    def new() -> list[threading.Thread]:
        return [
            thread
            for thread in threading.enumerate()
            if thread not in before
            and not thread.name.startswith("Trio thread")
            and not isinstance(thread, threading._DummyThread)
        ]

    until = time.monotonic() + 1
    for thread in new():
        thread.join(max(0, until - time.monotonic()))
    return [thread.name for thread in new()]


def _run_real(backend: str, fn: Callable[[], Any]) -> None:
    anyio.run(_alone_at_the_end, fn, backend=backend)


def _run_virtual(backend: str, seed: int, fn: Callable[[], Any]) -> None:
    run_virtual(_alone_at_the_end, fn, backend=backend, seed=seed)


async def _alone_at_the_end(fn: Callable[[], Any]) -> None:
    """The test, and then a look for tasks outside any group: asyncio's runner would cancel them without a word."""
    before = {task.id for task in anyio.get_running_tasks()}
    await fn()
    left = [task.name for task in anyio.get_running_tasks() if task.id not in before]
    assert not left, f"tasks left over: {left}"
