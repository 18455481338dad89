"""``livekit-agent dev FILE``: run an agent while writing it, with nothing else running.

Without LIVEKIT_URL a dispatch server is embedded.  A visitor may be sent into a room so that there is a job at once;
on a real server that is the same command.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from ..config import Config
from ._help import Command, Option
from ._options import (
    agent_options,
    backend_option,
    check_sound,
    connection_options,
    debug_option,
    flags_given,
    log_option,
    read_config,
    timing_options,
)

if TYPE_CHECKING:
    from ..dispatch import DispatchServer
    from ..runtime._worker import UniversalWorker
    from ._visitor import Door, Visitor

__all__ = ["dev"]

DRAIN_TIME = 2.0
"""Whoever is at the keyboard wants to try again; 30 s are for deployments."""

ELSEWHERE = ("--api-key", "--api-secret", "--ca-file", "--proxy", "--allow-plaintext")
"""What is about a server that is not embedded."""


@click.command(
    cls=Command,
    epilog="The first SIGINT or SIGTERM drains, the second cancels the jobs, the third ends the process at once.",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--room",
    cls=Option,
    section="Visitor",
    metavar="NAME",
    help="Send a visitor into this room, so that the agent gets a job at once.",
)
@click.option(
    "--say",
    cls=Option,
    section="Visitor",
    metavar="TEXT",
    help="What the visitor sends as data; answers are shown.  Needs --room.",
)
@click.option(
    "--chat",
    cls=Option,
    section="Visitor",
    metavar="TEXT",
    help="What the visitor sends as a chat message; answers are shown.  Needs --room.",
)
@click.option(
    "--call",
    cls=Option,
    section="Visitor",
    metavar="'METHOD TEXT'",
    help="The RPC method that the visitor calls, and with what; the answer is shown.  Needs --room.",
)
@click.option(
    "--play",
    cls=Option,
    section="Visitor",
    metavar="FILE|HZ",
    help="What the visitor plays: a WAV file, or two seconds of a tone of so many Hz.  Needs --room.",
)
@connection_options
@agent_options
@timing_options
@log_option
@debug_option
@backend_option
def dev(
    file: str,
    room: str | None,
    say: str | None,
    chat: str | None,
    call: str | None,
    play: str | None,
    backend: Any,
    **flags: Any,
) -> int:
    """Run the agent that FILE holds; a stop drains for 2 s unless --shutdown-timeout says otherwise.

    It takes `handler` from the file, else `make_worker`, else the only handler in it.  Without LIVEKIT_URL or --url, a
    dispatch server is embedded, with its own key and its rooms in memory.
    """
    from ..runtime._run import run, run_in
    from ._load import build_worker, load_file, pick
    from ._logging import set_up_logging
    from ._visitor import Visitor, real_door

    if room is None and any(wish is not None for wish in (say, chat, call, play)):
        raise click.UsageError("--say, --chat, --call and --play need --room, where somebody can hear it")
    if call is not None and not call.strip():
        raise click.UsageError("--call: which method?  For example --call 'add 1 2'")
    if play is not None and not play.isdigit():
        if not Path(play).is_file():
            raise click.UsageError(f"--play: there is no file {play!r}; a number is a tone of so many Hz")
        check_sound(play)
    level = read_config(flags).log_level
    set_up_logging(level)
    module = load_file(file)
    config = read_config(flags)  # now: the file may have put something there, as load_dotenv() does
    if config.log_level != level:  # else whatever the file has set up for itself stands
        set_up_logging(config.log_level)
    if not config.url and (idle := [flag for flag in flags_given(flags) if flag in ELSEWHERE]):
        raise click.UsageError(f"{', '.join(idle)}: no effect without --url; the embedded server has its own key")
    named = pick(module)

    def visitor(door: Door) -> Visitor | None:
        return None if room is None else Visitor(door, room, say=say, chat=chat, call=call, play=play)

    if config.url:
        worker = build_worker(named, module, config, flags, drain=DRAIN_TIME)
        door = real_door(config, worker.options.agent_name, allow_plaintext=bool(flags["allow_plaintext"]))
        guest = visitor(door)
        return run(worker, backend=backend) if guest is None else run_in(_visited(worker, guest), backend=backend)
    return run_in(_embedded(named, module, config, flags, visitor), backend=backend)


def _visited(worker: UniversalWorker, visitor: Visitor) -> Callable[[], AbstractAsyncContextManager[UniversalWorker]]:
    """A worker for a server that is there, and its visitor."""

    @asynccontextmanager
    async def surroundings() -> AsyncGenerator[UniversalWorker]:
        import anyio

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(visitor.visit, worker)
            yield worker
            tasks.cancel_scope.cancel()

    return surroundings


def _embedded(
    named: object,
    module: ModuleType,
    config: Config,
    flags: dict[str, Any],
    visitor: Callable[[Door], Visitor | None],
) -> Callable[[], AbstractAsyncContextManager[UniversalWorker]]:
    """A server around the worker, and perhaps a visitor."""

    @asynccontextmanager
    async def surroundings() -> AsyncGenerator[UniversalWorker]:
        import anyio

        from ..dispatch import DispatchServer
        from ._load import build_worker
        from ._visitor import embedded_door

        async with DispatchServer() as server, anyio.create_task_group() as tasks:
            pointed = config.with_values(
                "the embedded server",
                url=server.url,
                api_key=server.api_key,
                api_secret=server.api_secret,
                rooms=server.rooms,
            )
            worker = build_worker(named, module, pointed, flags, drain=DRAIN_TIME)
            guest = visitor(embedded_door(server, worker.options.agent_name))
            _explain(server, worker.options.agent_name, lonely=guest is None)
            if guest is not None:
                tasks.start_soon(guest.visit, worker)
            yield worker
            tasks.cancel_scope.cancel()

    return surroundings


def _explain(server: DispatchServer, agent_name: str, *, lonely: bool) -> None:
    """How to reach the server from another terminal.  Key and secret live as long as this process and no longer."""
    lines = [
        f"Embedded dispatch server on {server.url}; Ctrl+C ends it.",
        "To meet the agent in a room from another terminal:",
        f"  export LIVEKIT_URL={server.url} LIVEKIT_API_KEY={server.api_key} LIVEKIT_API_SECRET={server.api_secret}",
    ]
    if agent_name:  # an unnamed one is sent into every new room, and ordered as well it would be there twice
        lines.append(f"  livekit-agent dispatch create my-room --agent-name {agent_name}")
    lines.append("  livekit-agent join my-room")
    if lonely:
        lines.append("Or start again with --room NAME, which sends a visitor into a room.")
    click.echo("\n".join(lines), file=sys.stderr)
