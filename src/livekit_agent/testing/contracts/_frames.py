"""WebSocket frames by hand: what a worker sent, seen without the code that it may be made of, and what no library says.

:class:`FrameLog` reads a worker's bytes behind its request head; :func:`frame` makes any frame of a server, broken ones
included.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["BINARY", "CLOSE", "CONTINUATION", "PING", "PONG", "TEXT", "Frame", "FrameLog", "close_frame", "frame"]

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_KEPT_BYTES_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """One frame of the worker's, unmasked."""

    opcode: int
    payload: bytes
    fin: bool
    masked: bool

    @property
    def close_code(self) -> int:
        """The code of a Close frame; 1005 stands for none."""
        return int.from_bytes(self.payload[:2], "big") if len(self.payload) >= 2 else 1005


class FrameLog:
    """The frames in a stream of bytes."""

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames that ``data`` completes."""
        self._data += data
        if len(self._data) > _KEPT_BYTES_MAX:
            raise MemoryError("the worker began a frame and does not end it")
        frames: list[Frame] = []
        while (found := self._next()) is not None:
            frames.append(found)
        return frames

    def _next(self) -> Frame | None:
        data = self._data
        if len(data) < 2:
            return None
        length, body = data[1] & 0x7F, 2
        if length >= 126:
            body += 2 if length == 126 else 8
            if len(data) < body:
                return None
            length = int.from_bytes(data[2:body], "big")
        masked = bool(data[1] & 0x80)
        key = bytes(data[body : body + 4]) if masked else b""
        body += len(key)
        if len(data) < body + length:
            return None
        payload = bytes(data[body : body + length])
        if key and payload:
            mask = (key * (length // 4 + 1))[:length]
            payload = (int.from_bytes(payload, "big") ^ int.from_bytes(mask, "big")).to_bytes(length, "big")
        found = Frame(opcode=data[0] & 0x0F, payload=payload, fin=bool(data[0] & 0x80), masked=masked)
        del data[: body + length]
        return found


def frame(
    opcode: int, payload: bytes = b"", *, fin: bool = True, mask: bool = False, rsv: int = 0, declare: int | None = None
) -> bytes:
    """A frame of the server's.  ``declare`` lies about its length."""
    length = len(payload) if declare is None else declare
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    flag = 0x80 if mask else 0
    if length < 126:
        head = bytes([first, flag | length])
    elif length < 1 << 16:
        head = bytes([first, flag | 126]) + length.to_bytes(2, "big")
    else:
        head = bytes([first, flag | 127]) + length.to_bytes(8, "big")
    # A mask of zeros leaves the payload as it is.
    return head + (bytes(4) if mask else b"") + payload


def close_frame(code: int | None, reason: str = "") -> bytes:
    """A Close frame; None makes an empty one."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason.encode())
