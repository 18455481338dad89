"""Group H of the protocol's conformance cases, by number: a raw worker against both servers.

The worker has no policy: it says what a case asks and writes down what comes back.  What both answer alike the embedded
server answers rightly; where it is quicker on purpose (docs/dispatch-server.md), a case waits for the slower one.
"""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream
from backdrop import both_servers, unique
from livekit.protocol import agent as pb
from realserver import KEY, SECRET

from livekit_agent.protocol import worker_token
from livekit_agent.protocol._state import Role
from livekit_agent.protocol._websocket import Accepted, Closed, Pulse, WebSocket

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.usefixtures("backend"),
    # The raw worker is nobody's product: on which backend it asks a real server is all the same.
    pytest.mark.parametrize(
        ("backend", "backdrop"),
        [
            ("trio", "embedded"),
            ("asyncio", "embedded"),
            pytest.param("asyncio", "real", marks=pytest.mark.real_server),
        ],
        indirect=True,
    ),
]

backdrop = both_servers("shared_real_server")

SOON = 15.0
"""An offer comes after 0.2 s on a real server; a busy machine may take longer."""
SILENCE = 1.0
"""How long to listen for what must not come."""


class RawWorker:
    """One connection to ``/agent``."""

    def __init__(self, stream: ByteStream) -> None:
        self.worker_id = ""
        self.messages: list[pb.ServerMessage] = []
        self.texts: list[str] = []
        self.closes: list[int] = []
        self.pings: list[float] = []
        self.ended = False
        """The server has ended the stream."""
        self._stream = stream
        self._socket = WebSocket(Role.WORKER)
        self._accepted = False

    async def upgrade(self, authority: str) -> None:
        token = worker_token(KEY, SECRET, wall=time.time())
        self._socket.request_upgrade(authority, "/agent", {"authorization": f"Bearer {token}"})
        await self._flush()
        await self.until(lambda: self._accepted)

    async def say(self, *messages: pb.WorkerMessage | bytes | str) -> None:
        """Each in a frame of its own, all in one write."""
        for message in messages:
            self._socket.send_message(message.SerializeToString() if isinstance(message, pb.WorkerMessage) else message)
        await self._flush()

    async def until(self, condition: Callable[[], object], within: float = SOON) -> None:
        """Read until it is so."""
        with anyio.fail_after(within):
            while not condition():
                assert not self.ended, "the server closed the connection"
                await self._read()

    async def listen(self, seconds: float) -> None:
        """Read for a while, or to the end of the stream."""
        with anyio.move_on_after(seconds):
            while not self.ended:
                await self._read()

    def heard(self, kind: str) -> list[Any]:
        return [getattr(m, kind) for m in self.messages if m.WhichOneof("message") == kind]

    async def hear(self, kind: str, within: float = SOON) -> Any:
        """The next message of a kind; it is taken from the list."""
        await self.until(lambda: self.heard(kind), within)
        found = next(m for m in self.messages if m.WhichOneof("message") == kind)
        self.messages.remove(found)
        return getattr(found, kind)

    async def offer(self, within: float = SOON) -> pb.Job:
        job: pb.Job = (await self.hear("availability", within)).job
        return job

    async def accept(self, job: pb.Job) -> None:
        await self.say(
            pb.WorkerMessage(
                availability=pb.AvailabilityResponse(
                    job_id=job.id, available=True, participant_identity=f"agent-{job.id}"
                )
            )
        )

    async def ping(self, stamp: int = 5) -> None:
        """Ask, and be answered: all that was said before has been read."""
        await self.say(pb.WorkerMessage(ping=pb.WorkerPing(timestamp=stamp)))
        assert (await self.hear("pong")).last_timestamp == stamp

    async def _flush(self) -> None:
        if data := self._socket.take_outbox():
            try:
                await self._stream.send(data)
            except anyio.BrokenResourceError:
                self.ended = True

    async def _read(self) -> None:
        try:
            data = await self._stream.receive()
        except (anyio.EndOfStream, anyio.BrokenResourceError):
            self.ended = True
            return
        for item in self._socket.receive_data(data):
            match item:
                case Accepted():
                    self._accepted = True
                case bytes():
                    self.messages.append(pb.ServerMessage.FromString(item))
                case str():
                    self.texts.append(item)
                case Pulse():  # no case sends a ping of WebSocket's own, so it is the server's
                    self.pings.append(time.monotonic())
                case Closed(code=code):
                    self.closes.append(code)
                case _:
                    raise AssertionError(item)
        await self._flush()


@asynccontextmanager
async def connected(stage: Any) -> AsyncGenerator[RawWorker]:
    """A worker that has been upgraded and has said nothing."""
    authority = stage.url.removeprefix("ws://")
    host, _, port = authority.rpartition(":")
    async with await anyio.connect_tcp(host, int(port)) as stream:
        worker = RawWorker(stream)
        await worker.upgrade(authority)
        yield worker


@asynccontextmanager
async def registered(stage: Any, name: str) -> AsyncGenerator[RawWorker]:
    """A worker for rooms, known to the server."""
    async with connected(stage) as worker:
        await worker.say(register(name))
        worker.worker_id = (await worker.hear("register")).worker_id
        await stage.registered(worker)
        yield worker


def register(name: str, **more: Any) -> pb.WorkerMessage:
    return pb.WorkerMessage(register=pb.RegisterWorkerRequest(agent_name=name, version="1", **more))


def standing(load: float) -> pb.WorkerMessage:
    return pb.WorkerMessage(update_worker=pb.UpdateWorkerStatus(status=pb.WS_AVAILABLE, load=load))


