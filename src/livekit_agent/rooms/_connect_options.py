"""How a connection to a room is made: what the native library can be told, as one value.

How often and for how long a broken connection is rebuilt is the library's own business; it cannot be told.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from ._proto import room

if TYPE_CHECKING:
    from ._encryption import Encryption

__all__ = ["ConnectOptions", "IceServer", "IceTransport", "Scenario"]


class IceTransport(IntEnum):
    """By which ways media may go."""

    RELAY = 0
    """Only by TURN servers."""
    NO_HOST = 1
    """Not by addresses of this machine's own."""
    ALL = 2


class Scenario(IntEnum):
    """What can be made to happen to a connection (:meth:`Room.simulate`)."""

    SIGNAL_RECONNECT = 0
    """The signalling breaks; it is resumed, everything is as it was (3 s)."""
    SPEAKER = 1
    """The server says for some seconds that we speak."""
    NODE_FAILURE = 2
    """The server node fails."""
    SERVER_LEAVE = 3
    """The server sends us away."""
    MIGRATION = 4
    """The server moves us to another node."""
    FORCE_TCP = 5
    FORCE_TLS = 6
    FULL_RECONNECT = 7
    """The connection is made anew: a new sid, tracks published anew."""
    DISCONNECT_SIGNAL_ON_RESUME = 8
    """The server breaks the signalling while it is being resumed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IceServer:
    """A STUN or TURN server to use besides, or instead of, those that the server names."""

    urls: tuple[str, ...]
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectOptions:
    """How to connect.  Fields that are None leave it to the library."""

    fallback_urls: tuple[str, ...] = ()
    """Where to try next when a server cannot be reached; a server that refuses the token ends it."""
    attempt_timeout: float = 5.0
    """Seconds for one attempt at signalling; media have 15 s of their own."""
    join_retries: int = 0
    """How often the library tries again by itself.  Its retries go on for up to 15 s each after a join was given up."""
    single_peer_connection: bool | None = None
    """One connection for both directions, which is the library's default."""
    adaptive_stream: bool = False
    """Let the server choose the quality of what we watch by its shown size; there is none here."""
    dynacast: bool = False
    """Do not encode the layers of our video that nobody watches."""
    ice_servers: tuple[IceServer, ...] = ()
    ice_transport: IceTransport | None = None
    gather_continually: bool | None = None
    """Look for new ways while connected, as for a machine that changes networks."""
    stream_payload_bytes: int | None = None
    """The largest text or byte stream that the library takes in."""
    encryption: Encryption | None = None
    """End-to-end encryption of media and data; None: none."""

    def message(self, *, auto_subscribe: bool, timeout: float) -> room.RoomOptions:
        """As the library's message, for an attempt of at most ``timeout`` seconds."""
        options = room.RoomOptions(
            auto_subscribe=auto_subscribe,
            adaptive_stream=self.adaptive_stream,
            dynacast=self.dynacast,
            join_retries=self.join_retries,
            connect_timeout_ms=round(1000 * min(timeout, self.attempt_timeout)),
        )
        if self.single_peer_connection is not None:
            options.single_peer_connection = self.single_peer_connection
        if self.stream_payload_bytes is not None:
            options.data_stream.max_payload_byte_length = self.stream_payload_bytes
        if self.encryption is not None:
            options.encryption.CopyFrom(self.encryption.message())
        config = options.rtc_config
        for server in self.ice_servers:
            config.ice_servers.add(urls=server.urls, username=server.username, password=server.password)
        if self.ice_transport is not None:
            transport: Any = self.ice_transport.value
            config.ice_transport_type = transport
        if self.gather_continually is not None:
            policy: Any = room.GATHER_CONTINUALLY if self.gather_continually else room.GATHER_ONCE
            config.continual_gathering_policy = policy
        if not config.ListFields():
            options.ClearField("rtc_config")
        return options


DEFAULT_OPTIONS = ConnectOptions()
