"""Stopping: exact instants, hard bounds, and what the report says.  ``CLOSE`` and ``FLUSH`` are 2 s each."""

from __future__ import annotations

import math
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from livekit_agent import JobContext, ShutdownTimeoutError, WorkerError, WorkerStatus, events

from .harness import FAILED, SUCCESS, Gateway, Line, ScriptedRooms, World, stop_report, until_cancelled, world

pytestmark = pytest.mark.virtual

DRAINED = "worker shut down before the job ended"


def nothing_left(w: World) -> None:
    """No job, no room, no registration."""
    assert w.worker.status is WorkerStatus.CLOSED
    assert w.agents() == []
    assert w.worker.stats.active_jobs == 0


@pytest.mark.parametrize(
    ("lasts", "status", "ends_at"),
    [
        (9.999, SUCCESS, 9.999),
        (10.0, SUCCESS, 10.0),
        (10.001, FAILED, math.nextafter(10.0, math.inf)),
        (math.inf, FAILED, math.nextafter(10.0, math.inf)),
    ],
)
async def test_the_drain_deadline_is_exact(lasts: float, status: object, ends_at: float) -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep_until(1)
        w.worker.request_stop()  # the drain is 1..11
        try:
            await anyio.sleep_until(1 + lasts)
        finally:
            w.tell("handler over")

    async with world(assigned, shutdown_timeout=10) as w:
        await w.give()
        await w.finished.wait()
        expected = 1 + lasts if status is SUCCESS else math.nextafter(11.0, math.inf)
        assert w.times["handler over"] == expected
        assert w.gateway.final("AJ_1")[0] is status
        nothing_left(w)


async def test_zero_cancels_at_the_next_checkpoint() -> None:
    async def assigned(ctx: JobContext) -> None:
        w.worker.request_stop(0)
        w.tell("one more line")
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        await anyio.lowlevel.checkpoint()
        w.tell(f"at {anyio.current_time()}")
        await anyio.sleep_forever()

    async with world(assigned) as w:
        await w.give()
        before = anyio.current_time()
        await w.finished.wait()
        assert w.gateway.final("AJ_1") == (FAILED, DRAINED)
        # The status waits until the server has surely recorded the job, 50 ms after the assignment.
        assert anyio.current_time() <= before + 0.05


async def test_infinity_never_cancels() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(10_000)

    async with world(assigned, shutdown_timeout=math.inf) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        report = await w.worker.stop()
        assert report.drained == ("AJ_1",)


async def test_what_is_no_time_is_refused_before_anything_has_begun() -> None:
    async with world(until_cancelled) as w:
        await w.give()
        with pytest.raises(ValueError, match="seconds"):
            await w.worker.stop(math.nan)
        soon: Any = "soon"
        with pytest.raises(TypeError):
            w.worker.request_stop(soon)
        assert w.worker.status is WorkerStatus.FULL


async def test_a_second_stop_shortens() -> None:
    async with world(until_cancelled, shutdown_timeout=100) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        began = anyio.current_time()
        w.worker.request_stop()
        await anyio.sleep(3)
        report = await w.worker.stop(4)
        assert w.gateway.final_at("AJ_1") == math.nextafter(began + 7, math.inf)
        assert report.cancelled == ("AJ_1",)


