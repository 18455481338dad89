"""Back-pressure of data packets, interceptors of remote calls, and what is refused without permission."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import anyio
import pytest
from venues import PATIENCE, ParticipantPermissions, Venue, next_of

from livekit_agent import RoomClosedError, RoomPermissionError, RpcError, events
from livekit_agent.rooms import (
    DataSchema,
    MemoryRooms,
    OutgoingCall,
    RpcCall,
    RpcCode,
    RpcInterceptor,
    StreamOperation,
    TranscriptionSegment,
)

PACKET = 60_000

# ------------------------------------------------------------------------------------------------ back-pressure


async def test_who_sends_too_much_waits_and_all_of_it_arrives_in_order(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            me, threshold = a.local_participant, 200_000
            heard, low = b.subscribe(events.DataReceived), a.subscribe(events.DataBufferLow)
            me.set_data_threshold(threshold)
            highest = 0

            async def send(number: int) -> None:
                nonlocal highest
                await me.publish_data(bytes([number]) + bytes(PACKET - 1))
                highest = max(highest, me.data_buffered())

            async with anyio.create_task_group() as group:
                for number in range(30):
                    group.start_soon(send, number)
                    await anyio.lowlevel.checkpoint()
                    highest = max(highest, me.data_buffered())
            assert 0 < highest <= threshold + PACKET
            assert me.data_buffered() == 0
            assert (await next_of(low, events.DataBufferLow)).reliable
            got = [(await next_of(heard, events.DataReceived)).data[0] for _ in range(30)]
            assert sorted(got) == list(range(30))
            with pytest.raises(ValueError, match="not negative"):
                me.set_data_threshold(-1)


@pytest.mark.virtual
async def test_who_waits_is_let_in_in_the_order_of_the_calls() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        heard = b.subscribe(events.DataReceived)
        a.local_participant.set_data_threshold(0, reliable=False)

        async def send(number: int) -> None:
            await a.local_participant.publish_data(b"%d" % number, reliable=False)

        taken = await a.local_participant._gates[False].enter(1)
        async with anyio.create_task_group() as group:
            for number in range(20):
                # Each in its turn: the tasks of a group begin in any order.
                group.start_soon(send, number)
                await anyio.wait_all_tasks_blocked()
            taken()
        got = [(await next_of(heard, events.DataReceived)).data for _ in range(20)]
        assert got == [b"%d" % number for number in range(20)]


@pytest.mark.virtual
async def test_who_is_cancelled_while_it_waits_sends_nothing_and_blocks_nobody() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        heard, me = b.subscribe(events.DataReceived), a.local_participant
        me.set_data_threshold(0)
        gate = me._gates[True]
        taken = await gate.enter(10)
        async with anyio.create_task_group() as group:
            group.start_soon(me.publish_data, b"never")
            await anyio.wait_all_tasks_blocked()
            assert me.data_buffered() == 10
            group.cancel_scope.cancel()
        async with anyio.create_task_group() as group:
            group.start_soon(me.publish_data, b"then")
            await anyio.wait_all_tasks_blocked()
            taken()
            taken()
        assert (await next_of(heard, events.DataReceived)).data == b"then"
        assert me.data_buffered() == 0


@pytest.mark.virtual
async def test_who_waits_is_told_of_the_rooms_end() -> None:
    async with MemoryRooms() as rooms:
        a = await rooms.join("r", "a")
        a.local_participant.set_data_threshold(0)
        await a.local_participant._gates[True].enter(10)

        async def send() -> None:
            with pytest.raises(RoomClosedError):
                await a.local_participant.publish_data(b"x")

        async with anyio.create_task_group() as group:
            group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            await a.disconnect()


# ------------------------------------------------------------------------------------------------ interceptors


class Noting(RpcInterceptor):
    """Writes down what passes, and adds its name to it."""

    def __init__(self, name: str, notes: list[str]) -> None:
        self.name, self.notes = name, notes

    async def outgoing(self, call: OutgoingCall, proceed: Callable[[OutgoingCall], Awaitable[str]]) -> str:
        self.notes.append(f"{self.name} calls {call.identity}.{call.method}")
        try:
            return await proceed(replace(call, payload=call.payload + self.name)) + self.name
        except RpcError as error:
            self.notes.append(f"{self.name} saw {error.rpc_code}")
            raise

    async def incoming(self, call: RpcCall, proceed: Callable[[RpcCall], Awaitable[str]]) -> str:
        self.notes.append(f"{self.name} is called by {call.caller_identity}")
        return await proceed(replace(call, payload=call.payload + self.name)) + self.name


async def test_interceptors_wrap_calls_both_ways_the_first_outermost(venue: Venue) -> None:
    def echo(call: RpcCall) -> str:
        return f"<{call.payload}>"

    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            notes: list[str] = []
            with a.intercept_rpc(Noting("1", notes)), a.intercept_rpc(Noting("2", notes)):
                with b.intercept_rpc(Noting("3", notes)), b.intercept_rpc(Noting("4", notes)):
                    async with b.serve_rpc({"echo": echo}):
                        assert await a.local_participant.perform_rpc("b", "echo", "0") == "<01234>4321"
                        assert notes == [
                            "1 calls b.echo", "2 calls b.echo", "3 is called by a", "4 is called by a"
                        ]  # fmt: skip
                        notes.clear()
                        with pytest.raises(RpcError):
                            await a.local_participant.perform_rpc("b", "unknown")
                        assert notes == ["1 calls b.unknown", "2 calls b.unknown", "2 saw 1400", "1 saw 1400"]
                        notes.clear()
            async with b.serve_rpc({"echo": echo}):
                assert await a.local_participant.perform_rpc("b", "echo", "0") == "<0>"
            assert notes == []


async def test_an_interceptor_may_answer_or_refuse_by_itself(venue: Venue) -> None:
    class Guard(RpcInterceptor):
        async def outgoing(self, call: OutgoingCall, proceed: Callable[[OutgoingCall], Awaitable[str]]) -> str:
            return "from memory" if call.method == "known" else await proceed(call)

        async def incoming(self, call: RpcCall, proceed: Callable[[RpcCall], Awaitable[str]]) -> str:
            if call.payload != "please":
                raise RpcError("say please", rpc_code=2403)
            return await proceed(call)

    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            async with b.serve_rpc({"echo": lambda call: call.payload}):
                with a.intercept_rpc(Guard()), b.intercept_rpc(Guard()):
                    assert await a.local_participant.perform_rpc("nobody", "known") == "from memory"
                    assert await a.local_participant.perform_rpc("b", "echo", "please") == "please"
                    with pytest.raises(RpcError) as caught:
                        await a.local_participant.perform_rpc("b", "echo", "now")
                    assert caught.value.rpc_code == 2403


@pytest.mark.virtual
async def test_an_interceptor_that_fails_is_a_failed_call(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(RpcInterceptor):
        async def incoming(self, call: RpcCall, proceed: Any) -> str:
            raise KeyError("a bug")

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        async with b.serve_rpc({"echo": lambda call: call.payload}):
            with b.intercept_rpc(Broken()), pytest.raises(RpcError) as caught:
                await a.local_participant.perform_rpc("b", "echo")
        assert caught.value.rpc_code == RpcCode.APPLICATION_ERROR
        assert "a bug" in caplog.text


# ------------------------------------------------------------------------------------------------ chat and streams


async def test_a_chat_message_is_sent_edited_and_taken_back(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            heard = b.subscribe(events.ChatReceived)
            sent = await a.local_participant.send_chat("helo")
            assert (await next_of(heard, events.ChatReceived)).message == sent
            edited = await a.local_participant.edit_chat(sent, "hello")
            again = (await next_of(heard, events.ChatReceived)).message
            assert (again.id, again.text, again.deleted) == (sent.id, "hello", False)
            assert again.edited_at is not None
            gone = await a.local_participant.delete_chat(edited)
            assert gone.deleted
            last = (await next_of(heard, events.ChatReceived)).message
            assert (last.id, last.text, last.deleted) == (sent.id, "", True)


async def test_texts_are_updated_deleted_reacted_to_and_have_attachments(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            me = a.local_participant
            with b.text_streams("notes") as notes, b.byte_streams("files") as files:
                steps: list[tuple[int, int]] = []
                picture = await me.send_bytes(
                    bytes(100_000), topic="files", name="p.png", on_progress=lambda *at: steps.append(at)
                )
                assert steps == [(65_536, 100_000), (100_000, 100_000)]
                first = await me.send_text("one", topic="notes", attachments=[picture.id], generated=True)
                await me.send_text(
                    "two", topic="notes", stream_id=first.id, operation=StreamOperation.UPDATE, version=2
                )
                await me.send_text("+1", topic="notes", operation=StreamOperation.REACTION, reply_to=first.id)
                await me.send_text("", topic="notes", stream_id=first.id, operation=StreamOperation.DELETE)
                with anyio.fail_after(PATIENCE):
                    infos = []
                    for expected in ("one", "two", "+1", ""):
                        reader = await anext(notes)
                        assert await reader.read_all() == expected
                        infos.append(reader.info)
                    data = await anext(files)
                    assert len(await data.read_all()) == data.info.size == 100_000
                assert [info.operation for info in infos] == [
                    StreamOperation.CREATE, StreamOperation.UPDATE, StreamOperation.REACTION, StreamOperation.DELETE
                ]  # fmt: skip
                assert (infos[0].attachments, infos[0].generated) == ((data.info.id,), True)
                assert (infos[1].id, infos[1].version, infos[2].reply_to) == (first.id, 2, first.id)


# ------------------------------------------------------------------------------------------------ permissions


async def test_whatever_is_not_permitted_is_refused_at_once_also_after_it_was(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a", kind="agent") as a:
            heard = a.subscribe(events.PermissionsChanged)
            await venue.update(
                "a",
                permissions=ParticipantPermissions(
                    can_publish=False, can_publish_data=False, can_update_metadata=False
                ),
            )
            await next_of(heard, events.PermissionsChanged)
            me, started = a.local_participant, anyio.current_time()
            chat = await_chat()
            segment = TranscriptionSegment(id="1", text="said")

            async def stream() -> None:
                async with me.stream_text(topic="t"):
                    raise AssertionError("unreachable")

            async def bytes_() -> None:
                async with me.stream_bytes(topic="t"):
                    raise AssertionError("unreachable")

            for call in (
                me.publish_data(b"x"),
                me.publish_data(b"x", reliable=False),
                me.send_text("x"),
                me.send_bytes(b"x"),
                stream(),
                bytes_(),
                me.send_chat("x"),
                me.edit_chat(chat, "x"),
                me.delete_chat(chat),
                me.publish_dtmf("1"),
                me.publish_transcription([segment], track_sid="TR_x"),
                me.perform_rpc("b", "echo"),
                me.publish_data_track("x"),
                me.define_data_schema(DataSchema(name="x"), ""),
                me.set_metadata("x"),
                me.set_name("x"),
                me.set_attributes({"x": "y"}),
                me.publish_audio(),
            ):
                with pytest.raises(RoomPermissionError):
                    await call
            # The library would be silent for ten seconds.
            assert anyio.current_time() - started < 5


def await_chat() -> Any:
    from livekit_agent.rooms import ChatMessage

    return ChatMessage(id="x", text="x", sent_at=1.0)


async def test_data_are_not_permitted_where_publishing_is_not_unless_said(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a", grants={"canPublish": False}) as a:
            assert not a.local_participant.permissions.can_publish_data
        async with await venue.join("b", grants={"canPublish": False, "canPublishData": True}) as b:
            await b.local_participant.publish_data(b"x")


@pytest.mark.parametrize("compress", [True, False])
async def test_compression_is_chosen(venue: Venue, compress: bool) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            me = a.local_participant
            with b.text_streams() as texts, b.byte_streams() as files:
                async with me.stream_text(topic="t", compress=compress) as text:
                    await text.write("la " * 20_000)
                async with me.stream_bytes(topic="t", compress=compress) as data:
                    await data.write(bytes(60_000))
                with anyio.fail_after(PATIENCE):
                    assert await (await anext(texts)).read_all() == "la " * 20_000
                    assert await (await anext(files)).read_all() == bytes(60_000)
