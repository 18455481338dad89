"""The dispatch server's core and up to three worker cores, against a model, for as long as hypothesis likes.

Both ends are the real ones, bytes in between; there is no loop and no room.  Workers connect, break off, close, drain,
answer, report and go away as they please; rooms, dispatches and agents come and go; time passes.  After each step:
nobody is asked twice or while full, a job has at most one worker, its worker and the server agree about it, a verdict
stays; and when everything has calmed down, nothing is left half done.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

from dispatch_world import KEY, KEYS, World, person
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from livekit.protocol import models as models_pb

from livekit_agent import protocol
from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.dispatch import _events as told
from livekit_agent.dispatch._core import DispatchCore, Link, Order
from livekit_agent.dispatch._events import DispatchEvent, JobPhase, JobRecord
from livekit_agent.protocol import JobBook, JobStage, Registration, SignalConnection, Stage, worker_token

FINAL = (JobStatus.SUCCESS, JobStatus.FAILED)
NAMES = ("", "a")
SEATS = st.integers(0, 2)
PICKS = st.integers(0, 5)

#: What the server may find odd in what our own worker says: only what crossed something else on its way.
EXPECTED_ODDITIES = {
    "availability: no open offer of job AJ",
    "job status: the job does not run on this connection",
    "update_job: job AJ is not running here",
}


class Seat:
    """A worker over all its connections: the core of the present one, the book, and what was told."""

    def __init__(self, number: int, name: str, max_jobs: int | None) -> None:
        self.number = number
        self.name = name
        self.max_jobs = max_jobs
        self.book = JobBook(max_jobs)
        self.serial = 0
        self.draining = False
        self.link: Link | None = None
        self.core: Any = None
        self.worker_id = ""
        self.asked: dict[str, None] = {}
        self.mine: dict[str, JobStatus | None] = {}
        """Jobs that were assigned to it, and how it ended them."""
        self.proven: dict[str, None] = {}

    @property
    def registered(self) -> bool:
        return self.core is not None and not self.core.finished and self.core.stage is Stage.REGISTERED


class Fleet(RuleBasedStateMachine):
    """The model is in the seats and in ``ends``; the rest is asked of the two cores."""

    @initialize(
        seed=st.integers(0, 3),
        names=st.tuples(*[st.sampled_from(NAMES)] * 3),
        places=st.tuples(*[st.sampled_from([1, 2, None])] * 3),
    )
    def begin(self, seed: int, names: tuple[str, ...], places: tuple[int | None, ...]) -> None:
        self.world = World(seed=seed)
        self.core: DispatchCore = self.world.core
        self.seats = [Seat(number, names[number], places[number]) for number in range(3)]
        self.rooms: dict[str, int] = {}
        """Live rooms, and which one of that name each is."""
        self.opened = 0
        self.homes: dict[str, int] = {}
        """The room that a job was launched in."""
        self.agents: dict[str, str] = {}
        """Identities of agents that are in their room."""
        self.ends: dict[str, tuple[int, str]] = {}
        self.assigned: Counter[str] = Counter()
        self.odd = Counter[str]()
        for number in range(3):
            self.connect(number)
        self.open_room("r", ("", "a"))

    # ------------------------------------------------------------------------------------ carrying bytes

    def settle(self) -> None:
        """Carry bytes both ways until nothing moves, and enter what was told."""
        moved = True
        while moved:
            moved = False
            for link in self.core.take_touched():
                moved |= self._carry_to_worker(link)
            for event in self.core.take_events():
                self._hear_server(event)
                moved = True
            for seat in self.seats:
                moved |= self._carry_to_server(seat)

    def _carry_to_worker(self, link: Link) -> bool:
        seat = next((seat for seat in self.seats if seat.link is link), None)
        data = link.connection.data_to_send()
        if seat is None or seat.core.finished:
            return False
        if data:
            seat.core.receive_data(data, self.world.now)
        if link.finished and not seat.core.finished:
            seat.core.receive_eof(self.world.now)
        return True

    def _carry_to_server(self, seat: Seat) -> bool:
        if seat.core is None:
            return False
        news = seat.core.events()
        for event in news:
            self._hear_worker(seat, event)
        data = seat.core.data_to_send()
        link = seat.link
        assert link is not None
        if data and not link.finished:
            self.core.receive_data(link, data, *self.world.times)
        if seat.core.finished and not link.finished:
            self.core.receive_eof(link, *self.world.times)
        return bool(news or data)

    def _hear_worker(self, seat: Seat, event: protocol.Event) -> None:
        match event:
            case protocol.JobOffered(job=job):
                assert job.id not in seat.asked
                assert job.id not in seat.mine
                seat.asked[job.id] = None
            case protocol.AnswerExpired(job_id=job_id):
                seat.asked.pop(job_id, None)
            case protocol.JobAssigned(job=job):
                assert job.id not in seat.mine, "assigned twice"
                seat.mine[job.id] = None
            case protocol.JobTerminated(job_id=job_id):
                assert job_id in seat.mine
            case protocol.StatusDelivered(job_id=job_id, status=status):
                assert seat.mine[job_id] is status
                seat.proven[job_id] = None
            case protocol.AssignmentRefused():
                raise AssertionError("this server assigns what was accepted in time, and nothing else")
            case protocol.Registered(worker_id=worker_id):
                seat.worker_id = worker_id
            case _:
                pass

    def _hear_server(self, event: DispatchEvent) -> None:
        match event:
            case told.JobOffered(job=job, worker=worker):
                self.homes.setdefault(job.id, self.rooms.get(job.room, 0))
                assert worker.available, "a full worker was asked"
                assert job.asked.count(worker.id) == 1, "asked twice"
            case told.JobAssigned(job=job):
                self.assigned[job.id] += 1
            case told.JobEnded(job=job, status=status, error=error):
                assert job.id not in self.ends, "two verdicts"
                self.ends[job.id] = (status, error)
            case told.MessageTolerated(kind=kind, reason=reason):
                self.odd[re.sub("AJ_[0-9A-Za-z]+", "AJ", f"{kind}: {reason}")] += 1
                assert set(self.odd) <= EXPECTED_ODDITIES, self.odd
            case told.ParticipantRemovalDue(room=room, identity=identity):
                self._leave(room, identity)
            case _:
                pass

    # ------------------------------------------------------------------------------------ workers

    def _open_offers(self, seat: Seat) -> list[str]:
        return list(seat.asked) if seat.registered else []

    @rule(number=SEATS)
    def connect(self, number: int) -> None:
        seat = self.seats[number]
        if seat.core is not None and not seat.core.finished:
            return
        seat.serial += 1
        now, wall = self.world.times
        seat.asked.clear()
        seat.link = self.core.open(now, wall)
        seat.core = SignalConnection.worker(
            host="h",
            target="/agent",
            token=worker_token(KEY, KEYS[KEY], wall=wall),
            registration=Registration(agent_name=seat.name, version="1"),
            book=seat.book,
            now=now,
            wall=wall,
            serial=seat.serial,
        )
        if seat.draining:
            seat.core.drain(now)
        self.settle()
        assert seat.registered

    @rule(number=SEATS, how=st.sampled_from(["break", "close", "server drops", "server closes"]))
    def part(self, number: int, how: str) -> None:
        seat = self.seats[number]
        if not seat.registered:
            return
        assert seat.link is not None
        times = self.world.times
        match how:
            case "break":
                seat.core.receive_eof(times[0])
                self.core.receive_eof(seat.link, *times)
            case "close":
                seat.core.close(times[0])
            case "server drops":
                assert self.core.disconnect(seat.worker_id, *times)
            case _:
                assert self.core.go_away(seat.worker_id, "elsewhere", *times)
                seat.core.close(times[0])
        self.settle()
        self.advance(3)
        assert seat.core.finished
        assert seat.worker_id not in self.core.workers

    @precondition(lambda self: any(self._open_offers(seat) for seat in self.seats))
    @rule(pick=PICKS, yes=st.sampled_from([True, True, True, False]), terminate=st.booleans())
    def answer(self, pick: int, yes: bool, terminate: bool) -> None:
        offers = [(seat, job_id) for seat in self.seats for job_id in self._open_offers(seat)]
        seat, job_id = offers[pick % len(offers)]
        record = self.core.jobs[job_id]
        waits = record.phase is JobPhase.OFFERED and record.worker_id == seat.worker_id
        if yes:
            took = seat.core.accept(job_id, JobMetadata(participant_identity=f"agent-{job_id}"), self.world.now)
        else:
            took = False
            seat.core.decline(job_id, self.world.now, terminate=terminate)
        seat.asked.pop(job_id, None)
        self.settle()
        if took:
            assert (job_id in seat.mine) == waits, "a yes in time is an assignment"
        elif waits and terminate and not yes:
            assert self.ends[job_id] == (JobStatus.SUCCESS, "")

    @precondition(lambda self: self._live_jobs())
    @rule(pick=PICKS, status=st.sampled_from([JobStatus.RUNNING, *FINAL]))
    def report(self, pick: int, status: JobStatus) -> None:
        live = self._live_jobs()
        seat, job_id = live[pick % len(live)]
        stage = self._stage(seat, job_id)
        if status is JobStatus.RUNNING and stage is not JobStage.ASSIGNED:
            return
        if seat.core.finished:
            protocol.report_status(seat.book, job_id, status, "")
        else:
            seat.core.report(job_id, status, "", self.world.now)
        if status in FINAL:
            seat.mine[job_id] = status
        self.settle()

    def _live_jobs(self) -> list[tuple[Seat, str]]:
        return [(seat, job_id) for seat in self.seats for job_id, end in seat.mine.items() if end is None]

    def _stage(self, seat: Seat, job_id: str) -> JobStage | None:
        record = seat.book.get(job_id)
        return None if record is None else record.stage

    @rule()
    def release(self) -> None:
        for seat in self.seats:
            for job_id, end in seat.mine.items():
                if end is not None and self._stage(seat, job_id) is JobStage.ENDED:
                    seat.book.release(job_id)
        self.settle()

    @rule(number=SEATS, load=st.sampled_from([0.0, 0.3, 0.69, 0.8, 1.0]))
    def standing(self, number: int, load: float) -> None:
        seat = self.seats[number]
        if seat.registered:
            seat.core.set_standing(load, load >= 1.0, self.world.now)
            self.settle()

    @rule(number=SEATS)
    def drain(self, number: int) -> None:
        seat = self.seats[number]
        seat.draining = True
        if seat.registered:
            seat.core.drain(self.world.now)
            seat.asked.clear()
            self.settle()
            assert not self.core.workers[seat.worker_id].available

    # ------------------------------------------------------------------------------------ rooms and their jobs

    @rule(room=st.sampled_from("rs"), agents=st.sampled_from([(), ("a",), ("", "a")]))
    def open_room(self, room: str, agents: tuple[str, ...]) -> None:
        if room in self.rooms:
            return
        self.opened += 1
        self.rooms[room] = self.opened
        message = models_pb.Room(name=room, sid="RM_" + room)
        self.core.room_opened(message, [Order(agent_name=name) for name in agents], *self.world.times)
        self.settle()

    @precondition(lambda self: self.rooms)
    @rule(name=st.sampled_from(NAMES), pick=PICKS)
    def dispatch(self, name: str, pick: int) -> None:
        room = list(self.rooms)[pick % len(self.rooms)]
        self.core.create_dispatch(room, Order(agent_name=name), *self.world.times)
        self.settle()

    @precondition(lambda self: self.rooms)
    @rule(pick=PICKS, which=PICKS)
    def delete_dispatch(self, pick: int, which: int) -> None:
        room = list(self.rooms)[pick % len(self.rooms)]
        dispatches = self.core.dispatches(room)
        if dispatches:
            dispatch = dispatches[which % len(dispatches)]
            self.core.delete_dispatch(room, dispatch.id, *self.world.times)
            self.settle()
            assert dispatch not in self.core.dispatches(room)

    @precondition(lambda self: self._running())
    @rule(pick=PICKS)
    def agent_joins(self, pick: int) -> None:
        absent = [
            job
            for job in self._running()
            if job.identity not in self.agents and self.rooms.get(job.room) == self.homes[job.id]
        ]
        if absent:
            job = absent[pick % len(absent)]
            self.agents[job.identity] = job.room
            agent = person(job.identity, kind="AGENT")
            self.core.participant_entered(job.room, agent, *self.world.times)
            self.settle()

    @precondition(lambda self: self.agents)
    @rule(pick=PICKS)
    def agent_leaves(self, pick: int) -> None:
        identity = list(self.agents)[pick % len(self.agents)]
        job = self.core.jobs[identity.removeprefix("agent-")]
        ran = job.phase is JobPhase.RUNNING
        self._leave(job.room, identity)
        self.settle()
        assert not ran or self.ends[job.id] == (JobStatus.FAILED, "agent worker left the room")

    def _leave(self, room: str, identity: str) -> None:
        if self.agents.pop(identity, None) is not None:
            self.core.participant_gone(room, identity, *self.world.times)

    @rule(room=st.sampled_from("rs"))
    def close_room(self, room: str) -> None:
        if room in self.rooms:
            for identity, home in list(self.agents.items()):
                if home == room:
                    self._leave(room, identity)
            self.core.room_ended(room)
            del self.rooms[room]
            self.settle()

    def _running(self) -> list[JobRecord]:
        return [job for job in self.core.jobs.values() if job.phase is JobPhase.RUNNING]

    # ------------------------------------------------------------------------------------ time

    @rule(seconds=st.sampled_from([0.01, 0.01, 0.06, 0.06, 1.0, 2.5, 2.9, 3.1, 8.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass; every deadline of everybody happens at its own instant."""
        end = self.world.now + seconds
        self.settle()
        while (when := min([self.core.next_deadline(), *(seat.core.next_deadline() for seat in self._live())])) <= end:
            self._go(max(when, self.world.now))
            self.core.handle_timeout(*self.world.times)
            for seat in self._live():
                seat.core.handle_timeout(self.world.now)
            self.settle()
        self._go(end)

    def _go(self, when: float) -> None:
        self.world.wall += when - self.world.now
        self.world.now = when

    def _live(self) -> list[Seat]:
        return [seat for seat in self.seats if seat.core is not None and not seat.core.finished]

    # ------------------------------------------------------------------------------------ always

    @invariant()
    def a_job_has_one_worker_and_one_verdict(self) -> None:
        assert all(count == 1 for count in self.assigned.values())
        owners = Counter(job_id for seat in self.seats for job_id in seat.mine)
        assert all(count == 1 for count in owners.values())
        assert set(owners) == set(self.assigned)
        for job_id, end in self.ends.items():
            job = self.core.jobs[job_id]
            assert (job.phase, (job.status, job.error)) == (JobPhase.ENDED, end), "a verdict stays"

    @invariant()
    def places_are_never_exceeded(self) -> None:
        for seat in self.seats:
            if seat.max_jobs is not None:
                assert seat.book.places_taken <= seat.max_jobs

    @invariant()
    def server_and_worker_agree_about_who_runs_what(self) -> None:
        for seat in self.seats:
            if not seat.registered:
                continue
            believed = set(self.core.workers[seat.worker_id].jobs)
            assert believed <= set(seat.mine)
            for job_id in believed:
                # Either it runs, or its end waits for the moment when the server has surely recorded the assignment.
                assert seat.mine[job_id] is None or job_id not in seat.proven

    @invariant()
    def an_open_offer_is_open_on_both_ends_or_too_late(self) -> None:
        for seat in self.seats:
            assert seat.link is None or set(seat.link.offers) <= set(seat.asked) or not seat.registered or seat.draining

    def teardown(self) -> None:
        """Calm: everybody connects, nothing more is asked, and what was promised has come about."""
        if not hasattr(self, "seats"):
            return
        for seat in self.seats:
            if seat.serial and not seat.registered:
                self.connect(seat.number)
        self.advance(15)
        for seat in self.seats:
            assert seat.book.unproven() == []
            assert seat.book.reserved == 0
            for job_id, end in seat.mine.items():
                job = self.core.jobs[job_id]
                if end is not None and job.phase is not JobPhase.FORGOTTEN:
                    assert job.phase is JobPhase.ENDED
                    assert [update.status for update in job.history if update.status in FINAL] in ([], [end])
        for job in self.core.jobs.values():
            assert job.phase is not JobPhase.OFFERED
            assert job.phase is not JobPhase.RUNNING or any(job.id in seat.mine for seat in self.seats)


TestFleet = Fleet.TestCase
TestFleet.settings = settings(max_examples=120, stateful_step_count=40)
