"""Echo: says every data packet back to whoever sent it.

livekit-agent dev examples/echo.py --room demo --say hello
"""

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.events import DataReceived

handler = SimpleUniversalHandler()


@handler.job_assigned
async def echo(ctx: JobContext) -> None:
    async for packet in ctx.events(DataReceived):
        if packet.participant is not None:
            await ctx.room.local_participant.publish_data(
                packet.data, topic=packet.topic, destination_identities=[packet.participant.identity]
            )
