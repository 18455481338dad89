"""The native library for long, and given up at its worst moments, on a real livekit-server: ``nox -s endurance``.

Not collected by itself: it takes minutes.  Afterwards the server lists nobody, every handle has been given back, and
there are as many threads and file descriptors as before; over a thousand visits memory does not grow.  When all is
over, nothing in the library has panicked, 17 s later either: that is when it complains of a room that was given up.
"""

from __future__ import annotations

import gc
import logging
import os
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import psutil
import pytest
from operations import OPERATIONS, Operation, leave, perform_a_script
from venues import NativeVenue, counted_handles

from livekit_agent.rooms import Room, _calls

pytestmark = [pytest.mark.real_server, pytest.mark.timeout(3_600)]

CYCLES = int(os.environ.get("LIVEKIT_VISITS", "1000"))
#: Memory, threads and descriptors are looked at after this many, and at the end.
SETTLED = CYCLES // 5
GROWTH_MAX = 2 * 1024 * 1024
INSTANTS = 50


#: A scripted participant is one of rooms in memory.
REAL = [operation for operation in OPERATIONS if operation is not perform_a_script]


@pytest.fixture(scope="module", autouse=True)
def nothing_panics() -> Iterator[None]:
    """The library's panics come as events, which are logged, on any thread and up to 15 s late."""
    panics: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "panic" in record.getMessage():
                panics.append(record.getMessage())

    listener = Listener()
    logging.getLogger("livekit_agent.rooms").addHandler(listener)
    yield
    time.sleep(17)
    logging.getLogger("livekit_agent.rooms").removeHandler(listener)
    assert panics == []


class Rooms:
    """What the operations ask of the rooms: to let one more in."""

    def __init__(self, venue: NativeVenue) -> None:
        self._venue = venue

    async def join(self, room: str, identity: str) -> Room:
        return await self._venue.join(identity)


class Strike:
    """Cancels ``scope`` at the ``number``-th request of the library, at one of its moments; counts them else."""

    def __init__(self, moment: str = "", number: int = 0) -> None:
        self.moment = moment
        self.number = number
        self.seen = 0
        self.scope: anyio.CancelScope | None = None

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every request that is sent inside the block."""
        init, receive = _calls.Call.__init__, _calls.Call._receive
        strike = self

        def sending(call: _calls.Call, *args: Any, **kwargs: Any) -> None:
            number = strike.next()
            call.number = number  # type: ignore[attr-defined]
            strike.at("unsent", number)
            init(call, *args, **kwargs)
            strike.at("pending", number)

        def answered(call: _calls.Call, event: Any) -> None:
            receive(call, event)
            strike.at("answered", call.number)  # type: ignore[attr-defined]

        _calls.Call.__init__ = sending  # type: ignore[method-assign]
        _calls.Call._receive = answered  # type: ignore[method-assign]
        try:
            yield
        finally:
            _calls.Call.__init__ = init  # type: ignore[method-assign]
            _calls.Call._receive = receive  # type: ignore[method-assign]

    def next(self) -> int:
        self.seen += 1
        return self.seen

    def at(self, moment: str, number: int) -> None:
        if (moment, number) == (self.moment, self.number) and self.scope is not None:
            self.scope.cancel()


async def live(venue: NativeVenue, operation: Operation, strike: Strike, within: float = 30.0) -> None:
    """Two people meet, the operation is struck, and they part."""
    rooms: Any = Rooms(venue)
    async with await venue.join("a", kind="agent") as a, await venue.join("b") as b:
        await there(a, "b")
        await there(b, "a")
        with strike.watching(), anyio.move_on_after(within) as strike.scope:
            await operation(rooms, a, b)


async def there(room: Room, identity: str) -> None:
    """Wait until the other one is there, and can be reached."""
    with anyio.fail_after(15):
        while identity not in room.remote_participants:  # noqa: ASYNC110 - a server's state
            await anyio.sleep(0.01)
        await room.remote_participants[identity].wait_until_active()


async def nobody_left(venue: NativeVenue, handles: dict[int, str]) -> None:
    """The server lists nobody, and every handle was given back.

    A leave may be lost: the library closes its socket with what it has not read, the kernel answers the server's next
    byte with a reset, and what was still to be read goes with it.  The server notices by the media, 15 s later.
    """
    with anyio.move_on_after(30):
        while handles or await venue.present():  # noqa: ASYNC110 - a server's and the library's state
            await anyio.sleep(0.05)
    assert await venue.present() == []
    assert handles == {}


def footprint() -> tuple[int, int]:
    """Threads and file descriptors of this process."""
    process = psutil.Process()
    return process.num_threads(), process.num_fds()


#: Threads and descriptors of the library's one WebRTC factory.  It goes ten seconds after the last session.  Now and
#: then a session that was left with a track published and heard never goes, and the factory stays with it: livekit
#: 1.2.1, with every handle given back, also where we cancelled nothing.
FACTORY = (5, 4)


async def back_to(before: tuple[int, int]) -> None:
    """The library's threads end at their leisure."""

    def few() -> bool:
        return all(now <= then + kept for now, then, kept in zip(footprint(), before, FACTORY, strict=True))

    with anyio.move_on_after(15):
        while not few():  # noqa: ASYNC110 - the library's state
            await anyio.sleep(0.1)
    assert few(), (footprint(), before)


