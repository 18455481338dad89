"""A worker against a server against a simple model, for as long as hypothesis likes.

The wire may be cut and joined again, time may pass, both sides may do whatever their verbs allow.  After each step:
places are never exceeded (J6), what the server has heard of a job is in order and ends at most once (W7 to W10), and
every offer is answered at most once (W2).
"""

from __future__ import annotations

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

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
            elif isinstance(event, StatusDelivered):
                assert event.status is self.finals[event.job_id]
                self.delivered[event.job_id] += 1
        for message in self.two.said_by_worker():
            if message.WhichOneof("message") == "update_job":
                self.heard[message.update_job.job_id].append(message.update_job.status)
            if message.WhichOneof("message") == "availability":
                self.answered_here[message.availability.job_id] += 1
            if message.WhichOneof("message") == "update_worker":
                assert 0.0 <= message.update_worker.load <= 1.0
        self.two.news_of_server()

    def stage(self, job_id: str, book: JobBook) -> JobStage | None:
        record = book.get(job_id)
        return None if record is None else record.stage

    @rule(job_id=ids)
    def offer(self, job_id: str) -> None:
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

    @rule(job_id=ids, yes=st.booleans(), terminate=st.booleans())
    def answer(self, job_id: str, yes: bool, terminate: bool) -> None:
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

    @rule(job_id=ids)
    def assign(self, job_id: str) -> None:
        record = self.two.server.book.get(job_id)
        if record is None or not record.allows(Input.ASSIGN) or self.two.server.finished:
            return
        self.two.server.assign(pair.job(job_id), "t", self.now)
        self.settle()

    @rule(job_id=ids)
    def terminate(self, job_id: str) -> None:
        record = self.two.server.book.get(job_id)
        if record is None or not record.allows(Input.TERMINATE) or self.two.server.finished:
            return
        self.two.server.terminate(job_id, self.now)
        self.settle()

    @rule(job_id=ids, status=st.sampled_from([JobStatus.RUNNING, JobStatus.SUCCESS, JobStatus.FAILED]))
    def report(self, job_id: str, status: JobStatus) -> None:
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
            elif state == "assigned":
                self.mine[job_id] = "running"
        self.settle()

    @rule(job_id=ids)
    def release(self, job_id: str) -> None:
        if self.mine.get(job_id) == "ended":
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

    @rule()
    def break_off(self) -> None:
        self.two.break_off()
        self.settle()
        assert not self.asked
        assert self.book.reserved == 0

    @rule(worker_closes=st.booleans())
    def close(self, worker_closes: bool) -> None:
        (self.two.worker if worker_closes else self.two.server).close(self.now)
        self.settle()

    @precondition(lambda self: self.two.worker.finished)
    @rule()
    def reconnect(self) -> None:
        self.connect()

    @precondition(lambda self: not self.draining)
    @rule()
    def drain(self) -> None:
        self.draining = True
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


TestConversation = Conversation.TestCase
TestConversation.settings = settings(max_examples=60, stateful_step_count=40)
