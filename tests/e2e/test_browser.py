"""A real browser and an agent in one room of a real server: Chromium with LiveKit's own client in an ordinary page.

The browser is the judge: what it says it heard is what its Web Audio analyser found, what it saw are pixels of a video
element.  ``LIVEKIT_SCREENSHOT=FILE`` keeps a picture of the page.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import numpy as np
import pytest
from backdrop import RealBackdrop, unique
from child import FOREIGN, environment
from realserver import RealServer, skip_or_fail
from test_foreign import node_modules_parent
from test_scenarios import ended

from livekit_agent import BaseHandler, JobContext, JobStatus, RpcError, events
from livekit_agent.rooms import (
    AudioSource,
    RemoteParticipant,
    RemoteTrack,
    RpcCall,
    TrackKind,
    VideoFormat,
    VideoFrame,
    VideoSource,
)

pytestmark = [pytest.mark.real_server, pytest.mark.timeout(120)]

TONE = 660.0
BARS = ((200, 30, 30), (30, 40, 200))
"""What the agent shows: red on the left, blue on the right."""
GREEN = (0, 160, 60)
"""What the page's canvas shows."""


def chromium() -> str:
    """Debian's headless shell or browser, or any other that ``LIVEKIT_CHROMIUM`` names."""
    named = os.environ.get("LIVEKIT_CHROMIUM")
    for name in [named] if named else ["chromium-headless-shell", "chromium", "chromium-browser", "google-chrome"]:
        if found := shutil.which(name):
            return found
    skip_or_fail("no browser: put Debian's chromium-headless-shell or chromium on PATH, or set LIVEKIT_CHROMIUM")
    raise AssertionError("unreachable")


class Page:
    """The browser's process and what its page reports."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self.messages: list[dict[str, Any]] = []
        self._news = anyio.Event()

    async def read(self) -> None:
        assert self._process.stdout is not None
        rest = b""
        async for chunk in self._process.stdout:
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                # What is no report is node telling why it cannot go on.
                self.messages.append(json.loads(line) if line.startswith(b"{") else {"event": "output", "text": line})
            self._news.set()
            self._news = anyio.Event()

    async def said(self, event: str) -> dict[str, Any]:
        """The page's first report of that kind."""
        with anyio.move_on_after(40):
            while True:
                for message in self.messages:
                    if message["event"] == event:
                        return message
                await self._news.wait()
        raise AssertionError(f"the page reported no {event!r}: {self.messages}")

    async def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.send(command.encode() + b"\n")


@asynccontextmanager
async def browser(url: str, token: str, screenshot: Path) -> AsyncIterator[Page]:
    """A page that joins; it is closed, or killed, at the end of the block."""
    env = environment("", NODE_MODULES_PARENT=node_modules_parent(), LIVEKIT_CHROMIUM=chromium())
    argv = ["node", str(FOREIGN / "browser.mjs"), url, token, str(screenshot)]
    async with (
        await anyio.open_process(argv, env=env, stderr=subprocess.STDOUT) as process,
        anyio.create_task_group() as group,
    ):
        page = Page(process)
        group.start_soon(page.read)
        try:
            yield page
        finally:
            with suppress(ProcessLookupError):  # the page left by itself
                process.kill()
            group.cancel_scope.cancel()


def bars() -> VideoFrame:
    pixels = np.full((240, 320, 4), 255, np.uint8)
    pixels[:, :160, :3], pixels[:, 160:, :3] = BARS
    return VideoFrame.of(pixels)


async def hum(source: AudioSource) -> None:
    at = np.arange(2400) / 48_000  # 50 ms hold whole periods
    piece = np.rint(16_000 * np.sin(2 * np.pi * TONE * at)).astype(np.int16)
    while True:
        await source.capture_frame(piece)


async def show(source: VideoSource) -> None:
    frame = bars()
    while True:
        source.capture_frame(frame)
        await anyio.sleep(0.033)


def double(call: RpcCall) -> str:
    if not call.payload.isdigit():
        raise RpcError("not a number", rpc_code=2000, data=call.payload)
    return str(2 * int(call.payload))


