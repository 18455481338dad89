"""LiveKit's own Python client and ours in one room: they understand each other."""

from __future__ import annotations

import hashlib
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from sounds import TONE, found_tone, hum, level, sound
from test_video import keep_moving
from venues import PATIENCE, NativeVenue, token
from waves import HEIGHT, PLACES, RATE, WIDTH, place_of, went_round

from livekit_agent import RpcError
from livekit_agent.rooms import ByteStreamReader, Room, StreamListener, TrackKind, VideoSource

CHILD = Path(__file__).parent / "peer_child.py"
EXCHANGE = Path(__file__).parent / "peer_exchange.py"
TEXT = "one text, twö lines\n" * 2_000


@pytest.mark.real_server
async def test_calls_and_texts_go_both_ways_with_livekits_own_client(native: NativeVenue) -> None:
    async with native.open():
        async with await native.join("ours") as ours:
            command = [sys.executable, str(CHILD), native.url, token(native.room, "theirs")]
            async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                with anyio.fail_after(60):
                    lines = BufferedByteReceiveStream(process.stdout)
                    assert await lines.receive_until(b"\n", 100) == b"ready"
                    await ours.wait_for_participant("theirs", active=True, timeout=PATIENCE)
                    me = ours.local_participant
                    assert await me.perform_rpc("theirs", "shout", "hallo") == "HALLO"
                    with pytest.raises(RpcError) as caught:
                        await me.perform_rpc("theirs", "shout", "")
                    error = caught.value
                    assert (error.rpc_code, error.message, error.data) == (2001, "nothing to shout", "empty")
                    with ours.text_streams("back") as back:
                        async with ours.serve_rpc({"double": lambda call: str(2 * int(call.payload))}):
                            await me.send_text(TEXT, topic="there", attributes={"k": "v"})
                            assert await (await anext(back)).read_all() == TEXT[::-1]
                            seen = json.loads(await lines.receive_until(b"\n", 200_000))
                assert seen == {"text": ["ours", "there", {"k": "v"}, TEXT], "call": "42"}


@pytest.mark.long
@pytest.mark.real_server
@pytest.mark.timeout(120)
async def test_sound_pictures_bytes_and_a_thousand_calls_go_both_ways_with_livekits_own_client(
    native: NativeVenue,
) -> None:
    """What two of ours exchange in the other files, with a client that is not ours at the other end."""
    async with native.open():
        async with await native.join("ours") as ours:
            async with ours.serve_rpc({"double": lambda call: f"ours: {2 * int(call.payload)}"}):
                with ours.byte_streams("back") as back, anyio.fail_after(100):
                    command = [sys.executable, str(EXCHANGE), native.url, token(native.room, "theirs")]
                    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as theirs:
                        assert theirs.stdin is not None
                        assert theirs.stdout is not None
                        lines = BufferedByteReceiveStream(theirs.stdout)
                        await sound_and_pictures(ours, lines)
                        await theirs.stdin.send(b"\n")
                        await ten_megabytes(ours, back, lines)
                        await a_thousand_calls(ours, lines)
                        await theirs.stdin.send(b"\n")


async def found(lines: BufferedByteReceiveStream) -> dict[str, Any]:
    """What the other side says it has found."""
    return json.loads(await lines.receive_until(b"\n", 10_000))


async def sound_and_pictures(ours: Room, lines: BufferedByteReceiveStream) -> None:
    me = ours.local_participant
    async with anyio.create_task_group() as media:
        media.start_soon(hum, (await me.publish_audio(name="voice")).track.source)
        camera = VideoSource(WIDTH, HEIGHT)
        await me.publish_video(camera, name="camera")
        media.start_soon(keep_moving, camera)
        async with anyio.create_task_group() as judges:
            judges.start_soon(hear, ours)
            judges.start_soon(see, ours)
        judged = await found(lines)
        media.cancel_scope.cancel()
    heard = judged["sound"]
    assert abs(heard["hz"] - TONE) <= 0.002 * TONE
    assert heard["ratio"] >= 20
    assert heard["of"] == 300
    assert heard["loud"] >= 0.99 * heard["of"]
    assert judged["went_round"]


async def hear(ours: Room) -> None:
    track = await ours.wait_for_track("theirs", kind=TrackKind.AUDIO)
    with track.audio_frames() as stream:
        # A busy machine loses some: three seconds without loss are asked for, not the first three.
        while True:
            before = stream.statistics()
            heard = await sound(stream, 3.0)
            after = stream.statistics()
            frequency, ratio = found_tone(heard[:, 0], RATE)
            loud = sum(level(frame) > 0.1 for frame in np.split(heard, 300))
            whole = (after.dropped, after.overrun) == (before.dropped, before.overrun)
            if whole and abs(frequency - 660) <= 0.002 * 660 and ratio >= 20 and loud >= 297:
                return


async def see(ours: Room) -> None:
    track = await ours.wait_for_track("theirs", kind=TrackKind.VIDEO)
    with track.video_frames() as stream:
        while not went_round([place_of((await anext(stream)).pixels) for _ in range(10 * PLACES)]):
            pass


async def ten_megabytes(ours: Room, back: StreamListener[ByteStreamReader], lines: BufferedByteReceiveStream) -> None:
    data = random.Random(5).randbytes(10_000_000)
    digest = hashlib.sha256()

    async def receive() -> None:
        async for chunk in await anext(back):
            digest.update(chunk)

    async with anyio.create_task_group() as group:
        group.start_soon(receive)
        await ours.local_participant.send_bytes(data, topic="there", destination_identities=["theirs"])
    assert await found(lines) == {"sent": digest.hexdigest(), "received": hashlib.sha256(data).hexdigest()}


async def a_thousand_calls(ours: Room, lines: BufferedByteReceiveStream) -> None:
    answers: dict[int, str] = {}
    numbers = iter(range(1_000))

    async def some() -> None:
        for number in numbers:
            answers[number] = await ours.local_participant.perform_rpc("theirs", "double", str(number), timeout=60)

    async with anyio.create_task_group() as group:
        for _ in range(50):
            group.start_soon(some)
    assert answers == {number: f"theirs: {2 * number}" for number in range(1_000)}
    assert await found(lines) == {"right": 1_000}
