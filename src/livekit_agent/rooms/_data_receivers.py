"""Other people's data tracks: which there are, and a bounded queue for each who reads one.

The library is asked for one frame at a time, and holds ``capacity`` of them, dropping the oldest, while our event
loop is busy.  Invariant: as long as a queue lives, exactly one read is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from .. import events
from .._bounds import DATA_TRACK_FRAMES, DATA_TRACK_FRAMES_MAX
from .._errors import DataTrackError, ResourceExhaustedError, RoomError, printable
from ._data_tracks import DataFrame, DataTrack, Overflow, unpublished_error
from ._link import Link
from ._media_stream import MediaQueue, MediaStream
from ._proto import data_track, ffi
from ._transport import Transport

if TYPE_CHECKING:
    from ._model import ParticipantState
    from ._participants import RemoteParticipant

__all__ = ["DataTrackInbox", "RemoteDataTrack"]


class DataQueue(MediaQueue[DataFrame]):
    """Frames of somebody's data track on their way to a consumer."""

    def __init__(self, link: Link, capacity: int, overflow: Overflow) -> None:
        super().__init__(link, capacity, _nothing)
        self._overflow = overflow

    def subscribe(self, track_handle: int) -> None:
        """Open the native stream, and ask for its first frame."""
        options = data_track.DataTrackSubscribeOptions(buffer_size=self.capacity)
        request = data_track.SubscribeDataTrackRequest(track_handle=track_handle, options=options)
        response = self._link.request(ffi.FfiRequest(subscribe_data_track=request))
        self._handle = self._link.own(response.subscribe_data_track.stream.handle.id)
        self._link.transport.router.route_handle(self._handle, self.deliver)
        self._link.attach(self, self.end)
        self._ask()

    def _ask(self) -> None:
        request = data_track.DataTrackStreamReadRequest(stream_handle=self._handle)
        try:
            response = self._link.request(ffi.FfiRequest(data_track_stream_read=request)).data_track_stream_read
        except RoomError:
            self.end()  # rejected: the library has forgotten it
            return
        if response.HasField("eos_event"):
            self._over(response.eos_event)

    def deliver(self, event: ffi.FfiEvent) -> None:
        """What was asked for: a frame, or the end."""
        message = event.data_track_stream_event
        if self.ended:
            return
        if message.HasField("eos"):
            self._over(message.eos)
            return
        frame = message.frame_received.frame
        timestamp = frame.user_timestamp if frame.HasField("user_timestamp") else None
        self.received += 1
        self._take_in(DataFrame(payload=frame.payload, timestamp=timestamp))
        if not self.ended:
            self._ask()
        self.bell.ring()

    def _take_in(self, frame: DataFrame) -> None:
        if len(self._frames) < self.capacity:
            self._frames.append(frame)
            return
        self.dropped += 1
        match self._overflow:
            case Overflow.DROP_OLDEST:
                self._frames.popleft()
                self._frames.append(frame)
            case Overflow.DROP_NEWEST:
                pass
            case Overflow.FAIL:
                self.error = ResourceExhaustedError(
                    f"{self.capacity} frames of a data track were not consumed",
                    resource="data_track_frames",
                    used=self.capacity,
                    limit=self.capacity,
                    hint="consume faster, or let the stream drop frames",
                )
                self.end()

    def _over(self, eos: data_track.DataTrackStreamEOS) -> None:
        # Unpublished or disconnected: the ordinary ends of a track.  A subscription that was refused ends so too.
        ordinary = (
            data_track.SUBSCRIBE_DATA_TRACK_ERROR_CODE_UNPUBLISHED,
            data_track.SUBSCRIBE_DATA_TRACK_ERROR_CODE_DISCONNECTED,
        )
        if eos.HasField("error") and eos.error.code not in ordinary:
            self.error = DataTrackError(f"the data track was not received: {printable(eos.error.message)}")
        self.end()

    def _close_native(self) -> None:
        self._link.transport.router.unroute_handle(self._handle)
        self._link.drop(self._handle)


def _nothing(transport: Transport, event: ffi.FfiEvent) -> DataFrame | None:
    """Frames of data own nothing of the library's; :meth:`DataQueue.deliver` reads them itself."""
    return None


