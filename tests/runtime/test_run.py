"""A worker as a program: real processes, real signals, exit codes.

Goal: the first signal drains, the second cancels, the third leaves; each error has its code.  Method: the server is
in this process, the worker in a child (``scripts/worker.py``) that prints a word per thing that happened.  Every step
waits for a word or for the server, never for time.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from signal import SIGINT, SIGTERM
from typing import Any, Self

import anyio
import pytest
from anyio.abc import Process
from anyio.streams.text import TextReceiveStream

import livekit_agent
from livekit_agent import (
    AuthenticationError,
    ConfigError,
    ConnectionLostError,
    HandlerDefinitionError,
    JobStatus,
    SimpleUniversalHandler,
    UniversalWorker,
    WorkerError,
    WorkerOptions,
    run,
)
from livekit_agent.dispatch import DispatchServer, JobRecord
from livekit_agent.runtime._run import exit_code_of

SCRIPT = Path(__file__).parent / "scripts" / "worker.py"


class Child:
    """The worker's process, its words and its log."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.log = ""
        self.words: list[str] = []
        self._rest = ""
        self._logged = anyio.Event()
        self._log_read = anyio.Event()
        assert process.stdout is not None
        self._out = TextReceiveStream(process.stdout)

    async def says(self, word: str) -> None:
        """Wait for the next word, which must be this."""
        assert await self.next_word() == word, self.log

    async def next_word(self) -> str:
        with anyio.fail_after(20):
            while "\n" not in self._rest:
                try:
                    self._rest += await self._out.receive()
                except anyio.EndOfStream:
                    return "nothing more"
        word, _, self._rest = self._rest.partition("\n")
        self.words.append(word)
        return word

    def gets(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def ends(self) -> int:
        """The exit code; the log is complete then."""
        with anyio.fail_after(20):
            code = await self.process.wait()
            await self._log_read.wait()
        return code

    async def read_log(self) -> None:
        assert self.process.stderr is not None
        with suppress(anyio.ClosedResourceError):  # killed by a test that failed
            async for text in TextReceiveStream(self.process.stderr):
                self.log += text
                self._logged.set()
                self._logged = anyio.Event()
        self._log_read.set()

    async def logs(self, text: str) -> None:
        """Wait until the log says this."""
        with anyio.fail_after(20):
            while text not in self.log:
                await self._logged.wait()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        if self.process.returncode is None:
            self.process.kill()
        with anyio.CancelScope(shield=True):
            await self.process.aclose()


@asynccontextmanager
async def program(
    backend: str, scenario: str, server: DispatchServer | None = None, *, url: str = "", secret: str = ""
) -> AsyncGenerator[Child]:
    """Start the script."""
    key = server.api_key if server else "key"
    secret = secret or (server.api_secret if server else "secret")
    url = url or (server.url if server else "")
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(Path(livekit_agent.__file__).parents[1]))))
    process = await anyio.open_process(
        [sys.executable, "-W", "error", str(SCRIPT), backend, scenario, url, key, secret],
        stdin=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": path},
    )
    async with anyio.create_task_group() as tasks, Child(process) as child:
        tasks.start_soon(child.read_log)
        yield child


@asynccontextmanager
async def with_a_job(backend: str, scenario: str) -> AsyncGenerator[tuple[Child, Callable[[], Any]]]:
    """A program that runs one job; and a wait for how the server thinks that job ended."""
    async with DispatchServer() as server, program(backend, scenario, server) as child:
        await server.wait_for(lambda: server.workers, 20)
        server.create_dispatch("room", "program")
        await child.says("started")

        async def ended() -> tuple[JobStatus, str]:
            def over() -> JobRecord | None:
                return next((job for job in server.jobs.values() if job.agent_name == "program" and job.ended_at), None)

            job = await server.wait_for(over, 20)
            assert job is not None
            return JobStatus(job.status), job.error

        yield child, ended


# ------------------------------------------------------------------------------------------------------ signals


@pytest.mark.parametrize("number", [SIGINT, SIGTERM])
async def test_the_first_signal_drains_and_the_exit_code_is_0(backend: str, number: signal.Signals) -> None:
    async with with_a_job(backend, "polite") as (child, ended):
        child.gets(number)
        await child.says("warned")
        await child.says("finished")
        assert await child.ends() == 0
        assert await ended() == (JobStatus.SUCCESS, "")
        assert "a second signal cancels them" in child.log
        assert "Traceback" not in child.log


@pytest.mark.parametrize(("second", "code"), [(SIGINT, 130), (SIGTERM, 143)])
async def test_the_second_signal_cancels_the_jobs_and_names_the_exit_code(
    backend: str, second: signal.Signals, code: int
) -> None:
    async with with_a_job(backend, "endless") as (child, ended):
        child.gets(SIGTERM)
        await child.says("warned")
        child.gets(second)
        await child.says("cancelled")
        assert await child.ends() == code
        assert await ended() == (JobStatus.FAILED, "worker cancelled")
        assert "a third signal leaves at once" in child.log
        assert "Traceback" not in child.log


async def test_the_third_signal_leaves_at_once(backend: str) -> None:
    async with with_a_job(backend, "shielded") as (child, _):
        child.gets(SIGINT)
        await child.says("warned")
        child.gets(SIGINT)
        await child.says("cancelled")
        child.gets(SIGTERM)
        assert await child.ends() == 143


async def test_the_third_signal_leaves_although_a_handler_blocks_the_event_loop(backend: str) -> None:
    async with with_a_job(backend, "blocking") as (child, _):
        child.gets(SIGTERM)
        await child.says("seen-1")
        child.gets(SIGTERM)
        await child.says("seen-2")
        child.gets(SIGINT)
        assert await child.ends() == 130
        assert await child.next_word() == "nothing more"


