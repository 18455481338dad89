"""Where the log goes when the command line owns the process: one line a record, on stderr.

The library only ever logs to ``logging.getLogger("livekit_agent")``; a program that embeds it decides for itself.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["set_up_logging"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


def set_up_logging(level: str) -> None:
    """Send everything from ``level`` up to stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.WARNING,
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        datefmt="%H:%M:%S",
        force=True,
    )
    logging.getLogger("livekit_agent").setLevel(_LEVELS[level])
