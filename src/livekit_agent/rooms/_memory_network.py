"""Rooms in memory: how long things take, and what a network loses.

Two independent models.

:class:`Delays` is the server's and the library's own time: how long a join, an answer, an event takes.  It never
changes the order of what one participant hears (each has one line that everything queues in, and an event is never
earlier than the one before it), with one exception that a real server makes as well: it holds the news of somebody who
publishes nothing back, so that such a participant's data may come before its arrival is told.

:class:`Network` is the wire of one participant: latency, jitter, loss and reordering.  Reliable data is only late;
lossy data and media can be lost and, data, overtaken.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, TypeVar

from .._errors import ConfigError

if TYPE_CHECKING:
    from ._memory_clock import MemoryClock

__all__ = ["DELAYS", "INSTANT", "LIVEKIT_1_13", "Delays", "Line", "Network", "Wire", "Wiring", "delays_named"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delays:
    """How long what takes; all in seconds.  ``MemoryRooms(delays="livekit-1.13")`` names one of :data:`DELAYS`."""

    name: str = "instant"
    events: Mapping[str, float] = field(default_factory=lambda: MappingProxyType(dict[str, float]()))
    """By the library's name of an event or an answer."""
    other: float = 0.0
    """Every event and answer that ``events`` does not name."""
    news: float = 0.0
    """How long the arrival of somebody who publishes nothing is held back; who leaves meanwhile never was there."""
    departure: float = 0.0
    """How long a caller waits for the answer of somebody who has left."""
    counting: float = 0.0
    """How often at most the number of participants and publishers is told."""
    first_quality: float = 0.0
    """When a participant's link is first judged, after joining; 0: never by itself."""


INSTANT = Delays()
"""Everything at once.  What users' tests, ``dev`` and the demo get."""

LIVEKIT_1_13 = Delays(
    name="livekit-1.13",
    events=MappingProxyType(
        {
            "connect": 0.04,
            "publish_track": 0.004,
            "unpublish_track": 0.052,
            "track_subscribed": 0.065,
            "local_track_unpublished": 0.05,
            "set_local_metadata": 0.005,
            "set_local_name": 0.005,
            "set_local_attributes": 0.005,
            "track_unsubscribed": 0.0,
            "disconnect": 0.006,
        }
    ),
    other=0.001,
    news=3.0,
    departure=2.0,
    counting=5.0,
    first_quality=5.0,
)
"""As measured on a livekit-server 1.13.5 on the same machine.  What the simulation and the conformance suite get."""

DELAYS: Mapping[str, Delays] = MappingProxyType({delays.name: delays for delays in (INSTANT, LIVEKIT_1_13)})
"""The profiles by name."""


