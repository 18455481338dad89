"""A participant's sound or pictures by source, whatever track carries them at the moment.

A track ends when it is unpublished, when our subscription to it is given up, and when the connection was rebuilt: then
it comes back under another id.  Who wants to hear a participant's microphone does not want to know.  This iterator
reads the stream of the current track and, when that ends, waits for the next track of the same source; it ends when
the participant has left or the room is over.  While our own connection is rebuilt everybody seems to leave and to come
back as somebody new; so the participant is looked up by its identity, and nobody counts as gone meanwhile.

Cancelling a wait loses no frame: the streams underneath promise that, and between two of them nothing is held.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Generic, TypeVar

import anyio

from .._errors import RoomClosedError
from ._enums import TrackSource
from ._frames import AudioFrame, VideoFrame
from ._link import Link
from ._media_stream import MediaStatistics, MediaStream
from ._tracks import RemoteTrack, RemoteTrackPublication

__all__ = ["SourceStream"]

F = TypeVar("F", AudioFrame, VideoFrame)


class SourceStream(Generic[F]):
    """Frames of a participant's source; iterate with ``async for``.  For one consumer.

    ``with``, :meth:`close` or the end of the participant's visit closes it.
    """

    def __init__(
        self,
        link: Link,
        identity: str,
        source: TrackSource,
        open_track: Callable[[RemoteTrack], MediaStream[F]],
    ) -> None:
        self._link = link
        self._identity = identity
        self._source = source
        self._open = open_track
        self._stream: MediaStream[F] | None = None
        self._publication: RemoteTrackPublication | None = None
        self._closed = False
        self._reading = False
        self._earlier = MediaStatistics(0, 0, 0, 0)

    @property
    def publication(self) -> RemoteTrackPublication | None:
        """What is being read; None between two tracks."""
        return self._publication

    def statistics(self) -> MediaStatistics:
        """What came and what was lost, of all tracks so far."""
        if self._stream is None:
            return self._earlier
        before, now = self._earlier, self._stream.statistics()
        return MediaStatistics(
            received=before.received + now.received,
            dropped=before.dropped + now.dropped,
            overrun=before.overrun + now.overrun,
            waiting=now.waiting,
        )

    def __aiter__(self) -> SourceStream[F]:
        return self

    async def __anext__(self) -> F:
        if self._reading:
            # Not a doorbell's matter: between two tracks it is the room that is waited for.
            raise anyio.BusyResourceError("waiting on")
        self._reading = True
        try:
            while True:
                stream = self._stream
                if stream is None:
                    stream = await self._next_stream()
                try:
                    return await anext(stream)
                except StopAsyncIteration:
                    self._let_go()
        finally:
            self._reading = False

    async def _next_stream(self) -> MediaStream[F]:
        while not self._closed:
            try:
                await self._link.watches.until(lambda: self._here() is not None or self._is_over())
            except RoomClosedError:
                break
            publication = self._here()
            if publication is not None and publication.track is not None:
                self._stream = self._open(publication.track)
                self._publication = publication
                return self._stream
            if self._is_over():
                break
            # A track that came and went again before we ran.
        raise StopAsyncIteration

    def _here(self) -> RemoteTrackPublication | None:
        """The latest publication of the source that we are subscribed to."""
        participant = self._link.people.get(self._identity)
        publications = [] if participant is None else list(participant.track_publications.values())
        for publication in reversed(publications):
            if publication.source == self._source and publication.subscribed:
                return publication
        return None

    def _is_over(self) -> bool:
        gone = self._identity not in self._link.people and not self._link.reconnecting
        return self._closed or self._link.over or gone

    def _let_go(self) -> None:
        self._earlier = self.statistics()._replace(waiting=0)
        self._stream = self._publication = None

    def close(self) -> None:
        """Stop, and forget what waits.  Idempotent."""
        self._closed = True
        if self._stream is not None:
            self._stream.close()
        self._link.watches.look()

    async def aclose(self) -> None:
        """As :meth:`close`, for ``contextlib.aclosing``."""
        self.close()

    def __enter__(self) -> SourceStream[F]:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<SourceStream {self._source.name} of {self._identity!r}{' closed' * self._closed}>"
