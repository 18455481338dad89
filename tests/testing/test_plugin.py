"""The pytest plugin, as a project sees it that has this package installed: every test here runs pytest in a process."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

pytestmark = pytest.mark.timeout(120)

Run = Callable[..., pytest.RunResult]

HEAD = """
import anyio
import pytest
from livekit_agent import BaseHandler, JobContext, SimpleUniversalHandler
from livekit_agent.events import DataReceived
"""


@pytest.fixture
def project(pytester: pytest.Pytester, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Write a test file and run pytest on it, with warnings as errors."""
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    # Installed, it is loaded by its entry point; in a checkout that only has a path, by name.
    installed = request.config.pluginmanager.has_plugin("livekit_agent")
    plugin = () if installed else ("-p", "livekit_agent.testing._plugin")

    def run(source: str, *arguments: str) -> pytest.RunResult:
        pytester.makepyfile(HEAD + textwrap.dedent(source))
        return pytester.runpytest_subprocess(*plugin, "-p", "no:randomly", "-W", "error", *arguments)

    return run


def command(result: pytest.RunResult) -> list[str]:
    """The arguments of the first command that a failure printed."""
    printed = re.search(
        r"^(?:E +)?  pytest '([^']+)' (--agent-seed \S+) (--agent-backend \S+)$", str(result.stdout), re.M
    )
    assert printed, str(result.stdout)
    return [printed[1], *printed[2].split(), *printed[3].split()]


# ------------------------------------------------------------------------------------------------ running seeds

GREETER = """
handler = SimpleUniversalHandler()

@handler.job_assigned
async def greet(ctx: JobContext) -> None:
    await ctx.room.local_participant.publish_data("hello")

@pytest.mark.agent_seeds(5)
async def test_the_agent_greets(agent_server, agent_worker, agent_room):
    await agent_worker(handler)
    alice = await agent_room("lobby", "alice")
    assert (await alice.wait_for(DataReceived)).data == b"hello"
    print(f"seed lived: {len(agent_server.jobs)} job")
"""


def test_the_mark_runs_n_seeds_on_both_backends(project: Run) -> None:
    result = project(GREETER, "-s")
    result.assert_outcomes(passed=2)
    assert str(result.stdout).count("seed lived: 1 job") == 10


def test_options_choose_seeds_and_backend(project: Run) -> None:
    result = project(GREETER, "-s", "--agent-seeds", "2", "--agent-backend", "trio")
    result.assert_outcomes(passed=1)
    assert str(result.stdout).count("seed lived") == 2


def test_an_example_that_anyone_can_copy_has_eight_lines() -> None:
    lines = [line for line in GREETER.split("@pytest")[1].strip().splitlines() if "print" not in line]
    assert len(lines) <= 8


def test_parameters_classes_and_other_fixtures_work_as_always(project: Run) -> None:
    result = project(
        """
        @pytest.fixture
        def word():
            return "hello"

        class TestRooms:
            @pytest.mark.agent_seeds(2)
            @pytest.mark.parametrize("who", ["alice", "bob"])
            async def test_somebody_is_there(self, agent_room, agent_server, word, who, tmp_path):
                await agent_room("lobby", who, metadata=word)
                (person,) = agent_server.rooms.participants("lobby")
                assert (person.identity, person.metadata) == (who, "hello")
        """
    )
    result.assert_outcomes(passed=4)


def test_a_decorator_of_the_tests_own_is_called_with_it(project: Run) -> None:
    result = project(
        """
        import functools

        def twice(test):
            @functools.wraps(test)
            async def again(*args, **kwargs):
                await test(*args, **kwargs)
                await test(*args, **kwargs)
            return again

        @pytest.mark.agent_seeds(1)
        @twice
        async def test_time_passes(agent_clock):
            await agent_clock.advance(1)
            print(f"it is {agent_clock.now():g} s")
        """,
        "-s",
    )
    result.assert_outcomes(passed=2)
    assert str(result.stdout).count("it is 2 s") == 2


#: What pytest-trio does in its ``trio_mode`` to every async test, when it is called.
TRIO_MODE = """
import functools
import pytest
import trio

@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    test = item.obj

    async def bootstrap(**kwargs):
        async with trio.open_nursery():
            await test(**kwargs)

    @functools.wraps(bootstrap)
    def wrapper(**kwargs):
        return trio.run(functools.partial(bootstrap, **kwargs))

    item.obj = wrapper
    return (yield)
"""


