"""The handler that simulated jobs run: it does what its job's metadata says, and notes what it sees.

It also looks after itself: a context variable that it sets must never be seen by another job.
"""

from __future__ import annotations

import json
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import anyio

from .._types import Job, JobMetadata, Reject
from ..context import JobContext
from ..handlers import Answer, BaseHandler

if TYPE_CHECKING:
    from ._world import Seat, World

__all__ = ["ScriptedError", "ScriptedHandler"]

_whose: ContextVar[str] = ContextVar("livekit_agent_simulation_job", default="")


class ScriptedError(Exception):
    """What a job raises that is told to."""


class ScriptedHandler(BaseHandler):
    """See the module."""

    def __init__(self, world: World, seat: Seat) -> None:
        self._world = world
        self._seat = seat
        self._life = seat.label

    def _note(self, kind: str, job_id: str, **data: Any) -> None:
        self._world.note(self._life, "handler", kind, job_id, **data)

    async def on_job_request(self, job: Job) -> Answer:
        """Answer as the script says."""
        self._note("asked", job.id)
        request = _script(job)["request"]
        if request == "slow":
            await anyio.sleep(1.0)
        elif request == "never":
            await anyio.sleep_forever()
        elif request == "raise":
            raise ScriptedError("asked to")
        elif request == "decline":
            return None
        elif request == "reject":
            return Reject(reason="asked to", terminate=True)
        return JobMetadata(participant_name="sim")

    async def on_job_assigned(self, ctx: JobContext) -> None:
        """Do as the script says, noting the beginning and how it ended."""
        job_id = ctx.job.id
        self._note("started", job_id, foreign=_whose.get())
        _whose.set(job_id)
        self._world.agents[job_id] = (ctx.room.name, ctx.room.local_participant.identity)
        how = "returned"
        try:
            await self._act(ctx, _script(ctx.job))
        except ScriptedError:
            how = "raised"
            raise
        except anyio.get_cancelled_exc_class():
            how = "cancelled"
            raise
        finally:
            self._world.agents.pop(job_id, None)
            self._note(how, job_id, foreign="" if _whose.get() == job_id else _whose.get())

    async def _act(self, ctx: JobContext, script: dict[str, Any]) -> None:
        seconds = float(script["seconds"])
        if script["cleanup"]:
            ctx.push_cleanup(lambda: self._clean_up(ctx, float(script["cleanup"])))
        for number in range(script["children"]):
            ctx.task_group.start_soon(self._child, ctx, seconds * number / 3)
        do = script["do"]
        if do == "hang":
            await anyio.sleep_forever()
        elif do == "raise":
            await anyio.sleep(seconds)
            raise ScriptedError("asked to")
        elif do == "shield":
            # Protects nothing: this is a user's bad manners, shorter than any grace.
            with anyio.CancelScope(shield=True):
                await anyio.sleep(min(seconds, 0.4))
            await anyio.sleep(seconds)
        elif do == "stuck":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(seconds + 8.0)
        elif do == "swallow":
            for _ in range(3):
                with anyio.move_on_after(seconds):
                    try:
                        await anyio.sleep_forever()
                    except anyio.get_cancelled_exc_class():
                        pass  # the manner under test; it is raised again at the next checkpoint
        elif do == "shutdown":
            await anyio.sleep(seconds)
            ctx.shutdown("asked to")
            await anyio.sleep_forever()
        else:
            await anyio.sleep(seconds)

    async def _child(self, ctx: JobContext, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def _clean_up(self, ctx: JobContext, seconds: float) -> None:
        self._note("cleanup", ctx.job.id)
        await anyio.sleep(seconds)
        self._note("cleaned", ctx.job.id)

    async def on_job_terminated(self, job_id: str) -> None:
        """Note it."""
        self._note("terminated", job_id)


def _script(job: Job) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(job.metadata))
