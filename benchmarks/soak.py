"""``python -m benchmarks.soak [--rooms 50] [--loud 10] [--seconds 600] [--backend trio]``: many rooms for a long time.

Two processes on a livekit-server of their own: an agent's side and the people's side of every room.  In each room each
side sends a numbered data packet a second; in the loud ones each also plays a tone in frames of 20 ms and listens.  It
fails if a packet is lost, out of order or twice, if the sound pauses for more than 100 ms, or if a frame is dropped.

So that a pause can be laid at somebody's door, each side notes how late a task that wakes each 10 ms was during it:
the part of its own event loop; and how long Python collected garbage in it.
"""

from __future__ import annotations

import argparse
import gc
import json
import struct
import subprocess
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from typing import Any

import anyio
import psutil

from .processes import REPOSITORY, environment
from .room_tasks import token, tone

GAP_S = 0.1
PULSE_S = 0.01


class Pulse:
    """How late something was that wakes each 10 ms."""

    def __init__(self) -> None:
        self._due = time.monotonic() + PULSE_S
        self._late: deque[tuple[float, float]] = deque(maxlen=1000)
        self._collected: deque[tuple[float, float]] = deque(maxlen=1000)
        self._collecting = 0.0
        self.worst = self.worst_collection = 0.0
        gc.callbacks.append(self._collection)

    def _collection(self, phase: str, info: dict[str, int]) -> None:
        if phase == "start":
            self._collecting = time.monotonic()
            return
        took = time.monotonic() - self._collecting
        self.worst_collection = max(self.worst_collection, took)
        if took > PULSE_S:
            self._collected.append((time.monotonic(), took))

    async def beat(self) -> None:
        while True:
            self._due = time.monotonic() + PULSE_S
            await anyio.sleep(PULSE_S)
            late = time.monotonic() - self._due
            self.worst = max(self.worst, late)
            if late > PULSE_S:
                self._late.append((time.monotonic(), late))

    def since(self, moment: float) -> tuple[float, float]:
        """The latest it has been since then, the beat that is due included (who asks may be woken before it), and the
        time that went into collecting garbage."""
        late = max([0.0, time.monotonic() - self._due, *(late for when, late in self._late if when > moment)])
        return late, sum(took for when, took in self._collected if when > moment)


@dataclass
class Tally:
    """What one side saw."""

    sent: int = 0
    received: int = 0
    disorder: int = 0
    frames: int = 0
    dropped: int = 0
    gaps: list[list[float]] = field(default_factory=list)
    """Of each pause the room, its end on the machine's clock, its length, how late the event loop was in it, and how
    long garbage was collected."""
    longest: float = 0.0
    late: float = 0.0
    """How late the event loop was at most."""
    collection: float = 0.0
    """The longest collection of garbage."""
    processor: float = 0.0
    resident: float = 0.0


