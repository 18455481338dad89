"""Chat bot: answers chat messages, and text streams word by word as they would be made.

livekit-agent dev examples/chat_bot.py --room demo --chat hello
"""

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.events import ChatReceived

handler = SimpleUniversalHandler()


@handler.job_assigned
async def chat(ctx: JobContext) -> None:
    ctx.task_group.start_soon(answer_streams, ctx)
    async for said in ctx.events(ChatReceived):
        if said.message.edited_at is None:
            await ctx.room.local_participant.send_chat(
                f"you said: {said.message.text}", destination_identities=[said.identity]
            )


async def answer_streams(ctx: JobContext) -> None:
    with ctx.room.text_streams("question") as questions:
        async for question in questions:
            text = await question.read_all(limit=10_000)
            answer = ctx.room.local_participant.stream_text(
                topic="answer", reply_to=question.info.id, destination_identities=[question.sender_identity]
            )
            async with answer as writer:
                for word in text.split():
                    await writer.write(word.upper() + " ")
