"""The state of a room as plain, mutable data.

What users hold (participants, publications) are read-only views over these; only ``_updates`` and
``_model_tracks`` change them, in the event loop, in the moment an event arrives.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from .._types import ConnectionQuality, ParticipantPermissions
from ._enums import (
    AudioFeature,
    FrameMetadataKind,
    ParticipantKind,
    ParticipantKindDetail,
    TrackKind,
    TrackSource,
    VideoQuality,
    known,
)
from ._enums import (
    ParticipantState as Standing,
)
from ._proto import participant as participant_pb
from ._proto import track as track_pb

if TYPE_CHECKING:
    from ._participants import RemoteParticipant
    from ._tracks import LocalTrackPublication, RemoteTrack, RemoteTrackPublication

__all__ = ["LocalState", "ParticipantState", "PublicationState", "RemoteState", "permissions_of"]

# The library numbers these two kinds differently from the server's protocol, which tokens and the API use.
_FFI_KINDS = {5: ParticipantKind.CONNECTOR, 6: ParticipantKind.BRIDGE}


@dataclass(slots=True, kw_only=True)
class PublicationState:
    """A published track."""

    sid: str
    name: str
    kind: TrackKind | int
    source: TrackSource | int
    muted: bool
    mime_type: str
    handle: int
    simulcasted: bool = False
    width: int = 0
    height: int = 0
    audio_features: tuple[AudioFeature | int, ...] = ()
    frame_metadata: tuple[FrameMetadataKind | int, ...] = ()
    encryption: int = 0
    """The wire's number of how it is encrypted."""
    track: RemoteTrack | None = None
    """The subscribed remote track; always None for our own."""
    track_handle: int = 0
    published: bool = True
    """False once it was taken back."""
    enabled: bool = True
    """Whether we let its media come, while subscribed."""
    quality: VideoQuality | None = None
    """What we asked for."""
    dimensions: tuple[int, int] | None = None
    """What we asked for."""

    @classmethod
    def of(cls, owned: track_pb.OwnedTrackPublication) -> PublicationState:
        """From the library's message.  The caller owns the handle."""
        state = cls(sid="", name="", kind=0, source=0, muted=False, mime_type="", handle=owned.handle.id)
        state.refresh(owned.info)
        return state

    def refresh(self, info: track_pb.TrackPublicationInfo) -> None:
        """Take over what the library says of it now."""
        self.sid = info.sid
        self.name = info.name
        self.kind = known(TrackKind, info.kind)
        self.source = known(TrackSource, info.source)
        self.muted = info.muted
        self.mime_type = info.mime_type
        self.simulcasted = info.simulcasted
        self.width = info.width
        self.height = info.height
        self.audio_features = tuple(known(AudioFeature, feature) for feature in info.audio_features)
        self.frame_metadata = tuple(known(FrameMetadataKind, kind) for kind in info.frame_metadata_features)
        self.encryption = info.encryption_type


@dataclass(slots=True, kw_only=True)
class ParticipantState:
    """A participant, local or remote."""

    sid: str = ""
    identity: str = ""
    name: str = ""
    metadata: str = ""
    attributes: dict[str, str] = field(default_factory=dict[str, str])
    kind: ParticipantKind | int = ParticipantKind.STANDARD
    kind_details: tuple[ParticipantKindDetail | int, ...] = ()
    standing: Standing | int = Standing.JOINING
    """How far it is."""
    permissions: ParticipantPermissions = field(default_factory=ParticipantPermissions)
    joined_at: float = 0.0
    is_speaking: bool = False
    last_spoke_at: float | None = None
    """On the event loop's clock; of somebody who speaks, when it began."""
    encrypted: bool = False
    quality: ConnectionQuality | None = None
    publications: dict[str, PublicationState] = field(default_factory=dict[str, PublicationState])

    def refresh(self, info: participant_pb.ParticipantInfo) -> None:
        """Take over what has no change event of its own.

        Name, metadata and attributes have one, which may come after this and needs the previous value.
        """
        self.sid = info.sid
        self.kind = _FFI_KINDS.get(info.kind) or known(ParticipantKind, info.kind)
        self.kind_details = tuple(known(ParticipantKindDetail, detail) for detail in info.kind_details)
        # Never back: the callback that says how everybody is may be older than the event that somebody is active.
        self.standing = max(self.standing, known(Standing, info.state))
        if info.joined_at:
            self.joined_at = info.joined_at / 1000

    def read(self, info: participant_pb.ParticipantInfo) -> None:
        """Take over everything."""
        self.refresh(info)
        self.identity = info.identity
        self.name = info.name
        self.metadata = info.metadata
        self.attributes = dict(info.attributes)
        if info.HasField("permission"):
            self.permissions = permissions_of(info.permission)


@dataclass(slots=True, kw_only=True)
class LocalState(ParticipantState):
    """Ourselves."""

    views: dict[str, LocalTrackPublication[Any]] = field(default_factory=dict[str, "LocalTrackPublication[Any]"])

    @classmethod
    def of(cls, info: participant_pb.ParticipantInfo) -> LocalState:
        """From the library's message."""
        state = cls()
        state.read(info)
        return state


@dataclass(slots=True, kw_only=True)
class RemoteState(ParticipantState):
    """Somebody else."""

    handle: int
    views: dict[str, RemoteTrackPublication] = field(default_factory=dict[str, "RemoteTrackPublication"])
    view: RemoteParticipant = field(init=False)

    @classmethod
    def of(cls, owned: participant_pb.OwnedParticipant) -> RemoteState:
        """From the library's message.  The caller owns the handle."""
        state = cls(handle=owned.handle.id)
        state.read(owned.info)
        return state


def permissions_of(permission: participant_pb.ParticipantPermission) -> ParticipantPermissions:
    """The library's permission message as our value (it does not tell ``agent`` and ``recorder``)."""
    return ParticipantPermissions(
        can_subscribe=permission.can_subscribe,
        can_publish=permission.can_publish,
        can_publish_data=permission.can_publish_data,
        can_update_metadata=permission.can_update_metadata,
        can_subscribe_metrics=permission.can_subscribe_metrics,
        can_manage_agent_session=permission.can_manage_agent_session,
        hidden=permission.hidden,
        can_publish_sources=tuple(permission.can_publish_sources),
    )
