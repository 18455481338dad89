"""What is in a room, as records, and what can happen there, as events.

Both are frozen: a verb of the ledger replaces records and appends events, which carry the records as they were right
after the change.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .._bounds import ROOM_DEPARTURE_TIMEOUT, ROOM_EMPTY_TIMEOUT
from .._types import NO_ATTRIBUTES, ConnectionQuality, ParticipantPermissions
from ._enums import ParticipantKind, TrackKind, TrackSource

__all__ = [
    "DataSent",
    "LedgerEvent",
    "ParticipantChanged",
    "ParticipantEntered",
    "ParticipantGone",
    "ParticipantRecord",
    "QualityJudged",
    "RoomChanged",
    "RoomEnded",
    "RoomOpened",
    "RoomRecord",
    "SpeakersHeard",
    "TrackAdded",
    "TrackGone",
    "TrackMuteChanged",
    "TrackRecord",
]

_DEPENDENT_KINDS = (ParticipantKind.AGENT, ParticipantKind.EGRESS)


# ------------------------------------------------------------------------------------------------ records


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomRecord:
    """A room, as it was at some moment."""

    sid: str
    name: str
    metadata: str = ""
    empty_timeout: float = ROOM_EMPTY_TIMEOUT
    departure_timeout: float = ROOM_DEPARTURE_TIMEOUT
    max_participants: int = 0
    """0: no limit."""
    created_at: float = 0.0
    """Seconds since 1970."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackRecord:
    """A published track."""

    sid: str
    name: str = ""
    kind: TrackKind = TrackKind.AUDIO
    source: TrackSource = TrackSource.MICROPHONE
    muted: bool = False
    mime_type: str = "audio/red"
    simulcasted: bool = False
    width: int = 0
    height: int = 0
    audio_features: tuple[int, ...] = ()
    frame_metadata: tuple[int, ...] = ()
    encrypted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantRecord:
    """A participant."""

    sid: str
    identity: str
    name: str = ""
    metadata: str = field(default="", repr=False)
    attributes: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)
    kind: int = ParticipantKind.STANDARD
    permissions: ParticipantPermissions = field(default_factory=ParticipantPermissions, repr=False)
    joined_at: float = 0.0
    """Seconds since 1970."""
    tracks: tuple[TrackRecord, ...] = ()
    has_published: bool = False
    """Whether it has ever published on this visit."""

    @property
    def dependent(self) -> bool:
        """Does not keep a room open by itself."""
        return self.kind in _DEPENDENT_KINDS or self.permissions.agent or self.permissions.recorder


# ------------------------------------------------------------------------------------------------ events


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerEvent:
    """Root of what the ledger reports."""

    room: RoomRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomOpened(LedgerEvent):
    """The room exists now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomChanged(LedgerEvent):
    """The room's metadata changed."""

    previous_metadata: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEnded(LedgerEvent):
    """The room is gone, after its participants."""

    reason: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantEntered(LedgerEvent):
    """Somebody joined."""

    participant: ParticipantRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantGone(LedgerEvent):
    """Somebody left.  The record still lists the tracks that go with it; no ``TrackGone`` is sent for them."""

    participant: ParticipantRecord
    reason: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantChanged(LedgerEvent):
    """Name, metadata, attributes or permissions changed: compare with ``previous``."""

    participant: ParticipantRecord
    previous: ParticipantRecord
    changed_attributes: Mapping[str, str] = field(default=NO_ATTRIBUTES, repr=False)
    """New values; a removed one is ``""``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackAdded(LedgerEvent):
    """A track was published; ``first``: the participant's first on this visit."""

    participant: ParticipantRecord
    track: TrackRecord
    first: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackGone(LedgerEvent):
    """A track was unpublished; its publisher is still there."""

    participant: ParticipantRecord
    track: TrackRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackMuteChanged(LedgerEvent):
    """A track was muted or unmuted, by its publisher or by the server."""

    participant: ParticipantRecord
    track: TrackRecord
    by_server: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSent(LedgerEvent):
    """A data packet for ``receivers`` (participant sids).  ``sender`` None: the server."""

    sender: ParticipantRecord | None
    data: bytes = field(repr=False)
    topic: str
    reliable: bool
    receivers: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakersHeard(LedgerEvent):
    """Who speaks now, loudest first."""

    identities: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class QualityJudged(LedgerEvent):
    """A participant's link is judged anew."""

    participant: ParticipantRecord
    quality: ConnectionQuality
