"""Every operation of a room, cancelled at every step of the event loop: nothing leaks, nobody stays, all goes on.

An operation is lived once, and the steps of the event loop are counted while it runs.  Then it is lived again for each
of them, and at that step its scope is cancelled.  Whatever the step: what it raises is its cancellation, the rooms of
both participants still work, and when they are left every handle has been given back and no request is open.  In
memory, with and without latency, and (at every fifth step) over a connection to a server that has the rooms.

Under virtual time, which makes the steps the same each time.  tests/rooms/endurance.py does the like on a real server,
at each request of the library and at any instant.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from types import CodeType, FrameType
from typing import Any

import anyio
import pytest
from operations import OPERATIONS, Operation, leave
from realserver import KEY, SECRET
from venues import counted_ends, token

from livekit_agent import RoomClosedError, events, rooms
from livekit_agent.dispatch import DispatchServer
from livekit_agent.rooms import MemoryRooms, ParticipantKind, Room
from livekit_agent.runtime._rooms import ServerRooms
from livekit_agent.simulation import run_virtual

#: Many more would be a loop that makes no progress.
STEPS_MAX = 2_000

Join = Callable[[str], Any]
Place = Callable[[list[Any]], Any]


@asynccontextmanager
async def near(transports: list[Any], latency: float = 0.0) -> AsyncGenerator[tuple[MemoryRooms, Join]]:
    """Rooms in memory; every answer takes ``latency``: without one, some are there before anybody can be cancelled."""
    async with MemoryRooms(latency=latency) as memory:
        admit = memory.admit

        def note(connection: Any, *args: Any) -> None:
            transports.append(connection)
            admit(connection, *args)

        memory.admit = note  # type: ignore[method-assign]
        yield memory, lambda identity: memory.join("r", identity, kind=ParticipantKind.AGENT)


def near_and_slow(transports: list[Any]) -> Any:
    """The same, with latency."""
    return near(transports, 0.002)


@asynccontextmanager
async def far(transports: list[Any]) -> AsyncGenerator[tuple[MemoryRooms, Join]]:
    """Rooms in memory behind a connection."""
    with counted_ends() as ends:
        async with (
            MemoryRooms({KEY: SECRET}) as memory,
            DispatchServer(port=None, rooms=memory) as server,
            ServerRooms("ws://127.0.0.1", connector=server.memory_connector()) as connector,
        ):
            yield memory, lambda identity: connector.join(token("r", identity, kind="agent"))
        transports += ends


class Life:
    """One life of an operation, cancelled at step ``at``; -1 for never."""

    def __init__(self, operation: Operation, place: Place, at: int = -1) -> None:
        self.operation = operation
        self.place = place
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
        before = [task.id for task in anyio.get_running_tasks()]
        transports: list[Any] = []
        async with self.place(transports) as (memory, join):
            a, b = await join("a"), await join("b")
            await a.remote_participants["b"].wait_until_active(10)
            await b.wait_for_participant("a", active=True, timeout=10)
            with anyio.CancelScope() as self._scope:
                await self.operation(memory, a, b)
                self.done = True
            self._scope = None
            await anyio.sleep(1)  # what was given up may still be on its way
            await self.still_work(memory, a, b)
            await a.disconnect()
            await b.disconnect()
            await anyio.sleep(1)
            assert memory.participants("r") == []
        assert [transport.live_handles for transport in transports] == [0] * len(transports)
        routers = [transport.router for transport in transports if hasattr(transport, "router")]
        assert [router.pending_calls for router in routers] == [0] * len(routers)
        assert [task.id for task in anyio.get_running_tasks()] == before

    async def still_work(self, rooms: MemoryRooms, a: Room, b: Room) -> None:
        """Those who have not left hear each other; nobody else is there; what is published is known to both sides."""
        present = [room for room in (a, b) if room.is_open]
        there = sorted(person.identity for person in rooms.participants("r"))
        assert there == [room.local_participant.identity for room in present]
        for room in present:
            assert dict(room.data_tracks) == {}
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
@pytest.mark.parametrize("place", [near, near_and_slow, far])
def test_an_operation_cancelled_at_any_step_leaves_nothing_behind(
    operation: Operation, place: Place, backend: str
) -> None:
    whole = Life(operation, place)
    run_virtual(whole.live, backend=backend, on_step=whole.step)
    assert whole.done
    assert whole.steps > 1, "it was counted"
    outcomes: list[bool] = []
    # A connection multiplies the steps; its own tasks take most of them, so there every fifth has to do.
    for at in range(1, whole.steps + 1, 5 if place is far else 1):
        life = Life(operation, place, at)
        try:
            run_virtual(life.live, backend=backend, on_step=life.step)
        except BaseException as exc:
            exc.add_note(f"{operation.__name__} cancelled at step {at} of {whole.steps} on {backend}")
            raise
        outcomes.append(life.done)
    # Cancelled before its first step, only what must not be given up half-way is done all the same.
    assert not outcomes[0] or operation is leave


# ------------------------------------------------------------------------------- nothing that waits is left out

#: What is public, waits, and is in no operation above: why.
ELSEWHERE = {
    "NativeRooms.connect": "real rooms: endurance.py",
    "RoomConnector.connect": "a protocol",
    "ScreenCapture.__anext__": "of no room: test_devices.py, cancelled at every step there",
    "Speaker.play": "of no room, as above",
    "Speaker.wait_for_playout": "of no room, as above",
    "Speaker.write": "of no room, as above",
}


def test_everything_public_that_waits_is_in_one_of_them(backend: str) -> None:
    called: dict[CodeType, None] = {}

    def note(frame: FrameType, event: str, arg: object) -> None:
        called[frame.f_code] = None

    for operation in OPERATIONS:
        life = Life(operation, near)
        sys.setprofile(note)
        try:
            run_virtual(life.live, backend=backend)
        finally:
            sys.setprofile(None)
    left_out = [name for name, code in public_waits() if code not in called]
    assert left_out == sorted(ELSEWHERE)


def public_waits() -> Iterator[tuple[str, CodeType]]:
    """Every public method that is awaited, or gives something that is entered with ``async with``."""
    for exported in sorted(rooms.__all__):
        value = getattr(rooms, exported)
        if not inspect.isclass(value) or "_memory" in value.__module__:
            continue
        for name, member in inspect.getmembers(value, inspect.isfunction):
            if name.startswith("_") and not name.startswith("__a"):
                continue
            gives = str(member.__annotations__.get("return", ""))
            if inspect.iscoroutinefunction(member) or "AsyncContextManager" in gives:
                yield f"{exported}.{name}", inspect.unwrap(member).__code__
