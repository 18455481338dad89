"""An asyncio event loop with virtual time and a schedule decided by a seed.

Theory of operation
===================

*Time.*  ``time()`` answers a number that only this loop changes: when nothing is ready, it becomes the next timer's
deadline, exactly.  There is no selector below, so nothing ever waits in reality.  A timer is due when ``when <= now``
(CPython's own loop adds its clock's resolution and so fires early); one beyond :data:`HORIZON`, above all
``anyio.sleep_forever()``, which is a timer at ``inf``, is never due.  Nothing ready and no timer left is a deadlock,
and raises with the task tree instead of hanging.

*Order.*  Virtual time alone is not deterministic: AnyIO keeps tasks and scopes in sets of objects, which iterate by
address, so a cancelled group wakes its children in another order in each process.  The cure: a task factory gives each
task a copied context that holds its birth number; a handle's context then names its owner, for tasks written in C too.
Each tick the ready handles are grouped by owner (order inside one owner kept: that is program order), the groups sorted
by birth, which erases what the sets did, and then shuffled by a generator seeded with the seed, which explores.

*Fairness.*  Every ready handle runs in its tick.  A schedule with priorities would livelock: AnyIO repeats a
cancellation with ``call_soon`` until the task has gone, and either side could starve the other.  The same repetition
means that a cancelled group which waits for a shielded child is never idle, though only time can end it; after
:data:`RETRY_TICKS` ticks that all repeated a cancellation, the clock moves on as if the loop were idle.

*The real world.*  Threads, sockets, resolver, processes and signals take real time, so all raise
:class:`~livekit_agent.simulation.RealWorldError`.

This is the only file of the package that may import asyncio.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import math
import random
import threading
import weakref
from collections.abc import Callable, Coroutine, Generator
from typing import Any, NoReturn

from ._errors import HORIZON, TaskLine, deadlock, refuse, where_suspended

__all__ = ["VirtualTimeLoop", "running_clock"]

RETRY_TICKS = 1_000
"""Ticks in a row at one instant, each repeating a cancellation, after which only time can help.

