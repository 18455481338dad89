"""Offers and places: who is taken, what is answered and when.  ``max_jobs`` holds at every moment."""

from __future__ import annotations

import threading
from itertools import pairwise

import anyio
import pytest
from livekit.protocol import agent as pb

from livekit_agent import CustomLoadCalculator, Job, JobContext, JobMetadata, Reject, WorkerStatus
from livekit_agent.protocol import _jobs as job_book

from .harness import SUCCESS, World, until_cancelled, world

virtual = pytest.mark.virtual


async def burst(w: World, count: int) -> list[str]:
    """``count`` offers in one write; those that were accepted."""
    line = await w.gateway.registered()
    names = [f"AJ_{n}" for n in range(count)]
    for name in names:
        line.offer(name, room=f"room-{name}")
    await w.gateway.until(lambda: all(name in w.gateway.answers for name in names))
    return [name for name in names if w.gateway.answers[name].available]


@virtual
async def test_a_burst_of_a_hundred_offers_fills_three_places() -> None:
    async with world(until_cancelled, max_jobs=3) as w:
        accepted = await burst(w, 100)
        assert len(accepted) == 3
        assert w.worker.stats.reserved_jobs == 3
        assert w.worker.status is WorkerStatus.FULL
        for name in accepted:
            w.line.assign(name)
        await anyio.sleep(1)
        assert w.worker.stats.active_jobs == 3
        assert w.worker.stats.reserved_jobs == 0


@virtual
async def test_a_hundred_at_once_all_run_without_a_limit() -> None:
    running = 0

    async def assigned(ctx: JobContext) -> None:
        nonlocal running
        running += 1
        await anyio.sleep(3)

    async with world(assigned, max_jobs=None) as w:
        accepted = await burst(w, 100)
        assert len(accepted) == 100
        for name in accepted:
            w.line.assign(name)
        await anyio.sleep(1)
        assert running == 100
        await w.gateway.until(lambda: all(w.gateway.finals(name) == [(SUCCESS, "")] for name in accepted))
        assert w.worker.stats.completed_jobs <= 100


@virtual
async def test_slow_answers_cannot_overbook_either() -> None:
    """All hundred are asked before the first has said yes."""

    async def request(job: Job) -> bool:
        await anyio.sleep(1)
        return True

    async with world(until_cancelled, max_jobs=3, callbacks={"job_request": request}) as w:
        assert len(await burst(w, 100)) == 3


@virtual
async def test_full_leaves_in_the_same_write_as_the_answer_that_takes_the_last_place() -> None:
    async with world(until_cancelled, max_jobs=2) as w:
        line = await w.gateway.registered()
        for name in ("AJ_1", "AJ_2"):
            line.offer(name, room=name)
            await w.gateway.answer(name)
            # The answer was heard; what came with it was heard in the same step.
            kinds = [heard.kind for heard in w.gateway.heard]
            at = len(kinds) - 1 - kinds[::-1].index("availability")
            assert kinds[at + 1 :] == ["update_worker"]
        assert w.gateway.standings()[-2:] == [(False, 1), (True, 2)]
        assert w.gateway.heard[-1].message.update_worker.load == 1.0


