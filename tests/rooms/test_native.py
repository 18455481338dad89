"""The native library and a real livekit-server: what no pretence can show."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio
import pytest
from realserver import RealServer
from venues import PATIENCE, NativeVenue, counted_handles, next_of, token

from livekit_agent import events
from livekit_agent.rooms import ConnectionState, NativeRooms, _ffi

pytestmark = [pytest.mark.real_server, pytest.mark.timeout(120)]


#: An abandoned join may need as long as the library gives ICE on a busy machine.
LATE = 40.0


async def gone(venue: NativeVenue, *identities: str) -> None:
    """Wait until the server has nobody else in the room."""
    with anyio.fail_after(LATE):
        while sorted(await venue.present()) != sorted(identities):  # noqa: ASYNC110 - the server tells nobody outside
            await anyio.sleep(0.05)


async def test_joins_given_up_at_any_moment_leave_nobody_in_the_room(native: NativeVenue) -> None:
    rng = random.Random(1)
    async with native.open():
        completed = 0
        for number in range(12):
            with anyio.move_on_after(rng.uniform(0, 0.08)):
                room = await native.join(f"guest-{number}")
                completed += 1
                await room.disconnect()
        router = _ffi.native_transport().router
        with anyio.fail_after(LATE):
            while router.pending_calls:  # noqa: ASYNC110 - nobody waits for them, that is the point
                await anyio.sleep(0.05)
        await gone(native)
        assert completed < 12


async def test_publishing_given_up_at_any_moment_leaves_no_track(native: NativeVenue) -> None:
    rng = random.Random(2)
    async with native.open():
        async with await native.join("a") as a, await native.join("b") as b:
            for _ in range(10):
                with anyio.move_on_after(rng.uniform(0, 0.01)):
                    publication = await a.local_participant.publish_audio()
                    with anyio.CancelScope(shield=True):
                        await a.local_participant.unpublish_track(publication.sid)
            # A last one, and everything that came before it at the other side is gone with it.
            last = await a.local_participant.publish_audio(name="last")
            with anyio.fail_after(PATIENCE):
                while True:
                    others = b.remote_participants.get("a")
                    names = [p.name for p in others.track_publications.values()] if others else []
                    if names == ["last"]:
                        break
                    await anyio.sleep(0.02)
            assert list(a.local_participant.track_publications) == [last.sid]


async def test_a_server_that_dies_and_comes_back_is_rejoined_with_our_tracks(own_server: RealServer) -> None:
    venue = NativeVenue("lasting", own_server)
    async with venue.open():
        async with await venue.join("a") as room, anyio.create_task_group() as group:
            heard = room.subscribe()
            publication = await room.local_participant.publish_audio()
            group.start_soon(keep_feeding, publication.track.source.capture_frame)
            sid = publication.sid
            own_server.kill()
            await next_of(heard, events.Reconnecting)
            assert room.connection_state == ConnectionState.RECONNECTING
            own_server.start()
            republished = await next_of(heard, events.LocalTrackRepublished)
            assert republished.publication is publication
            assert republished.previous_sid == sid
            assert publication.sid != sid
            assert list(room.local_participant.track_publications) == [publication.sid]
            await next_of(heard, events.Reconnected)
            assert room.connection_state == ConnectionState.CONNECTED
            group.cancel_scope.cancel()


async def keep_feeding(capture: Callable[[], Awaitable[None]]) -> None:
    while True:
        await capture()


async def test_leaving_a_dead_server_is_bounded(own_server: RealServer) -> None:
    venue = NativeVenue("dead", own_server)
    async with venue.open():
        room = await venue.join("a")
        own_server.kill()
        started = anyio.current_time()
        await room.disconnect()
        assert anyio.current_time() - started < PATIENCE
        assert not room.is_open


def test_event_loops_one_after_another_and_on_other_threads(native: NativeVenue) -> None:
    async def visit() -> None:
        async with native.open(), await native.join("a") as a:
            await a.local_participant.publish_data(b"x")

    failures: list[BaseException] = []

    def guarded(backend: str) -> None:
        try:
            anyio.run(visit, backend=backend)
        except BaseException as exc:
            failures.append(exc)

    for backend in ("trio", "asyncio", "asyncio", "trio"):
        guarded(backend)
        thread = threading.Thread(target=guarded, args=[backend])
        thread.start()
        thread.join(30)
    assert failures == []


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_joins_that_succeed_after_their_loop_has_ended_are_undone(native: NativeVenue, backend: str) -> None:
    async def impatient() -> None:
        async with anyio.create_task_group() as group:
            for number in range(5):
                group.start_soon(NativeRooms().connect, native.url, token(native.room, f"guest-{number}"))
            await anyio.sleep(0.005)
            group.cancel_scope.cancel()

    async def afterwards() -> None:
        async with native.open():
            async with await native.join("witness"):
                # All have come in by then, or will not; and each has been led out again.
                await anyio.sleep(1)
                await gone(native, "witness")

    with counted_handles() as live:
        anyio.run(impatient, backend=backend)
        anyio.run(afterwards, backend=backend)
        assert live == {}


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
def test_a_loop_that_ends_inside_a_room_does_not_stay_in_it(native: NativeVenue, backend: str) -> None:
    async def careless() -> None:
        await NativeRooms().connect(native.url, token(native.room, "careless"))

    async def afterwards() -> None:
        async with native.open():
            # The next event of that room finds its loop gone.
            await native.update_room("is anybody there?")
            await gone(native)

    anyio.run(careless, backend=backend)
    anyio.run(afterwards, backend=backend)


def test_a_forked_child_is_refused_and_its_parent_is_not(native: NativeVenue, backend: str) -> None:
    child = Path(__file__).with_name("exit_child.py")
    done = subprocess.run(
        [sys.executable, str(child), "forked", backend, native.url, token(native.room, "a")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # The library says things now and then of a session that it is closing; they mean nothing.
    said = [line for line in done.stderr.splitlines() if "livekit::rtc_engine" not in line and "dc_event" not in line]
    assert (done.returncode, said) == (0, [])


async def test_a_panic_elsewhere_does_not_end_a_living_room(native: NativeVenue) -> None:
    from livekit_agent.rooms._proto import ffi

    async with native.open():
        async with await native.join("a") as a:
            heard = a.subscribe(events.RoomMetadataChanged)
            assert _ffi._library is not None
            panic = ffi.FfiEvent()
            panic.panic.message = "a room was not made ready"
            _ffi._library._route(panic)
            await native.update_room("still here")
            assert (await next_of(heard, events.RoomMetadataChanged)).metadata == "still here"
            assert a.is_open


async def test_a_blocked_loop_loses_data_and_no_arrival(native: NativeVenue, monkeypatch: pytest.MonkeyPatch) -> None:
    async def flood() -> None:
        # In a loop of its own, where the venue's server calls are not.
        async with await NativeRooms().connect(native.url, token(native.room, "b")) as b:
            await b.local_participant.publish_audio()  # so that the server announces it at once
            for number in range(200):
                await b.local_participant.publish_data(str(number))
            await anyio.sleep(1)

    monkeypatch.setattr(_ffi, "NATIVE_MAILBOX_EVENTS_MAX", 50)
    async with native.open():
        async with await native.join("a") as a:
            heard = a.subscribe()
            thread = threading.Thread(target=anyio.run, args=[flood])
            thread.start()
            thread.join(30)  # and this loop stands still meanwhile
            told: list[events.RoomEvent] = []
            with anyio.fail_after(PATIENCE):
                while not told or not isinstance(told[-1], events.ParticipantLeft):
                    told.append(await anext(heard))
            data = [event.data for event in told if isinstance(event, events.DataReceived)]
            assert data == [str(number).encode() for number in range(len(data))]
            assert len(data) + _ffi.native_transport().lost_events >= 200
            assert 0 < len(data) <= 50
            kinds = {type(event).__name__ for event in told}
            assert {"ParticipantJoined", "TrackPublished", "TrackUnpublished", "ParticipantLeft"} <= kinds


def test_a_token_is_in_nothing_that_is_printed(native: NativeVenue) -> None:
    secret = token("", "a")  # a real signature, and refused
    program = f"""
import anyio
from livekit_agent.rooms import NativeRooms
async def main():
    for bad in ({secret!r}, {secret!r}[:-6] + "AAAAAA"):
        try:
            await NativeRooms().connect({native.url!r}, bad)
        except Exception:
            import traceback
            traceback.print_exc()
anyio.run(main, backend="trio")
"""
    for level in ("", "trace"):
        done = subprocess.run(
            [sys.executable, "-c", program],
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "RUST_LOG": level},
            check=True,
        )
        assert "RoomConnectError" in done.stderr
        assert not [part for part in secret.split(".") if part in done.stdout + done.stderr]


def test_the_native_way_needs_neither_numpy_nor_the_other_backend(native: NativeVenue) -> None:
    program = f"""
import sys, anyio
from livekit_agent.rooms import NativeRooms
async def main():
    room = await NativeRooms().connect({native.url!r}, {token(native.room, "a")!r})
    await room.disconnect()
anyio.run(main, backend="trio")
assert not [name for name in ("numpy", "asyncio", "livekit.rtc") if name in sys.modules]
import livekit.rtc
livekit.rtc.Room
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
