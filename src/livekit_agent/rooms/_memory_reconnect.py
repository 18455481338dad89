"""Rooms in memory: connections that break on request, and what is counted of them.

As observed on a real server: a *resume* keeps everything as it was and takes 3 s; a *full reconnect* takes the
participant out of the room and brings it back under a new sid (``MemoryRooms.restore``), data tracks included.
"""

from __future__ import annotations

from typing import Any

from ._connect_options import Scenario
from ._enums import DisconnectReason
from ._memory_data_tracks import MemoryDataTracks
from ._memory_hub import AudioSourceState, LocalMedia
from ._proto import ffi, stats
from ._proto import room as room_pb
from ._proto import track as track_pb
from ._wire import callback

__all__ = ["MemoryReconnect"]

_RESUME_TIME = 3.0
_RECONNECT_TIME = 0.1
_SPEAKING_TIME = 3.0

_RESUMED = (Scenario.SIGNAL_RECONNECT, Scenario.DISCONNECT_SIGNAL_ON_RESUME)


class MemoryReconnect(MemoryDataTracks):
    """The requests about the connection itself."""

    _room_handle: int
    _subscribed: dict[str, None]
    _objects: dict[int, object]

    def __init__(self) -> None:
        MemoryDataTracks.__init__(self)
        self._traffic: dict[str, list[int]] = {label: [0, 0, 0, 0] for label in ("_reliable", "_lossy", "_data_track")}

    def _tell_token(self) -> None:
        raise NotImplementedError

    # --- breaking -------------------------------------------------------------------------------------------------

    def _do_simulate_scenario(self, request: room_pb.SimulateScenarioRequest) -> ffi.FfiResponse:
        self._object(request.room_handle, str)
        async_id = request.request_async_id
        scenario = Scenario(request.scenario)
        if not self._ended:
            self._answer(callback("simulate_scenario", async_id))
            if scenario in _RESUMED:
                self.reconnecting()
                self._rooms.clock.later(_RESUME_TIME, self._resume)
            elif scenario is Scenario.SPEAKER:
                self._rooms.set_speakers(self.room_name, [self._identity])
                self._rooms.clock.later(_SPEAKING_TIME, lambda: self._rooms.set_speakers(self.room_name, []))
            elif scenario is Scenario.SERVER_LEAVE:
                self._rooms.departed(self, DisconnectReason.SERVER_SHUTDOWN)  # pyright: ignore[reportArgumentType]
            else:
                self.reconnecting()
                self._rooms.clock.later(_RECONNECT_TIME, self._connect_anew)
        return ffi.FfiResponse(simulate_scenario=room_pb.SimulateScenarioResponse(async_id=async_id))

    def reconnecting(self) -> None:
        raise NotImplementedError

    def reconnected(self) -> None:
        raise NotImplementedError

    def _resume(self) -> None:
        if not self._ended:
            self._tell_token()
            self.reconnected()

    def _connect_anew(self) -> None:
        if not self._ended:
            self._rooms.restore(self.room_name, self._identity, resume=False)

    def publish_data_tracks_again(self) -> None:
        """After a full reconnect; the others have seen them go."""
        for track in self._data_tracks.values():
            track.open = True
            track.info.sid = self._rooms.ledger.new_id("DTR_")
            for hearer in self._hearers(()):
                hearer.data_track_announced(track)

    def _do_set_data_channel_buffered_amount_low_threshold(
        self, request: room_pb.SetDataChannelBufferedAmountLowThresholdRequest
    ) -> ffi.FfiResponse:
        self._object(request.local_participant_handle, str)
        changed = room_pb.DataChannelBufferedAmountLowThresholdChanged(kind=request.kind, threshold=request.threshold)
        self._tell(data_channel_low_threshold_changed=changed)
        response = room_pb.SetDataChannelBufferedAmountLowThresholdResponse()
        return ffi.FfiResponse(set_data_channel_buffered_amount_low_threshold=response)

    # --- counting -------------------------------------------------------------------------------------------------

    def _count_sent(self, label: str, size: int) -> None:
        self._traffic[label][0] += 1
        self._traffic[label][1] += size

    def _count_received(self, label: str, size: int) -> None:
        self._traffic[label][2] += 1
        self._traffic[label][3] += size

    def _do_get_session_stats(self, request: room_pb.GetSessionStatsRequest) -> ffi.FfiResponse:
        async_id = request.request_async_id
        event = callback("get_session_stats", async_id)
        result = event.get_session_stats.result
        result.SetInParent()
        for number, (label, counts) in enumerate(self._traffic.items()):
            entry = result.publisher_stats.add()
            channel = entry.data_channel.dc
            channel.label, channel.data_channel_identifier = label, 2 * number + 1
            channel.messages_sent, channel.bytes_sent = counts[:2]
            channel.messages_received, channel.bytes_received = counts[2:]
        for person in self._rooms.ledger.participants(self.room_name):
            for track in person.tracks:
                if person.sid == self.sid or track.sid in self._subscribed:
                    self._count_track(result.publisher_stats.add(), track.sid, sending=person.sid == self.sid)
        for entry in result.publisher_stats:
            _fill(entry)
        self._answer(event)
        return ffi.FfiResponse(get_session_stats=room_pb.GetSessionStatsResponse(async_id=async_id))

    def _do_get_stats(self, request: track_pb.GetStatsRequest) -> ffi.FfiResponse:
        media: LocalMedia = self._object(request.track_handle, LocalMedia)
        async_id = request.request_async_id
        event = callback("get_stats", async_id)
        entry = event.get_stats.stats.add()
        self._count_track(entry, media.sid, sending=media.source is not None)
        _fill(entry)
        self._answer(event)
        return ffi.FfiResponse(get_stats=track_pb.GetStatsResponse(async_id=async_id))

    def _count_track(self, entry: stats.RtcStats, sid: str, *, sending: bool) -> None:
        """Nothing is compressed or lost here: what was captured, in packets of a frame each, was sent and received."""
        source = self._rooms.media.source_of(sid)
        packets, size = (0, 0) if source is None else (source.packets, source.octets)
        part: Any = entry.outbound_rtp if sending else entry.inbound_rtp
        part.stream.kind = "audio" if isinstance(source, AudioSourceState) else "video"
        if sending:
            part.sent.packets_sent, part.sent.bytes_sent = packets, size
        else:
            part.received.packets_received, part.inbound.bytes_received = packets, size


def _fill(message: Any) -> None:
    """Give what must be there and was not given its default, so that the message can be written down."""
    while missing := message.FindInitializationErrors():
        for path in missing:
            *way, last = path.split(".")
            part = message
            for name in way:
                part = getattr(part, name)
            descriptor = part.DESCRIPTOR.fields_by_name[last]
            if descriptor.message_type is not None:
                getattr(part, last).SetInParent()
            else:
                setattr(part, last, descriptor.default_value)
