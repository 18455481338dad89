"""Two connections and the wire between them, so that a test reads as a dialogue.

``Pair`` joins a real worker connection and a real server connection under one virtual clock.  ``RawServer`` and
``RawWorker`` stand opposite one connection under test and can say anything, legal or not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeVar

from livekit.protocol import agent as pb
from livekit.protocol import models

from livekit_agent import protocol
from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.protocol import (
    ConnectionClosed,
    Event,
    JobBook,
    Registration,
    ServerInfo,
    SignalConnection,
)

from . import frames

E = TypeVar("E", bound=Event)

#: The wall clock at monotonic 0 in all tests: 2027-01-15.
WALL = 1_800_000_000.0
TOKEN = "eyJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJrZXkifQ.c2VjcmV0LXNpZ25hdHVyZQ"
INFO = ServerInfo(version="1.13.5", protocol=17, node_id="ND_1", agent_protocol=1)
REGISTRATION = Registration(agent_name="a", version="1")
WHOLE: Callable[[bytes], Iterable[bytes]] = lambda data: [data] if data else []  # noqa: E731


def job(job_id: str = "AJ_1", **fields: object) -> pb.Job:
    """A room job as the real server offers it."""
    values: dict[str, object] = {
        "type": pb.JT_ROOM,
        "room": models.Room(sid="RM_1", name="r"),
        "agent_name": "a",
        "dispatch_id": "AD_1",
        "state": pb.JobState(status=pb.JS_RUNNING, worker_id="AW_1"),
    }
    return pb.Job(id=job_id, **{**values, **fields})  # type: ignore[arg-type]


def new_worker(
    *, book: JobBook | None = None, now: float = 0.0, serial: int = 1, registration: Registration = REGISTRATION
) -> protocol.WorkerConnection:
    """A worker's connection that has just been opened."""
    return SignalConnection.worker(
        host="example:7880",
        target="/agent",
        token=TOKEN,
        registration=registration,
        book=JobBook(1) if book is None else book,
        now=now,
        wall=WALL + now,
        serial=serial,
    )


def of_type(events: Iterable[Event], kind: type[E]) -> list[E]:
    """The events of one class."""
    return [event for event in events if isinstance(event, kind)]


def names(messages: Iterable[pb.WorkerMessage | pb.ServerMessage]) -> list[str]:
    """The messages' variants, in order."""
    return [message.WhichOneof("message") or "" for message in messages]


class _Lane:
    """One direction of the wire: bytes under way, and everything that ever went in, as frames and messages."""

    def __init__(self) -> None:
        self.under_way: deque[tuple[float, bytes]] = deque()
        self._unread = b""
        self._head_seen = False
        self.head = b""
        self.frames: list[frames.Frame] = []

    def put(self, data: bytes, arrives: float) -> None:
        self.under_way.append((arrives, data))
        self._unread += data
        if not self._head_seen:
            end = self._unread.find(b"\r\n\r\n")
            if end < 0:
                return
            self.head, self._unread = self._unread[: end + 4], self._unread[end + 4 :]
            self._head_seen = True
        found, self._unread = frames.read_frames(self._unread)
        self.frames += found


