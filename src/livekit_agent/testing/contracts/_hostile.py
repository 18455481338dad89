"""Group G: a hostile or broken server."""

from __future__ import annotations

import time

import anyio
from google.protobuf import json_format
from livekit.protocol import agent as pb

from ._connect import token_of
from ._frames import BINARY, CONTINUATION, PING, TEXT, close_frame, frame
from ._lab import Lab, Worker, poll
from ._link import Link
from ._registration import UNKNOWN
from ._verdicts import Broken, Case, Differs, Verdict

__all__ = ["CASES"]

_GARBAGE = (bytes.fromhex("ff" * 10), b"HTTP/1.1 200 OK\r\n\r\n", bytes(range(200, 256)))
_MALFORMED = {
    "truncated": bytes.fromhex("0a1a0a04"),
    "wire type 6": bytes.fromhex("0e00"),
    "wire type 7": bytes.fromhex("0f00"),
    "field number 0": bytes.fromhex("0200"),
    "invalid UTF-8": bytes.fromhex("2a040a02c328"),
}


async def _go_on(worker: Worker, link: Link) -> str:
    """The worker lives: on this connection, or on the next."""
    await anyio.sleep(0.3)
    if not worker.alive:
        raise Broken(f"the worker has died{worker.fate()}")
    if link.ended:
        await (await worker.back()).works()
        return "reconnects"
    await link.works()
    return "dropped"


async def garbage(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("sleep", seconds=3))
        await link.running(job)
        for data in _GARBAGE[:2]:
            await link.write(frame(BINARY, data))
        await anyio.sleep(0.3)
        said = await _go_on(worker, link)
        if "FAILED" in link.final(job) or (len(worker.links) > 1 and "FAILED" in worker.links[-1].final(job)):
            raise Broken("a garbage frame fails a job")
        return said


