"""A scripted server, rooms in memory, a worker between them, and one story of what happened.

``Gateway`` is the server's end: it speaks through the project's own protocol core over streams in memory, and keeps
every message it hears, in order, over all connections, with the (virtual) time.  It is polite unless ``plan`` says how
the next connections go instead.  ``World`` puts a worker between a gateway and :class:`MemoryRooms` and writes down
what wire, rooms and handler do in one list, ``story``, so that a test can compare an order of things with a list.

Every wait here ends in an error after ten simulated minutes: a worker samples its load for ever, so under virtual time
a wait for something that never comes would never be a deadlock.
"""

from __future__ import annotations

import logging
import math
import random
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import anyio
from anyio.abc import ByteStream, TaskGroup
from livekit.protocol import agent as pb
from livekit.protocol import models

from livekit_agent import (
    BaseHandler,
    JobContext,
    JobStatus,
    ShutdownReport,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerOptions,
)
from livekit_agent.dispatch._memory import memory_pipe
from livekit_agent.monitoring._probe import Sample
from livekit_agent.protocol import RegisterReceived, ServerInfo, UpgradeRequested, agent_token
from livekit_agent.protocol._events import AvailabilityReceived
from livekit_agent.protocol._server_side import ServerConnection
from livekit_agent.protocol._state import Stage
from livekit_agent.rooms import MemoryRooms, Room
from livekit_agent.rooms._ledger_events import LedgerEvent, ParticipantEntered, ParticipantGone
from livekit_agent.runtime._outcome import only_leaf

PATIENCE = 600.0
WALL = 1_800_000_000.0
"""The wall clock at virtual 0: 2027-01-15."""
KEY, SECRET = "key", "a-secret-of-more-than-thirty-two-bytes"
INFO = ServerInfo(version="1.13.5", protocol=17, node_id="ND_1", agent_protocol=1)

RUNNING, SUCCESS, FAILED = JobStatus.RUNNING, JobStatus.SUCCESS, JobStatus.FAILED

