"""Other people's tracks: which are published, and which of them this room receives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from .. import events
from .._errors import RoomError
from .._types import AutoSubscribe
from ._enums import TrackKind, known
from ._link import Link
from ._model import PublicationState, RemoteState
from ._proto import room as room_pb
from ._proto import track as track_pb
from ._tracks import RemoteTrack, RemoteTrackPublication

__all__ = ["RemoteTracks"]

_WANTED_KINDS = {AutoSubscribe.AUDIO: TrackKind.AUDIO, AutoSubscribe.VIDEO: TrackKind.VIDEO}


class RemoteTracks:
    """The part of the model about them.

    :param remote: the others, by identity; the model's own.
    """

    def __init__(
        self,
        link: Link,
        remote: Mapping[str, RemoteState],
        emit: Callable[[events.RoomEvent], None],
        auto_subscribe: AutoSubscribe,
    ) -> None:
        self._link = link
        self._remote = remote
        self._emit = emit
        # The library knows everything or nothing; what is in between is asked for, track by track.
        self._wanted_kind = _WANTED_KINDS.get(auto_subscribe)

    def add(self, state: RemoteState, owned: track_pb.OwnedTrackPublication) -> RemoteTrackPublication:
        """A publication that is known now."""
        publication = PublicationState.of(owned)
        self._link.own(publication.handle)
        state.publications[publication.sid] = publication
        view = RemoteTrackPublication(publication, self._link, state.view)
        state.views[publication.sid] = view
        return view

    def remove(self, state: RemoteState, sid: str) -> None:
        """One that is no more, with its subscription."""
        publication = state.publications.pop(sid, None)
        if publication is None:
            return
        publication.published = False
        view = state.views.pop(sid)
        self._unsubscribe(state, publication, view)
        self._link.drop(publication.handle)
        self._emit(events.TrackUnpublished(publication=view, participant=state.view))

    def _unsubscribe(self, state: RemoteState, publication: PublicationState, view: RemoteTrackPublication) -> None:
        track, publication.track = publication.track, None
        if track is not None:
            handle_id = track.handle
            track.end()
            self._link.drop(handle_id)
            self._emit(events.TrackUnsubscribed(track=track, publication=view, participant=state.view))

    def on_track_published(self, event: room_pb.RoomEvent) -> None:
        """It is there, or (after a resume) has another handle."""
        owned = event.track_published.publication
        state = self._remote.get(event.track_published.participant_identity)
        if state is None:
            self._link.transport.drop(owned.handle.id)
            return
        publication = state.publications.get(owned.info.sid)
        if publication is not None:
            self._link.drop(publication.handle)
            publication.handle = self._link.own(owned.handle.id)
            publication.refresh(owned.info)
            return
        view = self.add(state, owned)
        self._emit(events.TrackPublished(publication=view, participant=state.view))
        self._subscribe_if_wanted(view)

    def ready(self) -> None:
        """The library tells us what happens from now on: subscribe to what is there already."""
        for state in self._remote.values():
            for view in state.views.values():
                self._subscribe_if_wanted(view)

    def _subscribe_if_wanted(self, view: RemoteTrackPublication) -> None:
        if self._wanted_kind is not None and view.kind == self._wanted_kind:
            # Rejected: its publisher is gone already, which is told next.
            with suppress(RoomError):
                view.set_subscribed(True)

    def on_track_unpublished(self, event: room_pb.RoomEvent) -> None:
        """It is gone."""
        state = self._remote.get(event.track_unpublished.participant_identity)
        if state is not None:
            self.remove(state, event.track_unpublished.publication_sid)

    def on_track_subscribed(self, event: room_pb.RoomEvent) -> None:
        """Its frames come."""
        owned = event.track_subscribed.track
        state = self._remote.get(event.track_subscribed.participant_identity)
        if state is None:
            self._link.transport.drop(owned.handle.id)
            return
        info = owned.info
        publication = state.publications.get(info.sid)
        if publication is None:
            # After a reconnect the subscription may come first; the publication's own event completes it.
            stub = track_pb.TrackPublicationInfo(
                sid=info.sid, name=info.name, kind=info.kind, muted=info.muted, remote=True
            )
            view = self.add(state, track_pb.OwnedTrackPublication(info=stub))
            publication = state.publications[info.sid]
            self._emit(events.TrackPublished(publication=view, participant=state.view))
        view = state.views[info.sid]
        self._unsubscribe(state, publication, view)
        track = RemoteTrack(
            info.sid,
            info.name,
            known(TrackKind, info.kind),
            self._link.own(owned.handle.id),
            self._link,
            encrypted=publication.encryption != 0,
        )
        publication.track = track
        self._emit(events.TrackSubscribed(track=track, publication=view, participant=state.view))

    def on_track_unsubscribed(self, event: room_pb.RoomEvent) -> None:
        """They come no more."""
        gone = event.track_unsubscribed
        state = self._remote.get(gone.participant_identity)
        if state is not None and gone.track_sid in state.publications:
            self._unsubscribe(state, state.publications[gone.track_sid], state.views[gone.track_sid])

    def on_track_subscription_failed(self, event: room_pb.RoomEvent) -> None:
        """They will not come."""
        failed = event.track_subscription_failed
        state = self._remote.get(failed.participant_identity)
        if state is not None:
            self._emit(
                events.TrackSubscriptionFailed(track_sid=failed.track_sid, participant=state.view, error=failed.error)
            )
