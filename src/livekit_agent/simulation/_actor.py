"""The handler that simulated jobs run: it does what its job's metadata says, and notes what it sees.

It also looks after itself: a context variable that it sets must never be seen by another job.
"""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, cast

import anyio
import anyio.lowlevel

from .. import events
from .._types import Job, JobMetadata, Reject
from ..context import JobContext
from ..handlers import Answer, BaseHandler
from ..rooms import AudioSource, RemoteParticipant, RemoteTrack, RemoteTrackPublication
from ._media import SPEAKER

if TYPE_CHECKING:
    from ._seat import Seat
    from ._world import World

__all__ = ["ScriptedError", "ScriptedHandler", "leaves_of"]

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
        script = _script(job)
        self._note("asked", job.id, **script)
        request = script["request"]
        if request == "ponder":
            for _ in range(3):
                await anyio.lowlevel.checkpoint()  # yes, at this instant, and others run in between
        elif request == "slow":
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
        script = _script(ctx.job)
        self._note("started", job_id, foreign=_whose.get())
        _whose.set(job_id)
        self._world.agents[job_id] = (ctx.room.name, ctx.room.local_participant.identity)
        if script["do"] in ("return", "deadline"):
            end = anyio.current_time() + float(script["seconds"])
            self._world.ends[job_id] = (self._seat.index, end if script["do"] == "return" else min(end, ctx.deadline))
        how, leaves = "returned", ()
        try:
            await self._act(ctx, script)
        except (ScriptedError, ExceptionGroup) as exc:
            how, leaves = "raised", leaves_of(exc)
            raise
        except anyio.get_cancelled_exc_class():
            how = "cancelled"
            raise
        finally:
            self._world.agents.pop(job_id, None)
            self._world.ends.pop(job_id, None)
            self._note(how, job_id, foreign="" if _whose.get() == job_id else _whose.get(), leaves=leaves)

    async def on_track_subscribed(
        self,
        ctx: JobContext,
        track: RemoteTrack,
        publication: RemoteTrackPublication,
        participant: RemoteParticipant,
    ) -> None:
        """Listen to who was sent to speak."""
        if participant.identity.startswith(SPEAKER):
            await self._world.media.listen(self._life, ctx, track, publication, participant)

    async def _act(self, ctx: JobContext, script: dict[str, Any]) -> None:
        seconds = float(script["seconds"])
        if script["cleanup"]:
            ctx.push_cleanup(lambda: self._tidy_up(ctx))
            ctx.push_cleanup(lambda: self._fail_to_clean_up(ctx))
            ctx.push_cleanup(lambda: self._clean_up(ctx, float(script["cleanup"])))
        for number in range(script["children"]):
            ctx.task_group.start_soon(self._child, ctx, seconds * number / 3)
        await getattr(self, f"_do_{script['do']}")(ctx, seconds)

    # ------------------------------------------------------------------------------------ what a script may say

    async def _do_return(self, ctx: JobContext, seconds: float) -> None:
        await anyio.sleep(seconds)

    async def _do_deadline(self, ctx: JobContext, seconds: float) -> None:
        """Returns in the very instant of its time-out: a scope's deadline is exact, a sleep's is a float's step off."""
        if math.isinf(ctx.deadline):
            await anyio.sleep(seconds)
            return
        with anyio.CancelScope(deadline=ctx.deadline):
            await anyio.sleep_forever()

    async def _do_raise(self, ctx: JobContext, seconds: float) -> None:
        await anyio.sleep(seconds)
        raise ScriptedError("asked to")

    async def _do_group(self, ctx: JobContext, seconds: float) -> None:
        await anyio.sleep(seconds)
        inner = ExceptionGroup("inner", [ScriptedError("two"), ScriptedError("three")])
        raise ExceptionGroup("asked to", [ScriptedError("one"), inner])

    async def _do_hang(self, ctx: JobContext, seconds: float) -> None:
        await anyio.sleep_forever()

    async def _do_shield(self, ctx: JobContext, seconds: float) -> None:
        # Protects nothing: this is a user's bad manners, shorter than any grace.
        with anyio.CancelScope(shield=True):
            await anyio.sleep(min(seconds, 0.4))
        await anyio.sleep(seconds)

    async def _do_stuck(self, ctx: JobContext, seconds: float) -> None:
        with anyio.CancelScope(shield=True):  # the manner under test: longer than any grace
            await anyio.sleep(seconds + 8.0)

    async def _do_swallow(self, ctx: JobContext, seconds: float) -> None:
        for _ in range(3):
            with anyio.move_on_after(seconds):
                try:
                    await anyio.sleep_forever()
                except anyio.get_cancelled_exc_class():
                    pass  # the manner under test; it is raised again at the next checkpoint

    async def _do_shutdown(self, ctx: JobContext, seconds: float) -> None:
        await anyio.sleep(seconds)
        ctx.shutdown("asked to")
        await anyio.sleep_forever()

    async def _do_cancel(self, ctx: JobContext, seconds: float) -> None:
        await anyio.sleep(seconds)
        ctx.cancel_scope.cancel()
        await anyio.sleep_forever()

    async def _do_checkpoints(self, ctx: JobContext, seconds: float) -> None:
        """Call everything that can be awaited inside a cancelled scope: nothing may return."""
        me = ctx.room.local_participant
        calls: dict[str, Callable[[], Awaitable[object]]] = {
            "ctx.wait_closed": ctx.wait_closed,
            "ctx.wait_for": lambda: ctx.wait_for(events.DataReceived),
            "ctx.events": lambda: anext(ctx.events(events.DataReceived)),
            "room.wait_closed": ctx.room.wait_closed,
            "room.wait_for": lambda: ctx.room.wait_for(events.DataReceived),
            "publish_data": lambda: me.publish_data(b"never sent"),
            "set_metadata": lambda: me.set_metadata("never set"),
            "set_name": lambda: me.set_name("never set"),
            "set_attributes": lambda: me.set_attributes({"never": "set"}),
            "publish_audio": lambda: me.publish_audio(AudioSource(), name="never published"),
            "rooms.connect": lambda: self._world.rooms.connect("", "never used"),
        }
        await self._world.check_checkpoints(self._life, calls)
        await anyio.sleep(seconds)

    # ------------------------------------------------------------------------------------ what belongs to a job

    async def _child(self, ctx: JobContext, seconds: float) -> None:
        self._note("child", ctx.job.id)
        try:
            await anyio.sleep(seconds)
        finally:
            self._note("child out", ctx.job.id)

    async def _clean_up(self, ctx: JobContext, seconds: float) -> None:
        self._note("cleanup", ctx.job.id, number=2)
        await anyio.sleep(seconds)
        self._note("cleaned", ctx.job.id, number=2)

    def _fail_to_clean_up(self, ctx: JobContext) -> None:
        self._note("cleanup", ctx.job.id, number=1)
        raise ScriptedError("a clean-up fails")

    def _tidy_up(self, ctx: JobContext) -> None:
        self._note("cleanup", ctx.job.id, number=0)
        self._note("cleaned", ctx.job.id, number=0)

    async def on_job_terminated(self, job_id: str) -> None:
        """Note it."""
        self._note("terminated", job_id)


def leaves_of(error: BaseException | None) -> tuple[str, ...]:
    """The exceptions inside nested groups, by type, and by text where the text is ours."""
    if error is None:
        return ()
    if isinstance(error, BaseExceptionGroup):
        members = cast("BaseExceptionGroup[BaseException]", error).exceptions
        # Sorted: the order of a group's members is that of their completion.
        return tuple(sorted(leaf for member in members for leaf in leaves_of(member)))
    if isinstance(error, ScriptedError):
        return (f"ScriptedError: {error}",)
    return (type(error).__name__,)


def _script(job: Job) -> dict[str, Any]:
    return cast("dict[str, Any]", json.loads(job.metadata))
