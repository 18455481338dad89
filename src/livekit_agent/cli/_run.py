"""``livekit-agent run MODULE:NAME``: a worker against a LiveKit server, until it is told to stop."""

from __future__ import annotations

from typing import Any

import click

from ._help import Command, Option
from ._options import (
    Address,
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
@click.option(
    "--health",
    cls=Option,
    section="Output",
    type=Address(),
    metavar="[HOST:]PORT",
    help="Answer health checks by HTTP: / and /ready, and /worker as JSON.",
)
@backend_option
def run(target: str, backend: Any, health: tuple[str, int] | None, **flags: Any) -> int:
    """Run the worker that MODULE:NAME stands for.

    NAME may be a handler, a handler class, a function that takes the configuration and returns a UniversalWorker, or a
    UniversalWorker.  For a handler, options come from the flags, then the environment, then a WorkerOptions called
    `options` in the module.
    """
    from ..runtime._run import run as run_worker
    from ..runtime._run import run_in
    from ._load import build_worker, load_target
    from ._logging import set_up_logging

    level = read_config(flags).log_level
    set_up_logging(level)
    named, module = load_target(target)
    config = read_config(flags)  # now: the module may have put something there, as load_dotenv() does
    if config.log_level != level:  # else whatever the module has set up for itself stands
        set_up_logging(config.log_level)
    worker = build_worker(named, module, config, flags)
    if health is None:
        return run_worker(worker, backend=backend)
    from ._health import watched

    return run_in(watched(worker, *health), backend=backend)
