"""How busy a worker says it is.

The open-source server offers jobs only to workers below 0.7 and weighs those by ``1 - load``; so the default stays below
0.7 as long as a place is free, and says 1.0 when none is.  Pure; layer 3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ._options import LoadCalculator
from ._types import JobType, WorkerStats

__all__ = ["CustomLoadCalculator", "DefaultLoadCalculator", "LoadCalculator", "LoadParts"]

_JOBS_PART = 0.65
_MACHINE_PART = 0.04
_BELOW_TARGET = 0.69
_JOB_WEIGHT = 0.3
_MACHINE_WEIGHTS = 0.7


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadParts:
    """What a load is made of."""

    jobs: float
    cpu: float
    memory: float
    total: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DefaultLoadCalculator:
    """Jobs first, the machine as a tie-breaker.

    With the default weights: 0.65 times the share of places taken, plus at most 0.04 from processor and memory; 1.0 when
    every place is taken.  Without a job limit only the machine's part is left.  A weight scales its part in proportion
    to its default.
    """

    cpu_weight: float = 0.4
    memory_weight: float = 0.3
    job_weight: float = 0.3

    def calculate_load(self, stats: WorkerStats) -> float:
        """See the class."""
        return self.explain(stats).total

    def should_accept_job(self, job_type: JobType, load: float) -> bool:
        """Yes while there is load to give."""
        return load < 1.0

    def explain(self, stats: WorkerStats) -> LoadParts:
        """The load by its parts."""
        taken = stats.active_jobs + stats.reserved_jobs
        places = stats.max_jobs
        cpu = _MACHINE_PART * self.cpu_weight / _MACHINE_WEIGHTS * _unit(stats.cpu_percent / 100)
        memory = _MACHINE_PART * self.memory_weight / _MACHINE_WEIGHTS * _unit(stats.memory_percent / 100)
        jobs = 0.0 if places is None else _JOBS_PART * self.job_weight / _JOB_WEIGHT * _unit(taken / places)
        if places is not None and taken >= places:
            return LoadParts(jobs=jobs, cpu=cpu, memory=memory, total=1.0)
        return LoadParts(jobs=jobs, cpu=cpu, memory=memory, total=min(jobs + cpu + memory, _BELOW_TARGET))


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomLoadCalculator:
    """Load by functions of the user's.  Without ``acceptor`` a job is taken while the load is below 1."""

    calculator: Callable[[WorkerStats], float]
    acceptor: Callable[[JobType, float], bool] | None = None

    def calculate_load(self, stats: WorkerStats) -> float:
        """Ask ``calculator``."""
        return self.calculator(stats)

    def should_accept_job(self, job_type: JobType, load: float) -> bool:
        """Ask ``acceptor``."""
        return load < 1.0 if self.acceptor is None else self.acceptor(job_type, load)


def _unit(value: float) -> float:
    return min(max(value, 0.0), 1.0)
