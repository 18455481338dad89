"""``livekit-agent run MODULE:NAME``: a worker against a LiveKit server, until it is told to stop."""

from __future__ import annotations

from typing import Any

import click

from ._help import Command
from ._options import (
    agent_options,
    backend_option,
    connection_options,
    debug_option,
    log_option,
    read_config,
    timing_options,
)

__all__ = ["run"]


@click.command(
    cls=Command,
    epilog="The first SIGINT or SIGTERM drains, the second cancels the jobs, the third ends the process at once.",
)
@click.argument("target", metavar="MODULE:NAME")
@connection_options
@agent_options
@timing_options
@log_option
@debug_option
@backend_option
def run(target: str, backend: Any, **flags: Any) -> int:
    """Run the worker that MODULE:NAME stands for.

    NAME may be a handler, a handler class, a function that takes the configuration and returns a UniversalWorker, or a
    UniversalWorker.  For a handler, options come from the flags, then the environment, then a WorkerOptions called
    `options` in the module.
    """
    from ..runtime._run import run as run_worker
    from ._load import build_worker, load_target
    from ._logging import set_up_logging

    config = read_config(flags)
    set_up_logging(config.log_level)
    named, module = load_target(target)
    worker = build_worker(named, module, config, flags)
    return run_worker(worker, backend=backend)
