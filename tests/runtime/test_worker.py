"""The worker's surface: its life, its looks, its events, and what it keeps."""

from __future__ import annotations

import gc
import itertools
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from livekit_agent import (
    ConfigError,
    JobContext,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerError,
    WorkerOptions,
    WorkerStatus,
    events,
)
from livekit_agent._bounds import WORKER_EVENTS_MAX
from livekit_agent.dispatch import DispatchServer
from livekit_agent.monitoring._probe import Sample
from livekit_agent.rooms import MemoryRooms
from livekit_agent.runtime._broadcast import Broadcast
from livekit_agent.runtime._timekeeper import Timekeeper

from .harness import FAILED, SUCCESS, Gateway, until_cancelled, world

virtual = pytest.mark.virtual


# ------------------------------------------------------------------------------------ life


@pytest.mark.parametrize("bad", ["", None, b"bytes", 7, "\ud800"])
@pytest.mark.parametrize("field", ["api_key", "api_secret"])
def test_a_worker_without_a_key_and_its_secret_is_not_built(field: str, bad: Any) -> None:
    given: dict[str, Any] = {"api_key": "key", "api_secret": "secret", field: bad}
    with pytest.raises(ConfigError, match=f"^{field}: ") as caught:
        UniversalWorker("ws://localhost", handler=SimpleUniversalHandler(), **given)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        ("options", {"agent_name": "a"}),
        ("options", WorkerOptions),
        ("options", SimpleUniversalHandler()),
        ("rooms", object()),
        ("rooms", MemoryRooms),
        ("rooms", DispatchServer(port=None)),
    ],
)
def test_a_worker_with_something_else_for_options_or_rooms_is_not_built(field: str, bad: Any) -> None:
    given: dict[str, Any] = {field: bad}
    with pytest.raises(ConfigError, match=f"^{field}: expected") as caught:
        UniversalWorker("ws://localhost", "key", "secret", SimpleUniversalHandler(), **given)
    assert (caught.value.field, bool(caught.value.hint)) == (field, True)


@virtual
async def test_start_says_started_at_the_registration() -> None:
    async with world(start=False) as w:
        async with anyio.create_task_group() as tasks:
            await tasks.start(w.worker.start)
            assert w.worker.worker_id == "AW_1"
            assert w.worker.status is WorkerStatus.AVAILABLE
            await w.worker.stop()


@virtual
async def test_a_worker_has_one_life() -> None:
    async with world() as w:
        await w.gateway.registered()
        with pytest.raises(WorkerError, match="started before"):
            await w.worker.start()
        await w.worker.stop()
        with pytest.raises(WorkerError, match="started before"):
            await w.worker.start()


@virtual
async def test_a_normal_exit_of_the_block_stops() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(5)

    async with world(assigned, start=False) as w:
        async with w.worker as worker:
            assert worker.status is WorkerStatus.AVAILABLE
            await w.give()
            await w.told("AJ_1 RUNNING")
        assert w.gateway.final("AJ_1") == (SUCCESS, "")
        assert worker.status is WorkerStatus.CLOSED


@virtual
async def test_an_error_in_the_block_cancels_and_surfaces_bare() -> None:
    async with world(until_cancelled, start=False) as w:
        with pytest.raises(LookupError, match="in the body"):
            async with w.worker:
                await w.give()
                await w.told("AJ_1 RUNNING")
                raise LookupError("in the body")
        assert w.gateway.final("AJ_1") == (FAILED, "worker cancelled")


@virtual
async def test_a_worker_that_gives_up_ends_its_block_with_the_reason() -> None:
    gateway = Gateway()
    async with world(gateway=gateway, start=False, max_connect_failures=2) as w:
        with pytest.raises(WorkerError, match="gave up after 2"):
            async with w.worker:
                gateway.then = ConnectionRefusedError()
                gateway.plan.extend([ConnectionRefusedError()] * 2)
                w.line.drop()
                await anyio.sleep_forever()


@virtual
async def test_a_worker_that_cannot_register_raises_from_the_blocks_entry() -> None:
    gateway = Gateway()
    gateway.then = ConnectionRefusedError()
    async with world(gateway=gateway, start=False, max_connect_failures=2) as w:
        with pytest.raises(WorkerError, match="gave up after 2"):
            async with w.worker:
                raise AssertionError


@virtual
async def test_two_workers_live_side_by_side_and_know_their_own_jobs() -> None:
    async with world(until_cancelled) as one:

        async def assigned(ctx: JobContext) -> None:
            # Inside a job of the other worker, this one may well be stopped.
            await one.worker.stop(0)
            two.tell("stopped the other")
            await anyio.sleep_forever()

        async with world(assigned) as two:
            await one.give("AJ_1")
            await one.told("AJ_1 RUNNING")
            await two.give("AJ_1")
            await two.told("stopped the other")
            assert one.gateway.final("AJ_1")[0] is FAILED
            assert two.gateway.finals("AJ_1") == []


# ------------------------------------------------------------------------------------ looks