async def test_case_99_a_nameless_worker_is_offered_a_new_room(backdrop: Any) -> None:
    async with backdrop as stage, registered(stage, "") as worker:
        room = unique("room")
        await stage.create_room(room)
        job = await worker.offer()
        while job.room.name != room:  # of another test's room, on a server that is shared
            job = await worker.offer()
        assert (job.type, job.agent_name, job.dispatch_id[:3]) == (pb.JT_ROOM, "", "AD_")
        assert job.state.status == pb.JS_RUNNING


async def test_case_100_a_list_of_agents_leaves_the_nameless_out_and_a_dispatch_to_a_new_room_does_not(
    backdrop: Any,
) -> None:
    name, listed, fresh = unique("named"), unique("room"), unique("room")
    async with backdrop as stage, registered(stage, name) as named, registered(stage, "") as nameless:
        await stage.create_room(listed, name)
        assert (await named.offer()).room.name == listed
        await stage.dispatch(fresh, name)
        assert (await named.offer()).room.name == fresh
        offered = [(await nameless.offer()).room.name]
        while fresh not in offered:
            offered.append((await nameless.offer()).room.name)
        assert listed not in offered, "which would have been the first"


async def test_case_101_two_seconds_are_in_time_and_four_are_not(backdrop: Any) -> None:
    name, room = unique("slow"), unique("room")
    async with backdrop as stage, registered(stage, name) as worker:
        await stage.create_room(room, "nobody")
        for metadata in ("in time", "late"):
            await stage.dispatch(room, name, metadata=metadata)
        offers = [await worker.offer(), await worker.offer()]
        in_time, late = sorted(offers, key=lambda job: job.metadata)
        await worker.listen(2)
        await worker.accept(in_time)
        assert (await worker.hear("assignment")).job.id == in_time.id
        await worker.listen(2)
        await worker.accept(late)
        await worker.listen(SILENCE)
        assert worker.heard("assignment") == []
        await worker.ping()


async def test_case_102_at_the_target_load_nothing_is_offered_and_below_it_is(backdrop: Any) -> None:
    name, room = unique("load"), unique("room")
    async with backdrop as stage, registered(stage, name) as worker:
        await stage.create_room(room, "nobody")
        for load, metadata in ((0.75, "busy"), (0.65, "free")):
            await worker.say(standing(load))
            await worker.ping()
            await stage.dispatch(room, name, metadata=metadata)
            if load < 0.7:
                await worker.until(lambda: worker.heard("availability"))
            await worker.listen(SILENCE + 0.5)
        assert [offer.job.metadata for offer in worker.heard("availability")] == ["free"]


async def test_case_103_a_deleted_dispatch_terminates_its_job_once(backdrop: Any) -> None:
    name, room = unique("delete"), unique("room")
    async with backdrop as stage, registered(stage, name) as worker:
        await stage.create_room(room, "nobody")
        dispatch_id = await stage.dispatch(room, name)
        job = await worker.offer()
        await worker.accept(job)
        await worker.hear("assignment")
        await stage.recorded(room, job.id)
        await stage.delete_dispatch(room, dispatch_id)
        assert (await worker.hear("termination")).job_id == job.id
        await worker.listen(SILENCE)
        assert worker.heard("termination") == []


@pytest.mark.parametrize(
    "words",
    [
        [register("twice"), register("twice")],
        [standing(0.5)],
        [b""],
        [register("bad", deployment="a_b")],
    ],
    ids=["two registrations", "a standing before it", "an empty message", "a bad deployment"],
)
async def test_case_104_what_ends_a_worker_s_connection_without_a_close(backdrop: Any, words: list[Any]) -> None:
    async with backdrop as stage, connected(stage) as worker:
        await worker.say(*words)
        await worker.listen(SOON)
        assert (worker.ended, worker.closes) == (True, [])


async def test_case_105_the_server_answers_in_the_encoding_of_the_last_frame_it_read(backdrop: Any) -> None:
    async with backdrop as stage, connected(stage) as worker:
        await worker.say(json.dumps({"register": {"agentName": unique("text"), "unknown": 1}}))
        await worker.until(lambda: worker.texts)
        assert '"workerId"' in worker.texts[0]
        assert worker.messages == []
        await worker.ping()
        assert len(worker.texts) == 1


@pytest.mark.long
async def test_case_106_and_107_who_is_registered_may_be_silent_and_who_is_not_is_dropped_after_ten_seconds(
    backdrop: Any,
) -> None:
    """At once, for both are long.  A server of ours in virtual time is asked for the whole minute elsewhere."""
    async with (
        backdrop as stage,
        registered(stage, unique("silent")) as known,
        connected(stage) as stranger,
        anyio.create_task_group() as both,
    ):
        began = time.monotonic()
        both.start_soon(known.listen, 11.5)
        while not stranger.ended:
            await stranger.say(pb.WorkerMessage(ping=pb.WorkerPing(timestamp=1)))
            await stranger.listen(1)
            assert time.monotonic() - began < 15
        assert (time.monotonic() - began > 9, stranger.closes) == (True, [])
    # A busy machine may be late with it.
    await known.until(lambda: known.pings)
    assert (known.ended, len(known.pings)) == (False, 1)


async def test_case_108_two_mebibytes_and_one_byte_are_accepted(backdrop: Any) -> None:
    async with backdrop as stage, registered(stage, unique("large")) as worker:
        padding = b"\xfa\x7f\x80\x80\x80\x01" + bytes(2**21)  # a field that nobody knows
        await worker.say(standing(0.5).SerializeToString() + padding)
        await worker.ping()
        assert (worker.ended, worker.closes) == (False, [])
