"""Sizes of WebSocket frames, judged at their headers.

wsproto has no limit of its own: it accepts a declared length of 2**62 and fragments without end.  So the bytes pass
here first, and a frame that would break a bound is refused *before* its body arrives.
"""

from __future__ import annotations

from .._bounds import FRAGMENTS_MAX, FRAMES_AT_ONCE_MAX, MESSAGE_BYTES_MAX

__all__ = ["FrameGuard"]

#: First byte of a frame that is a whole binary message.
_PLAIN = 0x82

_OPCODES = frozenset((0x0, 0x1, 0x2, 0x8, 0x9, 0xA))


class FrameGuard:
    """Follows frame headers through a byte stream and finds the first that announces more than the bounds allow.

    It judges sizes only.  A header that is illegal by itself is left to wsproto, which refuses it at the same byte or
    before; otherwise the verdict on a frame with two faults would depend on how the bytes were cut.
    """

    def __init__(self, *, masked: bool) -> None:
        self._masked = masked
        self._header = bytearray()
        self._body_left = 0
        self._message_bytes = 0
        self._fragments = 0
        self._open = False
        """A message has begun and not ended."""
        self._illegal = False

    def plain(self, data: bytes, position: int) -> tuple[list[tuple[int, int]], int]:
        """Where the payloads lie of the whole plain frames at ``position``, a hundred at most, and where they end.

        Plain is what needs no state: one unfragmented binary message within the bounds, its length in the short or the
        middle form and no longer than need be, with nothing open before it.  Its payload is still masked where the
        peer's frames are; the key precedes it.
        """
        found: list[tuple[int, int]] = []
        size, masked = len(data), self._masked
        if self._header or self._body_left or self._open or self._illegal:
            return found, position
        while size >= position + 2 and data[position] == _PLAIN and len(found) < FRAMES_AT_ONCE_MAX:
            length, start = data[position + 1], position + 2
            if masked:
                length -= 0x80
                start += 4
            if length == 126 and size >= position + 4:
                length = data[position + 2] << 8 | data[position + 3]
                start += 2
                if length < 126 or length > MESSAGE_BYTES_MAX:
                    break
            elif not 0 <= length < 126:
                break
            end = start + length
            if end > size:
                break
            found.append((start, end))
            position = end
        if found:
            # What an illegal continuation behind them would be added to.
            self._message_bytes, self._fragments = found[-1][1] - found[-1][0], 1
        return found, position

    def excess(self, data: bytes) -> int | None:
        """Follow ``data``; how many of its bytes precede a header that announces too much, None without such a one."""
        position, size = 0, len(data)
        while position < size and not self._illegal:
            if self._body_left:
                step = min(self._body_left, size - position)
                position += step
                self._body_left -= step
                continue
            self._header.append(data[position])
            position += 1
            header = self._header
            if len(header) == 2:
                self._illegal = _illegal(header, self._masked)
            if len(header) < 2 or len(header) < _header_size(header):
                continue
            self._header = bytearray()
            length = _payload_length(header)
            self._illegal |= length >= 2**63
            if header[0] & 0x0F < 0x8 and not self._illegal:
                if self._too_much(header[0] & 0x0F, length):
                    return max(position - len(header), 0)
                self._open = not header[0] & 0x80
            self._body_left = length + (4 if self._masked else 0)
        return None

    def _too_much(self, opcode: int, length: int) -> bool:
        if opcode:
            self._message_bytes = self._fragments = 0
        self._message_bytes += length
        self._fragments += 1
        return self._message_bytes > MESSAGE_BYTES_MAX or self._fragments > FRAGMENTS_MAX


def _illegal(header: bytearray, masked: bool) -> bool:
    """Whether wsproto refuses a frame that begins like this, whatever follows."""
    first, second = header
    opcode = first & 0x0F
    control = opcode >= 0x8 and (not first & 0x80 or second & 0x7F > 125)
    return bool(control or first & 0x70 or opcode not in _OPCODES or bool(second & 0x80) is not masked)


def _header_size(header: bytearray) -> int:
    """Of the header up to the length; the mask is counted with the body."""
    length = header[1] & 0x7F
    return 2 + (2 if length == 126 else 8 if length == 127 else 0)


def _payload_length(header: bytearray) -> int:
    return int.from_bytes(header[2:], "big") if len(header) > 2 else header[1] & 0x7F
