"""What somebody said before it was connected.

A client that connects slowly records meanwhile, publishes its microphone with the feature "pre-connect buffer", and
sends the recording as a byte stream that names the track.  Both directions of LiveKit's convention are here: the topic
``lk.agent.pre-connect-audio-buffer``, raw 16-bit samples, and the attributes ``trackId``, ``sampleRate``, ``channels``.

Streams that nobody listens to are thrown away by the library, so whoever wants them listens from the start.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from .._bounds import PRECONNECT_BYTES_MAX
from .._errors import RoomError
from ._frames import SAMPLE_BYTES, AudioFrame
from ._stream_inbox import StreamListener
from ._streams import ByteStreamReader

__all__ = ["PreconnectAudio", "PreconnectListener", "attributes_of"]

TOPIC = "lk.agent.pre-connect-audio-buffer"


@dataclass(frozen=True, slots=True, kw_only=True)
class PreconnectAudio:
    """A recording that belongs before the first frame of a track."""

    identity: str
    """Who said it."""
    track_sid: str
    frame: AudioFrame = field(repr=False)
    """All of it, in one frame."""


class PreconnectListener:
    """Recordings as they come; iterate with ``async for``, and leave its ``with`` block."""

    def __init__(self, listener: StreamListener[ByteStreamReader]) -> None:
        self._listener = listener

    def __aiter__(self) -> PreconnectListener:
        return self

    async def __anext__(self) -> PreconnectAudio:
        reader = await anext(self._listener)
        async with aclosing(reader):
            return await _read(reader)

    def close(self) -> None:
        """Stop listening.  Idempotent."""
        self._listener.close()

    def __enter__(self) -> PreconnectListener:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


async def _read(reader: ByteStreamReader) -> PreconnectAudio:
    told = reader.attributes
    if "opus" in reader.info.mime_type:
        raise RoomError(
            f"{reader.sender_identity!r} sent {reader.info.mime_type}, which is not decoded here",
            code="PRECONNECT_FORMAT",
            hint="read room.byte_streams(topic) yourself and decode it",
        )
    try:
        track_sid, rate, channels = told["trackId"], int(told["sampleRate"]), int(told["channels"])
    except (KeyError, ValueError) as exc:
        raise RoomError(f"a pre-connect recording without {exc}", code="PRECONNECT_FORMAT") from None
    data = await reader.read_all(limit=PRECONNECT_BYTES_MAX)
    whole = len(data) - len(data) % (SAMPLE_BYTES * max(channels, 1))
    try:
        frame = AudioFrame(data=data[:whole], sample_rate=rate, num_channels=channels)
    except ValueError as exc:
        raise RoomError(f"a pre-connect recording that is no sound: {exc}", code="PRECONNECT_FORMAT") from None
    return PreconnectAudio(identity=reader.sender_identity, track_sid=track_sid, frame=frame)


def attributes_of(track_sid: str, frames: Sequence[AudioFrame]) -> dict[str, str]:
    """What the stream says of them; ValueError unless all are of one kind."""
    shapes = {(frame.sample_rate, frame.num_channels) for frame in frames}
    if len(shapes) != 1:
        raise ValueError(f"{len(frames)} frames of {len(shapes)} different rates or channel counts")
    [(rate, channels)] = shapes
    return {"trackId": track_sid, "sampleRate": str(rate), "channels": str(channels)}
