"""Who is there: waiting for somebody or something, and a task for each participant for as long as it is there.

A wait looks first and then again after each event (``_watch``), so it does not matter whether what it waits for came
before it or after.

:meth:`Room.per_participant` is a block.  Each participant that is there, or comes while the block lasts, gets a task
with a scope of its own, which is cancelled when it leaves; leaving the block cancels them all and waits for them.  One
visit at a time: who comes back while the task of its earlier visit is still cleaning up waits for that.  An error in
one of them ends the block, as in any task group.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeVar, overload

import anyio
import anyio.abc

from .. import events
from ._enums import ParticipantKind, ParticipantState, TrackKind, TrackSource
from ._link import Link
from ._participants import RemoteParticipant
from ._preconnect import TOPIC, PreconnectListener
from ._stream_inbox import StreamListener
from ._streams import ByteStreamReader
from ._subscription import Subscription
from ._tracks import RemoteTrack, RemoteTrackPublication

__all__ = ["Presence"]

Entry = Callable[[RemoteParticipant], Awaitable[None]]
Who = Callable[[RemoteParticipant], bool]
T = TypeVar("T")
E = TypeVar("E", bound=events.RoomEvent)


def everybody(_: RemoteParticipant) -> bool:
    """True."""
    return True


class Presence:
    """The part of a room that waits for people and tracks."""

    _link: Link

    @property
    def remote_participants(self) -> Mapping[str, RemoteParticipant]:
        """Everybody else, by identity (live)."""
        return self._link.people

    @overload
    def subscribe(self, *, replay: bool = False) -> Subscription[events.RoomEvent]: ...
    @overload
    def subscribe(self, *types: type[E], replay: bool = False) -> Subscription[E]: ...
    def subscribe(self, *types: type[Any], replay: bool = False) -> Subscription[Any]:
        """Events from now on."""
        raise NotImplementedError

    async def wait_until(self, condition: Callable[[], T | None], timeout: float = math.inf) -> T:
        """What ``condition`` returns, as soon as that is true: ``await room.wait_until(lambda: room.metadata)``.

        It is asked at once, so what is already true is not missed, and after each event of the room, in the same
        step, so neither is what is true for a moment only.  It must be quick, and look at nothing but the room.
        Raises what it raises, :class:`TimeoutError` after ``timeout`` seconds, and :class:`RoomClosedError` when the
        room ends before.
        """
        return await self._link.watches.until(condition, timeout)

    async def wait_for_participant(
        self,
        identity: str | None = None,
        *,
        kind: ParticipantKind | None = None,
        active: bool = False,
        where: Who | None = None,
        timeout: float = math.inf,
    ) -> RemoteParticipant:
        """Somebody who is there, or comes, and fits all that is given; the first, in the order of joining.

        ``active``: whose media is connected, so that what we send reaches it.  ``where`` may look at attributes,
        metadata and tracks as well; it is asked again whenever something changes.  Raises as :meth:`wait_until`.
        """

        def there() -> RemoteParticipant | None:
            return self._find_participant(identity, kind=kind, active=active, where=where)

        return await self.wait_until(there, timeout)

    async def wait_for_publication(
        self,
        identity: str | None = None,
        *,
        kind: TrackKind | None = None,
        source: TrackSource | None = None,
        name: str | None = None,
        timeout: float = math.inf,
    ) -> RemoteTrackPublication:
        """A published track, subscribed or not, that fits all that is given.  Raises as :meth:`wait_until`."""

        def there() -> RemoteTrackPublication | None:
            return self._find_publication(identity, kind=kind, source=source, name=name)

        return await self.wait_until(there, timeout)

    async def wait_for_track(
        self,
        identity: str | None = None,
        *,
        kind: TrackKind | None = None,
        source: TrackSource | None = None,
        name: str | None = None,
        timeout: float = math.inf,
    ) -> RemoteTrack:
        """A track that we are subscribed to and that fits all that is given.  Raises as :meth:`wait_until`.

        Does not subscribe: where that is not done by itself, take :meth:`wait_for_publication` first.
        """

        def there() -> RemoteTrack | None:
            found = self._find_publication(identity, kind=kind, source=source, name=name, subscribed=True)
            return None if found is None else found.track

        return await self.wait_until(there, timeout)

    def preconnect_audio(self) -> PreconnectListener:
        """What others recorded before they were connected, as it comes.

        Listen right after joining: what nobody listens to is thrown away.  One listener: ValueError for a second one.
        A recording that cannot be read raises :class:`RoomError` (``PRECONNECT_FORMAT``) and the next one can be read.
        """
        return PreconnectListener(self.byte_streams(TOPIC))

    def byte_streams(self, topic: str | None = None) -> StreamListener[ByteStreamReader]:
        """The byte streams that others send."""
        raise NotImplementedError

    def per_participant(
        self,
        entry: Entry,
        *,
        where: Who = everybody,
    ) -> AbstractAsyncContextManager[None]:
        """Run ``entry(participant)`` for each participant, in a task of its own, for as long as it is there::

            async with room.per_participant(talk_to):
                await ctx.wait_closed()

        For those who are there and those who come while the block lasts, if ``where`` (asked when it comes) says so.
        Cancelled when the participant leaves, the room ends or the block is left, which waits for all of them.  Who
        comes back while its earlier visit is still cleaning up waits for that.  An error in one of them cancels the
        block and the others and is raised from it, in an exception group.
        """
        return _per_participant(self, entry, where)

    def _find_participant(
        self,
        identity: str | None = None,
        *,
        kind: ParticipantKind | None = None,
        active: bool = False,
        where: Who | None = None,
    ) -> RemoteParticipant | None:
        """The first participant, in the order of joining, that fits all that is given."""
        for participant in self.remote_participants.values():
            if (
                (identity is None or participant.identity == identity)
                and (kind is None or participant.kind == kind)
                and (not active or participant.state == ParticipantState.ACTIVE)
                and (where is None or where(participant))
            ):
                return participant
        return None

    def _find_publication(
        self,
        identity: str | None = None,
        *,
        kind: TrackKind | None = None,
        source: TrackSource | None = None,
        name: str | None = None,
        subscribed: bool = False,
    ) -> RemoteTrackPublication | None:
        """The first publication of anybody, or of ``identity``, that fits all that is given."""
        for participant in self.remote_participants.values():
            if identity is None or participant.identity == identity:
                for publication in participant.track_publications.values():
                    if (
                        (kind is None or publication.kind == kind)
                        and (source is None or publication.source == source)
                        and (name is None or publication.name == name)
                        and (not subscribed or publication.subscribed)
                    ):
                        return publication
        return None


class _Place:
    """Where one identity's visits take turns."""

    def __init__(self) -> None:
        self.turn = anyio.Lock()
        self.visits = 0
        self.scope = anyio.CancelScope()
        """The latest visit's."""


