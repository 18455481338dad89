"""What a client does in real rooms while it is measured, once for each client: ours on either backend, livekit.rtc.

``python -m benchmarks.room_tasks CLIENT BACKEND TASK URL ARGUMENT`` prints its figures as JSON.  A client is a few
verbs; the tasks are the same code for both, so that what differs is the client.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import anyio
import numpy as np
import psutil

from livekit_agent.protocol import mint_token

from .ours import KEY, SECRET

RATE = 48_000
TICK = RATE // 100


def token(room: str, identity: str) -> str:
    grants = {"roomJoin": True, "room": room}
    return mint_token(KEY, SECRET, wall=time.time(), identity=identity, video=grants)


class Client(Protocol):
    """The verbs."""

    async def connect(self, url: str, room: str, identity: str) -> Any: ...
    async def disconnect(self, room: Any) -> None: ...
    async def send(self, room: Any, data: bytes) -> None: ...
    def on_data(self, room: Any, take: Callable[[bytes], None]) -> None:
        """From now on; may be called once per room."""
        ...

    async def publish(self, room: Any) -> Callable[[Any], Awaitable[None]]:
        """A track; returns what captures a frame of it."""
        ...

    async def listen(self, room: Any, take: Callable[[Any, int], bool]) -> None:
        """Give the samples of the first track to ``take``, and how many tracks were heard, until it says stop."""
        ...


class Ours:
    """livekit_agent.rooms."""

    def __init__(self, group: Any) -> None:
        from livekit_agent.rooms import NativeRooms

        self._rooms = NativeRooms()
        self._group = group

    async def connect(self, url: str, room: str, identity: str) -> Any:
        return await self._rooms.connect(url, token(room, identity))

    async def disconnect(self, room: Any) -> None:
        await room.disconnect()

    async def send(self, room: Any, data: bytes) -> None:
        await room.local_participant.publish_data(data)

    def on_data(self, room: Any, take: Callable[[bytes], None]) -> None:
        from livekit_agent.events import DataReceived

        subscription = room.subscribe(DataReceived)

        async def read() -> None:
            async for event in subscription:
                take(event.data)

        self._group.start_soon(read)

    async def publish(self, room: Any) -> Callable[[Any], Awaitable[None]]:
        publication = await room.local_participant.publish_audio()
        return publication.track.source.capture_frame

    async def listen(self, room: Any, take: Callable[[Any, int], bool]) -> None:
        from livekit_agent.events import TrackSubscribed

        async def hear(track: Any, number: int) -> None:
            with track.audio_frames() as frames:
                async for frame in frames:
                    if not take(frame.samples, number):
                        group.cancel_scope.cancel()
                        return

        async with anyio.create_task_group() as group:
            number = 0
            with room.subscribe(TrackSubscribed, replay=True) as arrivals:
                async for event in arrivals:
                    group.start_soon(hear, event.track, number)
                    number += 1


class Rtc:
    """livekit.rtc, as its documentation shows it."""

    def __init__(self, group: Any) -> None:
        from livekit import rtc

        self._rtc = rtc
        self._group = group
        self._sources: list[Any] = []

    async def connect(self, url: str, room: str, identity: str) -> Any:
        made = self._rtc.Room()
        await made.connect(url, token(room, identity))
        return made

    async def disconnect(self, room: Any) -> None:
        await room.disconnect()

    async def send(self, room: Any, data: bytes) -> None:
        await room.local_participant.publish_data(data)

    def on_data(self, room: Any, take: Callable[[bytes], None]) -> None:
        room.on("data_received", lambda packet: take(packet.data))

    async def publish(self, room: Any) -> Callable[[Any], Awaitable[None]]:
        # As long a queue as ours has.
        source = self._rtc.AudioSource(RATE, 1, queue_size_ms=200)
        track = self._rtc.LocalAudioTrack.create_audio_track("mic", source)
        await room.local_participant.publish_track(track)
        self._sources.append((source, track))

        async def capture(samples: Any) -> None:
            await source.capture_frame(self._rtc.AudioFrame(samples.tobytes(), RATE, 1, len(samples)))

        return capture

    async def listen(self, room: Any, take: Callable[[Any, int], bool]) -> None:
        found: asyncio.Queue[Any] = asyncio.Queue()
        room.on("track_subscribed", lambda track, *_: found.put_nowait(track))
        for participant in room.remote_participants.values():
            for publication in participant.track_publications.values():
                if publication.track is not None:
                    found.put_nowait(publication.track)

        async def hear(track: Any, number: int) -> None:
            stream = self._rtc.AudioStream(track)
            async for event in stream:
                samples = np.frombuffer(event.frame.data, np.int16).reshape(-1, 1)
                if not take(samples, number):
                    group.cancel_scope.cancel()
                    return

        async with anyio.create_task_group() as group:
            number = 0
            while True:
                group.start_soon(hear, await found.get(), number)
                number += 1


# ---------------------------------------------------------------------------------------------------- the tasks


def cpu() -> float:
    return time.process_time()


def tone(frequency: float, ticks: int = 1) -> Any:
    at = np.arange(ticks * TICK) / RATE
    return np.rint(12_000 * np.sin(2 * np.pi * frequency * at)).astype(np.int16)


async def connecting(client: Client, url: str, count: int) -> dict[str, Any]:
    """Seconds that each join takes, after one that loads everything."""
    seconds: list[float] = []
    for number in range(count + 1):
        began = time.perf_counter()
        room = await client.connect(url, f"connect-{os.getpid()}", f"p{number}")
        seconds.append(time.perf_counter() - began)
        await client.disconnect(room)
    return {"seconds": seconds[1:]}


async def data(client: Client, url: str, count: int) -> dict[str, Any]:
    """Seconds from before a packet is sent by a to its receipt at b."""
    name = f"data-{os.getpid()}"
    a, b = await client.connect(url, name, "a"), await client.connect(url, name, "b")
    here = anyio.Event()
    arrived = 0.0

    def take(_: bytes) -> None:
        nonlocal arrived
        arrived = time.perf_counter()
        here.set()

    client.on_data(b, take)
    await anyio.sleep(0.5)
    seconds: list[float] = []
    for _ in range(count):
        here = anyio.Event()
        began = time.perf_counter()
        await client.send(a, b"x" * 100)
        with anyio.fail_after(10):
            await here.wait()
        seconds.append(arrived - began)
        await anyio.sleep(0.005)
    await client.disconnect(a)
    await client.disconnect(b)
    return {"seconds": seconds}


async def capturing(client: Client, url: str, count: int) -> dict[str, Any]:
    """Seconds in ``capture_frame``, called each 10 ms by the clock; and the processor's part of one such track."""
    room = await client.connect(url, f"capture-{os.getpid()}", "p")
    capture = await client.publish(room)
    frame = tone(440)
    await capture(frame)
    seconds: list[float] = []
    began, used = time.perf_counter(), cpu()
    for number in range(count):
        await anyio.sleep(max(0.0, began + number / 100 - time.perf_counter()))
        before = time.perf_counter()
        await capture(frame)
        seconds.append(time.perf_counter() - before)
    share = (cpu() - used) / (time.perf_counter() - began)
    await client.disconnect(room)
    return {"seconds": seconds, "share": share}


