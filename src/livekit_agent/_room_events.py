"""What happens in a room, as values.  Public as ``livekit_agent.events``, which loads this when one of them is named.

Arrives through ``ctx.events()``, ``ctx.wait_for()`` and a handler's callbacks.  Layer 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._types import ConnectionQuality

if TYPE_CHECKING:
    from .rooms import (
        ChatMessage,
        DisconnectReason,
        EncryptionState,
        LocalParticipant,
        LocalTrackPublication,
        Participant,
        RemoteDataTrack,
        RemoteParticipant,
        RemoteTrack,
        RemoteTrackPublication,
        TranscriptionSegment,
    )

__all__ = [
    "ActiveSpeakersChanged",
    "AttributesChanged",
    "ChatReceived",
    "ConnectionQualityChanged",
    "DataBufferLow",
    "DataReceived",
    "DataTrackPublished",
    "DataTrackUnpublished",
    "Disconnected",
    "DtmfReceived",
    "EncryptionStateChanged",
    "EncryptionStatusChanged",
    "LocalTrackPublished",
    "LocalTrackRepublished",
    "LocalTrackSubscribed",
    "LocalTrackUnpublished",
    "MetadataChanged",
    "NameChanged",
    "ParticipantActive",
    "ParticipantJoined",
    "ParticipantLeft",
    "PermissionsChanged",
    "Reconnected",
    "Reconnecting",
    "RecordingChanged",
    "Rejoined",
    "RoomEvent",
    "RoomMetadataChanged",
    "RoomMoved",
    "SpeakingChanged",
    "TrackMuted",
    "TrackPublished",
    "TrackSubscribed",
    "TrackSubscriptionFailed",
    "TrackUnmuted",
    "TrackUnpublished",
    "TrackUnsubscribed",
    "TranscriptionReceived",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomEvent:
    """Root of the room events."""

    #: A droppable event may be lost to a slow consumer, oldest first and counted; the others never are.
    droppable = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantJoined(RoomEvent):
    """Somebody is in the room.  ``existing``: they were there before the agent."""

    participant: RemoteParticipant
    existing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantActive(RoomEvent):
    """Somebody's media is connected: what we send reaches them from now on."""

    participant: Participant


