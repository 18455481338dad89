"""Every row of the table "what ends a job": what is reported, how often the handler hears of it, and in which order."""

from __future__ import annotations

import math

import anyio
import pytest

from livekit_agent import JobContext, events
from livekit_agent.rooms import Room

from .harness import FAILED, SUCCESS, ScriptedRooms, until_cancelled, world

pytestmark = pytest.mark.virtual


async def test_case_52_a_handler_that_returns_is_a_success_which_is_told_before_it_leaves() -> None:
    async def assigned(ctx: JobContext) -> None:
        await w.told("AJ_1 RUNNING")
        w.tell("handler")

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 terminated")
        assert w.story == ["AJ_1 joined", "AJ_1 RUNNING", "handler", "AJ_1 SUCCESS", "AJ_1 left", "AJ_1 terminated"]
        assert w.gateway.final("AJ_1") == (SUCCESS, "")


async def test_a_handler_that_raises_is_failed_with_type_and_first_line() -> None:
    async def assigned(ctx: JobContext) -> None:
        raise ValueError("first line\nsecond line")

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 terminated")
        assert w.gateway.final("AJ_1") == (FAILED, "ValueError: first line")
        assert w.count("AJ_1 terminated") == 1
        assert w.story.index("AJ_1 FAILED") < w.story.index("AJ_1 left")


async def test_an_error_that_cannot_be_told_is_told_by_its_type_and_ends_its_own_job_alone() -> None:
    class NoWords(Exception):
        def __str__(self) -> str:
            return self.message  # type: ignore[attr-defined, no-any-return]

    async def assigned(ctx: JobContext) -> None:
        if ctx.job.id == "AJ_1":
            raise NoWords
        await until_cancelled(ctx)

    async with world(assigned, max_jobs=2) as w:
        await w.give("AJ_2")
        await w.told("AJ_2 RUNNING")
        await w.give("AJ_1")
        await w.told("AJ_1 terminated")
        assert w.gateway.final("AJ_1") == (FAILED, "NoWords")
        assert [job.job.id for job in w.worker.jobs] == ["AJ_2"]


async def test_a_reason_that_is_no_text_is_its_handlers_mistake() -> None:
    async def assigned(ctx: JobContext) -> None:
        ctx.shutdown(LookupError("nobody there"))  # type: ignore[arg-type]

    async with world(assigned) as w:
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (FAILED, "TypeError: reason must be text, not LookupError")


async def test_the_servers_termination_is_a_success() -> None:
    async with world(until_cancelled) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.terminate("AJ_1")
        await w.told("AJ_1 terminated")
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
        assert w.story[-3:] == ["AJ_1 SUCCESS", "AJ_1 left", "AJ_1 terminated"]