class _Visits:
    """The tasks of one block."""

    def __init__(self, entry: Entry, where: Who, group: anyio.abc.TaskGroup) -> None:
        self._entry = entry
        self._where = where
        self._group = group
        self._places: dict[str, _Place] = {}

    async def follow(self, happenings: Subscription[events.ParticipantJoined | events.ParticipantLeft]) -> None:
        """Start and end visits, until the room is over."""
        with happenings:
            async for event in happenings:
                if isinstance(event, events.ParticipantJoined) and self._where(event.participant):
                    self._begin(event.participant)
                elif isinstance(event, events.ParticipantLeft) and event.participant.identity in self._places:
                    self._places[event.participant.identity].scope.cancel()
        for place in self._places.values():
            place.scope.cancel()

    def _begin(self, participant: RemoteParticipant) -> None:
        place = self._places.setdefault(participant.identity, _Place())
        place.visits += 1
        place.scope = anyio.CancelScope()
        self._group.start_soon(self._be_there, participant, place, place.scope)

    async def _be_there(self, participant: RemoteParticipant, place: _Place, scope: anyio.CancelScope) -> None:
        try:
            with scope:
                async with place.turn:
                    await self._entry(participant)
        finally:
            place.visits -= 1
            if not place.visits:
                del self._places[participant.identity]


@asynccontextmanager
async def _per_participant(room: Presence, entry: Entry, where: Who) -> AsyncGenerator[None]:
    """Run ``entry`` for each participant while it is there (see :meth:`Room.per_participant`)."""
    # From here on nobody is missed: those who are there come first.
    happenings = room.subscribe(events.ParticipantJoined, events.ParticipantLeft, replay=True)
    async with anyio.create_task_group() as group:
        group.start_soon(_Visits(entry, where, group).follow, happenings)
        try:
            yield
        finally:
            group.cancel_scope.cancel()
