"""Recorder: writes what each speaker says to a WAV file, named after room and speaker, in the current directory.

livekit-agent dev examples/recorder.py --room demo --play 440
"""

import re
import wave
from contextlib import closing
from pathlib import Path

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.events import TrackSubscribed
from livekit_agent.rooms import TrackKind

RATE = 48_000

handler = SimpleUniversalHandler()


@handler.job_assigned
async def listen(ctx: JobContext) -> None:
    with ctx.room.subscribe(TrackSubscribed, replay=True) as arrivals:
        async for event in arrivals:
            if event.track.kind is TrackKind.AUDIO:
                ctx.task_group.start_soon(record, ctx, event)


async def record(ctx: JobContext, arrival: TrackSubscribed) -> None:
    path = file_for(ctx.job.room.name, arrival.participant.identity)
    with closing(wave.open(str(path), "wb")) as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        with arrival.track.audio_frames(sample_rate=RATE, num_channels=1) as frames:
            async for frame in frames:  # until the track ends; a job that is cancelled closes its files as well
                file.writeframes(frame.samples.tobytes())
    ctx.log.info("%s is in %s", arrival.participant.identity, path)


def file_for(room: str, speaker: str) -> Path:
    """A name that nobody can choose so that it leads elsewhere, and that is not there yet."""
    stem = re.sub(r"[^\w-]+", "_", f"{room}-{speaker}")
    number = 1
    while (path := Path(f"{stem}-{number}.wav")).exists():
        number += 1
    return path
