"""Deadlines by key: a heap with lazy deletion.

Invariant: ``_when`` holds the live deadlines; heap entries that disagree with it are dead and are dropped when they
come up.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["Deadlines"]

K = TypeVar("K", bound=Hashable)


class Deadlines(Generic[K]):
    """When what is due.  Equal deadlines come in the order they were set."""

    def __init__(self) -> None:
        self._when: dict[K, float] = {}
        self._heap: list[tuple[float, int, K]] = []
        self._serial = 0

    def set(self, key: K, when: float) -> None:
        """Arm, move, or (with infinity) disarm."""
        if self._when.get(key, math.inf) == when:
            return
        if when == math.inf:
            self._when.pop(key, None)
            return
        self._when[key] = when
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, key))

    def stop(self, key: K) -> None:
        """Disarm; harmless when not armed."""
        self._when.pop(key, None)

    def next(self) -> float:
        """The earliest deadline, infinity if there is none."""
        while self._heap and self._when.get(self._heap[0][2]) != self._heap[0][0]:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> K | None:
        """What is due, disarmed; None if nothing is."""
        if self.next() > now:
            return None
        key = heapq.heappop(self._heap)[2]
        del self._when[key]
        return key
