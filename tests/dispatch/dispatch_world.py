"""A dispatch core, workers of plain wsproto and protobuf, and a clock that stands still: dialogues without a loop."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Any, TypeVar

import anyio
from anyio.abc import ByteStream
from livekit.protocol import agent as agent_pb
from livekit.protocol import models as models_pb
from wsproto import WSConnection
from wsproto.connection import ConnectionType
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    RejectData,
    Request,
    TextMessage,
)

from livekit_agent.dispatch._core import DispatchCore, Link, Order
from livekit_agent.dispatch._events import DispatchEvent, DispatchRecord, JobRecord
from livekit_agent.protocol import worker_token

KEY, SECRET = "devkey", "secretsecretsecretsecretsecret32"
KEYS = {KEY: SECRET, "otherkey": "another secret another secret 32"}

E = TypeVar("E", bound=DispatchEvent)


class World:
    """A dispatch core and those who talk to it.  Time passes only by ``advance``."""

    def __init__(self, *, seed: int = 0, **options: Any) -> None:
        self.now = 0.0
        self.wall = 1_700_000_000.0
        self.core = DispatchCore(keys=KEYS, rng=random.Random(seed), **options)
        self.happened: list[DispatchEvent] = []
        self._workers: dict[Link, RawWorker] = {}

    @property
    def times(self) -> tuple[float, float]:
        return self.now, self.wall

    # --- workers

    def connect(self, key: str = KEY, *, target: str = "/agent", token: str | None = None) -> RawWorker:
        """A WebSocket that is not registered yet."""
        link = self.core.open(*self.times)
        worker = self._workers[link] = RawWorker(self, link)
        if token is None:
            token = worker_token(key, KEYS[key], wall=self.wall)
        worker.upgrade(target, token)
        return worker

    def worker(self, agent_name: str = "", key: str = KEY, *, load: float | None = None, **fields: Any) -> RawWorker:
        """A registered worker."""
        worker = self.connect(key)
        worker.say(register=agent_pb.RegisterWorkerRequest(agent_name=agent_name, version="1", **fields))
        answer = worker.hear("register")
        worker.id = answer.worker_id
        if load is not None:
            worker.status(load=load)
        return worker

    # --- rooms

    def open_room(self, name: str = "r", *agents: Order) -> None:
        self.core.room_opened(models_pb.Room(name=name, sid="RM_" + name), agents, *self.times)
        self.settle()

    def close_room(self, name: str = "r") -> None:
        self.core.room_ended(name)
        self.settle()

    def join(self, identity: str, room: str = "r", **fields: Any) -> None:
        self.core.participant_entered(room, person(identity, **fields), *self.times)
        self.settle()

    def publish(self, identity: str, room: str = "r", **fields: Any) -> None:
        self.core.track_published(room, person(identity, is_publisher=True, **fields), *self.times)
        self.settle()

    def leave(self, identity: str, room: str = "r") -> None:
        self.core.participant_gone(room, identity, *self.times)
        self.settle()

    def dispatch(self, agent_name: str = "", room: str = "r", **fields: Any) -> DispatchRecord:
        record = self.core.create_dispatch(room, Order(agent_name=agent_name, **fields), *self.times)
        self.settle()
        return record

    def delete(self, dispatch: DispatchRecord) -> DispatchRecord | None:
        record = self.core.delete_dispatch(dispatch.room, dispatch.id, *self.times)
        self.settle()
        return record

    # --- time and what happened

    def advance(self, seconds: float) -> None:
        """Let time pass, deadline by deadline."""
        end = self.now + seconds
        while self.core.next_deadline() <= end:
            self._go(self.core.next_deadline())
        self._go(end)

    def _go(self, when: float) -> None:
        self.wall += max(0.0, when - self.now)
        self.now = max(self.now, when)
        self.core.handle_timeout(*self.times)
        self.settle()

    def settle(self) -> None:
        """What the drain rule asks for."""
        while touched := self.core.take_touched():
            for link in touched:
                self._workers[link].receive(link.connection.data_to_send())
        self.happened += self.core.take_events()

    def took_place(self, kind: type[E]) -> list[E]:
        """Events of a kind so far."""
        return [event for event in self.happened if isinstance(event, kind)]

    @property
    def jobs(self) -> list[JobRecord]:
        return list(self.core.jobs.values())

    @property
    def job(self) -> JobRecord:
        (job,) = self.core.jobs.values()
        return job


class Wire:
    """A worker's end of a WebSocket: WorkerMessages to bytes, bytes to what was heard; obeys no rule by itself."""

    def __init__(self) -> None:
        self.status_code = 0
        self.body = b""
        self.headers: dict[str, str] = {}
        self.heard: list[agent_pb.ServerMessage] = []
        self.texts: list[str] = []
        self.pings = 0
        self.close_code: int | None = None
        self.ws = WSConnection(ConnectionType.CLIENT)
        self._piece = b""

    def upgrade(self, target: str, token: str) -> bytes:
        headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        return self.ws.send(Request(host="h", target=target, extra_headers=headers))

    def message(self, **variant: Any) -> bytes:
        return self.ws.send(BytesMessage(agent_pb.WorkerMessage(**variant).SerializeToString()))

    def raw(self, data: bytes | str) -> bytes:
        return self.ws.send(TextMessage(data) if isinstance(data, str) else BytesMessage(data))

    def close(self, code: int = 1000) -> bytes:
        return self.ws.send(CloseConnection(code=code))

    def receive(self, data: bytes) -> None:
        if not data:
            return
        self.ws.receive_data(data)
        for event in self.ws.events():
            match event:
                case AcceptConnection():
                    self.status_code = 101
                case RejectConnection():
                    self.status_code = event.status_code
                    self.headers = {name.decode(): value.decode() for name, value in event.headers}
                case RejectData():
                    self.body += event.data
                case BytesMessage():
                    # wsproto hands out a frame in as many pieces as it arrived in
                    self._piece += event.data
                    if event.message_finished:
                        self.heard.append(agent_pb.ServerMessage.FromString(self._piece))
                        self._piece = b""
                case TextMessage():
                    self.texts.append(event.data)
                case Ping():
                    self.pings += 1
                case CloseConnection():
                    self.close_code = event.code
                case _:
                    raise AssertionError(event)


