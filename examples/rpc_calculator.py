"""Calculator: adds and multiplies for whoever calls its RPC methods.

livekit-agent dev examples/rpc_calculator.py --room demo --call "add 1 2 3.5"
"""

import math

import anyio

from livekit_agent import JobContext, RpcError, SimpleUniversalHandler
from livekit_agent.rooms import RpcCall

handler = SimpleUniversalHandler()


def numbers(call: RpcCall) -> list[float]:
    try:
        return [float(part) for part in call.payload.split()]
    except ValueError:
        raise RpcError("numbers with spaces between them, please", rpc_code=2000, data=call.payload) from None


@handler.job_assigned
async def calculate(ctx: JobContext) -> None:
    methods = {
        "add": lambda call: str(sum(numbers(call))),
        "multiply": lambda call: str(math.prod(numbers(call))),
    }
    async with ctx.room.serve_rpc(methods):
        await anyio.sleep_forever()
