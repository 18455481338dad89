# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""The worker under test, written with livekit-agents; run by an interpreter that has it: ``python peer.py start``."""

import asyncio
import json
import math
import os

from livekit.agents import AgentServer, JobContext, JobRequest, cli


async def obey(ask: dict) -> None:
    """Do what the job's metadata says."""
    match ask.get("do"):
        case "raise":
            raise RuntimeError("asked to raise")
        case "exit":
            os._exit(3)
        case "hang":
            await asyncio.sleep(3600)
        case "sleep":
            await asyncio.sleep(float(ask["seconds"]))
        case "ignore-cancel":
            for _ in range(60):
                try:
                    await asyncio.sleep(1)
                except asyncio.CancelledError:
                    continue


async def entrypoint(ctx: JobContext) -> None:
    # No ctx.connect(): there is no room.  And its job ends not by returning, but when it is told to.
    await obey(json.loads(ctx.job.metadata or "{}"))
    ctx.shutdown(reason="done")


async def request(req: JobRequest) -> None:
    ask = json.loads(req.job.metadata or "{}")
    if ask.get("at") == "offer":
        await obey(ask)
    if str(ask.get("do")).startswith("reject"):
        await req.reject(terminate=ask["do"] == "reject-terminate")
    else:
        await req.accept()


# Its own load figure is the machine's, which is not what is judged; without a threshold it takes any number of jobs.
server = AgentServer(
    load_fnc=lambda: 0.1, load_threshold=math.inf, num_idle_processes=1, drain_timeout=6, host="127.0.0.1", port=0
)
server.rtc_session(entrypoint, on_request=request)

if __name__ == "__main__":
    cli.run_app(server)
