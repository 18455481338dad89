"""Every operation of a room, given up at every step: nothing leaks, nobody stays, nothing stays published."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from livekit_agent import RoomConnectError, RoomError, events
from livekit_agent.rooms import AudioSource, MemoryRooms, RemoteParticipant, Room
from livekit_agent.rooms._memory_network import Delays
from livekit_agent.simulation import run_virtual

pytestmark = pytest.mark.virtual

STEPS = 40

Operation = Callable[[MemoryRooms, Room], Awaitable[object]]


async def connecting(rooms: MemoryRooms, room: Room) -> None:
    another = await rooms.join("r", "late")
    await another.disconnect()


async def connecting_slowly(rooms: MemoryRooms, room: Room) -> None:
    rooms._latency = 0.0001
    await connecting(rooms, room)


async def sending(rooms: MemoryRooms, room: Room) -> None:
    await room.local_participant.publish_data(b"x")


async def changing(rooms: MemoryRooms, room: Room) -> None:
    await room.local_participant.set_attributes({"a": "b"})


async def publishing(rooms: MemoryRooms, room: Room) -> None:
    publication = await room.local_participant.publish_audio()
    with anyio.CancelScope(shield=True):
        await room.local_participant.unpublish_track(publication.sid)


async def unpublishing(rooms: MemoryRooms, room: Room) -> None:
    publication = await room.local_participant.publish_audio()
    await room.local_participant.unpublish_track(publication.sid)


async def capturing(rooms: MemoryRooms, room: Room) -> None:
    source = AudioSource(queue_size_ms=10)
    publication = await room.local_participant.publish_audio(source)
    for duration in (0.0095, 0.0005, 0.0005):
        await source.capture_frame(duration=duration)
    await room.local_participant.unpublish_track(publication.sid)


async def waiting(rooms: MemoryRooms, room: Room) -> None:
    rooms.send_data("r", b"x")
    await room.wait_for(events.DataReceived)


async def looking(rooms: MemoryRooms, room: Room) -> None:
    async with rooms.join("r", "b"):
        await room.wait_for_participant("b", active=True)


async def attending(rooms: MemoryRooms, room: Room) -> None:
    async def attend(person: RemoteParticipant) -> None:
        await anyio.sleep_forever()

    async with room.per_participant(attend), rooms.join("r", "b"):
        await room.wait_for_participant("b")


async def listening(rooms: MemoryRooms, room: Room) -> None:
    async with rooms.join("r", "b") as b:
        publication = await room.local_participant.publish_audio()
        person = await b.wait_for_participant()
        with person.audio() as frames, anyio.move_on_after(0.0003):
            await anext(frames)
        await publication.wait_for_subscription()
        await room.local_participant.unpublish_track(publication.sid)


async def leaving(rooms: MemoryRooms, room: Room) -> None:
    await room.disconnect()


@pytest.mark.parametrize(
    "operation",
    [
        connecting,
        connecting_slowly,
        sending,
        changing,
        publishing,
        unpublishing,
        capturing,
        waiting,
        looking,
        attending,
        listening,
        leaving,
    ],
)
async def test_an_operation_given_up_at_any_step_leaves_nothing_behind(operation: Operation) -> None:
    done = [await given_up_after(operation, steps) for steps in range(STEPS)]
    assert done[-1], f"not done after {STEPS} steps"
    # Leaving completes though it is cancelled; everything else gives up.
    assert done[0] is (operation is leaving)


async def given_up_after(operation: Operation, steps: int) -> bool:
    """Run it, cancel it after so many steps of another task; say whether it was done before."""
    done = False
    transports: list[Any] = []
    async with MemoryRooms() as rooms:
        admit = rooms.admit

        def count(connection: Any, *args: Any) -> None:
            transports.append(connection)
            admit(connection, *args)

        rooms.admit = count  # type: ignore[method-assign]
        room = await rooms.join("r", "a")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as group:
                if steps == 0:
                    scope.cancel()
                else:
                    group.start_soon(cancel_after, steps, scope)
                await operation(rooms, room)
                done = True
                group.cancel_scope.cancel()
        await anyio.sleep(0.01)
        assert [person.identity for person in rooms.participants("r")] == (["a"] if room.is_open else [])
        # What was published before, and was not to be given up, may still be there: then in both places.
        published = list(room.local_participant.track_publications)
        assert [track.sid for person in rooms.participants("r") for track in person.tracks] == published
        assert published == [] or operation in (unpublishing, capturing, listening)
        await room.disconnect()
        assert rooms.participants("r") == []
        await anyio.sleep(0.01)
    assert [transport.live_handles for transport in transports] == [0] * len(transports)
    assert [transport.router.pending_calls for transport in transports] == [0] * len(transports)
    return done


async def cancel_after(steps: int, scope: anyio.CancelScope) -> None:
    for _ in range(steps):
        await anyio.lowlevel.checkpoint()
        if steps > 20:
            # What takes time takes it in steps of the clock.
            await anyio.sleep(0.0001)
    scope.cancel()


async def test_a_join_that_is_given_up_and_succeeds_later_is_undone() -> None:
    async with MemoryRooms(latency=5) as rooms, rooms.join("r", "a") as room:
        heard = room.subscribe()
        with pytest.raises(RoomConnectError, match="within 1 s"):
            await rooms.join("r", "late", timeout=1)
        await anyio.sleep(10)
        got = [heard.next_nowait() for _ in range(3)]
        assert [type(event) for event in got] == [
            events.ParticipantJoined,
            events.ParticipantActive,
            events.ParticipantLeft,
        ]
        assert [person.identity for person in rooms.participants("r")] == ["a"]


async def test_a_join_that_is_never_answered_can_be_given_up() -> None:
    async with MemoryRooms() as rooms:
        rooms.hang_next()
        with anyio.move_on_after(3) as scope:
            await rooms.join("r", "a")
        assert scope.cancelled_caught
        assert anyio.current_time() == 3


async def opening_a_stream(room: Room) -> None:
    async with room.local_participant.stream_text():
        pass


@pytest.mark.parametrize(
    ("taken_back", "begin"),
    [
        ("unpublish_track", lambda room: room.local_participant.publish_audio()),
        ("local_data_track_unpublish", lambda room: room.local_participant.publish_data_track("t")),
        ("text_stream_close", opening_a_stream),
    ],
)
async def test_what_cannot_be_taken_back_any_more_harms_nobody(
    taken_back: str, begin: Callable[[Room], Awaitable[object]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The library has forgotten the room, and says no: in the event loop, where an error would end the process."""
    async with MemoryRooms(delays=Delays(other=1)) as rooms, rooms.join("r", "a") as room:
        transport = room._link.transport
        ask, asked = transport.request, list[str]()

        def forgetful(request: Any) -> Any:
            asked.append(request.WhichOneof("message"))
            if asked[-1] == taken_back:
                raise RoomError("the request was rejected")
            return ask(request)

        monkeypatch.setattr(transport, "request", forgetful)
        with anyio.move_on_after(0.5) as given_up:
            await begin(room)
        assert given_up.cancelled_caught
        await anyio.sleep(3)
        assert taken_back in asked
        monkeypatch.undo()
        await room.local_participant.set_name("still here")