def accepting(job_id: str, identity: str | None = None, **fields: Any) -> agent_pb.AvailabilityResponse:
    """The answer that takes a job."""
    return agent_pb.AvailabilityResponse(
        job_id=job_id,
        available=True,
        participant_identity=f"agent-{job_id}" if identity is None else identity,
        **fields,
    )


def reporting(job_id: str, status: str | int, error: str = "") -> agent_pb.UpdateJobStatus:
    """A job's status, by name or number."""
    message = agent_pb.UpdateJobStatus(job_id=job_id, error=error)
    message.status = agent_pb.JobStatus.Value(f"JS_{status}") if isinstance(status, str) else status
    return message


class RawWorker:
    """A worker in a :class:`World`: what it says arrives at once, and so does the answer."""

    def __init__(self, world: World, link: Link) -> None:
        self.world = world
        self.link = link
        self.id = ""
        self.wire = Wire()
        self.receive = self.wire.receive

    def upgrade(self, target: str, token: str) -> None:
        self.send_bytes(self.wire.upgrade(target, token))

    status_code = property(lambda self: self.wire.status_code)
    body = property(lambda self: self.wire.body)
    texts = property(lambda self: self.wire.texts)
    pings = property(lambda self: self.wire.pings)
    close_code = property(lambda self: self.wire.close_code)
    heard = property(lambda self: self.wire.heard)
    silent = property(lambda self: not self.wire.heard)
    dropped = property(lambda self: self.link.finished)
    """The server has closed the byte stream."""

    # --- saying

    def send_bytes(self, data: bytes) -> None:
        self.world.core.receive_data(self.link, data, *self.world.times)
        self.world.settle()

    def say(self, **variant: Any) -> None:
        self.send_bytes(self.wire.message(**variant))

    def say_raw(self, data: bytes | str) -> None:
        self.send_bytes(self.wire.raw(data))

    def status(self, **fields: Any) -> None:
        self.say(update_worker=agent_pb.UpdateWorkerStatus(**fields))

    def accept(self, job: agent_pb.Job | str, identity: str | None = None, **fields: Any) -> None:
        self.say(availability=accepting(job if isinstance(job, str) else job.id, identity, **fields))

    def decline(self, job: agent_pb.Job, *, terminate: bool = False) -> None:
        self.say(availability=agent_pb.AvailabilityResponse(job_id=job.id, available=False, terminate=terminate))

    def report(self, job: agent_pb.Job | str, status: str | int, error: str = "") -> None:
        self.say(update_job=reporting(job if isinstance(job, str) else job.id, status, error))

    def leave(self) -> None:
        """The byte stream ends."""
        self.world.core.receive_eof(self.link, *self.world.times)
        self.world.settle()

    def close(self, code: int = 1000) -> None:
        self.send_bytes(self.wire.close(code))

    # --- hearing

    def hear(self, variant: str) -> Any:
        """The next message, which must be of that variant."""
        assert self.heard, f"expected {variant}, heard nothing"
        message = self.heard.pop(0)
        assert message.WhichOneof("message") == variant, message
        return getattr(message, variant)

    def hear_offer(self) -> agent_pb.Job:
        return self.hear("availability").job

    def hear_assignment(self) -> agent_pb.JobAssignment:
        return self.hear("assignment")

    def take_job(self, identity: str | None = None) -> agent_pb.Job:
        """Accept the offer that must have come, and hear its assignment."""
        job = self.hear_offer()
        self.accept(job, identity)
        return self.hear_assignment().job


