"""``livekit-agent token``: a token that lets somebody join a room."""

from __future__ import annotations

import time
from typing import Any

import click

from .._bounds import TOKEN_TTL_MAX
from ._help import Command, Option
from ._options import Duration, read_config

__all__ = ["token"]


def _token_option(*names: str, section: str = "Token", **kwargs: Any) -> Any:
    return click.option(*names, cls=Option, section=section, **kwargs)


@click.command(cls=Command, epilog="The token is printed and nothing else, so that a shell can catch it.")
@_token_option("--room", required=True, metavar="NAME", help="The room to join.")
@_token_option("--identity", required=True, metavar="TEXT", help="Who joins; unique in the room.")
@_token_option("--name", default="", metavar="TEXT", help="The name that others see.")
@_token_option("--metadata", default="", metavar="TEXT", help="Metadata of the participant.")
@_token_option("--ttl", type=Duration(), default="1h", default_text="1h", help="How long it is valid.")
@_token_option("--no-publish", is_flag=True, help="May not publish tracks.")
@_token_option("--no-subscribe", is_flag=True, help="May not receive tracks.")
@_token_option("--no-data", is_flag=True, help="May not send data.")
@_token_option("--hidden", is_flag=True, help="Others do not see the participant.")
@_token_option(
    "--api-key", section="Connection", env="LIVEKIT_API_KEY or LIVEKIT_API_KEY_FILE", metavar="KEY", help="API key."
)
@_token_option(
    "--api-secret",
    section="Connection",
    env="LIVEKIT_API_SECRET or LIVEKIT_API_SECRET_FILE",
    metavar="SECRET",
    help="API secret; seen by whoever lists processes.",
)
def token(room: str, identity: str, name: str, metadata: str, ttl: float, hidden: bool, **flags: Any) -> int:
    """Mint a token that lets IDENTITY join ROOM."""
    from ..protocol import mint_token
    from ._exit import only

    if not room or not identity:
        raise click.UsageError("--room and --identity: expected a name; a server refuses the token without")
    if not 1 <= ttl <= TOKEN_TTL_MAX:
        raise click.UsageError("--ttl: from one second to 100 years")
    config = read_config(flags)
    only(config, "api_key", "api_secret")
    video = {
        "room": room,
        "roomJoin": True,
        "canPublish": not flags["no_publish"],
        "canSubscribe": not flags["no_subscribe"],
        "canPublishData": not flags["no_data"],
        **({"hidden": True} if hidden else {}),
    }
    minted = mint_token(
        config.api_key,
        config.api_secret,
        wall=time.time(),
        ttl=ttl,
        video=video,
        identity=identity,
        name=name,
        metadata=metadata,
    )
    click.echo(minted)
    return 0