async def test_a_second_stop_cannot_lengthen() -> None:
    async with world(until_cancelled, shutdown_timeout=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        began = anyio.current_time()
        w.worker.request_stop()
        await anyio.sleep(3)
        await w.worker.stop(1000)
        assert w.gateway.final_at("AJ_1") == math.nextafter(began + 10, math.inf)


async def test_three_stops_at_once_get_the_same_report() -> None:
    reports = []

    async def stop() -> None:
        reports.append(await w.worker.stop(1))

    async with world(until_cancelled) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        async with anyio.create_task_group() as stops:
            for _ in range(3):
                stops.start_soon(stop)
        assert len(reports) == 3
        assert reports[0].cancelled == ("AJ_1",)
        assert reports[0] is reports[1] is reports[2]


async def test_without_jobs_a_stop_ends_at_once() -> None:
    async with world() as w:
        await w.gateway.registered()
        await anyio.sleep(3.3)
        before = anyio.current_time()
        report = await w.worker.stop()
        await w.finished.wait()
        assert anyio.current_time() == before
        assert report.elapsed == 0
        nothing_left(w)
        assert w.gateway.kinds()[-1] == "update_worker"
        assert w.gateway.standings()[-1][0], "FULL is the last word before the Close"


async def test_when_stop_returns_nothing_lives_any_more() -> None:
    async with world(until_cancelled, start=False) as w:
        before = {task.id for task in anyio.get_running_tasks()}
        w.tasks.start_soon(w.run)
        await w.give()
        await w.told("AJ_1 RUNNING")
        await w.worker.stop(0)
        ours = [t.name for t in anyio.get_running_tasks() if t.id not in before and ".runtime._" in t.name]
        assert ours == []
        assert w.worker.status is WorkerStatus.CLOSED


async def test_the_close_has_code_1000() -> None:
    closed = []

    async with world() as w:
        line = await w.gateway.registered()
        after = line.core._on_closed
        line.core._on_closed = lambda item: (closed.append(item.code), after(item))  # type: ignore[method-assign]
        await w.worker.stop()
        await w.finished.wait()
    assert closed == [1000]


async def test_cancelling_the_wait_does_not_take_the_stop_back() -> None:
    async with world(until_cancelled, shutdown_timeout=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        with anyio.move_on_after(1):
            await w.worker.stop()
        assert w.worker.status is WorkerStatus.DRAINING
        await w.finished.wait()
        assert w.gateway.final("AJ_1") == (FAILED, DRAINED)


async def test_strict_raises_when_jobs_had_to_be_cancelled() -> None:
    async with world(until_cancelled) as w:
        await w.give()
        with pytest.raises(ShutdownTimeoutError) as caught:
            await w.worker.stop(1, strict=True)
        assert caught.value.unfinished == ("AJ_1",)


async def test_from_the_call_on_the_worker_is_draining_and_takes_nothing() -> None:
    """Not from the moment when the worker's own task gets to run."""
    asked = anyio.Event()

    async def request(job: object) -> bool:
        asked.set()
        await stopped.wait()
        return True

    stopped = anyio.Event()
    async with world(callbacks={"job_request": request}) as w:
        drains = w.worker.events(events.Draining)
        line = await w.gateway.registered()
        line.offer("AJ_1")
        await asked.wait()
        # In one synchronous step: the stop is asked for, and the handler's yes is on its way.
        w.worker.request_stop()
        stopped.set()
        assert w.worker.status is WorkerStatus.DRAINING
        assert not (await w.gateway.answer("AJ_1")).available
        assert (await anext(drains)).timeout == 30
        await w.finished.wait()
        assert w.story == ["start() returned"]


async def test_an_offer_in_flight_is_declined() -> None:
    async def request(job: object) -> bool:
        await anyio.sleep_forever()
        return True

    async with world(callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        await anyio.sleep(1)
        before = anyio.current_time()
        await w.worker.stop()
        answer = w.gateway.answers["AJ_1"]
        assert (answer.available, answer.terminate) == (False, False)
        assert anyio.current_time() == before


async def test_offers_during_the_drain_are_declined_and_the_server_is_told_full() -> None:
    async with world(until_cancelled, max_jobs=5, shutdown_timeout=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.worker.request_stop()
        await anyio.sleep(1)
        assert w.gateway.standings()[-1] == (True, 1)
        assert w.gateway.heard[-1].message.update_worker.draining
        w.line.offer("AJ_2")
        assert not (await w.gateway.answer("AJ_2")).available


async def test_a_job_promised_before_the_stop_still_runs_and_is_warned_at_once() -> None:
    async def assigned(ctx: JobContext) -> None:
        assert ctx.shutting_down.is_set()
        await anyio.sleep(2)

    async with world(assigned, shutdown_timeout=10) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        await w.gateway.answer("AJ_1")
        w.worker.request_stop()
        await anyio.sleep(1)
        line.assign("AJ_1")
        report = await w.worker.stop()
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
        assert report.drained == ("AJ_1",)


async def test_a_promise_that_is_not_kept_is_waited_for_only_until_it_lapses() -> None:
    async with world(shutdown_timeout=100) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        await w.gateway.answer("AJ_1")
        before = anyio.current_time()
        await w.worker.stop()
        assert anyio.current_time() - before == 7.5


async def test_an_assignment_after_the_deadline_is_refused() -> None:
    async def assigned(ctx: JobContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            await stubborn(1)

    async with world(assigned, shutdown_timeout=1, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.told("AJ_1 RUNNING")
        w.line.offer("AJ_2")
        await w.gateway.answer("AJ_2")
        w.worker.request_stop()
        await anyio.sleep(1.0001)
        w.line.assign("AJ_2")
        status, error = await w.gateway.end_of("AJ_2")
        assert status is FAILED
        assert "no longer waited" in error
        await w.finished.wait()
        assert w.count("AJ_2 terminated") == 0


# ------------------------------------------------------------------------------------ handlers that do not end


async def stubborn(seconds: float) -> None:
    """Work that no cancellation reaches."""
    with anyio.CancelScope(shield=True):
        await anyio.sleep(seconds)


async def test_a_stuck_handler_is_reported_left_and_told_of_while_its_task_runs_on() -> None:
    async def assigned(ctx: JobContext) -> None:
        try:
            await stubborn(100)
        finally:
            w.tell("task over")

    async with world(assigned, shutdown_timeout=10, cancel_grace=1.5) as w:
        ended = w.worker.events(events.JobEnded)
        await w.give()
        await w.told("AJ_1 RUNNING")
        began = anyio.current_time()
        report = await w.worker.stop()
        assert report.stuck == ("AJ_1",)
        assert (report.drained, report.cancelled) == ((), ())
        assert w.gateway.final("AJ_1") == (FAILED, "handler ignored its cancellation")
        grace_over = math.nextafter(math.nextafter(began + 10, math.inf) + 1.5, math.inf)
        assert w.gateway.final_at("AJ_1") == grace_over
        assert anyio.current_time() == grace_over
        assert w.story[-3:] == ["AJ_1 FAILED", "AJ_1 left", "AJ_1 terminated"]
        assert (await anext(ended)).reason == "handler ignored its cancellation"
        # The slot stays taken, and start() has not returned.
        assert w.worker.stats.active_jobs == 1
        assert w.worker.stats.total_jobs == 1
        assert not w.finished.is_set()
        await w.finished.wait()
        assert w.times["task over"] == w.times["start() returned"]
        assert w.count("AJ_1 terminated") == 1
        assert w.worker.stats.failed_jobs == 1
        assert w.worker.stats.total_jobs == 1
        with pytest.raises(StopAsyncIteration):
            await anext(ended)


async def test_the_stack_of_a_stuck_handler_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def assigned(ctx: JobContext) -> None:
        await stubborn(100)

    async with world(assigned, shutdown_timeout=0) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        await w.worker.stop()
    assert "ignored its cancellation" in caplog.text
    assert "in stubborn" in caplog.text
    assert "await anyio.sleep(seconds)" in caplog.text


async def test_a_stuck_job_ends_during_its_own_after_care() -> None:
    """The handler comes back while the status is still on its way: one report, one count, one free place."""

    async def assigned(ctx: JobContext) -> None:
        await stubborn(2)

    async def terminated(job_id: str) -> None:
        await anyio.sleep(3)
        w.tell("heard of the end")

    async with world(assigned, callbacks={"job_terminated": terminated}, cancel_grace=1.5) as w:
        ended = w.worker.events(events.JobEnded)
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.terminate("AJ_1")
        await w.told("heard of the end")
        await anyio.sleep(1)
        assert w.gateway.final("AJ_1") == (FAILED, "handler ignored its cancellation")
        assert w.count("AJ_1 terminated") == 1
        stats = w.worker.stats
        assert (stats.active_jobs, stats.completed_jobs, stats.failed_jobs, stats.total_jobs) == (0, 0, 1, 1)
        assert (await anext(ended)).job.id == "AJ_1"
        await w.give("AJ_2")  # the place is free again
        await w.told("AJ_2 RUNNING")
        await w.worker.stop(0)
        assert (await anext(ended)).job.id == "AJ_2"


async def test_the_place_of_a_stuck_job_is_free_only_when_its_task_has_ended() -> None:
    async def assigned(ctx: JobContext) -> None:
        await stubborn(30)

    async with world(assigned, cancel_grace=1) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.terminate("AJ_1")
        await w.told("AJ_1 terminated")
        w.line.offer("AJ_2")
        assert not (await w.gateway.answer("AJ_2")).available
        assert w.worker.status is WorkerStatus.FULL
        await anyio.sleep(30)
        w.line.offer("AJ_3")
        assert (await w.gateway.answer("AJ_3")).available


async def test_clean_ups_of_a_stuck_job_run_when_its_task_ends() -> None:
    async def assigned(ctx: JobContext) -> None:
        ctx.push_cleanup(lambda: w.tell("clean"))
        await stubborn(30)
        w.tell("back")

    async with world(assigned, cancel_grace=1) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.terminate("AJ_1")
        await w.told("clean")
        assert w.story.index("AJ_1 terminated") < w.story.index("back") < w.story.index("clean")


async def test_a_room_joined_by_a_stuck_join_is_left_again() -> None:
    class Deaf(ScriptedRooms):
        async def join(self, url: str, token: str, timeout: float) -> object:  # type: ignore[override]
            with anyio.CancelScope(shield=True):
                await anyio.sleep(10)
                return await super().join(url, token, timeout)

    async with world(until_cancelled, rooms=Deaf, cancel_grace=1) as w:
        await w.give()
        await anyio.sleep(1)
        w.line.terminate("AJ_1")
        await w.told("AJ_1 terminated")
        await w.told("AJ_1 left")
        assert w.story == ["AJ_1 FAILED", "AJ_1 terminated", "AJ_1 joined", "AJ_1 left"]


async def test_swallowing_the_cancellation_three_times_still_ends_in_time() -> None:
    async def assigned(ctx: JobContext) -> None:
        for _ in range(3):
            try:
                await anyio.sleep_forever()
            except anyio.get_cancelled_exc_class():
                w.tell("swallowed")
        await anyio.sleep_forever()

    async with world(assigned, shutdown_timeout=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        report = await w.worker.stop()
        assert w.count("swallowed") == 3
        assert report.cancelled == ("AJ_1",)
        assert report.elapsed == pytest.approx(10, abs=1e-6)


async def test_a_handler_that_shields_forty_seconds_is_not_cut() -> None:
    async def assigned(ctx: JobContext) -> None:
        await stubborn(40)
        w.tell("to its end")

    async with world(assigned, shutdown_timeout=1) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        began = anyio.current_time()
        await w.worker.stop()
        await w.finished.wait()
        assert w.times["to its end"] == pytest.approx(began + 40, abs=0.1)


async def test_wait_stuck_names_the_jobs_that_hold_the_program() -> None:
    async def assigned(ctx: JobContext) -> None:
        await stubborn(100)

    async with world(assigned, shutdown_timeout=0) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.worker.request_stop()
        with anyio.fail_after(50):
            assert await w.worker.wait_stuck() == ("AJ_1",)


# ------------------------------------------------------------------------------------ hard bounds

BUDGETS = {"shutdown_timeout": 10.0, "cancel_grace": 1.5, "cleanup_timeout": 5.0}
BOUND = 10 + 1.5 + 5 + 2 + 2


async def worst_stop(w: World) -> float:
    """How long a stop took, with a margin of an instant for each alarm."""
    began = anyio.current_time()
    await stop_report(w.worker)
    return anyio.current_time() - began


@pytest.mark.parametrize("cleanup", ["none", "sleeps", "stubborn"])
@pytest.mark.parametrize("terminated", ["quick", "sleeps", "stubborn"])
@pytest.mark.parametrize("handler", ["obeys", "late", "stubborn"])
@pytest.mark.parametrize("peer", ["listens", "frozen"])
async def test_no_user_code_and_no_peer_can_delay_a_stop_beyond_its_bound(
    handler: str, cleanup: str, terminated: str, peer: str
) -> None:
    async def misbehave(how: str) -> None:
        if how == "sleeps":
            await anyio.sleep_forever()
        elif how == "stubborn":
            await stubborn(200)

    async def assigned(ctx: JobContext) -> None:
        if cleanup != "none":
            ctx.push_cleanup(lambda: misbehave(cleanup))
        if handler == "stubborn":
            await stubborn(200)
        try:
            await anyio.sleep_forever()
        finally:
            if handler == "late":
                await stubborn(1.4)

    async def on_terminated(job_id: str) -> None:
        await misbehave(terminated)

    async with world(assigned, callbacks={"job_terminated": on_terminated}, **BUDGETS) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        if peer == "frozen":
            w.line.freeze()
        assert await worst_stop(w) <= BOUND + 1e-6
        assert w.count("AJ_1 terminated") == 1
        assert w.agents() == []


async def test_an_offer_handler_that_ignores_its_cancellation_delays_no_stop() -> None:
    async def request(job: object) -> bool:
        await stubborn(100)
        return True

    async with world(until_cancelled, max_jobs=2, shutdown_timeout=10, callbacks=None) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.worker.handler.on_job_request = request  # type: ignore[method-assign]
        w.line.offer("AJ_2")
        await anyio.sleep(1)
        began = anyio.current_time()
        await w.worker.stop()
        assert anyio.current_time() == pytest.approx(began + 10, abs=1e-6)
        assert not w.gateway.answers["AJ_2"].available


async def test_a_question_that_ignores_its_cancellation_is_named_after_its_grace(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def request(job: object) -> bool:
        w.tell("asked")
        await stubborn(100)
        return True

    async with world(until_cancelled, callbacks={"job_request": request}, cancel_grace=1.5) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        asked = await w.told("asked")
        began = anyio.current_time()
        report = await w.worker.stop()
        assert report.stuck == ("AJ_1",)
        assert (report.drained, report.cancelled) == ((), ())
        assert anyio.current_time() == math.nextafter(began + 1.5, math.inf)
        assert await w.worker.wait_stuck() == ("AJ_1",)
        assert "on_job_request for job AJ_1 ignored its cancellation" in caplog.text
        assert not w.finished.is_set()
        await w.finished.wait()
        assert anyio.current_time() == asked + 100


async def test_a_question_that_unwinds_in_its_grace_is_waited_for_and_not_named() -> None:
    async def request(job: object) -> bool:
        try:
            await anyio.sleep_forever()
        finally:
            await stubborn(1)
            w.tell("unwound")
        return True

    async with world(until_cancelled, callbacks={"job_request": request}, cancel_grace=1.5) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        await anyio.sleep(1)
        began = anyio.current_time()
        report = await w.worker.stop()
        assert report.stuck == ()
        assert w.times["unwound"] == anyio.current_time() == began + 1
        nothing_left(w)


async def test_a_callback_that_ignores_its_cancellation_does_not_hold_a_finished_job() -> None:
    async def data(ctx: JobContext, data: bytes, participant: object) -> None:
        w.tell("in the callback")
        await stubborn(100)

    async def assigned(ctx: JobContext) -> None:
        await w.told("in the callback")

    async with world(assigned, callbacks={"data_received": data}, cancel_grace=1.5) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.rooms.send_data("r", b"x")
        began = await w.told("in the callback")
        await w.told("AJ_1 terminated")
        assert anyio.current_time() == pytest.approx(began + 1.5, abs=1e-6)
        report = await w.worker.stop()
        assert report.stuck == ("AJ_1",)


async def test_a_terminated_job_has_left_within_2_8_s_whatever_the_budgets_say() -> None:
    async def assigned(ctx: JobContext) -> None:
        ctx.push_cleanup(lambda: anyio.sleep(60))
        await anyio.sleep_forever()

    async with world(assigned, cleanup_timeout=60) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        began = anyio.current_time()
        w.line.terminate("AJ_1")
        await w.told("AJ_1 left")
        assert anyio.current_time() == math.nextafter(began + 2.8, math.inf)
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")
        await w.told("AJ_1 terminated")
        assert w.count("AJ_1 terminated") == 1


async def test_a_handler_with_a_long_grace_is_out_of_the_room_by_2_8_s_too() -> None:
    async def assigned(ctx: JobContext) -> None:
        await stubborn(8)

    async with world(assigned, cancel_grace=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        began = anyio.current_time()
        w.line.terminate("AJ_1")
        await w.told("AJ_1 left")
        assert anyio.current_time() == math.nextafter(began + 2.8, math.inf)
        assert (await w.gateway.end_of("AJ_1"))[0] is SUCCESS


async def test_deadlines_of_the_handlers_own_fire_in_order_at_exact_instants() -> None:
    async def assigned(ctx: JobContext) -> None:
        start = anyio.current_time()
        for _ in range(3):
            with anyio.CancelScope(deadline=start + 3) as outer:
                with anyio.CancelScope(deadline=start + 2):
                    with anyio.CancelScope(deadline=start + 1):
                        await anyio.sleep_forever()
                    w.tell(f"inner {anyio.current_time() - start}")
                    await anyio.sleep_forever()
                w.tell(f"middle {anyio.current_time() - start}")
                await anyio.sleep_forever()
            w.tell(f"outer {anyio.current_time() - start}")
            outer.deadline = start - 1
            start = anyio.current_time()
        with anyio.CancelScope(deadline=start + 1) as outer, anyio.CancelScope(deadline=start + 1):
            await anyio.sleep_forever()
        w.tell(f"equal: outer {outer.cancelled_caught}")
        with anyio.CancelScope(deadline=start + 100) as scope:
            scope.deadline = start  # moved into the past is now
            await anyio.sleep_forever()
        w.tell(f"past {anyio.current_time() - start}")

    async with world(assigned, job_timeout=100) as w:
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")
        said = [line for line in w.story if "AJ_1" not in line]
        assert said == ["inner 1.0", "middle 2.0", "outer 3.0"] * 3 + ["equal: outer True", "past 1.0"]


# ------------------------------------------------------------------------------------ stop in every phase


def silent(line: Line) -> None:
    line.answers_upgrade = False


def mute(line: Line) -> None:
    line.answers_register = False


@pytest.mark.parametrize(
    ("then", "wait", "takes"),
    [
        pytest.param("hang", 3, 0, id="black-holed connect"),
        pytest.param(silent, 3, 0, id="no answer to the upgrade"),
        pytest.param(mute, 3, 0, id="no answer to the registration"),
        pytest.param(ConnectionRefusedError(), 3, 0, id="backing off"),
    ],
)
async def test_a_stop_before_the_registration_is_at_once(then: object, wait: float, takes: float) -> None:
    gateway = Gateway()
    gateway.then = then  # type: ignore[assignment]
    async with world(gateway=gateway) as w:
        await anyio.sleep(wait)
        assert w.worker.status is WorkerStatus.DISCONNECTED
        assert w.worker.worker_id == ""
        assert not w.worker.stats.connected
        before = anyio.current_time()
        await w.worker.stop()
        await w.finished.wait()
        assert anyio.current_time() - before == takes
        attempts = len(gateway.attempts)
        await anyio.sleep(100)
        assert len(gateway.attempts) == attempts, "no new registration after a stop"


async def test_a_stop_with_a_peer_that_reads_nothing_ends_in_time() -> None:
    gateway = Gateway(pipe_limit=512)
    async with world(until_cancelled, gateway=gateway, shutdown_timeout=0) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.freeze()
        before = anyio.current_time()
        report = await w.worker.stop()
        assert anyio.current_time() - before <= 4.0001
        assert report.statuses_unproven == ("AJ_1",)
        assert w.worker.status is WorkerStatus.CLOSED or w.worker.status is WorkerStatus.DRAINING
        assert repr(w.worker)


async def test_stop_inside_a_job_says_what_to_do() -> None:
    async def assigned(ctx: JobContext) -> None:
        async def child() -> None:
            with pytest.raises(WorkerError, match=r"wait for that job") as caught:
                await w.worker.stop()
            assert caught.value.code == "STOP_INSIDE_JOB"
            assert "request_stop" in caught.value.hint
            w.tell("refused")

        ctx.task_group.start_soon(child)

    async with world(assigned) as w:
        await w.give()
        await w.told("refused")
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")
        assert w.worker.status in (WorkerStatus.AVAILABLE, WorkerStatus.FULL)


async def test_stop_before_start_makes_start_a_no_op() -> None:
    async with world(start=False) as w:
        report = await w.worker.stop()
        assert report.elapsed == 0
        await w.run()
        assert w.error is None
        assert w.gateway.attempts == []
        assert w.worker.status is WorkerStatus.CLOSED
