"""The adapter for this package with one thing broken, which the first argument names: proof that the suite can fail."""

from __future__ import annotations

import logging
import os
import sys
from contextlib import suppress
from typing import Any

import wsproto

from livekit_agent import Config, JobContext, UniversalWorker, WorkerOptions, run
from livekit_agent.protocol import _codec, _worker_side
from livekit_agent.rooms import MemoryRooms
from livekit_agent.runtime import _supervisor
from livekit_agent.testing.contracts.adapters.ours import handler


def stale_token() -> None:
    """A: one token for all connections."""
    real, made = _supervisor.worker_token, dict[str, str]()

    def worker_token(*args: Any, **kwargs: Any) -> str:
        return made.setdefault("the one", real(*args, **kwargs))

    _supervisor.worker_token = worker_token


def no_permissions() -> None:
    """B: an empty permissions message, which a server takes literally."""
    real = _codec.register

    def register(registration: Any) -> Any:
        message = real(registration)
        message.register.allowed_permissions.SetInParent()
        return message

    _codec.register = register


def nobody() -> None:
    """C: offers are accepted without an identity."""
    real = _codec.answer

    def answer(job_id: str, metadata: Any, **kwargs: Any) -> Any:
        message = real(job_id, metadata, **kwargs)
        message.availability.participant_identity = ""
        return message

    _codec.answer = answer


def always_success() -> None:
    """D: an error in a job is not reported."""
    work: Any = handler._job_assigned

    async def swallow(ctx: JobContext) -> None:
        with suppress(RuntimeError):
            await work(ctx)

    handler._job_assigned = swallow


def greedy() -> None:
    """E: offers are accepted while draining."""
    _worker_side.WorkerConnection.drain = lambda self, now: None  # type: ignore[method-assign]


def deaf_to_pings() -> None:
    """F: pongs come without the ping's payload."""
    wsproto.events.Ping.response = lambda self: wsproto.events.Pong(payload=b"")  # type: ignore[method-assign]


def brittle() -> None:
    """G: the first garbage frame ends the process."""
    _worker_side.WorkerConnection._on_undecodable = lambda *args: os._exit(9)  # type: ignore[method-assign]


SWITCHES = {
    function.__name__: function
    for function in (stale_token, no_permissions, nobody, always_success, greedy, deaf_to_pings, brittle)
}

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    SWITCHES[sys.argv[1]]()
    config = Config.from_env()
    options = config.options(WorkerOptions(max_jobs=None, shutdown_timeout=6.0))
    sys.exit(run(UniversalWorker(config.url, config.api_key, config.api_secret, handler, options, rooms=MemoryRooms())))
