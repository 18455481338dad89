"""Tone generator: plays a sine wave, of 440 Hz or of what the job's metadata say: {"hz": 660}.

livekit-agent dev examples/tone.py --room demo
"""

import numpy as np

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.rooms import AudioSource

handler = SimpleUniversalHandler()


@handler.job_assigned
async def play(ctx: JobContext) -> None:
    wishes = ctx.job.metadata_json() if ctx.job.metadata else {}
    hz = float(wishes.get("hz", 440))
    source = AudioSource()
    await ctx.room.local_participant.publish_audio(source, name=f"{hz:g} Hz")
    tick = source.sample_rate // 50
    first = 0
    while True:
        at = (first + np.arange(tick)) / source.sample_rate
        # Returns when the queue has room: that is the clock.
        await source.capture_frame(0.5 * np.sin(2 * np.pi * hz * at))
        first += tick
