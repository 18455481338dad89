"""A second judge of determinism: simloom, an asyncio simulator that nobody here wrote, lives through our histories.

    pip install simloom==0.5.0 -e .    (Python 3.12+, an environment of its own)
    python tests/simulation/simloom_judge.py

Each history runs as a coroutine under ``simloom.run``: its loop, its clock, its choice of what runs next; of our engine
only the world and the checkers are left.  Three processes, with other hash seeds and other heaps, must come to the same
two hashes: simloom's of every step that it chose, and ours of what happened.  As ``nox -s simloom`` this writes
docs/proof/simloom.md.

What it takes from our side, all of it about AnyIO on asyncio and none of it in the package:

- AnyIO keeps a scope's tasks and children in sets of objects, so a cancellation wakes them in the order of their
  addresses.  Our loop repairs that by sorting; simloom picks from the ready list as it finds it.  Here the sets
  remember their order (:class:`Ordered`), and ``--without-order`` is the negative control: simloom's hash differs.
- AnyIO repeats a cancellation with ``call_soon`` until the task has gone, so a cancelled group that waits for a
  shielded child is never idle and simloom's clock would never move.  Here the repetition waits a millisecond once it
  has been in vain a hundred times at one instant.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterator, MutableSet
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest import mock

from anyio._backends import _asyncio as library

from livekit_agent.simulation._checkers import CHECKERS, Jury
from livekit_agent.simulation._scenario import Scenario, generate
from livekit_agent.simulation._shields import watched_shields
from livekit_agent.simulation._trace import Trace
from livekit_agent.simulation._world import World

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "proof" / "simloom.md"
SEEDS = 20

#: (PYTHONHASHSEED, objects allocated first) of each process.
PROCESSES = (("0", 0), ("1", 7_777), ("random", 200_000))

_IN_VAIN, _PAUSE = 100, 0.001


class Ordered(MutableSet[Any]):
    """A set that iterates in the order of its additions."""

    def __init__(self) -> None:
        self._items: dict[Any, None] = {}

    def __contains__(self, item: object) -> bool:
        return item in self._items

    def __iter__(self) -> Iterator[Any]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def add(self, value: Any) -> None:
        self._items[value] = None

    def discard(self, value: Any) -> None:
        self._items.pop(value, None)


def ordered(kind: Any) -> Any:
    """A patch: ``kind``'s sets of tasks and scopes remember their order."""
    make: Callable[..., None] = kind.__init__

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        self._tasks = Ordered()
        if hasattr(self, "_child_scopes"):
            self._child_scopes = Ordered()

    return mock.patch.object(kind, "__init__", init)


def patient(loop: Any) -> Callable[..., asyncio.Handle]:
    """The loop's ``call_soon``, in which a cancellation that is repeated in vain lets the clock move."""
    call_soon = loop.call_soon
    instant, repeats = -1.0, 0

    def call(callback: Callable[..., object], *args: Any, context: Any = None) -> asyncio.Handle:
        nonlocal instant, repeats
        if getattr(callback, "__name__", "") == "_deliver_cancellation":
            instant, repeats = loop.time(), repeats + 1 if loop.time() == instant else 1
            if repeats > _IN_VAIN:
                return loop.call_later(_PAUSE, callback, *args, context=context)
        return call_soon(callback, *args, context=context)

    return call


def live(scenario: Scenario) -> tuple[str, str, int]:
    """Simloom's hash, ours, and how often a promise was put to the test.  A broken one raises."""
    import simloom

    trace = Trace()
    jury = Jury(scenario, CHECKERS)
    trace.observe(jury.see)

    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        loop.call_soon = patient(loop)
        world = World(scenario, trace, "asyncio")
        with watched_shields("asyncio", world.on_shield):
            await world.run()
        # simloom runs what is left in its ready list outside any running loop, which AnyIO's repetition needs.
        for _ in range(10):
            await asyncio.sleep(_PAUSE)

    result = simloom.run(main, seed=scenario.scheduler_seed, world=False)
    jury.finish()
    broken = [f"{violation.name}: {violation.what}" for violation in jury.violations]
    assert not broken, f"seed {scenario.seed:#x} under simloom: {broken}"
    return result.digest[:16], trace.digest(), sum(judge.evaluated for judge in jury.checkers)


