"""Microphones as streams of frames, and speakers that play them.

A microphone is a :class:`MediaStream`, as a track is: PortAudio's thread puts a frame of 10 ms into a mailbox of the
event loop, with the stream's own bound, and the oldest goes when nobody reads.  A speaker is a buffer of bounded
length: whoever writes waits for room, PortAudio's thread takes what it needs every 10 ms, and silence is played when
there is nothing.  The two sides share the buffer under a lock that is held for a copy.

Each is a block: leaving it stops the device, also when cancelled.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import anyio.lowlevel

from .._bounds import AUDIO_STREAM_FRAMES, DEVICE_TIMEOUT, SPEAKER_QUEUE
from .._errors import DeviceError
from ._audio import AudioStage
from ._devices import Desk
from ._frames import SAMPLE_BYTES, SAMPLE_RATES, AudioFrame
from ._mailbox import Mailbox, current_loop
from ._media_stream import FrameQueue, MediaStream
from ._pcm import Converter, pcm_bytes, sound_pieces
from ._portaudio import AudioDevice, audio_devices, close_sound, open_input, open_output

if TYPE_CHECKING:
    from ._frames import Samples

__all__ = ["Speaker", "microphones", "open_microphone", "open_speaker", "speakers"]

_PIECE_S = 0.1
_DESK = Desk("sound system")


async def microphones() -> tuple[AudioDevice, ...]:
    """What this machine can capture sound with; empty if nothing.

    PortAudio looks once a process, when it is first asked.  Raises :class:`DeviceError` ``DEVICE_UNAVAILABLE`` where
    there is no PortAudio.
    """
    return await _DESK.ask(lambda: audio_devices("input"))


async def speakers() -> tuple[AudioDevice, ...]:
    """What this machine can play sound with; otherwise as :func:`microphones`."""
    return await _DESK.ask(lambda: audio_devices("output"))


def _check(sample_rate: int, num_channels: int) -> None:
    if sample_rate not in SAMPLE_RATES or sample_rate % 100 or not 1 <= num_channels <= 32:
        raise ValueError(f"no sound of {sample_rate} Hz and {num_channels} channels; frames are of whole 10 ms")


# --- in -----------------------------------------------------------------------------------------------------------


class _Inbox:
    """Frames on their way from PortAudio's thread into the stream's queue; None: the device has stopped."""

    def __init__(self, queue: FrameQueue[AudioFrame], sample_rate: int, num_channels: int) -> None:
        loop = current_loop()
        self._queue = queue
        self._shape = sample_rate, num_channels
        self._mailbox: Mailbox[AudioFrame | None] = Mailbox(self._deliver, post=loop.post, alive=loop.alive)

    def captured(self, data: bytes, lost: bool) -> None:
        """10 ms of sound, on PortAudio's thread; ``lost``: some were not taken in time before them."""
        queue = self._queue
        if queue.ended:
            return
        late = len(self._mailbox) >= queue.capacity and self._mailbox.take_oldest() is not None
        queue.overrun += late + lost
        sample_rate, num_channels = self._shape
        self._mailbox.put(AudioFrame(data=data, sample_rate=sample_rate, num_channels=num_channels))

    def stopped(self) -> None:
        """On PortAudio's thread: nothing more will come."""
        self._mailbox.put(None)

    def _deliver(self, frame: AudioFrame | None) -> None:
        queue = self._queue
        if queue.ended:
            return
        if frame is not None:
            queue.put(frame)
            return
        queue.error = DeviceError("the microphone has stopped", code="DEVICE_LOST")
        queue.end()


@asynccontextmanager
async def open_microphone(
    device: AudioDevice | str | None = None,
    *,
    sample_rate: int = 48_000,
    num_channels: int = 1,
    capacity: int = AUDIO_STREAM_FRAMES,
    stages: Sequence[AudioStage] = (),
) -> AsyncGenerator[MediaStream[AudioFrame]]:
    """Capture sound: ``async with open_microphone() as frames:``, then ``async for frame in frames``.

    ``device`` is one of :func:`microphones`, its name or a part of it; None: the system's default.  Frames are of
    10 ms.  ``capacity`` of them wait at most, and the oldest goes first, counted in ``frames.statistics()``.
    ``stages`` are what each goes through when it is read, such as an :class:`AudioProcessor`.

    Raises :class:`DeviceError`: when it cannot be opened, and from the iteration when the device stops by itself.
    """
    _check(sample_rate, num_channels)
    if capacity < 1:
        raise ValueError(f"no frames can wait in a queue of {capacity}")
    queue: FrameQueue[AudioFrame] = FrameQueue(capacity)
    queue.stages = [stage.process for stage in stages]
    inbox = _Inbox(queue, sample_rate, num_channels)
    device_stream = await _DESK.ask(
        lambda: open_input(device, sample_rate, num_channels, inbox.captured, inbox.stopped),
        undo=close_sound,
    )
    try:
        with MediaStream(queue) as frames:
            yield frames
    finally:
        await _DESK.close(lambda: close_sound(device_stream))


# --- out ----------------------------------------------------------------------------------------------------------


