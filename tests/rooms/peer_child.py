"""LiveKit's own Python client as an independent participant (it needs a process of its own): answers a call, makes one,
sends text back, and says on its standard output what it saw."""

import asyncio
import json
import os
import sys

from livekit import rtc


async def main(url: str, token: str) -> None:
    room = rtc.Room()
    seen: dict[str, object] = {}
    done = asyncio.Event()

    async def answer(reader: rtc.TextStreamReader, sender: str) -> None:
        text = await reader.read_all()
        seen["text"] = [sender, reader.info.topic, reader.info.attributes, text]
        await room.local_participant.send_text(text[::-1], topic="back", destination_identities=[sender])
        seen["call"] = await room.local_participant.perform_rpc(
            destination_identity=sender, method="double", payload="21"
        )
        done.set()

    room.register_text_stream_handler("there", lambda reader, sender: asyncio.ensure_future(answer(reader, sender)))
    await room.connect(url, token)

    @room.local_participant.register_rpc_method("shout")
    async def shout(data: rtc.RpcInvocationData) -> str:
        if not data.payload:
            raise rtc.RpcError(2001, "nothing to shout", "empty")
        return data.payload.upper()

    print("ready", flush=True)
    await asyncio.wait_for(done.wait(), 30)
    print(json.dumps(seen), flush=True)
    await asyncio.sleep(0.3)
    await room.disconnect()


asyncio.run(main(*sys.argv[1:]))
sys.stdout.flush()
os._exit(0)  # that client leaves the library's threads running, and now and then one of them panics at the exit
