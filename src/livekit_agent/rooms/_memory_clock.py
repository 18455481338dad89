"""Rooms in memory: what takes time by itself, and the one task that waits for it.

Rooms that close when empty, latency and pacing need somebody who sleeps: a service, which outlives the body of
``async with MemoryRooms()`` so that rooms can be left at its end.  Under virtual time everything is due at an exact
instant; what is due at the same one comes in the order in which it was asked for.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import anyio

from .._errors import RoomError

if TYPE_CHECKING:
    from ._memory_network import Line

__all__ = ["MemoryClock"]


class MemoryClock:
    """Actions to come.

    :param next_deadline: when the rooms want to be looked at without having asked; ``inf`` for never.
    :param look: look at them.
    """

    def __init__(self, next_deadline: Callable[[], float], look: Callable[[float], None]) -> None:
        self.running = False
        """Whether time passes: inside ``async with``."""
        self.busy_lines: dict[Line[Any], None] = {}
        """The lines in which something waits."""
        self._next_deadline = next_deadline
        self._look = look
        self._actions: list[tuple[float, int, Callable[[], object]]] = []
        self._serial = 0
        self._wake: anyio.Event | None = None
        self._sleeping_until = math.inf

    def now(self) -> float:
        """The event loop's clock."""
        return anyio.current_time()

    def later(self, delay: float, action: Callable[[], object]) -> None:
        """Do something later.  Raises :class:`RoomError` where no time passes."""
        if not self.running:
            raise RoomError("this takes time", hint="use `async with MemoryRooms() as rooms:`")
        self._serial += 1
        heapq.heappush(self._actions, (self.now() + delay, self._serial, action))
        self.rearm()

    def rearm(self) -> None:
        """Wake the service if something is due before it would wake by itself."""
        if self._wake is not None and self._next_due() < self._sleeping_until:
            self._wake.set()

    def _next_due(self) -> float:
        return min(self._actions[0][0] if self._actions else math.inf, self._next_deadline())

    @asynccontextmanager
    async def started(self) -> AsyncGenerator[None]:
        """Time passes inside the block."""
        # A service group: its one child outlives the body, also under cancellation, so that rooms can be left.
        service = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as group:
            self.running = True
            group.start_soon(self._serve, service)
            try:
                yield
            finally:
                for line in list(self.busy_lines):
                    line.flush()
                self.running = False
                service.cancel()

    async def _serve(self, service: anyio.CancelScope) -> None:
        """Sleep until something is due; do it."""
        with service:
            while True:
                now = self.now()
                while self._actions and self._actions[0][0] <= now:
                    heapq.heappop(self._actions)[2]()
                self._look(now)
                # No checkpoint from here to the wait: a deadline set meanwhile cannot be missed.
                self._wake = anyio.Event()
                self._sleeping_until = self._next_due()
                with anyio.CancelScope(deadline=self._sleeping_until):
                    await self._wake.wait()
                self._wake = None
