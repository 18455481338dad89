"""Echo of sound: plays what each speaker says back, on a track of its own for each.

livekit-agent dev examples/echo_audio.py --room demo --play 440
"""

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.events import TrackSubscribed
from livekit_agent.rooms import TrackKind

handler = SimpleUniversalHandler()


@handler.job_assigned
async def listen(ctx: JobContext) -> None:
    with ctx.room.subscribe(TrackSubscribed, replay=True) as arrivals:
        async for event in arrivals:
            if event.track.kind is TrackKind.AUDIO:
                ctx.task_group.start_soon(echo, ctx, event)


async def echo(ctx: JobContext, arrival: TrackSubscribed) -> None:
    me, speaker = ctx.room.local_participant, arrival.participant
    published = await me.publish_audio(name=f"echo of {speaker.identity}")
    with arrival.track.audio_frames() as frames:
        async for frame in frames:  # ends with the speaker's track
            await published.track.source.capture_frame(frame)
    ctx.log.info("%s has stopped", speaker.identity)
    await me.unpublish_track(published.sid)
