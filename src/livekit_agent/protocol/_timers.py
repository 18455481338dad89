"""All deadlines of a connection, as data.

Nothing in the core sleeps or compares timestamps elsewhere: whoever drives it sleeps until ``next_deadline`` and calls
``handle_timeout(now)``, which takes what is due from here.  Spurious calls are harmless.
"""

from __future__ import annotations

import heapq
import math
from enum import auto

from .._bounds import DEAD_ENTRIES_MAX
from ._state import Word

__all__ = ["Timer", "TimerTable"]


class Timer(Word):
    """What a deadline is for.  Each member says when it fires and what happens then."""

    HANDSHAKE = auto()
    """The server has not finished its answer to the upgrade request: give up."""
    REGISTER = auto()
    """No register response (worker), or no register request (server): give up."""
    SILENCE = auto()
    """Nothing was received for a while: first ping, then give the connection up."""
    KEEPALIVE = auto()
    """The server's WebSocket ping is due."""
    CLOSE = auto()
    """Our Close frame was not echoed: end without it."""
    ANSWER = auto()
    """An offer is unanswered: decline it."""
    ASSIGNMENT = auto()
    """An accepted offer was not assigned: release its reservation."""
    SETTLE = auto()
    """The server has surely recorded the job by now: send its final status."""


Key = tuple[Timer, str]


class TimerTable:
    """Deadlines by (timer, job id); the job id is empty for timers of the connection.

    A heap with lazy deletion: a worker may hold 10,000 timers, and the earliest is asked for after every call.
    Invariant: ``_armed`` holds each live deadline with the serial number of its setting; heap entries whose serial is
    not there are dead.
    """

    def __init__(self) -> None:
        self._armed: dict[Key, tuple[float, int]] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._serial = 0

    def set(self, timer: Timer, when: float, job_id: str = "") -> None:
        """Arm, or move."""
        key = (timer, job_id)
        self._serial += 1
        self._armed[key] = (when, self._serial)
        if when < math.inf:
            heapq.heappush(self._heap, (when, self._serial, key))
        if len(self._heap) > 2 * len(self._armed) + DEAD_ENTRIES_MAX:
            # Each answered offer leaves two dead entries for seconds; a flood of them must not pile up.
            self._heap = [entry for entry in self._heap if self._lives(entry)]
            heapq.heapify(self._heap)

    def stop(self, timer: Timer, job_id: str = "") -> bool:
        """Disarm; whether it was armed."""
        return self._armed.pop((timer, job_id), None) is not None

    def clear(self) -> None:
        """Disarm everything."""
        self._armed.clear()
        self._heap.clear()

    def next_deadline(self) -> float:
        """The earliest deadline, ``inf`` if there is none."""
        self._prune()
        return self._heap[0][0] if self._heap else math.inf

    def pop_due(self, now: float) -> Key | None:
        """The earliest timer that is due, disarmed; None if none is.

        Equal deadlines come in the order they were set.
        """
        self._prune()
        if self._heap and self._heap[0][0] <= now:
            key = heapq.heappop(self._heap)[2]
            del self._armed[key]
            return key
        return None

    def _lives(self, entry: tuple[float, int, Key]) -> bool:
        return self._armed.get(entry[2]) == entry[:2]

    def _prune(self) -> None:
        while self._heap and not self._lives(self._heap[0]):
            heapq.heappop(self._heap)
