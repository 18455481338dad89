"""The root command and the one place where errors become lines and exit codes.

A reader of our output who goes away (``| head -1``) is no error: the command unwinds, says nothing, and its code is
the one of SIGPIPE, which Python ignores.  Not 0: what did not come to its end must not count as done.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from .. import PROTOCOL_VERSION, __version__
from ._exit import ExitCode, exit_code, leaves, report
from ._help import LazyGroup

__all__ = ["app", "run_command_line"]

_TABLE = {
    "Try it": {
        "demo": ("._demo:demo", "Run a server, three workers and a room in this process, for three seconds."),
        "dev": ("._dev:dev", "Run an agent file, with an embedded server unless LIVEKIT_URL is set."),
    },
    "Run it": {
        "run": ("._run:run", "Run a worker against a LiveKit server."),
        "serve": ("._serve:serve", "Run the dispatch server alone."),
    },
    "Prove it": {
        "simulate": ("._simulate:simulate", "Live through many histories under faults, and check every promise."),
    },
    "Talk to a server": {
        "join": ("._join:join", "Be a participant in a room: chat, data, sound, who is there."),
        "dispatch": ("._dispatch:dispatch", "Create, list or delete agent dispatches."),
        "token": ("._token:token", "Mint a token that lets somebody join a room."),
    },
}

_EPILOG = """\
LIVEKIT_URL, LIVEKIT_API_KEY and LIVEKIT_API_SECRET say which server; each command's --help names the variable and the
default of every option.  Exit codes: 0 done, 1 error in your code, 2 usage, 69 server unavailable, 70 internal, 75 gave
up, 77 refused, 78 configuration, 130/143 second signal, 141 nobody reads the output.
"""


#: What people type who know the commands of livekit-agents.
_OTHERS = {
    "start": "`livekit-agent run MODULE:NAME` runs a worker against a server",
    "console": "`livekit-agent dev FILE` runs the agent, and `livekit-agent join ROOM` in another terminal is you",
    "connect": "`livekit-agent join ROOM` makes a room, into which the running agent is sent; a named one is sent by "
    "`livekit-agent dispatch create ROOM --agent-name NAME`",
    "download-files": "there is nothing to download",
}


class _Root(LazyGroup):
    """Lets a broken pipe through, in a group: of a bare one click makes a SystemExit(1) like any other."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        """Parse; ``--help`` and ``--version`` write here."""
        try:
            return super().make_context(*args, **kwargs)
        except BrokenPipeError as error:
            raise ExceptionGroup("nobody reads", [error]) from None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; with one of another's the error says what it is here."""
        if args and args[0] in _OTHERS:
            raise click.UsageError(f"No such command {args[0]!r}: {_OTHERS[args[0]]}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:
            raise ExceptionGroup("nobody reads", [error]) from None


@click.group(
    cls=_Root,
    table=_TABLE,
    epilog=_EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(
    __version__, prog_name="livekit-agent", message=f"%(prog)s %(version)s (agent protocol {PROTOCOL_VERSION})"
)
def app() -> None:
    """LiveKit agent workers, on trio or asyncio."""


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command.  Errors of use end in one line, a hint and a documented code; a bug of ours in a traceback."""
    try:
        code = _run(arguments)
        if sys.stdout is not None:  # pyright: ignore[reportUnnecessaryComparison] - it is None where none was inherited
            sys.stdout.flush()
    except (BrokenPipeError, SystemExit, BaseExceptionGroup) as error:
        if not _is_broken_pipe(error):
            raise
        _write_to_nobody()
        return ExitCode.PIPE
    return code


def _run(arguments: Sequence[str]) -> int:
    try:
        if not all(map(_is_text, arguments)):
            # No URL, name or token can hold it; found here, it is not some encoder's traceback later.
            raise click.UsageError("an argument is not UTF-8 text")
        result = app.main(args=list(arguments), prog_name="livekit-agent", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), file=sys.stderr)
        return ExitCode.USAGE
    except click.exceptions.Exit as error:
        return error.exit_code
    except click.Abort:
        return ExitCode.INTERRUPTED
    except BaseException as error:  # boundary: the process ends here, every error must become an exit code
        if isinstance(error, SystemExit) or _is_broken_pipe(error):
            raise  # sys.exit() in the user's code means what it always means
        code = exit_code(error)
        if code is None:
            _report_bug(error)
            return ExitCode.INTERNAL
        report(error)
        return code
    return int(result or 0)


def _is_broken_pipe(error: BaseException) -> bool:
    """Nothing but that: of tasks that write, each may have found it broken; rich makes a SystemExit of it."""
    return all(isinstance(e.__context__ if isinstance(e, SystemExit) else e, BrokenPipeError) for e in leaves(error))


def _write_to_nobody() -> None:
    """What a stream still holds for a reader who is gone would be an error when the interpreter ends."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
        except AttributeError:
            pass  # None: it was not there when the process began


def _is_text(argument: str) -> bool:
    try:
        argument.encode()
    except UnicodeEncodeError:
        return False
    return True


def _report_bug(error: BaseException) -> None:
    import traceback

    from .._errors import redact

    click.echo(redact("".join(traceback.format_exception(error))), nl=False, file=sys.stderr)
    click.echo("This is a bug in livekit-agent-sdk; please report it with the lines above.", file=sys.stderr)
