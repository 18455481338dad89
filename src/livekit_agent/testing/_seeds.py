"""Running one test function under many seeds, each in a world of its own.

The world is the simulation's: virtual time, a schedule decided by the seed, a network whose bytes take time and arrive
in pieces, a dispatch server, rooms in memory.  The test's own code is refused the real world by name: a handler that
reads ``time.time()`` would otherwise see a clock that is not the test's.  (``datetime.now()`` cannot be guarded, its
type is C's.)  A clock is refused to who reads it himself, for libraries read it for their logs; what takes real time, a
socket, a thread, a process, is refused as well when a library does it on the test's behalf.
"""

from __future__ import annotations

import gc
import os
import random
import shlex
import sys
import sysconfig
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from pkgutil import resolve_name
from types import FrameType, TracebackType
from typing import Any
from unittest.mock import patch

import anyio
from anyio.abc import ByteStream, TaskGroup

from .._bounds import VIRTUAL_TIME_MAX
from .._options import WorkerOptions
from .._types import JobStatus
from ..dispatch import DispatchServer
from ..handlers import UniversalHandler
from ..monitoring._probe import Sample
from ..rooms import MemoryRooms, Room
from ..runtime._outcome import only_leaf
from ..runtime._worker import UniversalWorker
from ..simulation._errors import refuse
from ..simulation._network import Conditions, SimConnection
from ..simulation._runtime import run_virtual

__all__ = ["AgentClock", "TestHungError", "TestLeakError", "run_seeds"]

_EPOCH = 1_800_000_000.0

_WAITING_LINES = 12
_FAILED_JOBS_TOLD = 5
_STRIKES = 20
_KEY, _SECRET = "testkey", "testsecret-testsecret-testsecret"

CONNECTION_FAULTS = ("latency", "dribble", "stall", "half_close", "reset")
"""What ``agent_seeds(faults=...)`` may name: faults between the workers and the server."""

#: Calls that would answer with the real world's time; who makes one gets an error that names it.
_CLOCKS = (
    ("time", "time"),
    ("time", "time_ns"),
    ("time", "monotonic"),
    ("time", "monotonic_ns"),
    ("time", "perf_counter"),
    ("time", "perf_counter_ns"),
    ("time", "clock_gettime"),
    ("time", "clock_gettime_ns"),
    ("time", "localtime"),
    ("time", "gmtime"),
    ("time", "ctime"),
    ("time", "asctime"),
    ("time", "strftime"),
)

#: Of these, those that are told a time say nothing of their own: how many arguments that takes.
_TOLD_A_TIME = {"localtime": 1, "gmtime": 1, "ctime": 1, "asctime": 1, "strftime": 2}

#: Calls that would take the real world's time; refused also when a library makes one that the test's code has called.
_DEEDS = (
    ("time", "sleep"),
    ("socket", "socket"),
    ("socket", "create_connection"),
    ("socket", "getaddrinfo"),
    ("socket", "getnameinfo"),
    ("socket", "gethostbyname"),
    ("socket", "gethostbyname_ex"),
    ("socket", "gethostbyaddr"),
    ("threading.Thread", "start"),
    ("_thread", "start_new_thread"),
    ("subprocess", "Popen"),
    ("multiprocessing.process.BaseProcess", "start"),
    ("os", "system"),
    ("os", "fork"),
    ("os", "forkpty"),
    ("os", "posix_spawn"),
    ("os", "posix_spawnp"),
)


class TestLeakError(AssertionError):
    """A test left something behind."""

    __test__ = False  # its name is not an invitation to pytest


class TestHungError(AssertionError):
    """A test did not end within its virtual seconds.  The message says where it waits."""

    __test__ = False