async def test_a_signal_while_nobody_answers_ends_the_worker_at_once(backend: str) -> None:
    async with DispatchServer() as server:
        url = server.url
    async with program(backend, "polite", url=url) as child:
        await child.logs("trying again")
        child.gets(SIGTERM)
        assert await child.ends() == 0


async def test_a_handler_that_ignores_its_cancellation_ends_the_program_with_70_and_its_stack(backend: str) -> None:
    async with with_a_job(backend, "spinning") as (child, ended):
        child.gets(SIGTERM)
        await child.says("warned")
        child.gets(SIGTERM)
        assert await child.ends() == 70
        assert "in spinning_here_and_nowhere_else" in child.log
        assert "leaving although handlers still run" in child.log
        status, error = await ended()
        assert status is JobStatus.FAILED
        assert "cancel" in error


async def test_a_question_that_ignores_its_cancellation_ends_the_program_with_70_as_well(backend: str) -> None:
    async with DispatchServer() as server, program(backend, "unanswering", server) as child:
        await server.wait_for(lambda: server.workers, 20)
        server.create_dispatch("room", "program")
        await child.says("asked")
        (job_id,) = server.jobs
        child.gets(SIGTERM)
        assert await child.ends() == 70
        assert f"on_job_request for job {job_id} ignored its cancellation" in child.log
        assert f"leaving although handlers still run: {job_id}" in child.log


async def test_a_plain_question_that_hangs_in_its_thread_keeps_no_program_from_ending(backend: str) -> None:
    async with DispatchServer() as server, program(backend, "hanging", server) as child:
        await server.wait_for(lambda: server.workers, 20)
        server.create_dispatch("room", "program")
        await child.says("asked")
        child.gets(SIGTERM)
        assert await child.ends() == 0
        assert "Traceback" not in child.log


# ------------------------------------------------------------------------------------------------------- errors


async def test_a_wrong_secret_is_77_with_a_hint_and_no_traceback(backend: str) -> None:
    async with DispatchServer() as server, program(backend, "polite", server, secret="x" * 32) as child:
        assert await child.ends() == 77
    assert "AuthenticationError" in child.log
    assert "hint:" in child.log
    assert "Traceback" not in child.log


async def test_a_bad_setting_found_late_is_78(backend: str) -> None:
    async with program(backend, "config", url="wss://127.0.0.1:1") as child:
        assert await child.ends() == 78
    assert "ConfigError: ca_file: No such file or directory" in child.log
    assert "Traceback" not in child.log


async def test_giving_up_is_75(backend: str) -> None:
    async with DispatchServer() as server:
        url = server.url
    async with program(backend, "gave-up", url=url) as child:
        assert await child.ends() == 75
    assert "gave up after 2 failed connections" in child.log
    assert "Traceback" not in child.log


def test_every_error_that_can_end_a_worker_has_its_code() -> None:
    table = {
        AuthenticationError(): 77,
        ConfigError(): 78,
        HandlerDefinitionError(): 1,
        ConnectionLostError(): 75,
        WorkerError(): 69,
        RuntimeError(): 70,
    }
    assert {error: exit_code_of(error) for error in table} == table


def test_the_command_line_agrees_about_every_code() -> None:
    pytest.importorskip("click")
    from livekit_agent.cli._exit import exit_code

    for error in (
        AuthenticationError(),
        ConfigError(),
        HandlerDefinitionError(),
        ConnectionLostError(code="CONNECTION_GAVE_UP"),
    ):
        assert exit_code(error) == exit_code_of(error), error


# -------------------------------------------------------------------------------------------------- interrupts


async def test_a_keyboard_interrupt_in_a_job_is_130_after_the_job_was_reported(backend: str) -> None:
    async with with_a_job(backend, "interrupting") as (child, ended):
        assert await child.ends() == 130
        assert await ended() == (JobStatus.FAILED, "worker interrupted")


async def test_a_system_exit_in_a_job_ends_the_program_with_its_code_after_the_job_was_reported(backend: str) -> None:
    async with with_a_job(backend, "exiting") as (child, ended):
        assert await child.ends() == 5
        assert await ended() == (JobStatus.FAILED, "worker interrupted")


# -------------------------------------------------------------------------------------- threads, second lives


async def test_off_the_main_thread_a_worker_runs_without_signals_and_says_so(backend: str) -> None:
    async with with_a_job(backend, "thread") as (child, ended):
        assert await child.ends() == 0
        assert await ended() == (JobStatus.SUCCESS, "")
        assert "not on the main thread: signals are not handled" in child.log


async def test_workers_run_one_after_the_other_but_each_only_once(backend: str) -> None:
    async with DispatchServer() as server, program(backend, "twice", server) as child:
        for room in ("one", "two"):
            await server.wait_for(lambda: server.workers, 20)
            server.create_dispatch(room, "program")
            await child.says("started")
            await child.says("code-0")
            await server.wait_for(lambda: not server.workers, 20)
        assert await child.ends() == 69
        assert "was started before" in child.log


def test_a_worker_stopped_before_its_run_ends_with_0_at_once(backend: Any) -> None:
    worker = UniversalWorker("ws://127.0.0.1:1", "key", "secret", SimpleUniversalHandler())
    worker.request_stop()
    assert run(worker, backend=backend) == 0


def test_run_puts_the_handlers_of_signals_back_also_after_an_error(backend: Any, tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (SIGINT, SIGTERM)]
    options = WorkerOptions(ca_file=str(tmp_path / "none.pem"))
    worker = UniversalWorker("wss://127.0.0.1:1", "key", "secret", SimpleUniversalHandler(), options)
    assert run(worker, backend=backend) == 78
    assert [signal.getsignal(number) for number in (SIGINT, SIGTERM)] == before
