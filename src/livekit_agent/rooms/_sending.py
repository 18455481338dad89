"""What every way of sending checks before it asks the library: may we, and is the room still there?

The server drops what a participant without the permission sends, and says nothing; the library then waits for an answer
that never comes, or for none at all.  So the question is asked here, and answered at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import anyio.lowlevel

from .._errors import printable
from ._link import Link

if TYPE_CHECKING:
    from ._model import ParticipantState

__all__ = ["Sending", "identities"]


def identities(destinations: Sequence[str]) -> list[str]:
    """To whom something goes.  One name is no list of names: it would go to its letters, of whom nobody is there."""
    if isinstance(destinations, str):
        raise ValueError(
            f"destination_identities is a list of identities; [{printable(destinations, 80)!r}] was meant?"
        )
    return list(destinations)


class Sending:
    """The part of the local participant that its ways of sending share."""

    _link: Link
    _state: ParticipantState

    async def _check_may_send(self, what: str) -> None:
        """A checkpoint; then :class:`RoomClosedError` or :class:`RoomPermissionError`."""
        await anyio.lowlevel.checkpoint_if_cancelled()
        self._link.check_open()
        self._link.demand("can_publish_data", what, "canPublishData")
