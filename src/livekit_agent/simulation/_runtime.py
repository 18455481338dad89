"""``run_virtual``: one async function, either backend, virtual time, a schedule decided by a seed.

On asyncio the work is done by :class:`~._asyncio_loop.VirtualTimeLoop`.  On trio by its ``MockClock``, which jumps to
the next deadline when nobody can run, and by a switch that trio keeps for hypothesis: with
``_ALLOW_DETERMINISTIC_SCHEDULING`` each batch of runnable tasks is sorted by birth and shuffled by the module's
generator ``_r``.  Both names are private and unchanged from trio 0.22 to 0.35; were they gone, this fails loudly rather
than lose its meaning.  Importing hypothesis sets the switch for the whole process, so it is set, and put back, here.

Both clocks start at 0.0.  Both engines report a deadlock and refuse the real world by name: threads, sockets,
resolver, processes, signals.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from functools import partial
from types import ModuleType
from typing import Any, Literal, NoReturn, TypeVar, TypeVarTuple, cast

import anyio

from ._errors import HORIZON, DeadlockError, TaskLine, VirtualTimeError, deadlock, refuse, where_suspended

__all__ = ["run_virtual", "virtual_clock"]

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


def run_virtual(
    fn: Callable[[*Ts], Awaitable[T]],
    *args: *Ts,
    backend: Literal["asyncio", "trio"] | str = "asyncio",
    seed: int = 0,
    on_step: Callable[[int], None] | None = None,
) -> T:
    """Run ``fn(*args)`` to its end under virtual time and return its result, or raise what it raises.

    The same ``seed`` gives the same order of steps in every process; ``on_step`` is told of each step the birth number
    of its task.  Raises :class:`DeadlockError` when every task
    waits and no deadline is left, and :class:`RealWorldError` in the task that asks for something real: a thread, a
    socket, a name's address, a process, a signal.
    """
    if backend == "asyncio":
        return _run_asyncio(fn, args, seed, on_step)
    if backend == "trio":
        return _run_trio(fn, args, seed, on_step)
    raise ValueError(f"unknown backend {backend!r}: asyncio or trio")


def virtual_clock(backend: str) -> Callable[[], float]:
    """The running loop's clock, to be read often: ``anyio.current_time`` looks for the loop first, each time."""
    if backend == "trio":
        import trio

        return trio.lowlevel.current_clock().current_time
    from ._asyncio_loop import running_clock

    return running_clock()


def _run_asyncio(
    fn: Callable[[*Ts], Awaitable[T]], args: tuple[*Ts], seed: int, on_step: Callable[[int], None] | None
) -> T:
    from anyio._backends import _asyncio as library

    from .. import handlers
    from ._asyncio_loop import VirtualTimeLoop

    with _replaced(library, "WorkerThread", _refuse_thread), _replaced(handlers, "_start_thread", _refuse_thread):
        options = {"loop_factory": partial(VirtualTimeLoop, seed, on_step)}
        return anyio.run(fn, *args, backend="asyncio", backend_options=options)


