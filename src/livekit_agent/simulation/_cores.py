"""Engine (a): core against core in a plain loop, with time as an argument.

No event loop, no task, no stream: a heap of things to come, a ``DispatchCore`` on one side and one ``WorkerConnection``
after the other on the other, bytes between them.  It is some thirty times faster than the whole SDK and finds what is
wrong with the protocol; what is wrong with tasks and scopes only engine (b) can find.  Both write the same notes, so
the same wire checkers judge both.

A worker here is a policy of a few lines: it accepts what its script says, "runs" a job by waiting, reports, releases.

Pure: layer 2.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from .._types import JobMetadata, JobStatus
from ..dispatch._core import DispatchCore, Link, Order
from ..dispatch._events import DispatchRecord
from ..protocol import (
    ConnectionClosed,
    Event,
    GiveUp,
    Input,
    JobAssigned,
    JobBook,
    JobOffered,
    JobRecord,
    JobStage,
    JobTerminated,
    Lifecycle,
    Registered,
    Registration,
    SignalConnection,
    WorkerConnection,
    report_status,
    worker_token,
)
from ._frames import FrameReader
from ._scenario import TYPES, Fault, JobPlan, Scenario, WorkerPlan
from ._tap import Tap, who_am_i
from ._trace import NotedRandom, Trace, Value
from ._weather import Weather

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

__all__ = ["CoreWorld"]

_EPOCH = 1_800_000_000.0
_KEY, _SECRET = "simkey", "simsecret-simsecret-simsecret-32"
_WIRE_NUMBER = {"room": 0, "publisher": 1, "participant": 2}
_HEAL_SECONDS = 120.0

#: The faults that mean something without streams and tasks.
CORE_FAULTS = (
    "latency",
    "dribble",
    "stall",
    "hang",
    "reset",
    "half_close",
    "refuse_connect",
    "restart",
    "go_away",
    "delete_dispatch",
)


_DRAWN_AHEAD = 64


def _ahead(rng: random.Random) -> Iterator[float]:
    """Numbers from 0 to 1, many drawn at a time: they are one note, and one for each delivery took a tenth of a run."""
    while True:
        yield from [rng.random() for _ in range(_DRAWN_AHEAD)]


class CoreWorld:
    """One run of a scenario on engine (a)."""

    def __init__(self, scenario: Scenario, trace: Trace) -> None:
        self.scenario = scenario
        self.trace = trace
        self.now = 0.0
        self.chance = _ahead(self.rng("network"))
        self.weather = Weather()
        # A worker has one life here: where a plan's lives take turns, there is one for each of its types.
        plans = [replace(plan, type=name, turns=()) for plan in scenario.workers for name in plan.types]
        self.workers = [_CoreWorker(self, index, plan) for index, plan in enumerate(plans)]
        self.server: DispatchCore | None = None
        self.pipes: dict[Link, _Pipe] = {}
        """Of this life of the server: a worker may dial again before its last words of the time before have arrived."""
        self._lives = 0
        self._down_until = 0.0
        self._heap: list[tuple[float, int, Callable[..., object], tuple[Any, ...]]] = []
        self._serial = 0
        self._server_due = math.inf
        self._dispatches: list[tuple[str, DispatchRecord]] = []

    def wall(self) -> float:
        """Virtual Unix seconds."""
        return _EPOCH + self.now

    def rng(self, purpose: str) -> random.Random:
        """A generator of its own for each purpose, whose draws are noted."""
        rng = NotedRandom(f"{purpose}:{self.scenario.seed}")
        rng.told = lambda value: self.trace.draw(self.now, purpose, value)
        return rng

    def at(self, when: float, action: Callable[..., object], *args: Any) -> None:
        """Do something then."""
        self._serial += 1
        heapq.heappush(self._heap, (when, self._serial, action, args))

    def note(self, who: str, what: str, kind: str = "", job: str = "", **data: Value) -> None:
        """Write into the trace."""
        self.trace.write(self.now, who, what, kind, job, data)

    def run(self) -> None:
        """Live through the scenario, and note what is said and how it ends."""
        SignalConnection.tracer = Tap(self.trace, lambda: self.now)
        try:
            # In a context of its own: the names set on the way are not those of whatever runs here next.
            copy_context().run(self.live)
        finally:
            SignalConnection.tracer = None
        for worker in self.workers:
            self.note(worker.life, "converged", "available" if worker.registered else "disconnected")
        converged = all(worker.registered for worker in self.workers)
        self.note("world", "act", "converged" if converged else "not converged")
        self.note("world", "end")

    def live(self) -> None:
        """Live through the scenario."""
        scenario = self.scenario
        self._start_server()
        for worker in self.workers:
            self.note(worker.life, "worker", "started", **asdict(worker.plan))
            self.at(worker.plan.starts_at, worker.dial)
        for number, job in enumerate(scenario.jobs):
            self.at(job.at, self._launch, number, job)
        for fault in scenario.faults:
            if fault.kind in CORE_FAULTS:
                self.at(fault.at, self._strike, fault)
        self._live_until(scenario.chaos_seconds)
        self._heal()
        self._live_until(scenario.chaos_seconds + _HEAL_SECONDS)

    def _live_until(self, until: float) -> None:
        heap, step = self._heap, self.trace.step
        while heap and heap[0][0] <= until:
            when, serial, action, args = heapq.heappop(heap)
            self.now = max(self.now, when)
            step(serial)
            action(*args)
        self.now = until

    # ------------------------------------------------------------------------------------ the server

    def _start_server(self) -> None:
        if self.now < self._down_until:
            return  # a later restart is not over
        self._lives += 1
        self.pipes.clear()
        self.server = DispatchCore(keys={_KEY: _SECRET}, rng=self.rng(f"server{self._lives}"), version="simulated")
        self._server_due = math.inf
        self._dispatches.clear()
        self.note("world", "server", "up", life=self._lives)

    def settle(self) -> None:
        """The drain rule for the server: bytes off, events away, its next deadline on the heap."""
        server = self.server
        if server is None:
            return
        for link in server.take_touched():
            data, finished = link.connection.data_to_send(), link.finished
            if data or finished:
                self.pipes[link].server_wrote(data, finished=finished)
        server.take_events()
        due = server.next_deadline()
        if due < self._server_due or self._server_due <= self.now:
            self._server_due = due
            if due < math.inf:
                self.at(due, self._server_timeout, server)

    def _server_timeout(self, server: DispatchCore) -> None:
        if server is self.server:
            server.handle_timeout(self.now, self.wall())
            self.settle()

    # ------------------------------------------------------------------------------------ jobs

    def _launch(self, number: int, job: JobPlan) -> None:
        server = self.server
        if server is None:
            return
        from livekit.protocol import models

        room = f"room-{number}"
        server.room_opened(models.Room(name=room, sid=f"RM_{number}"), (), self.now, self.wall())
        if job.type != "room":
            person = models.ParticipantInfo(
                identity=f"person-{number}", sid=f"PA_{number}", state=models.ParticipantInfo.ACTIVE
            )
            server.participant_entered(room, person, self.now, self.wall())
            if job.type == "publisher":
                person.tracks.add(sid=f"TR_{number}")
                server.track_published(room, person, self.now, self.wall())
        order = Order(agent_name=f"sim-{job.type}", metadata=f"{job.request} {job.do} {job.seconds}")
        self._dispatches.append((room, server.create_dispatch(room, order, self.now, self.wall())))
        self.note("world", "job", "launched", number=number, type=job.type)
        self.settle()

    # ------------------------------------------------------------------------------------ faults

    def _strike(self, fault: Fault) -> None:
        worker = self.workers[fault.target % len(self.workers)]
        pipe = worker.pipe
        struck = True
        match fault.kind:
            case "latency":
                end = self.weather.begin(latency=0.05 + fault.value % 1000 / 1000)
                self.at(self.now + fault.seconds, end)
            case "dribble":
                self.at(self.now + fault.seconds, self.weather.begin(dribble=True))
            case "refuse_connect":
                worker.refused_until = max(worker.refused_until, self.now + fault.seconds)
                if pipe is not None:
                    pipe.lose()
            case "restart":
                struck = self._restart(fault.seconds)
            case "go_away":
                struck = self.server is not None and self.server.go_away(worker.id, "", self.now, self.wall())
                self.settle()
            case "delete_dispatch":
                struck = self._delete_dispatch()
            case _ if pipe is None:
                struck = False
            case "reset" | "half_close":
                pipe.lose()
            case _:
                pipe.stall_until = max(pipe.stall_until, self.now + fault.seconds)
        if struck:
            self.note("world", "fault", fault.kind, target=fault.target)

    def _restart(self, downtime: float) -> bool:
        up = self.now + downtime
        if self.server is not None:
            self.server = None
            self.note("world", "server", "down")
            for pipe in self.pipes.values():
                pipe.lose()
        elif up <= self._down_until:
            return False  # it is down for longer anyway
        self._down_until = up
        self.at(up, self._start_server)
        return True

    def _delete_dispatch(self) -> bool:
        if self.server is None or not self._dispatches:
            return False
        room, dispatch = self._dispatches.pop(0)
        found = self.server.delete_dispatch(room, dispatch.id, self.now, self.wall()) is not None
        self.settle()
        return found

    def _heal(self) -> None:
        self.weather.clear()
        for worker in self.workers:
            worker.refused_until = -math.inf
        for pipe in self.pipes.values():
            pipe.stall_until = -math.inf
        self.note("world", "act", "heal")

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Bytes as the network cuts them."""
        while data:
            size = 1 + int(7 * next(self.chance)) if self.weather.dribble and len(data) < 4096 else len(data)
            yield data[:size]
            data = data[size:]


