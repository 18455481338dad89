"""A process that joins a room and ends in one of many ways (test_exits.py): mode, backend, url, token."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from collections.abc import Callable

import anyio

from livekit_agent import RoomError
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
    elif mode == "forked":
        in_a_child(publication.mute, os._exit)
        # The room is the parent's, and as good as before.
        async with room:
            await room.local_participant.publish_data(b"still here")
    else:
        assert mode == "left open"


def in_a_child(use: Callable[[], object], leave: Callable[[int], object]) -> None:
    """Fork; the child uses what is the parent's, is refused, and ends."""
    child = os.fork()
    if not child:
        signal.alarm(20)  # rather than a child that waits for a thread which it has not
        try:
            use()
        except RoomError as exc:
            leave(42 if exc.code == "ROOM_FORKED" else 1)
        os._exit(1)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 42, f"the child ended with {code}"


if __name__ == "__main__":
    # Whoever started the tests may have been started with SIGINT ignored, as shells do for what runs in the background.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    mode, backend, url, token = sys.argv[1:]
    # Which is why a fork is refused: the child has none of the threads.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    anyio.run(main, mode, url, token, backend=backend)
    if mode == "forked":
        # Outside a room, in an event loop of the child's own, and ended as a program ends.
        in_a_child(lambda: anyio.run(NativeRooms().connect, url, token, backend=backend), sys.exit)
