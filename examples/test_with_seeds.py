"""Tests with seeds: a handler that many rooms share, lived through in hundreds of orders of events, on both backends.

pytest examples/test_with_seeds.py
"""

from typing import Any

import anyio
import pytest

from livekit_agent import BaseHandler, JobContext
from livekit_agent.events import DataReceived


class VisitorBook(BaseHandler):
    """Tells each room how many rooms were served before."""

    def __init__(self) -> None:
        self.visitors = 0
        self._lock = anyio.Lock()

    async def on_job_assigned(self, ctx: JobContext) -> None:
        # Without the lock two jobs may read the same number before either has written it: the second test finds that.
        async with self._lock:
            number = self.visitors + 1
            await ctx.room.local_participant.publish_data(f"you are visitor {number}")
            self.visitors = number


@pytest.mark.agent_seeds(20)
async def test_a_visitor_is_told_the_number(agent_worker: Any, agent_room: Any) -> None:
    await agent_worker(VisitorBook())
    alice = await agent_room("lobby", "alice")
    assert (await alice.wait_for(DataReceived)).data == b"you are visitor 1"


@pytest.mark.agent_seeds(50)
async def test_no_two_visitors_share_a_number(agent_worker: Any, agent_room: Any, agent_clock: Any) -> None:
    book = VisitorBook()
    await agent_worker(book, max_jobs=None)
    await agent_room("lobby", "alice")
    await agent_room("garden", "bob")
    await agent_clock.advance(2)
    assert book.visitors == 2


@pytest.mark.agent_seeds(20, faults=("reset", "half_close", "latency"))
async def test_the_worker_survives_a_bad_network(agent_worker: Any, agent_room: Any, agent_clock: Any) -> None:
    await agent_worker(VisitorBook())
    await agent_clock.advance(90)  # twenty faults strike within the first minute
    alice = await agent_room("lobby", "alice")
    assert (await alice.wait_for(DataReceived)).data == b"you are visitor 1"
