"""Publisher watcher: one job for each participant that publishes; says what is published and what is taken down.

livekit-agent dev examples/watcher.py --room demo
"""

from livekit_agent import BaseHandler, JobContext, JobType, WorkerOptions
from livekit_agent.rooms import RemoteParticipant, RemoteTrackPublication

options = WorkerOptions(job_type=JobType.PUBLISHER, max_jobs=None)


class Watcher(BaseHandler):
    """The job lasts until the publisher is gone; what happens meanwhile comes as callbacks."""

    async def on_job_assigned(self, ctx: JobContext) -> None:
        assert ctx.job.participant is not None  # a publisher job has one
        await self.say(ctx, f"watching {ctx.job.participant.identity}")
        await super().on_job_assigned(ctx)  # waits until the job is ended from outside

    async def on_track_published(
        self, ctx: JobContext, publication: RemoteTrackPublication, participant: RemoteParticipant
    ) -> None:
        await self.say(ctx, f"{participant.identity} publishes {publication.name}")

    async def on_track_unpublished(
        self, ctx: JobContext, publication: RemoteTrackPublication, participant: RemoteParticipant
    ) -> None:
        await self.say(ctx, f"{participant.identity} takes {publication.name} down")

    async def on_participant_left(self, ctx: JobContext, participant: RemoteParticipant) -> None:
        if ctx.job.participant is not None and participant.identity == ctx.job.participant.identity:
            ctx.shutdown("the publisher left")

    async def say(self, ctx: JobContext, text: str) -> None:
        ctx.log.info("%s", text)
        await ctx.room.local_participant.publish_data(text)
