"""Telephone: talk in the room through this machine's own microphone and speaker.

livekit-agent dev examples/telephone.py --room demo --play 440

Needs the devices (pip install 'livekit-agent-sdk[devices]', see docs/how-to/devices.md); MICROPHONE and SPEAKER may
name them.  On a machine that has none the job fails and says why.
"""

import os

import anyio

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.events import TrackSubscribed
from livekit_agent.rooms import AudioMixer, AudioProcessor, TrackKind, open_microphone, open_speaker

handler = SimpleUniversalHandler()


@handler.job_assigned
async def talk(ctx: JobContext) -> None:
    microphone, speaker = os.environ.get("MICROPHONE"), os.environ.get("SPEAKER")
    with AudioProcessor(echo_cancellation=True, noise_suppression=True) as processor:
        async with (
            open_speaker(speaker) as ear,
            open_microphone(microphone, stages=[processor]) as voice,
            AudioMixer(frame_ms=10) as everybody,
            anyio.create_task_group() as group,
        ):
            published = await ctx.room.local_participant.publish_audio(name="telephone")

            async def listen() -> None:
                with ctx.room.subscribe(TrackSubscribed, replay=True) as arrivals:
                    async for event in arrivals:
                        if event.track.kind is TrackKind.AUDIO:
                            everybody.add(event.track.audio_frames())

            async def hear() -> None:
                async for frame in everybody:
                    processor.set_delay(ear.delay)
                    processor.process_reverse(frame)  # so that its echo is taken out of the microphone
                    await ear.write(frame)

            group.start_soon(listen)
            group.start_soon(hear)
            async for frame in voice:
                await published.track.source.capture_frame(frame)
