"""Plain frames, built without wsproto: one whole binary message, masked where a client says it.

Nearly all of a connection's frames are plain, and wsproto spends ten times their cost on what they do not have
(fragments, extensions, text, control).  This is the way out of the direct path; the way in is ``FrameGuard.plain``.
Everything else is wsproto's, whose state a plain frame does not touch.  tests/protocol/test_plain_frames.py holds the
two against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import pack

__all__ = ["MaskPool", "plain_frame", "xor"]

#: Above it the four table look-ups of wsproto's masker are as fast as one long integer.
ONE_INTEGER_BYTES = 2048

_BINARY = 0x82
_MASKED = 0x80
_POOL_KEYS = 64
_SHORT = [bytes((_BINARY, second)) for second in range(256)]


class MaskPool:
    """Masking keys, used once each, drawn by the handful: a system call for each would cost as much as the frame.

    :param urandom: gives so many unpredictable bytes.
    """

    __slots__ = ("_keys", "_left", "_urandom")

    def __init__(self, urandom: Callable[[int], bytes]) -> None:
        self._urandom = urandom
        self._keys = b""
        self._left = 0

    def take(self) -> bytes:
        """A fresh key."""
        if not self._left:
            self._keys = self._urandom(4 * _POOL_KEYS)
            self._left = len(self._keys)
        self._left -= 4
        return self._keys[self._left : self._left + 4]


def xor(payload: bytes, key: bytes) -> bytes:
    """Mask or unmask; doing it twice gives the payload back."""
    size = len(payload)
    mask = (key * (size // 4 + 1))[:size]
    return (int.from_bytes(payload, "little") ^ int.from_bytes(mask, "little")).to_bytes(size, "little")


def plain_frame(payload: bytes, key: bytes | None) -> bytes:
    """One unfragmented binary frame in the shortest form of its length; masked with ``key`` if there is one."""
    size = len(payload)
    masked = 0 if key is None else _MASKED
    if size < 126:
        head = _SHORT[masked | size]
    elif size < 2**16:
        head = pack("!BBH", _BINARY, masked | 126, size)
    else:
        head = pack("!BBQ", _BINARY, masked | 127, size)
    return head + payload if key is None else head + key + xor(payload, key)