async def receiving(client: Client, url: str, frames: int) -> dict[str, Any]:
    """CPU per frame received, of all tracks of a room that another process fills."""
    room = await client.connect(url, "filled", f"ear-{os.getpid()}")
    heard = 0
    began = used = 0.0

    def take(samples: Any, number: int) -> bool:
        nonlocal heard, began, used
        if not began and number == 3 and samples.any():
            began, used = time.perf_counter(), cpu()
        if began:
            heard += 1
        return heard < frames

    with anyio.fail_after(60):
        await client.listen(room, take)
    figures = {"cpu": (cpu() - used) / heard, "rate": heard / (time.perf_counter() - began)}
    await client.disconnect(room)
    return figures


async def latency(client: Client, url: str, count: int) -> dict[str, Any]:
    """Seconds from the capture of a loud frame to the receipt of the first loud one, by the same process."""
    name = f"latency-{os.getpid()}"
    a, b = await client.connect(url, name, "a"), await client.connect(url, name, "b")
    capture = await client.publish(a)
    silence, loud = np.zeros(TICK, np.int16), tone(1_000)
    seconds: list[float] = []
    sent = 0.0

    async def speak() -> None:
        nonlocal sent
        number = 0
        began = time.perf_counter()
        while True:
            await anyio.sleep(max(0.0, began + number / 100 - time.perf_counter()))
            if number % 50 == 49:
                sent = time.perf_counter()
                await capture(loud)
            else:
                await capture(silence)
            number += 1

    def take(samples: Any, _: int) -> bool:
        nonlocal sent
        if sent and np.abs(samples).max() > 3_000:
            seconds.append(time.perf_counter() - sent)
            sent = 0.0
        return len(seconds) < count + 3

    async with anyio.create_task_group() as group:
        group.start_soon(speak)
        with anyio.fail_after(30 + count):
            await client.listen(b, take)
        group.cancel_scope.cancel()
    await client.disconnect(a)
    await client.disconnect(b)
    return {"seconds": seconds[3:]}


