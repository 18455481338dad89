"""The ledger's records as the library's messages (for rooms in memory)."""

from __future__ import annotations

from typing import Any

from .._bounds import DATA_BUFFER_BYTES
from .._types import ParticipantPermissions
from ._enums import ParticipantKind, TrackKind
from ._ledger_events import ParticipantChanged, ParticipantRecord, RoomRecord, TrackRecord
from ._proto import ffi
from ._proto import participant as participant_pb
from ._proto import room as room_pb
from ._proto import track as track_pb

__all__ = [
    "callback",
    "changes_of",
    "describe_new_track",
    "participant_info",
    "permission",
    "publication_info",
    "room_info",
]

# The library numbers these two kinds differently from the server's protocol.
_KINDS: dict[int, int] = {ParticipantKind.CONNECTOR: 5, ParticipantKind.BRIDGE: 6}


def callback(kind: str, async_id: int, error: str | None = None) -> ffi.FfiEvent:
    """The callback event of a request."""
    event = ffi.FfiEvent()
    message = getattr(event, kind)
    message.async_id = async_id
    if error is not None:
        message.error = error
    return event


def permission(allowed: ParticipantPermissions) -> participant_pb.ParticipantPermission:
    """The library's permission message."""
    message = participant_pb.ParticipantPermission(
        can_subscribe=allowed.can_subscribe,
        can_publish=allowed.can_publish,
        can_publish_data=allowed.can_publish_data,
        hidden=allowed.hidden,
        can_update_metadata=allowed.can_update_metadata,
        can_subscribe_metrics=allowed.can_subscribe_metrics,
        can_manage_agent_session=allowed.can_manage_agent_session,
    )
    for source in allowed.can_publish_sources:
        message.can_publish_sources.append(source)  # pyright: ignore[reportArgumentType] - an enum's number
    return message


def describe_new_track(info: track_pb.TrackInfo, name: str, kind: TrackKind) -> None:
    """Write what the library says of a track of ours that is not published yet."""
    info.sid, info.name = "TR_unknown", name
    info.kind = kind.value  # pyright: ignore[reportAttributeAccessIssue] - an enum's number
    info.stream_state, info.muted, info.remote = track_pb.STATE_ACTIVE, False, False


def participant_info(record: ParticipantRecord, *, state: int = 2) -> participant_pb.ParticipantInfo:
    """The library's participant message; 2 is ACTIVE."""
    kind: Any = _KINDS.get(record.kind, record.kind)
    return participant_pb.ParticipantInfo(
        sid=record.sid,
        name=record.name,
        identity=record.identity,
        state=state,  # pyright: ignore[reportArgumentType] - an enum's number
        metadata=record.metadata,
        attributes=dict(record.attributes),
        kind=kind,
        disconnect_reason=participant_pb.UNKNOWN_REASON,
        joined_at=round(record.joined_at * 1000),
        permission=permission(record.permissions),
        client_protocol=0,
    )


def publication_info(record: TrackRecord, *, remote: bool) -> track_pb.TrackPublicationInfo:
    """The library's publication message."""
    return track_pb.TrackPublicationInfo(
        sid=record.sid,
        name=record.name,
        kind=record.kind,  # pyright: ignore[reportArgumentType] - an enum's number
        source=record.source,  # pyright: ignore[reportArgumentType] - an enum's number
        simulcasted=record.simulcasted,
        width=record.width,
        height=record.height,
        audio_features=record.audio_features,  # pyright: ignore[reportArgumentType] - enums' numbers
        frame_metadata_features=record.frame_metadata,  # pyright: ignore[reportArgumentType] - enums' numbers
        mime_type=record.mime_type if remote else "",
        muted=record.muted,
        remote=remote,
        encryption_type=int(record.encrypted),  # pyright: ignore[reportArgumentType] - an enum's number
    )


def room_info(record: RoomRecord, people: list[ParticipantRecord], counted: tuple[int, int]) -> room_pb.RoomInfo:
    """The library's room message; ``counted`` are participants and publishers."""
    num_participants, num_publishers = counted
    return room_pb.RoomInfo(
        sid=record.sid,
        name=record.name,
        metadata=record.metadata,
        lossy_dc_buffered_amount_low_threshold=DATA_BUFFER_BYTES,
        reliable_dc_buffered_amount_low_threshold=DATA_BUFFER_BYTES,
        empty_timeout=int(record.empty_timeout),
        departure_timeout=int(record.departure_timeout),
        max_participants=record.max_participants,
        creation_time=round(record.created_at * 1000),
        num_participants=num_participants,
        num_publishers=num_publishers,
        active_recording=any(person.permissions.recorder for person in people),
    )


def changes_of(event: ParticipantChanged) -> list[dict[str, Any]]:
    """The room events, by name, that tell a change of a participant: one for each changed field."""
    person, previous = event.participant, event.previous
    identity = person.identity
    changes: list[dict[str, Any]] = []
    if person.metadata != previous.metadata:
        metadata = room_pb.ParticipantMetadataChanged(participant_identity=identity, metadata=person.metadata)
        changes.append({"participant_metadata_changed": metadata})
    if person.name != previous.name:
        name = room_pb.ParticipantNameChanged(participant_identity=identity, name=person.name)
        changes.append({"participant_name_changed": name})
    if event.changed_attributes:
        attributes = room_pb.ParticipantAttributesChanged(
            participant_identity=identity,
            attributes=_entries(person.attributes),
            changed_attributes=_entries(event.changed_attributes),
        )
        changes.append({"participant_attributes_changed": attributes})
    if person.permissions != previous.permissions:
        allowed = room_pb.ParticipantPermissionChanged(
            participant_identity=identity, permission=permission(person.permissions)
        )
        changes.append({"participant_permission_changed": allowed})
    return changes


def _entries(values: Any) -> list[room_pb.AttributesEntry]:
    return [room_pb.AttributesEntry(key=key, value=value) for key, value in values.items()]
