"""A room as a connection: what the server says of it, what it costs, and how to make it break in a test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anyio.lowlevel

from ._connect_options import Scenario
from ._link import Link
from ._proto import ffi, room
from ._statistics import ConnectionStatistics

if TYPE_CHECKING:
    from ._encryption import RoomEncryption
    from ._updates import Model

__all__ = ["Session", "track_statistics"]


class Session:
    """The part of :class:`Room` that is about its connection."""

    _link: Link
    _model: Model

    @property
    def num_publishers(self) -> int:
        """How many publish something, as the server counts them; lags behind."""
        return self._model.num_publishers

    @property
    def is_recording(self) -> bool:
        """Whether somebody records the room (``RecordingChanged``)."""
        return self._model.is_recording

    @property
    def created_at(self) -> float:
        """When the room was created, seconds since 1970."""
        return self._model.created_at

    @property
    def empty_timeout(self) -> float:
        """Seconds for which the server keeps the room until somebody comes."""
        return self._model.empty_timeout

    @property
    def departure_timeout(self) -> float:
        """Seconds for which the server keeps the room when everybody has left."""
        return self._model.departure_timeout

    @property
    def max_participants(self) -> int:
        """How many may come in; 0: any number."""
        return self._model.max_participants

    @property
    def token(self) -> str:
        """The newest token that the server has sent (``""`` before the first), good for joining again.  A secret."""
        return self._model.token

    @property
    def encryption(self) -> RoomEncryption:
        """Keys and states of end-to-end encryption."""
        return self._model.encryption

    async def rtc_statistics(self) -> ConnectionStatistics:
        """What WebRTC has counted until now."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        request = room.GetSessionStatsRequest(room_handle=self._link.room_handle)
        call = self._link.send(ffi.FfiRequest(get_session_stats=request))
        result = (await self._link.finish(call, "no statistics")).get_session_stats.result
        return ConnectionStatistics.of([*result.publisher_stats, *result.subscriber_stats])

    async def simulate(self, scenario: Scenario) -> None:
        """Make something happen to the connection, for tests.  Returns when it has been set going."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        kind: Any = scenario.value
        request = room.SimulateScenarioRequest(room_handle=self._link.room_handle, scenario=kind)
        call = self._link.send(ffi.FfiRequest(simulate_scenario=request))
        await self._link.finish(call, "scenario not simulated")


async def track_statistics(link: Link, track_handle: int) -> ConnectionStatistics:
    """What WebRTC has counted of one track."""
    from ._proto import track

    await anyio.lowlevel.checkpoint_if_cancelled()
    request = track.GetStatsRequest(track_handle=track_handle)
    answer = await link.finish(link.send(ffi.FfiRequest(get_stats=request)), "no statistics")
    return ConnectionStatistics.of(answer.get_stats.stats)
