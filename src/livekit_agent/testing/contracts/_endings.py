"""Groups D and E: job status; termination, drain, shutdown."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import anyio
from livekit.protocol import agent as pb

from ._frames import BINARY, CLOSE
from ._lab import Lab, Worker
from ._link import Link
from ._verdicts import Broken, Case, Differs, Verdict

__all__ = ["CASES"]

_EXIT_SECONDS = 15.0
"""How long a worker may take to exit when its jobs have ended or were cut: drains are set to 5 to 10 s."""


# ------------------------------------------------------------------------------------ D. job status


async def success(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = await link.start(link.job("sleep", seconds=0.2))
        if (final := await link.ended_with(job)) != "SUCCESS":
            raise Broken(f"the job ended with {final}")
        running = [m for m in link.statuses(job) if m.status == pb.JobStatus.JS_RUNNING]
        if len(running) > 1:
            raise Broken(f"RUNNING {len(running)} times")
        return "RUNNING, SUCCESS" if running else "SUCCESS"


async def failure(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("raise"))
        if (final := await link.ended_with(job)) != "FAILED":
            raise Broken(f"a job that raised is reported {final}")
        error = next(m.error for m in link.statuses(job) if m.status == pb.JobStatus.JS_FAILED)
        if len(error) > 4096:
            raise Broken(f"its error text has {len(error)} characters")
        job = await link.start(link.job("exit"))
        if (final := await link.ended_with(job)) != "FAILED":
            raise Broken(f"a job that exited is reported {final}")
        if not error:
            raise Differs("FAILED, without a word of why")
        return f"FAILED: {error[:60]}"


async def _stopping(worker: Worker, do: str, **more: Any) -> tuple[Link, pb.Job]:
    """A worker that was told to stop while a job runs."""
    link = await worker.registered()
    job = await link.start(link.job(do, **more))
    await link.running(job)
    worker.stop()
    return link, job


async def cancelled_locally(lab: Lab) -> str:
    async with lab.worker() as worker:
        link, job = await _stopping(worker, "hang")
        final = await link.ended_with(job, within=_EXIT_SECONDS)
        if final == "CANCELLED":
            raise Broken("status 4, which open-source servers do not take for an end")
        return final


async def ended_while_away(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("sleep", seconds=1.5))
        await link.running(job)
        await link.drop()
        away = await worker.connection(15)
        await away.asked()
        await anyio.sleep(2.0)  # the job ends meanwhile
        await away.register()
        await away.works()
        return f"{'sent' if away.final(job) else 'dropped'} after the reconnect; the worker goes on"


async def flushed(lab: Lab) -> str:
    async with lab.worker() as worker:
        link, job = await _stopping(worker, "sleep", seconds=1)
        final = await link.ended_with(job, within=_EXIT_SECONDS)
        code = await link.wait_close(_EXIT_SECONDS)
        _before_close(link)
        return f"{final}, then Close {code}"


def _before_close(link: Link) -> None:
    """Nothing but control frames may follow a Close."""
    opcodes = [found.opcode for found in link.frames]
    if CLOSE in opcodes and BINARY in opcodes[opcodes.index(CLOSE) :]:
        raise Broken("it goes on talking after its Close")


# ------------------------------------------------------------------------------------ E. termination, drain, shutdown


async def terminated(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("hang"))
        await link.running(job)
        began = time.monotonic()
        await link.terminate(job.id)
        try:
            final = await link.ended_with(job, within=6)
        except Broken:
            raise Broken("a terminated job that hangs goes on for more than 6 s; the server waits 3 s") from None
        took = time.monotonic() - began - 0.3
        stubborn = await link.start(link.job("ignore-cancel", seconds=60))
        await link.running(stubborn)
        await link.terminate(stubborn.id)
        forced = await link.ended_with(stubborn, within=15)
        return f"{final} after {took:.1f} s; one that ignores it is given up as {forced}"


async def terminated_strangers(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        await link.terminate("AJ_unknown")
        await link.terminate("")
        job = await link.start(link.job())
        await link.ended_with(job)
        await link.terminate(job.id)
        await anyio.sleep(0.3)
        await link.works()
        if len(link.final(job)) > 1:
            raise Broken("an ended job was reported again")
        return "ignored"


async def terminated_twice(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = await link.start(link.job("hang"))
        await link.running(job)
        await link.terminate(job.id)
        await link.terminate(job.id)
        final = await link.ended_with(job, within=20)
        await link.works()
        return final


async def terminated_while_starting(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = await link.start(link.job("hang"))
        await link.terminate(job.id)
        final = await link.ended_with(job, within=20)
        await link.works()
        return final


async def drains(lab: Lab) -> str:
    async with lab.worker() as worker:
        link, job = await _stopping(worker, "sleep", seconds=3)
        try:
            await link.hear("update_worker", lambda u: u.status == pb.WorkerStatus.WS_FULL, within=2.0)
        except Broken:
            raise Broken("a stopping worker does not say that it is full") from None
        answer = await link.offer(link.job())
        if answer.available or answer.terminate:
            raise Broken(f"a draining worker answers available={answer.available}, terminate={answer.terminate}")
        if (final := await link.ended_with(job)) != "SUCCESS":
            raise Broken(f"the running job ended with {final}")
        return "FULL, declines, the running job finishes"


async def accepted_before_drain(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        busy = await link.start(link.job("sleep", seconds=4))
        await link.running(busy)
        job = link.job()
        if not (await link.offer(job)).available:
            raise Broken("it declines an ordinary offer")
        worker.stop()
        await anyio.sleep(0.5)
        await link.assign(job)
        try:
            if (final := await link.ended_with(job)) != "SUCCESS":
                raise Broken(f"an accepted job that was assigned during the drain ended with {final}")
        finally:
            if not link.ended:
                await link.terminate(busy.id)
        return "honoured"


async def drain_times_out(lab: Lab) -> str:
    async with lab.worker() as worker:
        link, job = await _stopping(worker, "hang")
        began = time.monotonic()
        final = await link.ended_with(job, within=_EXIT_SECONDS)
        code = await link.wait_close(_EXIT_SECONDS)
        if code != 1000:
            raise Broken(f"the connection ended with {code} in place of 1000")
        _before_close(link)
        return f"{final} and Close 1000 after {time.monotonic() - began:.1f} s"


async def lost_while_draining(lab: Lab) -> str:
    async with lab.worker() as worker:
        link, job = await _stopping(worker, "sleep", seconds=3)
        await anyio.sleep(0.3)
        await link.drop()
        again = await worker.back()
        try:
            await again.hear("update_worker", lambda u: u.status == pb.WorkerStatus.WS_FULL, within=2.0)
        except Broken:
            raise Broken("it comes back without saying that it is full") from None
        code = await worker.exited(_EXIT_SECONDS)
        said = "reported" if again.final(job) else "not reported"
        return f"comes back FULL, its job's end is {said}, exits with {code}"


async def closes(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        await link.hear("update_worker")
        link.automatic = False  # and never echoes
        worker.stop()
        code = await link.wait_close(8)
        if code != 1000:
            raise Broken(f"it leaves with {code} in place of Close 1000")
        began = time.monotonic()
        await worker.exited(12)
        return f"Close 1000, waits {time.monotonic() - began:.1f} s for the echo"


async def go_away(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        await link.say(pb.ServerMessage(go_away=pb.AgentHttp.GoAway(reason="rebalancing")))
        await anyio.sleep(1.0)
        if link.ended:
            await (await worker.back()).works()
            return "comes back on a new connection"
        if len(worker.links) > 1:
            await (await worker.registered()).works()
            return "drains, on a new connection already"
        try:
            await link.works()
        except Broken:
            await (await worker.back(10)).works()
            return "comes back on a new connection"
        return "ignored"


def _row(number: int, title: str, run: Callable[[Lab], Any], seconds: float = 3.0) -> Case:
    return Case(number=number, title=title, run=run, seconds=seconds)


CASES = (
    _row(50, "normal end: one SUCCESS", success),
    _row(51, "raises or exits: one FAILED, short error", failure, 4),
    Case(
        number=52,
        title="SUCCESS before the room is left",
        verdict=Verdict.UNSEEN,
        why="there is no room to be seen leaving",
    ),
    _row(53, "cancelled locally: never status 4", cancelled_locally, 12),
    _row(54, "ends while disconnected: sent or dropped, never stuck", ended_while_away, 8),
    _row(55, "status before the Close", flushed, 6),
    _row(56, "termination: asked, then forced, one end", terminated, 12),
    _row(57, "termination of strangers ignored", terminated_strangers),
    _row(58, "termination twice: once", terminated_twice, 5),
    _row(60, "termination while starting", terminated_while_starting, 5),
    _row(61, "drain: FULL at once, offers declined, jobs go on", drains, 7),
    _row(62, "accepted before the drain: honoured", accepted_before_drain, 6),
    _row(63, "drain times out: stopped, reported, Close 1000", drain_times_out, 12),
    _row(64, "connection lost while draining: back, FULL, exits", lost_while_draining, 10),
    _row(65, "Close 1000, without waiting for ever", closes, 6),
    _row(66, "go_away: no crash", go_away, 5),
)
