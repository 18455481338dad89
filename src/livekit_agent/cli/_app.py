"""The root command and the one place where errors become lines and exit codes."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from .. import PROTOCOL_VERSION, __version__
from ._exit import ExitCode, exit_code, report
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
up, 77 refused, 78 configuration, 130/143 second signal.
"""


@click.group(
    cls=LazyGroup,
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
    except BrokenPipeError:
        # Whoever read our output has seen enough.
        sys.stderr.close()
        return ExitCode.OK
    except BaseException as error:  # boundary: the process ends here, every error must become an exit code
        code = exit_code(error)
        if code is None:
            _report_bug(error)
            return ExitCode.INTERNAL
        report(error)
        return code
    return int(result or 0)


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
