"""``livekit-agent simulate``: thousands of histories of this SDK under faults, each replayable from its seed."""

from __future__ import annotations

import json
import logging
import math
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ._help import Command, Option

if TYPE_CHECKING:
    from rich.console import Console

    from ..simulation._engine import Verdict
    from ..simulation._search import Summary

__all__ = ["simulate"]

_LEAKS_TOLD = 5
_NOTES_TOLD = 12

_EPILOG = """\
Exit code 1 when a promise was broken.  docs/simulation.md tells how it works, what it proves and what it does not.
"""


class _Seed(click.ParamType):  # pyright: ignore[reportMissingTypeArgument] - generic only since click 8.4
    """A number, decimal or 0x…"""

    name = "seed"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or end in a usage error."""
        try:
            return value if isinstance(value, int) else int(value, 0)
        except ValueError:
            self.fail(f"{value!r} is no seed: a number such as 17 or 0x11", param, ctx)


def _option(*names: str, section: str, **kwargs: Any) -> Any:
    return click.option(*names, cls=Option, section=section, **kwargs)


@click.command(cls=Command, epilog=_EPILOG)
@_option("--seeds", section="How much", type=click.IntRange(1), default_text="100", help="How many seeds.")
@_option("--hours", section="How much", type=click.FloatRange(0, min_open=True), help="Simulated hours in all instead.")
@_option("--first-seed", section="How much", type=_Seed(), default_text="0", help="Where to begin.")
@_option("--seed", section="Replay", type=_Seed(), help="Live through this one seed again.")
@_option(
    "--scenario",
    section="Replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A scenario file.",
)
@_option("--trace", section="Replay", is_flag=True, help="Print the whole trace, a note a line.")
@_option("--faults", section="What", metavar="KIND,…", default_text="all", help="Only these kinds of fault.")
@_option(
    "--backend",
    section="What",
    type=click.Choice(["trio", "asyncio"]),
    default="asyncio",
    default_text="asyncio",
    help="Event loop.",
)
@_option("--no-shrink", section="Output", is_flag=True, help="Do not make a failing scenario smaller, go on.")
@_option(
    "--complete",
    section="Output",
    is_flag=True,
    help="Fail also for a goal not reached, a promise not tested, a secret in a log record.",
)
@_option("--json", "as_json", section="Output", is_flag=True, help="One JSON object per seed and a last one in sum.")
def simulate(
    seeds: int | None,
    hours: float | None,
    first_seed: int | None,
    seed: int | None,
    scenario: Path | None,
    trace: bool,
    faults: str | None,
    backend: str,
    no_shrink: bool,
    complete: bool,
    as_json: bool,
) -> int:
    """Run worker, dispatch server and rooms under virtual time, break the network in every way, check every promise.

    A seed decides everything: workers, jobs, faults, and the order in which tasks run.
    """
    if sum(choice is not None for choice in (seeds, hours, seed, scenario)) > 1:
        raise click.UsageError("--seeds, --hours, --seed and --scenario exclude each other")
    if hours is not None and not math.isfinite(hours):
        raise click.UsageError(f"--hours: {hours} has no end")
    if first_seed is not None and (seed is not None or scenario is not None):
        raise click.UsageError("--first-seed says where many seeds begin; --seed and --scenario are one history")
    if faults is not None and scenario is not None:
        raise click.UsageError("--faults restricts what seeds draw; a scenario has its own")
    logging.getLogger("livekit_agent").setLevel(logging.CRITICAL + 1)  # its warnings are what is being simulated
    kinds = _kinds(faults)
    runs = _runs(seeds, hours, first_seed or 0, seed, scenario, kinds, backend)
    total = 1 if seed is not None or scenario is not None else seeds or (None if hours else 100)
    again = _again(scenario, kinds, backend)
    show: _Json | _Pretty = _Json(again) if as_json else _Pretty(again, backend, total, hours)
    return _live(runs, show, backend, shrinking=not no_shrink, tracing=trace, complete=complete)


def _kinds(faults: str | None) -> tuple[str, ...] | None:
    from ..simulation._scenario import FAULT_KINDS

    if faults is None:
        return None
    kinds = tuple(name.strip() for name in faults.split(",") if name.strip())
    unknown = [name for name in kinds if name not in FAULT_KINDS]
    if unknown or not kinds:
        raise click.UsageError(
            f"--faults: {', '.join(unknown) or 'nothing'} unknown; there are {', '.join(FAULT_KINDS)}"
        )
    return kinds


def _again(scenario: Path | None, kinds: tuple[str, ...] | None, backend: str) -> Callable[[Verdict], str]:
    """What makes the command that lives through a run again: from its file, or from its seed."""
    from ..simulation._search import replay_command

    if scenario is None:
        return lambda verdict: replay_command(verdict.scenario.seed, backend, kinds)
    return lambda verdict: f"livekit-agent simulate --backend {backend} --scenario {shlex.quote(str(scenario))}"


def _runs(
    seeds: int | None,
    hours: float | None,
    first: int,
    seed: int | None,
    scenario: Path | None,
    kinds: tuple[str, ...] | None,
    backend: str,
) -> Iterator[Verdict]:
    from ..simulation._engine import simulate as run
    from ..simulation._scenario import Scenario
    from ..simulation._search import search

    if scenario is not None:
        try:
            plan = Scenario.from_json(scenario.read_text(encoding="utf-8"))
        except ValueError as error:
            raise click.UsageError(f"{scenario}: {error}") from None
        yield run(plan, backend=backend)
        return
    if seed is not None:
        numbers: Iterable[int] = [seed]
    elif hours is not None:
        numbers = count(first)
    else:
        numbers = range(first, first + (seeds or 100))
    simulated = 0.0
    for verdict in search(numbers, backend=backend, kinds=kinds):
        yield verdict
        simulated += verdict.seconds / 3600
        if hours is not None and simulated >= hours:
            return


def _live(
    runs: Iterator[Verdict], show: _Json | _Pretty, backend: str, *, shrinking: bool, tracing: bool, complete: bool
) -> int:
    from ..simulation._overheard import overheard
    from ..simulation._search import Summary

    summary = Summary()
    began = time.perf_counter()
    with show, overheard() if complete else nullcontext() as ear:
        for verdict in runs:
            summary.add(verdict)
            if tracing:
                for line in verdict.trace.lines():
                    click.echo(line)
            show.run(verdict, summary)
            if verdict.violations:
                show.failure(verdict, backend, shrinking)
                if shrinking:
                    break
    if ear is not None:
        summary.records, summary.leaks = ear.read, ear.leaks
    show.summary(summary, backend, time.perf_counter() - began)
    lacking = complete and (summary.missed() or summary.idle() or summary.leaks)
    return 1 if summary.violations or lacking else 0


def _shrunk(verdict: Verdict, backend: str) -> tuple[Path, int]:
    """The failing scenario, made small and kept in a file; how many faults it has left."""
    from ..simulation._search import shrink

    name = verdict.violations[0].name
    small = shrink(verdict.scenario, name, backend=backend)
    path = Path(f"scenario-{name}-{verdict.scenario.seed:#x}.json")
    path.write_text(small.to_json() + "\n", encoding="utf-8")
    return path, len(small.faults)


def _last_seen(verdict: Verdict) -> tuple[str, ...]:
    """The notes before the first violation, and its own."""
    return verdict.violations[0].tail[-_NOTES_TOLD:]


class _Json:
    """One object per seed and a last one in sum, for programs."""

    def __init__(self, again: Callable[[Verdict], str]) -> None:
        self._again = again

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def run(self, verdict: Verdict, summary: Summary) -> None:
        """A seed; one that broke a promise is told by :meth:`failure`, in the same shape and more."""
        if not verdict.violations:
            click.echo(json.dumps(self._row(verdict)))

    def _row(self, verdict: Verdict) -> dict[str, object]:
        return {
            "seed": verdict.scenario.seed,
            "hash": verdict.digest,
            "jobs": verdict.jobs,
            "faults": verdict.faults,
            "violations": [{"name": v.name, "t": v.t, "what": v.what} for v in verdict.violations],
        }

    def failure(self, verdict: Verdict, backend: str, shrinking: bool) -> None:
        """A seed that broke a promise, and how to see it again."""
        row = self._row(verdict) | {"replay": self._again(verdict)}
        row["last"] = [json.loads(line) for line in _last_seen(verdict)]
        if verdict.crash:
            row["crash"] = verdict.crash
        if shrinking:
            path, faults = _shrunk(verdict, backend)
            row |= {"scenario": str(path), "faults_left": faults}
        click.echo(json.dumps(row))

    def summary(self, summary: Summary, backend: str, elapsed: float) -> None:
        """The last line."""
        row = {
            "event": "summary",
            "backend": backend,
            "seeds": summary.runs,
            "simulated_hours": round(summary.hours, 4),
            "seconds": round(elapsed, 3),
            "jobs": sum(summary.jobs),
            "faults": sum(summary.faults),
            "median_jobs": summary.median_jobs,
            "median_faults": summary.median_faults,
            "violations": dict(summary.violations),
            "log_records_read": summary.records,
            "leaks": summary.leaks,
            "goals": dict(sorted(summary.goals.items())),
            "goals_missed": summary.missed(),
            "evaluated": dict(sorted(summary.evaluated.items())),
        }
        click.echo(json.dumps(row))


class _Pretty:
    """A progress bar and a summary, for people."""

    def __init__(self, again: Callable[[Verdict], str], backend: str, seeds: int | None, hours: float | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console: Console = Console(file=sys.stdout, highlight=False)
        self._again = again
        self._hours = hours
        self._began = time.perf_counter()
        terminal = Console(file=sys.stderr)
        self._progress = Progress(
            TextColumn(f"simulating on {backend}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=terminal,
            transient=True,
            disable=not terminal.is_terminal,  # elsewhere all that it leaves is an empty line
        )
        self._task = self._progress.add_task("seeds", total=seeds if hours is None else hours, figures="")

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def run(self, verdict: Verdict, summary: Summary) -> None:
        """Move on."""
        speed = summary.runs / max(time.perf_counter() - self._began, 1e-9)
        figures = (
            f"{summary.runs:,} seeds  {sum(summary.jobs):,} jobs  {sum(summary.faults):,} faults  {speed:.1f} seeds/s"
        )
        done = summary.runs if self._hours is None else summary.hours
        self._progress.update(self._task, completed=done, figures=figures)

    def failure(self, verdict: Verdict, backend: str, shrinking: bool) -> None:
        """What broke, and how to see it again."""
        self._progress.stop()
        say = self._console.print
        first = verdict.violations[0]
        say(f"\n[bold red]{first.name} broken[/] at {first.t:.3f} s on {backend}, seed {verdict.scenario.seed:#x}")
        say(f"  promise:  {first.promise}", markup=False)
        say(f"  happened: {first.what}", markup=False)
        say("  the last that was seen:")
        for line in _last_seen(verdict):
            say(f"    {line}", markup=False, overflow="ellipsis", no_wrap=True)
        for line in verdict.crash.splitlines():
            say(f"  | {line}", markup=False, soft_wrap=True)
        others = sorted({v.name for v in verdict.violations} - {first.name})
        if others:
            say(f"  also broken: {', '.join(others)}")
        # Commands are for copying: never wrapped.
        say(f"  again:    [bold]{self._again(verdict)}[/]", soft_wrap=True)
        if shrinking:
            say("  making it smaller …")
            path, faults = _shrunk(verdict, backend)
            say(f"  smaller:  [bold]livekit-agent simulate --backend {backend} --scenario {path}[/]", soft_wrap=True)
            say(f"            {faults} of {len(verdict.scenario.faults)} faults are needed")

    def summary(self, summary: Summary, backend: str, elapsed: float) -> None:
        """The end of the story."""
        say = self._console.print
        days = f" ({summary.hours / 24:.1f} days)" if summary.hours >= 48 else ""
        speed = summary.runs / elapsed if elapsed else 0.0
        one = "history" if summary.runs == 1 else "histories"
        say(f"\n[bold]{summary.runs:,} {one} on {backend}[/]: {summary.hours:,.1f} simulated hours{days}")
        for name, text in _figures(summary, f"{elapsed:.1f} s, {speed:.1f} seeds a second"):
            say(f"  {name:9} {text}")
        for leak in summary.leaks[:_LEAKS_TOLD]:
            say(f"  a secret in the log: {leak}", markup=False, soft_wrap=True)
        if summary.violations:
            broken = ", ".join(f"{name} ({times})" for name, times in summary.violations.most_common())
            say(f"\n  [bold red]broken: {broken}[/]")
        else:
            say("\n  [bold green]nothing broken[/]")


def _figures(summary: Summary, took: str) -> Iterator[tuple[str, str]]:
    """The lines of the summary: a name and what there is to say."""
    from ..simulation._goals import GOALS

    yield "jobs", f"{sum(summary.jobs):,}, {summary.median_jobs:g} in the middle history"
    yield "faults", f"{sum(summary.faults):,} that struck, {summary.median_faults:g} in the middle history"
    checks = sum(summary.evaluated.values())
    tested = len(summary.evaluated) - len(summary.idle())
    yield "promises", f"{tested} of {len(summary.evaluated)} put to the test, {checks:,} times"
    if idle := summary.idle():
        yield "", f"never: {_some(idle)}"
    missed = summary.missed()
    yield "goals", f"{len(GOALS) - len(missed)} of {len(GOALS)} situations reached"
    if missed:
        yield "", f"not yet: {_some(missed)}"
    elif summary.goals:
        name, times = min(summary.goals.items(), key=lambda row: (row[1], row[0]))
        yield "", f"the rarest: {name}, {'once' if times == 1 else f'in {times} histories'}"
    if summary.records:
        yield "log", f"{summary.records:,} records read, {len(summary.leaks)} of them with a secret"
    yield "took", took


def _some(names: list[str]) -> str:
    """The first few."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
