"""Reading frames as they pass: the network's own view, independent of the core that is being judged.

A :class:`FrameReader` follows one direction of one connection, over the HTTP head and then frame by frame, and says
what has passed: ``open`` for the upgrade's head, ``ping``, ``pong``, ``close``, and for data frames the message's name.

Pure: layer 2.
"""

from __future__ import annotations

from collections.abc import Mapping

from .._bounds import KIB

__all__ = ["WINDOW", "FrameReader", "is_assignment", "split_frames"]

#: Bytes that may be on their way in one direction before ``send`` waits: a socket buffer.
WINDOW = 64 * KIB

_CONTROL: Mapping[int, str] = {0x8: "close", 0x9: "ping", 0xA: "pong"}

#: Field numbers of ServerMessage and WorkerMessage.
_FROM_SERVER: Mapping[int, str] = {
    1: "registered", 2: "offer", 3: "assignment", 4: "pong_message", 5: "termination", 6: "go_away",
}  # fmt: skip
_FROM_WORKER: Mapping[int, str] = {
    1: "register", 2: "answer", 3: "worker_status", 4: "job_status", 5: "ping_message", 6: "simulate", 7: "migrate",
}  # fmt: skip


class FrameReader:
    """One direction.  Feed it what passes; it returns the kinds of what has become complete."""

    def __init__(self, *, server: bool) -> None:
        self._names = _FROM_SERVER if server else _FROM_WORKER
        self._server = server
        self._data = bytearray()
        self._head = True
        self._lost = False
        self.head = b""
        """The HTTP head, once it has passed."""

    def feed(self, data: bytes) -> tuple[str, ...]:
        """What ``data`` completes."""
        if self._lost:
            return ()
        self._data += data
        kinds: list[str] = []
        if self._head:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return ()
            self._head = False
            self.head = bytes(self._data[: end + 4])
            # Behind any other answer than 101 come no frames.
            self._lost = self._server and not self._data.startswith(b"HTTP/1.1 101")
            kinds.append("refusal" if self._lost else "open")
            del self._data[: end + 4]
        while not self._lost and (kind := self._frame()):
            kinds.append(kind)
        return tuple(kinds)

    def _frame(self) -> str:
        data = self._data
        if len(data) < 2:
            return ""
        opcode, masked, length = data[0] & 0x0F, data[1] & 0x80, data[1] & 0x7F
        if data[0] & 0x70 or opcode not in (0x0, 0x1, 0x2, 0x8, 0x9, 0xA) or bool(masked) is self._server:
            self._lost = True
            return "garbage"
        header = 2
        if length >= 126:
            wide = 2 if length == 126 else 8
            if len(data) < 2 + wide:
                return ""
            length = int.from_bytes(data[2 : 2 + wide], "big")
            header = 2 + wide
        body = header + (4 if masked else 0)
        if len(data) < body + length:
            return ""
        first = data[body] if length else 0
        if masked and length:
            first ^= data[header]
        del data[: body + length]
        return _CONTROL.get(opcode) or self._names.get(first >> 3, "unknown")


def split_frames(data: bytes) -> list[bytes] | None:
    """A server's bytes as whole, unmasked frames; None if they are not that."""
    frames: list[bytes] = []
    position = 0
    while position < len(data):
        if len(data) - position < 2:
            return None
        length, header = data[position + 1] & 0x7F, 2
        if length == 126:
            length, header = int.from_bytes(data[position + 2 : position + 4], "big"), 4
        elif length == 127:
            length, header = int.from_bytes(data[position + 2 : position + 10], "big"), 10
        end = position + header + length
        if end > len(data):
            return None
        frames.append(data[position:end])
        position = end
    return frames


def is_assignment(frame: bytes) -> bool:
    """Whether a server frame holds a JobAssignment (field 3 of ServerMessage)."""
    header = {126: 4, 127: 10}.get(frame[1] & 0x7F, 2)
    return frame[0] & 0x0F == 0x2 and len(frame) > header and frame[header] >> 3 == 3