async def in_a_warm_process(
    venue: NativeVenue, body: Callable[[dict[int, str]], Awaitable[None]], *usual: Operation
) -> None:
    """``body`` between two looks at threads and descriptors; the library keeps some from the first ``usual`` use on."""
    async with venue.open():
        with counted_handles() as handles:
            for operation in usual:
                await live(venue, operation, Strike())
            await nobody_left(venue, handles)
            before = footprint()
            await body(handles)
            await nobody_left(venue, handles)
            await back_to(before)


@pytest.mark.parametrize("operation", REAL, ids=lambda operation: operation.__name__)
async def test_given_up_at_each_request_of_the_library(native: NativeVenue, operation: Operation) -> None:
    async def body(handles: dict[int, str]) -> None:
        whole = Strike()
        await live(native, operation, whole)
        await nobody_left(native, handles)
        for number in range(1, whole.seen + 1):
            for moment in ("unsent", "pending", "answered"):
                await live(native, operation, Strike(moment, number))
                await nobody_left(native, handles)

    await in_a_warm_process(native, body, leave, operation)


async def test_given_up_at_any_instant(native: NativeVenue, backend: str) -> None:
    chance = random.Random(f"endurance:{backend}")

    async def body(handles: dict[int, str]) -> None:
        for _ in range(INSTANTS):
            await live(native, chance.choice(REAL), Strike(), within=chance.uniform(0, 0.3))
        await nobody_left(native, handles)

    await in_a_warm_process(native, body, *REAL)


async def test_a_thousand_visits_cost_nothing_that_stays(native: NativeVenue) -> None:
    async def visit() -> None:
        async with await native.join("a") as a:
            await a.local_participant.publish_data(b"x")

    async def body(handles: dict[int, str]) -> None:
        measured: list[tuple[int, tuple[int, int]]] = []
        for number in range(1, CYCLES + 1):
            await visit()
            if number in (SETTLED, CYCLES):
                await nobody_left(native, handles)
                gc.collect()
                measured.append((psutil.Process().memory_info().rss, footprint()))
        (early, before), (late, after) = measured
        print(
            f"visits {SETTLED} to {CYCLES}: memory {late - early:+} bytes, threads and descriptors {before} → {after}"
        )
        assert late - early <= GROWTH_MAX
        assert all(now <= then for now, then in zip(after, before, strict=True))

    await in_a_warm_process(native, body, leave, leave)
