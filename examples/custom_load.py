"""Custom load: a worker that counts big rooms double, and takes no more when it is three quarters full.

The load tells the server whom to prefer; `max_jobs` is the hard limit, whatever the load says.

livekit-agent dev examples/custom_load.py --room demo
"""

from livekit_agent import CustomLoadCalculator, JobContext, JobType, SimpleUniversalHandler, WorkerOptions, WorkerStats

CAPACITY = 8.0
weight: dict[str, float] = {}  # job id -> how much of the capacity it takes


def load(stats: WorkerStats) -> float:
    promised = stats.reserved_jobs * 1.0
    return (sum(weight.values()) + promised) / CAPACITY


def has_room(job_type: JobType, load: float) -> bool:
    return load < 0.75


options = WorkerOptions(max_jobs=8, load_calculator=CustomLoadCalculator(calculator=load, acceptor=has_room))
handler = SimpleUniversalHandler()


@handler.job_assigned
async def work(ctx: JobContext) -> None:
    weight[ctx.job.id] = 2.0 if ctx.job.room.num_participants > 10 else 1.0
    ctx.push_cleanup(lambda: weight.__delitem__(ctx.job.id))
    await ctx.room.local_participant.publish_data(f"load {sum(weight.values()) / CAPACITY:.3f}")
    await ctx.shutting_down.wait()
