"""Reading what the SDK logs while histories are lived through: no record, at any level, may show a secret.

The simulation's key and secret are known, and every token begins alike, so a leak is found by its text.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Generator
from contextlib import contextmanager

from .._bounds import LEAKS_KEPT_MAX

__all__ = ["Eavesdropper", "overheard"]


class Eavesdropper(logging.Handler):
    """Reads every record, as text and with its traceback, and keeps the first hundred that show a secret."""

    SECRETS = re.compile(r"simsecret|(?<!\w)eyJ[\w-]{7}")
    """The key's secret, and how every token begins; inside of a word the three letters are an id's, by chance."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.read = 0
        self.leaks: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Read a record."""
        text = self.format(record)
        self.read += 1
        if self.SECRETS.search(text) and len(self.leaks) < LEAKS_KEPT_MAX:
            self.leaks.append(text)


@contextmanager
def overheard() -> Generator[Eavesdropper]:
    """Our loggers at DEBUG; nobody else hears them, for a run's warnings are what is being simulated."""
    ours, ear = logging.getLogger("livekit_agent"), Eavesdropper()
    before = ours.level, ours.propagate
    ours.addHandler(ear)
    ours.setLevel(logging.DEBUG)
    ours.propagate = False
    try:
        yield ear
    finally:
        ours.removeHandler(ear)
        ours.level, ours.propagate = before