def delays_named(delays: Delays | str) -> Delays:
    """The profile of that name.  Raises :class:`ConfigError` for an unknown one."""
    if isinstance(delays, Delays):
        return delays
    if delays not in DELAYS:
        names = ", ".join(DELAYS)
        raise ConfigError(
            f"no delays are called {delays!r}", field="delays", source="MemoryRooms", hint=f"one of {names}"
        )
    return DELAYS[delays]


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """One participant's wire, both ways."""

    latency: float = 0.0
    """Seconds that everything takes."""
    jitter: float = 0.0
    """Up to so many seconds more, drawn for each packet and frame."""
    loss: float = 0.0
    """Share of lossy packets and of media frames that never arrive, 0 to 1."""
    reorder: float = 0.0
    """Share of lossy packets that what comes behind them may overtake, 0 to 1."""

    def __post_init__(self) -> None:
        for name in ("loss", "reorder"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is a share between 0 and 1")
        if not (0 <= self.latency < math.inf and 0 <= self.jitter < math.inf):
            raise ValueError("latency and jitter are seconds, not less than 0")

    @property
    def perfect(self) -> bool:
        """Nothing is late or lost on it."""
        return self == _PERFECT

    def loses(self, rng: random.Random) -> bool:
        """Whether it loses this one."""
        return self.loss > 0 and rng.random() < self.loss

    def overtaken(self, rng: random.Random) -> bool:
        """Whether what comes behind may overtake this one."""
        return self.reorder > 0 and rng.random() < self.reorder

    def delay(self, rng: random.Random) -> float:
        """How late this one is."""
        return self.latency + (rng.random() * self.jitter if self.jitter else 0.0)


_PERFECT = Network()


class Wiring:
    """Which wire each participant has."""

    def __init__(self, everybody: Network, rng: random.Random | None) -> None:
        self._everybody = everybody
        self._others: dict[str, Network] = {}  # participant sid -> its wire, where that differs
        self._seed = rng
        self._rng: random.Random | None = None

    @property
    def perfect(self) -> bool:
        """Nothing is late or lost on any of them."""
        return not self._others and self._everybody.perfect

    def set(self, sid: str, network: Network) -> None:
        """Give a participant another wire from now on."""
        self._others[sid] = network

    def renew(self, before: str, after: str) -> None:
        """A participant has another sid now, and the same wire."""
        if (network := self._others.pop(before, None)) is not None:
            self._others[after] = network

    def forget(self, sid: str) -> None:
        """A participant has gone."""
        self._others.pop(sid, None)

    def among(self, *sids: str) -> tuple[Network, ...]:
        """The imperfect ones of these participants' wires."""
        if self.perfect:
            return ()
        wires = (self._others.get(sid, self._everybody) for sid in sids)
        return tuple(wire for wire in wires if not wire.perfect)

    @property
    def rng(self) -> random.Random:
        """What draws losses and jitter: a generator of its own, so that a lossy wire changes no id."""
        if self._rng is None:
            self._rng = random.Random(self._seed.getrandbits(64) if self._seed is not None else None)
        return self._rng


class Wire(Generic[T]):
    """What goes to one receiver over the wires of two participants."""

    def __init__(self, clock: MemoryClock, deliver: Callable[[T], object]) -> None:
        self._clock = clock
        self._deliver = deliver
        self._line: Line[T] = Line(clock, deliver)

    def put(self, packet: T, wires: tuple[Network, ...], rng: random.Random, *, lossy: bool) -> None:
        """Deliver it at once, later, or, if it is ``lossy``, never."""
        if lossy and any(wire.loses(rng) for wire in wires):
            return
        delay = sum(wire.delay(rng) for wire in wires)
        if lossy and any(wire.overtaken(rng) for wire in wires):
            self._clock.later(delay, lambda: self._deliver(packet))
        else:
            self._line.put(packet, delay)


class Line(Generic[T]):
    """What one participant will hear, in order: an event is never earlier than the one before it."""

    def __init__(self, clock: MemoryClock, deliver: Callable[[T], object]) -> None:
        self._clock = clock
        self._deliver = deliver
        self._waiting: deque[tuple[float, T]] = deque()

    def put(self, event: T, delay: float) -> None:
        """Deliver after ``delay``, or right behind what is still waiting."""
        if not self._waiting and delay <= 0:
            self._deliver(event)
            return
        due = self._clock.now() + delay
        if self._waiting:
            self._waiting.append((max(due, self._waiting[-1][0]), event))
        else:
            self._waiting.append((due, event))
            self._clock.busy_lines[self] = None
            self._clock.later(delay, self._drain)

    def _drain(self) -> None:
        now = self._clock.now()
        while self._waiting and self._waiting[0][0] <= now:
            self._deliver(self._waiting.popleft()[1])
        if self._waiting:
            self._clock.later(self._waiting[0][0] - now, self._drain)
        else:
            self._clock.busy_lines.pop(self, None)

    def flush(self) -> None:
        """Time has ended: what waits comes now."""
        while self._waiting:
            self._deliver(self._waiting.popleft()[1])
