"""Errors of use: one line, a hint, the documented exit code, no traceback."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

import livekit_agent
from livekit_agent import RoomConnectError
from livekit_agent.cli._app import app, run_command_line
from livekit_agent.cli._exit import exit_code
from livekit_agent.cli._help import LazyGroup, Option

from .conftest import Result, environment

# What ends before an event loop starts is run in this process: it is as true and ten times faster.
Command = Callable[..., Result]
Write = Callable[[str, str], str]


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Result]]:
    root, modules, path = logging.getLogger(), set(sys.modules), list(sys.path)
    handlers, level = list(root.handlers), root.level

    def run(*args: str, env: dict[str, str] | None = None) -> Result:
        monkeypatch.chdir(tmp_path)
        for name in [name for name in os.environ if name not in environment()]:
            monkeypatch.delenv(name)
        for name, value in {"COLUMNS": "100", **(env or {})}.items():
            monkeypatch.setenv(name, value)
        code = run_command_line(args)
        return Result(code, *capsys.readouterr())

    yield run
    root.handlers[:], root.level, sys.path[:] = handlers, level, path
    logging.getLogger("livekit_agent").setLevel(logging.NOTSET)
    # The agents of these tests are all called agent.
    for name in set(sys.modules) - modules:
        if not name.startswith("livekit"):
            del sys.modules[name]


SECRET = "kJ8sQp2LmZ0vXyR4tUwE6bNcA1dFgH3iO5rS7eTqWxYz"
KEYS = {"LIVEKIT_API_KEY": "APIb2cKpQ7xYz9T", "LIVEKIT_API_SECRET": SECRET}
HANDLER = "from livekit_agent import SimpleUniversalHandler\nhandler = SimpleUniversalHandler()\n"


@pytest.mark.parametrize(
    ("args", "code", "message", "hint"),
    [
        (["nope"], 2, "No such command 'nope'", "livekit-agent --help"),
        (["start", "agent.py"], 2, "No such command 'start': `livekit-agent run MODULE:NAME`", "livekit-agent --help"),
        (["console"], 2, "No such command 'console': `livekit-agent dev FILE`", "livekit-agent --help"),
        (["connect", "--room", "r"], 2, "No such command 'connect': `livekit-agent join ROOM`", "livekit-agent --help"),
        (["download-files"], 2, "there is nothing to download", "livekit-agent --help"),
        (["demo", "--nope"], 2, "No such option", "livekit-agent demo --help"),
        (["demo", "--backend", "curio"], 2, "'curio' is not one of 'asyncio', 'trio'", "demo --help"),
        (["run"], 2, "Missing argument 'MODULE:NAME'", "run --help"),
        (["run", "agent"], 2, "'agent' is not MODULE:NAME", "--help"),
        (["run", "agent.py:handler"], 2, "a module has dots and no .py: agent:handler", "run --help"),
        (["run", "./agents/echo.py:handler"], 2, "no .py: agents.echo:handler", "run --help"),
        (["run", "agent:serve"], 1, "serve is an async function, neither", "(job_assigned=serve)"),
        (["run", "agent:handler", "--health", "here:there"], 2, "'here:there' is not [HOST:]PORT", "run --help"),
        (["run", "agent:handler", "--health", "65536"], 2, "'65536' is not [HOST:]PORT", "run --help"),
        (["run", "agent:handler", "--max-jobs", "many"], 2, "not a whole number: 'many'", "run --help"),
        (["run", "agent:handler", "--job-timeout", "soon"], 2, "not a duration: 'soon'", "run --help"),
        (["run", "no_such_module:handler"], 1, "no module named 'no_such_module'", "installed"),
        (["run", "agent:nope"], 1, "agent has no 'nope'", "it has handler"),
        (["run", "agent:handler"], 78, "LIVEKIT_URL: not set", "LIVEKIT_URL or --url"),
        (["token", "--room", "r", "--identity", ""], 2, "--room and --identity: expected a name", "token --help"),
        (["dispatch", "create", "\udcff"], 2, "an argument is not UTF-8 text", "livekit-agent --help"),
        (["token", "--room", "r", "--identity", "i", "--ttl", "inf"], 2, "--ttl", "token --help"),
        (["token", "--room", "r", "--identity", "i", "--ttl", "500ms"], 2, "--ttl", "token --help"),
        (["token", "--room", "r", "--identity", "i", "--ttl", "36501d"], 2, "100 years", "token --help"),
        (["dev", "no_such_file.py"], 2, "does not exist", "dev --help"),
        (["dev", "agent.py", "--say", "hello"], 2, "--call and --play need --room", "dev --help"),
        (["serve", "--port", "99999"], 2, "99999 is not in the range", "serve --help"),
        (["serve", "--api-key", "k"], 2, "--api-secret is missing", "serve --help"),
        (["serve", "--host", "203.0.113.7", "--port", "0"], 69, "cannot listen on 203.0.113.7, port 0: ", "--host"),
        (["join", ""], 2, "ROOM and --identity: expected a name", "join --help"),
        (["join", "r", "--identity", ""], 2, "ROOM and --identity: expected a name", "join --help"),
        (["join", "r", "--play", "agent.py"], 2, "--play: 'agent.py' is no WAV file", "join --help"),
        (["join", "r", "--play", "."], 2, "--play: '.' cannot be read: Is a directory", "join --help"),
        (
            ["dev", "agent.py", "--api-key", "k", "--proxy", "http://p"],
            2,
            "--api-key, --proxy: no effect",
            "dev --help",
        ),
        (["serve", "--websocket-debug"], 2, "No such option", "serve --help"),
        (["join", "r", "--websocket-debug"], 2, "No such option", "join --help"),
        (["dev", "agent.py", "--room", "r", "--play", "agent.py"], 2, "'agent.py' is no WAV file", "dev --help"),
        (["dispatch", "create"], 2, "Missing argument 'ROOM'", "dispatch create --help"),
        (["dispatch", "list", "room"], 78, "LIVEKIT_URL: not set", "LIVEKIT_URL"),
        (["token", "--room", "r", "--identity", "i"], 78, "LIVEKIT_API_KEY: not set", "LIVEKIT_API_KEY_FILE"),
    ],
)
def test_errors_of_use(command: Command, write: Write, args: list[str], code: int, message: str, hint: str) -> None:
    write("agent.py", HANDLER + "async def serve(ctx): ...\n")
    result = command(*args)
    assert (result.code, result.out) == (code, "")
    assert message in result.errors[0]
    assert hint in result.hints[0]
    assert "Traceback" not in result.err
    assert len(result.errors) + len(result.hints) == len(result.err.splitlines())


@pytest.mark.parametrize(
    ("environ", "faults"),
    [
        ({}, ["LIVEKIT_URL: not set", "LIVEKIT_API_KEY: not set", "LIVEKIT_API_SECRET: not set"]),
        ({"LIVEKIT_MAX_CONCURRENT_JOBS": "x", "LIVEKIT_LOG_LEVEL": "y"}, ["not a whole number", "no log level"]),
        ({**KEYS, "LIVEKIT_URL": "localhost:7880"}, ["the scheme must be"]),
        ({**KEYS, "LIVEKIT_URL": "wss://h", "LIVEKIT_RECOVERY_ENABLED": "true"}, ["recovery is not available yet"]),
        ({**KEYS, "LIVEKIT_URL": "ws://example.com"}, ["ws://"]),
    ],
)
def test_a_wrong_configuration_is_told_whole_and_ends_with_78(
    command: Command, write: Write, environ: dict[str, str], faults: list[str]
) -> None:
    write("agent.py", HANDLER)
    result = command("run", "agent:handler", env=environ)
    assert result.code == 78
    assert len(result.errors) == len(faults)
    assert all(fault in line for fault, line in zip(faults, result.errors, strict=True))
    assert SECRET not in result.err


@pytest.mark.parametrize("args", [["run", "agent:handler"], ["dev", "agent.py"]], ids=["run", "dev"])
def test_what_the_users_code_puts_in_the_environment_counts(command: Command, write: Write, args: list[str]) -> None:
    write("agent.py", "import os\nos.environ['LIVEKIT_URL'] = 'wss://'  # as load_dotenv() would\n" + HANDLER)
    result = command(*args, env={**KEYS, "LIVEKIT_URL": ""})
    assert (result.code, len(result.errors)) == (78, 1)
    assert "LIVEKIT_URL: " in result.errors[0]
    assert "not set" not in result.errors[0]


def test_the_loggers_of_the_users_code_are_shown_and_those_of_libraries_below_are_not(
    command: Command, write: Write
) -> None:
    lines = (f"getLogger('{name}').{how}('hello')" for name in ("mine", "httpx") for how in ("info", "error"))
    write("agent.py", "from logging import getLogger\n" + "\n".join(lines) + "\n" + HANDLER)
    shown = [line.partition(" ")[2] for line in command("run", "agent:handler").err.splitlines()[:3]]
    assert shown == ["INFO    mine: hello", "ERROR   mine: hello", "ERROR   httpx: hello"]


def test_the_digits_of_a_refusal_in_a_port_are_none() -> None:
    assert exit_code(RoomConnectError("could not join the room: 127.0.0.1:4010 refused")) == 69
    assert exit_code(RoomConnectError("could not join the room: HTTP 401", code="ROOM_REFUSED")) == 77


def test_no_jobs_at_all_is_a_fault_and_not_no_limit(command: Command, write: Write) -> None:
    write("agent.py", HANDLER)
    result = command("run", "agent:handler", "--max-jobs", "0", env={**KEYS, "LIVEKIT_URL": "ws://localhost:1"})
    assert (result.code, len(result.errors)) == (78, 1)
    assert "--max-jobs: 0 is not in 1.." in result.errors[0]
    assert "'unlimited' for no limit" in result.hints[0]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("x = 1", 2, "no handler in it"),
        ("async def entrypoint(ctx): pass", 2, "no handler in it; handler = SimpleUniversalHandler(job_assigned=entry"),
        ("handler = 3", 1, "int is neither a handler nor a callable"),
        ("def make_worker(config):\n    return 3", 1, "make_worker returned int, not a UniversalWorker"),
        ("async def make_worker(config):\n    pass", 1, "make_worker is an async function, neither"),
        ("def make_worker(config):\n    return 1 / 0", 1, "ZeroDivisionError: division by zero (agent.py, line 2)"),
        ("1 / 0", 1, "cannot load agent.py: ZeroDivisionError: division by zero (agent.py, line 1)"),
        ("import no_such_thing", 1, "no module named 'no_such_thing' (agent.py, line 1)"),
        ("def broken(:", 1, "SyntaxError"),
        (
            "from livekit_agent import BaseHandler\nclass A(BaseHandler): pass\nclass B(BaseHandler): pass",
            2,
            "several that could be meant: A, B",
        ),
        (
            "from livekit_agent import BaseHandler\nclass A(BaseHandler):\n    def on_job_asigned(self, ctx): pass",
            1,
            "on_job_asigned",
        ),
        (HANDLER + "options = 3", 1, "agent.options is int, not WorkerOptions"),
        (
            HANDLER + "from livekit_agent import UniversalWorker\n"
            "handler = UniversalWorker('ws://localhost:1', 'k', 's', handler)",
            2,
            "a finished UniversalWorker",
        ),
    ],
)
def test_files_that_hold_no_agent(command: Command, write: Write, text: str, code: int, message: str) -> None:
    result = command("dev", write("agent.py", text), env={"LIVEKIT_LOG_LEVEL": "error"})
    assert result.code == code, result.err
    assert message in result.errors[0]
    assert "Traceback" not in result.err
    assert (len(result.errors), len(result.hints)) == (1, 1)


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("w = UniversalWorker('ws://localhost:1', 'k', 's', SimpleUniversalHandler())", ["--max-jobs", "3"]),
        ("w = UniversalWorker('ws://localhost:1', 'k', 's', SimpleUniversalHandler())", ["--url", "ws://localhost:2"]),
        ("def w(config): pass", ["--job-type", "participant"]),
    ],
)
def test_a_flag_without_effect_is_an_error(command: Command, write: Write, text: str, flags: list[str]) -> None:
    write("agent.py", "from livekit_agent import *\n" + text)
    result = command("run", "agent:w", *flags, env={**KEYS, "LIVEKIT_URL": "ws://localhost:1"})
    assert result.code == 2
    assert f"{flags[0]}: no effect here" in result.errors[0]


def test_without_a_command_the_help_goes_to_stderr_and_the_code_says_usage(command: Command) -> None:
    result = command()
    assert (result.code, result.out) == (2, "")
    assert "Try it:" in result.err


def test_the_version(command: Command) -> None:
    result = command("--version")
    assert result.out == f"livekit-agent {livekit_agent.__version__} (agent protocol 1)\n"
    assert result.code == 0


def test_without_the_extra_one_line_tells_how_to_get_it(tmp_path: Path) -> None:
    program = (
        "import sys\n"
        "sys.modules['click'] = None\n"
        "sys.argv = ['livekit-agent', 'demo']\n"
        "from livekit_agent.__main__ import main\n"
        "sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment())
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr == "livekit-agent: the command line needs the [cli] extra: pip install 'livekit-agent-sdk[cli]'\n"
    )


def all_commands(command: click.Command, path: str = "livekit-agent") -> list[tuple[str, click.Command]]:
    found = [(path, command)]
    if isinstance(command, LazyGroup):
        context = click.Context(command)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            assert child is not None
            found += all_commands(child, f"{path} {name}")
    return found


@pytest.mark.parametrize(("path", "each"), all_commands(app))
def test_every_option_is_explained_with_its_variable_and_default(path: str, each: click.Command) -> None:
    context = click.Context(each, info_name=path)
    assert each.get_short_help_str()
    for parameter in each.params:
        if isinstance(parameter, click.Option) and parameter.name not in ("help", "version"):
            assert isinstance(parameter, Option)
            record = parameter.get_help_record(context)
            assert record is not None
            assert parameter.section != "Options"
            assert "default: " in record[1] or "required" in record[1]


@pytest.mark.parametrize("path", ["run", "dev"])
def test_the_help_names_every_variable(command: Command, path: str) -> None:
    result = command(path, "--help")
    text = " ".join(result.out.split())
    for variable in (
        "LIVEKIT_URL",
        "LIVEKIT_API_KEY",
        "LIVEKIT_API_SECRET",
        "LIVEKIT_AGENT_NAME",
        "LIVEKIT_NAMESPACE",
        "LIVEKIT_MAX_CONCURRENT_JOBS",
        "LIVEKIT_LOG_LEVEL",
        "LIVEKIT_WEBSOCKET_DEBUG",
        "SSL_CERT_FILE",
        "HTTPS_PROXY",
    ):
        assert f"env: {variable}" in text
    sections = [line for line in result.out.splitlines() if line and not line.startswith(" ")]
    own = ["Visitor:"] if path == "dev" else []
    assert sections[1:] == [*own, "Connection:", "Agent:", "Time:", "Output:", "Other:"]


def test_the_exit_codes_of_the_help_are_the_ones_in_the_code(command: Command) -> None:
    from livekit_agent.cli._exit import ExitCode

    text = command("--help").out
    assert all(str(int(code)) in text for code in ExitCode)