class _Pipe:
    """A connection between a worker and the server: bytes with arrival times, in order."""

    def __init__(self, world: CoreWorld, worker: _CoreWorker, link: Link) -> None:
        self.world = world
        self.worker = worker
        self.link = link
        self.label = worker.label
        self.open = True
        self.stall_until = -math.inf
        self._last = {"up": 0.0, "down": 0.0}
        self._frames = {"up": FrameReader(server=False), "down": FrameReader(server=True)}

    def _send(self, way: str, data: bytes, deliver: Callable[[bytes], None]) -> None:
        if not data:
            return
        world = self.world
        for piece in world.pieces(data):
            # What a piece completes is known as it leaves: pieces arrive in their order, or not at all.
            kinds = self._frames[way].feed(piece)
            for kind in kinds:
                if kind in ("close", "ping", "pong"):
                    world.note(self.label if way == "up" else f"s:{self.label}", "frame", kind)
            low, high = world.weather.latency
            arrival = max(self._last[way], world.now + low + (high - low) * next(world.chance), self.stall_until)
            self._last[way] = arrival
            world.at(arrival, self._arrive, way, piece, kinds, deliver)

    def _arrive(self, way: str, piece: bytes, kinds: tuple[str, ...], deliver: Callable[[bytes], None]) -> None:
        if not self.open:
            return
        if self.world.now < self.stall_until:
            self.world.at(self.stall_until, self._arrive, way, piece, kinds, deliver)
            return
        self.world.note("net", "deliver", way, connection=self.label, bytes=len(piece), kinds=kinds)
        who_am_i.set(self.label)
        deliver(piece)

    def worker_wrote(self, data: bytes) -> None:
        """Bytes for the server."""
        self._send("up", data, self._to_server)

    def server_wrote(self, data: bytes, *, finished: bool) -> None:
        """Bytes for the worker; ``finished``: and then the end of the stream."""
        self._send("down", data, self._to_worker)
        if finished:
            self.world.at(max(self._last["down"], self.world.now), self._end)

    def _to_server(self, data: bytes) -> None:
        server = self.world.server
        if server is not None and not self.link.finished:
            server.receive_data(self.link, data, self.world.now, self.world.wall())
            self.world.settle()

    def _to_worker(self, data: bytes) -> None:
        if self.worker.pipe is self:
            self.worker.receive(data)

    def _end(self) -> None:
        if self.open:
            self.open = False
            self._worker_eof()

    def _worker_eof(self) -> None:
        if self.worker.pipe is self:
            self.worker.eof()

    def lose(self) -> None:
        """The connection breaks on both ends."""
        if not self.open:
            return
        self.open = False
        self.world.note("net", "broken", "reset", connection=self.label)
        who_am_i.set(self.label)
        if self.world.server is not None:
            self.world.server.receive_eof(self.link, self.world.now, self.world.wall())
            self.world.settle()
        self._worker_eof()


