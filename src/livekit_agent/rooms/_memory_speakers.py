"""Rooms in memory: who speaks, found as a server finds it, by how loud what somebody publishes is.

Somebody speaks from the first loud sound of one of its tracks until none has been loud for a moment; all in a room
hear of each change, in the order in which they began.  A muted track is not heard.  What
:meth:`MemoryRooms.set_speakers` says stands beside it, until somebody next begins or ends to speak.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ._memory import MemoryRooms

__all__ = ["Speakers"]

_LOUD = 583
"""35 dB below full scale, as a 16-bit sample."""

_LASTS = 0.5
"""How long somebody still counts as speaking after a loud sound."""


class Speakers:
    """The tracks that are loud, room by room."""

    def __init__(self, rooms: MemoryRooms) -> None:
        self._rooms = rooms
        self._homes: dict[str, tuple[str, str]] = {}  # track sid -> (room, identity)
        self._until: dict[str, float] = {}  # track sid -> until when it counts as loud

    def publish(self, sid: str, room: str, identity: str) -> None:
        """There is such a track."""
        self._homes[sid] = (room, identity)

    def over(self, sid: str) -> None:
        """It is gone, or muted: it is not loud."""
        if self._until.pop(sid, None) is not None:
            self._tell(self._homes[sid][0])

    def forget(self, sid: str) -> None:
        """It is gone for good."""
        self.over(sid)
        self._homes.pop(sid, None)

    def hear(self, sid: str, sound: bytes) -> None:
        """What one of the tracks plays now."""
        if sid not in self._homes or not loud(sound):
            return
        began = sid not in self._until
        self._until[sid] = self._rooms.now() + _LASTS
        if began:
            self._tell(self._homes[sid][0])
            self._rooms.clock.later(_LASTS, lambda: self._check(sid))

    def _check(self, sid: str) -> None:
        until = self._until.get(sid)
        if until is None:
            return
        left = until - self._rooms.now()
        if left > 0:
            self._rooms.clock.later(left, lambda: self._check(sid))
        else:
            self.over(sid)

    def _tell(self, room: str) -> None:
        speaking = [self._homes[sid][1] for sid in self._until if self._homes[sid][0] == room]
        self._rooms.set_speakers(room, list(dict.fromkeys(speaking)))


def loud(sound: bytes) -> bool:
    """Whether 16-bit samples have a peak that counts as speech.  Silence is recognised without looking at samples."""
    if not sound.strip(b"\0"):
        return False
    samples = memoryview(sound).cast("h")
    return max(samples) >= _LOUD or min(samples) <= -_LOUD
