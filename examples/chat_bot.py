"""Chat bot: answers chat, as messages and as LiveKit's components type it, and questions word by word as they are made.

livekit-agent dev examples/chat_bot.py --room demo --chat hello     (or, in another terminal: livekit-agent join demo)
"""

from livekit_agent import JobContext, SimpleUniversalHandler
from livekit_agent.events import ChatReceived

handler = SimpleUniversalHandler()


@handler.job_assigned
async def chat(ctx: JobContext) -> None:
    ctx.task_group.start_soon(answer_streams, ctx)
    ctx.task_group.start_soon(answer_lines, ctx)
    async for said in ctx.events(ChatReceived):
        if said.message.edited_at is None:
            await ctx.room.local_participant.send_chat(
                f"you said: {said.message.text}", destination_identities=[said.identity]
            )


async def answer_lines(ctx: JobContext) -> None:
    # A line of chat is a short text stream for LiveKit's components, and for `livekit-agent join`.
    with ctx.room.text_streams("lk.chat") as lines:
        async for line in lines:
            text = await line.read_all(limit=10_000)
            await ctx.room.local_participant.send_text(
                f"you said: {text}", topic="lk.chat", destination_identities=[line.sender_identity]
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