def histories(seeds: int) -> Iterator[tuple[str, Scenario]]:
    """The first seeds, and the scenarios that are kept."""
    for seed in range(seeds):
        yield f"seed {seed:#x}", generate(seed)
    for path in sorted((Path(__file__).parent / "scenarios").glob("*.json")):
        yield path.stem, Scenario.from_json(path.read_text(encoding="utf-8"))


def be_one_process(seeds: int, noise: int, *, in_order: bool) -> None:
    """One line a history."""
    logging.disable(logging.CRITICAL)  # its warnings are what is being simulated
    kept = [bytearray(size % 700) for size in range(noise)]
    with ExitStack() as stack:
        if in_order:
            stack.enter_context(ordered(library.CancelScope))
            stack.enter_context(ordered(library.TaskGroup))
        for name, scenario in histories(seeds):
            print(name, *live(scenario), sep="\t", flush=True)
    del kept


def start(seeds: int, hash_seed: str, noise: int, *, in_order: bool) -> subprocess.Popen[str]:
    """This file in a process of its own."""
    command = [sys.executable, __file__, "--one", str(noise), "--seeds", str(seeds)]
    command += [] if in_order else ["--without-order"]
    return subprocess.Popen(command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, stdout=subprocess.PIPE, text=True)


def judged(seeds: int, *, in_order: bool = True) -> list[list[list[str]]]:
    """The rows of each process."""
    said = partial(start, seeds, in_order=in_order)
    outs: list[list[list[str]]] = []
    for hash_seed, noise in PROCESSES:
        process = said(hash_seed, noise)
        out, _ = process.communicate()
        if process.returncode:
            raise SystemExit(f"the process with hash seed {hash_seed} failed")
        outs.append([line.split("\t") for line in out.splitlines()])
    return outs


def page(rows: list[list[str]], control: int) -> str:
    """The page in docs."""
    return PAGE_TEXT.format(
        simloom=version("simloom"),
        anyio=version("anyio"),
        python=platform.python_version(),
        count=len(rows),
        processes=len(PROCESSES),
        seeds=", ".join(seed for seed, _ in PROCESSES),
        noises=", ".join(f"{noise:,}" for _, noise in PROCESSES),
        checks=f"{sum(int(row[3]) for row in rows):,}",
        control=control,
        rows="\n".join(f"| {row[0]} | `{row[1]}` | `{row[2]}` |" for row in rows),
    )


PAGE_TEXT = """\
# A second judge: simloom

[simloom](https://pypi.org/project/simloom/) {simloom} is a deterministic asyncio loop that nobody here wrote: its own
clock, its own choice of what runs next. Here it lives through our histories in place of our loop. Written by
`nox -s simloom`; how, and what AnyIO needed for it, is in `tests/simulation/simloom_judge.py`.

- {count} histories in {processes} processes each, with hash seeds {seeds} and {noises} objects allocated first:
  **{count} of {count} came to the same two hashes.**
- {checks} times a promise was put to the test under simloom's schedules; none was broken.
- Negative control: with AnyIO's own sets of tasks, which iterate by address, simloom's hash differs in {control}
  of them. (Our loop needs no such help: it sorts.)
- CPython {python}, AnyIO {anyio}.

The first hash is simloom's, over each step that it chose; the second is ours, over what happened.

| history | simloom's | ours |
|---|---|---|
{rows}

It earned its place on the first day. A room that ended in a bare callback of the loop did not reach its job where
nobody had called `anyio.run`, because AnyIO finds its backend by the running task. Neither of our engines could see
that: both start with `anyio.run`. `tests/runtime/test_plain_asyncio.py` keeps it.
"""


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--one", type=int, metavar="NOISE", help="be one of the processes")
    parser.add_argument("--without-order", action="store_true")
    arguments = parser.parse_args()
    if arguments.one is not None:
        be_one_process(arguments.seeds, arguments.one, in_order=not arguments.without_order)
        return 0
    first, *others = judged(arguments.seeds)
    for other in others:
        for one, two in zip(first, other, strict=True):
            assert one == two, f"{one} and {two}"
    plain = judged(arguments.seeds, in_order=False)
    control = sum(len({row[1] for row in same}) > 1 for same in zip(*plain, strict=True))
    assert control, "without an order of tasks the hashes must differ; so equal ones prove nothing"
    if arguments.seeds >= SEEDS:
        PAGE.write_text(page(first, control), encoding="utf-8")
    print(f"{len(first)} histories, {len(PROCESSES)} processes: equal; control: {control} differ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
