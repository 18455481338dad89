"""Running one test function under many seeds, each in a world of its own.

The world is the simulation's: virtual time, a schedule decided by the seed, a network whose bytes take time and arrive
in pieces, a dispatch server, rooms in memory.  The test's own code is refused the real world by name: a handler that
reads ``time.time()`` would otherwise see a clock that is not the test's.  (``datetime.now()`` cannot be guarded, its
type is C's.)
"""

from __future__ import annotations

import os
import random
import shlex
import sys
import sysconfig
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pkgutil import resolve_name
from types import TracebackType
from typing import Any
from unittest.mock import patch

import anyio
from anyio.abc import ByteStream, TaskGroup

from .._options import WorkerOptions
from ..dispatch import DispatchServer
from ..handlers import UniversalHandler
from ..monitoring._probe import Sample
from ..rooms import MemoryRooms, Room
from ..runtime._outcome import only_leaf
from ..runtime._worker import UniversalWorker
from ..simulation._errors import refuse
from ..simulation._network import Conditions, SimConnection
from ..simulation._runtime import run_virtual

__all__ = ["AgentClock", "run_seeds"]

_EPOCH = 1_800_000_000.0
_VIRTUAL_LIMIT = 3600.0
"""Virtual seconds after which a test counts as hung: keep-alives go on for ever, so nothing else would end it."""

_STRIKES = 20
_KEY, _SECRET = "testkey", "testsecret-testsecret-testsecret"

CONNECTION_FAULTS = ("latency", "dribble", "stall", "half_close", "reset")
"""What ``agent_seeds(faults=...)`` may name: faults between the workers and the server."""

#: Calls that would answer with the real world's time, or take it; who makes one gets an error that names it.
_REAL_WORLD = (
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "monotonic"),
    ("time", "monotonic_ns"),
    ("time", "perf_counter"),
    ("time", "sleep"),
    ("socket", "socket"),
    ("socket", "create_connection"),
    ("socket", "getaddrinfo"),
    ("threading.Thread", "start"),
    ("subprocess", "Popen"),
)


class AgentClock:
    """The test's clock: virtual seconds."""

    def now(self) -> float:
        """Seconds since the test began."""
        return anyio.current_time()

    async def advance(self, seconds: float) -> None:
        """Let ``seconds`` pass: everything that is due meanwhile happens."""
        await anyio.sleep(seconds)


class _TestWorld:
    """What the fixtures stand for, during one seed."""

    def __init__(self, seed: int, faults: tuple[str, ...], exits: AsyncExitStack) -> None:
        self._seed = seed
        self._faults = faults
        self._exits = exits
        self._workers = 0
        self._started: list[UniversalWorker] = []
        self._joined: list[Room] = []
        self._latest: SimConnection | None = None
        self.clock = AgentClock()
        self.conditions = Conditions(random.Random(f"network:{seed}"), anyio.current_time)
        self.rooms = MemoryRooms({_KEY: _SECRET}, rng=random.Random(f"rooms:{seed}"), wall_clock=self.wall)

    def wall(self) -> float:
        return _EPOCH + anyio.current_time()

    async def open(self) -> None:
        await self._exits.enter_async_context(self.rooms)
        self.server = DispatchServer(
            port=None,
            api_key=_KEY,
            api_secret=_SECRET,
            rooms=self.rooms,
            rng=random.Random(f"server:{self._seed}"),
            wall_clock=self.wall,
        )
        await self._exits.enter_async_context(self.server)
        self._tasks = await self._exits.enter_async_context(_Background())
        if self._faults:
            self._tasks.start_soon(self._strike)

    async def _strike(self) -> None:
        """Faults on the workers' latest connection, at instants that the seed decides; a bounded number."""
        rng = random.Random(f"faults:{self._seed}")
        for _ in range(_STRIKES):
            await anyio.sleep(rng.choice((rng.uniform(0, 0.1), rng.uniform(0, 3.0))))
            connection = self._latest
            if connection is None or not connection.open:
                continue
            line = rng.choice((connection.up, connection.down))
            match rng.choice(self._faults):
                case "reset":
                    connection.reset()
                case "half_close":
                    line.end()
                case "stall":
                    line.stall(anyio.current_time() + rng.uniform(0.1, 5.0))
                case "dribble":
                    self.conditions.dribble = not self.conditions.dribble
                case _:
                    self.conditions.latency = (0.0, rng.uniform(0.0, 0.5))

    async def worker(self, handler: UniversalHandler, **options: Any) -> UniversalWorker:
        self._workers += 1
        worker = UniversalWorker(
            "ws://localhost:7880",
            _KEY,
            _SECRET,
            handler,
            WorkerOptions(**options),
            rooms=self.rooms,
            connector=self._connect,
            rng=random.Random(f"worker{self._workers}:{self._seed}"),
            wall_clock=self.wall,
            probe=Sample,
        )
        # In the world's task group, not the test's: the test may call from inside any scope of its own.
        await self._tasks.start(worker.start)
        self._started.append(worker)
        return worker

    async def room(self, name: str, identity: str, **options: Any) -> Room:
        room = await self.rooms.join(name, identity, **options)
        self._joined.append(room)
        return room

    async def close(self) -> None:
        """End what the test started: people leave, workers drain."""
        for room in self._joined:
            await room.disconnect()
        for worker in self._started:
            await worker.stop()

    async def _connect(self, endpoint: object) -> ByteStream:
        await anyio.lowlevel.checkpoint()
        connection = self._latest = SimConnection("test", self.conditions)
        self._tasks.start_soon(self.server.serve_stream, connection.server)
        return connection.client


