"""How rooms are joined: the interface, and the real ones."""

from __future__ import annotations

from typing import Protocol

from .._bounds import ROOM_JOIN_TIMEOUT
from .._types import AutoSubscribe
from ._connect_options import DEFAULT_OPTIONS, ConnectOptions
from ._room import Room, join

__all__ = ["NativeRooms", "RoomConnector"]


class RoomConnector(Protocol):
    """Joins rooms."""

    async def connect(
        self,
        url: str,
        token: str,
        *,
        timeout: float = ROOM_JOIN_TIMEOUT,
        auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
    ) -> Room:
        """Join the room that the token names, and subscribe to the tracks that ``auto_subscribe`` says.

        Raises :class:`~livekit_agent.RoomConnectError`, without the token in its text.  Cancellable at any
        checkpoint: an abandoned join is undone by itself, nothing leaks and nobody stays in the room.
        """
        ...


class NativeRooms:
    """Real rooms, through the native library of the ``livekit`` package.

    The library is loaded at the first :meth:`connect`, once per process, and closed quietly at exit.  Works in any
    number of event loops, one after another or on different threads.  Does not go together with ``livekit.rtc`` in
    one process: the library has one callback, and whoever comes last has it.
    """

    def __init__(self, options: ConnectOptions = DEFAULT_OPTIONS) -> None:
        self._options = options
        """How to connect, unless :meth:`connect` is told otherwise."""

    async def connect(
        self,
        url: str,
        token: str,
        *,
        timeout: float = ROOM_JOIN_TIMEOUT,
        auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
        options: ConnectOptions | None = None,
    ) -> Room:
        """Join a room (see :class:`RoomConnector`)."""
        from ._ffi import native_transport

        return await join(
            native_transport(),
            url,
            token,
            timeout=timeout,
            auto_subscribe=auto_subscribe,
            options=options or self._options,
        )
