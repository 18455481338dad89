"""WorkerOptions: every fault at once, and every field obeyed.

``PROOFS`` names, for each field, the test that shows the field being obeyed; a field without one is accepted and
ignored, which is what the last tests here forbid.
"""

from __future__ import annotations

import ast
import dataclasses
import logging
import math
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
import structlog

from livekit_agent import (
    AutoSubscribe,
    ConfigError,
    ConnectionLostError,
    CustomLoadCalculator,
    InvalidJobTypeError,
    Job,
    JobContext,
    JobMetadata,
    JobStatus,
    JobType,
    ParticipantPermissions,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerOptions,
    WorkerStatus,
)
from livekit_agent._structlog import logger_of
from livekit_agent.dispatch import DispatchServer
from livekit_agent.events import JobEnded
from livekit_agent.monitoring._probe import Sample
from livekit_agent.rooms import VideoSource

TESTS = Path(__file__).parent

# ------------------------------------------------------------------------------------------------------- faults


class AsyncLoad:
    """Whose answers nobody awaits."""

    def calculate_load(self, stats: object) -> float:
        return 0.0

    async def should_accept_job(self, job_type: object, load: float) -> bool:
        return False


WRONG: dict[str, list[Any]] = {
    "agent_name": [None, 5, b"bytes", "lone \udc80 surrogate"],
    "job_type": [3, -1, None, "room", True, 1.5],
    "max_jobs": [0, -1, 100_001, True, False, 1.0, math.nan, "3", math.inf],
    "namespace": [None, 5, "\ud800"],
    "deployment": ["a b", "a_b", "é" * 33, "x" * 65, "line\nbreak", None],
    "permissions": [{}, True, ParticipantPermissions],
    "auto_subscribe": [None, True, "all", 1],
    "load_calculator": [0.5, CustomLoadCalculator, lambda stats: 0.0, object(), AsyncLoad()],
    "job_timeout": [-1, math.nan, "10", True, None, -math.inf],
    "reconnect_timeout": [-1, math.nan, "60", True, None],
    "shutdown_timeout": [-0.001, math.nan, "30", False, None],
    "cancel_grace": [-1, math.nan, math.inf, None, 10**400],
    "cleanup_timeout": [-1, math.nan, math.inf, "5"],
    "max_connect_failures": [0, -1, True, 1.0, math.inf, "3"],
    "ca_file": ["", 5, b"/etc/ca.pem"],
    "proxy": ["", "proxy:3128", "socks5://h:1", "http://", "http://h:0", "http://h:99999", "http://h/path", 5],
    "allow_plaintext": [0, 1, None, "yes"],
    "websocket_debug": [0, 1, None, "yes"],
    "logger": [print, "livekit", 5, structlog.stdlib.BoundLogger],
}

RIGHT: dict[str, list[Any]] = {
    "agent_name": ["", "echo", "größe"],
    "job_type": [JobType.PUBLISHER, 0, 2],
    "max_jobs": [1, 100_000, None],
    "namespace": ["", "tenant"],
    "deployment": ["", "blue", "é" * 32],
    "permissions": [None, ParticipantPermissions(can_publish=False)],
    "auto_subscribe": [AutoSubscribe.AUDIO, "nothing"],
    "load_calculator": [None, CustomLoadCalculator(calculator=lambda stats: 0.0)],
    "job_timeout": [0, 0.5, math.inf, 10**300],
    "reconnect_timeout": [0, 60, math.inf],
    "shutdown_timeout": [0, 30, math.inf],
    "cancel_grace": [0, 1.5],
    "cleanup_timeout": [0, 5],
    "max_connect_failures": [None, 1],
    "ca_file": [None, "/etc/ca.pem"],
    "proxy": [None, "http://h:1", "https://h", "http://user:p%40ss@[::1]:3128/"],
    "allow_plaintext": [True, False],
    "websocket_debug": [True, False],
    "logger": [None, logging.getLogger("x"), logging.LoggerAdapter(logging.getLogger("x"), {}), structlog.get_logger()],
}

FIELDS = [field.name for field in dataclasses.fields(WorkerOptions)]


def pairs(table: dict[str, list[Any]]) -> Any:
    return pytest.mark.parametrize(
        ("name", "value"), [pytest.param(n, v, id=f"{n}-{i}") for n, vs in table.items() for i, v in enumerate(vs)]
    )


