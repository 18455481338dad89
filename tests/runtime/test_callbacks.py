"""The order of a job's end, and the callbacks for what happens in its room."""

from __future__ import annotations

import contextvars
import math

import anyio
import pytest

from livekit_agent import BaseHandler, JobContext, events
from livekit_agent._bounds import ROOM_EVENTS_MAX, ROOM_LIFECYCLE_EVENTS_MAX
from livekit_agent.rooms import DisconnectReason

from .harness import FAILED, SUCCESS, ScriptedRooms, until_cancelled, world

pytestmark = pytest.mark.virtual


async def test_clean_ups_run_last_in_first_out_with_the_room_usable_and_before_the_status() -> None:
    async def assigned(ctx: JobContext) -> None:
        async def first() -> None:
            await ctx.room.local_participant.publish_data(b"bye")
            w.tell("pushed first")

        ctx.push_cleanup(first)
        ctx.push_cleanup(lambda: w.tell("pushed second"))
        await w.told("AJ_1 RUNNING")

    async with world(assigned) as w:
        async with w.rooms.join("r", "human") as human:
            with human.subscribe(events.DataReceived) as data:
                await w.give()
                assert (await anext(data)).data == b"bye"
        await w.told("AJ_1 terminated")
        assert w.story == [
            "AJ_1 joined", "AJ_1 RUNNING", "pushed second", "pushed first", "AJ_1 SUCCESS", "AJ_1 left",
            "AJ_1 terminated",
        ]  # fmt: skip


async def test_a_clean_up_that_raises_stops_no_other_and_changes_no_status(caplog: pytest.LogCaptureFixture) -> None:
    async def assigned(ctx: JobContext) -> None:
        async def bad() -> None:
            raise OSError("disk full")

        ctx.push_cleanup(lambda: w.tell("clean"))
        ctx.push_cleanup(bad)

    async with world(assigned) as w:
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")
        assert w.count("clean") == 1
    assert "disk full" in caplog.text


async def test_a_clean_up_that_sleeps_past_the_budget_is_cut_and_the_rest_still_runs() -> None:
    async def assigned(ctx: JobContext) -> None:
        ctx.push_cleanup(lambda: w.tell("the rest"))
        ctx.push_cleanup(lambda: anyio.sleep(100))
        await anyio.sleep(1)
        w.tell("handler over")

    async with world(assigned, cleanup_timeout=5) as w:
        await w.give()
        await w.told("AJ_1 terminated")
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
        assert w.times["AJ_1 SUCCESS"] == math.nextafter(w.times["handler over"] + 5, math.inf)


async def test_a_clean_up_pushed_by_a_clean_up_runs_too() -> None:
    async def assigned(ctx: JobContext) -> None:
        ctx.push_cleanup(lambda: ctx.push_cleanup(lambda: w.tell("inner")))

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 terminated")
        assert w.count("inner") == 1


async def test_the_job_is_over_when_the_last_task_of_its_group_is() -> None:
    async def assigned(ctx: JobContext) -> None:
        ctx.task_group.start_soon(anyio.sleep, 10)
        w.tell("returned")

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 terminated")
        assert w.times["AJ_1 SUCCESS"] == w.times["returned"] + 10


async def test_an_error_in_a_task_of_its_group_fails_the_job() -> None:
    async def assigned(ctx: JobContext) -> None:
        async def child() -> None:
            raise ValueError("child")

        ctx.task_group.start_soon(child)
        await anyio.sleep_forever()

    async with world(assigned) as w:
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (FAILED, "ValueError: child")


async def test_an_async_generator_in_a_handler_is_closed_inside_the_job() -> None:
    async def assigned(ctx: JobContext) -> None:
        async def numbers():  # type: ignore[no-untyped-def]
            try:
                while True:
                    yield 1
            finally:
                w.tell("closed")

        from contextlib import aclosing

        async with aclosing(numbers()) as source:
            async for _ in source:
                await anyio.sleep_forever()

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.line.terminate("AJ_1")
        await w.told("AJ_1 terminated")
        assert w.story.index("closed") < w.story.index("AJ_1 SUCCESS")


