"""Who gets a job: the real server's arithmetic, as two pure functions.

A job goes to a *node* first and to a *worker* of that node second.  The node bids the sum, over its AVAILABLE workers
of the job's key, of ``max(0, target - load)``; a bid of zero never wins, so when every worker is full or at the
target load nothing is dispatched, although workers are there.  Inside the node the worker is drawn with weight
``max(0, 1 - load)`` among the AVAILABLE ones that were not asked yet; a worker above the target can win, as long as a
sibling keeps the bid above zero.  This server is one node, so the bid is only a yes or a no.

Loads come from strangers.  The real server lets one NaN silence a whole key and one -inf take every job
(docs/dispatch-server.md); here a load that is not a number from 0 up excludes its own worker and nobody else.
"""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["as_on_the_wire", "bid", "choose", "sane_load"]

T = TypeVar("T")


def sane_load(load: float) -> float:
    """``load`` as the arithmetic wants it: not negative, and infinite (never chosen) for what is no number."""
    return max(0.0, load) if math.isfinite(load) else math.inf


def as_on_the_wire(load: float) -> float:
    """``load`` in the wire's single precision: a worker that says 0.7 is then at a target of 0.7, not below it."""
    return float(struct.unpack("<f", struct.pack("<f", load))[0])


def bid(loads: Iterable[float], target: float) -> float:
    """What the node offers for a job, from the loads of its available workers."""
    return sum(max(0.0, target - sane_load(load)) for load in loads)


def choose(candidates: Sequence[tuple[T, float]], rng: random.Random) -> T | None:
    """One of ``(worker, load)``, at random by spare load; None when nobody has any."""
    weighted = [(candidate, weight) for candidate, load in candidates if (weight := 1.0 - sane_load(load)) > 0.0]
    if not weighted:
        return None
    workers, weights = zip(*weighted, strict=True)
    return rng.choices(workers, weights)[0]
