"""Every operation of a room, cancelled at every step of the event loop: nothing leaks, nobody stays, all goes on.

An operation is lived once, and the steps of the event loop are counted while it runs.  Then it is lived again for each
of them, and at that step its scope is cancelled.  Whatever the step: what it raises is its cancellation, the rooms of
both participants still work, and when they are left every handle has been given back and no request is open.

Under virtual time, which makes the steps the same each time.  What needs real time or threads (files) is not here;
tests/rooms/endurance.py does the like on a real server, at each request of the library and at any instant.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import anyio
import numpy as np
import pytest

from livekit_agent import RoomClosedError, RpcError, events
from livekit_agent.rooms import AudioSource, MemoryRooms, Room, RpcCall, VideoFrame, VideoSource
from livekit_agent.simulation import run_virtual

Operation = Callable[[MemoryRooms, Room, Room], Awaitable[object]]

#: Many more would be a loop that makes no progress.
STEPS_MAX = 2_000

# Each is given the rooms, a room to act in, and the room of another participant, who is there and subscribed.


async def join_and_leave(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with await rooms.join("r", "late") as late:
        await late.local_participant.publish_data(b"hello")


async def leave(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.disconnect()


async def send_data(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.publish_data(b"x", topic="t")


async def hear_data(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with a.subscribe(events.DataReceived) as heard:
        await b.local_participant.publish_data(b"x")
        await anext(aiter(heard))


async def wait_for_data(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(partial(b.local_participant.publish_data, b"x"))
        await a.wait_for(events.DataReceived)


async def wait_until_closed(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(b.disconnect)
        await b.wait_closed()


async def describe_oneself(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.set_metadata("m")
    await a.local_participant.set_name("n")
    await a.local_participant.set_attributes({"k": "v"})


async def publish_and_unpublish(rooms: MemoryRooms, a: Room, b: Room) -> None:
    publication = await a.local_participant.publish_audio()
    await publication.wait_for_subscription()
    await a.local_participant.unpublish_track(publication.sid)


async def speak(rooms: MemoryRooms, a: Room, b: Room) -> None:
    publication = await a.local_participant.publish_audio(AudioSource(queue_size_ms=20))
    source = publication.track.source
    for _ in range(3):
        await source.capture_frame(duration=0.01)
    await source.wait_for_playout()


async def play(rooms: MemoryRooms, a: Room, b: Room) -> None:
    publication = await a.local_participant.publish_audio(AudioSource(queue_size_ms=20))
    await publication.track.source.play(bytes(2 * 480 * 4))


async def listen(rooms: MemoryRooms, a: Room, b: Room) -> None:
    publication = await b.local_participant.publish_audio(AudioSource(queue_size_ms=20))
    async with anyio.create_task_group() as group:
        group.start_soon(partial(publication.track.source.capture_frame, duration=0.05))
        async for _ in a.remote_participants["b"].audio():
            break
        group.cancel_scope.cancel()


async def show_and_watch(rooms: MemoryRooms, a: Room, b: Room) -> None:
    source = VideoSource(16, 16)
    await b.local_participant.publish_video(source)
    async with anyio.create_task_group() as group:
        group.start_soon(_show, source)
        async for _ in a.remote_participants["b"].video():
            break
        group.cancel_scope.cancel()


async def _show(source: VideoSource) -> None:
    frame = VideoFrame.of(np.zeros((16, 16, 4), np.uint8))
    while True:
        source.capture_frame(frame)
        await anyio.sleep(0.03)


async def call(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with b.serve_rpc({"echo": lambda asked: asked.payload}):
        assert await a.local_participant.perform_rpc("b", "echo", "x") == "x"


async def be_called(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async def slowly(asked: RpcCall) -> str:
        await anyio.sleep(0.01)
        return asked.payload

    async def ask() -> None:
        try:
            await b.local_participant.perform_rpc("a", "slowly", "x")
        except RpcError:
            return  # the block that served it was left

    async with anyio.create_task_group() as group:
        async with a.serve_rpc({"slowly": slowly}):
            group.start_soon(ask)
            await anyio.sleep(0.05)


async def send_text(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.send_text("hello " * 100, topic="t")


async def write_text(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with a.local_participant.stream_text(topic="t") as writer:
        await writer.write("one")
        await writer.write("two")


async def write_bytes(rooms: MemoryRooms, a: Room, b: Room) -> None:
    async with a.local_participant.stream_bytes(topic="t", name="n") as writer:
        await writer.write(b"one")
        await writer.write(b"two")


async def send_bytes(rooms: MemoryRooms, a: Room, b: Room) -> None:
    await a.local_participant.send_bytes(bytes(200_000), topic="t", name="n")


async def read_text(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with a.text_streams("t") as texts:
        await b.local_participant.send_text("hello", topic="t")
        reader = await anext(aiter(texts))
        assert await reader.read_all() == "hello"


async def read_bytes(rooms: MemoryRooms, a: Room, b: Room) -> None:
    with a.byte_streams("t") as files:
        await b.local_participant.send_bytes(bytes(100_000), topic="t", name="n")
        reader = await anext(aiter(files))
        async for _ in reader:
            pass


OPERATIONS: list[Operation] = [
    join_and_leave, leave, send_data, hear_data, wait_for_data, wait_until_closed, describe_oneself,
    publish_and_unpublish, speak, play, listen, show_and_watch, call, be_called, send_text, write_text, write_bytes,
    send_bytes, read_text, read_bytes,
]  # fmt: skip


class Life:
    """One life of an operation, cancelled at step ``at``; -1 for never."""

    def __init__(self, operation: Operation, at: int = -1, *, latency: float = 0.0) -> None:
        self.operation = operation
        self.latency = latency
        """Of every answer of the rooms; without one, some are there before anybody could be cancelled."""
        self.at = at
        self.steps = 0
        self.done = False
        self._scope: anyio.CancelScope | None = None

    def step(self, birth: int) -> None:
        """Told of each step of the event loop, before it runs."""
        if self._scope is None:
            return
        self.steps += 1
        assert self.steps < STEPS_MAX
        if self.steps == self.at:
            self._scope.cancel()

    async def live(self) -> None:
        transports: list[Any] = []
        before = [task.id for task in anyio.get_running_tasks()]
        async with MemoryRooms(latency=self.latency) as rooms:
            admit = rooms.admit

            def count(connection: Any, *args: Any) -> None:
                transports.append(connection)
                admit(connection, *args)

            rooms.admit = count  # type: ignore[method-assign]
            a, b = await rooms.join("r", "a"), await rooms.join("r", "b")
            await a.remote_participants["b"].wait_until_active(10)
            with anyio.CancelScope() as self._scope:
                await self.operation(rooms, a, b)
                self.done = True
            self._scope = None
            await anyio.sleep(1)  # what was given up may still be on its way
            await self.still_work(rooms, a, b)
            await a.disconnect()
            await b.disconnect()
            await anyio.sleep(1)
            assert rooms.participants("r") == []
        assert [transport.live_handles for transport in transports] == [0] * len(transports)
        assert [transport.router.pending_calls for transport in transports] == [0] * len(transports)
        assert [task.id for task in anyio.get_running_tasks()] == before

    async def still_work(self, rooms: MemoryRooms, a: Room, b: Room) -> None:
        """Those who have not left hear each other; nobody else is there; what is published is known to both sides."""
        present = [room for room in (a, b) if room.is_open]
        assert [person.identity for person in rooms.participants("r")] == [
            room.local_participant.identity for room in present
        ]
        for room in present:
            own = list(room.local_participant.track_publications)
            assert [t.sid for t in rooms.ledger.participant("r", room.local_participant.identity).tracks] == own  # type: ignore[union-attr]
        if len(present) < 2:
            for room in (a, b):
                if not room.is_open:
                    with pytest.raises(RoomClosedError):
                        await room.local_participant.publish_data(b"x")
            return
        with b.subscribe(events.DataReceived) as heard:
            await a.local_participant.publish_data(b"after", topic="after")
            with anyio.fail_after(10):
                async for event in heard:
                    assert isinstance(event, events.DataReceived)
                    if event.topic == "after":
                        break


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.__name__)
@pytest.mark.parametrize("latency", [0.0, 0.002])
def test_an_operation_cancelled_at_any_step_leaves_nothing_behind(
    operation: Operation, latency: float, backend: str
) -> None:
    whole = Life(operation, latency=latency)
    run_virtual(whole.live, backend=backend, on_step=whole.step)
    assert whole.done
    assert whole.steps > 1, "it was counted"
    outcomes: list[bool] = []
    for at in range(1, whole.steps + 1):
        life = Life(operation, at, latency=latency)
        try:
            run_virtual(life.live, backend=backend, on_step=life.step)
        except BaseException as exc:
            exc.add_note(f"{operation.__name__} cancelled at step {at} of {whole.steps} on {backend}")
            raise
        outcomes.append(life.done)
    # Cancelled before its first step, only what must not be given up half-way is done all the same.
    assert not outcomes[0] or operation is leave