# ------------------------------------------------------------------------------------ the pump


async def test_those_present_come_first_beside_the_handler_and_then_in_order() -> None:
    class Handler(BaseHandler):
        async def on_participant_joined(self, ctx: JobContext, participant: object) -> None:
            w.tell(f"{participant.identity} joins")  # type: ignore[attr-defined]
            await anyio.sleep(1)

        async def on_participant_left(self, ctx: JobContext, participant: object) -> None:
            w.tell(f"{participant.identity} leaves")  # type: ignore[attr-defined]

        async def on_job_assigned(self, ctx: JobContext) -> None:
            w.tell("assigned")
            await anyio.sleep(10)

    async with world(handler=Handler()) as w:
        async with w.rooms.join("r", "ann"), w.rooms.join("r", "bob"):
            await w.give()
            await w.told("assigned")
            async with w.rooms.join("r", "eve"):
                pass
            await anyio.sleep(5)
            heard = [line for line in w.story if "joins" in line or "leaves" in line]
            assert heard == ["ann joins", "bob joins", "eve joins", "eve leaves"]
            assert w.times["bob joins"] - w.times["ann joins"] == 1, "one at a time, each awaited"


async def test_existing_is_told_apart_by_the_event() -> None:
    seen = []

    async def assigned(ctx: JobContext) -> None:
        with ctx.room.subscribe(events.ParticipantJoined, replay=True) as joins:
            async for event in joins:
                seen.append((event.participant.identity, event.existing))

    async with world(assigned) as w:
        async with w.rooms.join("r", "ann"):
            await w.give()
            await w.told("AJ_1 RUNNING")
            async with w.rooms.join("r", "eve"):
                await anyio.sleep(1)
        assert seen == [("ann", True), ("eve", False)]


async def test_an_exception_in_a_callback_fails_the_job() -> None:
    async def data(ctx: JobContext, data: bytes, participant: object) -> None:
        raise ValueError("in a callback")

    async with world(until_cancelled, callbacks={"data_received": data}) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        w.rooms.send_data("r", b"x")
        assert await w.gateway.end_of("AJ_1") == (FAILED, "ValueError: in a callback")


async def test_a_slow_callback_never_makes_the_room_stale() -> None:
    class Handler(BaseHandler):
        async def on_participant_joined(self, ctx: JobContext, participant: object) -> None:
            await anyio.sleep(10)
            w.tell(f"present: {sorted(ctx.room.remote_participants)}")

    async with world(handler=Handler()) as w:
        async with w.rooms.join("r", "ann"):
            await w.give()
            await w.told("AJ_1 RUNNING")
            async with w.rooms.join("r", "bob"):
                await anyio.sleep(11)
        assert w.story[-1] == "present: ['ann', 'bob']"


async def test_waiting_inside_a_callback_cannot_deadlock() -> None:
    class Handler(BaseHandler):
        async def on_participant_joined(self, ctx: JobContext, participant: object) -> None:
            if participant.identity == "ann":  # type: ignore[attr-defined]
                event = await ctx.wait_for(events.ParticipantJoined, lambda e: e.participant.identity == "bob")
                w.tell(f"ann saw {event.participant.identity}")
                with pytest.raises(TimeoutError):
                    await ctx.wait_for(events.ParticipantJoined, timeout=2)
                w.tell("and nobody else")

    async with world(handler=Handler()) as w:
        async with w.rooms.join("r", "ann"):
            await w.give()
            await w.told("AJ_1 RUNNING")
            async with w.rooms.join("r", "bob"):
                await w.told("and nobody else")
                assert w.count("ann saw bob") == 1


