"""Where the log goes when the command line owns the process: one line a record, on stderr.

The library only ever logs to ``logging.getLogger("livekit_agent")``; a program that embeds it decides for itself.
The loggers of the agent's own code are shown at the same level: whoever logs from a handler wants to read it.
"""

from __future__ import annotations

import logging
import sys

__all__ = ["set_up_logging"]

_LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR}


#: Libraries below us that tell of every request and every event loop; from them only what is wrong.
_CHATTY = ("asyncio", "httpcore", "httpx")


def set_up_logging(level: str) -> None:
    """Send everything from ``level`` up to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(lambda record: record.levelno >= logging.WARNING or record.name.split(".")[0] not in _CHATTY)
    handler.setFormatter(_WithJob("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)


class _WithJob(logging.Formatter):
    """Names the job that a record is about, so that one job's lines can be picked out."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The line, with the job's id where the record has one that the text does not say."""
        line = super().formatMessage(record)
        job_id = getattr(record, "job_id", "")
        return f"{line}  [{job_id}]" if job_id and job_id not in line else line
