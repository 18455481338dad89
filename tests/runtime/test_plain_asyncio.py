"""A worker in a program that runs on plain asyncio, as under any ASGI server: nobody has called ``anyio.run``.

AnyIO finds its backend by the running task.  Callbacks of the loop have none, so whatever a room tells in one must not
depend on that.
"""

from __future__ import annotations

import asyncio

import anyio

from livekit_agent import JobContext, SimpleUniversalHandler, UniversalWorker, events
from livekit_agent.dispatch import DispatchServer


def test_a_closed_room_ends_its_job_there_too() -> None:
    async def assigned(ctx: JobContext) -> None:
        running.set()
        await anyio.sleep_forever()

    async def main() -> None:
        async with DispatchServer() as server:
            handler = SimpleUniversalHandler(job_assigned=assigned)
            worker = UniversalWorker(server.url, server.api_key, server.api_secret, handler, rooms=server.rooms)
            async with worker:
                ends = worker.events(events.JobEnded)
                server.create_dispatch("a room")
                await running.wait()
                assert server.rooms is not None
                server.rooms.delete_room("a room")
                with anyio.fail_after(5):
                    told.append(await anext(ends))

    running = anyio.Event()
    told: list[events.JobEnded] = []
    asyncio.run(main())
    assert [end.reason for end in told] == ["room closed"]
