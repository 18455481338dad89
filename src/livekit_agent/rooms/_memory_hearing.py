"""What one participant in rooms in memory hears of what happens: the ledger's events as the library's.

The order of events is the one observed on a real livekit-server 1.13.5 through the real library.
"""

from __future__ import annotations

from typing import Any

from ._ledger_events import (
    DataSent,
    LedgerEvent,
    ParticipantChanged,
    ParticipantEntered,
    ParticipantGone,
    ParticipantRecord,
    QualityJudged,
    RoomChanged,
    RoomRecord,
    SpeakersHeard,
    TrackAdded,
    TrackGone,
    TrackMuteChanged,
    TrackRecord,
)
from ._memory_encryption import MemoryEncryption
from ._memory_network import Wire
from ._memory_news import News
from ._memory_reconnect import MemoryReconnect
from ._memory_rpc import MemoryRpc
from ._memory_streams import MemoryStreams
from ._memory_subscriptions import MemoryPublication, MemorySubscriptions
from ._proto import participant as participant_pb
from ._proto import room as room_pb
from ._proto import track as track_pb
from ._wire import changes_of, participant_info, publication_info

__all__ = ["MemoryHearing"]


class MemoryHearing(MemoryRpc, MemoryStreams, MemoryReconnect, MemoryEncryption, MemorySubscriptions):
    """The ears of one connection (a part of :class:`MemoryTransport`)."""

    def __init__(self) -> None:
        MemoryRpc.__init__(self)
        MemoryStreams.__init__(self)
        MemoryReconnect.__init__(self)
        MemoryEncryption.__init__(self)
        MemorySubscriptions.__init__(self)
        clock = self._rooms.clock
        self._news = News(clock, self._rooms.delays.news, self._hear_late)
        self._reliable: Wire[DataSent] = Wire(clock, self._tell_data)
        self._lossy: Wire[DataSent] = Wire(clock, self._tell_data)
        self._republished: dict[str, None] = {}
        """Tracks of ours under the sids that they got when the connection was made anew."""

    def end(self, reason: int, tracks: tuple[TrackRecord, ...] = ()) -> None:
        """The room is over for us."""
        raise NotImplementedError

    def hear(self, event: LedgerEvent) -> None:
        """Something happened in our room."""
        if isinstance(event, ParticipantGone) and event.participant.sid == self.sid:
            self.end(event.reason, event.participant.tracks)
            return
        if self._is_our_rejoining(event):
            return
        if not self._ended and not self._held_back(event):
            self._hear(event)

    def _held_back(self, event: LedgerEvent) -> bool:
        if self._rooms.delays.news <= 0:
            return False
        person: ParticipantRecord | None = getattr(event, "participant", None)
        return person is not None and self._sees(person) and self._news.holds(event, person)

    def counted(self, room: RoomRecord) -> None:
        """Our room has been counted anew."""
        if not self._ended:
            self._tell(room_updated=self._rooms.info_of(room))

    def publishes(self, identity: str) -> None:
        """Somebody publishes something, so it is no longer held back that it is there."""
        self._news.release(identity)

    def _hear_late(self, event: LedgerEvent) -> None:
        if not self._ended:
            self._hear(event)

    def _is_our_rejoining(self, event: LedgerEvent) -> bool:
        """Our own going, coming and publishing again, which :meth:`rejoined` has told."""
        match event:
            case ParticipantGone(participant=person):
                return person.identity == self._identity
            case TrackAdded(track=track):
                return track.sid in self._republished
            case _:
                return False

    def _hear(self, event: LedgerEvent) -> None:
        if isinstance(event, ParticipantEntered | ParticipantGone) and event.participant.permissions.recorder:
            self._tell(room_updated=self._rooms.info_of(event.room))
        match event:
            case ParticipantEntered(participant=person):
                if self._sees(person):
                    connected = room_pb.ParticipantConnected(info=self._own_participant(person))
                    self._tell(participant_connected=connected)
                    self._tell(participant_active=room_pb.ParticipantActive(participant_identity=person.identity))
            case ParticipantGone(participant=person, reason=reason):
                self._sender_left(person.identity)
                if not person.permissions.hidden:
                    for track in person.tracks:
                        self._take_back(person, track)
                    wire_reason: Any = reason
                    self._tell(
                        participant_disconnected=room_pb.ParticipantDisconnected(
                            participant_identity=person.identity, disconnect_reason=wire_reason
                        )
                    )
                    self._publisher_left(person.sid)
            case ParticipantChanged():
                self._hear_change(event)
            case TrackAdded() | TrackGone() | TrackMuteChanged():
                self._hear_track(event)
            case DataSent():
                self._hear_data(event)
            case SpeakersHeard(identities=identities):
                heard = room_pb.ActiveSpeakersChanged(participant_identities=list(identities))
                self._tell(active_speakers_changed=heard)
            case QualityJudged(participant=person, quality=quality):
                wire_quality: Any = quality
                judged = room_pb.ConnectionQualityChanged(participant_identity=person.identity, quality=wire_quality)
                self._tell(connection_quality_changed=judged)
            case RoomChanged(room=room):
                self._tell(room_metadata_changed=room_pb.RoomMetadataChanged(metadata=room.metadata))
                self._tell(room_updated=self._rooms.info_of(room))
            case _:
                pass

    def _hear_track(self, event: TrackAdded | TrackGone | TrackMuteChanged) -> None:
        person, track = event.participant, event.track
        own = person.sid == self.sid
        if not own and person.permissions.hidden:
            return
        match event:
            case TrackAdded() if own:
                self._tell(local_track_published=room_pb.LocalTrackPublished(track_sid=track.sid))
                self._tell_updated(person)
            case TrackAdded():
                if track.encrypted and len(person.tracks) == 1:
                    self._tell_encrypted(person, True)
                publication = self._own_publication(person, track)
                published = room_pb.TrackPublished(participant_identity=person.identity, publication=publication)
                self._tell(track_published=published)
                self._subscribe(person, track)
            case TrackGone() if own:
                gone = room_pb.LocalTrackUnpublished(publication_sid=track.sid)
                self._tell(local_track_unpublished=gone)
            case TrackGone():
                self._take_back(person, track)
            case TrackMuteChanged():
                # A server's mute reaches the publisher twice: by itself and with the participant.
                for _ in range(2 if own and event.by_server else 1):
                    self._tell_mute(person, track)

    def _tell_mute(self, person: ParticipantRecord, track: TrackRecord) -> None:
        if track.muted:
            self._tell(track_muted=room_pb.TrackMuted(participant_identity=person.identity, track_sid=track.sid))
        else:
            self._tell(track_unmuted=room_pb.TrackUnmuted(participant_identity=person.identity, track_sid=track.sid))

    def _hear_data(self, event: DataSent) -> None:
        if self.sid not in event.receivers:
            return
        sender = None if event.sender is None else self._rooms.connection(event.sender.sid)
        if sender is not None and not self.can_read(sender):
            return
        wires = self._rooms.wiring.among(self.sid, event.sender.sid if event.sender is not None else "")
        if wires:
            wire = self._reliable if event.reliable else self._lossy
            wire.put(event, wires, self._rooms.wiring.rng, lossy=not event.reliable)
        else:
            self._tell_data(event)

    def _tell_data(self, event: DataSent) -> None:
        if self._ended:
            return
        self._count_received("_reliable" if event.reliable else "_lossy", len(event.data))
        owned = self._give(event.data)
        buffer = room_pb.BufferInfo(data_ptr=owned.id, data_len=len(event.data))
        packet = room_pb.DataPacketReceived(
            kind=room_pb.KIND_RELIABLE if event.reliable else room_pb.KIND_LOSSY,
            participant_identity=self._known_as(event.sender),
            user=room_pb.UserPacket(data=room_pb.OwnedBuffer(handle=owned, data=buffer), topic=event.topic),
        )
        self._tell(data_packet_received=packet)

    def _known_as(self, sender: ParticipantRecord | None) -> str:
        """The identity that the library tells with a packet: none of somebody whom it was not told of."""
        if sender is None or self._news.keeps_arrival_of(sender.identity):
            return ""
        return sender.identity

    def _hear_change(self, event: ParticipantChanged) -> None:
        """One event for each changed field, each followed by the participant as a whole and, for us, a new token."""
        person, previous = event.participant, event.previous
        own = person.sid == self.sid
        if not own and person.permissions.hidden:
            return
        for change in changes_of(event):
            self._tell(**change)
            self._tell_updated(person)
            if own:
                self._tell_token()
        if own and not person.permissions.can_publish_data:
            self.take_back_data_tracks()
        if own and person.permissions.can_subscribe != previous.permissions.can_subscribe:
            self._reconsider_subscriptions(person)

    def _tell_updated(self, person: ParticipantRecord) -> None:
        updated = room_pb.ParticipantsUpdated(participants=[participant_info(person)])
        self._tell(participants_updated=updated)

    # --- how others are shown ---------------------------------------------------------------------------------------

    def _sees(self, person: ParticipantRecord) -> bool:
        return person.sid != self.sid and not person.permissions.hidden

    def _own_participant(self, person: ParticipantRecord) -> participant_pb.OwnedParticipant:
        return participant_pb.OwnedParticipant(handle=self._give("participant"), info=participant_info(person))

    def _own_publication(self, person: ParticipantRecord, track: TrackRecord) -> track_pb.OwnedTrackPublication:
        return track_pb.OwnedTrackPublication(
            handle=self._give(MemoryPublication(track.sid, person.identity)), info=publication_info(track, remote=True)
        )

    def _tell_token(self) -> None:
        self._tell(token_refreshed=room_pb.TokenRefreshed(token="in-memory"))  # noqa: S106 - not one