@virtual
async def test_an_offer_that_finds_no_place_is_declined_and_the_log_says_why(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with world(until_cancelled) as w:
        await w.give("AJ_1")
        w.line.offer("AJ_2")
        assert not (await w.gateway.answer("AJ_2")).available
    assert "declined: job AJ_2 came while max_jobs were taken" in caplog.text
    assert "job AJ_1 came" not in caplog.text


@virtual
async def test_an_offer_that_the_load_policy_does_not_want_is_declined_and_the_log_says_why(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    calculator = CustomLoadCalculator(calculator=lambda stats: 0.5, acceptor=lambda job_type, load: load < 0.4)
    async with world(until_cancelled, load_calculator=calculator, max_jobs=3) as w:
        (await w.gateway.registered()).offer("AJ_1")
        assert not (await w.gateway.answer("AJ_1")).available
    assert "declined job AJ_1: the load is 0.50 (max_jobs: 3)" in caplog.text


@virtual
async def test_a_promise_without_an_assignment_lapses_and_frees_its_place() -> None:
    async with world(until_cancelled) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        await w.gateway.answer("AJ_1")
        await anyio.sleep(7.4)
        line.offer("AJ_2")
        assert not (await w.gateway.answer("AJ_2")).available
        await anyio.sleep(0.2)
        line.offer("AJ_3")
        assert (await w.gateway.answer("AJ_3")).available


@virtual
async def test_an_assignment_twice_starts_once() -> None:
    async with world(until_cancelled, max_jobs=2) as w:
        await w.give()
        await w.told("AJ_1 RUNNING")
        core = w.line.core
        core._ws.send_message(  # what an honest core refuses to say
            pb.ServerMessage(assignment=pb.JobAssignment(job=w.gateway.jobs["AJ_1"], token="t")).SerializeToString()
        )
        w.line.pump()
        await anyio.sleep(1)
        assert w.count("AJ_1 joined") == 1
        assert w.worker.stats.active_jobs == 1


# ------------------------------------------------------------------------------------ what handlers answer


@virtual
async def test_the_answer_carries_the_agents_metadata_and_the_join_uses_it() -> None:
    async def request(job: Job) -> JobMetadata:
        return JobMetadata(
            participant_identity="agent-me",
            participant_name="Me",
            participant_metadata="m",
            participant_attributes={"a": "b"},
        )

    async def assigned(ctx: JobContext) -> None:
        local = ctx.room.local_participant
        w.tell(f"{local.identity} {local.name} {local.metadata} {local.attributes.get('a')}")
        assert ctx.metadata == await request(ctx.job)
        w.tell("and the context says so")

    async with world(assigned, callbacks={"job_request": request}) as w:
        await w.give()
        await w.told("agent-me Me m b")
        await w.told("and the context says so")


@virtual
@pytest.mark.parametrize("answer", [None, False, Reject(reason="busy")])
async def test_no_is_no_and_others_may_be_asked(answer: object) -> None:
    async def request(job: Job) -> object:
        return answer

    async with world(callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        said = await w.gateway.answer("AJ_1")
        assert (said.available, said.terminate) == (False, False)


@virtual
async def test_reject_with_terminate_ends_the_job_for_everybody() -> None:
    async def request(job: Job) -> Reject:
        return Reject(reason="nobody should", terminate=True)

    async with world(callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        said = await w.gateway.answer("AJ_1")
        assert (said.available, said.terminate) == (False, True)


@virtual
@pytest.mark.parametrize("fault", ["raises", "wrong type", "wrong reason", "wrong end"])
async def test_a_faulty_answer_declines_and_the_worker_lives(fault: str) -> None:
    async def request(job: Job) -> object:
        match fault:
            case "raises":
                raise LookupError("no such agent")
            case "wrong reason":
                return Reject(reason=LookupError("no such agent"))  # type: ignore[arg-type]
            case "wrong end":
                return Reject(terminate="yes")  # type: ignore[arg-type]
            case _:
                return "yes"

    async with world(callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        assert not (await w.gateway.answer("AJ_1")).available
        assert w.worker.status is WorkerStatus.AVAILABLE


@virtual
@pytest.mark.parametrize("how", ["sleeps", "shields"])
async def test_an_offer_is_answered_within_two_and_a_half_seconds_whatever_the_handler_does(how: str) -> None:
    async def request(job: Job) -> bool:
        with anyio.CancelScope(shield=how == "shields"):
            await anyio.sleep(60)
        return True

    async with world(callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        began = anyio.current_time()
        line.offer("AJ_1")
        assert not (await w.gateway.answer("AJ_1")).available
        assert anyio.current_time() == began + 2.5
        await anyio.sleep(100)
        assert [h.kind for h in w.gateway.heard].count("availability") == 1


@virtual
async def test_an_answer_that_comes_when_the_job_is_long_forgotten_is_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job_book, "ENDED_JOBS_MAX", 2)

    async def request(job: Job) -> bool:
        if job.id == "AJ_late":
            with anyio.CancelScope(shield=True):
                await anyio.sleep(60)
            return True
        return False

    async with world(callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_late")
        assert not (await w.gateway.answer("AJ_late")).available
        for name in ("AJ_1", "AJ_2", "AJ_3"):
            line.offer(name)
            await w.gateway.answer(name)
        await anyio.sleep(100)
        assert w.worker.status is WorkerStatus.AVAILABLE
        assert w.worker.book.get("AJ_late") is None


@virtual
async def test_an_answer_to_an_offer_is_no_answer_to_the_next_one_of_the_same_job() -> None:
    asked: list[float] = []

    async def request(job: Job) -> bool:
        asked.append(anyio.current_time())
        if len(asked) == 1:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(5)
            return True
        await anyio.sleep(2)
        return False

    async with world(until_cancelled, callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        assert not (await w.gateway.answer("AJ_1")).available
        await anyio.sleep(1.5)
        del w.gateway.answers["AJ_1"]
        line.offer("AJ_1")
        assert not (await w.gateway.answer("AJ_1")).available
        assert anyio.current_time() == asked[1] + 2


@virtual
async def test_a_slow_handler_delays_neither_pongs_nor_terminations_nor_other_offers() -> None:
    async def request(job: Job) -> bool:
        if job.id == "AJ_2":
            await anyio.sleep_forever()
        return True

    async with world(until_cancelled, max_jobs=5, callbacks={"job_request": request}) as w:
        await w.give("AJ_1")
        await w.told("AJ_1 RUNNING")
        w.line.offer("AJ_2")
        await anyio.sleep(1)
        before = anyio.current_time()
        w.line.terminate("AJ_1")
        w.line.offer("AJ_3", room="r3")
        assert (await w.gateway.answer("AJ_3")).available
        await w.told("AJ_1 left")
        assert anyio.current_time() == before


@virtual
async def test_an_offer_of_another_type_is_declined_unasked() -> None:
    async def request(job: Job) -> bool:
        w.tell("asked")
        return True

    async with world(callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1", type=pb.JT_PUBLISHER)
        assert not (await w.gateway.answer("AJ_1")).available
        assert w.story == []


@virtual
async def test_a_load_policy_may_decline_and_its_failure_declines_too() -> None:
    def acceptor(job_type: object, load: float) -> bool:
        if w.count("again"):
            raise ZeroDivisionError
        w.tell("again")
        return False

    calculator = CustomLoadCalculator(calculator=lambda stats: 0.5, acceptor=acceptor)
    async with world(load_calculator=calculator, max_jobs=5) as w:
        line = await w.gateway.registered()
        for name in ("AJ_1", "AJ_2"):
            line.offer(name)
            assert not (await w.gateway.answer(name)).available
        assert w.worker.status is WorkerStatus.AVAILABLE


@virtual
@pytest.mark.parametrize(("said", "reported"), [(float("nan"), 0.0), (7.0, 1.0), (-3.0, 0.0), (float("inf"), 1.0)])
async def test_whatever_a_load_policy_says_the_server_hears_a_load(said: float, reported: float) -> None:
    async with world(load_calculator=CustomLoadCalculator(calculator=lambda stats: said), max_jobs=None) as w:
        await w.gateway.registered()
        await anyio.sleep(5)
        loads = [h.message.update_worker.load for h in w.gateway.heard if h.kind == "update_worker"]
        assert loads[-1] == reported
        assert (w.worker.status is WorkerStatus.FULL) == (reported == 1.0)


@virtual
async def test_case_68_a_load_that_trembles_at_1_does_not_make_the_worker_available_again_and_again() -> None:
    loads = iter([0.5, 1.0, 0.99, 1.0, 0.96, 0.99, 0.95, 0.99])
    calculator = CustomLoadCalculator(calculator=lambda stats: next(loads, 0.5))
    async with world(load_calculator=calculator, max_jobs=None) as w:
        await w.gateway.registered()
        await anyio.sleep(30)
        assert list(loads) == []
    full = [h.message.update_worker.status == pb.WS_FULL for h in w.gateway.heard if h.kind == "update_worker"]
    changes = [now for before, now in pairwise(full) if before != now]
    assert (full[0], changes) == (False, [True, False, True]), "the last is the drain's"


@virtual
async def test_a_place_that_becomes_free_counts_at_once_whatever_the_load_was() -> None:
    calculator = CustomLoadCalculator(calculator=lambda stats: 0.96 + 0.04 * (stats.active_jobs + stats.reserved_jobs))
    async with world(until_cancelled, load_calculator=calculator, max_jobs=1) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        await w.gateway.answer("AJ_1")
        assert w.worker.status is WorkerStatus.FULL
        await anyio.sleep(8)  # the promise lapses
        assert w.worker.status is WorkerStatus.AVAILABLE


@virtual
async def test_a_burst_is_told_in_one_load_report() -> None:
    async with world(until_cancelled, max_jobs=None) as w:
        await w.gateway.registered()
        before = len(w.gateway.standings())
        await burst(w, 50)
        assert w.gateway.standings()[before:] == [(False, 50)]


async def test_a_sync_job_request_runs_in_a_thread_and_delays_nothing() -> None:
    """Real time: the thread waits for what the loop does meanwhile, so a request in the loop would never end."""
    other_answered = threading.Event()
    names: list[str] = []

    def request(job: Job) -> bool:
        names.append(threading.current_thread().name)
        if job.id == "AJ_1":
            assert other_answered.wait(10)
        return True

    async with world(until_cancelled, max_jobs=2, callbacks={"job_request": request}) as w:
        line = await w.gateway.registered()
        line.offer("AJ_1")
        line.offer("AJ_2")
        await w.gateway.answer("AJ_2")
        assert "AJ_1" not in w.gateway.answers
        other_answered.set()
        assert (await w.gateway.answer("AJ_1")).available
        assert threading.main_thread().name not in names
