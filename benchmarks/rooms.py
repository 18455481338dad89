"""Rooms on a real livekit-server: our client on either backend beside livekit.rtc, in turns, each in a new process."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio

from .processes import REPOSITORY, environment
from .report import Figure, p50

FILLED_TRACKS = 8
_FRAME_S = 0.02


def _argv(who: str, backend: str, task: str, url: str, argument: int) -> list[str]:
    return [sys.executable, "-m", "benchmarks.room_tasks", who, backend, task, url, str(argument)]


def _run(who: str, backend: str, task: str, url: str, argument: int) -> dict[str, Any]:
    done = subprocess.run(
        _argv(who, backend, task, url, argument),
        env=environment(),
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{who} {backend} {task} ended with {done.returncode}:\n{done.stderr[-3_000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _in_turns(backend: str, task: str, url: str, argument: int, turns: int) -> tuple[Any, Any]:
    """Ours and livekit.rtc's figures of each turn."""
    ours: list[dict[str, Any]] = []
    theirs: list[dict[str, Any]] = []
    for _ in range(turns):
        ours.append(_run("ours", backend, task, url, argument))
        theirs.append(_run("rtc", "asyncio", task, url, argument))
    return ours, theirs


@contextmanager
def _filled(url: str, tracks: int) -> Iterator[None]:
    argv = _argv("ours", "asyncio", "filled", url, tracks)
    with subprocess.Popen(
        argv, env=environment(), cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.kill()


def _seconds(turns: list[dict[str, Any]]) -> float:
    """The median over all turns."""
    return p50([value for turn in turns for value in turn["seconds"]])


def _median(turns: list[dict[str, Any]], name: str) -> float:
    return p50([turn[name] for turn in turns])


def _figure(what: str, backend: str, ours: float, theirs: float, unit: str, goal: float) -> Figure:
    return Figure(
        what=what,
        backend=backend,
        ours=ours,
        floor=theirs,
        floor_is="livekit.rtc",
        unit=unit,
        goal=f"≤ {goal}x",
        met=ours <= goal * theirs,
    )


def measure(backend: str, smoke: bool, url: str) -> list[Figure]:
    """The table's rows for one backend; "floor" is livekit.rtc on asyncio."""
    turns = 1 if smoke else 3
    figures: list[Figure] = []

    ours, theirs = _in_turns(backend, "connecting", url, 2 if smoke else 20, turns)
    figures.append(_figure("room connect, p50", backend, 1e3 * _seconds(ours), 1e3 * _seconds(theirs), "ms", 0.7))

    ours, theirs = _in_turns(backend, "data", url, 20 if smoke else 300, turns)
    what = "data packet, a → server → b, p50"
    figures.append(_figure(what, backend, 1e3 * _seconds(ours), 1e3 * _seconds(theirs), "ms", 0.75))

    ours, theirs = _in_turns(backend, "capturing", url, 50 if smoke else 500, turns)
    what = "capture_frame each 10 ms, p50"
    figures.append(_figure(what, backend, 1e6 * _seconds(ours), 1e6 * _seconds(theirs), "µs", 0.8))
    what = "processor of one published track in real time"
    figures.append(_figure(what, backend, 100 * _median(ours, "share"), 100 * _median(theirs, "share"), "%", 0.8))

    ours, theirs = _in_turns(backend, "latency", url, 1 if smoke else 15, turns)
    what = "sound from capture to receipt, p50"
    figures.append(_figure(what, backend, 1e3 * _seconds(ours), 1e3 * _seconds(theirs), "ms", 1.1))

    with _filled(url, FILLED_TRACKS):
        ours, theirs = _in_turns(backend, "receiving", url, 400 if smoke else 4_000, turns)
    what = f"processor per received audio frame, {FILLED_TRACKS} tracks"
    figures.append(_figure(what, backend, 1e6 * _median(ours, "cpu"), 1e6 * _median(theirs, "cpu"), "µs", 1.0))

    ours, theirs = _in_turns(backend, "rooms", url, 2 if smoke else 40, turns)
    what = "resident memory of each further room"
    figures.append(_figure(what, backend, _median(ours, "bytes") / 1e6, _median(theirs, "bytes") / 1e6, "MB", 1.0))
    figures.append(
        _figure("threads with all these rooms", backend, _median(ours, "threads"), _median(theirs, "threads"), "", 1.0)
    )
    return figures


def carried(backend: str, smoke: bool, url: str) -> list[Figure]:
    """How many publishing rooms one process carries, beside livekit.rtc."""
    count = 1 if smoke else 20
    some, others = _in_turns(backend, "carrying", url, count, 1)
    share, late = (f"{what} of {count} rooms that publish 20 ms frames" for what in ("processor", "lateness (p99)"))
    ours, theirs = _most(smoke, "ours", backend, url), _most(smoke, "rtc", "asyncio", url)
    return [
        _figure(share, backend, 100 * _median(some, "share"), 100 * _median(others, "share"), "%", 1.0),
        _figure(late, backend, 1e3 * _median(some, "late"), 1e3 * _median(others, "late"), "ms", 1.0),
        Figure(
            what="rooms that one process publishes 20 ms frames in, 99 % of them less than a frame late",
            backend=backend,
            ours=ours,
            floor=theirs,
            floor_is="livekit.rtc",
            unit="",
            goal="≥ 1.0x",
            met=ours >= theirs,
        ),
    ]


def _most(smoke: bool, who: str, backend: str, url: str) -> int:
    kept_up = 0
    for count in (1,) if smoke else range(5, 101, 5):
        if _run(who, backend, "carrying", url, count)["late"] >= _FRAME_S and not smoke:
            break
        kept_up = count
    return kept_up


async def _events(count: int) -> float:
    """Events a second of processor time that a room's model takes in, with one subscriber who reads them all."""
    from livekit_agent.events import ParticipantJoined, RoomEvent
    from livekit_agent.rooms import MemoryRooms
    from livekit_agent.rooms._proto import room as room_pb

    async with MemoryRooms() as rooms, rooms.join("model", "a") as room, rooms.join("model", "b"):
        await anext(aiter(room.subscribe(ParticipantJoined, replay=True)))
        handle = room._link.room_handle  # pyright: ignore[reportPrivateUsage] - below the public seam on purpose
        metadata = room_pb.ParticipantMetadataChanged(participant_identity="b", metadata="m")
        speakers = room_pb.ActiveSpeakersChanged(participant_identities=["b"])
        quality = room_pb.ConnectionQualityChanged(participant_identity="b", quality=2)  # pyright: ignore[reportArgumentType]
        arrivals = [
            room_pb.RoomEvent(room_handle=handle, participant_metadata_changed=metadata),
            room_pb.RoomEvent(room_handle=handle, active_speakers_changed=speakers),
            room_pb.RoomEvent(room_handle=handle, connection_quality_changed=quality),
        ] * 30
        seen = 0
        with room.subscribe(RoomEvent) as subscription:
            reader = aiter(subscription)
            used = time.process_time()
            while seen < count:
                for event in arrivals:
                    room._receive(event)  # pyright: ignore[reportPrivateUsage]
                for _ in arrivals:
                    await anext(reader)
                seen += len(arrivals)
            return seen / (time.process_time() - used)


def model(backend: str, smoke: bool) -> list[Figure]:
    """How fast the room's model is, without a network."""
    rate = anyio.run(_events, 900 if smoke else 90_000, backend=backend)
    return [
        Figure(
            what="events that a room's model takes in, with one reader",
            backend=backend,
            ours=rate,
            unit="/s",
            goal="≥ 100,000 /s",
            met=rate >= 100_000,
        )
    ]
