"""A person in a room through the ``livekit`` package's own ``rtc.Room``: an implementation that is not ours.

Arguments: URL, token, text.  Joins, sends the text on topic ``chat`` to the first agent it sees, waits for the answer,
leaves.  One JSON object per line on stdout.
"""

import asyncio
import json
import os
import sys

from livekit import rtc


def say(event: str, **fields: object) -> None:
    print(json.dumps({"event": event, **fields}), flush=True)


async def main(url: str, token: str, text: str) -> None:
    room = rtc.Room()
    agent: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    answer: asyncio.Future[rtc.DataPacket] = asyncio.get_running_loop().create_future()

    def met(participant: rtc.RemoteParticipant) -> None:
        if participant.kind == rtc.ParticipantKind.PARTICIPANT_KIND_AGENT and not agent.done():
            agent.set_result(participant.identity)

    def received(packet: rtc.DataPacket) -> None:
        if not answer.done():
            answer.set_result(packet)

    room.on("participant_connected", met)
    room.on("data_received", received)
    await room.connect(url, token)
    say("joined", sid=await room.sid, name=room.name)
    for participant in room.remote_participants.values():
        met(participant)
    identity = await asyncio.wait_for(agent, 20)
    say("agent", identity=identity)
    # A server throws away what comes before the agent has its channels open, and tells nobody: so say it again.
    for _ in range(10):
        await room.local_participant.publish_data(text.encode(), topic="chat", destination_identities=[identity])
        if (await asyncio.wait([answer], timeout=2))[0]:
            break
    packet = await asyncio.wait_for(answer, 1)
    sender = packet.participant.identity if packet.participant else ""
    say("data", text=packet.data.decode(), topic=packet.topic, sender=sender)
    await room.disconnect()
    say("left")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:4]))
    os._exit(0)  # that client leaves the library's threads running, and now and then one of them panics at the exit
