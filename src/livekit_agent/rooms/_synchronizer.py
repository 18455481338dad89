"""Pictures in step with sound.

Sound has a clock of its own: a source plays what it is given at its rate.  Pictures have none: one is sent the moment
it is captured.  So each picture waits for its time, counted from the first, and the count follows the sound: what has
been played is what was pushed less what is still queued.  Without sound it is a plain frame-rate control.
"""

from __future__ import annotations

import anyio
import anyio.lowlevel

from ._audio import AudioSource
from ._frames import AudioFrame, VideoFrame
from ._video import VideoSource

__all__ = ["AvSynchronizer"]

_TOLERANCE = 0.04


class AvSynchronizer:
    """Feeds an audio and a video source in step.

    Push sound and pictures of the same moments, from one task or from two: :meth:`push_audio` returns when the audio
    source has taken the sound, :meth:`push_video` when the picture's time has come and it was sent.  Nothing is kept
    here, so cancelling either loses that frame at most.
    """

    def __init__(self, audio: AudioSource, video: VideoSource, *, fps: float) -> None:
        if not fps > 0:
            raise ValueError(f"no video of {fps} frames/s")
        self._audio, self._video, self.fps = audio, video, fps
        self.reset()

    def reset(self) -> None:
        """Begin anew, after a pause or :meth:`AudioSource.clear_queue`."""
        self._origin: float | None = None
        self._pushed = 0.0
        self._shown = 0

    async def push_audio(self, frame: AudioFrame) -> None:
        """Queue sound (:meth:`AudioSource.capture_frame`)."""
        if self._origin is None:
            self._origin = anyio.current_time()
        await self._audio.capture_frame(frame)
        self._pushed += frame.duration

    async def push_video(self, frame: VideoFrame) -> None:
        """Send a picture at its time."""
        await anyio.lowlevel.checkpoint()
        now = anyio.current_time()
        if self._origin is None:
            self._origin = now
        if self._pushed:
            heard_since = now - (self._pushed - self._audio.queued_duration)
            # Not at every picture: the source's own account is in steps of a frame.
            if abs(heard_since - self._origin) > _TOLERANCE:
                self._origin = heard_since
        due = self._origin + self._shown / self.fps
        if due > now:
            await anyio.sleep_until(due)
        self._shown += 1
        self._video.capture_frame(frame)

    @property
    def delay(self) -> float:
        """Seconds by which the next picture is late; negative: it is early."""
        origin = anyio.current_time() if self._origin is None else self._origin
        return anyio.current_time() - (origin + self._shown / self.fps)

    async def wait_for_playout(self) -> None:
        """Wait until all sound has been sent."""
        await self._audio.wait_for_playout()
