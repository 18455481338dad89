"""The seam under a room as bytes, for rooms in another process: a connection's messages, and what waits to be sent.

One message of ours is one binary WebSocket message::

    kind 1 byte    number 8 bytes    size 4 bytes    body, size bytes    { size 4 bytes    buffer, size bytes } ...

    1 REQUEST    to the server    an FfiRequest; number: the handle that its answer gives, chosen by the client, or 0
    2 EVENT      to the client    an FfiEvent; number 0
    3 DROP       to the server    number: the handle that is given back; no body
    4 REFUSED    to the client    why, UTF-8; number: the request's async id, or the handle that it was to give, or 0
    5 FEEDBACK   to the client    a TakeEncodedVideoSourceFeedbackResponse; number: the handle of the source

Numbers are big-endian.  Requests have no answers: what the library would answer at once the client knows by itself
(``_remote_transport``), and a refusal comes as a message of its own.

No address ever travels.  Memory that a message points to is a buffer beside it, and a pointer is the buffer's place
among them, counted from 1, in the upper half of the number, and an offset into it in the lower.  A buffer that an event
gives away comes with the handle 0, and the receiver makes one up; the sender has given its own back.

Handles belong to their connection.  The client's, given for what it asks to be made, begin at ``FIRST_HANDLE``; the
server's are smaller, and so is every async id.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import DecodeError

from .._bounds import MESSAGE_BYTES_MAX, REMOTE_MEDIA_BYTES_MAX, REMOTE_OUTBOX_BYTES_MAX
from ._proto import ffi, video

__all__ = [
    "DROP",
    "EVENT",
    "FEEDBACK",
    "FIRST_HANDLE",
    "Fault",
    "PATH",
    "PATHS",
    "REFUSED",
    "REQUEST",
    "URL",
    "Frame",
    "Outbox",
    "WireError",
    "decode",
    "encode",
    "feedback",
    "new_handle_of",
    "owned_buffers",
    "parse",
    "place",
    "placed",
    "pointers",
]

VERSION = 1
"""Of everything on this page.  Another number is another path."""

PATHS = "/rooms/v"
PATH = f"{PATHS}{VERSION}"
"""Where the server takes the connections, below its base path."""

URL = f"memory:{PATH}"
"""In an assignment: the room is in the memory of the server that sends it, to be reached there at that path."""

REQUEST, EVENT, DROP, REFUSED, FEEDBACK = 1, 2, 3, 4, 5
FIRST_HANDLE = 1 << 32

_HEAD = struct.Struct(">BQI")
_SIZE = struct.Struct(">I")
_OFFSET_BITS = 32

M = TypeVar("M", ffi.FfiRequest, ffi.FfiEvent)


class WireError(Exception):
    """The peer's bytes are no message of this format.  The text names no content."""


class Frame(NamedTuple):
    """One message, taken apart."""

    kind: int
    number: int
    body: bytes
    buffers: tuple[bytes, ...]


def encode(kind: int, number: int, body: bytes = b"", buffers: Sequence[bytes] = ()) -> bytes:
    """The bytes of a message."""
    parts = [_HEAD.pack(kind, number, len(body)), body]
    for buffer in buffers:
        parts += (_SIZE.pack(len(buffer)), buffer)
    return b"".join(parts)


def decode(data: bytes, *kinds: int) -> Frame:
    """Take a message apart.  WireError for anything but a whole one of these kinds."""
    if len(data) < _HEAD.size:
        raise WireError("shorter than its head")
    kind, number, size = _HEAD.unpack_from(data)
    if kind not in kinds:
        raise WireError(f"a message of kind {kind}")
    body, position = _piece(data, _HEAD.size, size)
    buffers: list[bytes] = []
    while position < len(data):
        if len(data) - position < _SIZE.size:
            raise WireError("a buffer without its size")
        (size,) = _SIZE.unpack_from(data, position)
        buffer, position = _piece(data, position + _SIZE.size, size)
        buffers.append(buffer)
    return Frame(kind, number, body, tuple(buffers))


def _piece(data: bytes, start: int, size: int) -> tuple[bytes, int]:
    if size > len(data) - start:
        raise WireError("shorter than it says")
    return data[start : start + size], start + size


def parse(kind: type[M], body: bytes) -> M:
    """A body as a message, whole and of valid text.  WireError otherwise."""
    try:
        message = kind.FromString(body)
    except (DecodeError, RecursionError) as exc:
        raise WireError(f"no {kind.__name__} ({type(exc).__name__})") from None
    if not message.IsInitialized() or message.WhichOneof("message") is None:
        raise WireError(f"an {kind.__name__} without what belongs into it")
    if not _is_text(message):
        raise WireError("text that is not UTF-8")
    return message


def feedback(body: bytes) -> video.TakeEncodedVideoSourceFeedbackResponse:
    """The body of a FEEDBACK.  WireError otherwise."""
    try:
        return video.TakeEncodedVideoSourceFeedbackResponse.FromString(body)
    except DecodeError:
        raise WireError("no feedback") from None


def _is_text(message: Any) -> bool:
    """Whether every text in it is one.  protobuf does not look, and gives bytes instead to whoever reads it later."""
    for field, value in message.ListFields():
        if field.type == field.TYPE_BYTES:
            continue
        parts = value if field.is_repeated else (value,)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            parts = [part for pair in value.items() for part in pair]
        for part in parts:
            if isinstance(part, bytes) or (hasattr(part, "ListFields") and not _is_text(part)):
                return False
    return True


# --- pointers, handles ----------------------------------------------------------------------------------------------