def test_another_plugin_for_async_tests_that_takes_every_one_leaves_ours_alone(
    project: Run, pytester: pytest.Pytester
) -> None:
    pytester.makeconftest(TRIO_MODE)
    result = project(GREETER, "-s")
    result.assert_outcomes(passed=2)
    assert str(result.stdout).count("seed lived: 1 job") == 10


def test_the_clock_is_virtual_and_starts_at_zero(project: Run) -> None:
    result = project(
        """
        @pytest.mark.agent_seeds(2)
        async def test_a_day(agent_clock):
            assert agent_clock.now() == 0.0
            began = agent_clock.wall()
            await agent_clock.advance(1800)
            assert (agent_clock.now(), agent_clock.wall() - began) == (1800.0, 1800.0)
        """
    )
    result.assert_outcomes(passed=2)


# ------------------------------------------------------------------------------------------------ finding and replaying

RACE = """
class Ledger(BaseHandler):
    def __init__(self) -> None:
        self.served = 0

    async def on_job_assigned(self, ctx: JobContext) -> None:
        served = self.served
        await ctx.room.local_participant.publish_data(f"you are number {served + 1}")
        self.served = served + 1
"""

TOGETHER = """
@pytest.mark.agent_seeds(200)
async def test_everybody_is_counted(agent_worker, agent_room, agent_clock):
    ledger = Ledger()
    await agent_worker(ledger, max_jobs=None)
    await agent_room("one", "alice")
    await agent_room("two", "bob")
    await agent_clock.advance(5)
    assert ledger.served == 2
"""

#: Bob comes two milliseconds later: only a seed in which Alice's job was slow lets the two meet.
APART = TOGETHER.replace(
    '    await agent_room("two"', '    await agent_clock.advance(0.002)\n    await agent_room("two"'
)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("test", [TOGETHER, APART], ids=["together", "apart"])
def test_a_read_await_write_race_is_found_and_replayed_in_a_new_process(
    project: Run, pytester: pytest.Pytester, backend: str, test: str
) -> None:
    found = project(RACE + test, "--agent-backend", backend)
    found.assert_outcomes(failed=1)
    found.stdout.fnmatch_lines(["E*assert 1 == 2*", f"E*seed 0x* on {backend}; again with:"])
    nodeid, *seed = command(found)
    assert nodeid.endswith(f"::test_everybody_is_counted[{backend}]")

    again = project(RACE + test, nodeid, *seed)
    again.assert_outcomes(failed=1)
    assert command(again) == [nodeid, *seed]
    errors = [[line for line in str(r.stdout).splitlines() if line.startswith("E ")] for r in (found, again)]
    assert re.sub("0x[0-9a-f]{9,}", "", str(errors[0])) == re.sub("0x[0-9a-f]{9,}", "", str(errors[1]))


