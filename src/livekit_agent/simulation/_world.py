"""Engine (b): the whole SDK in one process under virtual time, living through a scenario.

Real parts: the worker (``UniversalWorker``), the dispatch server, rooms over ``MemoryTransport``, a handler.
Simulated: the network between worker and server (``_network.py``), clocks, load probe, and the people in the rooms.

A run has four acts.  *Chaos*: jobs are launched and faults strike as planned; it goes on, with further jobs and faults,
until the scenario's minimum of both has been reached.  *Heal*: every fault ends; within ``CONVERGENCE`` seconds each
worker must be registered, or have ended with its documented error.  *Lull*: all rooms are closed, and when the jobs are
over nothing happens for a while: idle workers are watched.  *Curtain*: the workers are stopped; nothing may be left.

The run only writes the trace, what it draws included; judging it is ``_checkers.py``'s, so that the same checkers can
judge a hand-written one.
"""

from __future__ import annotations

import json
import math
import random
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio.abc import TaskGroup

from .. import events
from .._errors import AgentError, AuthenticationError, HandshakeError, RoomError
from .._options import WorkerOptions
from .._types import JobType
from ..dispatch import DispatchServer
from ..monitoring._probe import Sample
from ..protocol import Input, JobRecord, SignalConnection
from ..rooms import AudioSource, MemoryRooms, Room
from ..rooms._enums import ParticipantKind
from ..rooms._ledger_events import LedgerEvent, ParticipantEntered, ParticipantGone
from ..runtime._worker import UniversalWorker
from ._actor import ScriptedHandler, leaves_of
from ._exchange import Exchange
from ._media import MediaStage
from ._network import Conditions
from ._recorder import recorded
from ._runtime import virtual_clock
from ._scenario import TYPES, JobPlan, Scenario, draw_fault, draw_job
from ._seat import Seat
from ._tap import Tap, who_am_i
from ._trace import NotedRandom, Trace

if TYPE_CHECKING:
    from ..rooms._memory_transport import MemoryTransport
    from ._faults import FaultDriver

__all__ = ["CONVERGENCE", "World"]

CONVERGENCE = 120.0
"""Seconds after the heal within which every worker must be registered: 30 s of silence until a dead connection is
noticed, at most 30 s of backoff, 10 s each to connect, shake hands and register, and a life that ends and begins."""

CURTAIN = 60.0
"""Seconds within which every job must be over once its room is closed and its worker stopped."""

LULL = 30.0
"""Seconds in which idle workers are watched."""

CENSUS = 15.0
"""Seconds between two looks at all tasks."""

_ROUND, _ROUNDS = 2.5, 80
"""Chaos beyond its time: seconds of a round, and how many there are at most."""

_EPOCH = 1_800_000_000.0
_KEY, _SECRET = "simkey", "simsecret-simsecret-simsecret-32"


class _ScriptedRooms(MemoryRooms):
    """Rooms that tell when somebody meets with a join that was scripted, and what a job hears of its connection."""

    on_scripted: Callable[[], object] = staticmethod(lambda: None)
    on_connection: Callable[[str, str], object]

    async def connect(self, url: str, token: str, **settings: Any) -> Room:
        """As the base class."""
        room = await super().connect(url, token, **settings)
        identity, tell = room.local_participant.identity, room.tell_connection

        def tell_both(listener: Callable[[Any], object]) -> None:
            def hear(event: events.RoomEvent) -> None:
                self.on_connection(identity, type(event).__name__)
                listener(event)

            tell(hear)

        room.tell_connection = tell_both
        return room

    def admit(self, connection: MemoryTransport, token: str, async_id: int) -> None:
        """As the base class."""
        scripted = len(self._script)
        super().admit(connection, token, async_id)
        if len(self._script) < scripted:
            self.on_scripted()


