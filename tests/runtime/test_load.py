"""How busy a worker says it is: the default's table, its properties, and functions of the user's.

Why 0.7: an open-source server offers nothing to a worker at that load or above, so a worker with a free place must stay
below it and one without must not.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from livekit_agent import (
    ConfigError,
    CustomLoadCalculator,
    DefaultLoadCalculator,
    JobType,
    LoadCalculator,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerOptions,
    WorkerStats,
)
from livekit_agent.monitoring._probe import Sample, process_probe
from livekit_agent.runtime import _standing

TARGET = 0.7


def stats(active: int = 0, places: int | None = 1, *, reserved: int = 0, cpu: float = 0, memory: float = 0) -> Any:
    return WorkerStats(
        active_jobs=active, reserved_jobs=reserved, max_jobs=places, cpu_percent=cpu, memory_percent=memory
    )


@pytest.mark.parametrize(
    ("given_stats", "load"),
    [
        (stats(0, 1), 0.0),
        (stats(1, 1), 1.0),
        (stats(0, 1, reserved=1), 1.0),
        (stats(0, 4), 0.0),
        (stats(1, 4), 0.65 / 4),
        (stats(2, 4), 0.65 / 2),
        (stats(1, 4, reserved=1), 0.65 / 2),
        (stats(3, 4), 0.65 * 3 / 4),
        (stats(4, 4), 1.0),
        (stats(5, 4), 1.0),
        (stats(0, 4, cpu=100), 0.04 * 4 / 7),
        (stats(0, 4, memory=100), 0.04 * 3 / 7),
        (stats(0, 4, cpu=100, memory=100), 0.04),
        (stats(0, 4, cpu=50, memory=50), 0.02),
        (stats(2, 4, cpu=100, memory=100), 0.65 / 2 + 0.04),
        (stats(99, 100, cpu=100, memory=100), 0.65 * 0.99 + 0.04),
        (stats(100_000, None), 0.0),
        (stats(100_000, None, cpu=100, memory=100), 0.04),
        (stats(0, 4, cpu=400, memory=-5), 0.04 * 4 / 7),
        (stats(0, 4, cpu=math.nan, memory=math.inf), 0.04 * 3 / 7),
    ],
)
def test_the_default_load(given_stats: WorkerStats, load: float) -> None:
    assert DefaultLoadCalculator().calculate_load(given_stats) == pytest.approx(load, abs=1e-12)


@pytest.mark.parametrize("places", [1, 2, 3, 7, 100, 100_000])
def test_a_lone_worker_with_n_places_is_offered_its_nth_job_and_no_more(places: int) -> None:
    calculator = DefaultLoadCalculator()
    busy = {"cpu": 100.0, "memory": 100.0}
    assert calculator.calculate_load(stats(places - 1, places, **busy)) < TARGET
    assert calculator.calculate_load(stats(places, places)) == 1.0


def test_a_weight_scales_its_part_and_leaves_the_others_alone() -> None:
    plain = DefaultLoadCalculator().explain(stats(1, 2, cpu=50, memory=50))
    weighted = DefaultLoadCalculator(cpu_weight=0.8, memory_weight=0, job_weight=0.15).explain(
        stats(1, 2, cpu=50, memory=50)
    )
    assert weighted.cpu == pytest.approx(2 * plain.cpu)
    assert weighted.memory == 0
    assert weighted.jobs == pytest.approx(plain.jobs / 2)
    assert weighted.total == pytest.approx(weighted.jobs + weighted.cpu)


def test_no_weight_makes_a_worker_with_a_free_place_look_full() -> None:
    heavy = DefaultLoadCalculator(cpu_weight=1e300, memory_weight=1e300, job_weight=1e300)
    assert heavy.calculate_load(stats(1, 2, cpu=100, memory=100)) < TARGET
    assert DefaultLoadCalculator(job_weight=0).calculate_load(stats(2, 2)) == 1.0


@pytest.mark.parametrize("weight", [-0.1, math.nan, math.inf, -math.inf, True, "0.3", None])
def test_a_weight_that_is_none_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        DefaultLoadCalculator(cpu_weight=weight)
    assert caught.value.field == "cpu_weight"
    with pytest.raises(ExceptionGroup) as group:
        DefaultLoadCalculator(cpu_weight=weight, memory_weight=weight, job_weight=weight)
    assert [fault.field for fault in group.value.exceptions] == ["cpu_weight", "memory_weight", "job_weight"]


def test_explain_gives_the_parts_of_the_whole() -> None:
    parts = DefaultLoadCalculator().explain(stats(1, 2, cpu=50, memory=20))
    assert parts.total == parts.jobs + parts.cpu + parts.memory
    full = DefaultLoadCalculator().explain(stats(2, 2, cpu=50, memory=20))
    assert (full.jobs, full.total) == (0.65, 1.0)


any_percent = st.floats(allow_nan=True, allow_infinity=True)
any_weight = st.floats(0, allow_nan=False, allow_infinity=False)
any_places = st.none() | st.integers(0, 100_000)


@given(
    st.builds(DefaultLoadCalculator, cpu_weight=any_weight, memory_weight=any_weight, job_weight=any_weight),
    st.integers(0, 100_000),
    st.integers(0, 100_000),
    any_places,
    any_percent,
    any_percent,
)
def test_whatever_the_figures_the_load_is_in_0_to_1_and_never_falls_with_a_job_more(
    calculator: DefaultLoadCalculator, active: int, reserved: int, places: int | None, cpu: float, memory: float
) -> None:
    def load(jobs: int) -> float:
        parts = calculator.explain(stats(jobs, places, reserved=reserved, cpu=cpu, memory=memory))
        for part in (parts.jobs, parts.cpu, parts.memory, parts.total):
            assert 0.0 <= part <= 1.0
        return parts.total

    assert load(active) <= load(active + 1)
    assert (load(active) >= TARGET) == (places is not None and active + reserved >= places)


# ------------------------------------------------------------------------------------------- the user's functions


def test_a_custom_calculator_asks_its_functions() -> None:
    asked: list[Any] = []

    def accept(job_type: JobType, load: float) -> bool:
        asked.append((job_type, load))
        return False

    calculator: LoadCalculator = CustomLoadCalculator(calculator=lambda s: s.active_jobs / 10, acceptor=accept)
    assert calculator.calculate_load(stats(3, None)) == 0.3
    assert not calculator.should_accept_job(JobType.PUBLISHER, 0.3)
    assert asked == [(JobType.PUBLISHER, 0.3)]


@pytest.mark.parametrize("calculator", [DefaultLoadCalculator(), CustomLoadCalculator(calculator=lambda s: 0.0)])
def test_without_an_acceptor_jobs_are_taken_below_a_load_of_1(calculator: LoadCalculator) -> None:
    for job_type in JobType:
        assert calculator.should_accept_job(job_type, 0.999)
        assert not calculator.should_accept_job(job_type, 1.0)


async def refusing(job_type: JobType, load: float) -> bool:
    return False


@pytest.mark.parametrize("name", ["calculator", "acceptor"])
def test_an_async_function_is_refused_rather_than_its_coroutine_taken_for_a_yes(name: str) -> None:
    functions: dict[str, Any] = {"calculator": lambda stats: 0.0, name: refusing}
    with pytest.raises(ConfigError, match="not an async one") as caught:
        CustomLoadCalculator(**functions)
    assert caught.value.field == name


@pytest.mark.parametrize("wrong", [{"calculator": 0.5}, {"calculator": None}, {"calculator": len, "acceptor": True}])
def test_what_is_no_function_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="expected a function"):
        CustomLoadCalculator(**wrong)


@pytest.mark.parametrize(
    ("said", "reported"),
    [(0.25, 0.25), (-1, 0.0), (7, 1.0), (math.inf, 1.0), (-math.inf, 0.0), (True, 1.0), (math.nan, 0.5), ("x", 0.5)],
)
def test_what_a_calculator_says_is_held_to_0_to_1_and_nonsense_keeps_the_last_good_load(
    said: Any, reported: float
) -> None:
    answers: list[Any] = [0.5, said]
    options = WorkerOptions(load_calculator=CustomLoadCalculator(calculator=lambda s: answers.pop(0)))
    worker = UniversalWorker("ws://localhost", "key", "secret", SimpleUniversalHandler(), options)
    worker._standing.refresh()
    worker._standing.refresh()
    assert worker.stats.current_load == reported


def test_a_calculator_that_raises_keeps_the_last_good_load_and_is_told(caplog: pytest.LogCaptureFixture) -> None:
    def broken(given_stats: WorkerStats) -> float:
        raise ZeroDivisionError("of the user's own")

    options = WorkerOptions(load_calculator=CustomLoadCalculator(calculator=broken))
    worker = UniversalWorker("ws://localhost", "key", "secret", SimpleUniversalHandler(), options)
    worker._standing.refresh()
    assert worker.stats.current_load == 0.0
    assert "of the user's own" in caplog.text


# ------------------------------------------------------------------------------------------ a loop that stands still


def sampled_worker() -> tuple[UniversalWorker, list[float]]:
    """A worker, and when its load was sampled."""
    samples: list[float] = []

    def probe() -> Sample:
        samples.append(anyio.current_time())
        return Sample()

    return UniversalWorker("ws://localhost", "key", "secret", SimpleUniversalHandler(), probe=probe), samples


async def test_what_blocks_the_event_loop_is_told_at_the_next_sample(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_standing, "LOAD_INTERVAL", 0.001)
    monkeypatch.setattr(_standing, "LOOP_LATE_MAX", 0.05)
    worker, samples = sampled_worker()
    with anyio.fail_after(10):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(worker._standing.keep)
            while not samples:
                await anyio.lowlevel.checkpoint()
            time.sleep(0.06)  # noqa: ASYNC251 - this is what is told
            while "the event loop stood still for 0.1 s" not in caplog.text:  # noqa: ASYNC110 - a log tells nobody
                await anyio.sleep(0.001)
            tasks.cancel_scope.cancel()
    assert "anyio.to_thread.run_sync" in caplog.text


@pytest.mark.virtual
async def test_a_loop_that_is_late_by_less_is_not(caplog: pytest.LogCaptureFixture) -> None:
    worker, samples = sampled_worker()
    with anyio.move_on_after(60):
        await worker._standing.keep()
    assert len(samples) == 24
    assert caplog.text == ""


# ---------------------------------------------------------------------------------------------------- the probe


def test_the_probe_of_this_process_gives_figures_a_load_can_be_made_of() -> None:
    probe = process_probe()
    for sample in (probe(), probe()):
        assert 0 <= sample.cpu_percent <= 100
        assert 0 < sample.memory_percent <= 100
        assert sample.memory_mb > 1


def test_a_machine_without_proc_is_looked_at_again_later(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    probe = process_probe()
    with monkeypatch.context() as patch:
        patch.setattr(psutil, "PROCFS_PATH", str(tmp_path))
        for _ in range(2):
            with pytest.raises(OSError, match=r"\w"):
                probe()
    assert probe().memory_mb > 1


@pytest.mark.virtual
async def test_figures_that_cannot_be_read_for_a_while_end_no_worker(caplog: pytest.LogCaptureFixture) -> None:
    looks: list[Any] = [Sample(cpu_percent=50), OSError(24, "Too many open files"), OSError(None, "psutil's")]
    seen: list[float] = []

    def probe() -> Sample:
        seen.append(worker.stats.cpu_percent)
        look = looks.pop(0) if looks else Sample(cpu_percent=70)
        if isinstance(look, OSError):
            raise look
        return look

    worker = UniversalWorker("ws://localhost", "key", "secret", SimpleUniversalHandler(), probe=probe)
    with anyio.move_on_after(10):
        await worker._standing.keep()
    assert seen == [0, 50, 50, 50]
    assert worker.stats.cpu_percent == 70
    assert caplog.text.count("Too many open files") == len(caplog.records) == 1
