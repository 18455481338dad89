"""Group B: registration."""

from __future__ import annotations

import math
import time

import anyio
from livekit.protocol import agent as pb
from livekit.protocol import models

from ._frames import BINARY
from ._lab import Lab
from ._verdicts import Broken, Case, Differs, Verdict

__all__ = ["CASES", "check_load"]

#: A field of a newer protocol: number 99, a string.
UNKNOWN = b"\x9a\x06\x05later"


async def first_frame(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        request = await link.registration()
        before = [m.WhichOneof("message") for m in link.messages]
        before = before[: before.index("register")]
        if any(kind != "ping" for kind in before):
            raise Broken(f"before its registration it sends {before}")
        data = [found for found in link.frames if found.opcode < 8]
        if not all(found.opcode == BINARY and found.masked and found.fin for found in data):
            raise Broken("its first message is not one masked binary frame")
        if not request.version:
            raise Broken("its registration names no version")
        return f"type {request.type}, version {request.version}"


async def permissions(lab: Lab) -> str:
    async with lab.worker() as worker:
        request = await (await worker.connection()).registration()
        if not request.HasField("allowed_permissions"):
            return "absent: the server's default"
        if not request.allowed_permissions.ListFields():
            raise Broken("an empty permissions message, which means none at all")
        return "present: " + ", ".join(f.name for f, _ in request.allowed_permissions.ListFields())


def check_load(update: pb.UpdateWorkerStatus) -> None:
    """A load that a server can work with."""
    if not (math.isfinite(update.load) and 0 <= update.load <= 1):
        raise Broken(f"it reports load {update.load}")


async def says_its_load(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        began = time.monotonic()
        update = await link.hear("update_worker")
        check_load(update)
        return f"load {update.load:.2f} {(time.monotonic() - began) * 1000:.0f} ms later"


async def wrong_first_message(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        await link.registration()
        await link.say(pb.ServerMessage(pong=pb.WorkerPong(last_timestamp=0, timestamp=1)))
        await anyio.sleep(0.3)
        tolerates = not link.ended
        if tolerates:
            await link.register()
            await link.works()
            await link.drop()
        second = await worker.connection(20)
        await second.registration()
        job = second.job()
        await second.ask(job)
        await second.wait_close(15)
        if second.heard("availability", lambda a: a.available):
            raise Broken("it accepts an offer before it is registered")
        await worker.back()
        if not tolerates:
            raise Differs("an early pong makes it reconnect; an early offer as well, which is right")
        return "pong tolerated, an early offer ends the connection"


async def no_answer(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        await link.registration()
        began = time.monotonic()
        try:
            await link.wait_close(20)
        except Broken:
            raise Differs("waits longer than 20 s for the answer to its registration") from None
        waited = time.monotonic() - began
        await worker.back()
        return f"gives up after {waited:.1f} s, comes back"


async def closed_while_registering(lab: Lab) -> str:
    async with lab.worker() as worker:
        for _ in range(2):
            link = await worker.connection(20)
            await link.registration()
            await link.drop()
        await (await worker.back()).works()
        return "comes back"


async def bare_answer(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        await link.register(pb.ServerMessage(register=pb.RegisterWorkerResponse()))
        await link.works()
        return "works under no id"


async def second_answer(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("sleep", seconds=1))
        await link.say(pb.ServerMessage(register=pb.RegisterWorkerResponse(worker_id="AW_other")))
        if (final := await link.ended_with(job)) != "SUCCESS":
            raise Broken(f"its job ended with {final}")
        await link.works()
        return "ignored"


async def newer_answer(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        info = models.ServerInfo(version="9.9.9", protocol=99, agent_protocol=9)
        answer = pb.RegisterWorkerResponse(worker_id="AW_new", server_info=info)
        answer.endpoint_settings.SetInParent()
        await link.register(pb.ServerMessage(register=answer), unknown=UNKNOWN)
        await link.works()
        return "accepted"


CASES = (
    Case(number=19, title="first frame: one binary registration", run=first_frame),
    Case(number=20, title="permissions absent or complete", run=permissions),
    Case(number=21, title="bad deployment names refused locally", verdict=Verdict.ADAPTER, why="it is configuration"),
    Case(number=22, title="load and status right after registering", run=says_its_load),
    Case(number=23, title="another message before the registration's answer", run=wrong_first_message, seconds=8),
    Case(number=24, title="no answer to the registration: reconnects", run=no_answer, seconds=16),
    Case(number=25, title="closed during registration: tries again", run=closed_while_registering, seconds=8),
    Case(number=26, title="empty worker id, no server info", run=bare_answer),
    Case(number=27, title="a second registration answer ignored", run=second_answer),
    Case(number=28, title="unknown fields in the registration's answer", run=newer_answer),
)
