"""Sound and pictures in rooms in memory: what a WebRTC connection would carry, as exact arithmetic.

One clock for all rooms, running while anybody listens: every 10 ms first each source gives the 10 ms that are due,
then each stream gives its consumer a frame of 10 ms, of sound or, when there is none, of silence; as the real library,
whose streams deliver at full rate whether or not somebody speaks.  Sound is converted to what a stream asked for
(``_pcm.Converter``); it is neither compressed nor late, and nothing of it is lost.  Pictures go straight through.

The queue of a source is honest: a capture is answered when what is queued fits, a second one before that is refused,
and what is less than 10 ms stays until there is more.  A source without a queue takes 10 ms at a time and paces
nothing; who floods it fills what is the receiver's buffer on a real server, which is emptied when it is full.  Sound
that is captured while nobody listens is not kept.
"""

# numpy's stubs leave parts of its overloads unknown.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .._bounds import MEMORY_SOUND_AHEAD
from ._enums import TrackKind
from ._frames import SAMPLE_BYTES, VideoFormat, VideoFrame
from ._ledger_events import (
    LedgerEvent,
    ParticipantGone,
    TrackGone,
    TrackMuteChanged,
    TrackRecord,
)
from ._memory_encryption import Verdict
from ._memory_network import Network, Wire
from ._memory_pictures import as_sent
from ._memory_speakers import Speakers
from ._pcm import Converter
from ._proto import audio, video

if TYPE_CHECKING:
    from ._memory import MemoryRooms
    from ._memory_media import MemoryMedia
    from ._memory_transport import MemoryTransport

__all__ = [
    "TICKS_A_SECOND",
    "AudioSourceState",
    "AudioStreamState",
    "LocalMedia",
    "MediaHub",
    "MediaStreamState",
    "VideoSourceState",
    "VideoStreamState",
]

_TICK = 0.01
TICKS_A_SECOND = 100
_INVALID = "an RtcError occurred: InvalidState"


