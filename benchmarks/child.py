"""A worker in a process of its own, so that memory, wake-ups and start can be seen from outside.

    python -m benchmarks.child idle|held|rate|start  ours|raw|dependencies  asyncio|trio  URL  [agent name]

Prints one JSON object per line: ``registered`` with the monotonic moment, and for each start of a job nothing at all.
It ends when its stdin does.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import anyio
import anyio.to_thread


def say(event: str, **fields: object) -> None:
    os.write(1, (json.dumps({"event": event, "t": time.monotonic(), **fields}) + "\n").encode())


async def until_stdin_ends() -> None:
    """The parent closes our stdin when it has seen enough."""
    os.set_blocking(0, False)
    while True:
        await anyio.wait_readable(0)
        try:
            if not os.read(0, 1024):
                return
        except BlockingIOError:
            continue


async def two_children_and_a_stream(group: Any) -> None:
    """What a held job holds besides itself."""
    send, receive = anyio.create_memory_object_stream[bytes](8)

    async def reader() -> None:
        async with receive:
            async for _ in receive:
                pass

    group.start_soon(reader)
    group.start_soon(anyio.sleep_forever)
    async with send:
        await anyio.sleep_forever()


async def ours(mode: str, url: str, name: str) -> None:
    from .ours import NoRooms, Started, make_worker

    rooms: Any = NoRooms()
    if mode == "start":
        from livekit_agent.rooms import NativeRooms
        from livekit_agent.rooms._ffi import native_transport

        native_transport()  # a worker loads the library at its first join; here it is part of the start
        rooms = NativeRooms()

    async def hold(ctx: Any) -> None:
        await two_children_and_a_stream(ctx.task_group)

    worker = make_worker(url, Started(lambda *_: None, None if mode == "rate" else hold), name=name, rooms=rooms)
    async with worker:
        say("registered")
        await until_stdin_ends()
        await worker.stop(timeout=0)


async def raw(mode: str, url: str, name: str) -> None:
    from .ours import KEY, SECRET
    from .raw import raw_worker

    kept: list[object] = []

    async def hold(job: Any) -> None:
        if mode == "rate":
            await worker.finished(job.id)
            return
        kept.append(job)
        async with anyio.create_task_group() as group:
            await two_children_and_a_stream(group)

    async def loop(worker: Any) -> None:
        async with anyio.create_task_group() as jobs:
            while True:
                message = await worker.next_message()
                match message.WhichOneof("message"):
                    case "availability":
                        await worker.accept(message.availability.job)
                    case "assignment":
                        jobs.start_soon(hold, message.assignment.job)
                    case _:
                        pass

    async with raw_worker(url, KEY, SECRET, name) as worker, anyio.create_task_group() as group:
        group.start_soon(loop, worker)
        say("registered")
        await until_stdin_ends()
        group.cancel_scope.cancel()


async def dependencies(mode: str, url: str, name: str) -> None:
    """What any worker loads, and nothing done with it."""
    import h11
    import jwt
    import psutil
    import wsproto
    from google.protobuf import json_format
    from livekit.protocol import agent, models

    assert all((h11, jwt, psutil, wsproto, json_format, agent, models))
    say("registered")
    await until_stdin_ends()


if __name__ == "__main__":
    _, mode, who, backend, url, *rest = sys.argv
    anyio.run(
        {"ours": ours, "raw": raw, "dependencies": dependencies}[who],
        mode,
        url,
        rest[0] if rest else "",
        backend=backend,
    )
