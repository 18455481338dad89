"""Rooms in memory that are wrong on purpose, each in one thing: the conformance suite must notice every one of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from livekit_agent.rooms import _memory, _memory_joining
from livekit_agent.rooms._ledger_events import DataSent, ParticipantChanged, TrackMuteChanged
from livekit_agent.rooms._memory_transport import MemoryTransport
from livekit_agent.rooms._proto import room as room_pb
from livekit_agent.rooms._wire import callback


class OrderSwapped(MemoryTransport):
    """A subscription is told before its publication."""

    _kept: dict[str, Any] | None = None

    def _tell(self, **message: Any) -> None:
        if "track_published" in message:
            self._kept = message
            return
        super()._tell(**message)
        if "track_subscribed" in message and self._kept is not None:
            kept, self._kept = self._kept, None
            super()._tell(**kept)


class EventDoubled(MemoryTransport):
    """A change of metadata is told twice."""

    def _tell(self, **message: Any) -> None:
        for _ in range(2 if "participant_metadata_changed" in message else 1):
            super()._tell(**message)


class EndMissing(MemoryTransport):
    """Whoever is thrown out is told so, and no end."""

    def _tell(self, **message: Any) -> None:
        if "eos" not in message:
            super()._tell(**message)


class EndDoubled(MemoryTransport):
    """News still come between the word of the end and the end."""

    def _tell(self, **message: Any) -> None:
        if "eos" in message:
            super()._tell(room_metadata_changed=room_pb.RoomMetadataChanged(metadata="late"))
        super()._tell(**message)


class HandleLeaked(MemoryTransport):
    """A participant's handle given back is kept."""

    def drop(self, handle_id: int) -> bool:
        if self._objects.get(handle_id) == "participant":
            return True
        return super().drop(handle_id)


class PermissionIgnored(MemoryTransport):
    """Metadata changes whoever asks."""

    def _change(self, kind: str, async_id: int, **change: Any) -> None:
        self._rooms.ledger.update_participant(self.room_name, self._identity, **change)
        self._rooms.settle()
        self._answer(callback(kind, async_id))


class WrongIdentity(MemoryTransport):
    """Data comes from the receiver itself."""

    def _tell(self, **message: Any) -> None:
        packet = message.get("data_packet_received")
        if packet is not None:
            packet.participant_identity = self._identity
        super()._tell(**message)


class DestinationIgnored(MemoryTransport):
    """Data for one reaches all."""

    def _hear_data(self, event: DataSent) -> None:
        if event.sender is None or event.sender.sid != self.sid:
            self._tell_data(event)


class AnswerFirst(MemoryTransport):
    """That a track is taken back is answered before it is told."""

    _kept: dict[str, Any] | None = None

    def _tell(self, **message: Any) -> None:
        if "local_track_unpublished" in message:
            self._kept = message
        else:
            super()._tell(**message)

    def _answer(self, event: Any) -> None:
        super()._answer(event)
        if self._kept is not None:
            kept, self._kept = self._kept, None
            self._rooms.clock.later(0.01, lambda: super(AnswerFirst, self)._tell(**kept))


class EverythingFound(MemoryTransport):
    """Any track can be taken back, also one that does not exist."""

    def _answer(self, event: Any) -> None:
        if event.HasField("unpublish_track"):
            event.unpublish_track.ClearField("error")
        super()._answer(event)


class ServersMuteOnce(MemoryTransport):
    """A server's mute reaches the publisher once."""

    def _hear_track(self, event: Any) -> None:
        if isinstance(event, TrackMuteChanged):
            self._tell_mute(event.participant, event.track)
        else:
            super()._hear_track(event)


class PreviousValues(MemoryTransport):
    """A change is told with the value from before."""

    def _hear_change(self, event: ParticipantChanged) -> None:
        changed = event.participant
        event = ParticipantChanged(
            room=event.room, participant=changed, previous=changed, changed_attributes=event.changed_attributes
        )
        super()._hear_change(event)


class FramesSwapped(MemoryTransport):
    """Every second frame of sound comes after its successor."""

    _kept: tuple[Any, bytes] | None = None

    def tell_sound(self, stream: Any, piece: bytes) -> None:
        kept, self._kept = self._kept, None
        if kept is None:
            self._kept = (stream, piece)
        else:
            super().tell_sound(stream, piece)
            super().tell_sound(*kept)


class MuteUnheard(MemoryTransport):
    """A muted track sounds on."""

    def hears(self, sid: str) -> bool:
        self._rooms.media._muted.clear()
        return super().hears(sid)


class ChunkLost(MemoryTransport):
    """What came before a stream's reader was opened is lost."""

    def _read(self, handle_id: int) -> None:
        from livekit_agent.rooms._memory_streams import _Reader

        reader = self._object(handle_id, _Reader)
        while len(reader.held) > 1:
            reader.held.popleft()
        super()._read(handle_id)


class NobodyAnswers(MemoryTransport):
    """A second answer to a call is taken."""

    def _do_rpc_method_invocation_response(self, request: Any) -> Any:
        response = super()._do_rpc_method_invocation_response(request)
        response.rpc_method_invocation_response.ClearField("error")
        return response


@contextmanager
def instead(transport: type[MemoryTransport]) -> Iterator[None]:
    """Rooms in memory over that transport."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (_memory, _memory_joining):
            patch.setattr(module, "MemoryTransport", transport)
        yield