@pytest.mark.parametrize("how", ["closed", "given up"])
async def test_a_stream_that_cannot_be_ended_any_more_gives_its_handle_back_with_the_room(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as room:
        transport = room._link.transport
        ask = transport.request

        def refusing(request: Any) -> Any:
            if request.WhichOneof("message") == "text_stream_close":
                raise RoomError("the request was rejected")
            return ask(request)

        writer = room.local_participant.stream_text()
        await writer.__aenter__()
        monkeypatch.setattr(transport, "request", refusing)
        if how == "closed":
            with pytest.raises(RoomError, match="rejected"):
                await writer.close()
        else:
            writer.abort("no more of it")
        await room.disconnect()
        assert transport.live_handles == 0  # type: ignore[attr-defined]


async def test_a_track_that_is_not_made_lets_its_source_go(monkeypatch: pytest.MonkeyPatch) -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as room:
        transport = room._link.transport
        ask = transport.request

        def refusing(request: Any) -> Any:
            if request.WhichOneof("message") == "create_audio_track":
                raise RoomError("the request was rejected")
            return ask(request)

        before = transport.live_handles  # type: ignore[attr-defined]
        source = AudioSource()
        with monkeypatch.context() as patch:
            patch.setattr(transport, "request", refusing)
            with pytest.raises(RoomError, match="rejected"):
                await room.local_participant.publish_audio(source)
        assert transport.live_handles == before  # type: ignore[attr-defined]
        await room.local_participant.publish_audio(source)


async def test_a_consumer_cancelled_while_it_waits_loses_no_event() -> None:
    async with MemoryRooms() as rooms, rooms.join("r", "a") as room:
        heard = room.subscribe(events.DataReceived)
        with anyio.move_on_after(1):
            await anext(heard)
        rooms.send_data("r", b"1")
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anext(heard)
        await anyio.sleep(0.01)
        event = await anext(heard)
        assert isinstance(event, events.DataReceived)
        assert event.data == b"1"


def test_a_cancelled_wait_for_the_end_does_not_return_though_the_room_ends_at_that_instant(backend: str) -> None:
    """Found by S9 at seed 0x7a9 on asyncio: the wait was over in the tick in which the cancellation was on its way."""

    async def cancelled(turns: int) -> bool:
        async with MemoryRooms() as rooms, anyio.create_task_group() as tasks:
            room = await rooms.join("lobby", "alice")

            async def close() -> None:
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                rooms.delete_room("lobby")

            tasks.start_soon(close)
            for _ in range(3):
                await anyio.lowlevel.checkpoint()
            with anyio.CancelScope() as scope:
                scope.cancel()
                await room.wait_closed()
        return scope.cancelled_caught

    returned = [
        (seed, turns)
        for seed in range(15)
        for turns in range(6)
        if not run_virtual(cancelled, turns, backend=backend, seed=seed)
    ]
    assert returned == []
