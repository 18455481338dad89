"""What WebRTC counts of a connection and of a track, as values.

The figures that an application looks at have types of their own; everything else is in ``others``, flat, under the
names of the W3C's webrtc-stats.  One connection may serve both directions, so both are told together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from ._proto import stats

__all__ = [
    "ChannelStatistics",
    "ConnectionStatistics",
    "InboundStatistics",
    "OtherStatistics",
    "OutboundStatistics",
    "PathStatistics",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboundStatistics:
    """A track of ours on its way out."""

    kind: str
    """``audio`` or ``video``."""
    ssrc: int
    packets_sent: int
    bytes_sent: int
    frames_encoded: int
    """Of video."""
    nack_count: int
    """How often receivers asked for something again."""
    round_trip_time: float | None
    """Seconds, as the receiver reports it; None until it does."""
    fraction_lost: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundStatistics:
    """A track of somebody else's on its way in."""

    kind: str
    ssrc: int
    packets_received: int
    packets_lost: int
    bytes_received: int
    jitter: float
    """Seconds."""
    frames_decoded: int
    """Of video."""
    concealed_samples: int
    """Of audio: made up because they did not come in time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatistics:
    """A data channel: ``_reliable``, ``_lossy`` or ``_data_track``."""

    label: str
    messages_sent: int
    bytes_sent: int
    messages_received: int
    bytes_received: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PathStatistics:
    """A way between us and the server that is, or was, in use."""

    nominated: bool
    round_trip_time: float
    """Seconds."""
    bytes_sent: int
    bytes_received: int
    available_outgoing_bitrate: float
    """Bits a second, as estimated; 0 while unknown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class OtherStatistics:
    """Anything else: its kind, its id, its figures."""

    kind: str
    id: str
    values: Mapping[str, object] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionStatistics:
    """All figures of a connection, or of one track, at one moment."""

    outbound: tuple[OutboundStatistics, ...] = ()
    inbound: tuple[InboundStatistics, ...] = ()
    channels: tuple[ChannelStatistics, ...] = ()
    paths: tuple[PathStatistics, ...] = ()
    others: tuple[OtherStatistics, ...] = ()

    @property
    def round_trip_time(self) -> float | None:
        """Seconds to the server and back on the way in use; None while there is none."""
        used = [path for path in self.paths if path.nominated] or list(self.paths)
        return used[0].round_trip_time if used else None

    def channel(self, label: str) -> ChannelStatistics | None:
        """One data channel's figures."""
        return next((channel for channel in self.channels if channel.label == label), None)

    @classmethod
    def of(cls, messages: Iterable[stats.RtcStats]) -> ConnectionStatistics:
        """From the library's messages."""
        entries = list(messages)
        reports = {
            entry.remote_inbound_rtp.stream.ssrc: entry.remote_inbound_rtp.remote_inbound
            for entry in entries
            if entry.HasField("remote_inbound_rtp")
        }
        outbound: list[OutboundStatistics] = []
        inbound: list[InboundStatistics] = []
        channels: list[ChannelStatistics] = []
        paths: list[PathStatistics] = []
        others: list[OtherStatistics] = []
        for entry in entries:
            match entry.WhichOneof("stats"):
                case "outbound_rtp":
                    outbound.append(_outbound(entry.outbound_rtp, reports.get(entry.outbound_rtp.stream.ssrc)))
                case "inbound_rtp":
                    inbound.append(_inbound(entry.inbound_rtp))
                case "data_channel":
                    channels.append(_channel(entry.data_channel.dc))
                case "candidate_pair" if entry.candidate_pair.candidate_pair.bytes_sent:
                    paths.append(_path(entry.candidate_pair.candidate_pair))
                case str() as kind:
                    others.append(_other(kind, getattr(entry, kind)))
                case _:
                    pass
        return cls(
            outbound=tuple(outbound),
            inbound=tuple(inbound),
            channels=tuple(channels),
            paths=tuple(paths),
            others=tuple(others),
        )


def _outbound(
    message: stats.RtcStats.OutboundRtp, report: stats.RemoteInboundRtpStreamStats | None
) -> OutboundStatistics:
    return OutboundStatistics(
        kind=message.stream.kind,
        ssrc=message.stream.ssrc,
        packets_sent=message.sent.packets_sent,
        bytes_sent=message.sent.bytes_sent,
        frames_encoded=message.outbound.frames_encoded,
        nack_count=message.outbound.nack_count,
        round_trip_time=None if report is None else report.round_trip_time,
        fraction_lost=None if report is None else report.fraction_lost,
    )


def _inbound(message: stats.RtcStats.InboundRtp) -> InboundStatistics:
    return InboundStatistics(
        kind=message.stream.kind,
        ssrc=message.stream.ssrc,
        packets_received=message.received.packets_received,
        packets_lost=message.received.packets_lost,
        bytes_received=message.inbound.bytes_received,
        jitter=message.received.jitter,
        frames_decoded=message.inbound.frames_decoded,
        concealed_samples=message.inbound.concealed_samples,
    )


def _channel(message: stats.DataChannelStats) -> ChannelStatistics:
    return ChannelStatistics(
        label=message.label,
        messages_sent=message.messages_sent,
        bytes_sent=message.bytes_sent,
        messages_received=message.messages_received,
        bytes_received=message.bytes_received,
    )


def _path(message: stats.CandidatePairStats) -> PathStatistics:
    return PathStatistics(
        nominated=message.nominated,
        round_trip_time=message.current_round_trip_time,
        bytes_sent=message.bytes_sent,
        bytes_received=message.bytes_received,
        available_outgoing_bitrate=message.available_outgoing_bitrate,
    )


def _other(kind: str, message: Any) -> OtherStatistics:
    values: dict[str, object] = {}
    for descriptor, part in message.ListFields():
        if descriptor.name != "rtc" and hasattr(part, "ListFields"):
            values.update({inner.name: value for inner, value in part.ListFields()})
    return OtherStatistics(kind=kind, id=message.rtc.id, values=MappingProxyType(values))
