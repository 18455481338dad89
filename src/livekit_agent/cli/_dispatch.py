"""``livekit-agent dispatch create|list|delete``: LiveKit's AgentDispatchService from the shell."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any

import click

from .._errors import printable
from .._types import JobStatus, JobType
from ._help import Command, LazyGroup, Option
from ._options import connection_options, read_config

if TYPE_CHECKING:
    from ..api import Dispatch, LiveKitAPI

__all__ = ["create", "delete", "dispatch", "list_"]

_TABLE = {
    "Commands": {
        "create": ("._dispatch:create", "Send an agent to a room."),
        "list": ("._dispatch:list_", "Show the dispatches of a room and their jobs."),
        "delete": ("._dispatch:delete", "Withdraw a dispatch and end its jobs."),
    }
}


@click.group(cls=LazyGroup, table=_TABLE)
def dispatch() -> None:
    """Create, list or delete agent dispatches."""


def _json_option(function: Any) -> Any:
    return click.option("--json", "as_json", is_flag=True, cls=Option, section="Output", help="Print JSON.")(function)


@click.command(cls=Command)
@click.argument("room")
@click.option(
    "--agent-name", default="", cls=Option, section="Dispatch", metavar="NAME", help="Which agent; none: unnamed."
)
@click.option("--metadata", default="", cls=Option, section="Dispatch", metavar="TEXT", help="Metadata for the job.")
@connection_options
@_json_option
def create(room: str, agent_name: str, metadata: str, as_json: bool, **flags: Any) -> int:
    """Send an agent to ROOM, which is created if it does not exist.

    An unnamed agent is sent into every new room by the server itself; ordered as well, it is there twice.
    """

    async def act(api: LiveKitAPI) -> None:
        made = await api.dispatch.create(room, agent_name=agent_name, metadata=metadata)
        _show([made], as_json)

    return _call(flags, act)


@click.command("list", cls=Command)
@click.argument("room")
@connection_options
@_json_option
def list_(room: str, as_json: bool, **flags: Any) -> int:
    """Show the dispatches of ROOM and their jobs."""

    async def act(api: LiveKitAPI) -> None:
        _show(list(await api.dispatch.list(room)), as_json)

    return _call(flags, act)


@click.command(cls=Command)
@click.argument("room")
@click.argument("dispatch_id", metavar="DISPATCH")
@connection_options
@_json_option
def delete(room: str, dispatch_id: str, as_json: bool, **flags: Any) -> int:
    """Withdraw DISPATCH (AD_…) of ROOM; its running jobs are terminated."""

    async def act(api: LiveKitAPI) -> None:
        _show([await api.dispatch.delete(room, dispatch_id)], as_json)

    return _call(flags, act)


def _call(flags: dict[str, Any], act: Callable[[LiveKitAPI], Awaitable[None]]) -> int:
    import anyio

    config = read_config(flags)
    config.validate()

    async def main() -> None:
        from ..api import LiveKitAPI

        async with LiveKitAPI(
            config.url,
            config.api_key,
            config.api_secret,
            ca_file=config.ca_file,
            proxy=config.proxy,
            allow_plaintext=bool(flags["allow_plaintext"]),
        ) as api:
            await act(api)

    anyio.run(main)
    return 0


def _show(dispatches: list[Dispatch], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps([_plain(item) for item in dispatches], indent=2))
        return
    if not dispatches:
        click.echo("no dispatches")
    for item in dispatches:
        plain = _plain(item)
        # printable: names come from whoever made the dispatch.
        click.echo(printable(f"{plain['id']}  room {plain['room']}  agent {plain['agent_name'] or '(unnamed)'}"))
        for job in plain["jobs"]:
            click.echo(printable(f"  {job['id']}  {job['type']}  {job['status']}  {job['error']}".rstrip()))


def _plain(item: Dispatch) -> dict[str, Any]:
    jobs = [
        {
            "id": job.id,
            "type": _word(JobType, job.type),
            "participant": job.participant,
            "status": _word(JobStatus, job.state.status),
            "error": job.state.error,
        }
        for job in item.jobs
    ]
    return {"id": item.id, "room": item.room, "agent_name": item.agent_name, "jobs": jobs}


def _word(kind: type[IntEnum], number: int) -> str:
    """``success`` for 2; the number itself where a newer server has more of them."""
    try:
        return kind(number).name.lower()
    except ValueError:
        return str(number)
