"""``livekit-agent serve``: the dispatch server alone, for workers and clients in other processes."""

from __future__ import annotations

import signal
from contextlib import AsyncExitStack
from typing import Any

import click

from .._errors import printable
from ._help import Command, Option
from ._options import backend_option, log_option, read_config

__all__ = ["serve"]


def _server_option(*names: str, **kwargs: Any) -> Any:
    return click.option(*names, cls=Option, section="Server", **kwargs)


@click.command(
    cls=Command, epilog="Its rooms are in memory, in this process; docs/dispatch-server.md lists what differs."
)
@_server_option("--host", default="127.0.0.1", default_text="127.0.0.1", help="Address to listen on.")
@_server_option(
    "--port", default=7880, default_text="7880", type=click.IntRange(0, 65_535), help="Port; 0 takes a free one."
)
@_server_option(
    "--api-key", metavar="KEY", env="LIVEKIT_API_KEY or LIVEKIT_API_KEY_FILE", default_text="minted", help="API key."
)
@_server_option(
    "--api-secret",
    metavar="SECRET",
    env="LIVEKIT_API_SECRET or LIVEKIT_API_SECRET_FILE",
    default_text="minted",
    help="API secret; seen by whoever lists processes.",
)
@log_option
@backend_option
def serve(host: str, port: int, backend: str, **flags: Any) -> int:
    """Run the dispatch server: workers register with it, clients dispatch agents through it.

    Without a key and secret it mints a pair for this run and shows it.
    """
    import anyio

    from ._logging import set_up_logging

    config = read_config(flags)
    if bool(config.api_key) != bool(config.api_secret):
        missing = "--api-secret" if config.api_key else "--api-key"
        raise click.UsageError(f"key and secret go together: {missing} is missing")
    set_up_logging(config.log_level)
    anyio.run(_serve, host, port, config.api_key or None, config.api_secret or None, backend=backend)
    return 0


async def _serve(host: str, port: int, api_key: str | None, api_secret: str | None) -> None:
    import anyio

    from ..dispatch import DispatchServer
    from ._exit import ListenError

    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with AsyncExitStack() as stack:
            try:
                server = await stack.enter_async_context(
                    DispatchServer(host=host, port=port, api_key=api_key, api_secret=api_secret)
                )
            except OSError as error:
                raise ListenError(
                    f"cannot listen on {printable(host)}, port {port}: {error.strerror or type(error).__name__}",
                    hint="--port 0 takes a free one; --host is an address of this machine",
                ) from None
            click.echo(f"dispatch server on {server.url}")
            click.echo(f"  export LIVEKIT_URL={server.url} LIVEKIT_API_KEY={server.api_key}")
            if api_secret is None:
                # Minted here, valid for this process only; somebody has to be told it.
                click.echo(f"  export LIVEKIT_API_SECRET={server.api_secret}")
            click.echo("Ctrl+C ends it.")
            async for _ in signals:
                return
