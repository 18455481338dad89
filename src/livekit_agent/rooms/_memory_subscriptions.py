"""Which tracks a connection to rooms in memory receives, and how much of each.

A subscription is there when somebody wants it (by itself, or asked for) and both permissions allow it: the
subscriber's own, and the publisher's for this subscriber.  What the real server does when that changes:

* Our own permission goes: the subscriptions end, with an event; it comes back: they come back.
* The publisher forbids it: no more frames, and no event.  It allows it again: the subscription ends and begins anew.
* We pause a publication: an audio stream goes on with silence, a video stream has nothing.
* A size is asked for: the smallest of the sizes sent that is large enough (``_memory_pictures``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ._enums import VideoQuality
from ._ledger_events import ParticipantRecord, TrackRecord
from ._memory_hub import LocalMedia
from ._proto import ffi, handle, track_publication
from ._proto import room as room_pb
from ._proto import track as track_pb

if TYPE_CHECKING:
    from ._memory import MemoryRooms

__all__ = ["MemoryPublication", "MemorySubscriptions"]


@dataclass(slots=True)
class MemoryPublication:
    """What a publication's handle stands for."""

    sid: str
    identity: str


@dataclass(slots=True)
class _Wishes:
    """How much of a track we want.  Outlives the subscription."""

    enabled: bool = True
    quality: VideoQuality | None = None
    dimensions: tuple[int, int] | None = None


@dataclass(slots=True)
class _Policy:
    """Who may subscribe to our tracks."""

    everybody: bool = True
    everything: dict[str, bool] = field(default_factory=dict[str, bool])
    """By identity: may have all of them."""
    tracks: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]])
    """By identity: may have these."""

    def allows(self, identity: str, sid: str) -> bool:
        """Whether somebody may have a track."""
        return (
            self.everybody or self.everything.get(identity, False) or sid in self.tracks.get(identity, frozenset[str]())
        )


