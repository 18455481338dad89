"""A participant in another process: its requests into a connection to rooms in memory, that connection's events out.

Without I/O.  What comes from the socket is a stranger's, although one with a token: a message that breaks the format or
a bound ends the line (``outbox.fault``); a request that makes no sense to the rooms is refused and nothing else
happens.  No input raises.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from .._bounds import (
    REMOTE_CALLS_MAX,
    REMOTE_HANDLES_MAX,
    REMOTE_NAMES_CHARS_MAX,
    REMOTE_OUTBOX_BYTES_MAX,
    REMOTE_QUEUE_MS_MAX,
)
from .._errors import RoomError, printable
from ..rooms import MemoryRooms
from ..rooms._frames import SAMPLE_RATES
from ..rooms._memory_transport import MemoryTransport
from ..rooms._proto import ffi
from ..rooms._proto import room as room_pb
from ..rooms._proto import video as video_pb
from ..rooms._remote_wire import (
    DROP,
    EVENT,
    FEEDBACK,
    FIRST_HANDLE,
    REFUSED,
    REQUEST,
    Outbox,
    WireError,
    decode,
    encode,
    new_handle_of,
    owned_buffers,
    parse,
    place,
    placed,
    pointers,
)
from ..rooms._transport import STREAM_EVENTS

__all__ = ["RoomLine"]

_CHANNELS = range(1, 3)
_DIGEST_BYTES = 32


class RoomLine:
    """One connection.  ``receive`` what comes, send what is in ``outbox``, end it at its ``fault`` or when ``over``."""

    def __init__(self, rooms: MemoryRooms, token: str) -> None:
        """``token`` has let the connection in; it is also what the participant joins with."""
        self.outbox = Outbox()
        self.over = False
        """The room has ended for this participant, or was never joined."""
        self._token = token
        self._transport = MemoryTransport(rooms, self._hear)
        self._transport.tell_feedback = self._tell_feedback
        self._asked = False
        self._leaving: dict[int, None] = {}
        self._ended = False
        self._closed = False
        self._unanswered: dict[int, int] = {}
        self._unanswered_bytes = 0

    @property
    def live_handles(self) -> int:
        """How many handles the participant holds."""
        return self._transport.live_handles

    # --- from the participant -------------------------------------------------------------------------------------

    def receive(self, data: bytes) -> None:
        """A message."""
        if self.outbox.fault is not None:
            return
        try:
            frame = decode(data, REQUEST, DROP)
            if frame.kind == DROP:
                self._transport.drop(frame.number)
                return
            request = parse(ffi.FfiRequest, frame.body)
            self._ask(request, frame.number, frame.buffers)
        except WireError as exc:
            self.outbox.fail(4002, str(exc))

    def _ask(self, request: ffi.FfiRequest, number: int, buffers: tuple[bytes, ...]) -> None:
        kind = request.WhichOneof("message") or ""
        asked = getattr(request, kind)
        if bool(new_handle_of(kind)) != (number >= FIRST_HANDLE) or (0 < number < FIRST_HANDLE):
            raise WireError("a handle where none is given, or none where one is")
        if kind == "connect":
            if self._asked:
                raise WireError("a second join")
            self._asked = True
            asked.token = self._token
        if not self._transport.give_next(number):
            raise WireError("a handle that is in use")
        async_id: int = getattr(asked, "request_async_id", 0)
        if async_id and (async_id >= FIRST_HANDLE or async_id in self._unanswered):
            raise WireError("an async id that is none, or is in use")
        if kind == "disconnect":
            self._leaving[async_id] = None
        if not self._may_ask(async_id, sum(map(len, buffers))):
            return
        try:
            with ExitStack() as lent:
                addresses = [lent.enter_context(self._transport.lend(buffer)) for buffer in buffers]
                for pointed in pointers(request):
                    index, offset = placed(pointed.data_ptr, buffers)
                    pointed.data_ptr = addresses[index] + offset
                _check(kind, asked, buffers)
                if kind == "e2ee":
                    self._transport.follows = _check_keys(asked, buffers)
                self._transport.request(request)
        except RoomError as exc:
            self._refuse(async_id or number, exc.message)
        except (ValueError, LookupError, ArithmeticError, TypeError) as exc:
            # What the rooms' own code stumbles over when it is asked for what no client of ours asks for.
            self._refuse(async_id or number, f"{kind} makes no sense ({type(exc).__name__})")

    def _may_ask(self, async_id: int, size: int) -> bool:
        """Whether one more request is within the bounds; otherwise the line is at fault."""
        if async_id:
            self._unanswered[async_id] = size
            self._unanswered_bytes += size
        if len(self._unanswered) > REMOTE_CALLS_MAX or self._unanswered_bytes > REMOTE_OUTBOX_BYTES_MAX:
            self.outbox.fail(4008, "remote_calls: too much is unanswered")
        elif self._transport.live_handles + self._transport.key_count > REMOTE_HANDLES_MAX:
            self.outbox.fail(4008, "remote_handles: too many are held")
        return self.outbox.fault is None

    def _refuse(self, number: int, reason: str) -> None:
        self._answered(number)
        self._transport.give_next(0)
        self.outbox.put(encode(REFUSED, number, printable(reason).encode()))

    # --- to the participant ---------------------------------------------------------------------------------------

    def _hear(self, event: ffi.FfiEvent) -> None:
        """An event of the rooms, in the loop."""
        if self._closed:
            # A join that was admitted after its participant had gone, or what was on its way to it.
            self._transport.close()
            return
        kind = event.WhichOneof("message") or ""
        self._answered(getattr(getattr(event, kind), "async_id", 0))
        buffers: list[bytes] = []
        for owner, pointed in owned_buffers(event):
            try:
                buffers.append(self._transport.read(room_pb.BufferInfo(data_ptr=pointed.data_ptr, data_len=0)))
            except KeyError:
                self.outbox.fail(4002, "a handle given back before it was given")
                return
            self._transport.drop(owner.id)
            owner.id, pointed.data_ptr = 0, place(len(buffers))
        message = encode(EVENT, 0, event.SerializeToString(), buffers)
        self.outbox.put(message, media=kind in STREAM_EVENTS and bool(buffers))
        if (kind == "connect" and event.connect.error) or (kind == "room_event" and event.room_event.HasField("eos")):
            self._ended = True
        self.over = self._ended and not self._leaving

    def _tell_feedback(self, source: int) -> None:
        """Receivers ask for something: told without being asked, as the participant cannot wait for an answer."""
        take = video_pb.TakeEncodedVideoSourceFeedbackRequest(source_handle=source)
        try:
            told = self._transport.request(ffi.FfiRequest(take_encoded_video_source_feedback=take))
        except RoomError:
            return  # given back, though a track of it is still published
        self.outbox.put(encode(FEEDBACK, source, told.take_encoded_video_source_feedback.SerializeToString()))

    def _answered(self, async_id: int) -> None:
        self._leaving.pop(async_id, None)
        self._unanswered_bytes -= self._unanswered.pop(async_id, 0)

    def close(self) -> None:
        """The connection is gone: the participant leaves, and nothing is left of it."""
        self._closed = True
        self._transport.close()


def _check(kind: str, asked: Any, buffers: tuple[bytes, ...]) -> None:
    """What a client of ours checks before it asks, because the rooms rely on it later, on their own clock."""
    if kind == "new_audio_source":
        fits = asked.queue_size_ms <= REMOTE_QUEUE_MS_MAX and _has_sound(asked)
    elif kind == "new_audio_stream":
        fits = _has_sound(asked)
    elif kind == "capture_audio_frame":
        frame = asked.buffer
        fits = len(buffers) == 1 and len(buffers[0]) == 2 * frame.num_channels * frame.samples_per_channel
    else:
        fits = True
    if not fits:
        raise RoomError(f"{kind}: numbers out of range")


def _has_sound(asked: Any) -> bool:
    return asked.sample_rate in SAMPLE_RATES and asked.num_channels in _CHANNELS


def _check_keys(asked: Any, buffers: tuple[bytes, ...]) -> bytes:
    """The same of what is about keys, which come as digests; the one that follows from another, if one does."""
    kind = asked.WhichOneof("message") or ""
    inner = getattr(asked, kind, None)
    digests = [getattr(inner, name) for name in ("shared_key", "key") if hasattr(inner, name)]
    digests += buffers if kind.startswith("ratchet") else ()
    names = len(getattr(inner, "participant_identity", "")) + len(getattr(inner, "track_sid", ""))
    if any(len(digest) != _DIGEST_BYTES for digest in digests) or names > REMOTE_NAMES_CHARS_MAX:
        raise RoomError("e2ee: keys are digests, and names short")
    if kind.startswith("ratchet") and len(buffers) != 1:
        raise RoomError("e2ee: no digest of the key that follows")
    return buffers[0] if kind.startswith("ratchet") else b""
