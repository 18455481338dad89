"""The published conformance suite: that its table is whole, that it can fail, and how it is used.

That our own worker passes it is tests/e2e/test_contracts.py's business.
"""

from __future__ import annotations

import itertools
import json
import os
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import ByteStream

from livekit_agent.testing.contracts import CASES, Result, Verdict, contract_test, run_contracts
from livekit_agent.testing.contracts._lab import Lab, Worker

OURS = [sys.executable, "-m", "livekit_agent.testing.contracts.adapters.ours"]
BROKEN = Path(__file__).parent / "broken_worker.py"

pytestmark = pytest.mark.timeout(150)


def test_the_table_has_every_worker_case_of_the_groups_a_to_g() -> None:
    gaps = {7, 11, 16, 43, 47, 59, 73, 79, 88, 90, 94}
    assert [case.number for case in CASES] == sorted(set(range(1, 99)) - gaps)
    assert {case.group for case in CASES} == set("ABCDEFG")


def test_at_least_sixty_cases_are_run_and_the_others_say_why_not() -> None:
    assert sum(case.run is not None for case in CASES) >= 60
    for case in CASES:
        assert (case.run is None) == bool(case.why), case
        assert case.run is not None or case.verdict in (Verdict.UNSEEN, Verdict.ADAPTER), case


@pytest.mark.parametrize(
    ("switch", "number", "told"),
    [
        ("stale_token", 4, "the second connection came with the first one's token"),
        ("no_permissions", 20, "an empty permissions message, which means none at all"),
        ("nobody", 29, "it accepts without an identity"),
        ("always_success", 51, "a job that raised is reported SUCCESS"),
        ("greedy", 61, "a stopping worker does not say that it is full"),
        ("deaf_to_pings", 71, "no pong with the payload within 2 s"),
        ("brittle", 77, "the worker has died and exited with 9"),
    ],
)
def test_a_broken_worker_fails(switch: str, number: int, told: str) -> None:
    (result,) = run_contracts([sys.executable, str(BROKEN), switch], only=[number], patience=2)
    assert (result.verdict, result.what) == (Verdict.FAILED, told)
    # B20 judges the registration itself, before the worker could say that it is registered.
    assert "INFO:livekit_agent:registered" in result.output or number == 20


def test_a_worker_that_never_connects_fails_in_words() -> None:
    (result,) = run_contracts([sys.executable, "-c", "print('out of order')"], only=[1])
    assert result.verdict is Verdict.FAILED
    assert result.what == "no connection came within 30 s and exited with 0"
    assert result.output == "out of order"


class Silent(ByteStream):
    """Somebody who has connected and says nothing."""

    def __init__(self) -> None:
        self.asked = anyio.Event()
        self.closed = False

    async def receive(self, max_bytes: int = 65536) -> bytes:
        self.asked.set()
        await anyio.sleep_forever()
        raise AssertionError("unreachable")

    async def send(self, item: bytes) -> None:
        pass

    async def send_eof(self) -> None:
        pass

    async def aclose(self) -> None:
        self.closed = True


async def test_a_handshake_that_is_cut_by_the_end_of_its_case_leaves_no_connection_open() -> None:
    lab = Lab(OURS, {}, 1.0, 1)
    worker = Worker(itertools.count(), 1.0, 0, ssl.create_default_context(ssl.Purpose.CLIENT_AUTH))
    stream: Any = Silent()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(lab._converse, worker, stream)
        await stream.asked.wait()
        tasks.cancel_scope.cancel()
    assert stream.closed
    assert (worker.links, worker.tls_failures) == ([], 0)


def test_results_are_told_as_they_come_and_returned_in_order() -> None:
    told: list[Result] = []
    results = run_contracts(OURS, only=[33, 21, 29], on_result=told.append, patience=2)
    assert [result.case.number for result in results] == [21, 29, 33]
    assert sorted(result.case.number for result in told) == [21, 29, 33]
    assert [result.verdict for result in results] == [Verdict.ADAPTER, Verdict.OK, Verdict.OK]


def test_an_unknown_case_is_refused() -> None:
    with pytest.raises(ValueError, match="no such cases: 7, 1000"):
        run_contracts(OURS, only=[7, 29, 1000])
    with pytest.raises(ValueError, match="no such cases: 7"):
        contract_test(OURS, only=[7])
    with pytest.raises(ValueError, match="parallel must be at least 1"):
        run_contracts(OURS, parallel=0)


