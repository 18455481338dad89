"""Several rooms in one process, several event loops at once, and many visits one after another."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from collections.abc import Callable

import anyio
import pytest
from venues import KEY, PATIENCE, SECRET, NativeVenue, Venue, next_of, token

from livekit_agent import events
from livekit_agent.rooms import MemoryRooms, NativeRooms, Room
from livekit_agent.simulation import run_virtual


async def test_two_rooms_of_one_process_know_nothing_of_each_other(venue: Venue) -> None:
    async def elsewhere(identity: str) -> Room:
        room: Room = await venue.rooms.connect(venue.url, token(venue.room + "-other", identity), timeout=PATIENCE)
        return room

    async with venue.open():
        async with await venue.join("a") as a, await venue.join("b") as b, await elsewhere("c") as c:
            # The same identity as in the first room: another person.
            async with await elsewhere("a") as twin:
                heard, next_door = b.subscribe(events.DataReceived), c.subscribe(events.DataReceived)
                for room in (a, twin):
                    with anyio.fail_after(PATIENCE):
                        while not room.remote_participants:  # noqa: ASYNC110 - a server's state
                            await anyio.sleep(0.01)
                        (other,) = room.remote_participants.values()
                        await other.wait_until_active()
                assert list(a.remote_participants) == ["b"]
                assert list(twin.remote_participants) == ["c"]
                await a.local_participant.publish_data(b"for b")
                await twin.local_participant.publish_data(b"for c")
                assert (await next_of(heard, events.DataReceived)).data == b"for b"
                assert (await next_of(next_door, events.DataReceived)).data == b"for c"
            # One room is left; the other goes on.
            assert not twin.is_open
            await a.local_participant.publish_data(b"still here")
            assert (await next_of(heard, events.DataReceived)).data == b"still here"
            assert heard.next_nowait() is None


def at_once(*bodies: Callable[[], object]) -> None:
    """Run them on threads of their own, all at the same time; raise what one of them raised."""
    errors: list[BaseException] = []

    def guarded(body: Callable[[], object]) -> None:
        try:
            body()
        except BaseException as exc:
            errors.append(exc)

    threads = [threading.Thread(target=guarded, args=[body]) for body in bodies]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(90)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def test_rooms_in_memory_in_two_loops_at_once() -> None:
    together = threading.Barrier(2, timeout=30)

    async def visit() -> None:
        async with MemoryRooms() as rooms, rooms.join("r", "a") as a, rooms.join("r", "b") as b:
            together.wait()  # both loops are inside a room now
            heard = b.subscribe(events.DataReceived)
            for number in range(100):
                await a.local_participant.publish_data(str(number))
                assert (await anext(heard)).data == str(number).encode()  # type: ignore[attr-defined]
            together.wait()

    at_once(lambda: anyio.run(visit, backend="trio"), lambda: anyio.run(visit, backend="asyncio"))


@pytest.mark.real_server
@pytest.mark.parametrize("other", ["trio", "asyncio"])
def test_two_loops_on_two_threads_meet_in_a_real_room(native: NativeVenue, other: str) -> None:
    inside = threading.Barrier(2, timeout=60)
    got: dict[str, bytes] = {}

    async def visit(own: str, their: str) -> None:
        async with await NativeRooms().connect(native.url, token(native.room, own), timeout=PATIENCE) as room:
            heard = room.subscribe(events.DataReceived)
            await anyio.to_thread.run_sync(inside.wait)
            with anyio.fail_after(PATIENCE):
                while their not in room.remote_participants:  # noqa: ASYNC110 - a server's state
                    await anyio.sleep(0.01)
                await room.remote_participants[their].wait_until_active()
            await room.local_participant.publish_data(f"from {own}")
            got[own] = (await next_of(heard, events.DataReceived)).data
            await anyio.to_thread.run_sync(inside.wait)

    at_once(
        lambda: anyio.run(visit, "one", "two", backend="trio"),
        lambda: anyio.run(visit, "two", "one", backend=other),
    )
    assert got == {"one": b"from two", "two": b"from one"}


def test_a_thousand_visits_leave_no_object_behind(backend: str) -> None:
    """Not even one visit in ten of eight hundred does."""

    async def visits() -> list[Counter[str]]:
        counts: list[Counter[str]] = []
        async with MemoryRooms({KEY: SECRET}) as rooms:
            for number in range(1, 1_001):
                async with await rooms.connect("memory:", token("r", "a", wall=rooms._wall_clock())) as room:
                    await room.local_participant.publish_audio()
                    await room.local_participant.publish_data(b"x")
                rooms.delete_room("r")
                if number in (200, 1_000):
                    # Long enough for the backends to forget the deadlines that did not come about.
                    await anyio.sleep(3_600)
                    gc.collect()
                    counts.append(Counter(type(thing).__qualname__ for thing in gc.get_objects()))
        return counts

    early, late = run_virtual(visits, backend=backend)
    grown = {name: late[name] - early[name] for name in late if late[name] > early[name]}
    # If one visit in ten left one object behind, it would be 80.  (Caches of the interpreter's take a few.)
    assert sum(grown.values()) < 80, grown
