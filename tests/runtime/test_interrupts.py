"""What is no ordinary error: interrupts, groups of exceptions, cancellation that nobody of ours asked for."""

from __future__ import annotations

import anyio
import pytest

from livekit_agent import JobContext, events

from .harness import FAILED, SUCCESS, World, until_cancelled, world

pytestmark = pytest.mark.virtual

INTERRUPTS = pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit])


async def interrupted(w: World, interrupt: type[BaseException], status: str = "worker interrupted") -> None:
    """The world's end after an interrupt in AJ_1 beside a quiet AJ_2."""
    await w.finished.wait()
    assert isinstance(w.error, interrupt)
    assert w.gateway.final("AJ_1")[1] == status
    assert w.gateway.final("AJ_2") == (FAILED, "worker cancelled")
    assert w.agents() == []
    assert w.count("AJ_1 terminated") == w.count("AJ_2 terminated") == 1
    for job in ("AJ_1", "AJ_2"):
        last = "SUCCESS" if w.gateway.final(job)[0] is SUCCESS else "FAILED"
        assert w.story.index(f"{job} {last}") < w.story.index(f"{job} left"), "the status goes first"


@INTERRUPTS
async def test_an_interrupt_in_a_handler_fails_it_cancels_the_others_and_surfaces(
    interrupt: type[BaseException],
) -> None:
    async def assigned(ctx: JobContext) -> None:
        if ctx.job.id == "AJ_2":
            await anyio.sleep_forever()
        await anyio.sleep(1)
        raise interrupt

    async with world(assigned, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2", room="r2")
        await interrupted(w, interrupt)


@INTERRUPTS
async def test_an_interrupt_in_a_room_callback_does_the_same(interrupt: type[BaseException]) -> None:
    async def data(ctx: JobContext, data: bytes, participant: object) -> None:
        raise interrupt

    async with world(until_cancelled, callbacks={"data_received": data}, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2", room="r2")
        await w.told("AJ_2 RUNNING")
        w.rooms.send_data("r", b"x")
        await interrupted(w, interrupt)


@INTERRUPTS
async def test_an_interrupt_in_a_clean_up_stops_no_other_step(interrupt: type[BaseException]) -> None:
    async def assigned(ctx: JobContext) -> None:
        def clean() -> None:
            raise interrupt

        if ctx.job.id == "AJ_2":
            await anyio.sleep_forever()
        await anyio.sleep(1)
        ctx.push_cleanup(lambda: w.tell("the other clean-up"))
        ctx.push_cleanup(clean)

    async with world(assigned, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2", room="r2")
        await interrupted(w, interrupt, status="")
        assert w.count("the other clean-up") == 1


@INTERRUPTS
async def test_an_interrupt_in_on_job_terminated_surfaces(interrupt: type[BaseException]) -> None:
    async def assigned(ctx: JobContext) -> None:
        if ctx.job.id == "AJ_2":
            await anyio.sleep_forever()
        await anyio.sleep(1)

    async def terminated(job_id: str) -> None:
        if job_id == "AJ_1":
            raise interrupt

    async with world(assigned, callbacks={"job_terminated": terminated}, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2", room="r2")
        await interrupted(w, interrupt, status="")


@INTERRUPTS
async def test_an_interrupt_in_the_answer_to_an_offer_declines_and_surfaces(interrupt: type[BaseException]) -> None:
    async def request(job: object) -> bool:
        if w.worker.stats.active_jobs:
            raise interrupt
        return True

    async with world(until_cancelled, callbacks={"job_request": request}, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.told("AJ_1 RUNNING")
        w.line.offer("AJ_2")
        await w.finished.wait()
        assert isinstance(w.error, interrupt)
        assert not w.gateway.answers["AJ_2"].available
        assert w.gateway.final("AJ_1") == (FAILED, "worker cancelled")


@INTERRUPTS
async def test_an_interrupt_surfaces_also_when_start_is_cancelled_at_the_same_time(
    interrupt: type[BaseException],
) -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(1)
        w.start_scope.cancel()
        raise interrupt

    async with world(assigned) as w:
        await w.give()
        await w.finished.wait()
        assert isinstance(w.error, interrupt)
        assert w.gateway.final("AJ_1") == (FAILED, "worker interrupted")


async def test_a_group_three_deep_with_an_error_and_a_cancellation_is_failed_with_the_error() -> None:
    async def assigned(ctx: JobContext) -> None:
        async def deep(depth: int) -> None:
            async with anyio.create_task_group() as group:
                group.start_soon(anyio.sleep_forever)
                if depth:
                    group.start_soon(deep, depth - 1)
                else:
                    raise ValueError("at the bottom")

        await deep(3)

    async with world(assigned) as w:
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (FAILED, "ValueError: at the bottom")


async def test_siblings_that_raise_while_they_are_cancelled_all_stay_in_the_group() -> None:
    async def assigned(ctx: JobContext) -> None:
        async def child(number: int) -> None:
            try:
                await anyio.sleep_forever()
            finally:
                raise LookupError(f"child {number}")

        for number in range(3):
            ctx.task_group.start_soon(child, number)
        await anyio.sleep(1)
        raise ValueError("first")

    async with world(assigned) as w:
        ended = w.worker.events(events.JobEnded)
        await w.give()
        assert (await w.gateway.end_of("AJ_1"))[0] is FAILED
        error = (await anext(ended)).error
        leaves: list[str] = []

        def collect(exc: BaseException | None) -> None:
            if isinstance(exc, BaseExceptionGroup):
                for member in exc.exceptions:
                    collect(member)
            else:
                leaves.append(str(exc))

        collect(error)
        assert sorted(leaves) == ["child 0", "child 1", "child 2", "first"]


async def test_an_error_in_one_job_changes_no_other() -> None:
    async def assigned(ctx: JobContext) -> None:
        if ctx.job.id == "AJ_1":
            raise ValueError
        await anyio.sleep(5)

    async with world(assigned, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2", room="r2")
        assert await w.gateway.end_of("AJ_1") == (FAILED, "ValueError")
        assert await w.gateway.end_of("AJ_2") == (SUCCESS, "")


# ------------------------------------------------------------------------------------ a bare Task.cancel()


def cancel_this_task() -> None:
    """What a library may do to the task it runs in."""
    import asyncio

    task = asyncio.current_task()
    assert task is not None
    task.cancel()


NATIVE = "trio has no way to cancel a task but a scope, and those are ours to see"


async def test_a_bare_cancel_of_a_jobs_task_fails_that_job_and_no_other(backend: str) -> None:
    if backend == "trio":
        pytest.skip(NATIVE)

    async def assigned(ctx: JobContext) -> None:
        if ctx.job.id == "AJ_1":
            await anyio.sleep(1)
            cancel_this_task()
            await anyio.sleep_forever()
        await anyio.sleep(5)

    async with world(assigned, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2", room="r2")
        status, error = await w.gateway.end_of("AJ_1")
        assert (status, error) == (FAILED, "the job's task was cancelled by its own program")
        assert await w.gateway.end_of("AJ_2") == (SUCCESS, "")
        await w.told("AJ_1 terminated")
        await w.give("AJ_3", room="r3")  # the worker lives


async def test_a_bare_cancel_of_a_callback_fails_its_job_and_no_other(backend: str) -> None:
    if backend == "trio":
        pytest.skip(NATIVE)

    async def data(ctx: JobContext, data: bytes, participant: object) -> None:
        cancel_this_task()
        await anyio.sleep_forever()

    async with world(until_cancelled, callbacks={"data_received": data}, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2", room="r2")
        await w.told("AJ_2 RUNNING")
        w.rooms.send_data("r", b"x")
        assert await w.gateway.end_of("AJ_1") == (FAILED, "the job's task was cancelled by its own program")
        await w.told("AJ_1 terminated")
        assert [job.job.id for job in w.worker.jobs] == ["AJ_2"]


async def test_a_bare_cancel_in_the_after_care_of_a_stuck_job_ends_no_other_and_holds_no_stop(backend: str) -> None:
    if backend == "trio":
        pytest.skip(NATIVE)

    async def assigned(ctx: JobContext) -> None:
        with anyio.CancelScope(shield=ctx.job.id == "AJ_1"):
            await anyio.sleep(100)

    async def terminated(job_id: str) -> None:
        if job_id == "AJ_1":
            cancel_this_task()
            await anyio.sleep_forever()

    async with world(assigned, callbacks={"job_terminated": terminated}, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2", room="r2")
        await w.told("AJ_2 RUNNING")
        w.line.terminate("AJ_1")
        await w.told("AJ_1 terminated")
        await anyio.sleep(10)
        assert w.gateway.finals("AJ_2") == []
        report = await w.worker.stop(0)
        assert (report.cancelled, report.stuck) == (("AJ_2",), ("AJ_1",))


async def test_a_bare_cancel_of_an_answer_declines_and_the_worker_lives(backend: str) -> None:
    if backend == "trio":
        pytest.skip(NATIVE)

    async def request(job: object) -> bool:
        if w.gateway.answers:
            return True
        cancel_this_task()
        await anyio.sleep_forever()
        return True

    async with world(until_cancelled, callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        assert not (await w.gateway.answer("AJ_1")).available
        await w.give("AJ_2")
        await w.told("AJ_2 RUNNING")


@pytest.mark.parametrize("where", ["clean-up", "on_job_terminated"])
async def test_a_bare_cancel_while_a_job_ends_skips_no_step(where: str, backend: str) -> None:
    if backend == "trio":
        pytest.skip(NATIVE)

    async def fall() -> None:
        cancel_this_task()
        await anyio.sleep(1)

    async def terminated(job_id: str) -> None:
        if where == "on_job_terminated":
            await fall()

    async def assigned(ctx: JobContext) -> None:
        await w.told("AJ_1 RUNNING")
        ctx.push_cleanup(lambda: w.tell("clean"))
        if where == "clean-up":
            ctx.push_cleanup(fall)

    async with world(assigned, callbacks={"job_terminated": terminated}) as w:
        await w.give()
        await w.told("AJ_1 terminated")
        await anyio.sleep(5)
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
        assert w.story[-4:] == ["clean", "AJ_1 SUCCESS", "AJ_1 left", "AJ_1 terminated"]
        assert w.worker.stats.active_jobs == 0


async def test_a_cancellation_from_outside_after_the_handler_is_done_is_not_its_end() -> None:
    """Finished is finished: only a callback still runs when start() is cancelled."""

    async def data(ctx: JobContext, data: bytes, participant: object) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            w.start_scope.cancel()

    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(2)

    async with world(assigned, callbacks={"data_received": data}) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.rooms.send_data("r", b"x")
        await w.finished.wait()
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