Plan = Callable[["Line"], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Heard:
    """A message of the worker's."""

    at: float
    line: int
    kind: str
    message: pb.WorkerMessage


class _Tap(ServerConnection):
    """The server's core, with every message written down before the core judges it."""

    tap: Callable[[pb.WorkerMessage], None]

    def _on_message(self, payload: bytes | str, now: float) -> None:
        assert isinstance(payload, bytes)
        self.tap(pb.WorkerMessage.FromString(payload))
        super()._on_message(payload, now)


class Line:
    """One connection, seen from the server."""

    def __init__(self, gateway: Gateway, number: int, stream: ByteStream) -> None:
        self.number = number
        self.opened_at = anyio.current_time()
        self.closed_at = math.inf
        self.token = ""
        self.registered = False
        #: How this connection differs from a polite one; a plan sets these.
        self.http_status = 101
        self.http_headers: Mapping[str, str] = {}
        self.answers_upgrade = True
        self.answers_register = True
        self.frozen = False
        """Neither reads nor writes any more."""
        self._gateway = gateway
        self._stream = stream
        self._wake = anyio.Event()
        self.core = _Tap(now=anyio.current_time(), wall=WALL + anyio.current_time())
        self.core.tap = self._note

    def __repr__(self) -> str:
        return f"<Line {self.number} {self.core.stage.name}>"

    # --- what the server says; to a worker that has gone, or is going, nothing ---

    @property
    def open(self) -> bool:
        """Whether the worker still listens."""
        return self.core.stage is Stage.REGISTERED

    def offer(self, job_id: str, *, room: str = "r", **fields: Any) -> None:
        """Offer a job."""
        job = pb.Job(id=job_id, **{"type": pb.JT_ROOM, "room": models.Room(sid="RM_1", name=room), **fields})
        self._gateway.jobs[job_id] = job
        if self.open:
            self.core.offer(job, anyio.current_time())
            self.pump()

    def assign(self, job_id: str, *, token: str | None = None) -> None:
        """Assign a job that was accepted."""
        job = self._gateway.jobs[job_id]
        if token is None:
            answer = self._gateway.answers[job_id]
            token = agent_token(
                KEY,
                SECRET,
                wall=self._gateway.wall(),
                room=job.room.name,
                metadata=answer.metadata,
                agent_name="",
                permissions=None,
            )
        if self.open:
            self.core.assign(job, token, anyio.current_time())
            self.pump()

    def terminate(self, job_id: str) -> None:
        """Ask the worker to end a job."""
        if self.open:
            self.core.terminate(job_id, anyio.current_time())
            self.pump()

    def go_away(self) -> None:
        """Ask the worker to come back on another connection."""
        self.core.go_away("rebalance", anyio.current_time())
        self.pump()

    def close(self, code: int = 1000) -> None:
        """Say goodbye."""
        self.core.close(anyio.current_time(), code)
        self.pump()

    def drop(self) -> None:
        """End the stream without a word, as a killed server does; what was not written is lost."""
        self.core.data_to_send()
        self.core.drop()
        self.pump()

    def freeze(self) -> None:
        """Read and write nothing more, but keep the stream open."""
        self.frozen = True

    def thaw(self) -> None:
        """Go on."""
        self.frozen = False
        self._wake.set()

    # --- serving ---

    async def serve(self) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._read)
                tasks.start_soon(self._tick)
                await self._write()
                tasks.cancel_scope.cancel()
        finally:
            self.closed_at = anyio.current_time()
            self.registered = False
            await anyio.aclose_forcefully(self._stream)
            self._gateway.notify()

    async def _read(self) -> None:
        while not self.core.finished:
            try:
                data = await self._stream.receive()
            except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
                self.core.receive_eof(anyio.current_time())
            else:
                while self.frozen:
                    await self._wait()
                if not self.core.finished:
                    self.core.receive_data(data, anyio.current_time())
            self.pump()

    async def _write(self) -> None:
        while True:
            data = b"" if self.frozen else self.core.data_to_send()
            if data:
                try:
                    await self._stream.send(data)
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    return
            elif self.core.finished:
                await anyio.aclose_forcefully(self._stream)
                return
            else:
                await self._wait()

    async def _tick(self) -> None:
        while not self.core.finished:
            with anyio.CancelScope(deadline=self.core.next_deadline()):
                await self._wait()
            if not self.frozen:
                self.core.handle_timeout(anyio.current_time())
            elif self.core.next_deadline() <= anyio.current_time():
                await self._wait()
            self.pump()

    async def _wait(self) -> None:
        if self._wake.is_set():
            self._wake = anyio.Event()
        await self._wake.wait()

    def pump(self) -> None:
        """Act on what the core says; wake the writer."""
        for event in self.core.events():
            now = anyio.current_time()
            if isinstance(event, UpgradeRequested):
                self.token = event.headers["authorization"].removeprefix("Bearer ")
                if not self.answers_upgrade:
                    continue
                if self.http_status == 101:
                    assert self.core.accept_upgrade(now)
                else:
                    self.core.reject_upgrade(self.http_status, b"no", self.http_headers, now)
            elif isinstance(event, RegisterReceived) and self.answers_register:
                if self.core.stage is not Stage.REGISTERING:
                    continue  # the worker went on to say goodbye in the same read
                self.core.registered(f"AW_{self.number}", INFO, now)
                self.registered = True
            elif isinstance(event, AvailabilityReceived):
                self._gateway.answers[event.job_id] = event
        self._wake.set()
        self._gateway.notify()

    def _note(self, message: pb.WorkerMessage) -> None:
        kind = message.WhichOneof("message") or ""
        self._gateway.hear(Heard(at=anyio.current_time(), line=self.number, kind=kind, message=message))