class World:
    """One run of one scenario."""

    def __init__(self, scenario: Scenario, trace: Trace, backend: str) -> None:
        self.scenario = scenario
        self.backend = backend
        self.trace = trace
        self._clock: Callable[[], float] = anyio.current_time
        self.conditions = Conditions(self.rng("network"), self.now)
        self.seats = [Seat(index, plan) for index, plan in enumerate(scenario.workers)]
        self.rooms = _ScriptedRooms(
            {_KEY: _SECRET}, rng=self.rng("rooms"), wall_clock=self.wall, delays=scenario.delays
        )
        self.media = MediaStage(self)
        self.server: DispatchServer | None = None
        self.server_lives = 0
        self.downtime = 1.0
        self.over = False
        self._census: anyio.CancelScope
        self._heal = anyio.Event()
        self.people: dict[str, Room] = {}
        self.dispatches: list[tuple[str, str]] = []
        self.agents: dict[str, tuple[str, str]] = {}
        """Job id → (room, identity) of agents that are in a room now."""
        self.ends: dict[str, tuple[int, float]] = {}
        """Job id → (worker's index, when it will end by itself)."""
        self.faults = 0
        """Those that took effect."""
        self.exchange = Exchange(self)
        self._orphans: int | None = None
        self._kill = anyio.Event()

    # ------------------------------------------------------------------------------------ clocks and chance

    def rng(self, purpose: str) -> random.Random:
        """A generator of its own for each purpose, so that a draw added to one does not shift another."""
        rng = NotedRandom(f"{purpose}:{self.scenario.seed}")
        rng.told = lambda value: self.trace.draw(self._clock(), purpose, value)
        return rng

    def now(self) -> float:
        """Virtual seconds."""
        return self._clock()

    def wall(self) -> float:
        """Virtual Unix seconds."""
        return _EPOCH + self._clock()

    def note(self, who: str, what: str, kind: str = "", job: str = "", **data: Any) -> None:
        """Write into the trace."""
        self.trace.write(self._clock(), who, what, kind, job, data)

    # ------------------------------------------------------------------------------------ the three acts

    @property
    def healed(self) -> bool:
        """Whether chaos is over."""
        return self._heal.is_set()

    async def chaos_lasts(self, seconds: float) -> bool:
        """Wait that long, or until chaos is over; whether it goes on.  What was planned wakes nobody in the lull."""
        with anyio.move_on_after(seconds):
            await self._heal.wait()
        return not self.healed

    async def run(self) -> None:
        """Live through the scenario."""
        from ._faults import FaultDriver

        self._clock = self.conditions.now = virtual_clock(self.backend)
        SignalConnection.tracer = Tap(self.trace, self._clock)
        people = 0
        threads, tasks_before = set(threading.enumerate()), len(anyio.get_running_tasks())
        try:
            with recorded(self.note, self.scenario.seed):
                async with self.rooms, anyio.create_task_group() as tasks:
                    self.tasks: TaskGroup = tasks
                    self.rooms.observe(self._on_ledger)
                    self.rooms.on_connection = self._on_connection
                    self.note("world", "act", "chaos", seed=self.scenario.seed)
                    tasks.start_soon(self._serve)
                    for seat in self.seats:
                        tasks.start_soon(self._live, seat)
                    tasks.start_soon(self._launch_jobs)
                    if self.scenario.media:
                        tasks.start_soon(self.media.run)
                    tasks.start_soon(self._take_census)
                    driver = FaultDriver(self)
                    tasks.start_soon(driver.run)
                    await anyio.sleep_until(self.scenario.chaos_seconds)
                    await self._make_up(driver)
                    self._heal.set()
                    driver.heal()
                    self.note("world", "act", "heal")
                    await self._converge()
                    await self._lull()
                    await self._draw_curtain()
                    people = sum(len(self.rooms.participants(room.name)) for room in self.rooms.list_rooms())
                    tasks.cancel_scope.cancel()
        finally:
            SignalConnection.tracer = None
        self.note(
            "world",
            "end",
            tasks_left=len(anyio.get_running_tasks()) - tasks_before,
            people_left=people,
            agents_left=len(self.agents),
            streams_left=self.exchange.open,
            # New ones, not the difference in number: a thread that trio kept for somebody before may end meanwhile.
            threads_left=len(set(threading.enumerate()) - threads),
        )

    def _satisfied(self) -> bool:
        scenario = self.scenario
        enough = self._given.total() >= scenario.jobs_min and not (scenario.jobs_min and self._wanting)
        return enough and self.faults >= scenario.faults_min

    @property
    def _given(self) -> Counter[str]:
        """Jobs that workers were assigned, by their type."""
        return sum((seat.given for seat in self.seats), Counter[str]())

    @property
    def _wanting(self) -> list[str]:
        """Types of which no worker has had a job."""
        given = self._given
        return [name for name in TYPES if not given[name]]

    def can_spare(self, seat: Seat) -> bool:
        """Whether the scenario's minimum of jobs can be had without this worker from now on."""
        if not seat.given or set(seat.plan.types) & set(self._wanting):
            return False
        others = any(not other.barred for other in self.seats if other is not seat)
        return others or self._given.total() >= self.scenario.jobs_min

    async def _make_up(self, driver: FaultDriver) -> None:
        """More chaos, until workers were given enough jobs of each type and enough faults took effect."""
        rng = self.rng("make up")
        kinds = tuple(dict.fromkeys(fault.kind for fault in self.scenario.faults)) or ("reset",)
        number = len(self.scenario.jobs)
        for _ in range(_ROUNDS):
            if self._satisfied():
                return
            if self.faults < self.scenario.faults_min:
                driver.strike(draw_fault(rng, rng.choice(kinds), self.now()))
            if seat := self._somebody(rng):
                assert seat.worker is not None
                if seat.worker.book.full:
                    # A job that hangs holds the only place: its room is closed.
                    job = next(iter(seat.worker.jobs), None)
                    if job is not None:
                        self.rooms.delete_room(job.job.room.name)
                plan = draw_job(rng, self.now(), seat.type, f"room-{number}")
                self._launch(number, replace(plan, request="accept"))
                number += 1
            await anyio.sleep(_ROUND)

    def _somebody(self, rng: random.Random) -> Seat | None:
        """A worker to have another job: one that serves a type of which there was none, if any is missing.  Where that
        type's turn has not come, the turns before it are made short."""
        wanting = self._wanting
        working = [seat for seat in self.seats if seat.worker is not None and not seat.worker.draining]
        serving = [seat for seat in working if not wanting or seat.type in wanting]
        if serving:
            return rng.choice(serving)
        for seat in working:
            if set(seat.plan.turns) & set(wanting) or seat.plan.type in wanting:
                self.stop(seat)
        return None

    async def _converge(self) -> None:
        converged = await self._wait(lambda: all(self._settled(seat) for seat in self.seats), CONVERGENCE)
        for seat in self.seats:
            self.note(seat.label, "converged", seat.worker.status.value if seat.worker else "none")
        self.note("world", "act", "converged" if converged else "not converged")

    @staticmethod
    def _settled(seat: Seat) -> bool:
        if seat.gone or (seat.barred and seat.worker is not None and seat.worker.jobs):
            return True  # refused for good: gone, or as long as its jobs run it keeps trying for their statuses
        return seat.worker is not None and bool(seat.worker.worker_id) and not seat.worker.draining

    async def _lull(self) -> None:
        """Close the rooms, let the jobs end by that; then count what idle workers do."""
        for record in list(self.rooms.list_rooms()):
            self.rooms.delete_room(record.name)
        idle = await self._wait(lambda: not any(seat.worker and seat.worker.jobs for seat in self.seats), CURTAIN)
        self.note("world", "act", "lull" if idle else "no lull")
        workers = sum(seat.worker is not None for seat in self.seats)
        # Nothing else shall wake: statuses are proven, standings told, the rooms' last counts are due, and the server
        # has given up the connections of earlier lives, which it does in its own time.
        self._census.cancel()
        await anyio.sleep(max(3.0, self.rooms.delays.counting))
        await self._wait(lambda: self.exchange.open <= workers, CURTAIN)
        steps = self.trace.steps
        await anyio.sleep(LULL)
        steps = self.trace.steps - steps
        self.tasks.start_soon(self._take_census)
        if idle and workers:  # the only one may have been refused for good
            self.note("world", "lull", "over", "", steps=steps, seconds=LULL, workers=workers, backend=self.backend)

    async def _draw_curtain(self) -> None:
        """Stop the workers."""
        self.over = True
        self.note("world", "act", "curtain")
        for seat in self.seats:
            worker = seat.worker
            if worker is not None:
                self.stop(seat, 1.0)
                # With the same time-out: without one the second call would shorten the stop.
                calls = {"worker.stop": partial(worker.stop, 1.0), "wait_stuck": worker.wait_stuck}
                await self.check_checkpoints(seat.label, calls)
        await self._wait(lambda: all(seat.worker is None for seat in self.seats), CURTAIN)
        for room in list(self.people.values()):
            await room.disconnect()

    async def _wait(self, condition: Callable[[], bool], seconds: float) -> bool:
        deadline = self.now() + seconds
        while not condition():
            if self.now() >= deadline:
                return False
            await anyio.sleep(0.25)
        return True

    async def check_checkpoints(self, who: str, calls: Mapping[str, Callable[[], Awaitable[object]]]) -> None:
        """Call each inside a cancelled scope and note whether it honoured that."""
        for name, call in calls.items():
            with anyio.CancelScope() as scope:
                scope.cancel()
                await call()
            self.note(who, "checkpoint", name, honoured=scope.cancelled_caught)

    async def _take_census(self) -> None:
        """Count tasks, and those without a parent: on asyncio, what no task group knows."""
        with anyio.CancelScope() as self._census:
            while True:
                tasks = anyio.get_running_tasks()
                orphans = sum(task.parent_id is None for task in tasks)
                if self._orphans is None:
                    self._orphans = orphans  # the root, and what the backend keeps for itself
                self.note("world", "census", "", "", tasks=len(tasks), orphans=orphans - self._orphans)
                await anyio.sleep(CENSUS)

    # ------------------------------------------------------------------------------------ the server

    async def _serve(self) -> None:
        """A server, and another after each restart: it remembers nothing of the one before."""
        while not self.over:
            self.server_lives += 1
            self._kill = anyio.Event()
            server = DispatchServer(
                port=None,
                api_key=_KEY,
                api_secret=_SECRET,
                rooms=self.rooms,
                rng=self.rng(f"server{self.server_lives}"),
                wall_clock=self.wall,
            )
            async with server, anyio.create_task_group() as tasks:
                self.server = server
                self.server_tasks = tasks
                self.note("world", "server", "up", life=self.server_lives)
                await self._kill.wait()
                self.server = None
                self.note("world", "server", "down")
                for seat in self.seats:
                    if seat.connection is not None:
                        seat.connection.reset()
                tasks.cancel_scope.cancel()
            await anyio.sleep(self.downtime)

    def kill_server(self, downtime: float) -> bool:
        """The server dies; it comes back ``downtime`` seconds later."""
        if self.server is None:
            return False
        self.downtime = downtime
        self._kill.set()
        return True

    def _on_connection(self, identity: str, what: str) -> None:
        """What a job is told, in the moment in which it is told."""
        kind = {"Reconnecting": "broken", "Reconnected": "back"}.get(what)
        if kind is not None:
            self.note("world", "room", kind, identity.removeprefix("agent-"))

    def _on_ledger(self, event: LedgerEvent) -> None:
        if isinstance(event, ParticipantEntered | ParticipantGone):
            person = event.participant
            if person.kind == ParticipantKind.AGENT and person.identity.startswith("agent-"):
                job_id = person.identity.removeprefix("agent-")
                if isinstance(event, ParticipantEntered):
                    self.note("world", "room", "entered", job_id)
                else:
                    self.note("world", "room", "left", job_id, reason=int(event.reason))

    # ------------------------------------------------------------------------------------ workers

    async def _live(self, seat: Seat) -> None:
        """A worker's lives: when one ends, for whatever reason, the next begins after a pause, as under systemd."""
        plan = seat.plan
        await anyio.sleep_until(plan.starts_at)
        while not self.over:
            seat.type = plan.types[seat.life % len(plan.types)]
            seat.life += 1
            who_am_i.set(seat.label)
            seat.worker = worker = self._make_worker(seat)
            self._watch(seat, worker)
            seat.pause = 1.0
            self.note(seat.label, "worker", "started", "", **asdict(replace(plan, type=seat.type)))
            if plan.turns:
                self.tasks.start_soon(self._end_turn, seat, worker)
            error: AgentError | None = None
            with anyio.CancelScope() as scope:
                seat.scope = scope
                try:
                    await worker.start()
                except AgentError as exc:
                    error = exc
            report = worker.report_so_far
            self.note(
                seat.label,
                "worker",
                "ended",
                "",
                error="" if error is None else type(error).__name__,
                cancelled=scope.cancelled_caught,
                drained=report.drained,
                cut=report.cancelled,
                stuck=report.stuck,
                unproven=report.statuses_unproven,
                elapsed=report.elapsed,
            )
            seat.worker = None
            if seat.barred and isinstance(error, AuthenticationError):
                seat.gone = True
                return
            await anyio.sleep(seat.pause)

    async def _end_turn(self, seat: Seat, worker: UniversalWorker) -> None:
        """This life makes way for one that serves another type."""
        if await self.chaos_lasts(seat.plan.turn_seconds) and seat.worker is worker and not worker.draining:
            self.stop(seat)

    def _watch(self, seat: Seat, worker: UniversalWorker) -> None:
        """Note what the worker and its job book do, at the instant they do it."""
        label = seat.label

        def on_change(record: JobRecord, change: Input) -> None:
            if change is Input.ASSIGN:
                seat.given[seat.type] += 1
            self.note(label, "stage", change.name.lower(), record.job_id, now=record.stage.name.lower())

        def on_event(event: object) -> None:
            match event:
                case events.Registered():
                    self.note(label, "event", "registered", reconnect=event.reconnect)
                case events.ConnectionLost():
                    asked = event.error.retry_after if isinstance(event.error, HandshakeError) else None
                    error = type(event.error).__name__
                    retry = event.retry_in
                    self.note(label, "event", "connection_lost", error=error, retry_in=retry, retry_after=asked)
                case events.JobStarted():
                    self.note(label, "event", "job_started", event.job.id)
                case events.JobEnded():
                    status, leaves = event.status.name, leaves_of(event.error)
                    self.note(
                        label, "event", "job_ended", event.job.id, status=status, reason=event.reason, leaves=leaves
                    )
                case events.Draining():
                    self.note(label, "event", "draining", timeout=event.timeout)
                case _:
                    pass

        worker.book.on_change = on_change
        worker.observe(on_event)

    def _make_worker(self, seat: Seat) -> UniversalWorker:
        plan = seat.plan
        label = seat.label
        return UniversalWorker(
            "ws://localhost:7880",
            _KEY,
            _SECRET,
            ScriptedHandler(self, seat),
            WorkerOptions(
                agent_name=f"sim-{seat.type}",
                job_type=JobType[seat.type.upper()],
                max_jobs=plan.max_jobs,
                shutdown_timeout=plan.shutdown_timeout,
                cancel_grace=plan.cancel_grace,
                cleanup_timeout=plan.cleanup_timeout,
                job_timeout=math.inf if plan.job_timeout is None else plan.job_timeout,
                reconnect_timeout=plan.reconnect_timeout,
            ),
            rooms=self.rooms,
            connector=lambda endpoint: self.exchange.dial(seat),
            rng=self.rng(label),
            wall_clock=lambda: self.wall() + seat.skew,
            probe=Sample,
        )

    def stop(self, seat: Seat, timeout: float | None = None) -> None:
        """Ask a worker to stop, as its supervisor would."""
        assert seat.worker is not None
        if timeout is None:
            timeout = seat.plan.shutdown_timeout
        self.note(seat.label, "worker", "stop", "", timeout=timeout)
        seat.worker.request_stop(timeout)

    def on_shield(self, function: str, seconds: float) -> None:
        """A shield of the SDK was left."""
        self.note(who_am_i.get(), "shield", function, "", seconds=seconds)

    # ------------------------------------------------------------------------------------ jobs and people

    async def _launch_jobs(self) -> None:
        for number, job in enumerate(self.scenario.jobs):
            await anyio.sleep_until(max(job.at, self.now()))
            self._launch(number, job)

    def _launch(self, number: int, job: JobPlan) -> None:
        if job.type == "room":
            self._dispatch(number, job)
        else:
            self.tasks.start_soon(self._bring_person, number, job)

    async def _bring_person(self, number: int, job: JobPlan) -> None:
        """Somebody joins, and publishes for a publisher job; then the agent is dispatched to the room."""
        identity = f"person-{number}"
        try:
            room = await self.rooms.join(job.room, identity)
            self.people[identity] = room
            if job.type == "publisher":
                await room.local_participant.publish_audio(AudioSource(), name="voice")
        except RoomError:
            return  # the room was closed under them
        self._dispatch(number, job)

    def _dispatch(self, number: int, job: JobPlan) -> None:
        if self.server is None:
            self.note("world", "job", "not launched", "", number=number)
            return
        script = {k: v for k, v in asdict(job).items() if k in ("request", "do", "seconds", "children", "cleanup")}
        record = self.server.create_dispatch(job.room, f"sim-{job.type}", metadata=json.dumps(script))
        self.dispatches.append((job.room, record.id))
        served = any(seat.serves(job.type) for seat in self.seats)
        self.note("world", "job", "launched", "", number=number, type=job.type, dispatch=record.id, served=served)
        if job.delete_after:
            self.tasks.start_soon(self._delete_later, job, record.id)

    async def _delete_later(self, job: JobPlan, dispatch_id: str) -> None:
        if await self.chaos_lasts(job.delete_after) and self.server is not None:
            self.server.delete_dispatch(job.room, dispatch_id)