class StreamWorker:
    """A worker on a byte stream."""

    def __init__(self, stream: ByteStream) -> None:
        self.stream = stream
        self.id = ""
        self.wire = Wire()

    @classmethod
    async def register(cls, stream: ByteStream, key: str, secret: str, wall: float, **fields: Any) -> StreamWorker:
        """Upgrade and register."""
        worker = cls(stream)
        await stream.send(worker.wire.upgrade("/agent", worker_token(key, secret, wall=wall)))
        while not worker.wire.status_code:
            worker.wire.receive(await stream.receive())
        assert worker.wire.status_code == 101, worker.wire.body
        await worker.say(register=agent_pb.RegisterWorkerRequest(**fields))
        worker.id = (await worker.hear("register")).worker_id
        return worker

    async def say(self, **variant: Any) -> None:
        await self.stream.send(self.wire.message(**variant))

    async def hear(self, variant: str) -> Any:
        """The next message, which must be of that variant."""
        while not self.wire.heard:
            self.wire.receive(await self.stream.receive())
        message = self.wire.heard.pop(0)
        assert message.WhichOneof("message") == variant, message
        return getattr(message, variant)

    async def take_job(self, identity: str | None = None) -> agent_pb.JobAssignment:
        """Accept the next offer and hear its assignment."""
        job = (await self.hear("availability")).job
        await self.say(availability=accepting(job.id, identity))
        return await self.hear("assignment")

    async def report(self, job_id: str, status: str | int, error: str = "") -> None:
        await self.say(update_job=reporting(job_id, status, error))

    async def hear_the_end(self) -> None:
        """Until the server closes the byte stream."""
        with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
            while True:
                self.wire.receive(await self.stream.receive())


def person(identity: str, **fields: Any) -> models_pb.ParticipantInfo:
    kind = fields.pop("kind", "STANDARD")
    return models_pb.ParticipantInfo(
        identity=identity, sid="PA_" + identity, state=models_pb.ParticipantInfo.State.ACTIVE, kind=kind, **fields
    )
