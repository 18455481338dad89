"""The numbers of a room, by name.  They are the wire's.

An unknown number (a newer server's) stays a plain ``int``: :func:`known` never raises.  Pure.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

__all__ = [
    "AudioFeature",
    "ConnectionState",
    "DisconnectReason",
    "FrameMetadataKind",
    "ParticipantKind",
    "ParticipantKindDetail",
    "ParticipantState",
    "RpcCode",
    "StreamOperation",
    "TrackKind",
    "TrackSource",
    "VideoQuality",
    "known",
]

E = TypeVar("E", bound=IntEnum)


class ConnectionState(IntEnum):
    """Our connection to the room."""

    DISCONNECTED = 0
    """The room is over for us."""
    CONNECTED = 1
    RECONNECTING = 2
    """The connection broke and is being rebuilt; calls wait or fail."""


class DisconnectReason(IntEnum):
    """Why a participant, ourselves included, is no longer in the room."""

    UNKNOWN = 0
    """Also: the connection was lost for good."""
    CLIENT_INITIATED = 1
    DUPLICATE_IDENTITY = 2
    """Somebody joined with the same identity."""
    SERVER_SHUTDOWN = 3
    PARTICIPANT_REMOVED = 4
    ROOM_DELETED = 5
    STATE_MISMATCH = 6
    JOIN_FAILURE = 7
    MIGRATION = 8
    SIGNAL_CLOSE = 9
    ROOM_CLOSED = 10
    """The room was empty for too long."""
    USER_UNAVAILABLE = 11
    USER_REJECTED = 12
    SIP_TRUNK_FAILURE = 13
    CONNECTION_TIMEOUT = 14
    MEDIA_FAILURE = 15
    AGENT_ERROR = 16


class ParticipantKind(IntEnum):
    """What a participant is.  The numbers are those of the server's protocol (tokens, API)."""

    STANDARD = 0
    INGRESS = 1
    EGRESS = 2
    SIP = 3
    AGENT = 4
    CONNECTOR = 7
    BRIDGE = 8


class ParticipantKindDetail(IntEnum):
    """What kind of its kind a participant is."""

    CLOUD_AGENT = 0
    """An agent that LiveKit Cloud runs."""
    FORWARDED = 1
    """It is in another room, and forwarded to this one."""
    CONNECTOR_WHATSAPP = 2
    CONNECTOR_TWILIO = 3
    BRIDGE_RTSP = 4
    SIMULATION = 5


class ParticipantState(IntEnum):
    """How far a participant is."""

    JOINING = 0
    """Its signalling is connected."""
    JOINED = 1
    """It knows the room."""
    ACTIVE = 2
    """Its media is connected: it can receive."""
    DISCONNECTED = 3
    """It has left."""


class TrackKind(IntEnum):
    """What a track carries."""

    UNKNOWN = 0
    AUDIO = 1
    VIDEO = 2


class TrackSource(IntEnum):
    """Where a track comes from."""

    UNKNOWN = 0
    CAMERA = 1
    MICROPHONE = 2
    SCREENSHARE = 3
    SCREENSHARE_AUDIO = 4


class AudioFeature(IntEnum):
    """What a publisher says of its audio track."""

    STEREO = 0
    NO_DTX = 1
    """Silence is sent like anything else."""
    AUTO_GAIN_CONTROL = 2
    ECHO_CANCELLATION = 3
    NOISE_SUPPRESSION = 4
    ENHANCED_NOISE_CANCELLATION = 5
    PRECONNECT_BUFFER = 6
    """What was said before the publisher was connected follows as a byte stream."""


class FrameMetadataKind(IntEnum):
    """What can travel with each picture of a video track."""

    USER_TIMESTAMP = 0
    """A time of the application's."""
    FRAME_ID = 1
    """A number."""
    USER_DATA = 2
    """Bytes."""


class VideoQuality(IntEnum):
    """Which of the sizes that a publisher sends (simulcast) is wanted."""

    LOW = 0
    MEDIUM = 1
    HIGH = 2


class RpcCode(IntEnum):
    """What went wrong with a remote call.  Other numbers are the called application's own."""

    UNSUPPORTED_METHOD = 1400
    """The other side does not serve the method."""
    RECIPIENT_NOT_FOUND = 1401
    REQUEST_PAYLOAD_TOO_LARGE = 1402
    UNSUPPORTED_SERVER = 1403
    UNSUPPORTED_VERSION = 1404
    APPLICATION_ERROR = 1500
    """The handler failed, with an error that says no more."""
    CONNECTION_TIMEOUT = 1501
    """Nobody acknowledged the call: there may be no such participant."""
    RESPONSE_TIMEOUT = 1502
    """The answer did not come in time."""
    RECIPIENT_DISCONNECTED = 1503
    """The other side left, or ceased to serve the method, before it answered."""
    RESPONSE_PAYLOAD_TOO_LARGE = 1504
    SEND_FAILED = 1505
    """We have no connection."""


class StreamOperation(IntEnum):
    """What a text stream does."""

    CREATE = 0
    """A text of its own."""
    UPDATE = 1
    """A new version of the text with the same stream id."""
    DELETE = 2
    REACTION = 3
    """A reaction to the text named in ``reply_to``."""


def known(enum: type[E], number: int) -> E | int:
    """The member for ``number``, or the number itself."""
    try:
        return enum(number)
    except ValueError:
        return number
