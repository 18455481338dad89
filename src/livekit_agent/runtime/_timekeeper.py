"""One task that keeps every deadline of jobs' code.

No deadline of ours is ever set on a scope in which a job's code runs.  On a tie, at exactly the deadline, trio would
always cancel and asyncio do either; so the rule "what has finished at the deadline has finished" needs a clock that
strikes strictly *after* it: this one sleeps until ``math.nextafter(deadline, inf)``, the first instant after, on both.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

import anyio

from .._bounds import DEAD_ENTRIES_MAX

__all__ = ["Alarm", "Timekeeper"]


class Alarm:
    """A call to come."""

    __slots__ = ("_call", "when")

    def __init__(self, when: float, call: Callable[[], object]) -> None:
        self.when = when
        self._call: Callable[[], object] | None = call

    def stop(self) -> None:
        """Never call.  Harmless afterwards."""
        self._call = None

    def ring(self) -> None:
        """Call, once."""
        call, self._call = self._call, None
        if call is not None:
            call()

    @property
    def live(self) -> bool:
        """Whether it will still call."""
        return self._call is not None


class Timekeeper:
    """Alarms, and the task that rings them.  The calls must not raise and not block.

    Most alarms are stopped long before their time (a day's ``job_timeout`` after a job of seconds), so once the stopped
    ones may be the larger part they are thrown away.
    """

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Alarm]] = []
        self._serial = 0
        self._tidy_at = DEAD_ENTRIES_MAX
        self._changed = anyio.Event()
        self._sleeps_until = math.inf

    def __len__(self) -> int:
        """How many alarms are held, stopped ones included."""
        return len(self._heap)

    def at(self, when: float, call: Callable[[], object]) -> Alarm:
        """Call at the first instant after ``when``; at once if that is past; never for ``inf``."""
        alarm = Alarm(when, call)
        if when < math.inf:
            if len(self._heap) >= self._tidy_at:
                self._heap = [entry for entry in self._heap if entry[2].live]
                heapq.heapify(self._heap)
                self._tidy_at = max(2 * len(self._heap), DEAD_ENTRIES_MAX)
            self._serial += 1
            heapq.heappush(self._heap, (when, self._serial, alarm))
            # Not whenever it is the earliest: the keeper may sleep for a stopped one, and finds this in time anyway.
            if when < self._sleeps_until:
                self._changed.set()
        return alarm

    async def run(self) -> None:
        """Ring alarms for ever."""
        while True:
            while self._heap and (not self._heap[0][2].live or self._heap[0][0] < anyio.current_time()):
                heapq.heappop(self._heap)[2].ring()
            self._changed = anyio.Event()
            self._sleeps_until = math.nextafter(self._heap[0][0], math.inf) if self._heap else math.inf
            with anyio.CancelScope(deadline=self._sleeps_until):
                await self._changed.wait()