class AgentClock:
    """The test's clock: virtual seconds."""

    def now(self) -> float:
        """Seconds since the test began."""
        return anyio.current_time()

    def wall(self) -> float:
        """Unix seconds of the test's world, for code that takes its ``time.time`` as an argument."""
        return _EPOCH + anyio.current_time()

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
        self.connections = 0
        self.clock = AgentClock()
        self.conditions = Conditions(random.Random(f"network:{seed}"), anyio.current_time)
        self.rooms = MemoryRooms({_KEY: _SECRET}, rng=random.Random(f"rooms:{seed}"), wall_clock=self.clock.wall)

    def __repr__(self) -> str:
        return f"<world of seed {self._seed:#x}>"

    async def open(self, on_limit: Callable[[], None], limit: float) -> None:
        await self._exits.enter_async_context(self.rooms)
        self.server = DispatchServer(
            port=None,
            api_key=_KEY,
            api_secret=_SECRET,
            rooms=self.rooms,
            rng=random.Random(f"server:{self._seed}"),
            wall_clock=self.clock.wall,
        )
        await self._exits.enter_async_context(self.server)
        self._tasks = await self._exits.enter_async_context(_Background())
        self._tasks.start_soon(_at, limit, on_limit)
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
            wall_clock=self.clock.wall,
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
        connection = self._latest = SimConnection("test", self.conditions, on_close=self._on_close)
        self.connections += 1
        self._tasks.start_soon(self.server.serve_stream, connection.server)
        return connection.client

    def _on_close(self, connection: SimConnection) -> None:
        self.connections -= 1

    def failed_jobs(self) -> list[str]:
        """Jobs that the server was told have failed, a line each."""
        return [
            f"meanwhile job {record.id} in room {record.room} FAILED: {record.state.error}"
            for record in self.server.jobs.values()
            if record.state.status == JobStatus.FAILED
        ][:_FAILED_JOBS_TOLD]


async def _at(when: float, action: Callable[[], None]) -> None:
    """Do something then: a deadline that is no scope's, for user code runs in the scope."""
    await anyio.sleep_until(when)
    action()


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
    limit: float = VIRTUAL_TIME_MAX,
) -> None:
    """Run ``function`` once per seed; the first failure is raised with a note that says how to see it again."""
    with _real_world_refused() as refused:
        for seed in seeds:
            run = _Run(function, arguments, seed, backend, faults, limit)
            refused.clear()
            try:
                run.live()
                if refused:
                    # The job that asked for it has failed, but the test did not look.
                    raise refused[0]
            except BaseException as raised:
                # Not handled: freed of the groups that only the world's own task groups put around it, told how to see
                # it again, and raised on.
                exc = only_leaf(raised)
                if refused and exc is not refused[0]:
                    exc.add_note(f"meanwhile: {refused[0]}")
                run.explain(exc, nodeid)
                raise exc from None


class _Run:
    """One seed of one test."""

    def __init__(
        self,
        function: Callable[..., Awaitable[object]],
        arguments: Mapping[str, Any],
        seed: int,
        backend: str,
        faults: tuple[str, ...],
        limit: float,
    ) -> None:
        self._function = function
        self._arguments = arguments
        self._seed = seed
        self._backend = backend
        self._faults = faults
        self._limit = limit
        self._world: _TestWorld | None = None
        self._hung_at: list[str] | None = None

    def live(self) -> None:
        """Run the test in a world of its own; TestLeakError for what outlives it."""
        threads, handles = set(threading.enumerate()), _handles()
        state = random.getstate()
        random.seed(f"test:{self._seed}")  # the test's own dice: a jitter in a handler replays as well
        try:
            run_virtual(self._one_seed, backend=self._backend, seed=self._seed)
        finally:
            random.setstate(state)
        # New ones, not the difference in number: one that was there before may have ended meanwhile.
        if new := set(threading.enumerate()) - threads:
            raise TestLeakError(f"the test left {len(new)} threads running: {sorted(thread.name for thread in new)}")
        if _handles() > handles:
            gc.collect()  # what is only waiting to be collected is no leak
            if (left := _handles() - handles) > 0:
                raise TestLeakError(f"the test left {left} files or sockets open")

    def explain(self, exc: BaseException, nodeid: str) -> None:
        """Say what else went wrong, and how to see it again."""
        for line in self._world.failed_jobs() if self._world is not None else ():
            exc.add_note(line)
        exc.add_note(
            f"seed {self._seed:#x} on {self._backend}; again with:\n"
            f"  pytest {shlex.quote(nodeid)} --agent-seed {self._seed:#x} --agent-backend {self._backend}"
        )

    async def _one_seed(self) -> None:
        before = {task.id for task in anyio.get_running_tasks()}
        exits = AsyncExitStack()
        world = self._world = _TestWorld(self._seed, self._faults, exits)
        # The scope that ends a hung test encloses everything that is entered: scopes must nest.
        with anyio.CancelScope() as scope:
            async with exits:
                await world.open(lambda: self._hung(scope), self._limit)
                things = {
                    "agent_server": world.server,
                    "agent_worker": world.worker,
                    "agent_room": world.room,
                    "agent_clock": world.clock,
                }
                await self._function(**{name: things.get(name, value) for name, value in self._arguments.items()})
                await world.close()
        if self._hung_at is not None:
            where = "".join(f"\n  {line}" for line in self._hung_at)
            raise TestHungError(f"the test did not end within {self._limit:g} s of virtual time; what waits:{where}")
        if left := [task.name for task in anyio.get_running_tasks() if task.id not in before]:
            raise TestLeakError(f"the test left {len(left)} tasks running: {left}")
        if world.connections:
            raise TestLeakError(f"the test left {world.connections} connections open")

    def _hung(self, scope: anyio.CancelScope) -> None:
        """Note where the user's code waits, and end the test."""
        lines = [where for task in anyio.get_running_tasks() if (where := _waiting(task.coro))]
        self._hung_at = lines[:_WAITING_LINES]
        scope.cancel()


