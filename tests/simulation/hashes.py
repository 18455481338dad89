"""Prints the hashes of some seeds: ``python hashes.py BACKEND HOW SEEDS [NOISE]``.

HOW is ``virtual`` for the simulation as it is, ``plain`` for what it would be without its order: on trio without the
switch for deterministic scheduling, on asyncio a loop with virtual time that runs handles first in, first out.
NOISE objects are allocated first and kept, so that addresses differ.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from livekit_agent.simulation import _runtime
from livekit_agent.simulation._engine import simulate
from livekit_agent.simulation._scenario import generate


@contextmanager
def first_in_first_out() -> Iterator[None]:
    """Virtual time alone: no birth order, no shuffle."""
    from livekit_agent.simulation._asyncio_loop import VirtualTimeLoop

    def arrange(self: VirtualTimeLoop) -> None:
        repeats = any(getattr(handle._callback, "__name__", "") == "_deliver_cancellation" for handle in self._ready)
        self._retry_ticks = self._retry_ticks + 1 if repeats else 0

    with mock.patch.object(VirtualTimeLoop, "_arrange", arrange):
        yield


@contextmanager
def plain_trio() -> Iterator[None]:
    """MockClock, and trio's own choice of order."""
    replaced = _runtime._replaced

    def keep(module: object, name: str, value: object) -> object:
        return replaced(module, name, False if name == "_ALLOW_DETERMINISTIC_SCHEDULING" else value)  # type: ignore[arg-type]

    with mock.patch.object(_runtime, "_replaced", keep):
        yield


def main(backend: str, how: str, seeds: str, noise: str = "0") -> None:
    logging.disable(logging.CRITICAL)
    kept = [object() for _ in range(int(noise))] + [bytearray(size % 700) for size in range(int(noise))]
    plain = {"trio": plain_trio, "asyncio": first_in_first_out}[backend]
    for seed in range(int(seeds)):
        if how == "plain":
            with plain():
                print(simulate(generate(seed), backend=backend).digest)
        else:
            print(simulate(generate(seed), backend=backend).digest)
    del kept


if __name__ == "__main__":
    main(*sys.argv[1:])