async def rooms(client: Client, url: str, count: int) -> dict[str, Any]:
    """Resident bytes of each further connected room, and the threads of all."""
    process = psutil.Process()
    held = [await client.connect(url, f"mem-{os.getpid()}-{number}", "p") for number in range(5)]
    await anyio.sleep(0.5)
    before = process.memory_info().rss
    held += [await client.connect(url, f"mem-{os.getpid()}-{number}", "p") for number in range(5, 5 + count)]
    await anyio.sleep(0.5)
    figures = {"bytes": (process.memory_info().rss - before) / count, "threads": process.num_threads()}
    for room in held:
        await client.disconnect(room)
    return figures


async def carrying(client: Client, url: str, count: int) -> dict[str, Any]:
    """So many rooms that each publish a tone for so many seconds: how late the frames get and what it costs.

    All are there before the first plays, and they play in turns: a join is no part of carrying a room.
    """
    late: list[float] = []
    frame = tone(440, 2)

    async def one(capture: Callable[[Any], Awaitable[None]], first: float) -> None:
        for tick in range(50 * min(5, count)):
            due = first + tick / 50
            await anyio.sleep(max(0.0, due - time.perf_counter()))
            await capture(frame)
            late.append(time.perf_counter() - due)

    joined = [await client.connect(url, f"carry-{os.getpid()}-{number}", "p") for number in range(count)]
    captures = [await client.publish(room) for room in joined]
    used, began = cpu(), time.perf_counter()
    async with anyio.create_task_group() as group:
        for number, capture in enumerate(captures):
            group.start_soon(one, capture, began + 0.02 * number / count)
    share = (cpu() - used) / (time.perf_counter() - began)
    for room in joined:
        await client.disconnect(room)
    return {"share": share, "late": float(np.quantile(late, 0.99))}


TASKS = {task.__name__: task for task in (connecting, data, capturing, receiving, latency, rooms, carrying)}


async def filled(url: str, tracks: int) -> None:
    """Fill the room "filled" with tones until standard input ends."""
    async with anyio.create_task_group() as group:
        client = Ours(group)

        async def hum(number: int) -> None:
            capture = await client.publish(await client.connect(url, "filled", f"mouth-{number}"))
            piece = tone(400 + 20 * number, 5)
            while True:
                await capture(piece)

        for number in range(tracks):
            group.start_soon(hum, number)
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
        group.cancel_scope.cancel()


async def main(who: str, task: str, url: str, argument: int) -> None:
    if task == "filled":
        await filled(url, argument)
        return
    async with anyio.create_task_group() as group:
        client: Client = Ours(group) if who == "ours" else Rtc(group)
        figures = await TASKS[task](client, url, argument)
        group.cancel_scope.cancel()
    print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    _who, _backend, _task, _url, _argument = sys.argv[1:]
    anyio.run(main, _who, _task, _url, int(_argument), backend=_backend)
    sys.stdout.flush()
    if _who == "rtc":
        os._exit(0)  # its library's threads end a process that just returns with a panic, now and then
