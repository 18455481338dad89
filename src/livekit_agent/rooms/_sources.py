"""What audio and video sources share: a native source made at the first publishing, given back after the last."""

from __future__ import annotations

from .._errors import RoomError
from ._link import Link
from ._proto import ffi
from ._transport import Transport

__all__ = ["Source"]


class Source:
    """Where a track's media comes from.  Make it anywhere, publish it, feed it; publish it again later if you like.

    It may feed tracks in several real rooms at once, all in one event loop; in memory, tracks of one participant.
    """

    def __init__(self) -> None:
        self._transport: Transport | None = None
        self._handle = 0
        self._rooms: dict[int, Link] = {}

    def _open(self, link: Link) -> ffi.FfiResponse:
        raise NotImplementedError

    def _forgotten(self) -> None:
        """The native source is gone (for subclasses)."""

    def attach(self, link: Link) -> int:
        """The native handle, for a track in that room."""
        if self._handle and self._transport is not link.transport:
            raise RoomError(
                "a source feeds the rooms of one event loop at a time, and in memory one participant's",
                hint="make another one",
            )
        if not self._handle:
            response = self._open(link)
            self._transport = link.transport
            self._handle = getattr(response, response.WhichOneof("message") or "").source.handle.id
        self._rooms[link.room_handle] = link
        link.attach(self, lambda: self.detach(link))
        return self._handle

    def detach(self, link: Link) -> None:
        """No track of it is left in that room, or the room is over."""
        link.detach(self)
        self._rooms.pop(link.room_handle, None)
        if not self._rooms:
            self.close()

    def close(self) -> None:
        """Give the native source back.  Idempotent; publishing it again makes a new one."""
        handle_id, self._handle = self._handle, 0
        transport, self._transport = self._transport, None
        self._rooms.clear()
        self._forgotten()
        if handle_id and transport is not None:
            transport.drop(handle_id)
