"""A worker of livekit-agents (the peer), run by its own interpreter.  One JSON object per line on stdout.

Arguments: agent name, ``thread`` or ``process``, number of idle executors.  The server's address comes from the
environment, as that framework likes it.  ``t`` is the monotonic clock, which all processes of a machine share.
"""

import asyncio
import json
import os
import sys
import time

from livekit.agents import AgentServer, JobContext, JobExecutorType, JobRequest


def say(event: str, **fields: object) -> None:
    os.write(1, (json.dumps({"event": event, "t": time.monotonic(), **fields}) + "\n").encode())


async def entrypoint(ctx: JobContext) -> None:
    say("job", id=ctx.job.id, room=ctx.job.room.name, metadata=ctx.job.metadata)
    ctx.shutdown(reason="done")


async def request(req: JobRequest) -> None:
    say("offer", id=req.id)
    await req.accept()


async def main() -> None:
    name, executor, idle = sys.argv[1], sys.argv[2], int(sys.argv[3])
    server = AgentServer(
        job_executor_type=JobExecutorType.THREAD if executor == "thread" else JobExecutorType.PROCESS,
        num_idle_processes=idle,
        load_fnc=lambda: 0.0,
        host="127.0.0.1",
        port=0,
    )
    server.rtc_session(entrypoint, agent_name=name, on_request=request)
    server.on("worker_registered", lambda worker_id, info: say("registered", id=worker_id))
    await server.run()


if __name__ == "__main__":
    asyncio.run(main())