async def test_lifecycle_events_that_are_not_consumed_end_the_job() -> None:
    class Handler(BaseHandler):
        async def on_participant_joined(self, ctx: JobContext, participant: object) -> None:
            await anyio.sleep_forever()

        async def on_participant_left(self, ctx: JobContext, participant: object) -> None:
            pass

    async with world(handler=Handler()) as w:
        async with w.rooms.join("r", "ann"):
            await w.give()
            await w.told("AJ_1 RUNNING")
            async with w.rooms.join("r", "bob") as bob:
                for number in range(ROOM_LIFECYCLE_EVENTS_MAX // 2 + 1):
                    w.rooms.ledger.join("r", f"p{number}", now=0, wall=0)
                    w.rooms.ledger.remove("r", f"p{number}", now=0)
                w.rooms.settle()
                assert bob.is_open
                status, error = await w.gateway.end_of("AJ_1")
                assert (status, error) == (FAILED, "the job's room events were not consumed")


async def test_droppable_events_lose_the_oldest() -> None:
    got: list[bytes] = []

    async def data(ctx: JobContext, data: bytes, participant: object) -> None:
        got.append(data)
        await anyio.sleep(0.001)

    async with world(until_cancelled, callbacks={"data_received": data}) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        await anyio.sleep(1)
        for number in range(ROOM_EVENTS_MAX + 10):
            w.rooms.send_data("r", str(number).encode())
        await anyio.sleep(5)
        assert got[-1] == str(ROOM_EVENTS_MAX + 9).encode()
        assert ROOM_EVENTS_MAX <= len(got) < ROOM_EVENTS_MAX + 10


async def test_callbacks_and_an_immediate_return_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    async def data(ctx: JobContext, data: bytes, participant: object) -> None:
        pass

    async def assigned(ctx: JobContext) -> None:
        pass

    async with world(assigned, callbacks={"data_received": data}) as w:
        await w.give()
        assert await w.gateway.end_of("AJ_1") == (SUCCESS, "")
    assert "ctx.wait_closed()" in caplog.text


async def test_a_handler_hears_of_its_room_without_callbacks() -> None:
    async def assigned(ctx: JobContext) -> None:
        listener = ctx.events(events.ParticipantJoined, events.ParticipantLeft)
        await w.told("AJ_1 RUNNING")
        w.tell("listening")
        async for event in listener:
            w.tell(f"{type(event).__name__} {event.participant.identity}")

    async with world(assigned) as w:
        await w.give()
        await w.told("listening")
        async with w.rooms.join("r", "ann") as ann:
            await w.told("ParticipantJoined ann")
            await ann.local_participant.set_metadata("news of another kind")
        await w.told("ParticipantLeft ann")
        assert w.story[w.story.index("listening") + 1 :] == ["ParticipantJoined ann", "ParticipantLeft ann"]


async def test_a_handler_can_wait_for_the_end_of_its_room() -> None:
    async def assigned(ctx: JobContext) -> None:
        with anyio.CancelScope(shield=True):  # the end of the room cancels the job as well
            closed = await ctx.wait_closed()
        w.tell(f"closed: {closed.reason!r}")

    async with world(assigned) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        await anyio.sleep(5)
        w.rooms.delete_room("r")
        await w.told(f"closed: {DisconnectReason.ROOM_DELETED!r}")


async def test_two_jobs_in_one_room_hear_it_each_for_itself() -> None:
    async def data(ctx: JobContext, data: bytes, participant: object) -> None:
        w.tell(f"{ctx.job.id} hears {data.decode()}")

    async with world(until_cancelled, callbacks={"data_received": data}, max_jobs=2) as w:
        await w.give("AJ_1")
        await w.give("AJ_2")
        await w.told("AJ_2 RUNNING")
        w.rooms.send_data("r", b"x", destination_identities=["agent-AJ_2"])
        await anyio.sleep(1)
        w.rooms.send_data("r", b"y")
        await anyio.sleep(1)
        assert sorted(line for line in w.story if "hears" in line) == [
            "AJ_1 hears y", "AJ_2 hears x", "AJ_2 hears y",
        ]  # fmt: skip


word = contextvars.ContextVar("word", default="nothing")


async def test_context_variables_of_a_job_appear_in_no_other_and_nowhere_else() -> None:
    async def request(job: object) -> bool:
        w.tell(f"request sees {word.get()}")
        word.set("request")
        return True

    async def assigned(ctx: JobContext) -> None:
        w.tell(f"{ctx.job.id} sees {word.get()}")
        word.set(ctx.job.id)
        ctx.push_cleanup(lambda: w.tell(f"clean-up sees {word.get()}"))

    async def terminated(job_id: str) -> None:
        w.tell(f"the end sees {word.get()}")

    async with world(assigned, callbacks={"job_request": request, "job_terminated": terminated}) as w:
        for job in ("AJ_1", "AJ_2"):
            await w.give(job)
            await w.told(f"{job} terminated")
            await anyio.sleep(1)
        assert [line for line in w.story if "sees" in line] == [
            "request sees nothing", "AJ_1 sees nothing", "clean-up sees AJ_1", "the end sees AJ_1",
            "request sees nothing", "AJ_2 sees nothing", "clean-up sees AJ_2", "the end sees AJ_2",
        ]  # fmt: skip


# ------------------------------------------------------------------------------------ before the first step


@pytest.mark.parametrize("how", ["termination", "stop", "start cancelled", "timeout"])
async def test_what_comes_during_the_join_abandons_it_and_the_handler_never_runs(how: str) -> None:
    async def assigned(ctx: JobContext) -> None:
        w.tell("handler")

    connector: list[ScriptedRooms] = []

    class Slow(ScriptedRooms):
        def __init__(self, below: object) -> None:
            super().__init__(below)  # type: ignore[arg-type]
            connector.append(self)

        async def join(self, url: str, token: str, timeout: float) -> object:  # type: ignore[override]
            await anyio.sleep(5)
            return await super().join(url, token, timeout)

    async with world(assigned, rooms=Slow, job_timeout=1 if how == "timeout" else math.inf) as w:
        await w.give()
        await anyio.sleep(0.5)
        if how == "termination":
            w.line.terminate("AJ_1")
        elif how == "stop":
            w.worker.request_stop(0)
        elif how == "start cancelled":
            w.start_scope.cancel()
        await w.told("AJ_1 terminated")
        assert connector[0].abandoned == 1
        expected = {
            "termination": (SUCCESS, ""),
            "stop": (FAILED, "worker shut down before the job ended"),
            "start cancelled": (FAILED, "worker cancelled"),
            "timeout": (FAILED, "job execution timeout"),
        }
        assert w.gateway.final("AJ_1") == expected[how]
        assert w.gateway.statuses("AJ_1") == [expected[how]], "RUNNING was never said"
        assert w.count("AJ_1 terminated") == 1
        assert w.count("handler") == 0
        await anyio.sleep(30)
        assert w.agents() == []


async def test_a_termination_in_the_same_read_as_the_assignment_runs_nothing() -> None:
    async def assigned(ctx: JobContext) -> None:
        w.tell("handler")

    async with world(assigned) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        await w.gateway.answer("AJ_1")
        line.assign("AJ_1")
        line.terminate("AJ_1")
        await w.told("AJ_1 terminated")
        assert w.count("handler") == 0
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
        assert w.count("AJ_1 terminated") == 1


async def test_a_handler_with_callbacks_that_returns_at_once_is_told_so_unless_its_room_ended(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def assigned(ctx: JobContext) -> None:
        if ctx.job.id == "AJ_1":
            await ctx.wait_closed()

    async with world(assigned, callbacks={"participant_joined": lambda ctx, participant: None}) as w:
        await w.give("AJ_1")
        await w.told("AJ_1 RUNNING")
        w.rooms.delete_room("r")
        await w.told("AJ_1 terminated")
        assert "ended within a second" not in caplog.text
        await w.give("AJ_2")
        await w.told("AJ_2 terminated")
    assert caplog.text.count("ended within a second") == 1