class Pair:
    """A worker, a server, a wire with ``latency`` seconds, and a clock.

    After each verb of a connection call :meth:`flow`, or use the helpers, which do.  ``cut`` cuts what is delivered
    into pieces.
    """

    def __init__(
        self,
        *,
        max_jobs: int | None = 1,
        book: JobBook | None = None,
        registration: Registration = REGISTRATION,
        serial: int = 1,
        now: float = 0.0,
        latency: float = 0.0,
        cut: Callable[[bytes], Iterable[bytes]] = WHOLE,
    ) -> None:
        self.now = now
        self.latency = latency
        self._cut = cut
        self.book = JobBook(max_jobs) if book is None else book
        self.worker = new_worker(book=self.book, now=now, serial=serial, registration=registration)
        self.server = SignalConnection.server(now=now, wall=WALL + now)
        self.to_server, self.to_worker = _Lane(), _Lane()
        self.worker_events: list[Event] = []
        self.server_events: list[Event] = []
        self._read = {"worker": 0, "server": 0}
        self._told = {"worker": 0, "server": 0}
        self.cut_off = False

    # ------------------------------------------------------------------------------------ the wire

    def flow(self) -> None:
        """Carry bytes until nothing moves at this instant."""
        moved = True
        while moved:
            moved = self._send(self.worker, self.to_server, self.worker_events)
            moved |= self._send(self.server, self.to_worker, self.server_events)
            moved |= self._deliver(self.to_server, self.server)
            moved |= self._deliver(self.to_worker, self.worker)

    def _send(self, side: SignalConnection, lane: _Lane, events: list[Event]) -> bool:
        events += side.events()
        data = side.data_to_send()
        if data and not self.cut_off:
            lane.put(data, self.now + self.latency)
        return bool(data)

    def _deliver(self, lane: _Lane, side: SignalConnection) -> bool:
        moved = False
        while lane.under_way and lane.under_way[0][0] <= self.now:
            data = lane.under_way.popleft()[1]
            for piece in self._cut(data):
                if not side.finished:
                    side.receive_data(piece, self.now)
            moved = True
        return moved

    def advance(self, seconds: float) -> None:
        """Let time pass; every deadline and every arrival on the way happens at its own instant."""
        until = self.now + seconds
        self.flow()
        while (when := self._next()) <= until:
            self.now = max(self.now, when)
            self.worker.handle_timeout(self.now)
            self.server.handle_timeout(self.now)
            self.flow()
        self.now = until

    def _next(self) -> float:
        arrivals = [lane.under_way[0][0] for lane in (self.to_server, self.to_worker) if lane.under_way]
        return min([self.worker.next_deadline(), self.server.next_deadline(), *arrivals], default=math.inf)

    def break_off(self) -> None:
        """The wire breaks: bytes under way are lost, both ends see the end of the stream."""
        self.flow()
        self.cut_off = True
        self.to_server.under_way.clear()
        self.to_worker.under_way.clear()
        self.worker.receive_eof(self.now)
        self.server.receive_eof(self.now)
        self.flow()

    # ------------------------------------------------------------------------------------ usual beginnings

    def connect(self) -> Pair:
        """Upgrade to WebSocket; the worker's registration has reached the server."""
        self.flow()
        self.advance(self.latency)
        assert self.server.accept_upgrade(self.now)
        self.flow()
        self.advance(2 * self.latency)
        return self

    def register(self, worker_id: str = "AW_1") -> Pair:
        """Connect, and be taken on."""
        self.connect()
        self.server.registered(worker_id, INFO, self.now)
        self.flow()
        self.advance(2 * self.latency)
        self.news_of_worker()
        self.news_of_server()
        self.said_by_worker()
        self.said_by_server()
        return self

    def offer(self, job_id: str = "AJ_1", **fields: object) -> None:
        """The server offers a job; the worker has heard it."""
        self.server.offer(job(job_id, **fields), self.now)
        self.flow()

    def accept(self, job_id: str = "AJ_1", metadata: JobMetadata | None = None) -> bool:
        """The worker says yes; the server has heard it."""
        said = self.worker.accept(job_id, metadata or JobMetadata(), self.now)
        self.flow()
        return said

    def assign(self, job_id: str = "AJ_1", token: str = "t") -> None:
        """The server assigns; the worker has heard it."""
        self.server.assign(job(job_id), token, self.now)
        self.flow()

    def run(self, job_id: str = "AJ_1") -> None:
        """From the offer to RUNNING."""
        self.offer(job_id)
        assert self.accept(job_id)
        self.assign(job_id)
        self.worker.report(job_id, protocol_status("RUNNING"), "", self.now)
        self.flow()

    # ------------------------------------------------------------------------------------ looking

    def news_of_worker(self) -> list[Event]:
        """What the worker's connection has reported since the last call."""
        start, self._told["worker"] = self._told["worker"], len(self.worker_events)
        return self.worker_events[start:]

    def news_of_server(self) -> list[Event]:
        """What the server's connection has reported since the last call."""
        start, self._told["server"] = self._told["server"], len(self.server_events)
        return self.server_events[start:]

    def said_by_worker(self) -> list[pb.WorkerMessage]:
        """The messages that the worker has put on the wire since the last call."""
        start, self._read["worker"] = self._read["worker"], len(self.to_server.frames)
        return [pb.WorkerMessage.FromString(f.payload) for f in self.to_server.frames[start:] if f.opcode == 2]

    def said_by_server(self) -> list[pb.ServerMessage]:
        """The messages that the server has put on the wire since the last call."""
        start, self._read["server"] = self._read["server"], len(self.to_worker.frames)
        return [pb.ServerMessage.FromString(f.payload) for f in self.to_worker.frames[start:] if f.opcode == 2]