def test_the_command_works_where_pytest_was_called(
    project: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytester.makeini("[pytest]")
    tests = pytester.mkdir("inner")
    (tests / "test_inner.py").write_text(HEAD + RACE + TOGETHER)
    monkeypatch.chdir(tests)
    nodeid, *_ = command(project("", "test_inner.py", "--agent-backend", "trio"))
    assert nodeid == "test_inner.py::test_everybody_is_counted[trio]"


def test_faults_strike_and_the_worker_comes_back(project: Run) -> None:
    result = project(
        """
        ids = []

        @pytest.mark.agent_seeds(10, faults=("reset", "half_close", "stall", "dribble", "latency"))
        async def test_a_worker_survives(agent_worker, agent_clock):
            worker = await agent_worker(SimpleUniversalHandler())
            first = worker.worker_id
            await agent_clock.advance(120)
            assert worker.worker_id, "it is registered again, or still"
            ids.append((first, worker.worker_id))

        def test_most_had_to_come_back():
            assert sum(first != last for first, last in ids) > 10
        """
    )
    result.assert_outcomes(passed=3)


def test_the_tests_own_dice_replay_and_those_of_others_are_left_alone(project: Run) -> None:
    result = project(
        """
        import random

        drawn = []

        @pytest.mark.agent_seeds(3)
        async def test_dice(agent_clock):
            drawn.append(random.random())

        def test_equal_on_both_backends_and_different_between_seeds():
            assert drawn[:3] == drawn[3:]
            assert len(set(drawn)) == 3
        """
    )
    result.assert_outcomes(passed=3)


# ------------------------------------------------------------------------------------------------ the real world

REAL_WORLD = """
import _thread
import http.client
import multiprocessing
import os
import socket
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from time import time as now

ASKS = {
    "time.time()": lambda: time.time(),
    "time.time() by name": lambda: now(),
    "time.sleep()": lambda: time.sleep(1),
    "time.monotonic()": lambda: time.monotonic(),
    "socket.socket()": lambda: socket.socket(),
    "socket.create_connection()": lambda: socket.create_connection(("localhost", 1)),
    "threading.Thread.start()": lambda: threading.Thread(target=print).start(),
    "subprocess.Popen()": lambda: subprocess.Popen(["true"]),
    "time.perf_counter_ns()": lambda: time.perf_counter_ns(),
    "a connection of http.client's": lambda: http.client.HTTPConnection("localhost", 1).connect(),
    "a thread of an executor's": lambda: ThreadPoolExecutor().submit(print),
    "a thread without an object": lambda: _thread.start_new_thread(print, ()),
    "the hour": lambda: time.strftime("%H:%M"),
    "the date": lambda: time.localtime(None),
    "the system's clock": lambda: time.clock_gettime(time.CLOCK_REALTIME),
    "a name's address": lambda: socket.gethostbyname("localhost"),
    "a shell": lambda: os.system("true"),
    "a fork": lambda: os.fork() or os._exit(0),
    "a process of multiprocessing's": lambda: multiprocessing.get_context("spawn").Process(target=print).start(),
}

@pytest.mark.agent_seeds(1)
@pytest.mark.parametrize("ask", ASKS, ids=range(len(ASKS)))
async def test_a_handler_asks(ask, agent_worker, agent_room, agent_clock):
    handler = SimpleUniversalHandler()

    @handler.job_assigned
    async def work(ctx):
        ASKS[ask]()

    await agent_worker(handler)
    await agent_room("lobby", "alice")
    await agent_clock.advance(5)

@pytest.mark.agent_seeds(1)
async def test_a_time_that_is_told_is_no_clock():
    assert time.strftime("%Y", time.gmtime(0)) == "1970"
    assert time.localtime(0) and time.ctime(0) and time.asctime(time.gmtime(0))

def test_outside_it_is_allowed():
    time.time(), now(), socket.socket().close()
"""


def test_a_handler_that_asks_for_the_real_world_gets_an_error_that_names_the_call(project: Run) -> None:
    result = project(REAL_WORLD)
    result.assert_outcomes(failed=38, passed=3)
    told = re.findall(r"^E +\S*RealWorldError: (.*)\(\) under virtual time$", str(result.stdout), re.M)
    assert {name: told.count(name) for name in told} == {
        "time.time": 4,
        "time.sleep": 2,
        "time.monotonic": 2,
        "time.perf_counter_ns": 2,
        "socket.socket": 2,
        "socket.create_connection": 4,
        "threading.Thread.start": 4,
        "subprocess.Popen": 2,
        "_thread.start_new_thread": 2,
        "time.strftime": 2,
        "time.localtime": 2,
        "time.clock_gettime": 2,
        "socket.gethostbyname": 2,
        "os.system": 2,
        "os.fork": 2,
        "multiprocessing.process.BaseProcess.start": 2,
    }
    assert str(result.stdout).count('"time.time() by name": lambda: now(),') >= 2  # the traceback shows who asked


def test_a_refused_class_still_knows_what_was_made_of_it_before(project: Run) -> None:
    result = project(
        """
        import socket
        import ssl

        BEFORE = socket.socket()

        class Mine(socket.socket):
            pass

        @pytest.mark.agent_seeds(1)
        async def test_kinds():
            assert isinstance(BEFORE, socket.socket)
            assert not isinstance(BEFORE, Mine)
            assert issubclass(ssl.SSLSocket, socket.socket)

            class Later(socket.socket):
                pass

            assert issubclass(Later, socket.socket)
            assert not isinstance(BEFORE, Later)

        def test_last():
            BEFORE.close()
        """
    )
    result.assert_outcomes(passed=3)


def test_a_worker_thread_is_refused(project: Run) -> None:
    result = project(
        """
        @pytest.mark.agent_seeds(1)
        async def test_thread():
            await anyio.to_thread.run_sync(print)
        """
    )
    result.assert_outcomes(failed=2)
    result.stdout.fnmatch_lines(["E*RealWorldError: a worker thread under virtual time"])


# ------------------------------------------------------------------------------------------------ what goes wrong

WRONG = """
class Nervous(BaseHandler):
    async def on_job_assigned(self, ctx: JobContext) -> None:
        raise LookupError("no greeting for you")

@pytest.mark.agent_seeds(3, limit=60)
async def test_hung(agent_worker, agent_room):
    await agent_worker(Nervous())
    alice = await agent_room("lobby", "alice")
    await alice.wait_for(DataReceived)

@pytest.mark.agent_seeds(3)
async def test_deadlock(agent_server):
    await anyio.Event().wait()

@pytest.mark.agent_seeds(3)
async def test_leaves_a_person(agent_worker, agent_server):
    await agent_worker(SimpleUniversalHandler())
    file = open(__file__)
    LEFT.append(file)

LEFT = []

@pytest.mark.agent_seeds(3)
async def test_group():
    raise ExceptionGroup("two at once", [ValueError("a"), KeyError("b")])

@pytest.mark.agent_seeds(3)
async def test_wrapped(agent_worker):
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(fail)

async def fail():
    raise ValueError("in a child")

@pytest.mark.agent_seeds(3)
def test_sync(agent_room):
    pass

@pytest.mark.agent_seeds(3, faults=("earthquake",))
async def test_unknown_fault(agent_room):
    pass

@pytest.mark.agent_seeds(0)
async def test_no_seeds(agent_room):
    pass

@pytest.mark.agent_seeds(3, fault=("reset",))
async def test_misspelt(agent_room):
    pass

def test_without_the_mark(agent_room):
    pass
"""


@pytest.fixture(scope="module")
def wrong(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What is printed about each of the tests above, on trio."""
    directory = tmp_path_factory.mktemp("wrong")
    (directory / "test_wrong.py").write_text(HEAD + WRONG)
    plugin = [] if request.config.pluginmanager.has_plugin("livekit_agent") else ["-p", "livekit_agent.testing._plugin"]
    arguments = ["-p", "no:randomly", "-p", "no:cacheprovider", "-W", "error", "--agent-backend", "trio"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *plugin, *arguments],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=100,
    )
    parts = re.split(r"^_+ (?:ERROR at setup of )?(test_\w+)(?:\[trio\])? _+$", done.stdout, flags=re.M)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_a_hung_test_ends_at_the_virtual_limit_and_says_where_it_waits_and_which_jobs_failed(
    wrong: dict[str, str],
) -> None:
    told = wrong["test_hung"]
    assert "the test did not end within 60 s of virtual time; what waits:" in told
    line = next(n for n, text in enumerate((HEAD + WRONG).splitlines(), 1) if "alice.wait_for" in text)
    assert f"  test_wrong.py:{line} in test_hung" in told
    assert re.search(r"meanwhile job AJ_\w+ in room lobby FAILED: LookupError: .*no greeting for you", told)
    assert "test_hung[trio]' --agent-seed 0x0 --agent-backend trio" in told


def test_a_deadlock_is_told_in_three_lines(wrong: dict[str, str]) -> None:
    told = wrong["test_deadlock"].strip().splitlines()
    assert told[0] == "the test did not end within 3600 s of virtual time; what waits:"
    assert told[1].startswith("  test_wrong.py:")
    assert told[1].endswith(" in test_deadlock")
    assert told[2] == "seed 0x0 on trio; again with:"


def test_what_a_test_leaves_open_is_a_leak(wrong: dict[str, str]) -> None:
    assert wrong["test_leaves_a_person"].strip().startswith("the test left 1 files or sockets open")


def test_what_else_outlives_a_test_is_a_leak_too(project: Run) -> None:
    result = project(
        """
        import asyncio
        import threading

        ENOUGH = threading.Event()

        @pytest.mark.agent_seeds(3)
        async def test_task():
            task = asyncio.get_running_loop().create_task(asyncio.sleep(60), name="forgotten")
            KEPT.append(task)

        @pytest.mark.agent_seeds(3)
        async def test_thread():
            # By the loop, so that nobody's code is on the stack: what the refusal cannot see, the count does.
            thread = threading.Thread(target=ENOUGH.wait, name="lost", daemon=True)
            asyncio.get_running_loop().call_soon(thread.start)
            await anyio.sleep(1)

        @pytest.mark.agent_seeds(3)
        async def test_connection(agent_worker, agent_server, monkeypatch):
            # The server's end of a connection that nobody closes: what a mistake in the SDK would leave.
            async def keep(stream):
                KEPT.append(stream)
                await anyio.sleep_forever()

            monkeypatch.setattr(agent_server, "serve_stream", keep)
            with pytest.raises(TimeoutError), anyio.fail_after(1):
                await agent_worker(SimpleUniversalHandler())

        def test_last():
            ENOUGH.set()

        KEPT = []
        """,
        "--agent-backend",
        "asyncio",
    )
    result.assert_outcomes(failed=3, passed=1)
    told = [line for line in str(result.stdout).splitlines() if line.startswith("the test left ")]
    assert told == [
        "the test left 1 tasks running: ['forgotten']",
        "the test left 1 threads running: ['lost']",
        "the test left 1 connections open",
    ]


def test_a_group_keeps_its_leaves(wrong: dict[str, str]) -> None:
    assert "ExceptionGroup: two at once (2 sub-exceptions)" in wrong["test_group"]
    assert "KeyError: 'b'" in wrong["test_group"]


def test_a_single_error_comes_out_of_the_groups_around_it(wrong: dict[str, str]) -> None:
    assert "ValueError: in a child" in wrong["test_wrapped"]
    assert "ExceptionGroup" not in wrong["test_wrapped"]


def test_mistakes_are_told_in_one_line(wrong: dict[str, str]) -> None:
    assert wrong["test_sync"].strip() == "agent_seeds marks async tests"
    known = "latency, dribble, stall, half_close, reset"
    assert (
        wrong["test_unknown_fault"].strip().splitlines()[0]
        == f"agent_seeds knows no fault earthquake; there are {known}"
    )
    assert wrong["test_no_seeds"].strip() == "agent_seeds needs a number of seeds, at least 1, not 0"
    assert wrong["test_misspelt"].strip().splitlines()[0] == "agent_seeds knows no fault; there are n, faults, limit"
    assert "agent_room needs @pytest.mark.agent_seeds on the test" in wrong["test_without_the_mark"]


# ------------------------------------------------------------------------------------------------ costs nothing

IMPORTS = """
import json
import sys

def pytest_unconfigure(config):
    names = [n for n in sys.modules if n.split(".")[0] in ("livekit_agent", "livekit", "trio", "anyio", "wsproto")]
    print("MODULES", json.dumps(sorted(names)))
"""


def test_installing_the_plugin_imports_nothing_until_it_is_used(project: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(IMPORTS)
    (pytester.path / "test_plain.py").write_text("def test_plain(): pass\n")
    installed = project("", "-p", "no:anyio", "-p", "no:hypothesispytest", "-p", "no:trio", "test_plain.py")
    installed.assert_outcomes(passed=1)
    names = json.loads(str(installed.stdout).split("MODULES", 1)[1].splitlines()[0])
    ours = [name for name in names if name.startswith("livekit_agent")]
    assert ours == ["livekit_agent", "livekit_agent.testing", "livekit_agent.testing._plugin"]
    assert not [name for name in names if name.split(".")[0] in ("livekit", "wsproto")]


# ------------------------------------------------------------------------------------------------ the how-to page

HOW_TO = Path(__file__).parents[2] / "docs" / "how-to" / "test-with-seeds.md"


def test_the_race_of_the_how_to_is_found_as_it_says(project: Run) -> None:
    page = HOW_TO.read_text()
    (block,) = [code for code in re.findall(r"^```python\n(.*?)^```$", page, re.S | re.M) if "VisitorBook" in code]
    # One seed in fifty finds it: the page says 200, which a change elsewhere may miss.
    found = project(block, "--agent-seeds", "600", "--agent-backend", "asyncio")
    found.assert_outcomes(failed=1)
    told = page.split("$ pytest test_visitors.py")[1].split("```")[0]
    for line in (line for line in told.splitlines() if line.startswith("E")):
        pattern = re.sub(r"0x[0-9a-f]+", "0x*", line).replace("[", "[[]").replace("test_visitors", "test_*")
        found.stdout.fnmatch_lines([pattern])


def test_the_other_tests_of_the_how_to_pass(project: Run) -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", HOW_TO.read_text(), re.S | re.M)
    for block in blocks:
        if "VisitorBook" not in block:
            project(block, "--agent-seeds", "5").assert_outcomes(passed=2)
