"""Rooms wherever the server has them: real ones over WebRTC, or in the memory of an embedded dispatch server.

Which of the two, the server says: a real one sends a worker no URL with a job, or that of a LiveKit node; an embedded
one sends ``memory:/rooms/v1``, its rooms, at that path of the very place where the worker is connected.  So proxies,
TLS and base paths need no second configuration.  Whoever has no assignment asks the server (:meth:`ServerRooms.join`).

Tasks: one for each connection to a room in memory, for as long as the room lasts, in the group of the ``async with``
block.  Real rooms need none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import anyio
from anyio.abc import ByteStream

from .._bounds import HANDSHAKE_TIMEOUT, READ_BYTES_MAX, ROOM_JOIN_TIMEOUT
from .._errors import ConnectionLostError, LocalProtocolError, RoomConnectError, printable
from .._types import AutoSubscribe
from ..protocol import Role
from ..protocol._websocket import Accepted, Failed, Item, Refused, WebSocket
from ._service_group import ServiceGroup, open_service_group
from ._transport import Connector, Endpoint, NetworkConnector, parse_url

if TYPE_CHECKING:
    from ..rooms import ConnectOptions, Encryption, NativeRooms, Room
    from ..rooms._remote_transport import RemoteTransport

__all__ = ["ServerRooms"]

_MEMORY = "memory:"
_NOT_FOUND = 404


class ServerRooms(anyio.AsyncContextManagerMixin):
    """The rooms of one server: ``async with ServerRooms(url) as rooms``.

    It is a :class:`~livekit_agent.rooms.RoomConnector`, and what a worker without ``rooms`` of its own uses.

    :param url: the server, as for :class:`~livekit_agent.UniversalWorker`.
    :param connector: how it is reached; None is the network.

    Leaving the block ends the rooms in memory that are still open (reason 0); real ones are their users' to leave.
    Raises ConfigError for a bad URL.
    """

    def __init__(self, url: str, *, connector: Connector | None = None, allow_plaintext: bool = False) -> None:
        self._endpoint = parse_url(url, allow_plaintext=allow_plaintext)
        self._connector = connector or NetworkConnector()
        self._native: NativeRooms | None = None
        self._lines: ServiceGroup | None = None

    @asynccontextmanager
    async def __asynccontextmanager__(self) -> AsyncGenerator[ServerRooms]:
        async with open_service_group() as self._lines:
            try:
                yield self
            finally:
                lines, self._lines = self._lines, None
                lines.cancel()

    async def connect(
        self,
        url: str,
        token: str,
        *,
        timeout: float = ROOM_JOIN_TIMEOUT,
        auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
        options: ConnectOptions | None = None,
    ) -> Room:
        """Join the room that the token names, at an assignment's ``url``, or at the server's own if that is empty.

        Raises RoomConnectError, whose text never contains the token.  Cancel-safe: an abandoned join leaves nobody in
        the room.
        """
        if url.startswith(_MEMORY):
            encryption = None if options is None else options.encryption
            if encryption is not None and encryption.ratchet_window:
                # It is not told the keys, only whether they are the same, so it finds none that follows from another.
                raise RoomConnectError(
                    "rooms in a server's memory try no ratcheted keys",
                    code="ROOM_UNSUPPORTED",
                    hint="join with ratchet_window=0 and ratchet the key at every participant",
                )
            return await self._in_memory(url.removeprefix(_MEMORY), token, timeout, auto_subscribe, encryption)
        if self._native is None:
            from ..rooms import NativeRooms

            self._native = NativeRooms()
        address = url or self._endpoint.url
        return await self._native.connect(
            address, token, timeout=timeout, auto_subscribe=auto_subscribe, options=options
        )

    async def join(
        self,
        token: str,
        *,
        timeout: float = ROOM_JOIN_TIMEOUT,
        auto_subscribe: AutoSubscribe = AutoSubscribe.EVERYTHING,
    ) -> Room:
        """Join the room that the token names, without knowing where the server has its rooms: it is asked.

        An embedded server takes the connection; a real one answers 404, and is joined over WebRTC.
        """
        from ..rooms._remote_wire import PATH

        try:
            return await self._in_memory(PATH, token, timeout, auto_subscribe)
        except _NoSuchPlace:
            return await self.connect("", token, timeout=timeout, auto_subscribe=auto_subscribe)

    # --- rooms in a server's memory -------------------------------------------------------------------------------

    async def _in_memory(
        self,
        path: str,
        token: str,
        timeout: float,
        auto_subscribe: AutoSubscribe,
        encryption: Encryption | None = None,
    ) -> Room:
        from ..rooms._connect_options import ConnectOptions
        from ..rooms._remote_transport import RemoteTransport
        from ..rooms._remote_wire import PATH
        from ..rooms._room import join

        if path != PATH:
            raise RoomConnectError(
                f"the server has its rooms at {printable(path, 80)}, which this version does not know",
                hint=f"this one knows {PATH}; use the same version of livekit-agent-sdk on both sides",
            )
        if self._lines is None:
            raise RoomConnectError(
                "rooms in a server's memory need a task group", hint="use `async with ServerRooms(...) as rooms:`"
            )
        line, url = _Line(RemoteTransport()), self._endpoint.url
        try:
            with anyio.fail_after(timeout):
                await line.open(self._connector, self._endpoint, path, token)
                self._lines.start_soon(line.run)
                options = ConnectOptions(encryption=encryption)
                return await join(
                    line.transport, url, token, timeout=timeout, auto_subscribe=auto_subscribe, options=options
                )
        except TimeoutError:
            await line.close()
            raise RoomConnectError(f"the room was not joined within {timeout:g} s") from None
        except BaseException:
            # Whatever ends the attempt: without its connection, nobody stays in the room.
            await line.close()
            raise


class _NoSuchPlace(RoomConnectError):
    """The server has no rooms of ours."""


class _Line:
    """One connection to a room in a server's memory."""

    def __init__(self, transport: RemoteTransport) -> None:
        self.transport = transport
        self._socket = WebSocket(Role.WORKER)
        self._stream: ByteStream | None = None
        self._first: list[Item] = []
        self._scope = anyio.CancelScope()

    async def open(self, connector: Connector, endpoint: Endpoint, path: str, token: str) -> None:
        """Reach the server and upgrade.  Raises RoomConnectError."""
        base, query = _base(endpoint)
        try:
            self._socket.request_upgrade(
                endpoint.authority, f"{base}{path}{query}", {"authorization": f"Bearer {token}"}
            )
            with anyio.fail_after(HANDSHAKE_TIMEOUT):
                self._stream = await connector(endpoint)
                await self._stream.send(self._socket.take_outbox())
                while not self._first:
                    self._first = await self._receive(self._stream)
        except TimeoutError:
            raise RoomConnectError(f"the server did not answer within {HANDSHAKE_TIMEOUT:g} s") from None
        except LocalProtocolError as exc:
            raise RoomConnectError(exc.message) from None
        except ConnectionLostError as exc:
            hint = exc.hint or "is a LiveKit server listening there?"
            raise RoomConnectError(f"could not reach the room's server: {exc.message}", hint=hint) from None
        except (anyio.EndOfStream, anyio.BrokenResourceError, OSError):
            raise RoomConnectError("the server closed the connection instead of answering") from None
        answer = self._first.pop(0)
        if isinstance(answer, Refused):
            raise _refusal(answer)
        if not isinstance(answer, Accepted):
            why = answer.reason if isinstance(answer, Failed) else "an unexpected answer"
            raise RoomConnectError(f"no WebSocket to the room's server: {printable(why, 160)}")

    async def _receive(self, stream: ByteStream) -> list[Item]:
        try:
            return list(self._socket.receive_data(await stream.receive(READ_BYTES_MAX)))
        except anyio.EndOfStream:
            if ended := list(self._socket.receive_eof()):
                return ended  # a refusal whose body is as long as the stream
            raise

    async def run(self) -> None:
        """Carry messages until the room or the connection is over."""
        from ..rooms._remote_carrier import carry

        assert self._stream is not None
        why = "it was closed"
        try:
            with self._scope:
                why = await carry(self._stream, self._socket, self.transport, self._first)
        finally:
            self.transport.lost(why)
            await self.close()

    async def close(self) -> None:
        """Now, without a word.  Idempotent."""
        self._scope.cancel()
        if self._stream is not None:
            await anyio.aclose_forcefully(self._stream)


def _base(endpoint: Endpoint) -> tuple[str, str]:
    """The base path and the query that the worker's own connection has too."""
    parts = urlsplit(endpoint.url)
    return parts.path, f"?{parts.query}" if parts.query else ""


def _refusal(answer: Refused) -> RoomConnectError:
    text = printable(answer.body.decode(errors="replace").strip(), 300)
    message = f"could not join the room: HTTP {answer.status}" + f": {text}" * bool(text)
    if answer.status == _NOT_FOUND:
        return _NoSuchPlace(message, hint="is that an embedded dispatch server (livekit-agent serve or dev)?")
    if answer.status == 401:
        hint = "the server does not accept the token: wrong key or secret, expired, or without roomJoin"
        return RoomConnectError(message, hint=hint, code="ROOM_REFUSED")
    return RoomConnectError(message)
