"""Back-pressure for data packets: how much the connection may have been given and not have taken yet.

The library takes any number of packets into a queue of its own, without a bound, and answers each when the data
channel has taken it.  So the bytes that it owes an answer for are counted here, by kind, and who sends more waits, in
order, until they are no more than the threshold.  The same threshold is set at the data channel.

Invariant: ``pending`` is the sum of the packets that were let in and are not answered; who waits has not been let in.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import anyio

from .._bounds import DATA_BUFFER_BYTES
from ._link import Link
from ._proto import ffi, room

__all__ = ["DataGate", "DataGates"]


class DataGate:
    """The way to one data channel."""

    def __init__(self, on_low: Callable[[], None]) -> None:
        self.threshold = DATA_BUFFER_BYTES
        self.pending = 0
        self._on_low = on_low
        self._waiting: deque[tuple[anyio.Event, int]] = deque()

    async def enter(self, size: int) -> Callable[[], None]:
        """Wait until that many bytes may be given.  Returns what to call when they have been taken, once or more."""
        if self._waiting or self.pending > self.threshold:
            place = (anyio.Event(), size)
            self._waiting.append(place)
            try:
                await place[0].wait()
            except BaseException:
                if place in self._waiting:
                    self._waiting.remove(place)
                else:
                    self._leave(size)  # let in and cancelled at once: the next one may go
                raise
        else:
            self.pending += size
        inside = [size]

        def leave() -> None:
            if inside:
                self._leave(inside.pop())

        return leave

    def _leave(self, size: int) -> None:
        above = self.pending > self.threshold
        self.pending -= size
        self.let_in()
        if above and self.pending <= self.threshold:
            self._on_low()

    def let_in(self, *, everybody: bool = False) -> None:
        """Let in whoever may; ``everybody`` at the room's end, to be told of it."""
        while self._waiting and (everybody or self.pending <= self.threshold):
            event, size = self._waiting.popleft()
            self.pending += size
            event.set()


class DataGates:
    """The ways to a room's data channels: reliable and lossy."""

    def __init__(self, link: Link, on_low: Callable[[bool], None]) -> None:
        self._link = link
        self._gates = {reliable: DataGate(lambda reliable=reliable: on_low(reliable)) for reliable in (True, False)}
        link.attach(self, self._close)

    def __getitem__(self, reliable: bool) -> DataGate:
        return self._gates[reliable]

    def set_threshold(self, size: int, reliable: bool) -> None:
        """Here and at the data channel."""
        if size < 0:
            raise ValueError("a threshold is not negative")
        request = room.SetDataChannelBufferedAmountLowThresholdRequest(
            local_participant_handle=self._link.local_handle,
            threshold=size,
            kind=room.KIND_RELIABLE if reliable else room.KIND_LOSSY,
        )
        self._link.request(ffi.FfiRequest(set_data_channel_buffered_amount_low_threshold=request))
        gate = self._gates[reliable]
        gate.threshold = size
        gate.let_in()

    def _close(self) -> None:
        for gate in self._gates.values():
            gate.let_in(everybody=True)