class Speaker:
    """An open speaker (:func:`open_speaker`)."""

    def __init__(self, sample_rate: int, num_channels: int, queue_size_ms: int) -> None:
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.latency = 0.0
        """Seconds between the queue and the air, as the sound system tells."""
        self._sample = SAMPLE_BYTES * num_channels
        self._second = self._sample * sample_rate
        # Whole samples: silence may be put behind them.
        self._limit = self._sample * (sample_rate * queue_size_ms // 1000)
        self._loop = current_loop()
        self._lock = threading.Lock()
        self._waiting = bytearray()
        self._wanted: int | None = None
        """The loop waits until no more than that is left."""
        self._wake = anyio.Event()
        self._lost = False
        self._writing = anyio.Lock()
        self._converter: tuple[tuple[int, int], Converter] | None = None

    # --- on PortAudio's thread ------------------------------------------------------------------------------------

    def take(self, size: int) -> bytes:
        """The next bytes to be played."""
        with self._lock:
            piece = bytes(self._waiting[:size])
            del self._waiting[:size]
            woken = self._wanted is not None and len(self._waiting) <= self._wanted
            if woken:
                self._wanted = None
        if woken:
            self._tell()
        return piece

    def stopped(self) -> None:
        """The device plays no more."""
        self._lost = True
        self._tell()

    def _tell(self) -> None:
        # The loop may be gone: then nobody waits.
        with suppress(RuntimeError):
            self._loop.post(lambda: self._wake.set())

    # --- in the loop ----------------------------------------------------------------------------------------------

    async def write(self, sound: bytes | bytearray | memoryview | AudioFrame | Samples) -> None:
        """Queue sound: a frame of any rate, or samples of this speaker's, as an array or as bytes.

        Returns when the queue has taken it all, which is the pacing.  Several writers take turns.  Raises
        :class:`ValueError` for half a sample and :class:`DeviceError` when the device has stopped.  Cancelled: what the
        queue has taken is still heard.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        async with self._writing:
            await self._write(self._converted(sound))

    async def _write(self, data: bytes) -> None:
        if len(data) % self._sample:
            raise ValueError(f"{len(data)} bytes are not whole samples of {self.num_channels} channels of 16 bit")
        while True:
            with self._lock:
                taken = self._limit - len(self._waiting)
                self._waiting += data[:taken]
                data = data[max(0, taken) :]
            if not data:
                return
            # Woken when it fits, or when half of the queue is free: not for every 10 ms.
            await self._until(max(self._limit - len(data), self._limit // 2))

    async def play(
        self,
        sound: str | os.PathLike[str] | bytes | bytearray | memoryview | AudioFrame | Samples,
        *,
        sample_rate: int | None = None,
    ) -> None:
        """Play a WAV file, or samples, to the end: returns when all of it was heard.

        ``sample_rate`` is that of bytes or an array, if it is not the speaker's own.  Cancelled: what is queued is
        forgotten.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        async with self._writing:
            try:
                for piece in sound_pieces(sound, sample_rate, self.sample_rate, self.num_channels, _PIECE_S):
                    await self._write(piece)
                await self.wait_for_playout()
            except BaseException:
                self.clear_queue()
                raise

    def _converted(self, sound: bytes | bytearray | memoryview | AudioFrame | Samples) -> bytes:
        if not isinstance(sound, AudioFrame):
            return pcm_bytes(sound, self.num_channels)
        shape = (sound.sample_rate, sound.num_channels)
        if self._converter is None or self._converter[0] != shape:
            self._converter = shape, Converter(*shape, self.sample_rate, self.num_channels)
        return self._converter[1].feed(sound.data)

    @property
    def queued_duration(self) -> float:
        """Seconds of sound that wait here."""
        return len(self._waiting) / self._second

    @property
    def delay(self) -> float:
        """Seconds until what is written now is heard: for :meth:`AudioProcessor.set_delay`."""
        return self.queued_duration + self.latency

    def clear_queue(self) -> None:
        """Forget what was not played yet."""
        with self._lock:
            self._waiting.clear()

    async def wait_for_playout(self) -> None:
        """Wait until everything written so far was heard.  :class:`DeviceError` when the device has stopped."""
        await anyio.lowlevel.checkpoint()
        if self.queued_duration:
            await self._until(0)
            await anyio.sleep(self.latency)

    async def _until(self, wanted: int) -> None:
        """Wait until no more bytes than that are left."""
        # As long as it should take, and what a device may take to begin.
        with anyio.move_on_after(self._limit / self._second + DEVICE_TIMEOUT):
            while len(self._waiting) > wanted and not self._lost:
                if self._wake.is_set():
                    self._wake = anyio.Event()
                with self._lock:
                    # Who waits for less looks again.  A buffer that is there already is noticed at the next 10 ms.
                    self._wanted = wanted if self._wanted is None else max(wanted, self._wanted)
                if not self._lost:
                    await self._wake.wait()
        if self._lost:
            raise DeviceError("the speaker has stopped", code="DEVICE_LOST")
        if len(self._waiting) > wanted:
            raise DeviceError("the speaker takes no sound", code="DEVICE_TIMEOUT")


@asynccontextmanager
async def open_speaker(
    device: AudioDevice | str | None = None,
    *,
    sample_rate: int = 48_000,
    num_channels: int = 1,
    queue_size_ms: int = round(1000 * SPEAKER_QUEUE),
) -> AsyncGenerator[Speaker]:
    """Play sound: ``async with open_speaker() as speaker:``, then ``await speaker.write(frame)`` or ``play(path)``.

    ``device`` is one of :func:`speakers`, its name or a part of it; None: the system's default.  ``queue_size_ms`` is
    how far :meth:`Speaker.write` may run ahead of what is heard.  Leaving the block stops at once; what shall be heard
    to the end is waited for (:meth:`Speaker.wait_for_playout`).  Raises :class:`DeviceError` when it cannot be opened.
    """
    _check(sample_rate, num_channels)
    if queue_size_ms < 10:
        raise ValueError(f"a queue of {queue_size_ms} ms; sound is played 10 ms at a time")
    speaker = Speaker(sample_rate, num_channels, queue_size_ms)
    stream = await _DESK.ask(
        lambda: open_output(device, sample_rate, num_channels, speaker.take, speaker.stopped),
        undo=close_sound,
    )
    speaker.latency = stream.latency
    try:
        yield speaker
    finally:
        await _DESK.close(lambda: close_sound(stream))
