"""The numbers of a room, by name.  They are the wire's.

An unknown number (a newer server's) stays a plain ``int``: :func:`known` never raises.  Pure.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TypeVar

__all__ = [
    "ConnectionState",
    "DisconnectReason",
    "ParticipantKind",
    "RpcCode",
    "StreamOperation",
    "TrackKind",
    "TrackSource",
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
