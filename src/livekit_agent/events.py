"""What happens in a room and to a worker, as values.

Room events (``_room_events.py``) arrive through ``ctx.events()``, ``ctx.wait_for()`` and a handler's callbacks; worker
events (``_worker_events.py``) through ``worker.events()``.  All are frozen and in the past tense.

The room events are loaded when the first of them is named: making forty classes takes as long as a worker's whole
conversation until it is registered, and it has not seen a room by then.  Layer 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

# ruff: noqa: F403, F405 - all of both, and __all__ says which they are
from ._worker_events import *

if TYPE_CHECKING:
    from ._room_events import *

__all__ = [
    "ActiveSpeakersChanged",
    "AttributesChanged",
    "ChatReceived",
    "ConnectionLost",
    "ConnectionQualityChanged",
    "DataBufferLow",
    "DataReceived",
    "DataTrackPublished",
    "DataTrackUnpublished",
    "Disconnected",
    "Draining",
    "DtmfReceived",
    "EncryptionStateChanged",
    "EncryptionStatusChanged",
    "JobEnded",
    "JobStarted",
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
    "Registered",
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
    "WorkerEvent",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import _room_events

    value = globals()[name] = getattr(_room_events, name)
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
