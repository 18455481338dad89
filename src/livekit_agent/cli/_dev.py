"""``livekit-agent dev FILE``: run an agent while writing it, with nothing else running.

Without LIVEKIT_URL a dispatch server is embedded, and a visitor may be sent into a room so that there is a job at once:
its rooms are in this process's memory, where nobody else could walk in.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import click

from ..config import Config
from ._help import Command, Option
from ._options import agent_options, backend_option, connection_options, log_option, read_config, timing_options

if TYPE_CHECKING:
    from ..dispatch import DispatchServer
    from ..rooms import Room
    from ..runtime._worker import UniversalWorker

__all__ = ["dev"]

VISITOR = "visitor"
SAY_TIMEOUT = 5.0
DRAIN_TIME = 2.0
"""Whoever is at the keyboard wants to try again; 30 s are for deployments."""


@click.command(
    cls=Command,
    epilog="The first SIGINT or SIGTERM drains, the second cancels the jobs, the third ends the process at once.",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False))
@click.option(
    "--room",
    cls=Option,
    section="Embedded server",
    metavar="NAME",
    help="Send a visitor into this room, so that the agent gets a job at once.",
)
@click.option(
    "--say",
    cls=Option,
    section="Embedded server",
    metavar="TEXT",
    help="What the visitor sends as data; answers are shown.  Needs --room.",
)
@connection_options
@agent_options
@timing_options
@log_option
@backend_option
def dev(file: str, room: str | None, say: str | None, backend: Any, **flags: Any) -> int:
    """Run the agent that FILE holds; a stop drains for 2 s unless --shutdown-timeout says otherwise.

    It takes `handler` from the file, else `make_worker`, else the only handler in it.  Without LIVEKIT_URL or --url, a
    dispatch server is embedded, with its own key and its rooms in memory.
    """
    from ..runtime._run import run, run_in
    from ._load import build_worker, load_file, pick
    from ._logging import set_up_logging

    if say is not None and room is None:
        raise click.UsageError("--say needs --room, where somebody can hear it")
    config = read_config(flags)
    set_up_logging(config.log_level)
    module = load_file(file)
    named = pick(module)
    if config.url:
        if room is not None:
            raise click.UsageError("--room is for the embedded server; there is a LIVEKIT_URL or --url")
        return run(build_worker(named, module, config, flags, drain=DRAIN_TIME), backend=backend)
    return run_in(_embedded(named, module, config, flags, room, say), backend=backend)


def _embedded(
    named: object, module: ModuleType, config: Config, flags: dict[str, Any], room: str | None, say: str | None
) -> Callable[[], AbstractAsyncContextManager[UniversalWorker]]:
    """A server around the worker, and perhaps a visitor."""

    @asynccontextmanager
    async def surroundings() -> AsyncGenerator[UniversalWorker]:
        import anyio

        from ..dispatch import DispatchServer
        from ._load import build_worker

        async with DispatchServer() as server, anyio.create_task_group() as tasks:
            pointed = config.with_values(
                "the embedded server",
                url=server.url,
                api_key=server.api_key,
                api_secret=server.api_secret,
                rooms=server.rooms,
            )
            worker = build_worker(named, module, pointed, flags, drain=DRAIN_TIME)
            _explain(server, worker.options.agent_name, room)
            if room is not None:
                tasks.start_soon(_visit, server, worker, room, say)
            yield worker
            tasks.cancel_scope.cancel()

    return surroundings


def _explain(server: DispatchServer, agent_name: str, room: str | None) -> None:
    """How to reach the server from another terminal.  Key and secret live as long as this process and no longer."""
    name = f" --agent-name {agent_name}" if agent_name else ""
    lines = [
        f"Embedded dispatch server on {server.url}; Ctrl+C ends it.",
        "To send the agent a job from another terminal:",
        f"  export LIVEKIT_URL={server.url} LIVEKIT_API_KEY={server.api_key} LIVEKIT_API_SECRET={server.api_secret}",
        f"  livekit-agent dispatch create my-room{name}",
    ]
    if room is None:
        lines.append("Or start again with --room NAME, which sends a visitor into a room.")
    click.echo("\n".join(lines), file=sys.stderr)


async def _visit(server: DispatchServer, worker: UniversalWorker, room: str, say: str | None) -> None:
    """Once the worker is there: enter the room, publish (a publisher agent waits for that), talk."""
    from ..events import Registered
    from ..rooms import AudioSource

    async for _ in worker.events(Registered):
        break
    if worker.options.agent_name:
        server.create_dispatch(room, worker.options.agent_name)
    async with server.rooms.join(room, VISITOR, name="Visitor") as here:
        click.echo(f"{VISITOR}: in room {room!r}")
        await here.local_participant.publish_audio(AudioSource(), name="microphone")
        await _talk(here, say)


async def _talk(room: Room, say: str | None) -> None:
    """Say it when the agent is there, and show what comes back until the room ends."""
    from ..events import DataReceived, ParticipantJoined

    packets: Any
    with room.subscribe(DataReceived) as packets:
        if say is not None:
            await room.wait_for(ParticipantJoined, timeout=SAY_TIMEOUT)
            click.echo(f"{VISITOR}: {say}")
            await room.local_participant.publish_data(say)
        async for packet in packets:
            sender = packet.participant.identity if packet.participant else "server"
            click.echo(f"{sender}: {packet.data.decode(errors='replace')}")
