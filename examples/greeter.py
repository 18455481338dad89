"""Greeter: one job for each participant; greets them by name and takes leave when they go.

livekit-agent dev examples/greeter.py --room demo
"""

from livekit_agent import JobContext, JobType, SimpleUniversalHandler, WorkerOptions
from livekit_agent.events import ParticipantLeft

options = WorkerOptions(job_type=JobType.PARTICIPANT, max_jobs=None)
handler = SimpleUniversalHandler()


@handler.job_assigned
async def greet(ctx: JobContext) -> None:
    assert ctx.job.participant is not None  # a participant job has one
    guest = ctx.job.participant
    left = ctx.events(ParticipantLeft)  # listen first, so that nobody slips away while being greeted
    await ctx.room.local_participant.publish_data(
        f"welcome, {guest.name or guest.identity}", destination_identities=[guest.identity]
    )
    async for event in left:
        if event.participant.identity == guest.identity:
            ctx.log.info("%s stayed until now", guest.identity)
            return
