"""Cancel at every step, and let everything happen at the same tick.

A worker's life (connect, register, run a job, have one terminated, stop) is counted in steps of the event loop.  Then
it is lived again once for each step, and at that step ``start()`` is cancelled, or a stop asked for, or the connection
cut.  Whatever the step: nothing is left, and what was told is consistent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import anyio
import anyio.lowlevel
import pytest

from livekit_agent import JobContext, events
from livekit_agent.simulation import run_virtual

from .harness import FAILED, SUCCESS, World, world


@dataclass
class Life:
    """One life and what became of it."""

    at: int = -1
    """The step at which ``blow`` strikes; none for -1."""
    blow: Callable[[World], None] = lambda w: None
    steps: int = 0
    struck: bool = False
    armed: World | None = None
    problems: list[str] = field(default_factory=list)

    def step(self, birth: int) -> None:
        """Told of each step of the event loop, before it runs."""
        if self.armed is None:
            return
        self.steps += 1
        if self.steps == self.at:
            self.struck = True
            self.blow(self.armed)

    async def live(self) -> None:
        before = {task.id for task in anyio.get_running_tasks()}

        async def assigned(ctx: JobContext) -> None:
            async def clean() -> None:
                await anyio.sleep(0.1)

            ctx.push_cleanup(clean)
            await ctx.room.local_participant.publish_data(b"x")
            ctx.task_group.start_soon(anyio.sleep, 0.2)
            if ctx.job.id == "AJ_2":
                await anyio.sleep_forever()

        started: list[str] = []
        ended: dict[str, object] = {}

        def observe(event: object) -> None:
            if isinstance(event, events.JobStarted):
                started.append(event.job.id)
            elif isinstance(event, events.JobEnded):
                assert event.job.id not in ended
                ended[event.job.id] = event.status

        async with world(assigned, shutdown_timeout=1) as w:
            w.worker._broadcast.observe(observe)
            self.armed = w
            with anyio.move_on_after(30):  # the script has no part for a worker that went away
                await self._script(w)
            await w.worker.stop(0)
            await w.finished.wait()
            self.armed = None
            if w.error is not None:
                raise AssertionError(f"start() raised {w.error!r}") from w.error
            for job in started:
                finals = w.gateway.finals(job)
                assert len(set(finals)) <= 1, finals
                assert not finals or finals[0][0] is ended[job], "wire and event agree"
                assert w.count(f"{job} terminated") == 1, w.story
                assert w.count(f"{job} joined") == w.count(f"{job} left"), w.story
            assert sorted(ended) == sorted(started)
            assert w.count("AJ_1 terminated") + w.count("AJ_2 terminated") == len(started)
            stats = w.worker.stats
            assert (stats.active_jobs, stats.reserved_jobs, stats.total_jobs) == (0, 0, len(started))
        left = [task.name for task in anyio.get_running_tasks() if task.id not in before]
        assert left == []

    async def _script(self, w: World) -> None:
        await w.gateway.registered()
        for job in ("AJ_1", "AJ_2"):
            w.line.offer(job)
            if not (await w.gateway.answer(job)).available:
                return
            w.line.assign(job)
            if job == "AJ_2":
                await w.told("AJ_2 RUNNING")
                w.line.terminate(job)
            await w.told(f"{job} terminated")
            await anyio.sleep(0.01)


def cancel_start(w: World) -> None:
    w.start_scope.cancel()


def stop_now(w: World) -> None:
    w.worker.request_stop(0)


def stop_politely(w: World) -> None:
    w.worker.request_stop()


def live(life: Life, backend: str, seed: int = 0) -> Life:
    try:
        run_virtual(life.live, backend=backend, seed=seed, on_step=life.step)
    except BaseException as exc:
        exc.add_note(f"struck by {life.blow} at step {life.at} on {backend}, seed {seed}")
        raise
    return life


@pytest.mark.parametrize("blow", [cancel_start, stop_now, stop_politely])
def test_at_every_step_of_a_life(blow: Callable[[World], None], backend: str) -> None:
    steps = live(Life(), backend).steps
    assert steps > 100
    struck = sum(live(Life(at=at, blow=blow), backend).struck for at in range(1, steps + 1))
    assert struck == steps


# ------------------------------------------------------------------------------------ the same tick

CAUSES: dict[str, Callable[[World], None]] = {
    "termination": lambda w: w.line.terminate("AJ_1"),
    "drain": lambda w: w.worker.request_stop(0),
    "start cancelled": lambda w: w.start_scope.cancel(),
    "connection": lambda w: w.line.drop(),
    "room closed": lambda w: w.rooms.delete_room("r") and None,
    "room lost": lambda w: w.rooms.lose("r", "agent-AJ_1") if w.agents() else None,
}


async def tie(causes: tuple[str, ...]) -> None:
    """The handler ends, its deadline strikes and ``causes`` happen, all at 1.0 (the deadline: the instant after)."""

    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep_until(1.0)

    async with world(assigned, job_timeout=1.0, shutdown_timeout=0) as w:
        ended = w.worker.events(events.JobEnded)

        async def cause(name: str) -> None:
            await anyio.sleep_until(1.0)
            CAUSES[name](w)

        await w.give()
        for name in causes:
            w.tasks.start_soon(cause, name)
        await w.told("AJ_1 terminated")
        event = await anext(ended)
        if "connection" in causes and "start cancelled" not in causes and "drain" not in causes:
            await w.gateway.registered(2)
            await anyio.sleep(1)
        finals = w.gateway.finals("AJ_1")
        assert len(set(finals)) <= 1
        assert finals or "connection" in causes
        if finals:
            assert finals[0][0] is event.status
        if not {"connection"} & set(causes):
            assert len(finals) == 1
        assert event.status in (SUCCESS, FAILED)
        assert w.count("AJ_1 terminated") == 1
        assert w.count("AJ_1 left") == 1


TIES = [
    ("termination",),
    ("drain",),
    ("start cancelled",),
    ("connection",),
    ("room closed",),
    ("room lost",),
    ("termination", "drain"),
    ("termination", "connection"),
    ("termination", "room lost", "drain"),
    ("drain", "connection"),
    ("start cancelled", "room closed"),
    ("start cancelled", "connection", "termination"),
    tuple(CAUSES),
]


@pytest.mark.parametrize("causes", TIES, ids=" and ".join)
def test_all_at_the_same_tick_gives_one_status_one_callback_and_they_agree(
    causes: tuple[str, ...], backend: str
) -> None:
    for seed in range(12):
        try:
            run_virtual(tie, causes, backend=backend, seed=seed)
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise


def test_termination_races_completion_over_many_seeds_and_both_orders_are_seen(backend: str) -> None:
    reasons: set[str] = set()

    async def race() -> None:
        async def assigned(ctx: JobContext) -> None:
            await anyio.sleep_until(1.0)
            for _ in range(seed % 10):
                await anyio.lowlevel.checkpoint()

        async with world(assigned) as w:
            ended = w.worker.events(events.JobEnded)
            await w.give()
            await anyio.sleep_until(1.0)
            w.line.terminate("AJ_1")
            await w.told("AJ_1 terminated")
            assert w.gateway.finals("AJ_1") == [(SUCCESS, "")]
            reasons.add((await anext(ended)).reason)
            assert w.count("AJ_1 terminated") == 1

    for seed in range(150):
        run_virtual(race, backend=backend, seed=seed)
    assert reasons == {"", "job terminated by the server"}