async def test_a_termination_answered_with_an_error_of_its_own_is_failed() -> None:
    async def assigned(ctx: JobContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            raise RuntimeError("while tidying up")

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.terminate("AJ_1")
        assert await w.gateway.end_of("AJ_1") == (FAILED, "RuntimeError: while tidying up")


async def test_within_the_drain_the_handler_is_only_warned() -> None:
    async def assigned(ctx: JobContext) -> None:
        await ctx.shutting_down.wait()
        w.tell("warned")
        await anyio.sleep(3)

    async with world(assigned, shutdown_timeout=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        began = anyio.current_time()
        report = await w.worker.stop()
        assert w.times["warned"] == began
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
        assert (report.drained, report.cancelled, report.stuck) == (("AJ_1",), (), ())
        assert report.elapsed == 3


async def test_at_the_drain_deadline_the_job_is_failed_with_the_reason() -> None:
    async with world(until_cancelled, shutdown_timeout=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        report = await w.worker.stop()
        assert w.gateway.final("AJ_1") == (FAILED, "worker shut down before the job ended")
        assert w.count("AJ_1 terminated") == 1
        assert (report.drained, report.cancelled, report.stuck) == ((), ("AJ_1",), ())


async def test_a_job_past_its_timeout_is_failed_and_its_event_holds_the_error() -> None:
    async with world(until_cancelled, job_timeout=5) as w:
        ended = w.worker.events(events.JobEnded)
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (FAILED, "job execution timeout")
        event = await anext(ended)
        assert (type(event.error).__name__, event.status, event.reason) == (
            "JobTimeoutError", FAILED, "job execution timeout"
        )  # fmt: skip
        assert w.count("AJ_1 terminated") == 1


async def test_the_timeout_counts_from_the_assignment_joining_included() -> None:
    class Slow(ScriptedRooms):
        async def join(self, url: str, token: str, timeout: float) -> Room:
            await anyio.sleep(4)
            return await super().join(url, token, timeout)

    async def assigned(ctx: JobContext) -> None:
        w.tell("handler")
        assert ctx.deadline == given + 5
        await anyio.sleep_forever()

    async with world(assigned, job_timeout=5, rooms=Slow) as w:
        await w.gateway.registered()
        given = anyio.current_time()
        await w.give()
        await w.gateway.end_of("AJ_1")
        assert w.times["handler"] == given + 4
        assert w.gateway.final_at("AJ_1") == pytest.approx(given + 5, abs=1e-9)


async def test_a_join_that_is_refused_fails_the_job_and_the_handler_never_runs() -> None:
    async def assigned(ctx: JobContext) -> None:
        w.tell("handler")

    async with world(assigned) as w:
        w.rooms.refuse_next()
        await w.give()
        await w.told("AJ_1 terminated")
        status, error = w.gateway.final("AJ_1")
        assert status is FAILED
        assert error.startswith("RoomConnectError: could not join the room")
        assert w.story == ["AJ_1 FAILED", "AJ_1 terminated"]


async def test_a_join_that_fails_is_told_in_a_line_with_what_to_do_and_a_mistake_in_a_room_with_its_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def assigned(ctx: JobContext) -> None:
        await ctx.room.local_participant.perform_rpc("nobody", "add", "1+2", timeout=1)

    async with world(assigned) as w:
        w.rooms.refuse_next()
        await w.give("AJ_1")
        await w.told("AJ_1 terminated")
        assert "job failed: RoomConnectError: could not join the room" in caplog.text
        assert "Traceback" not in caplog.text
        await w.give("AJ_2")
        await w.told("AJ_2 terminated")
        assert w.gateway.final("AJ_2")[0] is FAILED
    assert 'await ctx.room.local_participant.perform_rpc("nobody", "add"' in caplog.text


async def test_a_join_that_hangs_fails_the_job_in_time() -> None:
    async with world(until_cancelled) as w:
        w.rooms.hang_next()
        await w.give()
        await w.told("AJ_1 terminated")
        assert w.gateway.final("AJ_1") == (FAILED, "RoomConnectError: the room was not joined within 20 s")
        assert w.story == ["AJ_1 FAILED", "AJ_1 terminated"]


async def test_start_cancelled_from_outside_fails_the_job_and_still_tidies_up() -> None:
    async def assigned(ctx: JobContext) -> None:
        async def cleanup() -> None:
            assert ctx.room.is_open
            await anyio.sleep(1)
            w.tell("clean")

        ctx.push_cleanup(cleanup)
        await anyio.sleep_forever()

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.start_scope.cancel()
        await w.finished.wait()
        assert w.gateway.final("AJ_1") == (FAILED, "worker cancelled")
        assert w.story[-5:] == ["clean", "AJ_1 FAILED", "AJ_1 left", "AJ_1 terminated", "start() returned"]
        assert w.start_scope.cancelled_caught
        assert w.gateway.line.core.stage.name == "CLOSED"


async def test_a_cancelled_drain_fails_what_still_runs() -> None:
    """The second signal."""
    async with world(until_cancelled, shutdown_timeout=10) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.worker.request_stop()
        await anyio.sleep(1)
        w.start_scope.cancel()
        await w.finished.wait()
        assert w.gateway.final("AJ_1") == (FAILED, "worker cancelled")
        report = await w.worker.stop()
        assert (report.drained, report.cancelled) == ((), ("AJ_1",))


def end_itself(ctx: JobContext, way: str) -> None:
    if way == "scope":
        ctx.cancel_scope.cancel()
    else:
        ctx.shutdown("all said")


@pytest.mark.parametrize("way", ["scope", "shutdown"])
async def test_a_job_that_ends_itself_is_a_success(way: str) -> None:
    async def assigned(ctx: JobContext) -> None:
        end_itself(ctx, way)
        await anyio.sleep_forever()

    async with world(assigned) as w:
        ended = w.worker.events(events.JobEnded)
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")
        reason = (await anext(ended)).reason
        assert reason == ("cancelled by its handler" if way == "scope" else "job shut itself down: all said")
        assert w.count("AJ_1 terminated") == 1


@pytest.mark.parametrize("way", ["scope", "shutdown"])
async def test_a_job_that_ends_itself_just_before_its_worker_is_cancelled_ended_itself(way: str) -> None:
    """Both in one instant, so that the outer cancellation is what comes through the handler."""

    async def assigned(ctx: JobContext) -> None:
        end_itself(ctx, way)
        w.start_scope.cancel()
        await anyio.sleep_forever()

    async with world(assigned) as w:
        ended = w.worker.events(events.JobEnded)
        await w.give()
        await w.finished.wait()
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
        reason = (await anext(ended)).reason
        assert reason == ("cancelled by its handler" if way == "scope" else "job shut itself down: all said")
        assert w.start_scope.cancelled_caught


async def test_shutdown_from_a_child_task_ends_the_whole_job() -> None:
    async def assigned(ctx: JobContext) -> None:
        async def child() -> None:
            ctx.shutdown()
            await anyio.sleep_forever()

        ctx.task_group.start_soon(child)
        await anyio.sleep_forever()

    async with world(assigned) as w:
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("closed", (SUCCESS, "")),
        ("removed", (FAILED, "agent removed from the room")),
        ("duplicate", (FAILED, "another participant took the agent's identity")),
        ("lost", (FAILED, "connection to the room lost")),
    ],
)
async def test_the_end_of_the_room_ends_the_job(what: str, expected: tuple[object, str]) -> None:
    async def assigned(ctx: JobContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            w.tell("cancelled")

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        await anyio.sleep(1)
        began = anyio.current_time()
        if what == "closed":
            w.rooms.delete_room("r")
        elif what == "removed":
            w.rooms.remove_participant("r", "agent-AJ_1")
        elif what == "duplicate":
            async with w.rooms.join("r", "agent-AJ_1"):
                pass
        else:
            w.rooms.lose("r", "agent-AJ_1")
        await w.told("AJ_1 terminated")
        assert w.gateway.final("AJ_1") == expected
        assert w.times["cancelled"] == began
        assert w.count("AJ_1 terminated") == 1


async def test_a_room_that_does_not_come_back_is_lost_at_the_first_instant_after_reconnect_timeout() -> None:
    async def assigned(ctx: JobContext) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            w.tell("cancelled")

    async with world(assigned, reconnect_timeout=60) as w:
        ends = w.worker.events(events.JobEnded)
        await w.give()
        await w.told("AJ_1 RUNNING")
        broken_at = anyio.current_time()
        w.rooms.interrupt("r", "agent-AJ_1")
        await anyio.sleep(40)
        w.rooms.interrupt("r", "agent-AJ_1")  # the library tries something else: the time runs from the first word
        await w.told("AJ_1 terminated")
        assert w.times["cancelled"] == math.nextafter(broken_at + 60, math.inf)
        assert w.gateway.final("AJ_1") == (FAILED, "connection to the room lost")
        assert (await anext(ends)).reason == "connection to the room lost: not back after 60 s"


@pytest.mark.parametrize("resume", [True, False], ids=["resumed", "made anew"])
async def test_a_room_that_is_back_in_time_has_all_its_time_again(resume: bool) -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(200)

    async with world(assigned, reconnect_timeout=60) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        for _ in range(3):
            w.rooms.interrupt("r", "agent-AJ_1")
            await anyio.sleep(20)
            w.rooms.interrupt("r", "agent-AJ_1")  # said again: one time is running, and one is stopped
            await anyio.sleep(39)
            w.rooms.restore("r", "agent-AJ_1", resume=resume)
        await w.told("AJ_1 terminated")
        assert w.gateway.final("AJ_1") == (SUCCESS, "")


async def test_a_room_may_reconnect_for_ever_where_that_is_wanted() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(80_000)

    async with world(assigned, reconnect_timeout=math.inf) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.rooms.interrupt("r", "agent-AJ_1")
        await w.told("AJ_1 terminated")
        assert w.gateway.final("AJ_1") == (SUCCESS, "")


async def test_a_lost_socket_is_nothing_to_a_job() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(20)

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.drop()
        await w.told("AJ_1 terminated")
        assert w.gateway.statuses("AJ_1") == [(1, ""), (2, "")]
        assert [h.line for h in w.gateway.heard if h.kind == "update_job"] == [1, 2]


async def test_the_place_is_free_only_after_on_job_terminated() -> None:
    async def terminated(job_id: str) -> None:
        stats = w.worker.stats
        w.tell(f"places {stats.active_jobs}")
        await anyio.sleep(1)

    async def assigned(ctx: JobContext) -> None:
        pass

    async with world(assigned, callbacks={"job_terminated": terminated}) as w:
        await w.give()
        await w.told("places 1")
        w.line.offer("AJ_2")
        assert not (await w.gateway.answer("AJ_2")).available
        await anyio.sleep(1.1)
        w.line.offer("AJ_3")
        assert (await w.gateway.answer("AJ_3")).available


async def test_on_job_terminated_may_call_the_worker() -> None:
    async def terminated(job_id: str) -> None:
        w.worker.request_stop()
        w.tell(w.worker.status.value)

    async def assigned(ctx: JobContext) -> None:
        pass

    async with world(assigned, callbacks={"job_terminated": terminated}) as w:
        await w.give()
        await w.finished.wait()
        assert "draining" in w.story
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
