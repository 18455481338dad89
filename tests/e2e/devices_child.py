"""A program with devices, run by test_real_devices.py in a world of its own: ``python devices_child.py WHAT BACKEND``.

Its sound system has two loops: what is played to ``mouth`` is heard by ``ear``, what is played to ``line`` by ``desk``.
A process of its own because PortAudio looks for devices once, when it is loaded.  It says what happened as JSON.
"""

from __future__ import annotations

import json
import mmap
import os
import signal
import struct
import sys
from pathlib import Path
from typing import Any

import anyio
import numpy as np

from livekit_agent import Config, DeviceError
from livekit_agent.cli._load import build_worker, load_file, pick
from livekit_agent.dispatch import DispatchServer
from livekit_agent.events import TrackSubscribed
from livekit_agent.rooms import (
    AudioFrame,
    AudioProcessor,
    MediaStream,
    Room,
    Speaker,
    microphones,
    open_microphone,
    open_screen,
    open_speaker,
    screens,
    speakers,
)

RATE = 48_000
EXAMPLES = Path(__file__).parents[2] / "examples"


def tone(frequency: float, seconds: float) -> Any:
    at = np.arange(round(RATE * seconds)) / RATE
    return np.rint(16_000 * np.sin(2 * np.pi * frequency * at)).astype(np.int16)


def found_tone(samples: Any) -> tuple[float, float]:
    """The strongest frequency and its ratio to everything else in dB."""
    spectrum = np.abs(np.fft.rfft(samples.astype(np.float64) * np.hanning(len(samples)))) ** 2
    frequencies = np.fft.rfftfreq(len(samples), 1 / RATE)
    peak = float(frequencies[int(spectrum.argmax())])
    near = np.abs(frequencies - peak) < 15
    return peak, float(10 * np.log10(spectrum[near].sum() / spectrum[~near].sum()))


async def heard(frames: MediaStream[AudioFrame], seconds: float, after: float = 0.0) -> Any:
    """That much sound, from the first that is not silence, and some time after it."""
    pieces: list[Any] = []
    with anyio.fail_after(20):
        async for frame in frames:
            if pieces or frame.level > 0.01:
                pieces.append(frame.samples[:, 0])
            if len(pieces) >= 100 * (after + seconds):
                break
    return np.concatenate(pieces[round(100 * after) :])


async def sound() -> dict[str, Any]:
    """A tone goes round; then the sound system is killed."""
    said: dict[str, Any] = {
        "microphones": [device.name for device in await microphones()],
        "speakers": [device.name for device in await speakers()],
    }
    async with open_microphone("ear") as frames, open_speaker("MOU") as speaker:
        async with anyio.create_task_group() as group:
            group.start_soon(speaker.play, tone(440, 3))
            sound = await heard(frames, 2)
            group.cancel_scope.cancel()
        # The sound server of a busy machine leaves gaps; between them the tone is what was played.
        said["db"], said["hz"] = max(found_tone(part)[::-1] for part in np.split(sound, 8))
        said["dropped"] = frames.statistics().dropped
        os.kill(int(os.environ["SOUND_SYSTEM"]), signal.SIGKILL)
        for use in (lambda: heard(frames, 1_000), lambda: speaker.play(tone(440, 20))):
            try:
                await use()
            except DeviceError as error:
                said.setdefault("codes", []).append(error.code)
    return said