Honest work beside such a repetition is a chain of fewer steps than this; were it longer, the clock would move early,
as on a slow machine.
"""

_birth: contextvars.ContextVar[int] = contextvars.ContextVar("livekit_agent_task_birth", default=0)


class _Timer(asyncio.TimerHandle):
    """A timer handle with a total order: equal deadlines fire in the order in which they were set."""

    __slots__ = ("number",)

    def __init__(
        self,
        when: float,
        number: int,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        super().__init__(when, callback, args, loop, context)
        self.number = number

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, _Timer):
            return NotImplemented
        return (self.when(), self.number) < (other.when(), other.number)


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """See the module docstring.  Give ``functools.partial(VirtualTimeLoop, seed)`` as a ``loop_factory``."""

    # What BaseEventLoop keeps for its subclasses, as far as _run_once needs it.
    _ready: Any
    _scheduled: list[_Timer]
    _stopping: bool
    _timer_cancelled_count: int
    _thread_id: int | None

    def __init__(self, seed: int = 0, on_step: Callable[[int], None] | None = None) -> None:
        super().__init__()
        self._on_step = on_step
        self._now = 0.0
        # A text seed goes through SHA-512, so equal seeds mean equal streams in every process.
        self._rng = random.Random(f"loop:{seed}")
        self._births = 0
        self._timers_set = 0
        self._retry_ticks = 0
        self._intruder = ""
        self._tasks: weakref.WeakKeyDictionary[asyncio.Task[Any], tuple[int, int]] = weakref.WeakKeyDictionary()
        self.set_task_factory(self._new_task)  # pyright: ignore[reportArgumentType] # 3.11 stubs know fewer keywords

    # ------------------------------------------------------------------ time

    def time(self) -> float:
        """Virtual seconds since the loop was made."""
        return self._now

    def call_at(
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        """As BaseEventLoop's, but a deadline behind the horizon is not scheduled at all."""
        if self.is_closed():
            raise RuntimeError("Event loop is closed")
        if math.isnan(when):
            raise ValueError("a deadline must not be NaN")
        self._timers_set += 1
        timer = _Timer(when, self._timers_set, callback, args, self, context)
        if when < HORIZON:
            heapq.heappush(self._scheduled, timer)
            timer._scheduled = True  # pyright: ignore[reportAttributeAccessIssue] # read by the handle's cancel()
        return timer

    def _next_timer(self) -> _Timer | None:
        """The next timer that still stands; cancelled ones above it are thrown away."""
        while self._scheduled:
            timer = self._scheduled[0]
            if not timer.cancelled():
                return timer
            heapq.heappop(self._scheduled)
            timer._scheduled = False  # pyright: ignore[reportAttributeAccessIssue]
            self._timer_cancelled_count -= 1
        return None

    def _advance(self) -> None:
        """Move the clock to the next deadline."""
        timer = self._next_timer()
        if timer is None:
            raise deadlock(self._now, self._task_lines())
        self._now = max(self._now, timer.when())
        self._retry_ticks = 0

    def _due(self) -> None:
        while (timer := self._next_timer()) is not None and timer.when() <= self._now:
            heapq.heappop(self._scheduled)
            timer._scheduled = False  # pyright: ignore[reportAttributeAccessIssue]
            self._ready.append(timer)

    # ----------------------------------------------------------------- order

    def _run_once(self) -> None:
        if self._intruder:
            intruder, self._intruder = self._intruder, ""
            raise refuse(f"thread {intruder!r} called into the loop")
        self._compact()
        if not self._stopping and (not self._ready or self._retry_ticks >= RETRY_TICKS):
            self._advance()
        self._due()
        self._arrange()
        for _ in range(len(self._ready)):
            # Popped one by one: what is left when a callback raises KeyboardInterrupt runs when the loop is
            # entered again to cancel everybody.
            handle = self._ready.popleft()
            if not handle.cancelled():
                if self._on_step is not None:
                    self._on_step(handle._context.get(_birth, 0))
                handle._run()

    def _compact(self) -> None:
        """Throw cancelled timers away once they are the larger part, as BaseEventLoop does."""
        if self._timer_cancelled_count > 100 and self._timer_cancelled_count * 2 > len(self._scheduled):
            kept: list[_Timer] = []
            for timer in self._scheduled:
                if timer.cancelled():
                    timer._scheduled = False  # pyright: ignore[reportAttributeAccessIssue]
                else:
                    kept.append(timer)
            heapq.heapify(kept)
            self._scheduled = kept
            self._timer_cancelled_count = 0

    def _arrange(self) -> None:
        groups: dict[int, list[asyncio.Handle]] = {}
        repeats = False
        for handle in self._ready:
            groups.setdefault(handle._context.get(_birth, 0), []).append(handle)
            repeats = repeats or getattr(handle._callback, "__name__", "") == "_deliver_cancellation"
        self._retry_ticks = self._retry_ticks + 1 if repeats else 0
        if len(groups) > 1:
            births = sorted(groups)
            self._rng.shuffle(births)
            self._ready.clear()
            for birth in births:
                self._ready.extend(groups[birth])

    def _new_task(
        self,
        loop: asyncio.AbstractEventLoop,
        coro: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
        *,
        context: contextvars.Context | None = None,
        **kwargs: Any,
    ) -> asyncio.Task[Any]:
        # A caller's context is copied as well: two tasks that shared one would share a birth number.
        context = contextvars.copy_context() if context is None else context.copy()
        self._births += 1
        parent = _birth.get()
        context.run(_birth.set, self._births)
        task = asyncio.Task(coro, loop=loop, context=context, **kwargs)  # pyright: ignore[reportArgumentType]
        self._tasks[task] = (self._births, parent)
        return task

    def _task_lines(self) -> list[TaskLine]:
        """The living tasks as a tree, each below the one that created it."""
        living = sorted((birth, parent, task) for task, (birth, parent) in self._tasks.items() if not task.done())
        depths: dict[int, int] = {}
        children: dict[int, list[tuple[int, asyncio.Task[Any]]]] = {}
        for birth, parent, task in living:
            children.setdefault(parent if parent in depths else 0, []).append((birth, task))
            depths[birth] = depths.get(parent, -1) + 1
        lines: list[TaskLine] = []
        stack = list(reversed(children.get(0, [])))
        while stack:
            birth, task = stack.pop()
            lines.append(TaskLine(depth=depths[birth], name=task.get_name(), where=where_suspended(task.get_coro())))
            stack.extend(reversed(children.get(birth, [])))
        return lines

    # -------------------------------------------------------- the real world

    def _write_to_self(self) -> None:
        """Called by call_soon_threadsafe; there is no select to wake, but a foreign thread is news."""
        if self._thread_id is not None and self._thread_id != threading.get_ident():
            self._intruder = threading.current_thread().name

    def _process_events(self, event_list: object) -> None:
        """There is no selector, so there are no events."""

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:
        """Refused: the thread's time is not virtual."""
        raise refuse(f"run_in_executor({getattr(func, '__name__', 'function')})")


def running_clock() -> Callable[[], float]:
    """The running loop's clock."""
    return asyncio.get_running_loop().time


def _refuser(name: str) -> Callable[..., NoReturn]:
    def refused(self: VirtualTimeLoop, *args: object, **kwargs: object) -> NoReturn:
        raise refuse(f"loop.{name}()")

    refused.__name__ = name
    return refused


# Each of these would need a selector, a child watcher or a signal's wake-up descriptor.
for _name in (
    *("add_reader", "remove_reader", "add_writer", "remove_writer", "add_signal_handler", "remove_signal_handler"),
    *("sock_recv", "sock_recv_into", "sock_recvfrom", "sock_recvfrom_into", "sock_sendall", "sock_sendto"),
    *("sock_connect", "sock_accept", "sock_sendfile", "create_connection", "create_server", "create_unix_connection"),
    *("create_unix_server", "create_datagram_endpoint", "connect_read_pipe", "connect_write_pipe", "getaddrinfo"),
    *("getnameinfo", "subprocess_exec", "subprocess_shell"),
):
    setattr(VirtualTimeLoop, _name, _refuser(_name))
