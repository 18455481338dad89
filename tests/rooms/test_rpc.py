"""Remote calls both ways, in memory and on a real livekit-server."""

from __future__ import annotations

import logging
import math

import anyio
import pytest
from venues import PATIENCE, Venue

from livekit_agent import RoomClosedError, RoomError, RoomPermissionError, RpcError
from livekit_agent.rooms import MemoryRooms, Room, RpcCall, RpcCode


async def echo(call: RpcCall) -> str:
    return call.payload


async def never(call: RpcCall) -> str:
    await anyio.sleep_forever()
    return ""


async def code_of(room: Room, identity: str, method: str, timeout: float = PATIENCE) -> tuple[int, str, str]:
    with pytest.raises(RpcError) as caught:
        await room.local_participant.perform_rpc(identity, method, timeout=timeout)
    assert caught.value.code == "RPC_ERROR"
    return caught.value.rpc_code, caught.value.message, caught.value.data


# ------------------------------------------------------------------------------------------------ calls


async def test_a_call_is_answered_with_who_called_what(venue: Venue) -> None:
    seen: list[RpcCall] = []

    def note(call: RpcCall) -> str:
        seen.append(call)
        return "answer to " + call.payload

    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            async with b.serve_rpc({"note": note}) as calls:
                assert await a.local_participant.perform_rpc("b", "note", "whý", timeout=10) == "answer to whý"
                assert calls.calls_in_flight == 0
            [call] = seen
            assert (call.method, call.payload, call.caller_identity) == ("note", "whý", "a")
            assert call.request_id
            # The library keeps 7 s of the caller's time-out for the way there and back.
            assert call.timeout == 3


