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

_OPCODES = (0x0, 0x1, 0x2, 0x8, 0x9, 0xA)
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
        self._rest: bytes = b""
        self._head = True
        self._lost = False
        self.head: bytes = b""
        """The HTTP head, once it has passed."""

    def feed(self, data: bytes) -> tuple[str, ...]:
        """What ``data`` completes."""
        if self._lost:
            return ()
        if self._rest:
            data = self._rest + data
        kinds: list[str] = []
        position = 0
        if self._head:
            end = data.find(b"\r\n\r\n")
            if end < 0:
                self._rest = data
                return ()
            position = end + 4
            self._head = False
            self.head = data[:position]
            # Behind any other answer than 101 come no frames.
            self._lost = self._server and not data.startswith(b"HTTP/1.1 101")
            kinds.append("refusal" if self._lost else "open")
        while not self._lost:
            kind, end = self._frame(data, position)
            if not kind:
                break
            kinds.append(kind)
            position = end
        self._rest = b"" if self._lost else data[position:]
        return tuple(kinds)

    def _frame(self, data: bytes, at: int) -> tuple[str, int]:
        """The kind of the frame that begins there and where it ends; no kind while it is not complete."""
        if len(data) < at + 2:
            return "", at
        first, second = data[at], data[at + 1]
        opcode, masked, length = first & 0x0F, second & 0x80, second & 0x7F
        if first & 0x70 or opcode not in _OPCODES or bool(masked) is self._server:
            self._lost = True
            return "garbage", at
        body = at + 2
        if length >= 126:
            wide = 2 if length == 126 else 8
            body += wide
            if len(data) < body:
                return "", at
            length = int.from_bytes(data[body - wide : body], "big")
        if masked:
            body += 4
        end = body + length
        if len(data) < end:
            return "", at
        if opcode in _CONTROL:
            return _CONTROL[opcode], end
        tag = data[body] if length else 0
        if masked and length:
            tag ^= data[body - 4]
        return self._names.get(tag >> 3, "unknown"), end


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
