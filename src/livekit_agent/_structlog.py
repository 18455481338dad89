"""A structlog logger behind the logger that the SDK speaks to.

Everything here logs through :mod:`logging` and puts a job's ids on top with a ``LoggerAdapter``.  A structlog logger is
taken by giving that machinery a last link of another kind: a ``logging.Logger`` without handlers or levels of its own
that says each event to the user's logger, with what would be the record's ``extra`` as its fields.  structlog itself is
never imported: whatever has ``bind`` and a method for each level will do.  Layer 3.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from ._options import StructuredLogger

    Logger = logging.Logger | logging.LoggerAdapter[Any]

__all__ = ["logger_of"]

#: The least level of each method, the highest first: a level between two speaks through the lower one.
_METHODS = (
    (logging.CRITICAL, "critical"),
    (logging.ERROR, "error"),
    (logging.WARNING, "warning"),
    (logging.INFO, "info"),
)


def logger_of(given: Logger | StructuredLogger | None, default: str) -> Logger:
    """What to log to for a user's ``logger``; without one, the logger called ``default``."""
    if given is None:
        return logging.getLogger(default)
    if isinstance(given, logging.Logger | logging.LoggerAdapter):
        return given
    return _Structured(given)


class _Enabled(Protocol):
    def __call__(self, level: int, /) -> bool: ...


class _Structured(logging.Logger):
    """Says each event to a structlog logger."""

    def __init__(self, to: StructuredLogger) -> None:
        super().__init__("livekit_agent")
        self._to = to

    def isEnabledFor(self, level: int) -> bool:
        """As the user's logger says; one that cannot be asked drops events by itself."""
        # structlog's filtering loggers have the first name, its wrapper around logging the second.
        ask: _Enabled | None = getattr(self._to, "is_enabled_for", None) or getattr(self._to, "isEnabledFor", None)
        return ask is None or ask(level)

    def _log(
        self,
        level: int,
        msg: object,
        args: object,
        exc_info: object = None,
        extra: Mapping[str, object] | None = None,
        stack_info: bool = False,
        stacklevel: int = 1,
        **fields: object,
    ) -> None:
        """One event.  ``fields`` are keywords that :mod:`logging` does not know: a structlog user's own."""
        said = {**(extra or {}), **fields}
        if exc_info:
            said["exc_info"] = exc_info
        if stack_info:
            said["stack_info"] = True
        method = next((name for least, name in _METHODS if level >= least), "debug")
        try:
            text = logging.LogRecord(self.name, level, "", 0, msg, args, None).getMessage()  # pyright: ignore[reportArgumentType]
            getattr(self._to, method)(text, **said)
        except Exception:
            # Boundary to the user's logger.  As logging does (Handler.handleError): what cannot be logged ends no job.
            if logging.raiseExceptions:
                traceback.print_exc()
