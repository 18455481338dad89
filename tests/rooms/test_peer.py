"""LiveKit's own Python client and ours in one room: they understand each other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from test_conformance import both_see_each_other
from venues import NativeVenue, token

from livekit_agent import RpcError

CHILD = Path(__file__).parent / "peer_child.py"
TEXT = "one text, twö lines\n" * 2_000


@pytest.mark.real_server
async def test_calls_and_texts_go_both_ways_with_livekits_own_client(native: NativeVenue) -> None:
    async with native.open():
        async with await native.join("ours") as ours:
            command = [sys.executable, str(CHILD), native.url, token(native.room, "theirs")]
            async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as process:
                assert process.stdout is not None
                with anyio.fail_after(60):
                    lines = BufferedByteReceiveStream(process.stdout)
                    assert await lines.receive_until(b"\n", 100) == b"ready"
                    await both_see_each_other(ours)
                    me = ours.local_participant
                    assert await me.perform_rpc("theirs", "shout", "hallo") == "HALLO"
                    with pytest.raises(RpcError) as caught:
                        await me.perform_rpc("theirs", "shout", "")
                    error = caught.value
                    assert (error.rpc_code, error.message, error.data) == (2001, "nothing to shout", "empty")
                    with ours.text_streams("back") as back:
                        async with ours.serve_rpc({"double": lambda call: str(2 * int(call.payload))}):
                            await me.send_text(TEXT, topic="there", attributes={"k": "v"})
                            assert await (await anext(back)).read_all() == TEXT[::-1]
                            seen = json.loads(await lines.receive_until(b"\n", 200_000))
                assert seen == {"text": ["ours", "there", {"k": "v"}, TEXT], "call": "42"}