class AudioSourceState:
    """A source's queue: until when what it has queued will play, and that sound itself while somebody listens."""

    def __init__(self, request: audio.NewAudioSourceRequest) -> None:
        self.queue_s = request.queue_size_ms / 1000
        self.sample_rate = request.sample_rate
        self.num_channels = request.num_channels
        self.plays_until = 0.0
        self.full = False
        """Whether a capture waits for its place."""
        self.packets = 0
        self.octets = 0
        self.sound = bytearray()
        self.tick_bytes = SAMPLE_BYTES * self.num_channels * (self.sample_rate // TICKS_A_SECOND)

    def refusal(self, frame: audio.AudioFrameBufferInfo) -> str:
        """Why the library does not take it, or nothing."""
        if (frame.sample_rate, frame.num_channels) != (self.sample_rate, self.num_channels):
            return "sample_rate and num_channels don't match"
        samples = self.sample_rate // TICKS_A_SECOND
        if self.queue_s == 0 and frame.samples_per_channel != samples:
            got = frame.samples_per_channel
            return f"{_INVALID} - direct capture requires 10ms frames: got {got} frames, expected {samples}"
        return f"{_INVALID} - failed to capture frame" if self.full else ""

    def queue(self, sound: bytes) -> None:
        """Keep it until it is due."""
        if self.queue_s == 0 and len(self.sound) >= self.tick_bytes * MEMORY_SOUND_AHEAD * TICKS_A_SECOND:
            self.sound.clear()
        self.sound += sound

    def due(self) -> bytes:
        """The next 10 ms, or nothing."""
        if len(self.sound) < self.tick_bytes:
            return b""
        piece = bytes(self.sound[: self.tick_bytes])
        del self.sound[: self.tick_bytes]
        return piece


class VideoSourceState:
    """A video source.  It keeps no picture, and counts them."""

    def __init__(self, request: video.NewVideoSourceRequest) -> None:
        self.width, self.height = request.resolution.width, request.resolution.height
        self.encoded = request.type == video.VIDEO_SOURCE_ENCODED
        self.key_frame_wanted = False
        self.tell: Callable[[], None] = lambda: None
        """Told that there is feedback."""
        self.packets = 0
        self.octets = 0


class LocalMedia:
    """A track of ours, or somebody else's as we see it (then without a source)."""

    def __init__(self, name: str, sid: str = "", source: AudioSourceState | VideoSourceState | None = None) -> None:
        self.name = name
        self.sid = sid
        self.source = source

    @property
    def kind(self) -> TrackKind:
        """Audio or video."""
        return TrackKind.VIDEO if isinstance(self.source, VideoSourceState) else TrackKind.AUDIO


class MediaStreamState:
    """What one consumer gets of one track."""

    def __init__(self, home: MemoryMedia, media: LocalMedia) -> None:
        self.home = home
        self.media = media
        self.handle = 0
        self.over = False


class AudioStreamState(MediaStreamState):
    """Sound as one consumer asked for it."""

    def __init__(self, home: MemoryMedia, media: LocalMedia, rate: int, channels: int, frame_ms: int) -> None:
        super().__init__(home, media)
        self.rate, self.channels = rate, channels
        self._converter: tuple[tuple[int, int], Converter] | None = None
        self._ready = bytearray()
        self._tick_bytes = SAMPLE_BYTES * channels * (rate // TICKS_A_SECOND)
        self._frame_bytes = self._tick_bytes * frame_ms * TICKS_A_SECOND // 1_000
        self._frame = bytearray()
        self.wire: Wire[tuple[AudioSourceState, bytes]] = Wire(home.rooms.clock, lambda heard: self.hear(*heard))

    def hear(self, source: AudioSourceState, piece: bytes) -> None:
        """10 ms of the source's sound."""
        shape = (source.sample_rate, source.num_channels)
        if self._converter is None or self._converter[0] != shape:
            self._converter = shape, Converter(*shape, self.rate, self.channels)
        self._ready += self._converter[1].feed(piece)

    def tick(self) -> None:
        """10 ms for the consumer, who hears of them when they fill a frame."""
        piece = self._ready[: self._tick_bytes]
        del self._ready[: self._tick_bytes]
        # A resampler's first piece may be a sample short.
        self._frame += piece + bytes(self._tick_bytes - len(piece))
        if len(self._frame) == self._frame_bytes:
            frame, self._frame = bytes(self._frame), bytearray()
            self.home.tell_sound(self, frame)


class VideoStreamState(MediaStreamState):
    """Pictures as one consumer asked for them."""

    def __init__(self, home: MemoryMedia, media: LocalMedia, format: VideoFormat | None) -> None:
        super().__init__(home, media)
        self.format = format
        self.wire: Wire[VideoFrame] = Wire(home.rooms.clock, self.see)

    def see(self, frame: VideoFrame) -> None:
        """A picture of the source's, if anybody still looks."""
        if not self.over and self.home.hears(self.media.sid) and self.home.is_enabled(self.media.sid):
            self.home.tell_picture(self, frame)


class MediaHub:
    """All sources that are published and all streams that are open, in all rooms, and the clock that moves sound."""

    def __init__(self, rooms: MemoryRooms) -> None:
        self._rooms = rooms
        self._sources: dict[str, AudioSourceState | VideoSourceState] = {}  # by track sid
        self._homes: dict[str, tuple[str, str]] = {}  # track sid -> (room, identity)
        self._tracks: dict[str, TrackRecord] = {}
        self._muted: dict[str, None] = {}
        self._streams: dict[MediaStreamState, None] = {}
        self.speakers = Speakers(rooms)
        self.watch: Callable[[str, str], None] | None = None
        """Told ``opened`` and ``closed`` of each stream, and ``stray`` of a handle given back that is none."""
        self._origin: float | None = None
        self._ticks = 0

    @property
    def running(self) -> bool:
        """Whether the clock runs: somebody listens."""
        return self._origin is not None

    @property
    def streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def publish(
        self, track: TrackRecord, source: AudioSourceState | VideoSourceState | None, room: str, identity: str
    ) -> None:
        """A track has a source."""
        if source is not None:
            self._sources[track.sid] = source
            self._homes[track.sid] = (room, identity)
            self._tracks[track.sid] = track
            self.speakers.publish(track.sid, room, identity)

    def is_published(self, source: VideoSourceState) -> bool:
        """Whether a track of it is."""
        return any(other is source for other in self._sources.values())

    def joined(self, sid: str) -> None:
        """Somebody subscribed to that track."""
        source = self._sources.get(sid)
        if isinstance(source, VideoSourceState):
            source.key_frame_wanted = True
            source.tell()

    def play(self, source: AudioSourceState, sound: bytes) -> None:
        """A source has got this much more to play."""
        if self.running and any(other is source for other in self._sources.values()):
            source.queue(sound)
        for sid, other in self._sources.items():
            if other is source and sid not in self._muted:
                self.speakers.hear(sid, sound)
                self._examine(sid)

    def source_of(self, sid: str) -> AudioSourceState | VideoSourceState | None:
        """What feeds a track."""
        return self._sources.get(sid)

    def hear(self, event: LedgerEvent) -> None:
        """A track is over, muted or unmuted."""
        if isinstance(event, TrackMuteChanged):
            self.mute(event.track.sid, event.track.muted)
        elif isinstance(event, TrackGone):
            self._forget(event.track.sid)
        elif isinstance(event, ParticipantGone):
            for track in event.participant.tracks:
                self._forget(track.sid)

    def _forget(self, sid: str) -> None:
        source = self._sources.pop(sid, None)
        if isinstance(source, AudioSourceState) and source not in self._sources.values():
            source.sound.clear()
        self._homes.pop(sid, None)
        self._tracks.pop(sid, None)
        self._muted.pop(sid, None)
        self.speakers.forget(sid)

    def mute(self, sid: str, muted: bool) -> None:
        """A track's sound is silence from now on, or no longer."""
        if muted:
            self._muted[sid] = None
            self.speakers.over(sid)
        else:
            self._muted.pop(sid, None)

    def open(self, stream: MediaStreamState) -> None:
        """Somebody listens."""
        self._streams[stream] = None
        self.tell("opened", stream.home.sid, stream.handle)
        if isinstance(stream, AudioStreamState) and self._origin is None:
            self._origin, self._ticks = self._rooms.now(), 0
            self._schedule()

    def close(self, stream: MediaStreamState) -> None:
        """Nobody listens any more."""
        self._streams.pop(stream, None)

    def tell(self, what: str, sid: str, handle_id: int) -> None:
        """Tell who watches."""
        if self.watch is not None:
            self.watch(what, f"{sid}/{handle_id}")

    def _schedule(self) -> None:
        assert self._origin is not None
        self._ticks += 1
        # Counted from the origin: sums of 0.01 would drift.
        self._rooms.clock.later(self._origin + self._ticks * _TICK - self._rooms.now(), self._tick)

    def _tick(self) -> None:
        listening = [stream for stream in self._streams if isinstance(stream, AudioStreamState)]
        pieces = {sid: source.due() for sid, source in self._sounds()}
        if not listening:
            self._origin = None
            for _, source in self._sounds():
                source.sound.clear()
            return
        for stream in listening:
            sid = stream.media.sid
            source = self._sources.get(sid)
            if isinstance(source, AudioSourceState) and pieces[sid]:
                verdict = self._verdict(stream.home, sid)
                silent = sid in self._muted or not stream.home.is_enabled(sid) or verdict is Verdict.SILENCE
                piece = bytes(len(pieces[sid])) if silent else pieces[sid]
                if verdict is Verdict.NOISE:
                    # What a decoder makes of a ciphertext.
                    piece = hashlib.shake_128(piece).digest(len(piece))
                if wires := self._wires(sid, stream):
                    stream.wire.put((source, piece), wires, self._rooms.wiring.rng, lossy=True)
                else:
                    stream.hear(source, piece)
            if stream.home.hears(sid):
                stream.tick()
        self._schedule()

    def _sounds(self) -> list[tuple[str, AudioSourceState]]:
        return [(sid, source) for sid, source in self._sources.items() if isinstance(source, AudioSourceState)]

    def _publisher(self, sid: str) -> MemoryTransport | None:
        room, identity = self._homes.get(sid, ("", ""))
        person = self._rooms.ledger.participant(room, identity)
        return None if person is None else self._rooms.connection(person.sid)

    def _verdict(self, home: Any, sid: str) -> Verdict:
        """What a receiver gets of what is sent on a track now."""
        publisher = self._publisher(sid)
        if publisher is None or not (publisher.encrypts or home.encrypts):
            return Verdict.CLEAR
        return home.unseal(self._homes[sid][1], sid, publisher.seal(sid))

    def _examine(self, sid: str) -> None:
        """Who has subscribed decrypts, whether or not anybody looks at it."""
        publisher = self._publisher(sid)
        if publisher is not None and publisher.encrypts:
            for person in self._rooms.ledger.participants(self._homes[sid][0]):
                receiver = self._rooms.connection(person.sid)
                if receiver is not None and receiver.hears(sid):
                    self._verdict(receiver, sid)

    def show(self, source: VideoSourceState, frame: VideoFrame) -> None:
        """A picture, to everybody who looks."""
        sids = [sid for sid, other in self._sources.items() if other is source and sid not in self._muted]
        for sid in sids:
            self._examine(sid)
        for stream in list(self._streams):
            sid = stream.media.sid
            if not (isinstance(stream, VideoStreamState) and sid in sids and stream.home.hears(sid)):
                continue
            if self._verdict(stream.home, sid) is Verdict.CLEAR:
                sent = as_sent(frame, self._tracks[sid], *stream.home.wanted_size(sid))
                if wires := self._wires(sid, stream):
                    stream.wire.put(sent, wires, self._rooms.wiring.rng, lossy=True)
                else:
                    stream.see(sent)

    def _wires(self, sid: str, stream: MediaStreamState) -> tuple[Network, ...]:
        """The imperfect wires from the track's publisher to a listener."""
        if self._rooms.wiring.perfect:
            return ()
        publisher = self._rooms.ledger.participant(*self._homes[sid])
        return self._rooms.wiring.among(stream.home.sid, "" if publisher is None else publisher.sid)