@virtual
async def test_statuses_in_their_order_of_precedence() -> None:
    async with world(until_cancelled, max_jobs=2, start=False, shutdown_timeout=10) as w:
        worker = w.worker
        seen = [worker.status]
        w.tasks.start_soon(w.run)
        await w.gateway.registered()
        seen.append(worker.status)
        await w.give("AJ_1")
        await w.told("AJ_1 RUNNING")
        seen.append(worker.status)
        await w.give("AJ_2", room="r2")
        await w.told("AJ_2 RUNNING")
        seen.append(worker.status)
        w.line.drop()
        await anyio.lowlevel.checkpoint()
        await w.gateway.until(lambda: not worker.stats.connected)
        seen.append(worker.status)  # disconnected although full
        worker.request_stop()
        seen.append(worker.status)  # draining although disconnected
        await w.gateway.registered(2)
        seen.append(worker.status)
        await w.finished.wait()
        seen.append(worker.status)
        assert [status.value for status in seen] == [
            "disconnected", "available", "busy", "full", "disconnected", "draining", "draining", "closed",
        ]  # fmt: skip


@virtual
async def test_figures_add_up_at_every_moment() -> None:
    async def assigned(ctx: JobContext) -> None:
        await anyio.sleep(int(ctx.job.id.removeprefix("AJ_")) % 7)
        if ctx.job.id.endswith("3"):
            raise ValueError

    assigned_so_far = 0

    async with world(assigned, max_jobs=5) as w:

        async def watch() -> None:
            while True:
                stats = w.worker.stats
                assert stats.total_jobs == stats.active_jobs + stats.completed_jobs + stats.failed_jobs
                assert stats.active_jobs + stats.reserved_jobs <= 5
                await anyio.sleep(0.1)

        w.tasks.start_soon(watch)
        for number in range(30):
            await w.gateway.until(lambda: w.worker.stats.active_jobs < 5)
            await w.give(f"AJ_{number}", room=f"r{number}")
            assigned_so_far += 1
            await anyio.sleep(0.01)
            assert w.worker.stats.total_jobs == assigned_so_far
        await anyio.sleep(10)
        stats = w.worker.stats
        assert (stats.active_jobs, stats.completed_jobs, stats.failed_jobs) == (0, 27, 3)


@virtual
async def test_the_figures_of_the_machine_and_of_the_time_are_those_that_were_measured() -> None:
    sample = Sample(cpu_percent=70, memory_percent=35, memory_mb=512)
    async with world(start=False, max_jobs=2) as w:
        w.worker._standing.probe = lambda: sample
        assert (w.worker.stats.uptime, w.worker.stats.max_jobs) == (0, 2)
        began = anyio.current_time()
        w.tasks.start_soon(w.run)
        await w.gateway.registered()
        await anyio.sleep(7)
        stats = w.worker.stats
        assert stats.connected
        assert (stats.cpu_percent, stats.memory_percent, stats.memory_mb) == (70, 35, 512)
        assert stats.current_load == pytest.approx(0.04 * (0.7 * 4 + 0.35 * 3) / 7)
        assert stats.uptime == anyio.current_time() - began == 7
        await w.worker.stop()
        await w.finished.wait()
        ended = w.worker.stats.uptime
        await anyio.sleep(10)
        assert w.worker.stats.uptime == ended >= 7
        assert not w.worker.stats.connected


@virtual
async def test_the_worker_id_is_that_of_the_registration() -> None:
    async with world() as w:
        registered = w.worker.events(events.Registered)
        assert (await anext(registered)).reconnect is False
        assert w.worker.worker_id == "AW_1"
        w.line.drop()
        event = await anext(registered)
        assert (event.worker_id, event.reconnect) == ("AW_2", True)
        assert w.worker.worker_id == "AW_2"


@virtual
async def test_looking_is_possible_before_and_after() -> None:
    async with world(start=False) as w:
        for _ in range(2):
            assert w.worker.stats.active_jobs == 0
            assert "UniversalWorker" in repr(w.worker)
            assert w.worker.worker_id == ""
            await w.worker.stop()
            await w.run()
            break
        assert w.worker.stats.uptime >= 0


# ------------------------------------------------------------------------------------ events


@virtual
async def test_the_events_of_a_life_in_order() -> None:
    async def assigned(ctx: JobContext) -> None:
        pass

    async with world(assigned) as w:
        listener = w.worker.events()
        await w.give()
        await w.told("AJ_1 terminated")
        w.line.drop()
        await w.gateway.registered(2)
        await w.worker.stop()
        await w.finished.wait()
        names = [type(event).__name__ async for event in listener]
        assert names == ["Registered", "JobStarted", "JobEnded", "ConnectionLost", "Registered", "Draining"]


@virtual
async def test_a_slow_listener_loses_the_oldest_and_can_see_how_many() -> None:
    source = Broadcast()
    listener = source.listen((events.Draining,))
    for number in range(WORKER_EVENTS_MAX + 5):
        source.publish(events.Draining(timeout=number))
    assert listener.dropped == 5
    assert (await anext(listener)).timeout == 5
    source.close()
    assert len([event async for event in listener]) == WORKER_EVENTS_MAX - 1