class Entertainer(BaseHandler):
    """Plays, shows, answers; writes down what it saw and heard of the browser."""

    def __init__(self) -> None:
        self.colour: tuple[int, ...] = ()
        self.size = (0, 0)
        self.letter = ""
        self.data: list[tuple[str, bytes]] = []
        self.answer = ""
        self.answered = anyio.Event()

    async def on_data_received(self, ctx: JobContext, data: bytes, participant: RemoteParticipant | None) -> None:
        assert participant is not None  # the page sends when it is told to: mood "ready"
        self.data.append((participant.identity, data))
        await ctx.room.local_participant.publish_data(b"pong", topic="a")

    async def on_job_assigned(self, ctx: JobContext) -> None:
        me = ctx.room.local_participant
        with ctx.room.text_streams("letter") as letters:
            async with ctx.room.serve_rpc({"double": double}):
                # Data can overtake the news of who sends it.
                await ctx.room.wait_for_participant("browser")
                await me.set_attributes({"mood": "ready"})
                ctx.task_group.start_soon(hum, (await me.publish_audio(name="tone")).track.source)
                source = VideoSource(320, 240)
                await me.publish_video(source, name="bars")
                ctx.task_group.start_soon(show, source)
                letter = await anext(letters)
                self.letter = await letter.read_all()
                person = letter.sender_identity
                await me.send_text("once upon a time", topic="story", destination_identities=[person])
                await self.watch(await self.picture(ctx))
                self.answer = await me.perform_rpc(person, "question", "why")
                self.answered.set()
                await ctx.wait_for(events.ParticipantLeft)
                ctx.shutdown("the browser has left")

    async def picture(self, ctx: JobContext) -> RemoteTrack:
        with ctx.room.subscribe(events.TrackSubscribed, replay=True) as subscription:
            async for event in subscription:
                assert isinstance(event, events.TrackSubscribed)
                if event.track.kind is TrackKind.VIDEO:
                    return event.track
        raise AssertionError("the room ended")

    async def watch(self, track: RemoteTrack) -> None:
        """Until the picture is green."""
        with track.video_frames(format=VideoFormat.RGBA) as frames:
            async for frame in frames:
                self.size = (frame.width, frame.height)
                self.colour = tuple(int(v) for v in frame.pixels[frame.height // 2, frame.width // 2, :3])
                if close(self.colour, GREEN):
                    return


def close(colour: Any, wanted: tuple[int, ...]) -> bool:
    """The same colour, after a codec and two conversions."""
    return max(abs(a - b) for a, b in zip(colour, wanted, strict=True)) < 45


@pytest.mark.long
async def test_a_browser_hears_and_sees_the_agent_and_is_seen_and_both_call_each_other(
    shared_real_server: RealServer, tmp_path: Path
) -> None:
    room, name = unique("browser"), unique("entertainer")
    screenshot = Path(os.environ.get("LIVEKIT_SCREENSHOT") or tmp_path / "page.png")
    agent = Entertainer()
    async with RealBackdrop(shared_real_server) as stage:
        async with stage.worker(agent, agent_name=name) as worker:
            await stage.registered(worker)
            ends = worker.events(events.JobEnded)
            await stage.dispatch(room, name)
            async with browser(stage.url, stage.participant_token(room, "browser"), screenshot) as page:
                await page.said("joined")
                peer = await page.said("agent")
                assert peer["identity"].startswith("agent-AJ_")
                assert peer["attributes"]["mood"] == "ready"
                assert (await page.said("answer"))["text"] == "42"
                refused = await page.said("refused")
                assert (refused["code"], refused["message"]) == (2000, "not a number")
                data = await page.said("data")
                assert (data["text"], data["topic"], data["from"]) == ("pong", "a", peer["identity"])
                story = await page.said("story")
                assert (story["text"], story["from"]) == ("once upon a time", peer["identity"])
                heard = await page.said("heard")
                # A bin of the analyser is 2.9 Hz wide.
                assert abs(heard["hz"] - TONE) < 4
                seen = await page.said("seen")
                assert (seen["width"], seen["height"]) == (320, 240)
                assert close(seen["colours"][0], BARS[0]), seen
                assert close(seen["colours"][1], BARS[1]), seen
                with anyio.fail_after(20):
                    await agent.answered.wait()
                await page.tell("screenshot")
                await page.said("screenshot")
                await page.tell("leave")
                await page.said("left")
            end = await ended(ends)
            assert (end.status, end.error) == (JobStatus.SUCCESS, None)
            assert await stage.job_end(end.job.id) == (JobStatus.SUCCESS, "")
    assert agent.data == [("browser", b"ping")]
    assert agent.letter == "from the browser, ünïcode"
    assert close(agent.colour, GREEN)
    assert agent.size == (320, 240)
    assert agent.answer == f"you asked why, {peer['identity']}"
    assert await anyio.Path(screenshot).read_bytes()
    assert not [message for message in page.messages if message["event"] == "page error"]