async def test_an_answer_that_cannot_be_sent_is_the_handlers_error_and_the_others_are_served_on(
    venue: Venue, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(call: RpcCall) -> str:
        raise {
            "number": RpcError("no", rpc_code=-1),
            "size": RpcError("no", rpc_code=2**32),
            "text": RpcError("half of \ud83d", rpc_code=2000),
            "data": RpcError("no", rpc_code=2000, data={"not": "text"}),  # type: ignore[arg-type]
        }[call.payload]

    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            async with b.serve_rpc({"half": lambda call: "half of \ud83d", "fail": fail, "echo": echo}):
                ask = a.local_participant.perform_rpc
                for method, payload in [("half", ""), *(("fail", what) for what in ("number", "size", "text", "data"))]:
                    with pytest.raises(RpcError, match="Application error in method handler") as caught:
                        await ask("b", method, payload, timeout=PATIENCE)
                    assert (caught.value.rpc_code, caught.value.data) == (RpcCode.APPLICATION_ERROR, "")
                assert await ask("b", "echo", "still here", timeout=PATIENCE) == "still here"
    told = [record.getMessage() for record in caplog.records if record.name == "livekit_agent.rooms"]
    assert (
        told
        == ["the answer of the RPC method 'half' cannot be sent"]
        + ["the answer of the RPC method 'fail' cannot be sent"] * 4
    )


async def test_a_call_has_a_timeout_that_can_be_sent(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            for wrong in (0, -1, math.inf, math.nan, 1e9):
                with pytest.raises(ValueError, match="49 days"):
                    await a.local_participant.perform_rpc("b", "m", timeout=wrong)
                with pytest.raises(ValueError, match="49 days"):
                    await a.local_participant.perform_rpc("b", "m", max_round_trip_latency=wrong)


async def test_the_time_for_the_way_there_and_back_may_be_chosen(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            async with b.serve_rpc({"time": lambda call: str(call.timeout)}):
                ask = a.local_participant.perform_rpc
                assert float(await ask("b", "time", timeout=10, max_round_trip_latency=2.5)) == 7.5
                assert float(await ask("b", "time", timeout=10, max_round_trip_latency=9.5)) == 1
                assert float(await ask("b", "time", timeout=10, max_round_trip_latency=20)) == 1
            # Who is not there is noticed after it.
            began = anyio.current_time()
            with pytest.raises(RpcError, match="Connection timeout") as caught:
                await ask("nobody", "time", timeout=10, max_round_trip_latency=0.5)
            assert caught.value.rpc_code == RpcCode.CONNECTION_TIMEOUT
            assert 0.5 <= anyio.current_time() - began < 5
            with pytest.raises(ValueError, match="latency"):
                await ask("b", "time", max_round_trip_latency=0)


async def test_a_thousand_calls_each_way_fifty_at_once_and_each_gets_its_own_answer(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            answers: dict[tuple[str, int], str] = {}
            flying = [0, 0]

            async def ask(room: Room, to: str, first: int, limiter: anyio.CapacityLimiter) -> None:
                for number in range(first, 1000, 50):
                    async with limiter:
                        flying[0] += 1
                        flying[1] = max(flying)
                        answers[to, number] = await room.local_participant.perform_rpc(
                            to, "double", str(number), timeout=60
                        )
                        flying[0] -= 1

            def doubled_by(identity: str) -> object:
                async def double(call: RpcCall) -> str:
                    await anyio.lowlevel.checkpoint()
                    return f"{identity}: {2 * int(call.payload)}"

                return double

            async with a.serve_rpc({"double": doubled_by("a")}), b.serve_rpc({"double": doubled_by("b")}):  # type: ignore[dict-item]
                async with anyio.create_task_group() as group:
                    for room, to in ((a, "b"), (b, "a")):
                        limiter = anyio.CapacityLimiter(50)
                        for first in range(50):
                            group.start_soon(ask, room, to, first, limiter)
            assert answers == {(to, n): f"{to}: {2 * n}" for to in ("a", "b") for n in range(1000)}
            assert flying == [0, 100]


async def test_errors_keep_their_code_message_and_data(venue: Venue, caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(call: RpcCall) -> str:
        raise RpcError("not today", rpc_code=2001, data='{"when": "tomorrow"}')

    async def break_down(call: RpcCall) -> str:
        raise ValueError("a detail that is nobody's business")

    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            handlers = {"refuse": refuse, "break": break_down, "wrong": lambda call: 3, "never": never}
            async with b.serve_rpc(handlers):  # type: ignore[arg-type]
                assert await code_of(a, "b", "refuse") == (2001, "not today", '{"when": "tomorrow"}')
                failed = (RpcCode.APPLICATION_ERROR, "Application error in method handler", "")
                with caplog.at_level(logging.CRITICAL + 1, logger="livekit_agent.rooms"):
                    assert await code_of(a, "b", "break") == failed
                    assert await code_of(a, "b", "wrong") == failed
                unknown = (RpcCode.UNSUPPORTED_METHOD, "Method not supported at destination", "")
                assert await code_of(a, "b", "unknown") == unknown
                assert await code_of(a, "b", "never", timeout=1) == (RpcCode.RESPONSE_TIMEOUT, "Response timeout", "")
            # The block has ended, and its methods with it.
            assert await code_of(a, "b", "refuse") == unknown


async def test_leaving_the_block_tells_the_callers(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            serving, begun = anyio.Event(), anyio.Event()

            async def hang(call: RpcCall) -> str:
                begun.set()
                return await never(call)

            async def serve() -> None:
                async with b.serve_rpc({"hang": hang}):
                    serving.set()
                    await begun.wait()

            async with anyio.create_task_group() as group:
                group.start_soon(serve)
                await serving.wait()
                answer = await code_of(a, "b", "hang")
                assert answer == (RpcCode.RECIPIENT_DISCONNECTED, "Recipient disconnected", "")


async def test_who_leaves_while_it_is_called_is_missed(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)

            async def go(call: RpcCall) -> str:
                await b.disconnect()
                return "too late"

            async with b.serve_rpc({"go": go}):
                assert (await code_of(a, "b", "go"))[0] == RpcCode.RECIPIENT_DISCONNECTED


async def test_a_call_ends_with_the_room(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            async with b.serve_rpc({"never": never}), anyio.create_task_group() as group:

                async def leave() -> None:
                    await anyio.sleep(0.1)
                    await a.disconnect()

                group.start_soon(leave)
                with pytest.raises(RoomClosedError):
                    await a.local_participant.perform_rpc("b", "never")
            with pytest.raises(RoomClosedError):
                await a.local_participant.perform_rpc("b", "never")
            with pytest.raises(RoomClosedError):
                async with a.serve_rpc({"never": never}):
                    raise AssertionError("unreachable")


async def test_a_call_that_is_given_up_leaves_nothing_behind(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            async with b.serve_rpc({"never": never, "echo": echo}):
                with anyio.move_on_after(0.1) as scope:
                    await a.local_participant.perform_rpc("b", "never")
                assert scope.cancelled_caught
                assert await a.local_participant.perform_rpc("b", "echo", "still here") == "still here"


# ------------------------------------------------------------------------------------------------ serving


async def test_methods_come_and_go_while_the_block_lasts(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            async with b.serve_rpc() as calls:
                with calls.register("one", echo):
                    assert await a.local_participant.perform_rpc("b", "one", "1") == "1"
                assert (await code_of(a, "b", "one"))[0] == RpcCode.UNSUPPORTED_METHOD
                again = calls.register("one", echo)
                assert await a.local_participant.perform_rpc("b", "one", "1") == "1"
                again.close()
                again.close()
                assert (await code_of(a, "b", "one"))[0] == RpcCode.UNSUPPORTED_METHOD

                @calls.method("two")
                async def two(call: RpcCall) -> str:
                    return "two"

                assert await a.local_participant.perform_rpc("b", "two") == "two"
                assert repr(calls) == "<RpcServer of two: 0 calls in flight>"
            with pytest.raises(RoomError, match="has ended"):
                calls.register("three", echo)


async def test_a_method_is_served_once_per_room(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            async with a.serve_rpc({"echo": echo}) as calls:
                with pytest.raises(ValueError, match="already served"):
                    calls.register("echo", echo)
            async with a.serve_rpc({"echo": echo}):
                pass


async def test_too_many_calls_at_once_are_refused(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            begun = anyio.Event()

            async def hang(call: RpcCall) -> str:
                begun.set()
                return await never(call)

            async with b.serve_rpc({"never": hang}, concurrency=1), anyio.create_task_group() as group:
                group.start_soon(code_of, a, "b", "never")
                await begun.wait()
                assert await code_of(a, "b", "never") == (RpcCode.APPLICATION_ERROR, "too many calls at once", "")
                group.cancel_scope.cancel()


async def test_calling_and_serving_without_permission_are_refused_at_once(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a", grants={"canPublishData": False}) as a:
            with pytest.raises(RoomPermissionError):
                await a.local_participant.perform_rpc("b", "echo")
            with pytest.raises(RoomPermissionError, match="answer calls"):
                async with a.serve_rpc({"echo": lambda call: call.payload}):
                    pytest.fail("nobody would hear an answer")
            async with a.serve_rpc() as server:
                with pytest.raises(RoomPermissionError):
                    server.register("echo", lambda call: call.payload)


# ------------------------------------------------------------------------------------------------ in memory only


@pytest.mark.virtual
@pytest.mark.parametrize(("late", "answer"), [(0.0, "in time"), (1e-6, RpcCode.RESPONSE_TIMEOUT)])
async def test_a_handler_that_has_finished_at_its_timeout_has_finished(late: float, answer: str | int) -> None:
    async def last_instant(call: RpcCall) -> str:
        await anyio.sleep(call.timeout + late)
        return "in time"

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        async with b.serve_rpc({"m": last_instant}):
            try:
                said: str | int = await a.local_participant.perform_rpc("b", "m", timeout=5, max_round_trip_latency=3)
            except RpcError as exc:
                said = exc.rpc_code
        assert said == answer


@pytest.mark.virtual
async def test_a_bare_cancel_of_a_handler_is_its_error_and_the_others_are_served_on(
    backend: str, caplog: pytest.LogCaptureFixture
) -> None:
    if backend == "trio":
        pytest.skip("trio has no way to cancel a task but a scope")

    async def falls(call: RpcCall) -> str:
        import asyncio

        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await anyio.sleep_forever()
        return ""

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        async with b.serve_rpc({"echo": echo, "falls": falls}):
            assert (await code_of(a, "b", "falls"))[0] == RpcCode.APPLICATION_ERROR
            assert await a.local_participant.perform_rpc("b", "echo", "still here") == "still here"
    assert "'falls' was cancelled by its own program" in caplog.text


@pytest.mark.virtual
async def test_an_error_in_the_body_of_the_block_is_the_one_that_comes_out() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a:
        with pytest.raises(ExceptionGroup) as caught:
            async with a.serve_rpc({"echo": echo}):
                raise KeyError("mine")
        assert caught.group_contains(KeyError)


@pytest.mark.virtual
@pytest.mark.parametrize("steps", range(30))
async def test_serving_and_calling_cancelled_at_any_step_leave_nothing_behind(steps: int) -> None:
    from test_cancellation import cancel_after

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_after, steps, scope)
                async with b.serve_rpc({"echo": echo}):
                    await a.local_participant.perform_rpc("b", "echo", "1")
                    await a.local_participant.perform_rpc("b", "echo", "2")
                group.cancel_scope.cancel()
        await anyio.sleep(0.01)
        for room in (a, b):
            router = room._transport.router
            assert (router.pending_calls, len(router._handles)) == (0, 0)  # type: ignore[attr-defined]
        assert (await code_of(a, "b", "echo"))[0] == RpcCode.UNSUPPORTED_METHOD