async def side(name: str, url: str, rooms: int, loud: int, seconds: float, backend: str) -> None:
    """One side of every room; prints its tally."""
    from livekit_agent.rooms import NativeRooms

    native, tally, pulse = NativeRooms(), Tally(), Pulse()
    joined = [await native.connect(url, token(f"soak-{number}", name)) for number in range(rooms)]
    print("joined", flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    used, began = time.process_time(), time.perf_counter()
    async with anyio.create_task_group() as group:
        group.start_soon(pulse.beat)
        for number, room in enumerate(joined):
            group.start_soon(count_data, room, tally)
            group.start_soon(send_data, room, tally, seconds)
            if number < loud:
                group.start_soon(play, room, seconds)
                group.start_soon(listen, number, room, tally, pulse, seconds)
        await anyio.sleep(seconds + 2)  # what is under way arrives
        group.cancel_scope.cancel()
    tally.late, tally.collection = round(pulse.worst, 3), round(pulse.worst_collection, 3)
    tally.processor = (time.process_time() - used) / (time.perf_counter() - began)
    tally.resident = psutil.Process().memory_info().rss / 1e6
    print(json.dumps(asdict(tally)), flush=True)
    await anyio.to_thread.run_sync(sys.stdin.readline)
    for room in joined:
        await room.disconnect()


async def send_data(room: Any, tally: Tally, seconds: float) -> None:
    began = anyio.current_time()
    for number in range(int(seconds)):
        await anyio.sleep_until(began + number)  # by the clock: what sending takes would add up to a packet less
        await room.local_participant.publish_data(struct.pack("!I", number))
        tally.sent += 1


async def count_data(room: Any, tally: Tally) -> None:
    from livekit_agent.events import DataReceived

    expected = 0
    async for event in room.events(DataReceived):
        (number,) = struct.unpack("!I", event.data)
        tally.received += 1
        tally.disorder += number != expected
        expected = number + 1


async def play(room: Any, seconds: float) -> None:
    source = (await room.local_participant.publish_audio()).track.source
    piece = tone(440, 2)
    until = anyio.current_time() + seconds
    while anyio.current_time() < until:
        await source.capture_frame(piece)


async def listen(number: int, room: Any, tally: Tally, pulse: Pulse, seconds: float) -> None:
    """From a second after the first sound until a second before its end."""
    from livekit_agent.events import TrackSubscribed

    with room.subscribe(TrackSubscribed, replay=True) as arrivals:
        event = await anext(aiter(arrivals))
    began = last = 0.0
    until = time.monotonic() + seconds - 1
    with event.track.audio_frames(frame_ms=20) as frames:
        async for frame in frames:
            now = time.monotonic()
            began = began or (now if frame.samples.any() else 0.0)
            if began and began + 1 < now < until - 1:
                tally.frames += 1
                if last:
                    tally.longest = max(tally.longest, now - last)
                    if now - last > GAP_S:
                        figures = (number, now, now - last, *pulse.since(last))
                        tally.gaps.append([round(figure, 3) for figure in figures])
                last = now
            if now > until:
                break
        statistics = frames.statistics()
        tally.dropped += statistics.dropped + statistics.overrun


def soak(url: str, rooms: int, loud: int, seconds: float, backend: str) -> dict[str, Tally]:
    """Run both sides; their tallies."""
    numbers = [str(rooms), str(loud), str(seconds)]
    sides = {
        name: subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--side", name, url, *numbers, backend],
            env=environment(),
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("agent", "person")
    }

    def hear(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()

    def tell(process: subprocess.Popen[str], word: str) -> None:
        assert process.stdin is not None
        process.stdin.write(word + "\n")
        process.stdin.flush()

    try:
        for process in sides.values():
            if hear(process) != "joined\n":
                raise RuntimeError("a side could not join its rooms")
        for process in sides.values():
            tell(process, "go")
        tallies = {name: Tally(**json.loads(hear(process))) for name, process in sides.items()}
        for process in sides.values():
            tell(process, "leave")
        for process in sides.values():
            process.wait(60)
        return tallies
    finally:
        for process in sides.values():
            process.kill()


def faults(tallies: dict[str, Tally], rooms: int, loud: int, seconds: float, gap: float = GAP_S) -> list[str]:
    """What was promised and not kept."""
    found: list[str] = []
    for name, tally in tallies.items():
        wanted = rooms * int(seconds)
        if (tally.sent, tally.received, tally.disorder) != (wanted, wanted, 0):
            found.append(f"{name}: {tally.received} of {wanted} packets, {tally.disorder} out of order")
        if loud and not tally.frames:
            found.append(f"{name}: heard nothing")
        gaps = [pause for pause in tally.gaps if pause[2] > gap]
        if tally.dropped or gaps:
            found.append(f"{name}: {tally.dropped} frames dropped, gaps {gaps[:10]}")
    return found


def main() -> int:
    from .__main__ import real_server

    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--rooms", type=int, default=50)
    parser.add_argument("--loud", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=600)
    parser.add_argument("--gap", type=float, default=GAP_S, help="the longest pause of a sound, in seconds")
    parser.add_argument("--backend", default="trio", choices=["trio", "asyncio"])
    arguments = parser.parse_args()
    with real_server() as url:
        if url is None:
            print("no livekit-server: see tests/e2e/realserver.py", file=sys.stderr)
            return 2
        before = psutil.cpu_times()
        tallies = soak(url, arguments.rooms, arguments.loud, arguments.seconds, arguments.backend)
        after = psutil.cpu_times()
    for name, tally in tallies.items():
        print(f"{name}: {asdict(tally)}")
    passed = sum(after) - sum(before)
    idle, stolen = after.idle - before.idle, getattr(after, "steal", 0) - getattr(before, "steal", 0)
    print(f"the machine: {100 * idle / passed:.1f} % idle, {100 * stolen / passed:.1f} % taken by its host")
    broken = faults(tallies, arguments.rooms, arguments.loud, arguments.seconds, arguments.gap)
    for line in broken:
        print(f"NOT KEPT  {line}")
    print("kept: nothing lost, no gap" if not broken else f"{len(broken)} promises not kept")
    return bool(broken)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        _name, _url, _rooms, _loud, _seconds, _backend = sys.argv[2:]
        anyio.run(side, _name, _url, int(_rooms), int(_loud), float(_seconds), _backend, backend=_backend)
    else:
        raise SystemExit(main())
