"""WebSocket frames made and read by hand, so that tests can say what wsproto would refuse to say.

Nothing here is shared with the code under test.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA

_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame as it was on the wire."""

    opcode: int
    payload: bytes
    fin: bool = True
    masked: bool = False

    @property
    def close_code(self) -> int:
        """The code of a Close frame; 1005 for an empty one."""
        assert self.opcode == CLOSE
        return int.from_bytes(self.payload[:2], "big") if self.payload else 1005


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    mask: bool = False,
    rsv: int = 0,
    declare: int | None = None,
    form: int | None = None,
) -> bytes:
    """One frame.  ``declare`` lies about the length, ``form`` forces 7, 16 or 64 bit lengths."""
    length = len(payload) if declare is None else declare
    if form is None:
        form = 7 if length < 126 else 16 if length < 2**16 else 64
    first = (0x80 if fin else 0) | rsv << 4 | opcode
    head = bytes([first, (0x80 if mask else 0) | {7: length if form == 7 else 0, 16: 126, 64: 127}[form]])
    if form != 7:
        head += length.to_bytes(form // 8, "big")
    if mask:
        key = b"\x11\x22\x33\x44"
        return head + key + bytes(b ^ key[i % 4] for i, b in enumerate(payload))
    return head + payload


def close(code: int | None = 1000, reason: bytes = b"", *, mask: bool = False) -> bytes:
    """A Close frame; None makes an empty one."""
    return frame(CLOSE, b"" if code is None else code.to_bytes(2, "big") + reason, mask=mask)


def read_frames(data: bytes) -> tuple[list[Frame], bytes]:
    """The whole frames of ``data`` and what is left."""
    found: list[Frame] = []
    while len(data) >= 2:
        length, at, masked = data[1] & 0x7F, 2, bool(data[1] & 0x80)
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(data) < 2 + size:
                break
            length, at = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
        key = data[at : at + 4] if masked else b"\0\0\0\0"
        at += 4 if masked else 0
        if len(data) < at + length:
            break
        body = data[at : at + length]
        if masked:
            body = bytes(b ^ key[i % 4] for i, b in enumerate(body))
        found.append(Frame(data[0] & 0x0F, body, bool(data[0] & 0x80), masked))
        data = data[at + length :]
    return found, data


def accept_key(key: str) -> str:
    """The Sec-WebSocket-Accept for a Sec-WebSocket-Key (RFC 6455, 4.2.2)."""
    return base64.b64encode(hashlib.sha1(key.encode() + _GUID).digest()).decode()


def header(head: bytes, name: str) -> str:
    """The value of a header line in an HTTP head; empty if absent."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        key, _, value = line.partition(":")
        if key.strip().lower() == name.lower():
            return value.strip()
    return ""


def switching_protocols(request: bytes, extra: str = "", *, accept: str | None = None) -> bytes:
    """A 101 for an upgrade request."""
    if accept is None:
        accept = accept_key(header(request, "sec-websocket-key"))
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n{extra}\r\n"
    ).encode("latin-1")


def upgrade_request(extra: str = "", *, target: str = "/agent", method: str = "GET") -> bytes:
    """What a client sends first."""
    return (
        f"{method} {target} HTTP/1.1\r\nHost: example:7880\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n{extra}\r\n"
    ).encode("latin-1")


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    """``data`` in pieces of ``size`` bytes."""
    for at in range(0, len(data), size):
        yield data[at : at + size]