async def nothing_known(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        for data in (b"", bytes.fromhex("7a00"), bytes.fromhex("2801")):
            await link.write(frame(BINARY, data))
        await link.works()
        return "ignored"


async def newer_server(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = link.job()
        job.state.status = 99  # pyright: ignore[reportAttributeAccessIssue] - that is the point
        raw = job.SerializeToString() + UNKNOWN
        # AvailabilityRequest{1: job}, inside ServerMessage{2: availability}; both with a field nobody knows.
        inner = b"\x0a" + _varint(len(raw)) + raw + UNKNOWN
        await link.write(frame(BINARY, b"\x12" + _varint(len(inner)) + inner + UNKNOWN))
        answer = await link.hear("availability", lambda a: a.job_id == job.id, within=2.8)
        if not answer.available:
            raise Broken("it declines a job because of what it does not know")
        await link.assign(job)
        await link.ended_with(job)
        return "taken"


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 127:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


async def malformed(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        for name, data in _MALFORMED.items():
            if link.ended:
                link = await worker.back()
            await link.write(frame(BINARY, data))
            await anyio.sleep(0.2)
            if not worker.alive:
                raise Broken(f"{name} ends the worker{worker.fate()}")
        return await _go_on(worker, link)


async def text_frames(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = link.job()
        offer = pb.ServerMessage(availability=pb.AvailabilityRequest(job=job))
        await link.write(frame(TEXT, json_format.MessageToJson(offer).encode()))
        await anyio.sleep(0.5)
        said = "read" if link.heard("availability", lambda a: a.job_id == job.id) else "ignored"
        if not worker.alive or link.ended:
            raise Broken(f"a text frame ends the connection{worker.fate()}")
        await link.write(frame(TEXT, b'{"\xc3\x28": 1}'))
        code = await link.wait_close(5)
        if code != 1007:
            raise Broken(f"invalid UTF-8 in a text frame is closed with {code} in place of 1007")
        await (await worker.back()).works()
        return f"JSON {said}; invalid UTF-8 closed with 1007"


async def fragments(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = link.job(pad="f" * 3000)
        data = pb.ServerMessage(availability=pb.AvailabilityRequest(job=job)).SerializeToString()
        size = len(data) // 100 + 1
        parts = [data[at : at + size] for at in range(0, len(data), size)]
        await link.write(frame(BINARY, parts[0], fin=False))
        await link.write(frame(PING, b"between"))
        await link.wait(lambda: b"between" in link.pongs(), "no pong between two fragments", 3)
        for part in parts[1:-1]:
            await link.write(frame(CONTINUATION, part, fin=False) + frame(PING, b"p"))
        await link.write(frame(CONTINUATION, parts[-1]))
        answer = await link.hear("availability", lambda a: a.job_id == job.id, within=3)
        if answer.available:
            await link.assign(job)
            await link.ended_with(job)
        return f"{len(parts)} fragments reassembled, pings answered"


_VIOLATIONS = {
    "a continuation without a start": frame(CONTINUATION, b"x"),
    "a new message inside a fragmented one": frame(BINARY, b"x", fin=False) + frame(BINARY, b"y"),
    "a reserved opcode": frame(0x3, b"x"),
    "a reserved control opcode": frame(0xB, b"x"),
    "a reserved bit": frame(BINARY, b"x", rsv=4),
    "a masked frame": frame(BINARY, b"x", mask=True),
    "a control frame of 126 bytes": frame(PING, bytes(126)),
    "a fragmented control frame": frame(PING, b"x", fin=False),
}


async def violations(lab: Lab) -> str:
    wrong: list[str] = []
    rows = list(_VIOLATIONS.items())
    async with anyio.create_task_group() as tasks:

        async def show(some: list[tuple[str, bytes]]) -> None:
            async with lab.worker() as worker:
                link = await worker.registered()
                for name, data in some:
                    await link.write(data)
                    try:
                        if (code := await link.wait_close(3)) != 1002:
                            wrong.append(f"{name}: {code}")
                    except Broken:
                        wrong.append(f"{name}: tolerated")
                        await link.drop()
                    link = await worker.back(30)
                await link.works()

        tasks.start_soon(show, rows[:4])
        tasks.start_soon(show, rows[4:])
    if wrong:
        raise Broken("not closed with 1002: " + "; ".join(wrong))
    return f"{len(rows)} violations closed with 1002"


async def endless_message(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        await link.write(frame(BINARY, b"x", declare=2**62))
        try:
            code = await link.wait_close(5)
        except Broken:
            raise Broken("a frame of 2^62 bytes is waited for") from None
        link = await worker.back()
        piece = bytes(1 << 20)
        before = worker.memory()
        sent = 0
        for index in range(40):
            await link.write(frame(CONTINUATION if index else BINARY, piece, fin=False))
            sent = index + 1
            if link.ended or link.heard("close") or any(found.opcode == 8 for found in link.frames):
                break
        else:
            await anyio.sleep(1.0)
            if not link.ended and not any(found.opcode == 8 for found in link.frames):
                raise Broken("a message of 40 MiB in fragments is collected without a limit")
        grown = (worker.memory() - before) >> 20
        await (await worker.back()).works()
        if code != 1009:
            raise Differs(f"2^62 bytes are refused with {code} in place of 1009")
        return f"Close 1009 at once; fragments cut within {sent} MiB, memory +{grown} MiB"


async def flood(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        await link.works()
        before = worker.memory()
        began = time.monotonic()
        tiny = frame(BINARY, b"") * 1000
        for _ in range(50):
            await link.write(tiny)
        await link.works()
        took = time.monotonic() - began
        grown = (worker.memory() - before) >> 20
        if grown > 100:
            raise Broken(f"50,000 tiny frames cost {grown} MiB of memory")
        return f"50,000 frames in {took:.1f} s, memory +{grown} MiB"


async def close_codes(lab: Lab) -> str:
    wrong: list[str] = []
    rows: list[tuple[int | None, str]] = [
        (1000, ""), (1001, "going away"), (None, ""), (1008, "policy"),
        (1011, ""), (1012, "restart"), (1013, ""), (4000, "own"),
    ]  # fmt: skip
    async with anyio.create_task_group() as tasks:

        async def show(some: list[tuple[int | None, str]]) -> None:
            async with lab.worker() as worker:
                link = await worker.registered()
                job = await link.start(link.job("hang"))
                await link.running(job)
                for code, reason in some:
                    link.automatic = False
                    await link.write(close_frame(code, reason))
                    echo = await link.wait_close(4)
                    if echo != (1005 if code is None else code):
                        wrong.append(f"{code} answered with {echo}")
                    await link.drop()
                    link = await worker.back(30)
                    if link.final(job):
                        raise Broken(f"Close {code} ends the running job")

        tasks.start_soon(show, rows[:4])
        tasks.start_soon(show, rows[4:])
    if wrong:
        raise Differs("; ".join(wrong))
    return "eight codes echoed, the worker comes back, its job goes on"


async def torn(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("hang"))
        await link.running(job)
        for how in ("eof", "reset", "mid-frame"):
            if how == "mid-frame":
                await link.write(frame(BINARY, b"half a message", declare=200))
            await link.drop(reset=how == "reset")
            link = await worker.back(20)
            if link.final(job):
                raise Broken(f"{how} ends the running job")
        return "EOF, RST and a torn frame: back each time, the job goes on"


async def glued_and_dribbled(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        await link.accept(glued=frame(PING, b"glued"))
        await link.register()
        await link.wait(lambda: b"glued" in link.pongs(), "a ping glued to the 101 got no pong", 3)
        await link.drop()
        link = await worker.connection(15)
        link.dribble = True
        await link.register()
        await link.works()
        return "both"


async def slow_registration(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.connection()
        await link.registration()
        await anyio.sleep(9.0)
        if link.ended:
            raise Broken("it does not wait 9 s for its registration; servers may take 10")
        await link.register()
        await link.works()
        return "9 s are waited for"


async def restarted(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("sleep", seconds=4))
        await link.running(job)
        await link.drop(reset=True)
        again = await worker.back()
        await poll(lambda: again.heard("migrate_job"), 1)
        if not any(job.id in m.job_ids for m in again.heard("migrate_job")):
            raise Differs("comes back without a MigrateJobRequest for its running job")
        await again.works()
        return "comes back, names its running job"


async def stop_any_time(lab: Lab) -> str:
    took: list[str] = []
    for when in ("connecting", "registering", "backoff"):
        async with lab.worker() as worker:
            link = await worker.connection()
            await link.asked()
            if when == "backoff":
                await link.refuse(503, b"")
                await link.wait_end("the refused connection is kept", 5)
            elif when == "registering":
                await link.registration()
            began = time.monotonic()
            worker.stop()
            try:
                await worker.exited(6)
            except Broken:
                raise Broken(f"told to stop while {when} it does not exit within 6 s") from None
            took.append(f"{when} {time.monotonic() - began:.1f} s")
    return ", ".join(took)


async def echoed_token(lab: Lab) -> str:
    async with lab.worker() as worker:
        token = token_of(await (link := await worker.connection()).asked())
        await link.refuse(401, f"invalid token: {token}, error: expired".encode())
        await poll(lambda: "401" in worker.output or not worker.alive, 3)
        await anyio.sleep(0.3)
        if token in worker.output or token.split(".")[2] in worker.output:
            raise Broken("the token that a server quoted is in its output")
        return "redacted or not shown"


CASES = (
    Case(number=77, title="garbage binary frames", run=garbage, seconds=6),
    Case(number=78, title="empty and unknown messages ignored", run=nothing_known),
    Case(number=80, title="unknown fields and enum values", run=newer_server),
    Case(number=81, title="malformed protobuf", run=malformed, seconds=8),
    Case(number=82, title="text frames: no crash; invalid UTF-8: 1007", run=text_frames, seconds=6),
    Case(number=83, title="100 fragments with pings between", run=fragments),
    Case(number=84, title="violations of RFC 6455: Close 1002", run=violations, seconds=20),
    Case(number=85, title="2^62 bytes, endless fragments: cut", run=endless_message, seconds=8),
    Case(number=86, title="50,000 tiny frames", run=flood, seconds=8),
    Case(number=87, title="Close with any code: echoed, back", run=close_codes, seconds=20),
    Case(number=89, title="EOF, RST, a frame torn: back", run=torn, seconds=10),
    Case(number=91, title="bytes glued to the 101, bytes one by one", run=glued_and_dribbled, seconds=6),
    Case(number=92, title="registration answered after 9 s", run=slow_registration, seconds=14),
    Case(number=93, title="server restarts with a job running", run=restarted, seconds=8),
    Case(number=95, title="stopped while connecting, registering, waiting", run=stop_any_time, seconds=10),
    Case(number=96, title="two workers in a process", verdict=Verdict.ADAPTER, why="the adapter runs one"),
    Case(number=97, title="a token quoted by a 401 is not shown", run=echoed_token, seconds=4),
    Case(number=98, title="lk.agent_name set by the user", verdict=Verdict.ADAPTER, why="it is configuration"),
)
