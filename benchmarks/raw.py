"""The floor: a worker's conversation by hand, with wsproto and protobuf on a plain stream and nothing around it.

No reconnects, no limits, no errors handled: it does what any worker must do and no more, so what an SDK costs is the
difference.  One stream, one reader, answers written at once.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import anyio
import anyio.abc
import jwt
from livekit.protocol import agent as agent_pb
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, RejectConnection, Request


def token(key: str, secret: str) -> str:
    """A worker's token."""
    now = int(time.time())
    claims = {"iss": key, "sub": "", "nbf": now, "exp": now + 600, "video": {"agent": True}}
    return jwt.encode(claims, secret, algorithm="HS256")


class RawWorker:
    """A registered worker.  ``next_message`` reads, ``send`` writes; both do only what the wire needs."""

    def __init__(self, stream: anyio.abc.ByteStream, host: str, authorization: str) -> None:
        self.stream = stream
        self._connection = WSConnection(ConnectionType.CLIENT)
        self._request = Request(host=host, target="/agent", extra_headers=[(b"Authorization", authorization.encode())])
        self._messages: list[agent_pb.ServerMessage] = []
        self._partial = bytearray()  # a read may end in the middle of a frame
        self._sending = anyio.Lock(fast_acquire=True)
        self.worker_id = ""

    async def register(self, agent_name: str, job_type: int = 0) -> None:
        await self.stream.send(self._connection.send(self._request))
        while self._connection.state.name != "OPEN":
            await self._read()
        register = agent_pb.RegisterWorkerRequest(type=job_type, agent_name=agent_name, version="raw")  # pyright: ignore
        await self.send(agent_pb.WorkerMessage(register=register))
        self.worker_id = (await self.next_message()).register.worker_id
        await self.status(0.0)

    async def status(self, load: float) -> None:
        update = agent_pb.UpdateWorkerStatus(status=agent_pb.WS_AVAILABLE, load=load)
        await self.send(agent_pb.WorkerMessage(update_worker=update))

    async def send(self, message: agent_pb.WorkerMessage) -> None:
        async with self._sending:
            await self.stream.send(self._connection.send(BytesMessage(message.SerializeToString())))

    async def _read(self) -> None:
        self._connection.receive_data(await self.stream.receive())
        for event in self._connection.events():
            if isinstance(event, BytesMessage):
                self._partial += event.data
                if event.message_finished:
                    self._messages.append(agent_pb.ServerMessage.FromString(bytes(self._partial)))
                    self._partial.clear()
            elif isinstance(event, Ping):
                async with self._sending:
                    await self.stream.send(self._connection.send(event.response()))
            elif isinstance(event, AcceptConnection):
                pass
            elif isinstance(event, CloseConnection | RejectConnection):
                raise ConnectionError(f"server said {event}")

    async def next_message(self) -> agent_pb.ServerMessage:
        while not self._messages:
            await self._read()
        return self._messages.pop(0)

    async def accept(self, job: agent_pb.Job) -> None:
        answer = agent_pb.AvailabilityResponse(
            job_id=job.id,
            available=True,
            participant_identity=f"agent-{job.id}",
            participant_name="raw",
        )
        await self.send(agent_pb.WorkerMessage(availability=answer))

    async def finished(self, job_id: str) -> None:
        update = agent_pb.UpdateJobStatus(job_id=job_id, status=agent_pb.JS_SUCCESS)
        await self.send(agent_pb.WorkerMessage(update_job=update))

    async def serve(self, started: Callable[[agent_pb.Job], object], *, offered: Callable[[str], object]) -> None:
        """Accept everything, call ``started`` in a task of its own for each assignment.  Runs until cancelled."""

        async def handler(job: agent_pb.Job) -> None:
            started(job)

        async with anyio.create_task_group() as group:
            while True:
                message = await self.next_message()
                match message.WhichOneof("message"):
                    case "availability":
                        offered(message.availability.job.id)
                        await self.accept(message.availability.job)
                    case "assignment":
                        group.start_soon(handler, message.assignment.job)
                    case _:
                        pass


@asynccontextmanager
async def raw_worker(url: str, key: str, secret: str, agent_name: str, job_type: int = 0) -> AsyncIterator[RawWorker]:
    """Connect and register; the connection is dropped at the end."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    async with await anyio.connect_tcp(parts.hostname, parts.port) as stream:
        worker = RawWorker(stream, parts.netloc, f"Bearer {token(key, secret)}")
        await worker.register(agent_name, job_type)
        yield worker
