"""Which news does a server keep to itself for a while?  Comings and goings of somebody who publishes nothing.

Whoever comes and goes in that time never was there for the others; whoever is changed, or publishes, is announced at
once.
"""

from __future__ import annotations

from collections.abc import Callable

from ._ledger_events import LedgerEvent, ParticipantChanged, ParticipantEntered, ParticipantGone, ParticipantRecord
from ._memory_clock import MemoryClock

__all__ = ["News"]


class News:
    """What one participant has not been told yet.

    :param delay: seconds for which it is kept.
    :param tell: told in the end.
    """

    def __init__(self, clock: MemoryClock, delay: float, tell: Callable[[LedgerEvent], None]) -> None:
        self._clock = clock
        self._delay = delay
        self._tell = tell
        self._kept: dict[str, LedgerEvent] = {}  # by identity

    def holds(self, event: LedgerEvent, person: ParticipantRecord) -> bool:
        """Whether an event about somebody is kept, or was told in another form."""
        before = self._kept.pop(person.identity, None)
        match event:
            case ParticipantGone() if isinstance(before, ParticipantEntered):
                return True  # it never was there
            case ParticipantChanged() if isinstance(before, ParticipantEntered):
                # Announced at once, as it is now.
                self._tell(ParticipantEntered(room=event.room, participant=person))
                return True
            case ParticipantEntered() | ParticipantGone() if not person.has_published:
                if before is not None:
                    self._tell(before)
                self._kept[person.identity] = event
                self._clock.later(self._delay, lambda: self._tell_late(person.identity, event))
                return True
            case _:
                if before is not None:
                    self._tell(before)
                return False

    def release(self, identity: str) -> None:
        """Tell at once what is kept of somebody."""
        before = self._kept.pop(identity, None)
        if before is not None:
            self._tell(before)

    def keeps_arrival_of(self, identity: str) -> bool:
        """Whether it is not told yet that somebody is there."""
        return isinstance(self._kept.get(identity), ParticipantEntered)

    def _tell_late(self, identity: str, event: LedgerEvent) -> None:
        if self._kept.get(identity) is event:
            del self._kept[identity]
            self._tell(event)
