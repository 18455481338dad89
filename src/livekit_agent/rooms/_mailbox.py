"""Things on their way into an event loop, from any thread, with one wake-up per burst.

A deque and a flag: the first item of a burst arms the mailbox and posts one callback; the callback disarms it and
delivers everything that waits.  30,000 events cost a few thousand wake-ups instead of 30,000.

Invariant: if the deque is not empty, a drain is posted or running, or the loop is gone.  It holds without a lock
because an item is appended before the flag is read, and the flag is cleared before the deque is emptied.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, Generic, NamedTuple, TypeVar

import anyio.lowlevel
from sniffio import current_async_library_cvar  # what AnyIO asks, where trio is installed; it comes with trio

__all__ = ["LoopHandle", "Mailbox", "current_loop"]

T = TypeVar("T")


class LoopHandle(NamedTuple):
    """How to run a function in an event loop."""

    #: From any thread.  Raises RuntimeError when the loop is gone.
    post: Callable[[Callable[[], object]], object]
    #: From the loop's own thread; the same where the backend has no cheaper way.
    post_here: Callable[[Callable[[], object]], object]
    #: False once it is certain that nothing posted will run any more.
    alive: Callable[[], bool]


def current_loop() -> LoopHandle:
    """The running event loop's handle, on either backend and without importing one."""
    native: Any = anyio.lowlevel.current_token().native_token
    run_sync_soon = getattr(native, "run_sync_soon", None)
    if run_sync_soon is not None:
        # trio runs what it has accepted even while it shuts down, and raises afterwards.
        return LoopHandle(run_sync_soon, run_sync_soon, lambda: True)
    return LoopHandle(_named(native.call_soon_threadsafe), _named(native.call_soon), lambda: not native.is_closed())


def _named(call: Callable[..., object]) -> Callable[[Callable[[], object]], object]:
    """Have what is posted find AnyIO's backend, as a task would.

    AnyIO asks a context variable, then the running task.  A callback has no task, and its context is that of whoever
    posted it: a thread of the native library's has no such variable, nor has a program under ``asyncio.run``.
    """

    def post(fn: Callable[[], object]) -> object:
        context = copy_context()
        context.run(current_async_library_cvar.set, "asyncio")
        return call(fn, context=context)

    return post


class Mailbox(Generic[T]):
    """Items for one event loop, in order."""

    def __init__(
        self,
        deliver: Callable[[T], None],
        *,
        post: Callable[[Callable[[], object]], object],
        alive: Callable[[], bool] = lambda: True,
        undeliverable: Callable[[T], None] | None = None,
    ) -> None:
        self._deliver = deliver
        self._post = post
        self._alive = alive
        self._undeliverable = undeliverable
        self._waiting: deque[T] = deque()
        self._armed = False
        self._gone = False

    def __len__(self) -> int:
        """How many items wait."""
        return len(self._waiting)

    def put(self, item: T) -> None:
        """Send an item.  When the loop is gone, it and whatever still waits go to ``undeliverable`` at once."""
        self._waiting.append(item)
        if self._gone or not self._alive():
            self.give_up()
        elif not self._armed:
            self._armed = True
            try:
                self._post(self._drain)
            except RuntimeError:
                # "Event loop is closed", or trio's RunFinishedError, which is one too.
                self.give_up()

    def give_up(self) -> None:
        """The loop is gone: dispose of what waits.  Several threads may do that at once."""
        self._gone = True
        while True:
            try:
                item = self._waiting.popleft()
            except IndexError:
                return
            if self._undeliverable is not None:
                self._undeliverable(item)

    def take_oldest(self) -> T | None:
        """Take the item that has waited longest back, if one still does.  From any thread."""
        try:
            return self._waiting.popleft()
        except IndexError:
            return None

    def sweep(self) -> None:
        """Give up what was posted to a loop that has been closed without running it."""
        if self._waiting and not self._alive():
            self.give_up()

    def _drain(self) -> None:
        self._armed = False
        for _ in range(len(self._waiting)):
            try:
                item = self._waiting.popleft()
            except IndexError:
                return  # another thread has taken some back
            self._deliver(item)
