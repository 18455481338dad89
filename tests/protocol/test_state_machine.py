"""A worker against a server against a simple model, for as long as hypothesis likes.

The wire may be cut and joined again, time may pass, both sides may do whatever their verbs allow.  After each step:
places are never exceeded (J6), what the server has heard of a job is in order and ends at most once (W7 to W10), and
every offer is answered at most once (W2).

Jobs drawn blindly hardly ever get from an offer to an end, so most steps take a job for which they mean something; in
the end it is asked whether the conversations got everywhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from livekit_agent._errors import LocalProtocolError
from livekit_agent._types import JobMetadata, JobStatus
from livekit_agent.protocol import (
    JOB,
    AnswerExpired,
    Input,
    JobAssigned,
    JobBook,
    JobOffered,
    JobStage,
    JobTerminated,
    StatusDelivered,
)

from . import pair
from .pair import Pair

JOB_IDS = [f"AJ_{n}" for n in range(6)]
ids = st.sampled_from(JOB_IDS)
picks = st.integers(0, 11)

REACHED: Counter[str] = Counter()
"""What happened in all conversations."""


class Conversation(RuleBasedStateMachine):
    """The model: per job what the worker was told, and everything every server ever heard."""

    @initialize(max_jobs=st.sampled_from([1, 2, 3]))
    def begin(self, max_jobs: int) -> None:
        self.max_jobs = max_jobs
        self.book = JobBook(max_jobs)
        self.serial = 0
        self.now = 0.0
        self.draining = False
        self.asked: set[str] = set()
        self.mine: dict[str, str] = {}  # job id → assigned, running, terminating
        self.finals: dict[str, JobStatus] = {}
        self.heard: dict[str, list[int]] = {job_id: [] for job_id in JOB_IDS}
        self.delivered: Counter[str] = Counter()
        self.assigned: Counter[str] = Counter()
        self.connect()

    # ------------------------------------------------------------------------------------ steps

    def connect(self) -> None:
        self.serial += 1
        self.two = Pair(book=self.book, serial=self.serial, now=self.now)
        if self.draining:
            self.two.worker.drain(self.now)
        self.two.connect()
        self.two.server.registered(f"AW_{self.serial}", pair.INFO, self.now)
        self.offered_here: Counter[str] = Counter()
        self.answered_here: Counter[str] = Counter()
        self.settle()

    def settle(self) -> None:
        """Let bytes flow and enter what was told into the model."""
        self.two.flow()
        self.now = self.two.now
        for event in self.two.news_of_worker():
            if isinstance(event, JobOffered):
                assert event.job.id not in self.mine
                self.asked.add(event.job.id)
            elif isinstance(event, AnswerExpired):
                self.asked.discard(event.job_id)
            elif isinstance(event, JobAssigned):
                self.assigned[event.job.id] += 1
                self.mine[event.job.id] = "assigned"
            elif isinstance(event, JobTerminated):
                assert self.mine[event.job_id] in ("assigned", "running")
                self.mine[event.job_id] = "terminating"
                REACHED["terminated"] += 1
            elif isinstance(event, StatusDelivered):
                assert event.status is self.finals[event.job_id]
                self.delivered[event.job_id] += 1
                REACHED["delivered"] += 1
        for message in self.two.said_by_worker():
            if message.WhichOneof("message") == "update_job":
                self.heard[message.update_job.job_id].append(message.update_job.status)
            if message.WhichOneof("message") == "availability":
                self.answered_here[message.availability.job_id] += 1
            if message.WhichOneof("message") == "update_worker":
                assert 0.0 <= message.update_worker.load <= 1.0
        self.two.news_of_server()

    @staticmethod
    def pick(number: int, fitting: Iterable[str]) -> str:
        """One of those that fit, or sometimes any job."""
        jobs = sorted(fitting)
        return jobs[number % len(jobs)] if jobs and number < 9 else JOB_IDS[number % len(JOB_IDS)]

    def mine_in(self, *states: str) -> list[str]:
        """Jobs of the worker's in these states of the model."""
        return [job_id for job_id, state in self.mine.items() if state in states]

    def stage(self, job_id: str, book: JobBook) -> JobStage | None:
        record = book.get(job_id)
        return None if record is None else record.stage

    @rule(job_id=ids, further=st.integers(0, 4))
    def offer(self, job_id: str, further: int) -> None:
        stage = self.stage(job_id, self.two.server.book)
        legal = stage in (None, JobStage.DECLINED, JobStage.LAPSED) and not self.two.server.finished
        try:
            self.two.server.offer(pair.job(job_id), self.now)
        except LocalProtocolError:
            assert not legal
        else:
            assert legal
            self.offered_here[job_id] += 1
        self.settle()
        for _ in range(further):
            self.take_a_step(0, JobStatus.SUCCESS)

    @rule(number=picks, yes=st.sampled_from([True, True, True, False]), terminate=st.booleans())
    def answer(self, number: int, yes: bool, terminate: bool) -> None:
        job_id = self.pick(number, self.asked)
        if self.book.get(job_id) is None:
            return
        open_offer = job_id in self.asked and not self.two.worker.finished
        if yes:
            room = self.book.places_taken < self.max_jobs and not self.draining
            took = self.two.worker.accept(job_id, JobMetadata(), self.now)
            assert took is (open_offer and room)
        else:
            self.two.worker.decline(job_id, self.now, terminate=terminate)
        self.asked.discard(job_id)
        self.settle()

    @rule(number=picks)
    def assign(self, number: int) -> None:
        job_id = self.pick(number, (record.job_id for record in self.two.server.book.accepted()))
        record = self.two.server.book.get(job_id)
        if record is None or not record.allows(Input.ASSIGN) or self.two.server.finished:
            return
        self.two.server.assign(pair.job(job_id), "t", self.now)
        self.settle()

    @rule(number=picks)
    def terminate(self, number: int) -> None:
        job_id = self.pick(number, self.mine_in("assigned", "running"))
        record = self.two.server.book.get(job_id)
        if record is None or not record.allows(Input.TERMINATE) or self.two.server.finished:
            return
        self.two.server.terminate(job_id, self.now)
        self.settle()

    @rule(number=picks, status=st.sampled_from([JobStatus.RUNNING, JobStatus.SUCCESS, JobStatus.FAILED]))
    def report(self, number: int, status: JobStatus) -> None:
        job_id = self.pick(number, self.mine_in("assigned", "running", "terminating"))
        if self.book.get(job_id) is None:
            return
        state = self.mine.get(job_id)
        if status is JobStatus.RUNNING:
            legal = state in ("assigned", "terminating")
        else:
            legal = state in ("assigned", "running", "terminating")
        try:
            self.two.worker.report(job_id, status, "", self.now)
        except LocalProtocolError:
            assert not legal
        else:
            assert legal
            if status is not JobStatus.RUNNING:
                self.finals[job_id] = status
                self.mine[job_id] = "ended"
                REACHED[f"ended while {state}"] += 1
                REACHED["ended without a connection"] += self.two.worker.finished
            elif state == "assigned":
                self.mine[job_id] = "running"
        self.settle()

    @precondition(lambda self: self.mine_in("assigned", "running", "terminating"))
    @rule(number=picks, status=st.sampled_from([JobStatus.SUCCESS, JobStatus.FAILED]))
    def end(self, number: int, status: JobStatus) -> None:
        self.take_a_step(number, status)

    def take_a_step(self, number: int, status: JobStatus) -> None:
        """A job's next step, whatever that is: rules drawn blindly hardly ever follow each other so."""
        if self.asked:
            self.answer(number, True, False)
        elif self.two.server.book.accepted():
            self.assign(number)
        elif self.mine_in("assigned"):
            self.report(0, JobStatus.RUNNING)
        else:
            self.report(number, status)

    @precondition(lambda self: "ended" in self.mine.values())
    @rule(number=picks)
    def release(self, number: int) -> None:
        job_id = self.pick(number, self.mine_in("ended"))
        if self.mine.get(job_id) == "ended":
            REACHED["released"] += 1
            self.book.release(job_id)
        self.settle()

    @rule(seconds=st.sampled_from([0.01, 0.05, 1.0, 2.5, 7.5, 12.0]))
    def wait(self, seconds: float) -> None:
        self.two.advance(seconds)
        self.settle()

    @rule(load=st.floats())
    def standing(self, load: float) -> None:
        self.two.worker.set_standing(load, False, self.now)
        self.settle()

    @precondition(lambda self: not self.two.worker.finished)
    @rule(further=st.integers(0, 2))
    def break_off(self, further: int) -> None:
        self.two.break_off()
        self.settle()
        assert not self.asked
        assert self.book.reserved == 0
        for _ in range(further):
            self.take_a_step(0, JobStatus.FAILED)

    @rule(worker_closes=st.booleans())
    def close(self, worker_closes: bool) -> None:
        (self.two.worker if worker_closes else self.two.server).close(self.now)
        self.settle()

    @precondition(lambda self: self.two.worker.finished)
    @rule()
    def reconnect(self) -> None:
        REACHED["reconnected with a job alive"] += any(True for _ in self.book.live())
        REACHED["reconnected with a status unproven"] += bool(self.book.unproven())
        self.connect()

    @precondition(lambda self: not self.draining)
    @rule(number=picks)
    def drain(self, number: int) -> None:
        if number % 4:
            return  # after it nothing begins any more
        self.draining = True
        REACHED["drained with a job alive"] += any(True for _ in self.book.live())
        self.two.worker.drain(self.now)
        self.settle()
        assert not self.asked

    # ------------------------------------------------------------------------------------ always

    @invariant()
    def places_are_never_exceeded(self) -> None:
        holding = [r for job_id in JOB_IDS if (r := self.book.get(job_id)) is not None and r.holds_place]
        assert self.book.places_taken == len(holding) <= self.max_jobs
        assert self.book.reserved == sum(r.stage is JobStage.ACCEPTED for r in holding)
        assert self.book.open_offers == len(self.book.offered())

    @invariant()
    def statuses_are_in_order_and_end_once(self) -> None:
        for job_id, statuses in self.heard.items():
            refusals = job_id not in self.mine
            finals = [s for s in statuses if s != 1]
            if refusals:
                assert set(statuses) <= {3}
                continue
            after = finals[finals.index(int(self.finals[job_id])) :] if job_id in self.finals and finals else []
            assert len({*after}) <= 1, statuses
            assert statuses.count(1) <= 1
            if 1 in statuses and after:
                assert statuses.index(1) < len(statuses) - len(after)

    @invariant()
    def each_job_is_assigned_and_delivered_at_most_once(self) -> None:
        assert all(count == 1 for count in self.assigned.values())
        assert all(count == 1 for count in self.delivered.values())
        assert set(self.delivered) <= set(self.finals)

    @invariant()
    def an_offer_is_answered_at_most_once(self) -> None:
        assert all(self.answered_here[job_id] <= self.offered_here[job_id] for job_id in JOB_IDS)

    @invariant()
    def what_the_worker_s_book_says_is_what_the_model_says(self) -> None:
        stages = {
            "assigned": JobStage.ASSIGNED,
            "running": JobStage.RUNNING,
            "terminating": JobStage.TERMINATING,
            "ended": JobStage.ENDED,
        }
        for job_id, state in self.mine.items():
            record = self.book.get(job_id)
            assert record is not None
            assert record.stage is stages[state]
        assert set(JOB) == set(JobStage)

    def teardown(self) -> None:
        """Heal: whatever happened, one quiet connection later every final status has arrived."""
        if not hasattr(self, "two"):
            return
        if not self.two.worker.finished:
            self.two.break_off()
            self.settle()
        self.connect()
        self.two.advance(1)
        self.settle()
        assert self.book.unproven() == []
        assert {job_id: JobStatus(self.heard[job_id][-1]) for job_id in self.finals} == self.finals
        assert set(self.delivered) == set(self.finals)


def test_a_worker_and_a_server_agree_with_the_model_whatever_they_do() -> None:
    REACHED.clear()
    run_state_machine_as_test(Conversation, settings=settings(max_examples=100, stateful_step_count=40))
    # Most sets of a hundred reach all the rest as well, but that is left to what is drawn.
    assert REACHED["ended while running"], REACHED
    assert REACHED["delivered"], REACHED