def protocol_status(name: str) -> JobStatus:
    """The status of that name."""
    return JobStatus[name]


class RawServer:
    """A hand-made server opposite one worker connection."""

    def __init__(self, worker: protocol.WorkerConnection, *, now: float = 0.0) -> None:
        self.worker = worker
        self.now = now
        self.request = worker.data_to_send()
        self.events: list[Event] = []
        self.sent_by_worker = b""
        self.frames: list[frames.Frame] = []

    def say(self, *data: bytes | pb.ServerMessage, now: float | None = None) -> list[Event]:
        """Send bytes, or messages in one binary frame each; returns the events they caused."""
        if now is not None:
            self.now = now
        raw = b"".join(d if isinstance(d, bytes) else frames.frame(2, d.SerializeToString()) for d in data)
        self.worker.receive_data(raw, self.now)
        return self.collect()

    def eof(self) -> list[Event]:
        """Close the stream."""
        self.worker.receive_eof(self.now)
        return self.collect()

    def wait(self, seconds: float) -> list[Event]:
        """Let time pass."""
        until, before = self.now + seconds, len(self.events)
        while (when := self.worker.next_deadline()) <= until:
            self.now = max(when, self.now)
            self.worker.handle_timeout(self.now)
            self.collect()
        self.now = until
        return self.events[before:]

    def collect(self) -> list[Event]:
        """Take what the worker has for us."""
        new = self.worker.events()
        self.events += new
        self.sent_by_worker += self.worker.data_to_send()
        found, self.sent_by_worker = frames.read_frames(self.sent_by_worker)
        self.frames += found
        return new

    def heard(self) -> list[pb.WorkerMessage]:
        """The worker's messages since the last call; other frames stay."""
        self.collect()
        messages = [pb.WorkerMessage.FromString(f.payload) for f in self.frames if f.opcode == frames.BINARY]
        self.frames = [f for f in self.frames if f.opcode != frames.BINARY]
        return messages

    def upgrade(self) -> RawServer:
        """Answer 101."""
        self.say(frames.switching_protocols(self.request))
        return self

    def register(self, worker_id: str = "AW_1") -> RawServer:
        """Answer 101 and take the worker on; what it said so far is forgotten."""
        self.upgrade()
        self.say(registered(worker_id))
        self.heard()
        self.events.clear()
        return self

    @property
    def closed(self) -> ConnectionClosed:
        """The one ConnectionClosed event, which must be the last."""
        (found,) = of_type(self.events, ConnectionClosed)
        assert self.events[-1] is found
        assert self.worker.finished
        return found