def test_the_tables_here_speak_of_every_field() -> None:
    assert list(WRONG) == list(RIGHT) == FIELDS


@pairs(RIGHT)
def test_what_is_right_is_kept(name: str, value: Any) -> None:
    assert getattr(WorkerOptions(**{name: value}), name) == value


@pairs(WRONG)
def test_what_is_wrong_is_refused_by_name_and_not_repeated(name: str, value: Any) -> None:
    with pytest.raises((ConfigError, InvalidJobTypeError)) as caught:
        WorkerOptions(**{name: value})
    if name == "job_type":
        assert isinstance(caught.value, InvalidJobTypeError)
        assert "JobType.ROOM" in caught.value.hint
    else:
        assert isinstance(caught.value, ConfigError)
        assert caught.value.field == name
        assert str(caught.value).startswith(f"{name}: ")


def test_every_fault_is_told_at_once() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        WorkerOptions(**{name: values[0] for name, values in WRONG.items()})
    told = [getattr(fault, "field", "job_type") for fault in caught.value.exceptions]
    assert sorted(told) == sorted(FIELDS)
    assert caught.value.message == f"{len(FIELDS)} invalid worker options"


def test_options_are_a_frozen_value() -> None:
    assert WorkerOptions(agent_name="a") == WorkerOptions(agent_name="a")
    with pytest.raises(dataclasses.FrozenInstanceError):
        WorkerOptions().agent_name = "b"  # type: ignore[misc]
    with pytest.raises(TypeError):
        WorkerOptions("a")  # type: ignore[call-arg, misc]
    with pytest.raises(ConfigError):
        dataclasses.replace(WorkerOptions(), max_jobs=0)


def test_a_number_of_the_wire_becomes_the_job_type() -> None:
    options: Any = WorkerOptions(job_type=2)  # type: ignore[arg-type]
    assert options.job_type is JobType.PARTICIPANT


# ------------------------------------------------------------------------------------------------------- proofs

PROOFS: dict[str, str] = {
    "agent_name": "test_options.py::test_name_namespace_deployment_and_job_type_are_what_the_worker_registers_with",
    "job_type": "test_options.py::test_name_namespace_deployment_and_job_type_are_what_the_worker_registers_with",
    "max_jobs": "test_options.py::test_max_jobs_is_how_many_run_at_once",
    "namespace": "test_options.py::test_name_namespace_deployment_and_job_type_are_what_the_worker_registers_with",
    "deployment": "test_options.py::test_name_namespace_deployment_and_job_type_are_what_the_worker_registers_with",
    "permissions": "test_options.py::test_permissions_are_what_the_agent_has_in_its_room",
    "auto_subscribe": "test_options.py::test_auto_subscribe_is_what_the_agent_gets_unless_its_answer_says_otherwise",
    "load_calculator": "test_options.py::test_the_load_calculator_says_the_load_and_takes_the_job",
    "job_timeout": "test_options.py::test_job_timeout_ends_the_job",
    "reconnect_timeout": (
        "runtime/test_job_endings.py::"
        "test_a_room_that_does_not_come_back_is_lost_at_the_first_instant_after_reconnect_timeout"
    ),
    "shutdown_timeout": "test_options.py::test_shutdown_timeout_is_how_long_a_stop_waits_for_jobs",
    "cancel_grace": "test_options.py::test_cancel_grace_is_how_long_a_cancelled_handler_may_take",
    "cleanup_timeout": "test_options.py::test_cleanup_timeout_is_how_long_clean_ups_may_take",
    "max_connect_failures": "test_options.py::test_max_connect_failures_is_when_the_worker_gives_up",
    "ca_file": "runtime/test_transport.py::test_a_worker_lives_behind_a_proxy_that_the_environment_names",
    "proxy": "runtime/test_transport.py::test_a_worker_lives_behind_a_proxy_that_the_environment_names",
    "allow_plaintext": "runtime/test_transport.py::test_a_worker_speaks_plain_text_elsewhere_only_with_allow_plaintext",
    "websocket_debug": "runtime/test_transport.py::test_websocket_debug_tells_kinds_and_sizes_and_no_contents",
    "logger": "test_options.py::test_logger_is_where_the_worker_logs",
}


