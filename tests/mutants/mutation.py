"""Many mutants in one run of pytest: mutation testing of the pure core, and the named mutants under ordinary tests.

``python -m pytest -p tests.mutants.mutation tests/protocol [--sample 100] [--only _jobs] --verdicts FILE``
    every small change of the core's code (``changes.py``) must make a fast protocol test fail;
``python -m pytest -p tests.mutants.mutation --named all --verdicts FILE TESTS``
    which of the named mutants live through these tests.

A pytest plugin, because starting pytest anew for each of hundreds of mutants takes longer than the tests: the tests are
collected once, then each mutant gets a fork of this process, in which one function has other code (or a table lacks a
row) and the tests run until the first fails.

A fork without any mutant comes first.  It learns how long each test takes and, from ``sys.monitoring``, which of the
functions in question it enters (so Python 3.12 is needed).  A change is tried with the tests that enter its function,
for on the others it has no effect; the quickest and the latest killers come first.  Tests that start processes are
tried with every named mutant, and those processes make the same mistake (``children``).  ``--known FILE`` keeps what
was learnt for the next run.

Of the core, a change in a function that no test enters survives.  A test that takes ten seconds of the processor's
time, or twenty times its own, is ended and counts as failed: the verdict says "time-out".  A mutant that takes more
than :data:`_MEMORY` bytes fails by that.
"""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any, NoReturn

import pytest

from ._edits import Line, applied
from .apply import edits_of, in_children
from .catalog import MUTANTS
from .changes import MODULES, all_changes, functions_of

_TIMEOUT, _TIMES = 10.0, 20.0
_MEMORY = 8 << 30
_TOOL = 4
"""Of sys.monitoring, for which the numbers below have meanings."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, default=0, help="so many mutants, drawn by chance; 0 for all")
    parser.addoption("--only", default="", help="one module")
    parser.addoption("--named", default="", help="these mutants of the catalog instead, or all")
    parser.addoption("--at-least", type=float, default=0.0, help="fail when fewer per cent were killed")
    parser.addoption("--known", type=Path, help="where to keep what the run without a mutant showed")
    parser.addoption("--go-on", action="store_true", help="keep the verdicts that are in the file already")
    parser.addoption("--verdicts", type=Path, help="where to write who survived, and who was killed by what")


@dataclass(slots=True)
class Known:
    """What the run without a mutant showed of a test."""

    index: int
    seconds: float
    enters: frozenset[str]
    """Names of functions."""
    forks: bool
    """It starts processes."""


class Order:
    """Which tests to try, in which order."""

    def __init__(self, known: list[Known], *, forks: bool) -> None:
        self._known = sorted(known, key=lambda known: known.seconds)
        self._forks = forks
        self._killers: list[int] = []

    def of(self, mutant: Mutant) -> list[int]:
        indexes = [
            known.index
            for known in self._known
            if mutant.functions is None or (self._forks and known.forks) or known.enters & mutant.functions
        ]
        first = [index for index in reversed(self._killers) if index in indexes][:8]
        return first + [index for index in indexes if index not in first]

    def killed(self, index: int) -> None:
        if index in self._killers:
            self._killers.remove(index)
        self._killers.append(index)


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is tried, of either sort."""

    where: str
    told: str
    apply: Callable[[], object]
    functions: frozenset[str] | None
    """The functions that are changed; None when it is no function alone."""


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    option = session.config.getoption
    if session.config.option.collectonly:
        return False
    named = bool(option("--named"))
    known = _known(session, option("--known"))
    limits = {} if named else {each.index: max(_TIMEOUT, _TIMES * each.seconds) for each in known}
    for index in limits:
        session.items[index].add_marker(pytest.mark.timeout(0), append=False)  # that one goes by the clock on the wall
    order = Order(known, forks=named)
    mutants = _mutants(option)
    before = _before(option("--verdicts")) if option("--go-on") else {}
    before = {(m.where, m.told): before[m.where, m.told] for m in mutants if (m.where, m.told) in before}
    lines: list[str] = []
    for number, mutant in enumerate(mutants, 1):
        if line := before.get((mutant.where, mutant.told)):
            lines.append(line)
            continue
        began = time.monotonic()
        indexes = order.of(mutant)
        verdict = _in_a_fork(lambda tell, i=indexes, m=mutant: _be_mutant(session, m, i, limits, tell))
        index, _, killer = verdict.partition(" ")
        if killer:
            order.killed(int(index))
        word = "killed" if killer else "SURVIVED"
        lines.append("\t".join((word, mutant.where, mutant.told, killer or f"{len(indexes)} tests")))
        os.write(2, f"{number}/{len(mutants)} {time.monotonic() - began:.1f} s {lines[-1]}\n".encode())
        if option("--verdicts"):
            said = {tuple(line.split("\t")[1:3]) for line in lines}
            rest = [line for key, line in before.items() if key not in said]
            option("--verdicts").write_text("\n".join(lines + rest) + "\n", encoding="utf-8")
    survivors = sum(line.startswith("SURVIVED") for line in lines)
    share = 100 * (len(lines) - survivors) / len(lines)
    os.write(2, f"{len(lines) - survivors} of {len(lines)} killed, {share:.1f} %\n".encode())
    session.testsfailed = int(share < option("--at-least"))  # pytest's exit code follows it
    return True


def _before(path: Path) -> dict[tuple[str, str], str]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return {(line.split("\t")[1], line.split("\t")[2]): line for line in lines}


