"""The command ``livekit-agent`` and ``python -m livekit_agent``: a door that also opens without the ``[cli]`` extra.

The library does not need click or rich, so an installation without them is a whole one; whoever types the command there
learns in one line how to get it.  Everything else is in ``livekit_agent.cli``.
"""

from __future__ import annotations

import sys

_MISSING = "livekit-agent: the command line needs the [cli] extra: pip install 'livekit-agent-sdk[cli]'"


def main() -> int:
    """Run the command line.  Returns the exit code."""
    try:
        import click as _click
        import rich as _rich
    except ModuleNotFoundError as missing:
        if missing.name not in ("click", "rich"):
            raise
        print(_MISSING, file=sys.stderr)
        return 2
    del _click, _rich
    from livekit_agent.cli._app import run_command_line

    return run_command_line(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