class MemorySubscriptions:
    """The requests about subscriptions of one connection (a part of :class:`MemoryTransport`)."""

    _rooms: MemoryRooms
    sid: str
    room_name: str
    _identity: str
    _ended: bool
    _give: Callable[[object], handle.FfiOwnedHandle]
    _object: Callable[[int, type[Any]], Any]
    _tell: Callable[..., None]
    _sees: Callable[[ParticipantRecord], bool]
    heard: Callable[[str], None]

    def __init__(self) -> None:
        self._auto_subscribe = True
        self._subscribed: dict[str, None] = {}
        self._forbidden: dict[str, None] = {}
        """Subscribed, but its publisher has forbidden it since."""
        self._asked: dict[str, bool] = {}
        """Tracks that were asked for, or asked not to come."""
        self._wishes: dict[str, _Wishes] = {}
        self._policy = _Policy()

    # --- requests -------------------------------------------------------------------------------------------------

    def _do_set_subscribed(self, request: room_pb.SetSubscribedRequest) -> ffi.FfiResponse:
        publication: MemoryPublication = self._object(request.publication_handle, MemoryPublication)
        self._asked[publication.sid] = request.subscribe
        if not request.subscribe:
            self._unsubscribe(publication.identity, publication.sid)
        elif not self._ended:
            person = self._rooms.ledger.participant(self.room_name, publication.identity)
            for track in person.tracks if person is not None else ():
                if person is not None and track.sid == publication.sid:
                    self._subscribe(person, track)
        return ffi.FfiResponse(set_subscribed=room_pb.SetSubscribedResponse())

    def _do_enable_remote_track_publication(
        self, request: track_publication.EnableRemoteTrackPublicationRequest
    ) -> ffi.FfiResponse:
        self._wishes_for(request.track_publication_handle).enabled = request.enabled
        response = track_publication.EnableRemoteTrackPublicationResponse()
        return ffi.FfiResponse(enable_remote_track_publication=response)

    def _do_set_remote_track_publication_quality(
        self, request: track_publication.SetRemoteTrackPublicationQualityRequest
    ) -> ffi.FfiResponse:
        wishes = self._wishes_for(request.track_publication_handle)
        wishes.quality, wishes.dimensions = VideoQuality(request.quality), None
        response = track_publication.SetRemoteTrackPublicationQualityResponse()
        return ffi.FfiResponse(set_remote_track_publication_quality=response)

    def _do_update_remote_track_publication_dimension(
        self, request: track_publication.UpdateRemoteTrackPublicationDimensionRequest
    ) -> ffi.FfiResponse:
        wishes = self._wishes_for(request.track_publication_handle)
        wishes.quality, wishes.dimensions = None, (request.width, request.height)
        response = track_publication.UpdateRemoteTrackPublicationDimensionResponse()
        return ffi.FfiResponse(update_remote_track_publication_dimension=response)

    def _wishes_for(self, handle_id: int) -> _Wishes:
        publication: MemoryPublication = self._object(handle_id, MemoryPublication)
        return self._wishes.setdefault(publication.sid, _Wishes())

    def _do_set_track_subscription_permissions(
        self, request: track_pb.SetTrackSubscriptionPermissionsRequest
    ) -> ffi.FfiResponse:
        self._policy = _Policy(
            everybody=request.all_participants_allowed,
            everything={entry.participant_identity: entry.allow_all for entry in request.permissions},
            tracks={entry.participant_identity: frozenset(entry.allowed_track_sids) for entry in request.permissions},
        )
        found = self._rooms.ledger.member(self.sid)
        if found is not None and not self._ended:
            for person in self._rooms.ledger.participants(self.room_name):
                subscriber = self._rooms.connection(person.sid)
                if subscriber is not None and person.sid != self.sid:
                    subscriber.policy_changed(found[1])
        response = track_pb.SetTrackSubscriptionPermissionsResponse()
        return ffi.FfiResponse(set_track_subscription_permissions=response)

    # --- what we have ---------------------------------------------------------------------------------------------

    def hears(self, sid: str) -> bool:
        """Whether frames of that track come to us."""
        return sid in self._subscribed and sid not in self._forbidden

    def is_enabled(self, sid: str) -> bool:
        """Whether we have not paused it."""
        wishes = self._wishes.get(sid)
        return wishes is None or wishes.enabled

    def wanted_size(self, sid: str) -> tuple[VideoQuality | None, tuple[int, int] | None]:
        """The size of its pictures that we asked for: by quality, or by dimensions."""
        wishes = self._wishes.get(sid)
        return (None, None) if wishes is None else (wishes.quality, wishes.dimensions)

    def allows(self, identity: str, sid: str) -> bool:
        """Whether we let somebody have a track of ours."""
        return self._policy.allows(identity, sid)

    # --- it changes -----------------------------------------------------------------------------------------------

    def _subscribe(self, person: ParticipantRecord, track: TrackRecord) -> None:
        wanted = self._asked.get(track.sid, self._auto_subscribe)
        if not wanted or track.sid in self._subscribed or not self._may_subscribe():
            return
        publisher = self._rooms.connection(person.sid)
        if publisher is not None and not publisher.allows(self._identity, track.sid):
            return
        self._subscribed[track.sid] = None
        kind: Any = track.kind
        info = track_pb.TrackInfo(
            sid=track.sid,
            name=track.name,
            kind=kind,
            stream_state=track_pb.STATE_ACTIVE,
            muted=track.muted,
            remote=True,
        )
        owned = track_pb.OwnedTrack(handle=self._give(LocalMedia(track.name, track.sid)), info=info)
        self._tell(track_subscribed=room_pb.TrackSubscribed(participant_identity=person.identity, track=owned))
        if publisher is not None:
            publisher.heard(track.sid)

    def _unsubscribe(self, identity: str, track_sid: str) -> None:
        self._forbidden.pop(track_sid, None)
        if track_sid in self._subscribed:
            del self._subscribed[track_sid]
            gone = room_pb.TrackUnsubscribed(participant_identity=identity, track_sid=track_sid)
            self._tell(track_unsubscribed=gone)

    def _tell_encrypted(self, person: ParticipantRecord, encrypted: bool) -> None:
        changed = room_pb.ParticipantEncryptionStatusChanged(
            participant_identity=person.identity, is_encrypted=encrypted
        )
        self._tell(participant_encryption_status_changed=changed)

    def _take_back(self, person: ParticipantRecord, track: TrackRecord) -> None:
        self._unsubscribe(person.identity, track.sid)
        self._asked.pop(track.sid, None)
        self._wishes.pop(track.sid, None)
        if track.encrypted and (not person.tracks or person.tracks[-1].sid == track.sid):
            # Its last one: taken back, or going with its publisher, which still lists it then.
            self._tell_encrypted(person, False)
        gone = room_pb.TrackUnpublished(participant_identity=person.identity, publication_sid=track.sid)
        self._tell(track_unpublished=gone)

    def _may_subscribe(self) -> bool:
        # Gone from the ledger already, while the news is still on its way to us: then no.
        found = self._rooms.ledger.member(self.sid)
        return found is not None and found[1].permissions.can_subscribe

    def policy_changed(self, publisher: ParticipantRecord) -> None:
        """Somebody has said anew who may have its tracks."""
        theirs = self._rooms.connection(publisher.sid)
        for track in publisher.tracks:
            allowed = theirs is None or theirs.allows(self._identity, track.sid)
            if not allowed and track.sid in self._subscribed:
                self._forbidden[track.sid] = None
            elif allowed:
                if track.sid in self._forbidden:
                    self._unsubscribe(publisher.identity, track.sid)
                self._subscribe(publisher, track)

    def _reconsider_subscriptions(self, me: ParticipantRecord) -> None:
        for person in self._rooms.ledger.participants(self.room_name):
            if self._sees(person):
                for track in person.tracks:
                    if me.permissions.can_subscribe:
                        self._subscribe(person, track)
                    else:
                        self._unsubscribe(person.identity, track.sid)
