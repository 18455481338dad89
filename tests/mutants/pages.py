"""Writes docs/proof/mutants.md and docs/proof/mutation.md from what the searches recorded in ``results``.

``python -m tests.mutants.pages`` from the repository's root; the sessions ``mutants``, ``survivors`` and ``mutation``
of nox call it.

Three files are recorded: ``search.json`` by ``search.py``, ``survivors.tsv`` and ``mutation.tsv`` by ``mutation.py``.
One is written by hand: ``reasons.tsv``, why a surviving change of the core is right to survive, or what it would take.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from .catalog import MUTANTS, RESULTS
from .changes import MODULES

ROOT = Path(__file__).parents[2]
PROOF = ROOT / "docs" / "proof"
BACKENDS = ("asyncio", "trio")


class Row(NamedTuple):
    """What became of one change of the core."""

    killed: str
    where: str
    told: str
    by: str

    @property
    def key(self) -> str:
        """As in reasons.tsv."""
        return f"{self.where}\t{self.told}"

    @property
    def killer(self) -> str:
        """The test, or empty."""
        return self.by if self.killed == "killed" else ""


def _rows(name: str) -> list[Row]:
    text = (RESULTS / name).read_text(encoding="utf-8")
    return [Row(*line.split("\t")) for line in text.splitlines() if not line.startswith("#")]


def _remark(name: str) -> str:
    """What somebody wrote at the head of a record: how far it went."""
    lines = (RESULTS / name).read_text(encoding="utf-8").splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def searched() -> dict[str, dict[str, dict[str, Any]]]:
    """By mutant and backend, what the search came to."""
    rows = json.loads((RESULTS / "search.json").read_text(encoding="utf-8"))
    return {name: rows[name] for name in MUTANTS if name in rows}


def is_found(row: Mapping[str, Mapping[str, Any]]) -> bool:
    """On one backend at least."""
    return any(cell["seeds"] is not None for cell in row.values())


def ordinary() -> dict[str, str]:
    """By mutant the ordinary test that fails first; empty for a survivor."""
    return {row.where: row.killer for row in _rows("survivors.tsv") if row.where in MUTANTS}


def mutation() -> list[Row]:
    """What became of each change of the core."""
    return _rows("mutation.tsv")


def reasons() -> dict[str, str]:
    """By survivor, why."""
    lines = (RESULTS / "reasons.tsv").read_text(encoding="utf-8").splitlines()
    return {key: why for key, _, why in (line.rpartition("\t") for line in lines if line and not line.startswith("#"))}


# ------------------------------------------------------------------------------------------------ mutants.md


def _cell(cell: Mapping[str, Any]) -> str:
    if cell["seeds"] is None:
        return f"not in {cell['within']:,}"
    return f"{cell['seeds']:,}"


def mutants_page() -> str:
    """The named mutants."""
    search, killers = searched(), ordinary()
    survivors = [name for name in search if name in killers and not killers[name]]
    rows: list[str] = []
    for name, row in search.items():
        firing = (cell["invariant"] for cell in row.values() if cell["seeds"] is not None)
        invariants = list(dict.fromkeys(firing)) or [MUTANTS[name].caught_by[0]]
        killer = killers.get(name)
        verdict = "not tried" if killer is None else "**yes**" if not killer else f"no: `{_test(killer)}`"
        cells = " | ".join(_cell(row[backend]) for backend in BACKENDS)
        rows.append(f"| `{name}` | {MUTANTS[name].about} | {', '.join(invariants)} | {cells} | {verdict} |")
    return MUTANTS_PAGE.format(
        count=len(search),
        found=sum(is_found(row) or MUTANTS[name].scenario is not None for name, row in search.items()),
        survivors=len(survivors),
        rows="\n".join(rows),
        remark=_remark("survivors.tsv"),
    )


MUTANTS_PAGE = """\
# Named mutants

Can the simulation find bugs? Here are mistakes put into our own source while it runs (`tests/mutants/catalog.py`;
nothing of them is in the package), each with the invariant that catches it and the number of seeds that it took, on
each backend. CI replays a finding scenario of each, and lives through the same one without the mistake.

{count} mutants; **{found} found** by simulation; **{survivors} survive the ordinary suite**, which is all tests but
those of the simulation: they need a fault, or an order of events, that nobody thought of writing down. How much of the
ordinary suite was tried is said below the table.

