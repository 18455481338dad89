"""Microphones, speakers and screens, over a sound system and a screen that are pretended below their packages.

The real ones are in tests/e2e/test_real_devices.py.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import numpy as np
import pytest
from sounds import found_tone, tone

from livekit_agent import DeviceError
from livekit_agent.rooms import (
    AudioFrame,
    Speaker,
    VideoFormat,
    _devices,
    _screens,
    _sound_devices,
    microphones,
    open_microphone,
    open_screen,
    open_speaker,
    screens,
    speakers,
)
from livekit_agent.simulation import run_virtual

TICK = 960  # bytes of 10 ms at 48 kHz


def tick(value: int) -> bytes:
    """10 ms of nothing but that sample."""
    return np.full(TICK // 2, value, np.int16).tobytes()


# ------------------------------------------------------------------------------------------------ what is pretended


class PretendedStream:
    """PortAudio's: its callbacks are called in a thread, when the test says so."""

    latency = 0.0

    def __init__(self, sound: PretendedSound, asked: dict[str, Any]) -> None:
        self.sound = sound
        self.asked = asked
        self.log: list[str] = []
        self.closed = threading.Event()

    def start(self) -> None:
        self.log.append("start")
        self.sound.on_start()

    def abort(self) -> None:
        self.sound.on_abort()
        self.log.append("abort")
        self.asked["finished_callback"]()

    def close(self) -> None:
        self.log.append("close")
        self.closed.set()
        self.sound.closed.set()

    async def capture(self, *ticks: bytes, overflow: bool = False) -> None:
        status = SimpleNamespace(input_overflow=overflow)

        def run() -> None:
            for data in ticks:
                self.asked["callback"](data, len(data) // 2, None, status)

        await anyio.to_thread.run_sync(run)

    async def play(self, size: int = TICK) -> bytes:
        data = bytearray(b"\x55" * size)
        await anyio.to_thread.run_sync(self.asked["callback"], memoryview(data), size // 2, None, None)
        return bytes(data)

    async def unplug(self) -> None:
        await anyio.to_thread.run_sync(self.asked["finished_callback"])


class PretendedSound:
    """The package ``sounddevice`` on a machine with a headset and a table microphone."""

    class PortAudioError(Exception):
        pass

    def __init__(self) -> None:
        self.devices = [
            {"name": "Headset", "hostapi": 0, "max_input_channels": 1, "max_output_channels": 2},
            {"name": "Table microphone", "hostapi": 0, "max_input_channels": 2, "max_output_channels": 0},
            {"name": "Headset", "hostapi": 1, "max_input_channels": 1, "max_output_channels": 0},
        ]
        self.default = {"input": 1, "output": 0}
        self.streams: list[PretendedStream] = []
        self.closed = threading.Event()  # one of them is
        self.on_open: Callable[[], object] = lambda: None
        self.on_start: Callable[[], object] = lambda: None
        self.on_abort: Callable[[], object] = lambda: None

    def query_devices(self, kind: str | None = None) -> Any:
        found = [{**device, "default_samplerate": 44100.0, "index": at} for at, device in enumerate(self.devices)]
        if kind is None:
            return tuple(found)
        if not found:
            raise self.PortAudioError("Error querying device -1")
        return found[self.default[kind]]

    def query_hostapis(self) -> Any:
        return ({"name": "ALSA"}, {"name": "JACK"})

    def RawInputStream(self, **asked: Any) -> PretendedStream:
        self.on_open()
        self.streams.append(PretendedStream(self, asked))
        return self.streams[-1]

    RawOutputStream = RawInputStream


@pytest.fixture
def sound(monkeypatch: pytest.MonkeyPatch) -> PretendedSound:
    sound = PretendedSound()
    monkeypatch.setitem(sys.modules, "sounddevice", sound)  # type: ignore[arg-type]
    return sound


class PretendedDesktop:
    """The package ``mss`` on a machine with two screens side by side, red and blue; X11 leaves alpha at 0."""

    class ScreenShotError(Exception):
        pass

    def __init__(self) -> None:
        left = {"left": 0, "top": 0, "width": 4, "height": 3}
        right = {"left": 4, "top": 0, "width": 4, "height": 3, "is_primary": True, "output": "HDMI-1"}
        self.monitors = [{"left": 0, "top": 0, "width": 8, "height": 3}, left, right]
        self.there = True
        self.gone = False
        self.grabs: list[float] = []
        self.open = 0

    def MSS(self) -> PretendedDesktop:
        if not self.there:
            raise self.ScreenShotError("Cannot connect to display: eyJhbGciOiJIUzI1NiJ9.e30.x")
        self.open += 1
        return self

    def grab(self, area: dict[str, int]) -> Any:
        assert not self.gone  # as mss does when its X server has ended
        red, blue = (0, 0, 255, 0), (255, 0, 0, 0)
        row = [red if area["left"] + x < 4 else blue for x in range(area["width"])]
        pixels = np.array([row] * area["height"], np.uint8)
        return SimpleNamespace(bgra=pixels.tobytes(), size=SimpleNamespace(width=area["width"], height=area["height"]))

    def close(self) -> None:
        self.open -= 1
        if self.gone:
            raise self.ScreenShotError("Connection to X server closed")


@pytest.fixture
def desktop(monkeypatch: pytest.MonkeyPatch) -> PretendedDesktop:
    desktop = PretendedDesktop()
    monkeypatch.setitem(sys.modules, "mss", desktop)  # type: ignore[arg-type]
    return desktop


# ------------------------------------------------------------------------------------------------ what there is


async def test_microphones_and_speakers_are_listed_with_the_default_one(sound: PretendedSound) -> None:
    found = await microphones()
    assert [(device.name, device.system, device.max_channels, device.is_default) for device in found] == [
        ("Headset", "ALSA", 1, False),
        ("Table microphone", "ALSA", 2, True),
        ("Headset", "JACK", 1, False),
    ]
    assert found[0].sample_rate == 44_100
    assert [(device.name, device.max_channels, device.is_default) for device in await speakers()] == [
        ("Headset", 2, True)
    ]


async def test_a_machine_without_the_extra_says_so_and_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("sounddevice", "mss"):
        monkeypatch.setitem(sys.modules, name, None)
    for ask in (microphones, speakers, screens):
        with pytest.raises(DeviceError, match="is not installed") as caught:
            await ask()
        assert caught.value.code == "DEVICE_UNAVAILABLE"
        assert "livekit-agent-sdk[devices]" in caught.value.hint
    for block in (open_microphone, open_speaker, open_screen):
        with pytest.raises(DeviceError, match="is not installed"):
            async with block():
                pass


async def test_a_machine_without_portaudio_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr(_devices, "import_module", missing)
    with pytest.raises(DeviceError, match="PortAudio library not found") as caught:
        await microphones()
    assert caught.value.code == "DEVICE_UNAVAILABLE"
    assert "libportaudio2" in caught.value.hint


async def test_a_machine_without_sound_lists_nothing_and_opens_nothing(sound: PretendedSound) -> None:
    sound.devices.clear()
    assert await microphones() == await speakers() == ()
    for block, what in ((open_microphone, "microphone"), (open_speaker, "speaker")):
        with pytest.raises(DeviceError, match=f"this machine has no {what}") as caught:
            async with block():
                pass
        assert caught.value.code == "DEVICE_UNAVAILABLE"
        assert "plugged in" in caught.value.hint


async def test_a_device_is_chosen_by_itself_by_name_or_by_a_part_of_it(sound: PretendedSound) -> None:
    _, table, jack = await microphones()
    for choice, index in ((None, 1), (table, 1), (jack, 2), ("Headset", 0), ("head", 0), ("TABLE", 1)):
        async with open_microphone(choice):
            assert sound.streams[-1].asked["device"] == index
    for choice in (None, (await speakers())[0], "headset"):
        async with open_speaker(choice):
            assert sound.streams[-1].asked["device"] == 0
    del sound.devices[1]
    for gone in (table, "table"):
        with pytest.raises(DeviceError, match=r"no microphone '[Tt]able.*'; there are: Headset, Headset") as caught:
            async with open_microphone(gone):
                pass
        assert caught.value.code == "DEVICE_NOT_FOUND"


async def test_what_a_device_cannot_do_is_refused_in_its_own_words(sound: PretendedSound) -> None:
    def refuse() -> None:
        raise sound.PortAudioError("Invalid sample rate [PaErrorCode -9997]")

    sound.on_open = refuse
    with pytest.raises(DeviceError, match="'Headset' cannot be opened for 96000 Hz, 2 channels: Invalid sample rate"):
        async with open_speaker(sample_rate=96_000, num_channels=2):
            pass
    sound.on_open = lambda: None
    sound.on_start = refuse
    with pytest.raises(DeviceError, match="Invalid sample rate"):
        async with open_microphone():
            pass
    assert sound.streams[-1].log == ["start", "close"]


async def test_arguments_that_cannot_be_are_refused_before_any_device_is_asked() -> None:
    for wrong in ({"sample_rate": 4_000}, {"sample_rate": 44_110 + 1}, {"num_channels": 0}, {"capacity": 0}):
        with pytest.raises(ValueError, match=r"no sound|no frames"):
            async with open_microphone(**wrong):  # type: ignore[arg-type]
                pass
    with pytest.raises(ValueError, match="queue of 5 ms"):
        async with open_speaker(queue_size_ms=5):
            pass
    with pytest.raises(ValueError, match="no 0 pictures"):
        async with open_screen(fps=0):
            pass


# ------------------------------------------------------------------------------------------------ a microphone


async def test_what_a_microphone_captures_comes_as_frames_in_order(sound: PretendedSound) -> None:
    async with open_microphone() as frames:
        (stream,) = sound.streams
        assert {key: stream.asked[key] for key in ("samplerate", "channels", "dtype", "blocksize")} == {
            "samplerate": 48_000,
            "channels": 1,
            "dtype": "int16",
            "blocksize": 480,
        }
        await stream.capture(*map(tick, range(1, 51)))
        heard = [await anext(frames) for _ in range(50)]
        assert [(frame.samples[0, 0], frame.duration, frame.sample_rate) for frame in heard] == [
            (value, 0.01, 48_000) for value in range(1, 51)
        ]
        assert frames.statistics() == (50, 0, 0, 0)
    assert stream.log == ["start", "abort", "close"]
    assert [frame async for frame in frames] == []


async def test_a_frame_goes_through_the_stages_when_it_is_read(sound: PretendedSound) -> None:
    class Louder:
        def process(self, frame: AudioFrame) -> AudioFrame:
            return replace(frame, data=(frame.samples * 2).tobytes())

    async with open_microphone(stages=[Louder()]) as frames:
        await sound.streams[0].capture(tick(3))
        assert (await anext(frames)).samples[0, 0] == 6


async def test_who_reads_a_microphone_too_slowly_loses_the_oldest_and_both_counts_tell(sound: PretendedSound) -> None:
    async with open_microphone(capacity=3) as frames:
        (stream,) = sound.streams
        callback = stream.asked["callback"]
        in_time, late = SimpleNamespace(input_overflow=False), SimpleNamespace(input_overflow=True)
        # The event loop is blocked meanwhile: they come while this function runs.
        for value in range(1, 6):
            thread = threading.Thread(target=callback, args=(tick(value), 480, None, in_time))
            thread.start()
            thread.join()
        await anyio.wait_all_tasks_blocked()
        await stream.capture(tick(6))  # the loop is awake again, the consumer is not
        await anyio.wait_all_tasks_blocked()
        assert frames.statistics() == (4, 1, 2, 3)
        assert [(await anext(frames)).samples[0, 0] for _ in range(3)] == [4, 5, 6]
        # What PortAudio itself has lost is counted as well.
        thread = threading.Thread(target=callback, args=(tick(7), 480, None, late))
        thread.start()
        thread.join()
        assert (await anext(frames)).samples[0, 0] == 7
        assert frames.statistics().overrun == 3


async def test_a_microphone_that_is_unplugged_says_so_after_its_last_frame(sound: PretendedSound) -> None:
    async with open_microphone() as frames:
        (stream,) = sound.streams
        await stream.capture(tick(1))
        await stream.unplug()
        assert (await anext(frames)).samples[0, 0] == 1
        with pytest.raises(DeviceError, match="the microphone has stopped") as caught:
            await anext(frames)
        assert caught.value.code == "DEVICE_LOST"
        assert [frame async for frame in frames] == []
    assert stream.log == ["start", "abort", "close"]


async def test_a_cancelled_block_gives_the_device_back(sound: PretendedSound) -> None:
    for block in (open_microphone, open_speaker):
        with anyio.CancelScope() as scope:
            async with block():
                scope.cancel()
                await anyio.sleep_forever()
        assert sound.streams[-1].log == ["start", "abort", "close"]


async def test_a_device_that_opens_after_it_was_given_up_is_closed(sound: PretendedSound) -> None:
    opening, goes_on = threading.Event(), threading.Event()

    def hang() -> None:
        opening.set()
        goes_on.wait(10)

    sound.on_open = hang
    async with anyio.create_task_group() as group:

        async def use() -> None:
            async with open_microphone():
                raise AssertionError("it was given up")

        group.start_soon(use)
        await anyio.to_thread.run_sync(opening.wait, 10)
        group.cancel_scope.cancel()
    assert sound.streams == []
    goes_on.set()
    # In its turn: whoever asks next is answered after the late one is closed.
    sound.on_open = lambda: None
    async with open_speaker():
        late, now = sound.streams
        assert await anyio.to_thread.run_sync(late.closed.wait, 10)
        assert late.log == ["start", "abort", "close"]
        assert now.log == ["start"]


async def test_a_sound_system_that_hangs_is_given_up(sound: PretendedSound, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_devices, "DEVICE_TIMEOUT", 0.05)
    goes_on = threading.Event()
    sound.on_open = lambda: goes_on.wait(10)
    with pytest.raises(DeviceError, match=r"the sound system did not answer within 0.05 s") as caught:
        async with open_speaker():
            pass
    assert caught.value.code == "DEVICE_TIMEOUT"
    # It still hangs: the next one gives up as well, and its thread with it.
    with pytest.raises(DeviceError, match="did not answer"):
        await microphones()
    goes_on.set()
    assert await anyio.to_thread.run_sync(sound.closed.wait, 10)
    assert sound.streams[0].log == ["start", "abort", "close"]


async def test_a_driver_that_does_not_close_holds_nobody_up(
    sound: PretendedSound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_devices, "DEVICE_CLOSE_TIMEOUT", 0.05)
    goes_on = threading.Event()
    sound.on_abort = lambda: goes_on.wait(10)
    async with open_microphone():
        (stream,) = sound.streams
    assert stream.log == ["start"]
    goes_on.set()
    assert await anyio.to_thread.run_sync(stream.closed.wait, 10)


# ------------------------------------------------------------------------------------------------ a speaker


async def test_a_speaker_plays_what_is_written_then_silence(sound: PretendedSound) -> None:
    async with open_speaker() as speaker:
        (stream,) = sound.streams
        await speaker.write(tick(1) + tick(2)[: TICK // 2])
        assert speaker.queued_duration == speaker.delay == 0.015
        assert await stream.play() == tick(1)
        assert await stream.play() == tick(2)[: TICK // 2] + bytes(TICK // 2)
        assert await stream.play() == bytes(TICK)


async def test_writing_waits_for_room_which_is_the_pacing(sound: PretendedSound) -> None:
    async with open_speaker(queue_size_ms=20) as speaker:
        (stream,) = sound.streams
        written: list[int] = []

        async def write() -> None:
            for value in range(1, 6):
                await speaker.write(tick(value))
                written.append(value)

        async with anyio.create_task_group() as group:
            group.start_soon(write)
            await anyio.wait_all_tasks_blocked()
            assert written == [1, 2]
            assert speaker.queued_duration == 0.02
            for value in range(1, 6):
                assert await stream.play() == tick(value)
                await anyio.wait_all_tasks_blocked()
                assert written == list(range(1, min(5, value + 2) + 1))


async def test_a_longer_piece_than_the_queue_goes_through_it_whole(sound: PretendedSound) -> None:
    async with open_speaker(queue_size_ms=20) as speaker:
        (stream,) = sound.streams
        async with anyio.create_task_group() as group:
            group.start_soon(speaker.write, b"".join(map(tick, range(1, 8))))
            for value in range(1, 8):
                await anyio.wait_all_tasks_blocked()
                assert speaker.queued_duration <= 0.02
                assert await stream.play() == tick(value)
        assert await stream.play() == bytes(TICK)


async def test_a_sample_is_never_torn_apart(sound: PretendedSound) -> None:
    async with open_speaker(sample_rate=44_100, num_channels=2, queue_size_ms=11) as speaker:
        (stream,) = sound.streams
        for take in (speaker.write, speaker.play):
            with pytest.raises(ValueError, match="6 bytes are not whole samples of 2 channels"):
                await take(b"123456")
        samples = np.arange(2 * 1_000, dtype=np.int16).tobytes()
        heard = b""
        async with anyio.create_task_group() as group:
            group.start_soon(speaker.write, samples)
            while len(heard) < len(samples):
                await anyio.wait_all_tasks_blocked()
                waiting = round(4 * 44_100 * speaker.queued_duration)
                # All that waits is played, so silence is put behind whatever the queue's end is.
                heard += (await stream.play(waiting + 40))[:waiting]
                assert waiting % 4 == 0
        assert heard == samples


async def test_frames_of_another_rate_are_converted_and_arrays_are_taken_as_they_are(sound: PretendedSound) -> None:
    async with open_speaker(queue_size_ms=1_000) as speaker:
        (stream,) = sound.streams
        wave = tone(0.5, rate=16_000)
        for start in range(0, len(wave), 160):
            piece = wave[start : start + 160].tobytes()
            await speaker.write(AudioFrame(data=piece, sample_rate=16_000, num_channels=1))
        played = np.frombuffer(await stream.play(48_000), np.int16)
        pitch, over_noise = found_tone(played[:20_000], 48_000)
        assert abs(pitch - 440) < 1
        assert over_noise > 20
        speaker.clear_queue()
        await speaker.write(np.array([0.5, -0.5]))
        assert np.frombuffer(await stream.play(4), np.int16).tolist() == [16_384, -16_384]


async def test_play_returns_when_all_was_heard_and_takes_back_what_is_queued_when_it_is_cancelled(
    sound: PretendedSound,
) -> None:
    async with open_speaker() as speaker:
        (stream,) = sound.streams
        over: list[str] = []

        async def play() -> None:
            await speaker.play(tick(1) + tick(2))
            over.append("played")

        async with anyio.create_task_group() as group:
            group.start_soon(play)
            await anyio.wait_all_tasks_blocked()
            assert await stream.play() == tick(1)
            await anyio.wait_all_tasks_blocked()
            assert over == []
            assert await stream.play() == tick(2)
        assert over == ["played"]
        async with anyio.create_task_group() as group:
            group.start_soon(play)
            await anyio.wait_all_tasks_blocked()
            group.cancel_scope.cancel()
        assert speaker.queued_duration == 0
        assert await stream.play() == bytes(TICK)


async def test_a_writer_and_somebody_who_waits_for_the_end_are_both_woken(sound: PretendedSound) -> None:
    async with open_speaker(queue_size_ms=20) as speaker:
        (stream,) = sound.streams
        over: list[str] = []

        async def note(what: str, wait: Callable[[], Any]) -> None:
            await wait()
            over.append(what)

        await speaker.write(tick(1) + tick(2))
        async with anyio.create_task_group() as group:
            group.start_soon(note, "heard", speaker.wait_for_playout)
            await anyio.wait_all_tasks_blocked()
            group.start_soon(note, "written", lambda: speaker.write(tick(3)))
            await anyio.wait_all_tasks_blocked()
            assert await stream.play() == tick(1)
            await anyio.wait_all_tasks_blocked()
            assert over == ["written"]
            assert [await stream.play() for _ in range(2)] == [tick(2), tick(3)]
        assert over == ["written", "heard"]


async def test_a_speaker_that_is_unplugged_says_so_to_everybody_who_waits(sound: PretendedSound) -> None:
    async with open_speaker(queue_size_ms=10) as speaker:
        (stream,) = sound.streams
        errors: list[str] = []

        async def fails(wait: Callable[..., Any], *args: Any) -> None:
            with pytest.raises(DeviceError, match="the speaker has stopped") as caught:
                await wait(*args)
            errors.append(caught.value.code)

        async with anyio.create_task_group() as group:
            group.start_soon(fails, speaker.write, tick(1) + tick(2))
            await anyio.wait_all_tasks_blocked()
            group.start_soon(fails, speaker.wait_for_playout)
            await anyio.wait_all_tasks_blocked()
            await stream.unplug()
        await fails(speaker.play, tick(3))
        assert errors == ["DEVICE_LOST"] * 3


async def test_a_speaker_that_takes_no_sound_is_given_up(
    sound: PretendedSound, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_sound_devices, "DEVICE_TIMEOUT", 0.05)
    async with open_speaker(queue_size_ms=10) as speaker:
        with pytest.raises(DeviceError, match="takes no sound") as caught:
            await speaker.write(tick(1) + tick(2))
        assert caught.value.code == "DEVICE_TIMEOUT"


def test_a_speaker_whose_loop_is_gone_still_answers_portaudio(backend: str) -> None:
    """The block was left, the driver not yet stopped: its thread must not see an exception of ours."""
    kept: list[Speaker] = []

    async def main() -> None:
        speaker = Speaker(48_000, 1, 100)
        await speaker.write(tick(1))
        with anyio.move_on_after(0):
            await speaker.wait_for_playout()
        kept.append(speaker)

    anyio.run(main, backend=backend)
    assert kept[0].take(TICK) == tick(1)
    kept[0].stopped()


# ------------------------------------------------------------------------------------------------ a screen


async def test_screens_are_listed_with_the_primary_one(desktop: PretendedDesktop) -> None:
    left, right = await screens()
    assert (left.left, left.width, left.height, left.name, left.is_primary) == (0, 4, 3, "", False)
    assert (right.left, right.width, right.height, right.name, right.is_primary) == (4, 4, 3, "HDMI-1", True)
    assert desktop.open == 0


async def test_a_screen_comes_as_opaque_pictures(desktop: PretendedDesktop) -> None:
    left, right = await screens()
    for screen, colour in ((left, [0, 0, 255, 255]), (right, [255, 0, 0, 255]), (None, [255, 0, 0, 255])):
        async with open_screen(screen) as pictures:
            picture = await anext(pictures)
            assert (picture.width, picture.height, picture.format) == (4, 3, VideoFormat.BGRA)
            assert (picture.pixels == colour).all()
            assert pictures.screen == (screen or right)
    assert desktop.open == 0


async def test_a_part_of_the_desktop_can_be_captured(desktop: PretendedDesktop) -> None:
    left, _ = await screens()
    async with open_screen(replace(left, left=3, width=2, height=1)) as pictures:
        assert (await anext(pictures)).pixels.tolist() == [[[0, 0, 255, 255], [255, 0, 0, 255]]]
    with pytest.raises(ValueError, match="0 x 3"):
        replace(left, width=0)


@pytest.mark.virtual
async def test_pictures_are_taken_when_they_are_asked_for_and_not_before_their_time(
    desktop: PretendedDesktop, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def ask(work: Callable[[], Any], **_: Any) -> Any:
        return work()  # there are no threads in virtual time

    monkeypatch.setattr(_screens, "_DESK", SimpleNamespace(ask=ask, close=ask))
    async with open_screen(fps=4) as pictures:
        began = anyio.current_time()
        times: list[float] = []
        async for _ in pictures:
            times.append(anyio.current_time() - began)
            if len(times) == 4:
                break
        assert times == [0, 0.25, 0.5, 0.75]
        # Who comes late gets one, not all that it has missed.
        await anyio.sleep(10)
        for at in (10.75, 11.0):
            await anext(pictures)
            assert anyio.current_time() - began == at


async def test_a_machine_without_a_screen_says_so_without_secrets(desktop: PretendedDesktop) -> None:
    desktop.there = False
    for ask in (screens, open_screen().__aenter__):
        with pytest.raises(DeviceError, match=r"there is no screen here: .*\[redacted token\]") as caught:
            await ask()
        assert caught.value.code == "DEVICE_UNAVAILABLE"
        assert "DISPLAY" in caught.value.hint
    desktop.there = True
    del desktop.monitors[1:]
    with pytest.raises(DeviceError, match="this machine has no screen"):
        async with open_screen():
            pass
    assert desktop.open == 0


async def test_a_screen_that_goes_away_says_so(desktop: PretendedDesktop) -> None:
    async with open_screen(fps=100) as pictures:
        await anext(pictures)
        desktop.gone = True
        with pytest.raises(DeviceError, match="no picture of the screen") as caught:
            await anext(pictures)
        assert caught.value.code == "DEVICE_LOST"
    assert desktop.open == 0


async def test_a_cancelled_capture_gives_the_screen_back(desktop: PretendedDesktop) -> None:
    with anyio.CancelScope() as scope:
        async with open_screen(fps=1) as pictures:
            async for _ in pictures:
                scope.cancel()
    assert desktop.open == 0


# ------------------------------------------------------------------------------------------------ given up


async def in_no_thread(function: Callable[..., Any], *args: Any, abandon_on_cancel: bool = False) -> Any:
    """What a thread is to its caller in virtual time: it has its result some time before that is noticed."""
    await anyio.lowlevel.checkpoint()
    result = function(*args)
    if abandon_on_cancel:
        await anyio.sleep(0.001)
    return result


async def use_everything(sound: PretendedSound) -> None:
    """All that waits for a device."""
    await microphones()
    await screens()
    async with open_microphone() as frames, open_speaker(queue_size_ms=20) as speaker, open_screen() as pictures:
        voice, ear = sound.streams[-2:]

        async def clock() -> None:
            status = SimpleNamespace(input_overflow=False)
            while True:
                await anyio.sleep(0.01)
                voice.asked["callback"](tick(1), 480, None, status)
                ear.asked["callback"](memoryview(bytearray(TICK)), 480, None, None)

        async with anyio.create_task_group() as group:
            group.start_soon(clock)
            for _ in range(3):
                await speaker.write(await anext(frames))
            await speaker.wait_for_playout()
            await speaker.play(tick(2) * 3)
            await anext(pictures)
            await anext(pictures)
            group.cancel_scope.cancel()


def test_whatever_waits_for_a_device_is_cancelled_at_any_step_and_every_device_is_given_back(
    sound: PretendedSound, desktop: PretendedDesktop, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anyio.to_thread, "run_sync", in_no_thread)

    def live(at: int) -> tuple[int, bool]:
        """Once, cancelled at that step: how many steps it took, and whether it was done all the same."""
        steps, done = 0, False
        scope: anyio.CancelScope | None = None

        def step(*_: Any) -> None:
            nonlocal steps
            if scope is not None:
                steps += 1
                assert steps < 2_000
                if steps == at:
                    scope.cancel()

        async def main() -> None:
            nonlocal scope, done
            with anyio.CancelScope() as scope:
                await use_everything(sound)
                done = True
            scope = None

        run_virtual(main, backend=backend, on_step=step)
        assert [stream.log for stream in sound.streams] == [["start", "abort", "close"]] * len(sound.streams)
        assert desktop.open == 0
        sound.streams.clear()
        return steps, done

    steps, done = live(0)
    assert done
    assert steps > 50, "it was counted"
    outcomes = [live(at)[1] for at in range(1, steps + 1)]
    assert not outcomes[0]
