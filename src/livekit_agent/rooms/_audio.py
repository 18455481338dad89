"""Sound, out and in: the source that feeds a track of ours, and the frames of somebody else's."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import anyio
import anyio.lowlevel

from .._bounds import AUDIO_FRAME_MS_MAX, AUDIO_STREAM_FRAMES, ROOM_REQUEST_TIMEOUT
from .._errors import RoomClosedError, RoomError
from ._calls import Call, failure
from ._frames import SAMPLE_BYTES, SAMPLE_RATES, AudioFrame
from ._link import Link
from ._media_stream import MediaQueue, MediaStream
from ._pcm import pcm_bytes, sound_pieces
from ._proto import audio, ffi
from ._proto import room as room_pb
from ._sources import Source
from ._transport import Transport

if TYPE_CHECKING:
    from ._frames import SamplesGiven

__all__ = ["AudioFilter", "AudioSource", "AudioStage", "open_audio"]

_log = logging.getLogger("livekit_agent.rooms")

_TICK_S = 0.01  # the library moves sound in pieces of 10 ms
_PIECE_S = 0.1
_PLAYOUT_SLACK_S = 0.02


class AudioSource(Source):
    """Where an audio track's samples come from: signed 16 bit, interleaved.

    Make it anywhere, publish it (:meth:`LocalParticipant.publish_audio`), then feed it.  The native source is made at
    the first publishing and given back when the last room that uses it ends, or by :meth:`close`.

    ``queue_size_ms`` is how far :meth:`capture_frame` may run ahead of what is heard, in whole 10 ms; 0: it does not
    pace, and takes frames of 10 ms only, which go straight through.  Who then sends faster than it is heard fills the
    receivers' buffers, and what is more than 4 s ahead is lost with all that waits.

    From 8 to 192 kHz, one channel or two; else :class:`ValueError`.
    """

    def __init__(self, sample_rate: int = 48_000, num_channels: int = 1, *, queue_size_ms: int = 200) -> None:
        # The library takes any rate, and ends the process over one of 1,500 Hz or a megahertz at the first frame; it
        # also ends it over a queue of 15 ms.
        if sample_rate not in SAMPLE_RATES or num_channels not in (1, 2) or queue_size_ms < 0 or queue_size_ms % 10:
            raise ValueError(f"no audio source of {sample_rate} Hz, {num_channels} channels, {queue_size_ms} ms")
        super().__init__()
        self.sample_rate = sample_rate
        self.num_channels = num_channels
        self.queue_size_ms = queue_size_ms
        self._plays_until = 0.0
        self._capturing: anyio.Lock | None = None
        self._playing: anyio.Lock | None = None
        self._answered: anyio.Event | None = None
        """Set when the library has answered the latest capture, given up or not."""
        self._unheard: Call | None = None
        """The latest capture, if nobody has waited for its answer."""

    def _open(self, link: Link) -> ffi.FfiResponse:
        request = audio.NewAudioSourceRequest(
            type=audio.AUDIO_SOURCE_NATIVE,
            sample_rate=self.sample_rate,
            num_channels=self.num_channels,
            queue_size_ms=self.queue_size_ms,
        )
        return link.request(ffi.FfiRequest(new_audio_source=request))

    def _forgotten(self) -> None:
        self._plays_until = 0.0
        if self._answered is not None:
            # A capture that was given up before is not answered any more.
            self._answered.set()
        unheard, self._unheard = self._unheard, None
        if unheard is not None and unheard.answered:
            try:
                _check(unheard.result())
            except RoomError as exc:
                # Nobody will ask any more.
                if not isinstance(exc, RoomClosedError):
                    _log.warning("%s", exc)

    # --- frame by frame -------------------------------------------------------------------------------------------

    async def capture_frame(
        self,
        data: bytes | bytearray | memoryview | AudioFrame | SamplesGiven | None = None,
        *,
        duration: float = _TICK_S,
    ) -> None:
        """Queue samples, or ``duration`` seconds of silence when there are none.

        An array has the shape ``(samples,)`` or ``(samples, channels)``, of 16-bit integers or of floats from -1 to 1.
        Returns when the queue has taken them all, which is the real-time pacing; at once while it has room for them.
        One capture at a time: a second one waits for the first.  Raises :class:`ValueError` for a broken frame and
        :class:`RoomError` when the source is not published or the room ends; what the library has against a frame for
        which there was room is raised by the next call, of this or of :meth:`wait_for_playout`.  Cancelling it leaves
        the source usable; the samples may still be heard.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        frame_bytes = SAMPLE_BYTES * self.num_channels
        if data is None:
            samples = bytes(frame_bytes * max(1, round(self.sample_rate * duration)))
        else:
            if isinstance(data, AudioFrame) and (data.sample_rate, data.num_channels) != self._shape:
                raise ValueError(
                    f"{data!r} does not fit a source of {self.sample_rate} Hz, {self.num_channels} channels"
                )
            samples = pcm_bytes(data, self.num_channels)
        if not samples or len(samples) % frame_bytes:
            raise ValueError(f"{len(samples)} bytes are not whole samples of {self.num_channels} channels of 16 bit")
        if self._capturing is None:
            # Not in __init__: a source may be made where no event loop runs.
            # Fast: a capture waits for the library anyway, and an uncontended lock would cost a turn of the loop first.
            self._capturing = anyio.Lock(fast_acquire=True)
        async with self._capturing:
            await self._until_answered()
            await self._capture(samples, len(samples) // frame_bytes)

    @property
    def _shape(self) -> tuple[int, int]:
        return self.sample_rate, self.num_channels

    async def _until_answered(self) -> None:
        """The library refuses a second capture while it works at one."""
        earlier, self._unheard = self._unheard, None
        if earlier is not None:
            _check(earlier.result() if earlier.answered else await earlier.wait(ROOM_REQUEST_TIMEOUT))
        elif self._answered is not None and not self._answered.is_set():
            # It was cancelled.
            with anyio.move_on_after(ROOM_REQUEST_TIMEOUT):
                await self._answered.wait()

    async def _capture(self, data: bytes, samples: int) -> None:
        transport = self._transport
        if transport is None:
            raise RoomError("the audio source is not published", hint="await local_participant.publish_audio(source)")
        with transport.lend(data) as address:
            buffer = audio.AudioFrameBufferInfo(
                data_ptr=address,
                num_channels=self.num_channels,
                sample_rate=self.sample_rate,
                samples_per_channel=samples,
            )
            capture = audio.CaptureAudioFrameRequest(source_handle=self._handle, buffer=buffer)
            # With one room its end fails the capture; a source of several rooms goes on in the others.
            home = next(iter(self._rooms)) if len(self._rooms) == 1 else 0
            answered = anyio.Event()

            def note(_: ffi.FfiEvent) -> None:
                answered.set()

            request = ffi.FfiRequest(capture_audio_frame=capture)
            call = Call(transport, request, room_handle=home, reclaim=note, on_answer=note)
            self._answered = answered
        seconds = samples / self.sample_rate
        self._plays_until = max(self._plays_until, anyio.current_time()) + seconds
        if self.queued_duration <= self.queue_size_ms / 1000:
            # There is room for it, so the answer is on its way and says nothing: two turns of the loop are saved.  Were
            # the clock wrong about that, the next capture would wait.
            self._unheard = call
            return
        _check(await call.wait(seconds + self.queue_size_ms / 1000 + ROOM_REQUEST_TIMEOUT))

    # --- what waits -----------------------------------------------------------------------------------------------

    @property
    def queued_duration(self) -> float:
        """Seconds of sound captured and not yet sent, by this loop's clock."""
        return max(0.0, self._plays_until - anyio.current_time())

    async def wait_for_playout(self) -> None:
        """Wait until everything captured so far has been sent.  At once if that is so.

        By the clock: the library does not tell.  :meth:`clear_queue` meanwhile ends the wait.  Raises
        :class:`RoomError` for what the library has against the last frame.
        """
        await anyio.lowlevel.checkpoint()
        while (left := self.queued_duration) > 0:  # noqa: ASYNC110 - in steps, to see that the queue was cleared
            await anyio.sleep(min(left, _PIECE_S))
        await self._until_answered()

    def clear_queue(self) -> None:
        """Forget the samples that were not sent yet."""
        self._plays_until = 0.0
        if self._transport is not None:
            request = audio.ClearAudioBufferRequest(source_handle=self._handle)
            self._transport.request(ffi.FfiRequest(clear_audio_buffer=request))

    # --- whole pieces ---------------------------------------------------------------------------------------------

    async def play(
        self,
        sound: str | os.PathLike[str] | bytes | bytearray | memoryview | AudioFrame | SamplesGiven,
        *,
        sample_rate: int | None = None,
    ) -> None:
        """Play a WAV file, or samples, to the end: returns when all of it has been sent.

        ``sample_rate`` is that of bytes or an array, if it is not the source's own; files and frames bring theirs.
        Whatever does not fit the source is converted.  Several calls play one after another.  Cancelled: what is
        queued is forgotten, so the sound stops within the 10 ms that are under way.

        A file is read in the event loop, a tenth of a second of sound at a time (some 20 kB): a thread would cost
        more, and could not be simulated.
        """
        await anyio.lowlevel.checkpoint_if_cancelled()
        if self._playing is None:
            self._playing = anyio.Lock()
        async with self._playing:
            try:
                for piece in _whole_ticks(sound_pieces(sound, sample_rate, *self._shape, _PIECE_S), self._tick_bytes):
                    await self._play_piece(piece)
                await self.wait_for_playout()
            except BaseException:
                self.clear_queue()
                raise

    @property
    def _tick_bytes(self) -> int:
        return SAMPLE_BYTES * self.num_channels * round(self.sample_rate * _TICK_S)

    async def _play_piece(self, piece: bytes) -> None:
        if self.queue_size_ms:
            await self.capture_frame(piece)
            return
        # Nothing is queued, so nothing paces: 10 ms by 10 ms, by the clock.
        for start in range(0, len(piece), self._tick_bytes):
            await self.capture_frame(piece[start : start + self._tick_bytes])
            await anyio.sleep_until(self._plays_until - _PLAYOUT_SLACK_S)


def _check(event: ffi.FfiEvent) -> None:
    if event.capture_audio_frame.error:
        raise failure(event.capture_audio_frame.error, "audio frame not captured")


def _whole_ticks(pieces: Iterator[bytes], tick: int) -> Iterator[bytes]:
    """The same sound in pieces of whole 10 ms, silence behind the last: the library keeps what is less."""
    rest = b""
    for piece in pieces:
        rest += piece
        size = len(rest) - len(rest) % tick
        if size:
            yield rest[:size]
            rest = rest[size:]
    if rest:
        yield rest + bytes(tick - len(rest))


class AudioStage(Protocol):
    """A step that a stream of sound goes through (``track.audio_frames(stages=[…])``)."""

    def process(self, frame: AudioFrame) -> AudioFrame | None:
        """What becomes of a frame; None: nothing yet.  Called when the consumer reads, in the order of frames."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class AudioFilter:
    """A filter inside the native library: a plugin that :func:`load_audio_filter` has loaded."""

    module_id: str
    options: Mapping[str, object] = field(default_factory=dict[str, object], repr=False)
    """For the plugin, as JSON; may hold secrets."""


def open_audio(
    link: Link,
    track_handle: int,
    *,
    sample_rate: int,
    num_channels: int,
    frame_ms: int = 10,
    capacity: int = AUDIO_STREAM_FRAMES,
    stages: Sequence[AudioStage] = (),
    filter: AudioFilter | None = None,
) -> MediaStream[AudioFrame]:
    """The frames of a track from now on (see :meth:`RemoteTrack.audio_frames`)."""
    if sample_rate not in SAMPLE_RATES or num_channels not in (1, 2) or capacity < 1:
        raise ValueError(f"no frames of {sample_rate} Hz, {num_channels} channels, {capacity} at a time")
    if frame_ms not in range(10, AUDIO_FRAME_MS_MAX + 1, 10):
        raise ValueError(f"no frames of {frame_ms!r} ms: whole tens, at most {AUDIO_FRAME_MS_MAX}")
    request = audio.NewAudioStreamRequest(
        track_handle=track_handle,
        type=audio.AUDIO_STREAM_NATIVE,
        sample_rate=sample_rate,
        num_channels=num_channels,
    )
    if frame_ms != 10:
        request.frame_size_ms = frame_ms
    if filter is not None:
        request.audio_filter_module_id = filter.module_id
        request.audio_filter_options = json.dumps(dict(filter.options))
    queue = MediaQueue(link, capacity, _read_frame)
    queue.stages = [stage.process for stage in stages]
    queue.open(ffi.FfiRequest(new_audio_stream=request))
    return MediaStream(queue)


def _read_frame(transport: Transport, event: ffi.FfiEvent) -> AudioFrame | None:
    """A frame, copied out of the library's memory, which is given back; None at the end of the stream."""
    message = event.audio_stream_event
    if not message.HasField("frame_received"):
        return None
    owned = message.frame_received.frame
    info = owned.info
    size = SAMPLE_BYTES * info.num_channels * info.samples_per_channel
    data = transport.read(room_pb.BufferInfo(data_ptr=info.data_ptr, data_len=size))
    transport.drop(owned.handle.id)
    return AudioFrame(data=data, sample_rate=info.sample_rate, num_channels=info.num_channels)
