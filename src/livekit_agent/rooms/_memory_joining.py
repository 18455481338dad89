"""Rooms in memory: how somebody comes in, with a token or without.

A token's grants become a :class:`Pass`; a join without a token has one from the start, and a one-time ticket that
stands for it.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .._options import is_text
from .._types import NO_ATTRIBUTES, AutoSubscribe, ParticipantPermissions
from ._connect_options import ConnectOptions
from ._enums import ParticipantKind
from ._memory_transport import MemoryTransport
from ._room import Room, join

if TYPE_CHECKING:
    from ._memory import MemoryRooms

__all__ = ["Joining", "Pass", "Refused", "read_token"]

_SOURCES = {"camera": 1, "microphone": 2, "screen_share": 3, "screen_share_audio": 4}
_KINDS = {"": ParticipantKind.STANDARD} | {kind.name.lower(): kind for kind in ParticipantKind}


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """What a token, or a ticket of :meth:`MemoryRooms.join`, entitles to."""

    room: str
    identity: str
    name: str = ""
    metadata: str = ""
    attributes: Mapping[str, str] = NO_ATTRIBUTES
    kind: int = ParticipantKind.STANDARD
    permissions: ParticipantPermissions
    room_config: Mapping[str, object] | None = None

    def __post_init__(self) -> None:
        # Before it is in the ledger: no message could tell of it, and somebody would be left whom nobody hears of.
        said = (self.room, self.identity, self.name, self.metadata, *self.attributes, *self.attributes.values())
        if not all(map(is_text, said)):
            raise ValueError("room, identity, name, metadata and attributes are text, of whole characters")


class Refused(Exception):
    """A join is refused with the error text that the library would give."""


def read_token(token: str, keys: Mapping[str, str] | None, *, wall: float) -> Pass:
    """The token's grants, or a refusal in the real server's words, which quote the token.  ``keys`` None: any token."""
    from ..protocol import TokenError, decode_token, verify_token  # loads PyJWT

    try:
        claims = decode_token(token) if keys is None else verify_token(token, keys, wall=wall)
    except TokenError as exc:
        raise Refused(
            f"signal failure: client error: 401 Unauthorized - invalid token: {token}, error: {exc}"
        ) from None
    video = claims.video
    room = video.get("room")
    if video.get("roomJoin") is not True:
        raise Refused("signal failure: client error: 401 Unauthorized - permissions denied")
    if not isinstance(room, str) or not room or not claims.identity:
        raise Refused("signal failure: client error: 400 Bad Request - room and identity are required")
    return Pass(
        room=room,
        identity=claims.identity,
        name=claims.name,
        metadata=claims.metadata,
        attributes=claims.attributes,
        kind=_KINDS.get(claims.kind.lower(), ParticipantKind.STANDARD),
        permissions=_granted(video),
        room_config=claims.room_config,
    )


def _granted(video: Mapping[str, object]) -> ParticipantPermissions:
    """A token's video grant as permissions; what may be left out of it defaults as on the real server."""

    def allows(name: str, default: bool) -> bool:
        value = video.get(name)
        return value if isinstance(value, bool) else default

    sources = video.get("canPublishSources")
    names: list[Any] = sources if isinstance(sources, list) else []  # pyright: ignore[reportUnknownVariableType]
    return ParticipantPermissions(
        can_subscribe=allows("canSubscribe", True),
        can_publish=allows("canPublish", True),
        can_publish_data=allows("canPublishData", allows("canPublish", True)),
        can_update_metadata=allows("canUpdateOwnMetadata", False),
        can_subscribe_metrics=allows("canSubscribeMetrics", False),
        hidden=allows("hidden", False),
        recorder=allows("recorder", False),
        agent=allows("agent", False),
        can_publish_sources=tuple(_SOURCES[name] for name in names if name in _SOURCES),
    )


class Joining:
    """A join under way: await it for the room, or use it as a context manager that leaves the room at the end."""

    def __init__(
        self,
        rooms: MemoryRooms,
        entry: Pass,
        timeout: float,
        auto_subscribe: AutoSubscribe,
        options: ConnectOptions,
    ) -> None:
        self._rooms = rooms
        self._entry = entry
        self._timeout = timeout
        self._auto_subscribe = auto_subscribe
        self._options = options
        self._room: Room | None = None

    def __await__(self) -> Generator[Any, Any, Room]:
        return self._join().__await__()

    async def _join(self) -> Room:
        ticket = self._rooms.ticket(self._entry)
        return await join(
            MemoryTransport(self._rooms),
            "memory:",
            ticket,
            timeout=self._timeout,
            auto_subscribe=self._auto_subscribe,
            options=self._options,
        )

    async def __aenter__(self) -> Room:
        self._room = await self._join()
        return self._room

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        assert self._room is not None
        await self._room.disconnect()
