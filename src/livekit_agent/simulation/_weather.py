"""What a network is like under faults that overlap: each is a layer of its own, and ends by itself.

Of several latencies the greatest is in force, and when it ends the next is again; bytes are cut as long as anybody
cuts them.  A layer counts once bytes pass while it is the one in force: one that is hidden behind a stronger one until
its end had no effect.

Pure: layer 2.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["Weather"]

_CALM = 0.002
"""Seconds that a delivery takes at most when nothing is wrong."""


@dataclass(frozen=True, slots=True, eq=False)
class _Layer:
    """What one fault does."""

    latency: float
    dribble: bool
    met: Callable[[], None] | None


class Weather:
    """Latency and dribble of one network.  Both are plain attributes: they are read for every piece of bytes."""

    def __init__(self) -> None:
        self.latency = (0.0, _CALM)
        """Range of a delivery's delay, in seconds."""
        self.dribble = False
        """Whether bytes arrive in pieces of few."""
        self.waiting: tuple[Callable[[], None], ...] = ()
        """Of the layers in force: to be called, once each, when bytes meet with them."""
        self._layers: list[_Layer] = []
        self._met: list[_Layer] = []

    def begin(
        self, *, latency: float = 0.0, dribble: bool = False, met: Callable[[], None] | None = None
    ) -> Callable[[], None]:
        """A fault begins; calling what is returned ends it, at any time and as often as one likes."""
        layer = _Layer(latency, dribble, met)
        self._layers.append(layer)
        self._weigh()

        def end() -> None:
            if layer in self._layers:
                self._layers.remove(layer)
                self._weigh()

        return end

    def clear(self) -> None:
        """No fault is left."""
        self._layers.clear()
        self._weigh()

    def touch(self) -> None:
        """Bytes are sent off: the layers in force are met with."""
        waiting, self.waiting = self.waiting, ()
        self._met += self._in_force()
        for met in waiting:
            met()

    def _in_force(self) -> list[_Layer]:
        slowest = max((layer for layer in self._layers if layer.latency), key=lambda layer: layer.latency, default=None)
        cutter = next((layer for layer in self._layers if layer.dribble), None)
        return [layer for layer in (slowest, cutter) if layer is not None]

    def _weigh(self) -> None:
        layers = self._in_force()
        self._met = [layer for layer in self._met if layer in self._layers]
        self.latency = (0.0, max((layer.latency for layer in layers), default=0.0) or _CALM)
        self.dribble = any(layer.dribble for layer in layers)
        self.waiting = tuple(layer.met for layer in layers if layer.met is not None and layer not in self._met)