class _Background:
    """A task group whose children are cancelled when the block ends."""

    async def __aenter__(self) -> TaskGroup:
        self._group = anyio.create_task_group()
        return await self._group.__aenter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._group.cancel_scope.cancel()
        return await self._group.__aexit__(kind, error, trace)


def run_seeds(
    function: Callable[..., Awaitable[object]],
    arguments: Mapping[str, Any],
    *,
    seeds: Iterable[int],
    backend: str,
    faults: tuple[str, ...],
    nodeid: str,
) -> None:
    """Run ``function`` once per seed; the first failure is raised with a note that says how to see it again."""
    unknown = [kind for kind in faults if kind not in CONNECTION_FAULTS]
    if unknown:
        raise ValueError(f"agent_seeds faults are {', '.join(CONNECTION_FAULTS)}; not {', '.join(unknown)}")
    for seed in seeds:
        threads = threading.active_count()
        try:
            with _real_world_refused():
                run_virtual(_one_seed, function, arguments, seed, faults, backend=backend, seed=seed)
            if threading.active_count() > threads:
                raise AssertionError(f"the test left {threading.active_count() - threads} threads running")
        except BaseException as raised:
            # Not handled: freed of the groups that only the world's own task groups put around it, told how to see it
            # again, and raised on.
            exc = only_leaf(raised)
            exc.add_note(
                f"seed {seed:#x} on {backend}; again with:\n"
                f"  pytest {shlex.quote(nodeid)} --agent-seed {seed:#x} --agent-backend {backend}"
            )
            raise exc from None


async def _one_seed(
    function: Callable[..., Awaitable[object]], arguments: Mapping[str, Any], seed: int, faults: tuple[str, ...]
) -> None:
    before = len(anyio.get_running_tasks())
    exits = AsyncExitStack()
    world = _TestWorld(seed, faults, exits)
    # The limit encloses everything that is entered: scopes must nest.
    with anyio.move_on_after(_VIRTUAL_LIMIT) as limit:
        async with exits:
            await world.open()
            things = {
                "agent_server": world.server,
                "agent_worker": world.worker,
                "agent_room": world.room,
                "agent_clock": world.clock,
            }
            await function(**{name: things.get(name, value) for name, value in arguments.items()})
            await world.close()
    if limit.cancelled_caught:
        raise TimeoutError(f"the test did not end within {_VIRTUAL_LIMIT:g} s of virtual time")
    left = anyio.get_running_tasks()
    if len(left) > before:
        raise AssertionError(f"the test left {len(left) - before} tasks running: {[task.name for task in left]}")


@contextmanager
def _real_world_refused() -> Generator[None]:
    """Refuse the real world to the test's own code; libraries and the interpreter keep it."""
    with ExitStack() as patches:
        for owner, name in _REAL_WORLD:
            real = getattr(resolve_name(owner), name)
            patches.enter_context(patch(f"{owner}.{name}", _guard(f"{owner}.{name}()", real)))
        yield


def _guard(what: str, real: Any) -> Any:
    if isinstance(real, type):
        # A class stays a class: libraries subclass it and ask isinstance.
        class Guarded(real):  # type: ignore[misc, valid-type]
            def __init__(self, *args: Any, **kwargs: Any) -> None:
                _check(what)
                real.__init__(self, *args, **kwargs)

        Guarded.__name__ = real.__name__
        return Guarded

    def guarded(*args: Any, **kwargs: Any) -> Any:
        _check(what)
        return real(*args, **kwargs)

    return guarded


def _check(what: str) -> None:
    """Refuse when the caller's caller is the user's code: neither installed, nor the interpreter's, nor ours."""
    filename = sys._getframe(2).f_code.co_filename  # pyright: ignore[reportPrivateUsage]
    if "site-packages" not in filename and not filename.startswith(_NOT_USERS):
        raise refuse(what)


#: Where code lives that is not the user's: the interpreter, this package, and frozen or generated code.
_NOT_USERS = (
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("platstdlib"),
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    "<",
)
