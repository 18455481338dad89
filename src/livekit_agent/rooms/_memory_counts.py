"""How many are in a room, and how many publish: what a server says of it, and when.

A livekit-server counts at its leisure (pkg/rtc/room.go and utils/protoproxy.go of 1.13.5).  A room begins with nobody,
and whoever joins is told the count of the last look, not of the moment.  A change only marks the count as stale; it is
taken anew at once if the last news of it are older than an interval, else at a beat of that interval which began with
the room.  Everybody is told, but only if it has changed.  When the room itself changes, or a recorder comes or goes, it
is counted at once.

Agents and recorders are not participants to it; who has once published is a publisher until it leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from ._enums import ParticipantKind
from ._ledger import RoomLedger
from ._ledger_events import (
    LedgerEvent,
    ParticipantEntered,
    ParticipantGone,
    ParticipantRecord,
    RoomChanged,
    RoomEnded,
    RoomOpened,
    RoomRecord,
)
from ._memory_clock import MemoryClock

__all__ = ["Counts"]

_DEPENDENT = (ParticipantKind.AGENT, ParticipantKind.EGRESS)


@dataclass(slots=True)
class _Count:
    began: float
    told_at: float
    said: tuple[int, int] = (0, 0)
    """Participants, publishers."""
    stale: bool = False
    beat: float = 0.0
    """When it is looked at next; 0: nothing is stale."""


class Counts:
    """The counts of all rooms.

    :param interval: seconds; 0: what changes is told at once.
    :param now: the rooms' own time, which need not be an event loop's.
    :param tell: told of a room whose count has changed.
    """

    def __init__(
        self,
        ledger: RoomLedger,
        clock: MemoryClock,
        interval: float,
        now: Callable[[], float],
        tell: Callable[[RoomRecord], None],
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._interval = interval
        self._now = now
        self._tell = tell
        self._counts: dict[str, _Count] = {}  # by the room's sid

    def of(self, room: RoomRecord) -> tuple[int, int]:
        """Participants and publishers, as they were counted last."""
        count = self._counts.get(room.sid)
        return (0, 0) if count is None else count.said

    def before(self, event: LedgerEvent) -> None:
        """Something happens, which nobody has been told yet."""
        match event:
            case RoomOpened(room=room):
                now = self._now()
                self._counts[room.sid] = _Count(began=now, told_at=now)
            case RoomEnded(room=room):
                self._counts.pop(room.sid, None)
            case RoomChanged(room=room):
                self._look(room)
            case ParticipantEntered(participant=person) | ParticipantGone(participant=person):
                if person.permissions.recorder:
                    self._look(event.room)
            case _:
                pass

    def changed(self, room: RoomRecord) -> None:
        """Something has happened that may change the count, and everybody knows."""
        count = self._counts.get(room.sid)
        if count is None:
            return
        count.stale = True
        now = self._now()
        if self._interval <= 0 or now - count.told_at > self._interval:
            self._refresh(room, count)
        elif not count.beat and self._clock.running:
            beats = math.floor((now - count.began) / self._interval) + 1
            self._await_beat(room, count, count.began + beats * self._interval)

    def _await_beat(self, room: RoomRecord, count: _Count, beat: float) -> None:
        count.beat = beat
        self._clock.later(beat - self._now(), lambda: self._at_beat(room.sid, count))

    def _at_beat(self, sid: str, count: _Count) -> None:
        beat, count.beat = count.beat, 0.0
        room = next((each for each in self._ledger.rooms() if each.sid == sid), None)
        if room is None or not count.stale:
            return
        if beat - count.told_at >= self._interval:
            self._refresh(room, count)
        else:
            self._await_beat(room, count, beat + self._interval)

    def _refresh(self, room: RoomRecord, count: _Count) -> None:
        if self._look(room):
            self._tell(room)

    def _look(self, room: RoomRecord) -> bool:
        """Count; whether it has changed."""
        count = self._counts.get(room.sid)
        if count is None:
            return False
        count.stale = False
        people = self._ledger.participants(room.name)
        found = sum(map(_is_participant, people)), sum(person.has_published for person in people)
        if found == count.said:
            return False
        count.said, count.told_at = found, self._now()
        return True


def _is_participant(person: ParticipantRecord) -> bool:
    allowed = person.permissions
    return person.kind not in _DEPENDENT and not allowed.agent and not allowed.recorder