class _CoreWorker:
    """A worker of a few lines around the real core."""

    def __init__(self, world: CoreWorld, index: int, plan: WorkerPlan) -> None:
        self.world = world
        self.index = index
        self.plan = plan
        self.life = f"w{index}.1"
        self.label = self.life
        """``w0.1#2`` for its second connection."""
        self.book = JobBook(plan.max_jobs)
        self.book.on_change = self._note_change
        self.lifecycle = Lifecycle(world.rng(self.life))
        self.core: WorkerConnection | None = None
        self.pipe: _Pipe | None = None
        self.id = ""
        self.registered = False
        self.refused_until = -math.inf
        self._dials = 0
        self._due = math.inf

    def _note_change(self, record: JobRecord, change: Input) -> None:
        self.world.note(self.life, "stage", change.name.lower(), record.job_id, now=record.stage.name.lower())

    def dial(self) -> None:
        """Connect."""
        world = self.world
        if world.server is None or world.now < self.refused_until:
            self._retry(None)
            return
        self._dials += 1
        self.label = f"{self.life}#{self._dials}"
        who_am_i.set(self.label)
        world.note(self.label, "dial")
        self.core = SignalConnection.worker(
            host="sim",
            target="/agent",
            token=worker_token(_KEY, _SECRET, wall=world.wall()),
            registration=Registration(
                job_type=_WIRE_NUMBER[self.plan.type], agent_name=f"sim-{self.plan.type}", version="sim"
            ),
            book=self.book,
            now=world.now,
            wall=world.wall(),
            serial=self._dials,
        )
        link = world.server.open(world.now, world.wall())
        self.pipe = world.pipes[link] = _Pipe(world, self, link)
        self._due = math.inf
        self._settle()

    def receive(self, data: bytes) -> None:
        """Bytes from the server."""
        if self.core is not None and not self.core.finished:
            self.core.receive_data(data, self.world.now)
            self._settle()

    def eof(self) -> None:
        """The stream's end."""
        if self.core is not None:
            self.core.receive_eof(self.world.now)
            self._settle()

    def _settle(self) -> None:
        """The drain rule."""
        core, pipe, world = self.core, self.pipe, self.world
        assert core is not None
        assert pipe is not None
        who_am_i.set(self.label)
        while events := core.events():
            for event in events:
                self._hear(event)
        if pipe.open:
            pipe.worker_wrote(core.data_to_send())
        due = core.next_deadline()
        if due < self._due or self._due <= world.now:
            self._due = due
            if due < math.inf:
                world.at(due, self._timeout, core)
        if core.finished and self.core is core:
            self.core = None
            self.registered = False
            world.at(max(world.now, self._last_words()), pipe.lose)

    def _last_words(self) -> float:
        """When what was written last has arrived: the stream is closed behind it."""
        return self.world.now + self.world.weather.latency[1]

    def _timeout(self, core: WorkerConnection) -> None:
        if core is self.core:
            who_am_i.set(self.label)
            core.handle_timeout(self.world.now)  # harmless when the deadline has moved; then it is set anew
            self._settle()

    def _hear(self, event: Event) -> None:
        match event:
            case Registered():
                self.id, self.registered = event.worker_id, True
                self.lifecycle.registered(self.world.now)
                self.world.note(self.life, "event", "registered", reconnect=self._dials > 1)
            case JobOffered():
                self._answer(event.job.id, *event.job.metadata.split(" "))
            case JobAssigned():
                self._run(event.job.id, *event.job.metadata.split(" "))
            case JobTerminated():
                self._finish(event.job_id, JobStatus.SUCCESS)
            case ConnectionClosed():
                self._retry(event.error)
            case _:
                pass

    def _answer(self, job_id: str, request: str, do: str, seconds: str) -> None:
        core = self.core
        assert core is not None
        if request in ("accept", "ponder"):
            core.accept(job_id, JobMetadata(), self.world.now)
        elif request == "slow":
            self.world.at(self.world.now + 1.0, self._accept_late, job_id, core)
        elif request != "never":
            core.decline(job_id, self.world.now, terminate=request == "reject")

    def _accept_late(self, job_id: str, core: WorkerConnection) -> None:
        if core is self.core:
            who_am_i.set(self.label)
            core.accept(job_id, JobMetadata(), self.world.now)
            self._settle()

    def _run(self, job_id: str, request: str, do: str, seconds: str) -> None:
        self._report(job_id, JobStatus.RUNNING)
        status = JobStatus.FAILED if do in ("raise", "stuck") else JobStatus.SUCCESS
        if do != "hang":
            self.world.at(self.world.now + float(seconds), self._finish, job_id, status)

    def _finish(self, job_id: str, status: JobStatus) -> None:
        record = self.book.get(job_id)
        if record is not None and record.stage in (JobStage.ASSIGNED, JobStage.RUNNING, JobStage.TERMINATING):
            self._report(job_id, status)
            self.book.release(job_id)
            self.world.note(self.life, "event", "job_ended", job_id, status=status.name, reason="", leaves=())
            if self.core is not None:
                self._settle()

    def _report(self, job_id: str, status: JobStatus) -> None:
        who_am_i.set(self.label)
        if self.core is None:
            report_status(self.book, job_id, status, "")
        else:
            self.core.report(job_id, status, "", self.world.now)

    def _retry(self, error: Exception | None) -> None:
        verdict = self.lifecycle.lost(error, self.world.now, jobs_running=False)
        delay = 1.0 if isinstance(verdict, GiveUp) else verdict.delay
        self.world.note(
            self.life,
            "event",
            "connection_lost",
            error="" if error is None else type(error).__name__,
            retry_in=delay,
            retry_after=None,
        )
        self.world.at(self.world.now + delay, self.dial)


assert TYPES == ("room", "participant", "publisher")