def _run_trio(
    fn: Callable[[*Ts], Awaitable[T]], args: tuple[*Ts], seed: int, on_step: Callable[[int], None] | None
) -> T:
    import trio.testing
    from trio import _threads as threads
    from trio._core import _run as scheduler  # pyright: ignore[reportPrivateUsage]

    from .. import handlers

    clock = trio.testing.MockClock(autojump_threshold=0)
    for owner, name in ((scheduler, "_r"), (scheduler, "Deadlines"), (clock, "_autojump"), (clock, "_virtual_base")):
        if not hasattr(owner, name):
            raise _gone("trio", name)
    state = scheduler._r.getstate()  # pyright: ignore[reportPrivateUsage]
    with (
        _replaced(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING", True),
        _replaced(threads, "start_thread_soon", _refuse_thread),
        _replaced(handlers, "_start_thread", _refuse_thread),
        _replaced(trio.lowlevel, "open_process", _refuser("a process")),
        _replaced(trio, "open_signal_receiver", _refuser("a signal receiver")),
    ):
        scheduler._r.seed(f"trio:{seed}")  # pyright: ignore[reportPrivateUsage]
        try:
            options = {"clock": clock, "instruments": [] if on_step is None else [_trio_steps(on_step)]}
            return anyio.run(_with_sentinel, clock, fn, args, backend="trio", backend_options=options)
        finally:
            scheduler._r.setstate(state)  # pyright: ignore[reportPrivateUsage]


@contextmanager
def _trio_without_sockets() -> Generator[None]:
    """Inside the block, in the run that enters it, no socket is made, no name looked up and no descriptor waited for.

    While a task waits for a descriptor nobody can run, so the clock would jump past what the peer does.  trio waits for
    one itself: its own socket pair, by which other threads wake it.
    """
    import trio
    from trio._core._run import GLOBAL_RUN_CONTEXT

    runner: Any = GLOBAL_RUN_CONTEXT.runner
    waits = cast("type[Any]", type(runner.io_manager))

    class Sockets(trio.abc.SocketFactory):
        def socket(self, *args: object, **kwargs: object) -> NoReturn:
            raise refuse("trio.socket.socket()")

    class Names(trio.abc.HostnameResolver):
        async def getaddrinfo(self, host: object, *args: object, **kwargs: object) -> NoReturn:
            raise refuse("trio.socket.getaddrinfo()")

        async def getnameinfo(self, sockaddr: object, flags: int) -> NoReturn:
            raise refuse("trio.socket.getnameinfo()")

    def guarded(name: str) -> Callable[[Any, Any], Awaitable[None]]:
        wait = getattr(waits, name)

        async def guard(manager: Any, descriptor: Any) -> None:
            if manager is runner.io_manager and descriptor is not runner.entry_queue.wakeup.wakeup_sock:
                raise refuse(f"trio.lowlevel.{name}()")
            await wait(manager, descriptor)

        return guard

    trio.socket.set_custom_socket_factory(Sockets())  # both hold for this run only
    trio.socket.set_custom_hostname_resolver(Names())
    with (
        _replaced(waits, "wait_readable", guarded("wait_readable")),
        _replaced(waits, "wait_writable", guarded("wait_writable")),
    ):
        yield


def _trio_steps(on_step: Callable[[int], None]) -> Any:
    """An instrument that tells of every step.  trio counts tasks through the whole process; births count from 0."""
    import trio

    class Steps(trio.abc.Instrument):
        first: int | None = None

        def before_task_step(self, task: Any) -> None:
            if self.first is None:
                self.first = task._counter
            on_step(task._counter - self.first)

    return Steps()


async def _with_sentinel(clock: Any, fn: Callable[[*Ts], Awaitable[T]], args: tuple[*Ts]) -> T:
    """``fn(*args)``, beside a system task that wakes when nobody has a nearer deadline.

    A system task and a plain scope rather than a nursery: a nursery would wrap what ``fn`` raises in a group.
    """
    import trio
    from trio._core._run import GLOBAL_RUN_CONTEXT

    error: DeadlockError | None = None
    main: Any = trio.lowlevel.current_task()
    stood_still_at = 0.0

    def jump_exactly() -> None:
        """Set the clock to the next deadline.

        MockClock's own jump adds the difference, and in floats ``now + (deadline - now)`` can be one step beside the
        deadline: found by hypothesis at 1.7611164657282643 and 524290.3373202869.  The class is final and is asked
        for by this name, hence an attribute of the instance.
        """
        nonlocal stood_still_at
        now, deadline = clock.current_time(), GLOBAL_RUN_CONTEXT.runner.deadlines.next_deadline()
        if now < deadline < math.inf:
            stood_still_at = now
            clock._virtual_base = deadline

    clock._autojump = jump_exactly
    # MockClock's own asks the real clock and multiplies by a rate, which is 0 here.
    clock.current_time = lambda: clock._virtual_base

    async def sentinel() -> None:
        nonlocal error
        await trio.sleep_until(HORIZON)
        error = deadlock(stood_still_at, _trio_lines(main))
        scope.cancel()

    with _trio_without_sockets(), trio.CancelScope() as scope:
        trio.lowlevel.spawn_system_task(sentinel)
        try:
            return await fn(*args)
        except BaseException as exc:
            if error is not None:
                raise error from exc
            raise
    assert error is not None  # the only one who cancels this scope
    raise error


def _trio_lines(main: Any) -> list[TaskLine]:
    lines: list[TaskLine] = []
    stack = [(0, main)]
    while stack:
        depth, task = stack.pop()
        lines.append(TaskLine(depth=depth, name=task.name, where=where_suspended(task.coro)))
        for nursery in task.child_nurseries:
            children = sorted(nursery.child_tasks, key=lambda child: child._counter)
            stack.extend((depth + 1, child) for child in reversed(children))
    return lines


@contextmanager
def _replaced(module: ModuleType | type, name: str, value: object) -> Generator[None]:
    """``module.name`` is ``value`` inside the block; a name that is gone is an error, not a silent loss."""
    if not hasattr(module, name):
        raise _gone(module.__name__, name)
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


def _gone(owner: str, name: str) -> VirtualTimeError:
    return VirtualTimeError(
        f"{owner} has no {name} any more, so virtual time would not be deterministic",
        hint="use releases of anyio and trio that this package is tested with: anyio 4.14 to 4.16, trio 0.32 to 0.35",
    )


def _refuser(what: str) -> Callable[..., NoReturn]:
    def refused(*args: object, **kwargs: object) -> NoReturn:
        raise refuse(what)

    return refused


_refuse_thread = _refuser("a worker thread")
