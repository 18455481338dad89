"""``livekit-agent simulate``: thousands of histories of this SDK under faults, each replayable from its seed."""

from __future__ import annotations

import json
import logging
import sys
import time
from collections.abc import Iterable, Iterator
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
@_option("--first-seed", section="How much", type=_Seed(), default=0, default_text="0", help="Where to begin.")
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
@_option("--no-shrink", section="Output", is_flag=True, help="Do not make a failing scenario smaller.")
@_option("--json", "as_json", section="Output", is_flag=True, help="One JSON object per seed and a last one in sum.")
def simulate(
    seeds: int | None,
    hours: float | None,
    first_seed: int,
    seed: int | None,
    scenario: Path | None,
    trace: bool,
    faults: str | None,
    backend: str,
    no_shrink: bool,
    as_json: bool,
) -> int:
    """Run worker, dispatch server and rooms under virtual time, break the network in every way, check every promise.

    A seed decides everything: workers, jobs, faults, and the order in which tasks run.
    """
    if sum(choice is not None for choice in (seeds, hours, seed, scenario)) > 1:
        raise click.UsageError("--seeds, --hours, --seed and --scenario exclude each other")
    logging.getLogger("livekit_agent").setLevel(logging.CRITICAL + 1)  # its warnings are what is being simulated
    runs = _runs(seeds, hours, first_seed, seed, scenario, _kinds(faults), backend)
    show: _Json | _Pretty = _Json() if as_json else _Pretty(backend, seeds or (None if hours else 100), hours)
    return _live(runs, show, backend, shrinking=not no_shrink, tracing=trace)


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


def _live(runs: Iterator[Verdict], show: _Json | _Pretty, backend: str, *, shrinking: bool, tracing: bool) -> int:
    from ..simulation._search import Summary

    summary = Summary()
    began = time.perf_counter()
    with show:
        for verdict in runs:
            summary.add(verdict)
            if tracing:
                for note in verdict.trace.notes:
                    click.echo(note.line())
            show.run(verdict, summary)
            if verdict.violations:
                show.failure(verdict, backend, shrinking)
                if shrinking:
                    break
    show.summary(summary, backend, time.perf_counter() - began)
    return 1 if summary.violations else 0


def _shrunk(verdict: Verdict, backend: str) -> tuple[Path, int]:
    """The failing scenario, made small and kept in a file; how many faults it has left."""
    from ..simulation._search import shrink

    name = verdict.violations[0].name
    small = shrink(verdict.scenario, name, backend=backend)
    path = Path(f"scenario-{name}-{verdict.scenario.seed:#x}.json")
    path.write_text(small.to_json() + "\n", encoding="utf-8")
    return path, len(small.faults)


class _Json:
    """One object per line, for programs."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, *exc: object) -> None:
        pass

    def run(self, verdict: Verdict, summary: Summary) -> None:
        """A seed."""
        violations = [{"name": v.name, "t": v.t, "what": v.what} for v in verdict.violations]
        row = {
            "seed": verdict.scenario.seed,
            "hash": verdict.digest,
            "jobs": verdict.jobs,
            "faults": verdict.faults,
            "violations": violations,
        }
        click.echo(json.dumps(row))

    def failure(self, verdict: Verdict, backend: str, shrinking: bool) -> None:
        """How to see it again."""
        from ..simulation._search import replay_command

        row: dict[str, object] = {"event": "failure", "replay": replay_command(verdict.scenario.seed, backend)}
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
            "violations": dict(summary.violations),
            "goals": dict(sorted(summary.goals.items())),
            "goals_missed": summary.missed(),
            "evaluated": dict(sorted(summary.evaluated.items())),
        }
        click.echo(json.dumps(row))


class _Pretty:
    """A progress bar and a summary, for people."""

    def __init__(self, backend: str, seeds: int | None, hours: float | None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._console: Console = Console(file=sys.stdout, highlight=False)
        self._hours = hours
        self._progress = Progress(
            TextColumn(f"simulating on {backend}"),
            BarColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
            console=Console(file=sys.stderr),
            transient=True,
        )
        self._task = self._progress.add_task("seeds", total=seeds if hours is None else hours, figures="")

    def __enter__(self) -> None:
        self._progress.start()

    def __exit__(self, *exc: object) -> None:
        self._progress.stop()

    def run(self, verdict: Verdict, summary: Summary) -> None:
        """Move on."""
        figures = f"{summary.runs} seeds, {sum(summary.jobs)} jobs, {sum(summary.faults)} faults"
        done = summary.runs if self._hours is None else summary.hours
        self._progress.update(self._task, completed=done, figures=figures)

    def failure(self, verdict: Verdict, backend: str, shrinking: bool) -> None:
        """What broke, and how to see it again."""
        from ..simulation._search import replay_command

        self._progress.stop()
        say = self._console.print
        first = verdict.violations[0]
        say(f"\n[bold red]{first.name} broken[/] at {first.t:.3f} s on {backend}, seed {verdict.scenario.seed:#x}")
        say(f"  promise:  {first.promise}", markup=False)
        say(f"  happened: {first.what}", markup=False)
        say("  the last that was seen:")
        for line in first.tail[-12:]:
            say(f"    {line}", markup=False, overflow="ellipsis", no_wrap=True)
        others = sorted({v.name for v in verdict.violations} - {first.name})
        if others:
            say(f"  also broken: {', '.join(others)}")
        say(f"  again: [bold]{replay_command(verdict.scenario.seed, backend)}[/]")
        if shrinking:
            say("  making it smaller …")
            path, faults = _shrunk(verdict, backend)
            say(f"  {faults} of {len(verdict.scenario.faults)} faults are needed:")
            say(f"  smaller: [bold]livekit-agent simulate --backend {backend} --scenario {path}[/]")

    def summary(self, summary: Summary, backend: str, elapsed: float) -> None:
        """The end of the story."""
        say = self._console.print
        checks = sum(summary.evaluated.values())
        speed = summary.runs / elapsed if elapsed else 0.0
        hours = f"{summary.hours:,.1f} simulated hours in {elapsed:.1f} s"
        say(f"\n[bold]{summary.runs:,} histories on {backend}[/]: {hours}")
        say(f"  {sum(summary.jobs):,} jobs ({summary.median_jobs:g} in the middle history), ", end="")
        say(f"{sum(summary.faults):,} faults that struck ({summary.median_faults:g}), {speed:.1f} seeds a second")
        say(f"  {checks:,} checks of {len(summary.evaluated)} promises")
        missed, idle = summary.missed(), summary.idle()
        if missed:
            say(f"  not reached: {len(missed)} goals, such as {', '.join(missed[:3])} (more seeds reach more)")
        if idle:
            say(f"  never put to the test: {', '.join(idle)}")
        if summary.violations:
            broken = ", ".join(f"{name} ({times})" for name, times in summary.violations.most_common())
            say(f"  [bold red]broken: {broken}[/]")
        else:
            say("  [bold green]nothing broken[/]")
