"""How busy a worker says it is.

The open-source server offers jobs only to workers below 0.7 and weighs those by ``1 - load``; so the default stays
below 0.7 as long as a place is free, and says 1.0 when none is.  Pure; layer 3.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass

from ._errors import ConfigError
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

    With the default weights: 0.65 times the share of places taken, plus at most 0.04 from processor and memory; 1.0
    when every place is taken.  Without a job limit only the machine's part is left.  A weight scales its part in
    proportion to its default; with larger ones the whole is held at 0.69 while a place is free.
    """

    cpu_weight: float = 0.4
    memory_weight: float = 0.3
    job_weight: float = 0.3

    def __post_init__(self) -> None:
        faults = [
            ConfigError(f"{name}: expected a finite number, 0 or more", field=name, source="DefaultLoadCalculator")
            for name in ("cpu_weight", "memory_weight", "job_weight")
            if not _is_weight(getattr(self, name))
        ]
        if len(faults) == 1:
            raise faults[0]
        if faults:
            raise ExceptionGroup(f"{len(faults)} invalid weights", faults)

    def calculate_load(self, stats: WorkerStats) -> float:
        """See the class."""
        return self.load_for(
            stats.active_jobs + stats.reserved_jobs, stats.max_jobs, stats.cpu_percent, stats.memory_percent
        )

    def load_for(self, taken: int, places: int | None, cpu_percent: float, memory_percent: float) -> float:
        """As :meth:`calculate_load`, of the four figures that matter: with ``taken`` of ``places`` (None: no limit)."""
        if places is not None and taken >= places:
            return 1.0
        jobs, cpu, memory = self._parts(taken, places, cpu_percent, memory_percent)
        return min(jobs + cpu + memory, _BELOW_TARGET)

    def should_accept_job(self, job_type: JobType, load: float) -> bool:
        """Yes while there is load to give."""
        return load < 1.0

    def explain(self, stats: WorkerStats) -> LoadParts:
        """The load by its parts."""
        taken, places = stats.active_jobs + stats.reserved_jobs, stats.max_jobs
        jobs, cpu, memory = self._parts(taken, places, stats.cpu_percent, stats.memory_percent)
        return LoadParts(jobs=jobs, cpu=cpu, memory=memory, total=self.calculate_load(stats))

    def _parts(
        self, taken: int, places: int | None, cpu_percent: float, memory_percent: float
    ) -> tuple[float, float, float]:
        full = places is not None and taken >= places
        share = 1.0 if full else 0.0 if places is None else _unit(taken / places)
        return (
            _unit(_JOBS_PART * self.job_weight / _JOB_WEIGHT * share),
            _unit(_MACHINE_PART * self.cpu_weight / _MACHINE_WEIGHTS * _unit(cpu_percent / 100)),
            _unit(_MACHINE_PART * self.memory_weight / _MACHINE_WEIGHTS * _unit(memory_percent / 100)),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class CustomLoadCalculator:
    """Load by functions of the user's.  Without ``acceptor`` a job is taken while the load is below 1."""

    calculator: Callable[[WorkerStats], float]
    acceptor: Callable[[JobType, float], bool] | None = None

    def __post_init__(self) -> None:
        for name in ("calculator", "acceptor"):
            value = getattr(self, name)
            if not callable(value) and not (name == "acceptor" and value is None):
                raise ConfigError(f"{name}: expected a function", field=name, source="CustomLoadCalculator")
            if inspect.iscoroutinefunction(value):  # what it returns is no answer, and as a truth it would be yes
                raise ConfigError(
                    f"{name}: expected a plain function, not an async one",
                    field=name,
                    source="CustomLoadCalculator",
                    hint="it is asked on the event loop and must be quick; look things up in a task of your own",
                )

    def calculate_load(self, stats: WorkerStats) -> float:
        """Ask ``calculator``."""
        return self.calculator(stats)

    def should_accept_job(self, job_type: JobType, load: float) -> bool:
        """Ask ``acceptor``."""
        return load < 1.0 if self.acceptor is None else self.acceptor(job_type, load)


def _unit(value: float) -> float:
    """``value`` held in 0..1; a probe that gives NaN says nothing, which is 0."""
    return min(value, 1.0) if value > 0.0 else 0.0


def _is_weight(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0.0 <= value < math.inf