@dataclass(frozen=True, slots=True, kw_only=True)
class ParticipantLeft(RoomEvent):
    """Somebody left.  ``reason`` is a :class:`~livekit_agent.rooms.DisconnectReason`, or the number of a newer one."""

    participant: RemoteParticipant
    reason: DisconnectReason | int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackPublished(RoomEvent):
    """A remote track can be subscribed to.  ``existing``: it was published before the agent joined."""

    publication: RemoteTrackPublication
    participant: RemoteParticipant
    existing: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackUnpublished(RoomEvent):
    """A remote track is gone."""

    publication: RemoteTrackPublication
    participant: RemoteParticipant


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackSubscribed(RoomEvent):
    """A remote track's media arrives."""

    track: RemoteTrack
    publication: RemoteTrackPublication
    participant: RemoteParticipant


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackUnsubscribed(RoomEvent):
    """A remote track's media no longer arrives."""

    track: RemoteTrack
    publication: RemoteTrackPublication
    participant: RemoteParticipant


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackSubscriptionFailed(RoomEvent):
    """A subscription was refused."""

    track_sid: str
    participant: RemoteParticipant
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackMuted(RoomEvent):
    """A track, ours or a remote one, was muted."""

    publication: RemoteTrackPublication | LocalTrackPublication[Any]
    participant: Participant


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackUnmuted(RoomEvent):
    """A track, ours or a remote one, was unmuted."""

    publication: RemoteTrackPublication | LocalTrackPublication[Any]
    participant: Participant


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTrackPublished(RoomEvent):
    """Our own track is published."""

    publication: LocalTrackPublication[Any]
    participant: LocalParticipant


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTrackUnpublished(RoomEvent):
    """Our own track is no longer published."""

    publication: LocalTrackPublication[Any]
    participant: LocalParticipant


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTrackSubscribed(RoomEvent):
    """Somebody began to receive our own track."""

    publication: LocalTrackPublication[Any]
    participant: LocalParticipant


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalTrackRepublished(RoomEvent):
    """Our own track was published anew after a full reconnect: the same publication under a new sid."""

    publication: LocalTrackPublication[Any]
    participant: LocalParticipant
    previous_sid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DataReceived(RoomEvent):
    """A data packet.

    ``participant`` is None for data that the server sent (``identity`` is ``""``), and for data of somebody whom the
    server has not announced yet: it holds the news of one who publishes nothing back for up to 3 s.
    """

    droppable = True
    data: bytes = field(repr=False)
    participant: RemoteParticipant | None
    topic: str = ""
    reliable: bool = True
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatReceived(RoomEvent):
    """A chat message, or a new text for an earlier one (same ``message.id``, ``message.edited_at`` set).

    ``participant`` is None for somebody whom the server has not announced yet.
    """

    droppable = True
    message: ChatMessage
    participant: RemoteParticipant | None
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TranscriptionReceived(RoomEvent):
    """What was said, by ``identity`` on the track ``track_sid``."""

    droppable = True
    segments: tuple[TranscriptionSegment, ...]
    participant: Participant | None
    track_sid: str = ""
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DtmfReceived(RoomEvent):
    """Somebody pressed a telephone's key."""

    droppable = True
    digit: str
    code: int
    participant: RemoteParticipant | None
    identity: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataBufferLow(RoomEvent):
    """The connection has caught up: no more than the threshold of our data packets are still to be taken."""

    droppable = True
    reliable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTrackPublished(RoomEvent):
    """Somebody's data track can be subscribed to (``track.frames()``); also for those that were there before us.

    ``participant`` is None for somebody whom the server has not announced yet.
    """

    track: RemoteDataTrack
    participant: RemoteParticipant | None
    existing: bool = False
    """Whether it is being replayed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DataTrackUnpublished(RoomEvent):
    """Somebody's data track is gone."""

    track: RemoteDataTrack
    participant: RemoteParticipant | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActiveSpeakersChanged(RoomEvent):
    """Who speaks now, loudest first; ourselves included."""

    droppable = True
    speakers: tuple[Participant, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeakingChanged(RoomEvent):
    """A remote participant began or ceased to speak (derived from :class:`ActiveSpeakersChanged`)."""

    droppable = True
    participant: RemoteParticipant
    speaking: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionQualityChanged(RoomEvent):
    """The server judges somebody's link anew."""

    droppable = True
    participant: Participant
    quality: ConnectionQuality


@dataclass(frozen=True, slots=True, kw_only=True)
class MetadataChanged(RoomEvent):
    """A participant's metadata changed."""

    participant: Participant
    previous: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NameChanged(RoomEvent):
    """A participant's name changed."""

    participant: Participant
    previous: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AttributesChanged(RoomEvent):
    """A participant's attributes changed.  ``changed`` holds the new values; a removed one is ``""``."""

    participant: Participant
    changed: dict[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PermissionsChanged(RoomEvent):
    """A participant's permissions changed."""

    participant: Participant


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomMetadataChanged(RoomEvent):
    """The room's metadata changed."""

    previous: str = field(repr=False)
    metadata: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnecting(RoomEvent):
    """The connection to the room broke and is being rebuilt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnected(RoomEvent):
    """The connection to the room is back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejoined(RoomEvent):
    """The connection was made anew (a full reconnect): we are a new visit, with a new sid.

    Comes after :class:`Reconnected`.  Our tracks were published anew (:class:`LocalTrackRepublished`), the others have
    left and come back as seen from here, and so have we as seen by them.  A mere resume has no such event.
    """

    participant: LocalParticipant
    previous_sid: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RoomMoved(RoomEvent):
    """The server has moved us into another room: LiveKit Cloud does, when asked to (MoveParticipant); an open-source
    server answers that it has not implemented it."""

    previous_name: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordingChanged(RoomEvent):
    """Somebody began or ceased to record the room."""

    recording: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionStatusChanged(RoomEvent):
    """All that a participant publishes is encrypted end to end now, or no longer."""

    participant: Participant
    encrypted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class EncryptionStateChanged(RoomEvent):
    """What becomes of a participant's encrypted media here: decrypted, no key, wrong key; ourselves: encrypted."""

    participant: Participant
    state: EncryptionState | int


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(RoomEvent):
    """The room is over for us; the last event, exactly once.  ``reason`` as in :class:`ParticipantLeft`."""

    reason: DisconnectReason | int = 0
