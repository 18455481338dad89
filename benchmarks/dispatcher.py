"""The other end of the wire for benchmarks: accepts workers, offers and assigns jobs by hand, hears their statuses.

As little as possible around wsproto and protobuf, so that its own cost is the same small constant beside every worker
that is measured.  It trusts everybody.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
from livekit.protocol import agent as agent_pb
from livekit.protocol import models as models_pb
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Request

TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJhZ2VudCJ9." + "s" * 43
"""Nobody checks it; it has a token's shape and a usual one's size."""


class WorkerConnection:
    """One worker's connection, registered."""

    def __init__(self, stream: anyio.abc.ByteStream) -> None:
        self.stream = stream
        self._connection = WSConnection(ConnectionType.SERVER)
        self._answered: dict[str, anyio.Event] = {}
        self._ended: dict[str, anyio.Event] = {}
        self.registered = anyio.Event()
        self.ended_count = 0
        self.progress = anyio.Event()
        self._next = 0
        self._sending = anyio.Lock(fast_acquire=True)
        self._partial = bytearray()  # a read may end in the middle of a frame

    async def serve(self) -> None:
        """Read until the worker goes."""
        while True:
            try:
                self._connection.receive_data(await self.stream.receive())
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                return
            out = b""
            for event in self._connection.events():
                if isinstance(event, Request):
                    out += self._connection.send(AcceptConnection())
                elif isinstance(event, Ping | CloseConnection):
                    out += self._connection.send(event.response())
                elif isinstance(event, BytesMessage):
                    self._partial += event.data
                    if event.message_finished:
                        out += self._hear(agent_pb.WorkerMessage.FromString(bytes(self._partial)))
                        self._partial.clear()
            if out:
                try:
                    await self.send(out)
                except anyio.BrokenResourceError:
                    return

    async def send(self, data: bytes) -> None:
        async with self._sending:
            await self.stream.send(data)

    def _hear(self, message: agent_pb.WorkerMessage) -> bytes:
        match message.WhichOneof("message"):
            case "register":
                info = models_pb.ServerInfo(version="1.13.5", protocol=17, agent_protocol=1)
                reply = agent_pb.RegisterWorkerResponse(worker_id="AW_benchmark", server_info=info)
                self.registered.set()
                return self.frame(agent_pb.ServerMessage(register=reply))
            case "availability":
                if waiting := self._answered.pop(message.availability.job_id, None):
                    waiting.set()
            case "update_job" if message.update_job.status in (agent_pb.JS_SUCCESS, agent_pb.JS_FAILED):
                if waiting := self._ended.pop(message.update_job.job_id, None):
                    waiting.set()
                    self.ended_count += 1
                    self.progress.set()
                    self.progress = anyio.Event()
            case "ping":
                pong = agent_pb.WorkerPong(last_timestamp=message.ping.timestamp, timestamp=int(time.time() * 1_000))
                return self.frame(agent_pb.ServerMessage(pong=pong))
            case _:
                pass
        return b""

    def frame(self, message: agent_pb.ServerMessage) -> bytes:
        return self._connection.send(BytesMessage(message.SerializeToString()))

    def new_job(self) -> agent_pb.Job:
        """A job of the size a small room gives: 1.3 kB with its assignment."""
        self._next += 1
        room = models_pb.Room(sid=f"RM_{self._next:012}", name=f"room-{self._next}", metadata="m" * 200)
        return agent_pb.Job(
            id=f"AJ_{self._next:012}", room=room, metadata="x" * 400, dispatch_id=f"AD_{self._next:012}"
        )

    async def offer(self, job: agent_pb.Job) -> None:
        """Offer and wait for the answer."""
        answered = self._answered[job.id] = anyio.Event()
        await self.send(self.frame(agent_pb.ServerMessage(availability=agent_pb.AvailabilityRequest(job=job))))
        await answered.wait()

    async def assign(self, job: agent_pb.Job) -> float:
        """Assign; returns the moment before the bytes were written."""
        self._ended[job.id] = anyio.Event()
        data = self.frame(agent_pb.ServerMessage(assignment=agent_pb.JobAssignment(job=job, token=TOKEN)))
        moment = time.monotonic()
        await self.send(data)
        return moment

    async def until_ended(self, job: agent_pb.Job) -> None:
        if waiting := self._ended.get(job.id):
            await waiting.wait()

    async def run_job(self, job: agent_pb.Job) -> float:
        """Offer, assign; the moment of the assignment."""
        await self.offer(job)
        return await self.assign(job)


class Dispatcher:
    """A listening socket, and the workers that came, in order."""

    def __init__(self, port: int) -> None:
        self.url = f"ws://127.0.0.1:{port}"
        self.workers: list[WorkerConnection] = []
        self._news = anyio.Event()

    async def handle(self, stream: anyio.abc.SocketStream) -> None:
        worker = WorkerConnection(stream)
        async with stream, anyio.create_task_group() as group:
            group.start_soon(worker.serve)
            await worker.registered.wait()
            self.workers.append(worker)
            self._news.set()
            self._news = anyio.Event()

    async def next_worker(self, count: int) -> WorkerConnection:
        """The ``count``-th worker that registered."""
        while len(self.workers) < count:
            await self._news.wait()
        return self.workers[count - 1]


@asynccontextmanager
async def dispatcher() -> AsyncIterator[Dispatcher]:
    """Listen on a free port of the loopback interface."""
    listeners = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listeners, anyio.create_task_group() as group:
        port = listeners.listeners[0].extra(anyio.abc.SocketAttribute.local_port)
        it = Dispatcher(port)
        group.start_soon(listeners.serve, it.handle)
        yield it
        group.cancel_scope.cancel()