def test_every_field_has_a_test_that_shows_it_obeyed() -> None:
    assert list(PROOFS) == FIELDS
    for proof in PROOFS.values():
        file, _, name = proof.partition("::")
        tree = ast.parse((TESTS / file).read_text("utf-8"))
        assert name in {n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)}, proof


@asynccontextmanager
async def a_server() -> AsyncGenerator[DispatchServer]:
    async with DispatchServer(port=None) as server:
        yield server


def a_worker(server: DispatchServer, handler: Any = None, **options: Any) -> UniversalWorker:
    return UniversalWorker(
        "ws://localhost",
        server.api_key,
        server.api_secret,
        SimpleUniversalHandler() if handler is None else handler,
        WorkerOptions(**options),
        rooms=server.rooms,
        connector=server.memory_connector(),
        probe=Sample,
    )


async def endless(ctx: JobContext) -> None:
    await anyio.sleep_forever()


async def stubborn(ctx: JobContext) -> None:
    """Takes a hundred seconds to notice that it was cancelled."""
    with anyio.CancelScope(shield=True):
        await anyio.sleep(100)


@pytest.mark.virtual
async def test_name_namespace_deployment_and_job_type_are_what_the_worker_registers_with() -> None:
    mine: dict[str, Any] = {
        "agent_name": "echo",
        "namespace": "tenant",
        "deployment": "blue",
        "job_type": JobType.PARTICIPANT,
    }
    async with a_server() as server, a_worker(server, **mine) as worker:
        record = server.workers[worker.worker_id]
        assert {name: getattr(record, name) for name in mine} == mine


@pytest.mark.virtual
async def test_permissions_are_what_the_agent_has_in_its_room() -> None:
    permissions = ParticipantPermissions(can_publish=False, can_publish_data=False, hidden=True)
    seen: list[ParticipantPermissions] = []

    async def look(ctx: JobContext) -> None:
        seen.append(ctx.room.local_participant.permissions)

    async with a_server() as server:
        worker = a_worker(server, SimpleUniversalHandler(job_assigned=look), agent_name="a", permissions=permissions)
        ended = worker.events(JobEnded)
        async with worker:
            server.create_dispatch("room", "a")
            await anext(ended)
    assert (seen[0].can_publish, seen[0].can_publish_data, seen[0].hidden) == (False, False, True)
    assert seen[0].can_subscribe


@pytest.mark.virtual
@pytest.mark.parametrize(
    ("option", "answer", "subscribed"),
    [
        (AutoSubscribe.EVERYTHING, None, ["sound", "picture"]),
        (AutoSubscribe.AUDIO, None, ["sound"]),
        (AutoSubscribe.VIDEO, None, ["picture"]),
        (AutoSubscribe.NOTHING, None, []),
        (AutoSubscribe.NOTHING, AutoSubscribe.AUDIO, ["sound"]),
        (AutoSubscribe.AUDIO, AutoSubscribe.NOTHING, []),
    ],
)
async def test_auto_subscribe_is_what_the_agent_gets_unless_its_answer_says_otherwise(
    option: AutoSubscribe, answer: AutoSubscribe | None, subscribed: list[str]
) -> None:
    seen: list[list[str]] = []

    async def look(ctx: JobContext) -> None:
        await anyio.sleep(1)
        person = ctx.room.remote_participants["ann"]
        seen.append([view.name for view in person.track_publications.values() if view.subscribed])

    async def request(job: Job) -> JobMetadata:
        return JobMetadata(auto_subscribe=answer)

    async with a_server() as server:
        worker = a_worker(
            server,
            SimpleUniversalHandler(job_request=request, job_assigned=look),
            agent_name="a",
            auto_subscribe=option,
        )
        async with server.rooms.join("room", "ann") as ann, worker:
            await ann.local_participant.publish_audio(name="sound")
            await ann.local_participant.publish_video(VideoSource(320, 240), name="picture")
            ended = worker.events(JobEnded)
            server.create_dispatch("room", "a")
            await anext(ended)
    assert seen == [subscribed]


@pytest.mark.virtual
@pytest.mark.parametrize("max_jobs", [1, 3, None])
async def test_max_jobs_is_how_many_run_at_once(max_jobs: int | None) -> None:
    async with a_server() as server:
        worker = a_worker(
            server, SimpleUniversalHandler(job_assigned=endless), agent_name="a", max_jobs=max_jobs, shutdown_timeout=0
        )
        async with worker:
            for number in range(5):
                server.create_dispatch(f"room-{number}", "a")
                await anyio.sleep(5)
            assert worker.stats.active_jobs == (max_jobs or 5)
            assert worker.status is (WorkerStatus.FULL if max_jobs else WorkerStatus.BUSY)


