"""The worker under test, written with this package: ``python -m livekit_agent.testing.contracts.adapters.ours``.

A copy of this file is what a test of *your* options starts from.  Its rooms are memory ones of this process: the
scripted server has none to join, and a ``MemoryRooms`` without keys lets every readable token in.
"""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import anyio

from livekit_agent import (
    Config,
    Job,
    JobContext,
    JobMetadata,
    Reject,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerOptions,
    run,
)
from livekit_agent.rooms import MemoryRooms

handler = SimpleUniversalHandler()


async def obey(ask: dict[str, Any]) -> None:
    """Do what the job's metadata says."""
    match ask.get("do"):
        case "raise":
            raise RuntimeError("asked to raise")
        case "exit":
            sys.exit(3)
        case "hang":
            await anyio.sleep_forever()
        case "sleep":
            await anyio.sleep(float(ask["seconds"]))
        case "ignore-cancel":
            # What the case is about: a handler that protects itself for longer than any budget.
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)
        case _:
            pass


@handler.job_request
async def answer(job: Job) -> JobMetadata | Reject:
    ask = json.loads(job.metadata or "{}")
    if ask.get("at") == "offer":
        await obey(ask)
    if str(ask.get("do")).startswith("reject"):
        return Reject(reason="asked to", terminate=ask["do"] == "reject-terminate")
    return JobMetadata()


@handler.job_assigned
async def work(ctx: JobContext) -> None:
    await obey(json.loads(ctx.job.metadata or "{}"))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, stream=sys.stderr)
    config = Config.from_env()
    options = config.options(WorkerOptions(max_jobs=None, shutdown_timeout=6.0))
    sys.exit(run(UniversalWorker(config.url, config.api_key, config.api_secret, handler, options, rooms=MemoryRooms())))