def _mutants(option: Callable[[str], Any]) -> list[Mutant]:
    if named := option("--named"):
        chosen = list(MUTANTS) if named == "all" else named.split(",")
        return [Mutant(name, _about(name), _named(name), _functions_of(name)) for name in chosen]
    modules = (option("--only"),) if option("--only") else MODULES
    mutants = [
        Mutant(change.where, change.told, change.apply, change.function and frozenset([_name(change.function)]))
        for change in all_changes(modules)
    ]
    if option("--sample"):
        mutants = random.Random(1).sample(mutants, min(option("--sample"), len(mutants)))
    return mutants


def _named(name: str) -> Callable[[], None]:
    mutated = applied(edits_of(name))  # kept by the closure: what is forgotten is undone

    def apply() -> None:
        in_children(name)
        mutated.__enter__()  # and never left: the fork ends with it

    return apply


def _about(names: str) -> str:
    return "; ".join(MUTANTS[name].about for name in names.split("+"))


def _functions_of(name: str) -> frozenset[str] | None:
    edits = edits_of(name)
    lines = [edit for edit in edits if isinstance(edit, Line)]
    return frozenset(_name(edit.function()) for edit in lines) if len(lines) == len(edits) else None


def _watched() -> list[FunctionType]:
    """Every function that a mutant of either sort changes."""
    edits = [edit for mutant in MUTANTS.values() for edit in mutant.edits]
    return [*functions_of(), *(edit.function() for edit in edits if isinstance(edit, Line))]


def _name(function: FunctionType) -> str:
    return f"{function.__module__}:{function.__qualname__}"


# ------------------------------------------------------------------------------------------------ forks


def _in_a_fork(be: Callable[[int], NoReturn]) -> str:
    """What the fork wrote."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            be(tell)
        except BaseException as exc:
            os.write(tell, f"0 {type(exc).__name__} outside any test".encode())
            os._exit(1)
    os.close(tell)
    with os.fdopen(told) as pipe:
        text = pipe.read()
    status = os.waitpid(child, 0)[1]
    return text or ("0 the process died" if status else "")


class _Failures:
    """Remembers how a test failed."""

    def __init__(self) -> None:
        self.told = ""

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed and not self.told:
            self.told = report.nodeid + (", time-out" if "Timeout (>" in report.longreprtext else "")


def _quiet(session: pytest.Session) -> _Failures:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    plugins = session.config.pluginmanager
    plugins.unregister(plugins.get_plugin("terminalreporter"))
    failures = _Failures()
    plugins.register(failures)
    return failures


def _be_mutant(
    session: pytest.Session, mutant: Mutant, indexes: list[int], limits: dict[int, float], tell: int
) -> NoReturn:
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY, _MEMORY))
    failures = _quiet(session)
    mutant.apply()
    for index, following in zip(indexes, [*indexes[1:], None], strict=True):
        item, after = session.items[index], None if following is None else session.items[following]
        if index in limits:

            def out_of_time(*_: object, told: str = f"{index} {item.nodeid}, time-out") -> None:
                os.write(tell, told.encode())
                os._exit(1)

            signal.signal(signal.SIGPROF, out_of_time)
            signal.setitimer(signal.ITIMER_PROF, limits[index])
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
        if session.testsfailed:
            os.write(tell, f"{index} {failures.told or item.nodeid}".encode())
            os._exit(1)
    os._exit(0)


def _known(session: pytest.Session, path: Path | None) -> list[Known]:
    watched = sorted({_name(function) for function in _watched()})
    rows: list[Any] = []
    if path is not None and path.exists():
        kept = json.loads(path.read_text(encoding="utf-8"))
        rows = kept["rows"] if kept["watched"] == watched else []  # learnt about other functions: learn anew
    nodes = {row[0] for row in rows}
    unknown = [item for item in session.items if item.nodeid not in nodes]
    if unknown:
        rows += json.loads(_in_a_fork(lambda tell: _be_unharmed(session, unknown, tell)))
    if path is not None:
        path.write_text(json.dumps({"watched": watched, "rows": rows}), encoding="utf-8")
    learnt = {node: (seconds, frozenset(enters), forks) for node, seconds, enters, forks in rows if enters is not None}
    return [Known(index, *learnt[item.nodeid]) for index, item in enumerate(session.items) if item.nodeid in learnt]


def _be_unharmed(session: pytest.Session, items: list[pytest.Item], tell: int) -> NoReturn:
    said = os.dup(2)
    failures = _quiet(session)
    names: dict[CodeType, str] = {function.__code__: _name(function) for function in _watched()}
    for code, name in list(names.items()):  # what a decorator makes of one enters it as well
        names.update({inner: name for inner in code.co_consts if isinstance(inner, CodeType)})
    entered: dict[str, None] = {}
    forks: list[str] = []
    monitoring = sys.monitoring

    def on_start(code: CodeType, _: int) -> object:
        if code in names:
            entered[names[code]] = None
        return monitoring.DISABLE

    def on_audit(event: str, _: object) -> None:
        if event in ("subprocess.Popen", "os.posix_spawn", "os.fork"):
            forks.append(event)

    monitoring.use_tool_id(_TOOL, "mutation")
    monitoring.register_callback(_TOOL, monitoring.events.PY_START, on_start)
    monitoring.set_events(_TOOL, monitoring.events.PY_START)
    sys.addaudithook(on_audit)
    rows: list[tuple[str, float, list[str] | None, bool]] = []
    for item, following in zip(items, [*items[1:], None], strict=True):
        entered.clear()
        forks.clear()
        monitoring.restart_events()
        began = time.process_time()
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
        if failures.told:
            os.write(said, f"left out, for it fails without any mutant: {failures.told}\n".encode())
            failures.told = ""
            rows.append((item.nodeid, 0.0, None, False))
        else:
            rows.append((item.nodeid, time.process_time() - began, list(entered), bool(forks)))
    with os.fdopen(tell, "w") as pipe:
        json.dump(rows, pipe)
    os._exit(0)