async def echo() -> dict[str, Any]:
    """Noise that comes and goes, as speech does, comes back by the microphone: without and with the canceller."""
    said: dict[str, Any] = {}
    random = np.random.default_rng(1)
    loudness = np.repeat(np.clip(random.normal(0.5, 0.5, 40), 0, 1), RATE // 8)
    noise = np.clip(random.normal(0, 6_000, len(loudness)) * loudness, -32_768, 32_767).astype(np.int16)
    for cancelled in (False, True):
        with AudioProcessor(echo_cancellation=True) as processor:
            stages = [processor] if cancelled else []
            async with open_speaker("mouth") as speaker, open_microphone("ear", stages=stages) as frames:
                async with anyio.create_task_group() as group:
                    group.start_soon(say, noise, speaker, processor)
                    after = await heard(frames, 2.0, after=1.5)
                    group.cancel_scope.cancel()
        level = float(np.sqrt(np.mean(after.astype(np.float64) ** 2)))
        said["with" if cancelled else "without"] = 20 * float(np.log10(max(level, 0.1) / 32_768))
    return said


async def say(samples: Any, speaker: Speaker, processor: AudioProcessor) -> None:
    for start in range(0, len(samples), RATE // 100):
        frame = AudioFrame(data=samples[start : start + RATE // 100].tobytes(), sample_rate=RATE)
        processor.set_delay(speaker.delay)
        processor.process_reverse(frame)
        await speaker.write(frame)


async def telephone() -> dict[str, Any]:
    """The example: who is in the room hears the microphone, and is heard at the speaker."""
    os.environ.update(MICROPHONE="desk", SPEAKER="mouth")
    module = load_file(str(EXAMPLES / "telephone.py"))
    said: dict[str, Any] = {}
    async with DispatchServer() as server:
        config = Config(url=server.url, api_key=server.api_key, api_secret=server.api_secret, rooms=server.rooms)
        worker = build_worker(pick(module), module, config, {}, drain=5.0)
        async with worker, server.rooms.join("lobby", "alice") as room, anyio.create_task_group() as group:
            source = (await room.local_participant.publish_audio()).track.source
            async with open_speaker("line") as line, open_microphone("ear") as ear:
                group.start_soon(source.play, tone(1_000, 20))
                group.start_soon(speak, line)
                said["at the speaker"], _ = found_tone(await heard(ear, 0.5))
                said["in the room"], _ = found_tone(await heard(await first_track(room), 0.5, after=0.1))
                group.cancel_scope.cancel()
            worker.request_stop(timeout=0)
    return said


async def speak(line: Speaker) -> None:
    """Syllables: what lasts longer is noise, which the example suppresses."""
    while True:
        await line.write(tone(440, 0.25))
        await line.write(np.zeros(RATE // 4, np.int16))


async def first_track(room: Room) -> MediaStream[AudioFrame]:
    with room.subscribe(TrackSubscribed, replay=True) as arrivals:
        async for event in arrivals:
            assert isinstance(event, TrackSubscribed)
            return event.track.audio_frames()
    raise AssertionError("the room ended")


class Framebuffer:
    """What the X server shows, as the file that it keeps it in (xwd: big-endian words, then colours, then pixels)."""

    def __init__(self) -> None:
        with Path(os.environ["FRAMEBUFFER"]).open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 0)
        words = struct.unpack(">25I", self._memory[:100])
        self._start, self._stride = words[0] + 12 * words[19], words[12]

    def paint(self, left: int, top: int, width: int, height: int, colour: tuple[int, int, int]) -> None:
        row = bytes((*colour[::-1], 0)) * width
        for y in range(top, top + height):
            at = self._start + y * self._stride + 4 * left
            self._memory[at : at + len(row)] = row


async def screen() -> dict[str, Any]:
    """A green window moves over a blue screen; then the display is killed."""
    (found,) = await screens()
    said: dict[str, Any] = {"size": (found.width, found.height), "primary": found.is_primary, "windows": []}
    framebuffer = Framebuffer()
    async with open_screen(fps=50) as pictures:
        for left in (0, 100, 280):
            framebuffer.paint(0, 0, found.width, found.height, (20, 30, 200))
            framebuffer.paint(left, 50, 40, 30, (0, 200, 0))
            picture = await anext(pictures)
            green = (picture.pixels == (0, 200, 0, 255)).all(axis=2)
            blue = (picture.pixels == (200, 30, 20, 255)).all(axis=2)
            ys, xs = green.nonzero()
            said["windows"].append(tuple(map(int, (xs.min(), ys.min(), green.sum(), blue.sum()))))
        os.kill(int(os.environ["DISPLAY_SERVER"]), signal.SIGKILL)
        try:
            async for _ in pictures:
                pass
        except DeviceError as error:
            said["code"] = error.code
    return said


async def main(what: str) -> None:
    print(json.dumps(await {"sound": sound, "echo": echo, "telephone": telephone, "screen": screen}[what]()))


if __name__ == "__main__":
    anyio.run(main, sys.argv[1], backend=sys.argv[2])