```console
$ nox -s mutants                                   # the search; within 2,000 seeds on each backend
$ nox -s survivors                                 # the ordinary suite under each of them
$ nox -s survivors -- --named backoff_uncapped     # … under one
```

| mutant | what it breaks | caught by | asyncio | trio | survives the ordinary suite |
|---|---|---|---|---|---|
{rows}

The numbers are seeds lived through until the first in which the mutant was caught; one that was not found in so many
seeds of this search has a scenario from an earlier one, which CI replays. Where the ordinary suite does not
let it live, the first test that failed is named; processes that a test starts make the mistake as well. This page is
written by `tests/mutants/pages.py`. {remark}
"""


def _test(killer: str) -> str:
    return killer.removeprefix("tests/").replace("|", "\\|")


# ------------------------------------------------------------------------------------------------ mutation.md


def mutation_page() -> str:
    """The score of the pure core."""
    rows, why = mutation(), reasons()
    killed = [row for row in rows if row.killer]
    modules: list[str] = []
    survivors: list[str] = []
    for name in MODULES:
        mine = [row for row in rows if row.where.startswith(f"{name}.")]
        living = [row for row in mine if not row.killer]
        dead = len(mine) - len(living)
        modules.append(f"| `protocol/{name}.py` | {len(mine)} | {dead} | {_share(dead, len(mine))} |")
        if living:
            survivors += [f"### {name}", "", "| in | change | why it survives |", "|---|---|---|"]
            survivors += [f"| `{_short(r.where)}` | `{_code(r.told)}` | {why.get(r.key, '')} |" for r in living]
            survivors.append("")
    return MUTATION_PAGE.format(
        killed=f"{len(killed):,}",
        all=f"{len(rows):,}",
        share=_share(len(killed), len(rows)),
        slow=_count(sum(row.by.endswith(", time-out") for row in killed)),
        died=_count(sum("::" not in row.by for row in killed)),
        modules="\n".join(modules),
        survivors="\n".join(survivors),
    )


MUTATION_PAGE = """\
# Mutation testing of the pure core

A test that cannot fail proves nothing. Here every small change of the protocol core's code is tried, one at a time, and
some protocol test must fail. **{killed} of {all} were killed, {share}.**

```console
$ nox -s mutation                    # a few minutes
$ nox -s mutation -- --only _jobs    # one module
```

| module | changes | killed | |
|---|---|---|---|
{modules}

## What is changed, and what is not

Comparisons and their opposites, `and`/`or`, `not`, arithmetic, numbers, texts, True and False, conditions, each
argument of each call, what is assigned, what is returned; statements that are a call, a `raise`, a `del`, `break` or
`continue` are left out; of the state tables each entry is left out. Not changed: texts for people (what errors say,
reasons of skipped messages, `__repr__`), defaults, decorators, `cast`, and what runs at import but for the tables.

The tests are those in `tests/protocol`; a change is tried with all that enter its function, and one in a function that
no test enters survives. A test that takes ten seconds of processor time, or twenty times its own, is ended and
counts as failed: {slow} killed so. {died} killed because the process died of it.

Why not [mutmut](https://mutmut.readthedocs.io): 3.8 leaves decorated functions out, which are the codec's encoders and
all properties, and it does not know the state tables, which are the core of the core. Its kinds of changes are
here, but for letters in another case, swapped string methods and arguments left out.

## Survivors

{survivors}
This page is written by `tests/mutants/pages.py`; the reasons are in `tests/mutants/results/reasons.tsv`.
"""


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "none"


def _count(number: int) -> str:
    return "one was" if number == 1 else f"{number or 'none'} were"


def _short(where: str) -> str:
    return where.partition(".")[2]


def _code(told: str) -> str:
    return told.replace("|", "\\|").replace("`", "'")


# ------------------------------------------------------------------------------------------------ both


def written() -> dict[Path, str]:
    """The pages."""
    return {PROOF / "mutants.md": mutants_page(), PROOF / "mutation.md": mutation_page()}


def main() -> int:
    """The command.  It writes what can be written, whatever has been recorded."""
    for name, page in (("mutants.md", mutants_page), ("mutation.md", mutation_page)):
        try:
            (PROOF / name).write_text(page(), encoding="utf-8")
        except FileNotFoundError as exc:
            print(f"{name} not written: {exc}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
