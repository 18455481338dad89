"""A worker's place in a simulated world, which outlives its lives."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import anyio

from .._types import WorkerStatus
from ..protocol import JobStage, Stage
from ..runtime._jobs import Phase
from ..runtime._worker import UniversalWorker
from ._network import SimConnection
from ._scenario import WorkerPlan

__all__ = ["Seat"]


class Seat:
    """A worker's place in the world: its plan, its present life, and the network between it and the server."""

    def __init__(self, index: int, plan: WorkerPlan) -> None:
        self.index = index
        self.plan = plan
        self.type = plan.type
        """Which type its present life serves."""
        self.life = 0
        self.dials = 0
        self.worker: UniversalWorker | None = None
        self.scope: anyio.CancelScope | None = None
        self.pause = 1.0
        """Seconds between two lives."""
        self.barred = False
        """Its tokens are refused for good: it ends with AuthenticationError and does not come back."""
        self.gone = False
        self.given: Counter[str] = Counter()
        """Jobs that it was assigned, by their type."""
        self.connection: SimConnection | None = None
        self.refuse_until = self.hang_until = -math.inf
        self.refusals: list[tuple[float, int]] = []
        """(until when, with which status) upgrades are refused; of those that are not over the last one answers."""
        self.skews: list[float] = []
        """Seconds by which the clock is off, one for each fault that is not over; the last one counts."""
        self.on_dial: list[Callable[[str], None]] = []
        """Told how a dial met with a fault; how a connect fault learns that it took effect."""

    @property
    def skew(self) -> float:
        """Seconds by which the worker's clock is ahead."""
        return self.skews[-1] if self.skews else 0.0

    def refusal(self, now: float) -> int:
        """The status that an upgrade is refused with; 0 for none."""
        return next((status for until, status in reversed(self.refusals) if now < until), 0)

    @property
    def label(self) -> str:
        """``w0.2``: the second life of the first worker."""
        return f"w{self.index}.{self.life}"

    def serves(self, name: str) -> bool:
        """Whether a job of this type would be offered here."""
        worker = self.worker
        return self.type == name and worker is not None and bool(worker.worker_id) and not worker.draining

    def states(self) -> tuple[str, ...]:
        """What is going on here, in the words of the goals."""
        worker = self.worker
        if worker is None:
            return ()
        core = worker.connection_core
        states: dict[str, bool] = {
            "registering": core is not None and core.stage in (Stage.UPGRADING, Stage.OPEN, Stage.REGISTERING),
            "backoff": core is None,
            "offer in flight": bool(worker.book.offered()),
            "accepted but not assigned": worker.book.reserved > 0,
            "joining": any(job.phase is Phase.JOINING for job in worker.jobs),
            "running": any(job.phase is Phase.HANDLING for job in worker.jobs),
            "reporting": any(r.stage is JobStage.ENDED for r in worker.book.unproven()),
            "draining": worker.status is WorkerStatus.DRAINING,
        }
        return tuple(name for name, true in states.items() if true)