# ------------------------------------------------------------------------------------------------ the command


def contracts(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-m", "livekit_agent.testing.contracts", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_command_prints_a_table_and_ends_with_0() -> None:
    done = contracts("--case", "29,48", "--patience", "2", "--", *OURS)
    assert (done.returncode, done.stderr) == (0, "")
    first, second, *_, last = done.stdout.splitlines()
    assert first.split()[:2] == ["C29", "accepts:"]
    assert " ok " in first
    assert second.endswith("adapter   the job would have to tell what it sees")
    assert last.startswith("1 cases run in ")
    assert last.endswith(": 1 ok, 1 adapter")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes of Windows break otherwise")
def test_a_reader_who_has_seen_enough_ends_the_command_quietly() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-W", "error", "-m", "livekit_agent.testing.contracts", "--list"]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=120)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")  # what a shell reports of a process that SIGPIPE ended


def test_the_command_ends_with_1_when_a_case_failed_and_shows_what_the_worker_printed() -> None:
    done = contracts("--case", "29", "--patience", "2", "--", sys.executable, str(BROKEN), "nobody")
    assert done.returncode == 1
    assert "C29 accepts: identity, within 2.8 s: the last that the worker printed" in done.stdout
    assert "  | INFO:livekit_agent:registered as AW_" in done.stdout


def test_json_has_an_object_for_each_case_and_a_last_one_in_sum() -> None:
    done = contracts("--json", "--group", "D", "--case", "29", "--patience", "2", "--", *OURS)
    assert done.returncode == 0
    *rows, last = map(json.loads, done.stdout.splitlines())
    assert [row["case"] for row in rows] == [29, 50, 51, 52, 53, 54, 55]
    assert {row["group"] for row in rows} == {"C", "D"}
    assert all(row.keys() == {"case", "group", "title", "verdict", "what", "seconds"} for row in rows)
    assert (last["event"], last["verdicts"]) == ("summary", {"ok": 6, "unseen": 1})


def test_without_a_command_it_says_what_is_missing() -> None:
    done = contracts("--case", "29")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: no command; for example -- python my_worker.py\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--case", "29,7,many"), "error: no such cases: 7, many; --list tells all"),
        (("--group", "AZ"), "error: no such cases: Z; --list tells all"),
    ],
)
def test_a_case_that_there_is_not_is_a_mistake_and_not_a_suite_that_passes(
    arguments: tuple[str, ...], told: str
) -> None:
    done = contracts(*arguments, "--", *OURS)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", told + "\n")


def test_the_list_tells_every_case_and_runs_none() -> None:
    lines = contracts("--list").stdout.splitlines()
    assert len(lines) == len(CASES)
    assert lines[0].split()[0] == "A1"


# ------------------------------------------------------------------------------------------------ in pytest

pytest_plugins = ["pytester"]


def test_a_project_makes_a_test_of_each_case(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        f"""
        from livekit_agent.testing.contracts import contract_test

        test_contracts = contract_test({OURS!r}, only=[20, 29, 33], patience=2)
        """
    )
    result = pytester.runpytest_subprocess("-v", "-p", "no:randomly", "-W", "error")
    result.assert_outcomes(passed=3)
    result.stdout.fnmatch_lines(["*test_contracts[[]B20[]] PASSED*", "*test_contracts[[]C29[]] PASSED*"])


def test_a_case_that_lacks_something_is_skipped_and_does_not_pass(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        """
        from livekit_agent.testing.contracts import CASES, Result, Verdict, _run, contract_test

        def lacking(command, **options):
            case = next(case for case in CASES if case.number == 17)
            return [Result(case=case, verdict=Verdict.ADAPTER, what="needs trustme", seconds=0.0)]

        _run.run_contracts = lacking
        test_contracts = contract_test(["true"], only=[17])
        """
    )
    result = pytester.runpytest_subprocess("-rs", "-p", "no:randomly", "-W", "error")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*needs trustme"])


def test_a_failed_case_says_what_happened(pytester: pytest.Pytester) -> None:
    command = [sys.executable, str(BROKEN), "no_permissions"]
    pytester.makepyfile(
        f"""
        from livekit_agent.testing.contracts import contract_test

        test_contracts = contract_test({command!r}, only=[20], patience=2)
        """
    )
    result = pytester.runpytest_subprocess("-p", "no:randomly", "-W", "error")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["permissions absent or complete: an empty permissions message*"])