class RawWorker:
    """A hand-made worker opposite one server connection."""

    def __init__(self, server: protocol.ServerConnection | None = None, *, now: float = 0.0) -> None:
        self.now = now
        self.server = SignalConnection.server(now=now, wall=WALL + now) if server is None else server
        self.events: list[Event] = []
        self.head = b""
        self._unread = b""
        self.frames: list[frames.Frame] = []

    def say(self, *data: bytes | pb.WorkerMessage, now: float | None = None) -> list[Event]:
        """Send bytes, or messages in one masked binary frame each; returns the events they caused."""
        if now is not None:
            self.now = now
        raw = b"".join(d if isinstance(d, bytes) else frames.frame(2, d.SerializeToString(), mask=True) for d in data)
        self.server.receive_data(raw, self.now)
        return self.collect()

    def eof(self) -> list[Event]:
        """Close the stream."""
        self.server.receive_eof(self.now)
        return self.collect()

    def wait(self, seconds: float) -> list[Event]:
        """Let time pass."""
        until, before = self.now + seconds, len(self.events)
        while (when := self.server.next_deadline()) <= until:
            self.now = max(when, self.now)
            self.server.handle_timeout(self.now)
            self.collect()
        self.now = until
        return self.events[before:]

    def collect(self) -> list[Event]:
        """Take what the server has for us."""
        new = self.server.events()
        self.events += new
        self._unread += self.server.data_to_send()
        if not self.head and b"\r\n\r\n" in self._unread:
            head, _, self._unread = self._unread.partition(b"\r\n\r\n")
            self.head = head + b"\r\n\r\n"
        if self.head.startswith(b"HTTP/1.1 101"):
            found, self._unread = frames.read_frames(self._unread)
            self.frames += found
        return new

    @property
    def unframed(self) -> bytes:
        """What the server sent that is no frame: a refusal's body."""
        return self._unread

    def heard(self) -> list[pb.ServerMessage]:
        """The server's messages since the last call; other frames stay."""
        self.collect()
        messages = [pb.ServerMessage.FromString(f.payload) for f in self.frames if f.opcode == frames.BINARY]
        self.frames = [f for f in self.frames if f.opcode != frames.BINARY]
        return messages

    def upgrade(self) -> RawWorker:
        """Ask, and be answered 101."""
        self.say(frames.upgrade_request())
        assert self.server.accept_upgrade(self.now)
        self.collect()
        return self

    def register(self) -> RawWorker:
        """Ask to be taken on, and be."""
        self.upgrade()
        self.say(register())
        self.server.registered("AW_1", INFO, self.now)
        self.heard()
        self.events.clear()
        return self

    @property
    def closed(self) -> ConnectionClosed:
        """The one ConnectionClosed event, which must be the last."""
        (found,) = of_type(self.events, ConnectionClosed)
        assert self.events[-1] is found
        assert self.server.finished
        return found


# ------------------------------------------------------------------------------------ messages by hand


def register(**fields: object) -> pb.WorkerMessage:
    return pb.WorkerMessage(register=pb.RegisterWorkerRequest(agent_name="a", version="1", **fields))  # type: ignore[arg-type]


def registered(worker_id: str = "AW_1") -> pb.ServerMessage:
    return pb.ServerMessage(
        register=pb.RegisterWorkerResponse(worker_id=worker_id, server_info=models.ServerInfo(version="1.13.5"))
    )


def offer(job_id: str = "AJ_1", **fields: object) -> pb.ServerMessage:
    return pb.ServerMessage(availability=pb.AvailabilityRequest(job=job(job_id, **fields)))


def assignment(job_id: str = "AJ_1", token: str = "t", **fields: object) -> pb.ServerMessage:
    return pb.ServerMessage(assignment=pb.JobAssignment(job=job(job_id, **fields), token=token))


def termination(job_id: str = "AJ_1") -> pb.ServerMessage:
    return pb.ServerMessage(termination=pb.JobTermination(job_id=job_id))


def pong(last_timestamp: int = 0, timestamp: int = 0) -> pb.ServerMessage:
    return pb.ServerMessage(pong=pb.WorkerPong(last_timestamp=last_timestamp, timestamp=timestamp))


def go_away(reason: str = "x") -> pb.ServerMessage:
    return pb.ServerMessage(go_away=pb.AgentHttp.GoAway(reason=reason))


def answer(job_id: str = "AJ_1", available: bool = True, terminate: bool = False) -> pb.WorkerMessage:
    return pb.WorkerMessage(
        availability=pb.AvailabilityResponse(job_id=job_id, available=available, terminate=terminate)
    )


def job_status(job_id: str = "AJ_1", status: int = 1, error: str = "") -> pb.WorkerMessage:
    return pb.WorkerMessage(update_job=pb.UpdateJobStatus(job_id=job_id, status=status, error=error))  # type: ignore[arg-type]


def worker_status(load: float = 0.0) -> pb.WorkerMessage:
    return pb.WorkerMessage(update_worker=pb.UpdateWorkerStatus(status=pb.WS_AVAILABLE, load=load))


def ping(timestamp: int = 0) -> pb.WorkerMessage:
    return pb.WorkerMessage(ping=pb.WorkerPing(timestamp=timestamp))


def migrate(*job_ids: str) -> pb.WorkerMessage:
    return pb.WorkerMessage(migrate_job=pb.MigrateJobRequest(job_ids=list(job_ids)))


def simulate() -> pb.WorkerMessage:
    return pb.WorkerMessage(simulate_job=pb.SimulateJobRequest(room=models.Room(name="r")))
