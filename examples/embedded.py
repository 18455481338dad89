"""Embedding: a worker as one part of a program that has a life of its own, on either event loop.

python examples/embedded.py         (or: livekit-agent dev examples/embedded.py --room demo)

A worker owns no loop, no signals and no process: it is an async context manager.  Here it runs beside a clock, against
a dispatch server in the same program; put your own URL, key and secret in its place.
"""

from itertools import count

import anyio

from livekit_agent import JobContext, SimpleUniversalHandler, UniversalWorker, WorkerOptions
from livekit_agent.dispatch import DispatchServer
from livekit_agent.events import DataReceived

handler = SimpleUniversalHandler()
served: list[str] = []


@handler.job_assigned
async def serve(ctx: JobContext) -> None:
    served.append(ctx.job.room.name)
    await ctx.room.local_participant.publish_data(f"served {len(served)}")


async def clock() -> None:
    for second in count(1):
        await anyio.sleep(1)
        print(f"{second} s")


async def main() -> None:
    async with DispatchServer() as server, anyio.create_task_group() as program:
        program.start_soon(clock)
        worker = UniversalWorker(
            server.url, server.api_key, server.api_secret, handler, WorkerOptions(max_jobs=10), rooms=server.rooms
        )
        async with worker:  # registered from here on
            async with server.rooms.join("lobby", "alice") as room:
                answer = await room.wait_for(DataReceived, timeout=5)
                print(f"{room.name}: {answer.data.decode()}")
        # Left: drained, reported, rooms left, nothing running.
        print(worker.status, worker.stats.completed_jobs)
        program.cancel_scope.cancel()


if __name__ == "__main__":
    anyio.run(main, backend="trio")