def pointers(message: Any) -> Iterator[Any]:
    """Every message inside ``message`` that points somewhere: it has a ``data_ptr``, which is set."""
    for name, repeated in _ways_to_pointers(message.DESCRIPTOR):
        if not name:
            if message.data_ptr:
                yield message
        elif repeated:
            for part in getattr(message, name):
                yield from pointers(part)
        elif message.HasField(name):
            yield from pointers(getattr(message, name))


@cache
def _ways_to_pointers(kind: Any) -> tuple[tuple[str, bool], ...]:
    """The fields of a message type behind which pointers may be; the empty name is its own."""
    ways: list[tuple[str, bool]] = []
    for field in kind.fields:
        if field.name == "data_ptr":
            ways.append(("", False))
        elif field.message_type is not None and _ways_to_pointers(field.message_type):
            ways.append((field.name, field.is_repeated))
    return tuple(ways)


def owned_buffers(message: Any) -> Iterator[tuple[Any, Any]]:
    """Each buffer that an event gives away: its handle, and the message that points to it."""
    for name, _ in _ways_to_pointers(message.DESCRIPTOR):
        # Room events have their buffers in no repeated field and in no map.
        if not name or not message.HasField(name):
            continue
        inner = getattr(message, name)
        if "handle" in message.DESCRIPTOR.fields_by_name and "data_ptr" in inner.DESCRIPTOR.fields_by_name:
            yield message.handle, inner
        else:
            yield from owned_buffers(inner)


def place(buffer: int, offset: int = 0) -> int:
    """A pointer to a byte of the buffer with that number, the first being 1."""
    return (buffer << _OFFSET_BITS) + offset


def placed(pointer: int, buffers: Sequence[bytes]) -> tuple[int, int]:
    """Which buffer a pointer is into, counted from 0, and where.  WireError for one into none."""
    number, offset = pointer >> _OFFSET_BITS, pointer & ((1 << _OFFSET_BITS) - 1)
    if not 1 <= number <= len(buffers) or offset > len(buffers[number - 1]):
        raise WireError("a pointer into no buffer")
    return number - 1, offset


@cache
def new_handle_of(kind: str) -> tuple[str, ...]:
    """The way to the handle that the answer to a request of that kind gives; empty if it gives none."""
    field = ffi.FfiResponse.DESCRIPTOR.fields_by_name.get(kind)
    return () if field is None else _way_to_handle(field.message_type)


def _way_to_handle(kind: Any) -> tuple[str, ...]:
    for field in kind.fields:
        if field.message_type is None:
            continue
        if field.message_type.name == "FfiOwnedHandle":
            return (field.name,)
        inner = _way_to_handle(field.message_type)
        if inner:
            return (field.name, *inner)
    return ()


# --- what waits -----------------------------------------------------------------------------------------------------


class Fault(NamedTuple):
    """Why a connection is ended, as its Close frame says it."""

    #: 4002: a message broke the format.  4008: a bound was passed; the reason begins with the bound's name.
    code: int
    #: For people.
    reason: str


class _Waiting(NamedTuple):
    number: int
    message: bytes
    sent: Callable[[], object] | None


class Outbox:
    """Messages that wait for the socket, in order, within two bounds.

    Frames of media are worth nothing when they are late: beyond their bound the oldest of them goes, and is counted.
    Everything else must arrive: beyond its bound the peer has stopped reading, and the connection is at ``fault``.
    """

    def __init__(self) -> None:
        self._lasting: deque[_Waiting] = deque()
        self._fleeting: deque[_Waiting] = deque()
        self._lasting_bytes = 0
        self._fleeting_bytes = 0
        self._count = 0
        self.dropped = 0
        """Frames of media that were not sent."""
        self.fault: Fault | None = None
        """Set once: nothing more is worth sending, end the connection."""
        self.wake: Callable[[], object] = lambda: None
        """Called when there is something to send, or to be ended."""

    def __len__(self) -> int:
        return len(self._lasting) + len(self._fleeting)

    def put(self, message: bytes, *, media: bool = False, sent: Callable[[], object] | None = None) -> None:
        """Send it when its turn comes, which is told to ``sent``."""
        self._count += 1
        if self.fault is not None:
            return
        if len(message) > MESSAGE_BYTES_MAX:
            # A picture, or the list of everybody in a room of many thousands.
            self.dropped += media
            if not media:
                self.fail(4008, "message: one is too large")
        elif media:
            self._fleeting.append(_Waiting(self._count, message, sent))
            self._fleeting_bytes += len(message)
            while self._fleeting_bytes > REMOTE_MEDIA_BYTES_MAX and len(self._fleeting) > 1:
                self._fleeting_bytes -= len(self._fleeting.popleft().message)
                self.dropped += 1
        else:
            self._lasting.append(_Waiting(self._count, message, sent))
            self._lasting_bytes += len(message)
            if self._lasting_bytes > REMOTE_OUTBOX_BYTES_MAX:
                self.fail(4008, "remote_outbox: the other side does not read")
        self.wake()

    def fail(self, code: int, reason: str) -> None:
        """End the connection.  The first fault counts; what waits is forgotten."""
        self.fault = self.fault or Fault(code, reason)
        self._lasting.clear()
        self._fleeting.clear()
        self._lasting_bytes = self._fleeting_bytes = 0
        self.wake()

    def take(self) -> bytes | None:
        """The message whose turn it is, if one waits."""
        lasting, fleeting = self._lasting, self._fleeting
        if lasting and (not fleeting or lasting[0].number < fleeting[0].number):
            first = lasting.popleft()
            self._lasting_bytes -= len(first.message)
        elif fleeting:
            first = fleeting.popleft()
            self._fleeting_bytes -= len(first.message)
        else:
            return None
        if first.sent is not None:
            first.sent()
        return first.message