@virtual
async def test_listeners_end_when_the_worker_has_closed_and_new_ones_at_once() -> None:
    async with world() as w:
        await w.gateway.registered()
        listener = w.worker.events(events.JobEnded)
        async with anyio.create_task_group() as tasks:

            async def listen() -> None:
                assert [event async for event in listener] == []
                w.tell("ended")

            tasks.start_soon(listen)
            await anyio.sleep(1)
            await w.worker.stop()
        assert [event async for event in w.worker.events()] == []
        assert w.count("ended") == 1


@virtual
async def test_a_listener_that_was_let_go_is_kept_by_nobody() -> None:
    source = Broadcast()
    for _ in range(100):
        source.listen((events.Draining,))
    gc.collect()
    assert source.listeners == 0


@virtual
async def test_closing_a_listener_ends_who_waits_for_it() -> None:
    source = Broadcast()
    listener = source.listen((events.Draining,))

    async def listen() -> None:
        assert [event async for event in listener] == []

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        await anyio.sleep(1)
        listener.close()
    source.publish(events.Draining(timeout=1))
    assert [event async for event in listener] == []


@virtual
async def test_two_who_share_a_listener_share_its_events() -> None:
    source = Broadcast()
    listener = source.listen((events.Draining,))
    got: list[float] = []

    async def listen() -> None:
        async for event in listener:
            got.append(event.timeout)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listen)
        tasks.start_soon(listen)
        for number in range(5):
            source.publish(events.Draining(timeout=number))
            await anyio.sleep(1)
        source.close()
    assert got == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------ what is kept


@virtual
async def test_stopped_alarms_are_not_kept_until_their_time() -> None:
    keeper = Timekeeper()
    for number in range(10_000):
        keeper.at(1_000_000.0 + number, lambda: None).stop()
    assert len(keeper) < 100


@virtual
async def test_alarms_ring_in_order_at_the_first_instant_after() -> None:
    import math

    rung: list[tuple[str, float]] = []
    async with anyio.create_task_group() as tasks:
        keeper = Timekeeper()
        tasks.start_soon(keeper.run)
        for name, when in (("late", 3.0), ("early", 1.0), ("never", math.inf), ("stopped", 2.0), ("equal", 1.0)):
            alarm = keeper.at(when, lambda name=name: rung.append((name, anyio.current_time())))  # type: ignore[misc]
            if name == "stopped":
                alarm.stop()
        await anyio.sleep(2)
        keeper.at(1.5, lambda: rung.append(("past", anyio.current_time())))
        await anyio.sleep(5)
        tasks.cancel_scope.cancel()
    assert rung == [
        ("early", math.nextafter(1.0, math.inf)),
        ("equal", math.nextafter(1.0, math.inf)),
        ("past", 2.0),
        ("late", math.nextafter(3.0, math.inf)),
    ]


def census(worker: UniversalWorker) -> dict[str, int]:
    """How many objects of each of our classes are alive."""
    gc.collect()
    names = [type(x).__name__ for x in gc.get_objects() if str(type(x).__module__).startswith("livekit_agent")]
    return {name: names.count(name) for name in sorted(set(names))}


@virtual
async def test_a_thousand_jobs_through_one_worker_leave_nothing_but_a_bounded_memory_of_their_ids() -> None:
    async def assigned(ctx: JobContext) -> None:
        ctx.push_cleanup(lambda: None)

    async def run(numbers: range) -> None:
        for batch in itertools.batched(numbers, 50) if hasattr(itertools, "batched") else _batched(numbers):
            for number in batch:
                w.line.offer(f"AJ_{number}", room=f"r{number % 50}")
            await w.gateway.until(lambda batch=batch: all(f"AJ_{n}" in w.gateway.answers for n in batch))
            for number in batch:
                w.line.assign(f"AJ_{number}")
            await w.told(f"AJ_{batch[-1]} terminated")
            await anyio.sleep(1)
        w.gateway.heard.clear()
        w.gateway.jobs.clear()
        w.gateway.answers.clear()
        w.story.clear()
        await anyio.sleep(60)

    async with world(assigned, max_jobs=None, job_timeout=86_400, agent_name="a") as w:
        await w.gateway.registered()
        await run(range(100))
        before = census(w.worker)
        await run(range(100, 1100))
        after = census(w.worker)
        grown = {name: after[name] - before.get(name, 0) for name in after if after[name] > before.get(name, 0) + 20}
        # The book remembers 10,000 ended jobs by their id (twice here: the server's book is in this process too).
        assert set(grown) <= {"JobRecord", "JobMetadata"}, grown
        assert w.worker.stats.active_jobs == 0


def _batched(numbers: range) -> list[tuple[int, ...]]:
    return [tuple(numbers[at : at + 50]) for at in range(0, len(numbers), 50)]
