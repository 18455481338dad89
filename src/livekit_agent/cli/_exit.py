"""How a command ends: the exit codes, and an error as one line with a hint.

Codes 64 and above are sysexits.h's.  A process manager may act on them: 69 and 75 are worth a restart, 77 and 78 are
not, 70 is a bug of ours or a handler that would not stop.

=========  =====================================================================
0          done; drained
1          an error in the user's own code, or a server that says no to a request
2          wrong usage
69         the server cannot be reached, or ``serve`` cannot listen
70         an internal error, or a handler that ignored its cancellation
75         gave up after ``--max-connect-failures``
77         the server refused the key or secret
78         the configuration is wrong
130, 143   a second SIGINT or SIGTERM cancelled the jobs
141        nobody reads the output any more, as of a process that SIGPIPE ends
any other  what the user's own code gave ``sys.exit()``
=========  =====================================================================
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from enum import IntEnum
from typing import TYPE_CHECKING, cast

import click

from .._errors import (
    AgentError,
    ApiError,
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    HandlerDefinitionError,
    InvalidJobTypeError,
    RoomConnectError,
    printable,
)

if TYPE_CHECKING:
    from ..config import Config

__all__ = ["ExitCode", "ListenError", "UserCodeError", "exit_code", "only", "report"]


class ExitCode(IntEnum):
    """The table above."""

    OK = 0
    USER = 1
    USAGE = 2
    UNAVAILABLE = 69
    INTERNAL = 70
    GAVE_UP = 75
    AUTH = 77
    CONFIG = 78
    INTERRUPTED = 130
    PIPE = 141


class UserCodeError(AgentError):
    """The user's module or file could not be turned into a worker."""

    code = "USER_CODE"
    default_message = "the agent's code could not be loaded"


class ListenError(AgentError):
    """The dispatch server cannot listen where it should."""

    code = "CANNOT_LISTEN"
    default_message = "cannot listen"


# First match counts, so the special come before the general.
_CODES: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (click.UsageError, ExitCode.USAGE),
    (UserCodeError, ExitCode.USER),
    (ListenError, ExitCode.UNAVAILABLE),
    (HandlerDefinitionError, ExitCode.USER),
    (ConfigError, ExitCode.CONFIG),
    (InvalidJobTypeError, ExitCode.CONFIG),
    (AuthenticationError, ExitCode.AUTH),
    (ConnectionLostError, ExitCode.UNAVAILABLE),
    (AgentError, ExitCode.USER),
    (OSError, ExitCode.UNAVAILABLE),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)


def exit_code(error: BaseException) -> ExitCode | None:
    """The code for ``error``; None for what is not an error of use but a bug, to be shown with its traceback."""
    found = list(leaves(error))
    if found != [error]:
        codes = [exit_code(leaf) for leaf in found]
        return None if None in codes else codes[0]
    if isinstance(error, ApiError):
        return _api_code(error)
    if isinstance(error, RoomConnectError):
        return ExitCode.AUTH if error.code == "ROOM_REFUSED" else ExitCode.UNAVAILABLE
    if isinstance(error, ConnectionLostError) and error.code == "CONNECTION_GAVE_UP":
        return ExitCode.GAVE_UP
    return next((code for kind, code in _CODES if isinstance(error, kind)), None)


def _api_code(error: ApiError) -> ExitCode:
    if error.status in (401, 403):
        return ExitCode.AUTH
    # Status 0: no answer at all.
    return ExitCode.UNAVAILABLE if error.status == 0 or error.status >= 500 else ExitCode.USER


def leaves(error: BaseException) -> Iterator[BaseException]:
    """The errors inside a group, in order."""
    if isinstance(error, BaseExceptionGroup):
        inner = cast("tuple[BaseException, ...]", error.exceptions)
        for each in inner:
            yield from leaves(each)
    else:
        yield error


def report(error: BaseException) -> None:
    """Write each error in one line to stderr, with its hint below."""
    for leaf in leaves(error):
        if isinstance(leaf, KeyboardInterrupt):
            continue
        if isinstance(leaf, click.UsageError):
            message, hint = leaf.format_message(), _usage_hint(leaf)
        elif isinstance(leaf, AgentError):
            message, hint = leaf.message, leaf.hint
        else:
            message, hint = f"{type(leaf).__name__}: {leaf}", ""
        _line("error", "red", message)
        if hint:
            _line("hint", "cyan", hint)


def _line(label: str, colour: str, text: str) -> None:
    click.echo(click.style(f"{label}: ", fg=colour, bold=True) + printable(text, limit=1_000), file=sys.stderr)


def _usage_hint(error: click.UsageError) -> str:
    path = error.ctx.command_path if error.ctx is not None else "livekit-agent"
    return f"`{path} --help` lists what there is"


def only(config: Config, *names: str) -> None:
    """Judge only some fields of ``config``: a command that needs no URL must not ask for one."""
    try:
        config.validate()
    except ExceptionGroup as group:
        faults = [fault for fault in group.exceptions if isinstance(fault, ConfigError) and fault.field in names]
        if faults:
            raise ExceptionGroup(group.message, faults) from None