class Gateway:
    """A scripted server."""

    def __init__(self, *, pipe_limit: int = 64 * 1024) -> None:
        self.lines: list[Line] = []
        self.heard: list[Heard] = []
        self.jobs: dict[str, pb.Job] = {}
        self.answers: dict[str, AvailabilityReceived] = {}
        self.attempts: list[float] = []
        """When the worker tried to connect."""
        self.plan: deque[Plan | Exception | str] = deque()
        """How the next connections go: a function that prepares the line, an error, or ``"hang"``."""
        self.then: Plan | Exception | str | None = None
        """How all connections go that ``plan`` says nothing of."""
        self.on_heard: Callable[[Heard], None] = lambda heard: None
        self._pipe_limit = pipe_limit
        self._tasks: TaskGroup | None = None
        self._changed = anyio.Event()

    def wall(self) -> float:
        """Unix seconds."""
        return WALL + anyio.current_time()

    # --- the network ---

    async def connect(self, endpoint: object) -> ByteStream:
        """The worker's connector."""
        self.attempts.append(anyio.current_time())
        self.notify()
        await anyio.lowlevel.checkpoint()
        step = self.plan.popleft() if self.plan else self.then
        if isinstance(step, Exception):
            raise step
        if step == "hang":
            await anyio.sleep_forever()
        ours, theirs = memory_pipe(self._pipe_limit)
        line = Line(self, len(self.lines) + 1, ours)
        self.lines.append(line)
        if callable(step):
            step(line)
        assert self._tasks is not None
        self._tasks.start_soon(line.serve)
        return theirs

    @asynccontextmanager
    async def serving(self) -> AsyncGenerator[Gateway]:
        async with anyio.create_task_group() as self._tasks:
            yield self
            self._tasks.cancel_scope.cancel()

    # --- what was heard ---

    def hear(self, heard: Heard) -> None:
        self.heard.append(heard)
        self.on_heard(heard)

    def notify(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something the gateway notices."""
        with anyio.fail_after(PATIENCE):
            while not condition():
                await self._changed.wait()

    @property
    def line(self) -> Line:
        """The latest connection."""
        return self.lines[-1]

    def kinds(self, line: int | None = None) -> list[str]:
        """What was said, by kind."""
        return [heard.kind for heard in self.heard if line in (None, heard.line)]

    def statuses(self, job_id: str) -> list[tuple[int, str]]:
        """Every status of a job, over all connections, in order."""
        return [(s.status, s.error) for h in self.heard if (s := h.message.update_job).job_id == job_id]

    def finals(self, job_id: str) -> list[tuple[JobStatus, str]]:
        """The terminal ones."""
        return [(JobStatus(status), error) for status, error in self.statuses(job_id) if status in (SUCCESS, FAILED)]

    def final(self, job_id: str) -> tuple[JobStatus, str]:
        """The one terminal status of a job; more than one is an error."""
        (only,) = self.finals(job_id)
        return only

    def final_at(self, job_id: str) -> float:
        """When it came."""
        return next(
            h.at for h in self.heard if (s := h.message.update_job).job_id == job_id and s.status in (SUCCESS, FAILED)
        )

    def standings(self) -> list[tuple[bool, int]]:
        """(full, jobs) of every load report."""
        return [
            (h.message.update_worker.status == pb.WS_FULL, h.message.update_worker.job_count)
            for h in self.heard
            if h.kind == "update_worker"
        ]

    # --- what tests wait for ---

    async def registered(self, number: int = 0) -> Line:
        """The latest (or that) connection, registered: the worker has told its standing there."""
        await self.until(
            lambda: len(self.lines) >= max(number, 1) and "update_worker" in self.kinds(self.lines[number - 1].number)
        )
        return self.lines[number - 1]

    async def answer(self, job_id: str) -> AvailabilityReceived:
        """The answer to an offer."""
        await self.until(lambda: job_id in self.answers)
        return self.answers[job_id]

    async def give(self, job_id: str, *, room: str = "r", **fields: Any) -> None:
        """Offer a job, and assign it at the yes."""
        line = await self.registered()
        line.offer(job_id, room=room, **fields)
        assert (await self.answer(job_id)).available, f"{job_id} was declined"
        line.assign(job_id)

    async def end_of(self, job_id: str) -> tuple[JobStatus, str]:
        """Wait for the terminal status."""
        await self.until(lambda: bool(self.finals(job_id)))
        return self.final(job_id)


class World:
    """A worker, a gateway and rooms; see :func:`world`."""

    def __init__(self, gateway: Gateway, rooms: MemoryRooms, worker: UniversalWorker, tasks: TaskGroup) -> None:
        self.gateway = gateway
        self.rooms = rooms
        self.worker = worker
        self.tasks = tasks
        self.story: list[str] = []
        self.times: dict[str, float] = {}
        """When each line of the story was first told."""
        self.start_scope = anyio.CancelScope()
        self._error: BaseException | None = None
        self._error_seen = False
        self.finished = anyio.Event()

    def tell(self, text: str) -> None:
        """Add to the story."""
        self.story.append(text)
        self.times.setdefault(text, anyio.current_time())
        self.gateway.notify()

    async def told(self, text: str) -> float:
        """Wait for a line of the story; when it was told."""
        await self.gateway.until(lambda: text in self.times)
        return self.times[text]

    async def run(self) -> None:
        """Start the worker; keep what start() raises."""
        try:
            with self.start_scope:
                await self.worker.start()
        except (Exception, KeyboardInterrupt, SystemExit, BaseExceptionGroup) as exc:
            self._error = exc
        self.tell("start() returned")
        self.finished.set()

    @property
    def error(self) -> BaseException | None:
        """What start() raised.  One that no test looks at is raised when the world ends."""
        self._error_seen = True
        return self._error

    def check(self) -> None:
        """Raise an error that nobody has looked at; nobody of ours may be in a room."""
        if self._error is not None and not self._error_seen:
            raise self._error
        assert self.agents() == [], self.story

    async def give(self, job_id: str = "AJ_1", **fields: Any) -> None:
        """As the gateway's."""
        await self.gateway.give(job_id, **fields)

    @property
    def line(self) -> Line:
        """The latest connection."""
        return self.gateway.line

    def agents(self) -> list[str]:
        """The agents in all rooms."""
        return [
            person.identity
            for room in self.rooms.list_rooms()
            for person in self.rooms.participants(room.name)
            if person.identity.startswith("agent-")
        ]

    def count(self, text: str) -> int:
        """How often the story tells that."""
        return self.story.count(text)

    # --- what the parts report ---

    def _on_heard(self, heard: Heard) -> None:
        if heard.kind == "update_job":
            update = heard.message.update_job
            self.tell(f"{update.job_id} {JobStatus(update.status).name}")

    def _on_ledger(self, event: LedgerEvent) -> None:
        if isinstance(event, ParticipantEntered) and event.participant.identity.startswith("agent-"):
            self.tell(f"{event.participant.identity.removeprefix('agent-')} joined")
        elif isinstance(event, ParticipantGone) and event.participant.identity.startswith("agent-"):
            self.tell(f"{event.participant.identity.removeprefix('agent-')} left")


Assigned = Callable[[JobContext], Awaitable[None] | None]


def telling(handler: Any, say: Callable[[str], None]) -> Any:
    """``handler`` with each end of a job told."""
    terminated = handler.on_job_terminated

    async def on_job_terminated(job_id: str) -> None:
        say(f"{job_id} terminated")
        pending = terminated(job_id)
        if pending is not None:
            await pending

    handler.on_job_terminated = on_job_terminated
    return handler


@asynccontextmanager
async def leaf_errors() -> AsyncIterator[None]:
    """Let a failed assertion come out bare of the groups it went through."""
    try:
        yield
    except BaseExceptionGroup as group:
        leaf = only_leaf(group)
        if leaf is group:
            raise
        raise leaf.with_traceback(leaf.__traceback__) from None


@asynccontextmanager
async def world(
    assigned: Assigned | None = None,
    *,
    handler: BaseHandler | None = None,
    callbacks: Mapping[str, Any] | None = None,
    gateway: Gateway | None = None,
    connector: Any = None,
    rooms: Any = None,
    start: bool = True,
    seed: int = 0,
    **options: Any,
) -> AsyncIterator[World]:
    """A world with a started worker.  At the end the worker is stopped at once, and nothing of it may be left.

    ``assigned`` is the job, ``callbacks`` are further keywords of SimpleUniversalHandler; or give ``handler``.
    """
    gateway = gateway or Gateway()
    options.setdefault("logger", logging.getLogger("tests.runtime"))
    async with leaf_errors(), gateway.serving(), MemoryRooms(wall_clock=gateway.wall, rng=random.Random(0)) as memory:
        handler = handler or SimpleUniversalHandler(job_assigned=assigned, **(callbacks or {}))
        worker = UniversalWorker(
            "ws://localhost:7880",
            KEY,
            SECRET,
            telling(handler, lambda text: told.tell(text)),
            WorkerOptions(**options),
            rooms=memory if rooms is None else rooms(memory),
            connector=connector or gateway.connect,
            rng=random.Random(seed),
            wall_clock=gateway.wall,
            probe=Sample,
        )
        async with anyio.create_task_group() as tasks:
            told = World(gateway, memory, worker, tasks)
            gateway.on_heard = told._on_heard
            memory.observe(told._on_ledger)
            if start:
                tasks.start_soon(told.run)
            yield told
            if start and not told.finished.is_set():
                with anyio.fail_after(PATIENCE):
                    await worker.stop(0)
                    await told.finished.wait()
            tasks.cancel_scope.cancel()
        told.check()
        still_open = [line for line in gateway.lines if line.closed_at == math.inf and not line.frozen]
        with anyio.fail_after(PATIENCE):
            await gateway.until(lambda: all(line.closed_at < math.inf for line in still_open))


class ScriptedRooms:
    """A room connector in front of another: the next joins go as ``plan`` says."""

    def __init__(self, below: MemoryRooms) -> None:
        self.below = below
        self.joins = 0
        self.abandoned = 0

    async def connect(self, url: str, token: str, *, timeout: float = 20.0, **options: Any) -> Room:
        self.joins += 1
        try:
            return await self.join(url, token, timeout)
        except anyio.get_cancelled_exc_class():
            self.abandoned += 1
            raise

    async def join(self, url: str, token: str, timeout: float) -> Room:
        """To be overridden."""
        return await self.below.connect(url, token, timeout=timeout)


async def until_cancelled(ctx: JobContext) -> None:
    """The ordinary job."""
    await anyio.sleep_forever()


async def stop_report(worker: UniversalWorker, timeout: float | None = None) -> ShutdownReport:
    """stop(), bounded."""
    with anyio.fail_after(PATIENCE):
        return await worker.stop(timeout)
