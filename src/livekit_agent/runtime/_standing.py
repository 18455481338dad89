"""How loaded is the worker, and when does its server hear of it?

The load is worked out every ``LOAD_INTERVAL`` from a new sample of processor and memory, and at once when a place is
taken or becomes free; the core tells the server when that makes a difference.  The formula is a policy and may be the
user's own: its failure keeps the last good load, and is told.  A worker that its policy calls full while places are
free stays full until the load is a step below 1, so that a load which trembles there is not news at each sample.

Whoever wakes at an interval notices as well when the event loop stands still: a sample that is overdue is told, for
nothing else would say why offers are declined and sound stutters.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sized
from typing import TYPE_CHECKING, Any

import anyio

from .._bounds import LOAD_INTERVAL, LOOP_LATE_MAX
from .._errors import log_error
from .._options import WorkerOptions
from .._types import WorkerStats
from ..load import DefaultLoadCalculator
from ..monitoring._probe import Probe, Sample, process_probe
from ..protocol import JobBook
from ._supervisor import Supervisor

if TYPE_CHECKING:
    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["Standing"]

_FREE_AGAIN = 0.95


class Standing:
    """The worker's load."""

    def __init__(
        self,
        options: WorkerOptions,
        *,
        book: JobBook,
        jobs: Sized,
        supervisor: Supervisor,
        stats: Callable[[], WorkerStats],
        probe: Probe | None,
        log: Logger,
    ) -> None:
        self.calculator = options.load_calculator or DefaultLoadCalculator()
        self.sample = Sample()
        self.load = 0.0
        """From 0 to 1, as it was last worked out."""
        self.full = False
        """The policy takes no more, at a load of 1.  Whether all places are taken is the book's to say."""
        self.probe = probe
        self._max_jobs = options.max_jobs
        self._book = book
        self._jobs = jobs
        self._supervisor = supervisor
        self._stats = stats
        self._log = log

    async def keep(self) -> None:
        """Sample and say how it is, until cancelled."""
        probe = self.probe or process_probe()
        blind = False
        while True:
            try:
                self.sample = probe()
                blind = False
            except OSError as exc:  # no descriptor is left to read them with: the last figures stand
                if not blind:
                    self._log.warning("processor and memory cannot be read: %s", exc.strerror or type(exc).__name__)
                blind = True
            self.refresh()
            session = self._supervisor.session
            if session is not None:
                session.pump()
            began = anyio.current_time()
            await anyio.sleep(LOAD_INTERVAL)
            late = anyio.current_time() - began - LOAD_INTERVAL
            if late > LOOP_LATE_MAX:
                self._log.warning(
                    "the event loop stood still for %.1f s, and every job with it; if a handler calls something that "
                    "blocks, use anyio.to_thread.run_sync (a machine that is too busy looks the same)",
                    late,
                )

    def refresh(self) -> None:
        """Work the load out anew and tell the core; whoever calls pumps the session."""
        self.load = load = self.compute()
        # A place that becomes free counts at once: only the policy's own fullness lingers.
        self.full = not self._book.full and (load >= 1.0 or (self.full and load > _FREE_AGAIN))
        session = self._supervisor.session
        if session is not None:
            session.core.set_standing(load, self.full, anyio.current_time())

    def compute(self) -> float:
        """The load as it would be now."""
        calculator, sample = self.calculator, self.sample
        if type(calculator) is DefaultLoadCalculator:
            # Without a snapshot: at every offer, answer and end it would cost more than all the rest of the standing.
            taken = len(self._jobs) + self._book.reserved
            return calculator.load_for(taken, self._max_jobs, sample.cpu_percent, sample.memory_percent)
        try:
            load = float(calculator.calculate_load(self._stats()))
        except Exception as exc:
            # Boundary to the user's policy: its failure keeps the last good load, and is told.
            log_error(self._log, exc, "calculate_load failed; the last load stands")
            return self.load
        return self.load if math.isnan(load) else min(max(load, 0.0), 1.0)
