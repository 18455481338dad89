"""What this process uses of what it may use.  The only home of psutil.

A probe is a callable that returns a :class:`Sample`; the runtime takes one as an argument so that a simulation can
bring its own.  psutil is imported when the first probe is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Probe", "Sample", "process_probe"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look at the process."""

    cpu_percent: float = 0.0
    """Processor time since the last look, of all this process may run on, 0..100."""
    memory_percent: float = 0.0
    """Resident memory, of the machine's, 0..100."""
    memory_mb: float = 0.0


Probe = Callable[[], Sample]


def process_probe() -> Probe:
    """A probe of this process.  Takes tens of microseconds, sleeps never, starts no thread.

    It may raise OSError, at the first look as at a later one: figures may be out of reach (a container without /proc,
    no descriptor left) and within it again.
    """
    import psutil

    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    process: psutil.Process | None = None
    total = 0

    def probe() -> Sample:
        nonlocal process, total
        try:
            if process is None:
                total = psutil.virtual_memory().total
                process = psutil.Process()
                process.cpu_percent(None)  # the first call sets the mark that the next one measures from
            resident = process.memory_info().rss
            busy = process.cpu_percent(None)
        except psutil.Error as exc:
            raise OSError(None, str(exc)) from exc
        return Sample(
            cpu_percent=min(busy / processors, 100.0),
            memory_percent=100.0 * resident / total,
            memory_mb=resident / 2**20,
        )

    return probe
