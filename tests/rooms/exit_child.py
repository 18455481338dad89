"""A process that joins a room and ends in one of many ways (test_exits.py): mode, backend, url, token."""

from __future__ import annotations

import os
import signal
import sys

import anyio

from livekit_agent.rooms import NativeRooms


async def main(mode: str, url: str, token: str) -> None:
    if mode == "cancelled join":
        with anyio.move_on_after(0.03):
            await NativeRooms().connect(url, token)
        return
    room = await NativeRooms().connect(url, token)
    publication = await room.local_participant.publish_audio()
    source = publication.track.source
    for number in range(5):
        await source.capture_frame()
        await room.local_participant.publish_data(str(number))
    if mode == "clean":
        await room.disconnect()
    elif mode == "failing":
        async with room:
            raise RuntimeError("the program failed")
    elif mode == "failing in the room":
        raise RuntimeError("the program failed inside the room")
    elif mode == "exit in the room":
        sys.exit(3)
    elif mode == "cancelled":
        with anyio.move_on_after(0.02):
            async with room:
                while True:
                    await source.capture_frame()
    elif mode == "interrupted":
        async with room:
            os.kill(os.getpid(), signal.SIGINT)
            await anyio.sleep(10)
    else:
        assert mode == "left open"


if __name__ == "__main__":
    # Whoever started the tests may have been started with SIGINT ignored, as shells do for what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mode, backend, url, token = sys.argv[1:]
    anyio.run(main, mode, url, token, backend=backend)
