"""Transcriber, the skeleton: cuts speech at its pauses and publishes what `transcribe` makes of each piece.

Put a speech recogniser into `transcribe`; it runs in a thread, as most of them block.

livekit-agent dev examples/transcriber.py --room demo --play 440
"""

import anyio.to_thread
import numpy as np

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.events import TrackSubscribed
from livekit_agent.rooms import TrackKind, TranscriptionSegment

RATE = 16_000
QUIET = 0.01
"""Below this level (root mean square, full scale 1) it is a pause."""
PAUSE_S, LONGEST_S = 0.4, 15.0

handler = SimpleUniversalHandler()


def transcribe(samples: np.ndarray, sample_rate: int) -> str:
    """The words of a piece of speech: one channel of floats from -1 to 1.  This one can only hear how long it was."""
    return f"[{len(samples) / sample_rate:.1f} s of speech]"


@handler.job_assigned
async def listen(ctx: JobContext) -> None:
    with ctx.room.subscribe(TrackSubscribed, replay=True) as arrivals:
        async for event in arrivals:
            if event.track.kind is TrackKind.AUDIO:
                ctx.task_group.start_soon(follow, ctx, event)


async def follow(ctx: JobContext, arrival: TrackSubscribed) -> None:
    pieces: list[np.ndarray] = []
    began = at = quiet = 0.0
    number = 0

    async def publish() -> None:
        nonlocal number
        number += 1
        text = await anyio.to_thread.run_sync(transcribe, np.concatenate(pieces), RATE)
        pieces.clear()
        said = TranscriptionSegment(id=f"{arrival.track.sid}-{number}", text=text, start=began, end=at)
        await ctx.room.local_participant.publish_transcription(
            [said], track_sid=arrival.track.sid, participant_identity=arrival.participant.identity
        )

    with arrival.track.audio_frames(sample_rate=RATE, num_channels=1) as frames:
        async for frame in frames:
            samples = frame.samples[:, 0].astype(np.float32) / 32768
            at += frame.duration
            loud = float(np.sqrt(np.mean(samples**2))) > QUIET
            quiet = 0.0 if loud else quiet + frame.duration
            if loud and not pieces:
                began = at - frame.duration
            if loud or pieces:
                pieces.append(samples)
            if pieces and (quiet > PAUSE_S or at - began > LONGEST_S):
                await publish()
    if pieces:  # the track ended in the middle of a word
        await publish()