@pytest.mark.virtual
async def test_the_load_calculator_says_the_load_and_takes_the_job() -> None:
    asked: list[tuple[JobType, float]] = []

    def accept(job_type: JobType, load: float) -> bool:
        asked.append((job_type, load))
        return False

    calculator = CustomLoadCalculator(calculator=lambda stats: 0.25, acceptor=accept)
    async with a_server() as server, a_worker(server, agent_name="a", load_calculator=calculator) as worker:
        await server.wait_for(lambda: server.workers[worker.worker_id].load == 0.25, 10)
        server.create_dispatch("room", "a")
        await server.wait_for(lambda: asked, 10)
        assert worker.stats.total_jobs == 0
    assert asked[0] == (JobType.ROOM, 0.25)


@pytest.mark.virtual
async def test_job_timeout_ends_the_job() -> None:
    async with a_server() as server:
        worker = a_worker(server, SimpleUniversalHandler(job_assigned=endless), agent_name="a", job_timeout=7)
        ended = worker.events(JobEnded)
        async with worker:
            server.create_dispatch("room", "a")
            began = anyio.current_time()
            event = await anext(ended)
            assert event.status is JobStatus.FAILED
            assert 7 <= anyio.current_time() - began < 8


@pytest.mark.virtual
async def test_shutdown_timeout_is_how_long_a_stop_waits_for_jobs() -> None:
    assert 12 <= await stopping_takes(endless, shutdown_timeout=12) < 13


@pytest.mark.virtual
async def test_cancel_grace_is_how_long_a_cancelled_handler_may_take() -> None:
    assert 6 <= await stopping_takes(stubborn, shutdown_timeout=0, cancel_grace=6) < 7


@pytest.mark.virtual
async def test_cleanup_timeout_is_how_long_clean_ups_may_take() -> None:
    async def untidy(ctx: JobContext) -> None:
        ctx.push_cleanup(anyio.sleep_forever)
        await anyio.sleep_forever()

    assert 9 <= await stopping_takes(untidy, shutdown_timeout=0, cleanup_timeout=9) < 10


async def stopping_takes(job: Any, **options: Any) -> float:
    """Seconds until ``stop()`` has its report, with ``job`` running."""
    running = anyio.Event()

    async def run(ctx: JobContext) -> None:
        running.set()
        await job(ctx)

    async with a_server() as server:
        worker = a_worker(server, SimpleUniversalHandler(job_assigned=run), agent_name="a", **options)
        async with worker:
            server.create_dispatch("room", "a")
            await running.wait()
            began = anyio.current_time()
            await worker.stop()
            return anyio.current_time() - began


@pytest.mark.virtual
async def test_max_connect_failures_is_when_the_worker_gives_up() -> None:
    tried: list[float] = []

    async def refuse(endpoint: Any) -> Any:
        tried.append(anyio.current_time())
        raise ConnectionLostError("no")

    worker = UniversalWorker(
        "ws://localhost",
        "key",
        "secret",
        SimpleUniversalHandler(),
        WorkerOptions(max_connect_failures=3),
        connector=refuse,
        probe=Sample,
    )
    with pytest.raises(ConnectionLostError, match="gave up after 3"):
        await worker.start()
    assert len(tried) == 3


@pytest.mark.virtual
async def test_logger_is_where_the_worker_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def work(ctx: JobContext) -> None:
        ctx.log.info("at work")

    async with a_server() as server:
        handler = SimpleUniversalHandler(job_assigned=work)
        worker = a_worker(server, handler, agent_name="a", logger=logging.getLogger("mine"))
        ended = worker.events(JobEnded)
        async with worker:
            server.create_dispatch("room", "a")
            await anext(ended)
    mine = [record.getMessage() for record in caplog.records if record.name == "mine"]
    assert "at work" in mine
    assert any(message.startswith("registered as") for message in mine)
    assert not [record for record in caplog.records if record.name == "livekit_agent"]