class RemoteDataTrack(DataTrack):
    """Somebody else's data track."""

    def __init__(self, owned: data_track.OwnedRemoteDataTrack, inbox: DataTrackInbox) -> None:
        super().__init__(owned.handle.id, owned.info, inbox.link)
        self.publisher_identity = owned.publisher_identity
        self._inbox = inbox
        self._open = True
        self._queues: dict[Any, None] = {}

    @property
    def participant(self) -> RemoteParticipant | None:
        """Who publishes it; None while the server has not announced them."""
        return self._inbox.people.get(self.publisher_identity)

    @property
    def published(self) -> bool:
        """Whether it can still be subscribed to."""
        return self._open and not self._link.over

    def frames(
        self, *, capacity: int = DATA_TRACK_FRAMES, overflow: Overflow = Overflow.DROP_OLDEST
    ) -> MediaStream[DataFrame]:
        """Subscribe: ``async for frame in track.frames():``; several at once get a copy each.

        At most ``capacity`` frames wait, then ``overflow`` decides.  While the event loop is busy the library holds as
        many more and drops the oldest, which it does not count.  Ends when the track or the room does.  Frames that
        are sent before the subscription has reached the publisher are lost.

        Raises :class:`RoomPermissionError` without the permission to subscribe (the library would wait for ever) and
        :class:`DataTrackError` when the track is gone.
        """
        if not 1 <= capacity <= DATA_TRACK_FRAMES_MAX:
            raise ValueError(f"a queue of {capacity} frames; it holds 1 to {DATA_TRACK_FRAMES_MAX}")
        self._link.check_open()
        if not self._open:
            raise unpublished_error()
        if self.encrypted and not self._link.decrypts:
            # The library would hand over the ciphertext.
            raise RoomError(
                "the data track is encrypted, and this room was joined without encryption",
                code="ROOM_ENCRYPTED",
                hint="join with ConnectOptions(encryption=Encryption(...))",
            )
        self._link.demand("can_subscribe", "subscribe", "canSubscribe")
        queue = DataQueue(self._link, capacity, overflow)
        queue.subscribe(self._handle)
        stream = MediaStream(queue)
        stream.bind(self._queues)
        return stream

    def set_pipeline_options(self, *, max_partial_frames: int) -> None:
        """How many frames may be under way in parts at a time (1 at first): more tolerates more disorder."""
        if max_partial_frames < 1:
            raise ValueError("at least one frame must be under way")
        if not self._open:
            raise unpublished_error()
        options = data_track.RemoteDataTrackPipelineOptions(max_partial_frames=max_partial_frames)
        request = data_track.RemoteDataTrackSetPipelineOptionsRequest(track_handle=self._handle, options=options)
        self._link.request(ffi.FfiRequest(remote_data_track_set_pipeline_options=request))

    def end(self) -> None:
        """It is no longer published (called by the room)."""
        self._open = False
        for queue in list(self._queues):
            queue.end()
        self._link.drop(self._handle)


class DataTrackInbox:
    """The data tracks of all others in a room, by sid."""

    def __init__(
        self,
        link: Link,
        local: ParticipantState,
        people: Mapping[str, RemoteParticipant],
        emit: Callable[[events.RoomEvent], None],
    ) -> None:
        self.link = link
        self.local = local
        self.people = people
        self._emit = emit
        self._tracks: dict[str, RemoteDataTrack] = {}
        self.tracks: Mapping[str, RemoteDataTrack] = MappingProxyType(self._tracks)

    def published(self, owned: data_track.OwnedRemoteDataTrack) -> None:
        """Somebody publishes one.  The handle is ours."""
        self._take_away(owned.info.sid)
        track = RemoteDataTrack(owned, self)
        self._tracks[track.sid] = track
        self._emit(events.DataTrackPublished(track=track, participant=track.participant))

    def unpublished(self, sid: str) -> None:
        """It is no longer."""
        self._take_away(sid)

    def _take_away(self, sid: str) -> None:
        track = self._tracks.pop(sid, None)
        if track is not None:
            track.end()
            self._emit(events.DataTrackUnpublished(track=track, participant=track.participant))