def _waiting(coro: Any) -> str:
    """Where in the user's code a coroutine waits; empty if it runs none."""
    where = ""
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None) or getattr(coro, "ag_frame", None)
        if frame is not None and _is_users(frame.f_code.co_filename):
            where = f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno} in {frame.f_code.co_qualname}"
        coro = getattr(coro, "cr_await", None) or getattr(coro, "gi_yieldfrom", None) or getattr(coro, "ag_await", None)
    return where


def _handles() -> int:
    """How many file descriptors are open; 0 where that cannot be told."""
    try:
        return len(os.listdir("/proc/self/fd"))
    except OSError:
        return 0


@contextmanager
def _real_world_refused() -> Generator[list[BaseException]]:
    """Refuse the real world to the test's own code; libraries and the interpreter keep it.  Yields what was refused."""
    refused: list[BaseException] = []
    with ExitStack() as patches:
        guards: dict[int, Any] = {}
        for asked, calls in ((_asked_itself, _CLOCKS), (_had_it_asked, _DEEDS)):
            for owner, name in calls:
                real = getattr(resolve_name(owner), name, None)
                if real is None:
                    continue  # not on this system
                guards[id(real)] = guard = _guard(
                    f"{owner}.{name}()", real, asked, refused, told=_TOLD_A_TIME.get(name)
                )
                patches.enter_context(patch(f"{owner}.{name}", guard))
        for module in list(sys.modules.values()):
            # Who wrote ``from time import time`` holds the real one already.
            if _is_users(getattr(module, "__file__", None) or "<"):
                taken = {name: guards[id(value)] for name, value in vars(module).items() if id(value) in guards}
                patches.enter_context(patch.dict(vars(module), taken))
        yield refused


class _Stands(type):
    """The type of a class that stands for another: what is an instance or a subclass of that is one of this."""

    def __instancecheck__(cls, instance: object) -> bool:
        return type.__instancecheck__(cls.__dict__.get("stands_for", cls), instance)

    def __subclasscheck__(cls, subclass: type) -> bool:
        return type.__subclasscheck__(cls.__dict__.get("stands_for", cls), subclass)


def _guard(
    what: str, real: Any, asked: Callable[[FrameType], bool], refused: list[BaseException], *, told: int | None = None
) -> Any:
    """``real``, refused to who ``asked``; with ``told``, only where fewer arguments than that are given."""

    def check(caller: FrameType) -> None:
        __tracebackhide__ = True
        if asked(caller):
            error = refuse(what)
            refused.append(error)
            raise error

    if isinstance(real, type):
        # A class stays a class: libraries subclass it and ask isinstance, also of what was made before.
        class Guarded(real, metaclass=_Stands):  # type: ignore[misc, valid-type]
            stands_for = real

            def __init__(self, *args: Any, **kwargs: Any) -> None:
                __tracebackhide__ = True
                check(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
                real.__init__(self, *args, **kwargs)

        Guarded.__name__ = real.__name__
        return Guarded

    def guarded(*args: Any, **kwargs: Any) -> Any:
        __tracebackhide__ = True
        if told is None or sum(value is not None for value in args) < told:
            check(sys._getframe(1))  # pyright: ignore[reportPrivateUsage]
        return real(*args, **kwargs)

    return guarded


def _asked_itself(caller: FrameType) -> bool:
    """Whether the caller is the user's code: neither installed, nor the interpreter's, nor ours."""
    return _is_users(caller.f_code.co_filename)


def _had_it_asked(caller: FrameType) -> bool:
    """Whether the user's code is on the stack, down to the run: what is below that is who called pytest."""
    frame: FrameType | None = caller
    while frame is not None and frame.f_code is not run_virtual.__code__:
        if _is_users(frame.f_code.co_filename):
            return True
        frame = frame.f_back
    return False


def _is_users(filename: str) -> bool:
    """Whether this is the user's code."""
    return "site-packages" not in filename and not filename.startswith(_NOT_USERS)


#: Where code lives that is not the user's: the interpreter, this package, and frozen or generated code.
_NOT_USERS = (
    sysconfig.get_path("stdlib"),
    sysconfig.get_path("platstdlib"),
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))),
    "<",
)
