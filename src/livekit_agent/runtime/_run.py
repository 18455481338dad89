"""A worker as a program: an event loop, signals, an exit code.  The only home of signals in the runtime.

Signals are counted by ``signal.signal`` handlers that wake the loop.  (An AnyIO signal receiver sees nothing while a
handler blocks the loop, and trio merges three signals into one.)  The first SIGINT or SIGTERM drains, the second
cancels, the third leaves at once.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager, suppress
from types import FrameType
from typing import Any, Literal, cast

import anyio
import anyio.lowlevel

from .._errors import (
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    HandlerDefinitionError,
    WorkerError,
    printable,
)
from ._outcome import only_leaf
from ._worker import UniversalWorker

__all__ = ["EXIT_CODES", "exit_code_of", "run", "run_in"]

#: Exit codes by error, first match counts.  The numbers are sysexits.h's.
EXIT_CODES: Mapping[type[BaseException], int] = {
    AuthenticationError: 77,
    ConfigError: 78,
    HandlerDefinitionError: 1,
    ConnectionLostError: 75,
    WorkerError: 69,
}
_INTERNAL = 70

_log = logging.getLogger("livekit_agent")


def exit_code_of(error: BaseException) -> int:
    """The documented exit code for an error that ended a worker."""
    for kind, code in EXIT_CODES.items():
        if isinstance(error, kind):
            return code
    return _INTERNAL


def run(worker: UniversalWorker, *, backend: Literal["asyncio", "trio"] = "asyncio") -> int:
    """Run a worker until it has stopped; its exit code.

    0 after a drain, 130 or 143 after a second signal; else the error's code, the error logged.  A handler that ignores
    its cancellation ends the process with 70.  A KeyboardInterrupt raised in a job gives 130; a SystemExit is raised
    again.  Call from the main thread; elsewhere signals are not handled.
    """

    @asynccontextmanager
    async def alone() -> AsyncGenerator[UniversalWorker]:
        yield worker

    return run_in(alone, backend=backend)


def run_in(
    surroundings: Callable[[], AbstractAsyncContextManager[UniversalWorker]],
    *,
    backend: Literal["asyncio", "trio"] = "asyncio",
) -> int:
    """As :func:`run`, for a worker that lives in something: an embedded server, say, which outlives the worker."""
    signals = _Signals()
    with signals.installed():
        try:
            anyio.run(_main, surroundings, signals, backend=backend)
        except BaseException as exc:
            # The program's boundary: the error becomes a log line and an exit code.
            error = _the_error(exc)
            if isinstance(error, KeyboardInterrupt):
                return 130
            if not isinstance(error, Exception):
                raise error from None
            if not signals.running:
                raise  # what surrounds the worker could not be set up: the caller's business
            code = exit_code_of(error)
            _log.error("%s: %s", type(error).__name__, error, exc_info=error if code == _INTERNAL else None)
            for note in getattr(error, "__notes__", ()):
                _log.error("%s", note)
            return code
    return signals.exit_code


def _the_error(exc: BaseException) -> BaseException:
    """What ended the run: an interrupt before any error, the only error instead of a group of one."""
    if not isinstance(exc, BaseExceptionGroup):
        return exc
    group = cast("BaseExceptionGroup[BaseException]", exc)
    interrupts, _ = group.split(lambda member: not isinstance(member, Exception | BaseExceptionGroup))
    if interrupts is None:
        return only_leaf(group)
    while isinstance(first := interrupts.exceptions[0], BaseExceptionGroup):
        interrupts = cast("BaseExceptionGroup[BaseException]", first)
    return first


async def _main(surroundings: Callable[[], AbstractAsyncContextManager[UniversalWorker]], signals: _Signals) -> None:
    with signals.wakes(anyio.lowlevel.current_token().native_token):
        async with surroundings() as worker, anyio.create_task_group() as watchers:
            signals.running = True
            # Not inside the scope that the second signal cancels: it is for what that signal leaves behind.
            watchers.start_soon(_leave_if_stuck, worker)
            with anyio.CancelScope() as life:
                watchers.start_soon(_obey, worker, signals, life)
                await worker.start()
            watchers.cancel_scope.cancel()


async def _obey(worker: UniversalWorker, signals: _Signals, scope: anyio.CancelScope) -> None:
    await signals.wait(1)
    _log.info("stopping: running jobs have %g s; a second signal cancels them", worker.options.shutdown_timeout)
    worker.request_stop()
    await signals.wait(2)
    _log.warning("cancelling the running jobs; a third signal leaves at once")
    scope.cancel()


async def _leave_if_stuck(worker: UniversalWorker) -> None:
    """When all is done but a handler that ignores its cancellation, start() would wait for ever."""
    # A start that fails at once (a second one, in another event loop) ends this here: the events are not this loop's.
    await anyio.lowlevel.checkpoint()
    stuck = await worker.wait_stuck()
    _log.error("leaving although handlers still run: %s", ", ".join(map(printable, stuck)))
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # closed, broken, or (None) not there
            stream.flush()
    logging.shutdown()
    os._exit(_INTERNAL)


class _Signals:
    """Counts SIGINT and SIGTERM."""

    def __init__(self) -> None:
        self.count = 0
        self.last = 0
        self.running = False
        """There is a worker to signal."""
        self._wake: Callable[[], object] | None = None
        self._arrived: anyio.Event | None = None

    @property
    def exit_code(self) -> int:
        """0 for at most one signal, 128 + the second's number otherwise."""
        return 0 if self.count < 2 else 128 + self.last

    @contextmanager
    def installed(self) -> Generator[None]:
        """Handle the signals inside the block."""
        if threading.current_thread() is not threading.main_thread():
            _log.info("not on the main thread: signals are not handled")
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                # None: the handler before was not installed by Python, and cannot be by it.
                signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.count += 1
        self.last = number
        if self.count >= 3:
            os._exit(128 + number)
        if self._wake is not None:
            self._wake()

    @contextmanager
    def wakes(self, native_token: Any) -> Generator[None]:
        """Wake this event loop at a signal.  trio's token and asyncio's loop differ in the method's name only."""
        post = getattr(native_token, "run_sync_soon", None) or native_token.call_soon_threadsafe
        self._arrived = anyio.Event()
        self._wake = lambda: post(self._tell)
        try:
            self._tell()  # a signal may have come before
            yield
        finally:
            self._wake = None

    def _tell(self) -> None:
        if self._arrived is not None:
            self._arrived.set()
            self._arrived = anyio.Event()

    async def wait(self, count: int) -> None:
        """Wait until so many signals have come."""
        while self.count < count:
            assert self._arrived is not None
            await self._arrived.wait()
