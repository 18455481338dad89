"""Doorkeeper: which offers to take.  Declining lets the server ask another worker; terminating ends the job for all.

livekit-agent dev examples/doorkeeper.py --room demo
"""

from livekit_agent import Job, JobContext, JobMetadata, Reject, SimpleUniversalHandler

handler = SimpleUniversalHandler()


@handler.job_request
def decide(job: Job) -> JobMetadata | Reject:
    # Synchronous, so it runs in a thread: a look into a database would not hold up the other jobs.
    if job.room.name.startswith("private-"):
        return Reject(reason="nobody may serve private rooms", terminate=True)
    if job.room.num_participants > 50:
        return Reject(reason="too crowded for this worker")
    return JobMetadata(participant_identity=f"doorkeeper-{job.id}", participant_name="Doorkeeper")


@handler.job_assigned
async def stand_guard(ctx: JobContext) -> None:
    await ctx.room.local_participant.publish_data("I keep the door")
    await ctx.shutting_down.wait()
