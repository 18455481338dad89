"""Several streams of sound as one.

A block with a task for each input, which reads ahead by at most a second, and an iterator over the sum.  A frame is
made as soon as every input has enough for it; one that has not, for longer than ``patience``, is silent in it.  Inputs
may have any rate and channel count; they are converted.  Nothing is mixed before somebody reads: who does not read
holds the inputs up, and their own streams drop their oldest.
"""

# numpy's stubs leave parts of its overloads unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import TracebackType

import anyio
import anyio.abc
import anyio.lowlevel

from .._bounds import AUDIO_MIXER_BUFFER
from ._frames import SAMPLE_BYTES, AudioFrame
from ._pcm import Converter

__all__ = ["AudioMixer"]


class _Input:
    def __init__(self) -> None:
        self.sound = bytearray()
        self.over = False
        self.room = anyio.Event()


class AudioMixer:
    """``async with AudioMixer() as mixer:``, then :meth:`add` inputs and iterate.  For one consumer."""

    def __init__(
        self, *, sample_rate: int = 48_000, num_channels: int = 1, frame_ms: int = 20, patience: float = 0.1
    ) -> None:
        samples = sample_rate * frame_ms // 1000
        if samples <= 0 or num_channels not in (1, 2) or frame_ms <= 0 or patience < 0:
            raise ValueError(f"no mixer of {sample_rate} Hz, {num_channels} channels, {frame_ms} ms")
        self.sample_rate, self.num_channels = sample_rate, num_channels
        self._size = SAMPLE_BYTES * num_channels * samples
        self._limit = max(self._size, round(SAMPLE_BYTES * num_channels * sample_rate * AUDIO_MIXER_BUFFER))
        self._patience = patience
        self._inputs: dict[_Input, None] = {}
        self._ending = False
        self._changed = anyio.Event()
        self._stack = AsyncExitStack()
        self._group: anyio.abc.TaskGroup | None = None

    def add(self, stream: AsyncIterator[AudioFrame]) -> None:
        """Mix that in until it ends.  It stays yours to close."""
        if self._group is None or self._ending:
            raise RuntimeError("the mixer is not open for more inputs")
        source = _Input()
        self._inputs[source] = None
        self._group.start_soon(self._read, stream, source)

    def end_input(self) -> None:
        """No more inputs will be added: the iteration ends when those that there are have ended."""
        self._ending = True
        self._tell()

    async def _read(self, stream: AsyncIterator[AudioFrame], source: _Input) -> None:
        converter: tuple[tuple[int, int], Converter] | None = None
        async for frame in stream:
            shape = (frame.sample_rate, frame.num_channels)
            if converter is None or converter[0] != shape:
                converter = shape, Converter(*shape, self.sample_rate, self.num_channels)
            while len(source.sound) >= self._limit:
                await source.room.wait()
            source.sound += converter[1].feed(frame.data)
            self._tell()
        source.over = True
        self._tell()

    def _tell(self) -> None:
        changed, self._changed = self._changed, anyio.Event()
        changed.set()

    def __aiter__(self) -> AudioMixer:
        return self

    async def __anext__(self) -> AudioFrame:
        await anyio.lowlevel.checkpoint()
        waiting_since: float | None = None
        while True:
            for source in [source for source in self._inputs if source.over and not source.sound]:
                del self._inputs[source]
            if self._ending and not self._inputs:
                raise StopAsyncIteration
            late = [source for source in self._inputs if len(source.sound) < self._size and not source.over]
            if len(late) == len(self._inputs):
                waiting_since = None
                await self._changed.wait()
                continue
            now = anyio.current_time()
            waiting_since = now if waiting_since is None else waiting_since
            if not late or now >= waiting_since + self._patience:
                return self._mix()
            with anyio.CancelScope(deadline=waiting_since + self._patience):
                await self._changed.wait()

    def _mix(self) -> AudioFrame:
        import numpy as np

        total = np.zeros(self._size // SAMPLE_BYTES, np.int32)
        for source in self._inputs:
            if len(source.sound) < self._size and not source.over:
                continue
            piece = bytes(source.sound[: self._size])
            del source.sound[: self._size]
            total += np.frombuffer(piece.ljust(self._size, b"\0"), np.int16)
            room, source.room = source.room, anyio.Event()
            room.set()
        data = np.clip(total, -32768, 32767).astype(np.int16).tobytes()
        return AudioFrame(data=data, sample_rate=self.sample_rate, num_channels=self.num_channels)

    async def __aenter__(self) -> AudioMixer:
        self._group = await self._stack.enter_async_context(anyio.create_task_group())
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> bool | None:
        assert self._group is not None
        self._ending = True
        self._group.cancel_scope.cancel()
        return await self._stack.__aexit__(exc_type, exc, tb)
