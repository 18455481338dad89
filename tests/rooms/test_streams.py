"""Text and byte streams both ways, in memory and on a real livekit-server."""

from __future__ import annotations

import hashlib
import random
from dataclasses import replace
from pathlib import Path

import anyio
import pytest
from venues import PATIENCE, Venue, until

from livekit_agent import (
    ParticipantPermissions,
    ResourceExhaustedError,
    RoomClosedError,
    RoomPermissionError,
    StreamError,
    events,
)
from livekit_agent.rooms import MemoryRooms, StreamOperation


async def test_a_text_arrives_with_all_that_was_said_about_it(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.text_streams("notes") as notes:
                sent = await a.local_participant.send_text(
                    "hällo " * 5000, topic="notes", attributes={"k": "v"}, reply_to="earlier", attachments=["x", "y"]
                )
                with anyio.fail_after(PATIENCE):
                    reader = await anext(notes)
                    assert await reader.read_all() == "hällo " * 5000
            info = reader.info
            assert (info.id, info.topic, info.mime_type) == (sent.id, "notes", "text/plain")
            assert (info.reply_to, info.attachments, dict(reader.attributes)) == ("earlier", ("x", "y"), {"k": "v"})
            assert (reader.sender_identity, reader.received) == ("a", 35000)


async def test_a_text_is_written_and_read_piece_by_piece(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.text_streams() as texts, anyio.fail_after(PATIENCE):
                writer = a.local_participant.stream_text(topic="live", operation=StreamOperation.UPDATE, version=3)
                async with writer:
                    reader = await anext(texts)
                    for word in ("one", "twö", "three"):
                        await writer.write(word)
                        assert await anext(reader) == word
                    assert writer.written == reader.received == 12
                    await writer.close({"mood": "good"})
                with pytest.raises(StopAsyncIteration):
                    await anext(reader)
                assert dict(reader.attributes) == {"mood": "good"}
                assert (reader.info.operation, reader.info.version) == (StreamOperation.UPDATE, 3)
                with pytest.raises(StreamError, match="closed"):
                    await writer.write("more")


async def test_ten_megabytes_arrive_as_they_were(venue: Venue) -> None:
    data = random.Random(5).randbytes(10_000_000)
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            digest = hashlib.sha256()

            async def receive() -> None:
                reader = await anext(files)
                assert (reader.info.size, reader.info.name, reader.progress) == (len(data), "big.bin", 0)
                async for chunk in reader:
                    digest.update(chunk)
                assert reader.progress == 1

            with b.byte_streams("files") as files, anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    group.start_soon(receive)
                    await a.local_participant.send_bytes(data, topic="files", name="big.bin")
            assert digest.digest() == hashlib.sha256(data).digest()


async def test_bytes_are_written_with_all_that_is_said_about_them_and_only_where_they_are_sent(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, await venue.join("c") as c:
            await venue.introduce(a, b, c)
            with b.byte_streams() as to_b, c.byte_streams() as to_c, anyio.fail_after(PATIENCE):
                writer = a.local_participant.stream_bytes(
                    topic="t", name="n.png", size=6, mime_type="image/png", attributes={"k": "v"}, stream_id="mine",
                    destination_identities=["c"],
                )  # fmt: skip
                async with writer:
                    await writer.write(b"123")
                    await writer.write(b"456")
                    await writer.close({"mood": "good"})
                await a.local_participant.send_bytes(b"for all")
                reader = await anext(to_c)
                info = reader.info
                # A stream that is over when it is announced comes with the attributes of its end already.
                assert dict(info.attributes) in ({"k": "v"}, {"k": "v", "mood": "good"})
                assert info == replace(writer.info, sent_at=info.sent_at, attributes=info.attributes)
                assert dict(writer.info.attributes) == {"k": "v"}
                assert (info.id, info.topic, info.name, info.size) == ("mine", "t", "n.png", 6)
                assert info.mime_type == "image/png"
                assert await reader.read_all() == b"123456"
                assert dict(reader.attributes) == {"k": "v", "mood": "good"}
                assert await (await anext(to_b)).read_all() == b"for all"


async def test_a_file_is_sent(venue: Venue, tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(b"0123456789" * 20_000)
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            steps: list[tuple[int, int]] = []
            with b.byte_streams("files") as files, anyio.fail_after(PATIENCE):
                await a.local_participant.send_file(path, topic="files", on_progress=lambda *step: steps.append(step))
                reader = await anext(files)
                assert (reader.info.name, reader.info.mime_type) == ("notes.txt", "text/plain")
                assert await reader.read_all() == path.read_bytes()
            assert steps[-1] == (200_000, 200_000)


async def test_a_file_that_cannot_be_read_is_not_announced(venue: Venue, tmp_path: Path) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.byte_streams("files") as files:
                for path in (tmp_path, tmp_path / "nothing"):
                    with pytest.raises(OSError, match=str(path)):
                        await a.local_participant.send_file(path, topic="files")
                await a.local_participant.send_bytes(b"x", topic="files", name="readable")
                with anyio.fail_after(PATIENCE):
                    assert (await anext(files)).info.name == "readable"


async def test_streams_go_only_where_they_are_sent_and_only_to_who_listens(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, await venue.join("c") as c:
            await venue.introduce(a, b, c)
            with b.text_streams("t") as to_b, c.text_streams("t") as to_c, anyio.fail_after(PATIENCE):
                await a.local_participant.send_text("for c", topic="t", destination_identities=["c"])
                await a.local_participant.send_text("nobody listens", topic="other")
                await a.local_participant.send_text("for all", topic="t")
                assert await (await anext(to_b)).read_all() == "for all"
                assert [await (await anext(to_c)).read_all() for _ in range(2)] == ["for c", "for all"]


async def test_a_topic_has_one_listener(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            with a.text_streams("t"), pytest.raises(ValueError, match="already listens"):
                a.text_streams("t")
            with a.text_streams("t"), a.byte_streams("t"), a.text_streams():
                pass


async def test_a_sender_that_gives_up_says_why(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.byte_streams() as streams, anyio.fail_after(PATIENCE):
                with pytest.raises(KeyError):
                    async with a.local_participant.stream_bytes() as writer:
                        await writer.write(b"half")
                        raise KeyError("a bug")
                reader = await anext(streams)
                assert await anext(reader) == b"half"
                with pytest.raises(StreamError) as caught:
                    await anext(reader)
                assert (caught.value.code, caught.value.description) == ("STREAM_ABORTED", "failed: KeyError")


async def test_a_sender_that_leaves_is_missed(venue: Venue) -> None:
    async with venue.open():
        a = await venue.join("a")
        async with await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.text_streams() as streams, anyio.fail_after(PATIENCE):
                writer = await a.local_participant.stream_text().__aenter__()
                await writer.write("half")
                reader = await anext(streams)
                assert await anext(reader) == "half"
                await a.disconnect()
                with pytest.raises(StreamError) as caught:
                    await anext(reader)
                assert caught.value.code == "STREAM_SENDER_LEFT"


async def test_a_reader_ends_with_the_room(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            streams = b.text_streams()
            async with a.local_participant.stream_text() as writer:
                await writer.write("half")
                with anyio.fail_after(PATIENCE):
                    reader = await anext(streams)
                    assert await anext(reader) == "half"
                    await b.disconnect()
                    with pytest.raises(RoomClosedError):
                        await anext(reader)
                    with pytest.raises(StopAsyncIteration):
                        await anext(streams)


async def test_abandoned_readers_and_listeners_leave_nothing_behind(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            streams = b.text_streams()
            for _ in range(3):
                await a.local_participant.send_text("x" * 40_000)
            with anyio.fail_after(PATIENCE):
                async for _ in await anext(streams):
                    break  # half way
                await (await anext(streams)).aclose()
                await anext(streams)  # never read
            streams.close()
            assert [stream async for stream in streams] == []


async def test_what_is_left_half_way_is_let_go_while_the_room_goes_on(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            me = a.local_participant
            before = b.statistics()
            attached = len(b._link._attached)
            with anyio.fail_after(PATIENCE):
                kept = b.events(events.DataReceived)
                await me.publish_data(b"x")
                async for _ in kept:
                    break
                del kept, _
                # Two streams under way: one read half way, one not at all; a third comes when nobody listens.
                listening = b.text_streams("t")
                for _ in range(2):
                    await me.send_text("x" * 40_000, topic="t")
                async for reader in listening:
                    async for _ in reader:
                        break
                    break
                await until(lambda it=listening: it._waiting)  # type: ignore[misc]
                del listening, reader
                await me.send_text("nobody listens", topic="t")
                # Free again, and what is sent from now on comes.
                with b.text_streams("t") as again:
                    await me.send_text("heard", topic="t")
                    text = ""
                    while text != "heard":
                        text = await (await anext(again)).read_all()
            await until(lambda: b.statistics() == before and len(b._link._attached) == attached)


async def test_a_reader_has_a_bound_and_read_all_a_limit(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b:
            await venue.introduce(a, b)
            with b.byte_streams(buffer_bytes=100_000) as streams, anyio.fail_after(PATIENCE):
                await a.local_participant.send_bytes(bytes(200_000))
                await a.local_participant.send_bytes(bytes(50_000))
                reader = await anext(streams)
                with pytest.raises(ResourceExhaustedError):
                    read = len(await anext(reader))
                    await until(lambda: reader.received - read > 100_000)
                    async for _ in reader:
                        pass
                with pytest.raises(StreamError, match="larger than 20000") as caught:
                    await (await anext(streams)).read_all(limit=20_000)
                assert caught.value.code == "STREAM_TOO_LARGE"


async def test_streams_without_permission_are_refused_at_once(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a", grants={"canPublishData": False}) as a:
            for call in (a.local_participant.send_text("x"), a.local_participant.send_bytes(b"x")):
                with pytest.raises(RoomPermissionError):
                    await call


async def test_a_stream_whose_permission_is_taken_is_not_written_on_in_vain(venue: Venue) -> None:
    async with venue.open():
        async with await venue.join("a") as a:
            me = a.local_participant
            writing, done = me.stream_text(topic="t"), me.stream_bytes(topic="t")
            with pytest.raises(RoomPermissionError):
                async with writing, done:
                    await writing.write("heard")
                    await done.write(b"heard")
                    await venue.update("a", permissions=ParticipantPermissions(can_publish_data=False))
                    await a.wait_until(lambda: not me.permissions.can_publish_data, PATIENCE)
                    with pytest.raises(RoomPermissionError):
                        await writing.write("thrown away by the server")
                    with pytest.raises(StreamError):
                        await writing.write("more")
                    # The end of the other would not be heard either: leaving the block tells.
            with pytest.raises(StreamError):
                await done.write(b"more")


@pytest.mark.virtual
@pytest.mark.parametrize("steps", range(40))
async def test_streaming_cancelled_at_any_step_leaves_nothing_behind(steps: int) -> None:
    from test_cancellation import cancel_after

    async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                group.start_soon(cancel_after, steps, scope)
                with b.text_streams() as streams:
                    async with a.local_participant.stream_text() as writer:
                        await writer.write("1")
                        with await anext(streams) as reader:
                            await anext(reader)
                            await writer.write("2")
                group.cancel_scope.cancel()
        await anyio.sleep(0.01)
        for room in (a, b):
            router = room._transport.router
            assert (router.pending_calls, len(router._handles)) == (0, 0)  # type: ignore[attr-defined]
            assert room._transport._readers == {}  # type: ignore[attr-defined]
        # The room, ourselves and the other one: no reader and no writer is left.
        assert [room._transport.live_handles for room in (a, b)] == [3, 3]  # type: ignore[attr-defined]
