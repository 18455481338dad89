"""One connection of a worker's, at the scripted server's end.

The ordinary part of the conversation (upgrade, registration, keep-alive pings, pongs, the Close) is the SERVER role of
our protocol core on a real socket.  What a case is about is said in bytes: messages the core would refuse to say,
frames no library makes.  And what the worker says is read by ``_frames.py`` besides, so that a case judges frames,
not the core's opinion of them.
"""

from __future__ import annotations

import json
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

import anyio
from anyio.abc import ByteStream, SocketAttribute
from livekit.protocol import agent as pb
from livekit.protocol import models

from ..._types import JobMetadata
from ...protocol import RegisterReceived, ServerConnection, SignalConnection, UpgradeRequested, agent_token
from ...protocol._events import ServerInfo
from ._frames import BINARY, CLOSE, PONG, Frame, FrameLog, frame
from ._verdicts import Broken

if TYPE_CHECKING:
    from ._lab import Worker

__all__ = ["Link"]

_GONE = (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError, OSError)
_FINAL = (pb.JobStatus.JS_SUCCESS, pb.JobStatus.JS_FAILED, 4)
SERVER = ServerInfo(version="1.13.5", protocol=17, node_id="ND_contracts", agent_protocol=1)


class Link:
    """One TCP connection, from the server's side."""

    def __init__(self, stream: ByteStream, worker: Worker, sni: str = "") -> None:
        self.worker = worker
        self.sni = sni
        """The server name of the TLS handshake."""
        self.request: UpgradeRequested | None = None
        self.head = b""
        """The request head as it came."""
        self.frames: list[Frame] = []
        self.messages: list[pb.WorkerMessage] = []
        self.upgraded = False
        self.ended = False
        """The worker has closed or reset the stream."""
        self.automatic = True
        """Whether the core answers pings and Closes; a case that wants silence turns it off."""
        self.dribble = False
        """Whether bytes are written one by one."""
        self._stream = stream
        self._core: ServerConnection = SignalConnection.server(now=time.monotonic(), wall=time.time())
        self._log = FrameLog()
        self._changed = anyio.Event()
        self._writing = anyio.Lock()
        self._listening = anyio.Event()
        self._listening.set()
        self._registration: pb.RegisterWorkerRequest | None = None

    # ------------------------------------------------------------------------------------ the task

    async def serve(self) -> None:
        """Read until the worker has left; and let the core's timers fire."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._keep_time)
                try:
                    while True:
                        await self._listening.wait()
                        await self._take(await self._stream.receive())
                except _GONE:
                    self.ended = True
                    self._notify()
                tasks.cancel_scope.cancel()
        finally:
            with anyio.move_on_after(1, shield=True):  # closes a socket whose case has ended; never waits for the peer
                await anyio.aclose_forcefully(self._stream)

    async def _keep_time(self) -> None:
        while True:
            now = time.monotonic()
            await anyio.sleep(min(max(self._core.next_deadline() - now, 0.05), 1.0))
            if self.automatic and not self._core.finished:
                self._core.handle_timeout(time.monotonic())
                await self._flush()

    async def _take(self, data: bytes) -> None:
        if self.request is None:
            self.head += data
        if self.upgraded:
            for found in self._log.feed(data):
                self.frames.append(found)
                if found.opcode == BINARY and found.fin:
                    try:
                        self.messages.append(pb.WorkerMessage.FromString(found.payload))
                    except ValueError:
                        self.messages.append(pb.WorkerMessage())
        if self.automatic and not self._core.finished:
            self._core.receive_data(data, time.monotonic())
            for event in self._core.events():
                if isinstance(event, UpgradeRequested):
                    self.request = event
                elif isinstance(event, RegisterReceived):
                    self._registration = self.messages[-1].register
            await self._flush()
        self._notify()

    async def _flush(self) -> None:
        if data := self._core.data_to_send():
            await self.write(data)
        if self._core.finished and self.automatic:
            await anyio.aclose_forcefully(self._stream)

    def _notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # ------------------------------------------------------------------------------------ speaking

    async def write(self, data: bytes) -> None:
        """Send bytes; that the worker has left already is for the case to find out."""
        pieces = [data[i : i + 1] for i in range(len(data))] if self.dribble else [data]
        async with self._writing:
            try:
                for piece in pieces:
                    await self._stream.send(piece)
            except _GONE:
                self.ended = True
                self._notify()

    async def say(self, message: pb.ServerMessage, *, unknown: bytes = b"") -> None:
        """Send a message, with ``unknown`` fields behind it."""
        await self.write(frame(BINARY, message.SerializeToString() + unknown))

    async def asked(self) -> UpgradeRequested:
        """Wait for the upgrade request."""
        await self.wait(lambda: self.request is not None, "no upgrade request", 10)
        assert self.request is not None
        return self.request

    async def accept(self, glued: bytes = b"") -> None:
        """Answer the upgrade with 101, in one piece with ``glued``."""
        await self.asked()
        self.upgraded = True
        if not self._core.accept_upgrade(time.monotonic()):
            raise Broken("the upgrade request is not one that a WebSocket server may accept")
        await self.write(self._core.data_to_send() + glued)

    async def refuse(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        """Answer the upgrade with something else and close."""
        await self.asked()
        self._core.reject_upgrade(status, body, headers, time.monotonic())
        await self._flush()

    async def registration(self) -> pb.RegisterWorkerRequest:
        """Accept the upgrade if that was not done, and wait for the worker's RegisterWorkerRequest."""
        if not self.upgraded:
            await self.accept()
        await self.wait(lambda: self._registration is not None, "no RegisterWorkerRequest", 10)
        assert self._registration is not None
        return self._registration

    async def register(self, answer: pb.ServerMessage | None = None, *, unknown: bytes = b"") -> None:
        """Take the worker on; ``answer`` is said in place of the ordinary RegisterWorkerResponse."""
        await self.registration()
        self._core.registered(f"AW_{self.worker.number()}", SERVER, time.monotonic())
        ordinary = self._core.data_to_send()
        await self.write(ordinary if answer is None else frame(BINARY, answer.SerializeToString() + unknown))

    def stop_reading(self) -> None:
        """Take nothing more from the socket."""
        self.automatic = False
        self._listening = anyio.Event()

    async def drop(self, *, reset: bool = False) -> None:
        """End the TCP connection without a word; ``reset`` by RST."""
        if reset:
            raw = self._stream.extra(SocketAttribute.raw_socket)  # noqa: S610 - not Django's
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.automatic = False
        await anyio.aclose_forcefully(self._stream)

    # ------------------------------------------------------------------------------------ hearing

    async def wait(self, condition: Callable[[], object], otherwise: str, within: float) -> None:
        """Wait for something to become true; Broken with ``otherwise`` if it does not."""
        with anyio.move_on_after(within * self.worker.patience):
            while not condition():
                if self.ended:
                    self._gone(otherwise)
                await self._changed.wait()
        if not condition():
            raise Broken(f"{otherwise} within {within:g} s")

    def _gone(self, otherwise: str) -> NoReturn:
        raise Broken(f"{otherwise}: the worker closed the connection{self.worker.fate()}")

    async def hear(
        self, kind: str, where: Callable[[Any], bool] = lambda message: True, *, within: float = 5.0, after: int = 0
    ) -> Any:
        """The first message of a kind (behind the first ``after`` messages) that fits; the inner message."""

        def find() -> Any:
            for message in self.messages[after:]:
                if message.WhichOneof("message") == kind and where(getattr(message, kind)):
                    return getattr(message, kind)
            return None

        await self.wait(lambda: find() is not None, f"no {kind}", within)
        return find()

    def heard(self, kind: str, where: Callable[[Any], bool] = lambda message: True) -> list[Any]:
        """Every message of a kind so far."""
        found = (getattr(m, kind) for m in self.messages if m.WhichOneof("message") == kind)
        return [message for message in found if where(message)]

    async def wait_end(self, otherwise: str, within: float) -> None:
        """Wait for the worker to end the connection."""
        with anyio.move_on_after(within * self.worker.patience):
            while not self.ended:
                await self._changed.wait()
        if not self.ended:
            raise Broken(f"{otherwise} within {within:g} s")

    async def wait_close(self, within: float = 5.0) -> int:
        """The code of the worker's Close frame; 1006 when it left without one."""
        with anyio.move_on_after(within * self.worker.patience):
            while not self.ended and not self._closes():
                await self._changed.wait()
        if not self._closes() and not self.ended:
            raise Broken(f"the worker did not close the connection within {within:g} s")
        return self._closes()[0].close_code if self._closes() else 1006

    def _closes(self) -> list[Frame]:
        return [found for found in self.frames if found.opcode == CLOSE]

    def pongs(self) -> list[bytes]:
        """The payloads of the worker's pongs."""
        return [found.payload for found in self.frames if found.opcode == PONG]

    # ------------------------------------------------------------------------------------ jobs

    def job(self, do: str = "return", **more: Any) -> pb.Job:
        """A job that asks for something."""
        number = self.worker.number()
        job = pb.Job(
            id=f"AJ_{number}",
            type=pb.JobType.JT_ROOM,
            room=models.Room(sid=f"RM_{number}", name=f"room-{number}"),
            metadata=json.dumps({**more, "do": do}, ensure_ascii=False),
            dispatch_id=f"AD_{number}",
        )
        job.state.status = pb.JobStatus.JS_RUNNING
        return job

    def token(self, job: pb.Job, identity: str = "") -> str:
        """The token of an assignment."""
        return agent_token(
            self.worker.key,
            self.worker.secret,
            wall=time.time(),
            room=job.room.name,
            metadata=JobMetadata(participant_identity=identity or f"agent-{job.id}"),
            agent_name="",
            permissions=None,
        )

    async def offer(self, job: pb.Job, *, resuming: bool = False, within: float = 2.8) -> Any:
        """Offer a job; the worker's AvailabilityResponse.  2.8 s is what a real server waits."""
        before = len(self.messages)
        await self.ask(job, resuming=resuming)
        return await self.hear("availability", lambda a: a.job_id == job.id, within=within, after=before)

    async def ask(self, job: pb.Job, *, resuming: bool = False) -> None:
        """Offer a job and do not wait for the answer."""
        await self.say(pb.ServerMessage(availability=pb.AvailabilityRequest(job=job, resuming=resuming)))

    async def assign(self, job: pb.Job, *, token: str | None = None) -> None:
        """Assign a job."""
        text = self.token(job) if token is None else token
        await self.say(pb.ServerMessage(assignment=pb.JobAssignment(job=job, token=text)))

    async def terminate(self, job_id: str) -> None:
        """Ask for a job's end."""
        await self.say(pb.ServerMessage(termination=pb.JobTermination(job_id=job_id)))

    async def start(self, job: pb.Job) -> pb.Job:
        """Offer, and assign what the worker accepts."""
        answer = await self.offer(job)
        if not answer.available:
            raise Broken("the worker declined an ordinary offer")
        await self.assign(job)
        return job

    async def running(self, job: pb.Job, *, within: float = 5.0) -> None:
        """Wait until the job is under way: RUNNING is optional, so a quarter of a second without an end will do."""
        with anyio.move_on_after(within):
            while not self.statuses(job):
                await self._changed.wait()
        await anyio.sleep(0.25)
        if self.final(job):
            raise Broken(f"the job was to go on, but ended with {self.final(job)}")

    def statuses(self, job: pb.Job | str) -> list[Any]:
        """The UpdateJobStatus messages about a job."""
        job_id = job if isinstance(job, str) else job.id
        return self.heard("update_job", lambda m: m.job_id == job_id)

    def final(self, job: pb.Job | str) -> list[str]:
        """Its terminal statuses, identical repetitions counted once: a repetition is how a worker makes sure."""
        rows = Counter((m.status, m.error) for m in self.statuses(job) if m.status in _FINAL)
        return [{2: "SUCCESS", 3: "FAILED", 4: "CANCELLED"}[status] for status, _ in rows]

    def started(self, job: pb.Job | str) -> bool:
        """Whether the worker says that it ran the job: RUNNING or SUCCESS."""
        return any(m.status in (pb.JobStatus.JS_RUNNING, pb.JobStatus.JS_SUCCESS) for m in self.statuses(job))

    async def ended_with(self, job: pb.Job, *, within: float = 10.0) -> str:
        """Wait for the job's terminal status, and a moment longer for a second one: it must be the only one."""
        await self.wait(lambda: self.final(job), "no terminal status", within)
        await anyio.sleep(0.3)
        final = self.final(job)
        if len(final) > 1:
            raise Broken(f"the job ended more than once: {', '.join(final)}")
        return final[0]

    async def works(self) -> None:
        """The worker still takes an offer, runs it, and says so."""
        if (final := await self.ended_with(await self.start(self.job()))) != "SUCCESS":
            raise Broken(f"afterwards an ordinary job ended with {final}")

    async def must_not_start(self, job: pb.Job, seconds: float = 1.5) -> str:
        """A job that must not run; what the worker said instead."""
        with anyio.move_on_after(seconds):
            while not self.statuses(job):
                await self._changed.wait()
        await anyio.sleep(0.3)
        if self.started(job):
            raise Broken("the worker ran it")
        return "refused with FAILED" if self.final(job) else "silent"