@pytest.mark.virtual
async def test_a_logger_adapter_keeps_what_it_adds_beside_the_jobs_ids(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    class Prefix(logging.LoggerAdapter[Any]):
        def process(self, msg: Any, kwargs: Any) -> Any:
            msg, kwargs = super().process(msg, kwargs)
            return f"[tenant-7] {msg}", kwargs

    async def work(ctx: JobContext) -> None:
        ctx.log.info("at %s", "work", extra={"step": 3})

    adapter = Prefix(logging.LoggerAdapter(logging.getLogger("mine"), {"app": "shop"}), {"tenant": 7})
    async with a_server() as server:
        worker = a_worker(server, SimpleUniversalHandler(job_assigned=work), agent_name="a", logger=adapter)
        ended = worker.events(JobEnded)
        async with worker:
            server.create_dispatch("room", "a")
            job = (await anext(ended)).job
    record: Any = next(record for record in caplog.records if record.getMessage() == "[tenant-7] at work")
    assert (record.job_id, record.room, record.step, record.tenant, record.app) == (job.id, "room", 3, 7, "shop")
    assert record.funcName == "work"


def a_structlog_logger(level: int, *before: Any) -> tuple[Any, list[Any]]:
    """One that keeps what is said to it from ``level`` on."""
    heard = structlog.testing.LogCapture()
    wrapper = structlog.make_filtering_bound_logger(level)
    return structlog.wrap_logger(None, processors=[*before, heard], wrapper_class=wrapper), heard.entries


@pytest.mark.virtual
async def test_a_structlog_logger_is_told_events_with_fields() -> None:
    logger, heard = a_structlog_logger(logging.INFO)

    async def work(ctx: JobContext) -> None:
        ctx.log.debug("not asked for")
        ctx.log.info("at %s", "work", words=3, name="Ann")
        raise LookupError("no such book")

    async with a_server() as server:
        handler = SimpleUniversalHandler(job_assigned=work)
        worker = a_worker(server, handler, agent_name="a", logger=logger.bind(app="shop"))
        ended = worker.events(JobEnded)
        async with worker:
            server.create_dispatch("room", "a")
            job = (await anext(ended)).job
    ids = {"app": "shop", "job_id": job.id, "room": "room"}
    said = [entry for entry in heard if "job_id" in entry]
    assert said[0] == {"event": "at work", "words": 3, "name": "Ann", "log_level": "info", **ids}
    failed = next(entry for entry in said if entry["log_level"] == "error")
    assert failed == {"event": "job failed", "log_level": "error", "exc_info": failed["exc_info"], **ids}
    assert isinstance(failed["exc_info"], LookupError)
    assert [entry for entry in heard if entry["event"].startswith("registered as") and entry["app"] == "shop"]


@pytest.mark.virtual
async def test_a_structlog_logger_that_fails_ends_no_job(capsys: pytest.CaptureFixture[str]) -> None:
    def broken(logger: object, name: str, event: Any) -> Any:
        raise LookupError("the processor's own mistake")

    logger, _ = a_structlog_logger(logging.INFO, broken)

    async def work(ctx: JobContext) -> None:
        ctx.log.info("at work")

    async with a_server() as server:
        worker = a_worker(server, SimpleUniversalHandler(job_assigned=work), agent_name="a", logger=logger)
        ended = worker.events(JobEnded)
        async with worker:
            server.create_dispatch("room", "a")
            assert (await anext(ended)).status is JobStatus.SUCCESS
    assert "the processor's own mistake" in capsys.readouterr().err


@pytest.mark.parametrize("level", [logging.DEBUG, 15, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL])
def test_a_level_speaks_through_the_method_at_or_below_it(level: int) -> None:
    logger, heard = a_structlog_logger(0)
    logger_of(logger, "unused").log(level, "an event", stack_info=True)
    least = max(named for named in (10, 20, 30, 40, 50) if named <= level)
    assert heard == [{"event": "an event", "stack_info": True, "log_level": logging.getLevelName(least).lower()}]


def test_structlogs_wrapper_around_logging_is_asked_too(caplog: pytest.LogCaptureFixture) -> None:
    render = structlog.processors.JSONRenderer()
    below = logging.getLogger("below")
    below.setLevel(logging.WARNING)
    log = logger_of(structlog.wrap_logger(below, [render], wrapper_class=structlog.stdlib.BoundLogger), "unused")
    assert not log.isEnabledFor(logging.INFO)
    log.warning("%d of %d", 1, 2)
    assert caplog.messages == ['{"event": "1 of 2"}']
