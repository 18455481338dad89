"""Devices of this machine: how something that may block is asked, and which of its answers are errors of ours.

A sound system or a display may take a tenth of a second to answer, and one that hangs never does.  So it is asked in a
thread, with a deadline.  Who gives up leaves at once; the thread finds that out when it has its answer, and undoes what
it has just done.  Exactly one of the two owns the result: they agree under a lock.

One question at a time for each kind of device, because PortAudio's calls are not made for several threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, TypeVar

import anyio
import anyio.to_thread

from .._bounds import DEVICE_CLOSE_TIMEOUT, DEVICE_TIMEOUT
from .._errors import DeviceError

__all__ = ["EXTRA", "Desk", "device_library"]

T = TypeVar("T")

EXTRA = "pip install 'livekit-agent-sdk[devices]'"


def device_library(name: str, hint: str) -> Any:
    """A package of the extra, loaded when it is first needed.  Blocks: in a thread.

    Raises :class:`DeviceError` where it is missing, or what it stands on.
    """
    try:
        return import_module(name)
    except ImportError as exc:
        raise DeviceError(f"{name} is not installed", code="DEVICE_UNAVAILABLE", hint=EXTRA) from exc
    except OSError as exc:
        raise DeviceError(f"{name} cannot be loaded: {exc}", code="DEVICE_UNAVAILABLE", hint=hint) from exc


class _Answer(Generic[T]):
    """What a thread brings, and whether anybody still wants it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._given_up = False
        self._result: list[T] = []

    def bring(self, result: T) -> bool:
        """The thread has it.  False: nobody wants it any more."""
        with self._lock:
            if not self._given_up:
                self._result.append(result)
            return not self._given_up

    def give_up(self) -> list[T]:
        """Nobody waits any more.  The result, if it was brought already."""
        with self._lock:
            self._given_up = True
            return self._result


class Desk:
    """Asks one kind of device."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._turn = threading.Lock()

    async def ask(self, work: Callable[[], T], *, undo: Callable[[T], object] | None = None) -> T:
        """What ``work`` returns, which runs in a thread.

        Raises what it raises, and :class:`DeviceError` when it takes longer than ``DEVICE_TIMEOUT``.  Cancelled or
        late: a result that comes all the same goes to ``undo``, in a thread.
        """
        answer: _Answer[T] = _Answer()

        def run() -> T:
            result = self._in_turn(work)
            if not answer.bring(result) and undo is not None:
                undo(result)
            return result

        try:
            with anyio.fail_after(DEVICE_TIMEOUT):
                return await anyio.to_thread.run_sync(run, abandon_on_cancel=True)
        except TimeoutError:
            await self._undo(answer, undo)
            raise self._late() from None
        except BaseException:
            await self._undo(answer, undo)
            raise

    async def close(self, work: Callable[[], object]) -> None:
        """Run ``work`` in a thread and wait for it, also when cancelled, for at most ``DEVICE_CLOSE_TIMEOUT``."""
        # The shield protects the device: without it a cancelled block would leave it open.  Its thread goes on.
        with anyio.move_on_after(DEVICE_CLOSE_TIMEOUT, shield=True):
            await anyio.to_thread.run_sync(lambda: self._in_turn(work), abandon_on_cancel=True)

    async def _undo(self, answer: _Answer[T], undo: Callable[[T], object] | None) -> None:
        for result in answer.give_up():
            if undo is not None:
                await self.close(lambda result=result: undo(result))

    def _in_turn(self, work: Callable[[], T]) -> T:
        # With a bound, so that the threads of those who gave up end while another one hangs.
        if not self._turn.acquire(timeout=DEVICE_TIMEOUT):
            raise self._late()
        try:
            return work()
        finally:
            self._turn.release()

    def _late(self) -> DeviceError:
        return DeviceError(f"the {self._kind} did not answer within {DEVICE_TIMEOUT:g} s", code="DEVICE_TIMEOUT")
