"""Group C: availability and assignment."""

from __future__ import annotations

import time

import anyio
from livekit.protocol import agent as pb
from livekit.protocol import models

from ._lab import Lab
from ._link import Link
from ._verdicts import Broken, Case, Differs, Verdict

__all__ = ["CASES"]

_ANSWER_SECONDS = 2.8
"""What a real server waits for an answer, selection included."""


async def accepts(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = link.job()
        began = time.monotonic()
        answer = await link.offer(job)
        took = time.monotonic() - began
        if not answer.available:
            raise Broken("it declines an ordinary offer")
        if not answer.participant_identity:
            raise Broken("it accepts without an identity")
        await link.assign(job)
        await link.ended_with(job)
        return f"{answer.participant_identity}, after {took * 1000:.0f} ms"


async def rejects(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        for do, terminate in (("reject", False), ("reject-terminate", True)):
            answer = await link.offer(link.job(do))
            if answer.available:
                raise Broken(f"it accepts although asked to {do}")
            if answer.terminate is not terminate:
                raise Broken(f"asked to {do} it answers terminate={answer.terminate}")
        return "both ways"


async def request_fails(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        answer = await link.offer(link.job("raise", at="offer"))
        if answer.available:
            raise Broken("a handler that raises accepts (or the adapter does not obey at: offer)")
        began = time.monotonic()
        try:
            answer = await link.offer(link.job("hang", at="offer"))
        except Broken:
            raise Broken("a handler that hangs is never answered for: each such offer costs the server 3 s") from None
        if answer.available:
            raise Broken("a handler that hangs accepts")
        took = time.monotonic() - began
        await link.works()
        return f"declined; the hanging one after {took:.1f} s"


async def burst(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        jobs = [link.job() for _ in range(50)]
        for job in jobs:
            await link.ask(job)
        ids = {job.id for job in jobs}

        def answers() -> list[str]:
            return [a.job_id for a in link.heard("availability") if a.job_id in ids]

        await link.wait(lambda: len(answers()) >= 50, "not all of 50 offers were answered", _ANSWER_SECONDS)
        await anyio.sleep(0.3)
        if len(answers()) > 50:
            raise Broken("some offers were answered twice")
        accepted = len(link.heard("availability", lambda a: a.available))
        return f"50 answers, {accepted} accepted"


async def runs_once(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = await link.start(link.job())
        if (final := await link.ended_with(job)) != "SUCCESS":
            raise Broken(f"the job ended with {final}")
        return "SUCCESS"


async def _late_assignment(lab: Lab, why: str, link: Link, job: pb.Job) -> str:
    await link.assign(job)
    said = await link.must_not_start(job)
    await link.works()
    if said == "silent":
        raise Differs(f"{why}: not run, but no FAILED either, so the server thinks it runs")
    return said


async def never_assigned(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = link.job()
        if not (await link.offer(job)).available:
            raise Broken("it declines an ordinary offer")
        await anyio.sleep(12.0)
        return await _late_assignment(lab, "an assignment after 12 s", link, job)


async def never_offered(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        return await _late_assignment(lab, "never offered", link, link.job())


async def after_rejection(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = link.job("reject")
        await link.offer(job)
        job.metadata = link.job().metadata  # it would succeed if it were run
        return await _late_assignment(lab, "assigned after it was rejected", link, job)


async def assigned_twice(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = await link.start(link.job("sleep", seconds=0.8))
        await link.assign(job)
        final = await link.ended_with(job)
        if final != "SUCCESS":
            raise Broken(f"the job ended with {final}")
        running = [m for m in link.statuses(job) if m.status == pb.JobStatus.JS_RUNNING]
        if len(running) > 1:
            raise Broken("it started twice")
        return "started once"


async def offered_twice(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = link.job()
        await link.ask(job)
        await link.ask(job)
        await link.hear("availability", lambda a: a.job_id == job.id, within=_ANSWER_SECONDS)
        await link.assign(job)
        final = await link.ended_with(job)
        running = [m for m in link.statuses(job) if m.status == pb.JobStatus.JS_RUNNING]
        if len(running) > 1:
            raise Broken("two jobs were started")
        return f"one job, {final}"


async def offered_while_running(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = await link.start(link.job("sleep", seconds=2))
        await link.running(job)
        answer = await link.offer(job)
        if answer.available:
            raise Broken("it accepts a job that it is running")
        if (final := await link.ended_with(job)) != "SUCCESS":
            raise Broken(f"the running job ended with {final}")
        return "declined, the job is left alone"


async def resuming(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = link.job()
        answer = await link.offer(job, resuming=True)
        if answer.available:
            await link.assign(job)
            await link.ended_with(job)
        return f"available {answer.available}, supports_resume {answer.supports_resume}"


async def incomplete_offers(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        await link.say(pb.ServerMessage(availability=pb.AvailabilityRequest()))
        await link.ask(pb.Job(type=pb.JobType.JT_ROOM, room=models.Room(name="r")))
        bare = pb.Job(id=link.job().id, metadata='{"do": "reject"}')
        await link.ask(bare)
        await anyio.sleep(0.5)
        await link.works()
        return "survived"


async def incomplete_assignments(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        await link.say(pb.ServerMessage(assignment=pb.JobAssignment(token="t")))  # noqa: S106 - not a token
        finals: dict[str, str] = {}
        for name, token in (("an empty token", ""), ("no JWT", "this is no token")):
            job = link.job()
            if not (await link.offer(job)).available:
                raise Broken("it declines an ordinary offer")
            await link.assign(job, token=token)
            finals[name] = await link.ended_with(job)
        await link.works()
        if wrong := [name for name, final in finals.items() if final != "FAILED"]:
            raise Differs(f"with {' and '.join(wrong)} the job succeeds: it never looked at the token")
        return "FAILED"


async def unknown_type(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = link.job()
        job.type = 7  # pyright: ignore[reportAttributeAccessIssue] - that is the point
        await link.ask(job)
        await anyio.sleep(0.5)
        accepted = link.heard("availability", lambda a: a.job_id == job.id and a.available)
        if accepted:
            await link.assign(job)
            await link.ended_with(job)
        await link.works()
        if accepted:
            raise Differs("it accepts a job of a type that it cannot know")
        return "declined"


async def large(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = link.job(pad="m" * (512 * 1024 - 40))
        job.room.metadata = "r" * (512 * 1024)
        job.attributes["a"] = "v" * (64 * 1024 - 1)
        await link.start(job)
        if (final := await link.ended_with(job)) != "SUCCESS":
            raise Broken(f"the job ended with {final}: its metadata did not arrive whole")
        return "512 KiB of metadata read to its end"


async def any_text(lab: Lab) -> str:
    async with lab.idle() as (_, link):
        job = link.job(pad="\u0000 \U0001f99c e\u0301 \u202e \ufeff \uffff")
        job.room.metadata = "NUL \0, parrot \U0001f99c"
        job.attributes["\U0001f511"] = "\0"
        await link.start(job)
        if (final := await link.ended_with(job)) != "SUCCESS":
            raise Broken(f"the job ended with {final}: its metadata did not arrive whole")
        return "taken as it is"


async def lost_between(lab: Lab) -> str:
    async with lab.worker() as worker:
        link = await worker.registered()
        job = link.job()
        if not (await link.offer(job)).available:
            raise Broken("it declines an ordinary offer")
        await link.drop()
        return await _late_assignment(lab, "assigned on the next connection", await worker.back(), job)


CASES = (
    Case(number=29, title="accepts: identity, within 2.8 s", run=accepts),
    Case(number=30, title="rejects: terminate exactly as asked", run=rejects),
    Case(number=31, title="request handler raises or hangs: declined in time", run=request_fails, seconds=6),
    Case(number=32, title="50 offers at once: each answered once", run=burst),
    Case(number=33, title="accepted and assigned: starts once", run=runs_once),
    Case(number=34, title="no assignment for 12 s: not started later", run=never_assigned, seconds=18),
    Case(number=35, title="assignment that was never offered: not run", run=never_offered, seconds=4),
    Case(number=36, title="assignment after a rejection: not run", run=after_rejection, seconds=4),
    Case(number=37, title="the same assignment twice: started once", run=assigned_twice),
    Case(number=38, title="the same offer twice: at most one job", run=offered_twice),
    Case(number=39, title="offer of a running job: declined", run=offered_while_running, seconds=5),
    Case(number=40, title="offer with resuming: answered", run=resuming),
    Case(number=41, title="offers without job, id or room: no crash", run=incomplete_offers),
    Case(number=42, title="assignments without job or token: fail cleanly", run=incomplete_assignments, seconds=5),
    Case(number=44, title="unknown job type: no crash", run=unknown_type),
    Case(number=45, title="largest metadata and attributes arrive", run=large),
    Case(number=46, title="any Unicode arrives", run=any_text),
    Case(
        number=48,
        title="recording, redaction, deployment, attributes visible",
        verdict=Verdict.ADAPTER,
        why="the job would have to tell what it sees",
    ),
    Case(number=49, title="connection lost before the assignment", run=lost_between, seconds=8),
)
