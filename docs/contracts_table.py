"""Plays the conformance suite against this package, livekit-agents and @livekit/agents, and writes docs/contracts.md's
table.

    python docs/contracts_table.py          as `nox -s contracts` does, after tests/e2e/foreign/install.py

LIVEKIT_PEER_PYTHON names another interpreter that has livekit-agents, NODE_MODULES_PARENT the directory above a
`node_modules` with @livekit/agents.  A worker that is not installed is told, and the page stays as it is: a table that
lost a column would read as if nobody had ever been asked.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from livekit_agent.testing.contracts import CASES, Result, run_contracts

ROOT = Path(__file__).resolve().parents[1]
ADAPTERS = ROOT / "src" / "livekit_agent" / "testing" / "contracts" / "adapters"
FOREIGN = ROOT / ".ci" / "cache" / "foreign"
PAGE = ROOT / "docs" / "contracts.md"
BEGIN, END = "<!-- table: begin -->", "<!-- table: end -->"


def main() -> int:
    commands, missing = workers()
    if missing:
        for name, what in missing.items():
            print(f"no column for {name}: {what}", file=sys.stderr)
        print("nothing is played or written; python tests/e2e/foreign/install.py installs them", file=sys.stderr)
        return 2
    columns = {name: played(command) for name, command in commands.items()}
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(columns)}{END}{after}")
    failed = [str(case) for case, result in columns["ours"].items() if not result.ok]
    print(f"ours failed: {', '.join(failed)}" if failed else "ours: nothing failed")
    return 1 if failed else 0


#: How a case ends whose only fault is that no status of a job ever comes.
NO_STATUS = "no terminal status"


def workers() -> tuple[dict[str, list[str]], dict[str, str]]:
    """The commands of those that can be started here, by their columns, and what the others lack."""
    peer = Path(os.environ.get("LIVEKIT_PEER_PYTHON", FOREIGN / "peer" / "bin" / "python"))
    modules = Path(os.environ.setdefault("NODE_MODULES_PARENT", str(FOREIGN / "node"))) / "node_modules"
    node = shutil.which("node")
    commands = {
        "ours": [sys.executable, str(ADAPTERS / "ours.py")],
        "livekit-agents 1.8.9": [str(peer), str(ADAPTERS / "peer.py"), "start"],
        "@livekit/agents 1.9.0": [str(node), str(ADAPTERS / "node.mjs")],
    }
    missing: dict[str, str] = {}
    if not peer.exists():
        missing["livekit-agents 1.8.9"] = f"there is no {peer}"
    if node is None:
        missing["@livekit/agents 1.9.0"] = "node is not installed"
    elif not (modules / "@livekit" / "agents").exists():
        missing["@livekit/agents 1.9.0"] = f"there is no @livekit/agents in {modules}"
    return {name: command for name, command in commands.items() if name not in missing}, missing


def played(command: list[str]) -> dict[int, Result]:
    """The results by number.  Few at once and with patience: theirs start processes, and machines differ."""

    def tell(result: Result) -> None:
        print(f"{result.case!s:>4}  {result.verdict.value:8}  {result.seconds:5.1f} s  {result.what[:150]}", flush=True)

    print(" ".join(command))
    results = run_contracts(command, parallel=4, patience=2, on_result=tell)
    return {result.case.number: result for result in results}


def table(columns: dict[str, dict[int, Result]]) -> str:
    """The table in Markdown."""
    rows = ["| case | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    for case in CASES:
        cells = [cell(results[case.number]) for results in columns.values()]
        rows.append(f"| **{case}** {case.title} | " + " | ".join(cells) + " |")
    counts = []
    for results in columns.values():
        run = [verdict(result) for result in results.values() if result.case.run is not None]
        counts.append(", ".join(f"{run.count(word)} {word}" for word in dict.fromkeys(sorted(run, key=str.lower))))
    return "\n".join([*rows, "| run | " + " | ".join(counts) + " |", ""])


def verdict(result: Result) -> str:
    """As the last row counts it."""
    return "no status" if cell(result) == "*no status*" else result.verdict.value


def cell(result: Result) -> str:
    what = result.what.replace("|", "\\|")
    if result.what.startswith(NO_STATUS) and "exited" not in result.what:
        return "*no status*"
    return what if result.verdict.value == "ok" else f"*{result.verdict.value}*: {what}"


if __name__ == "__main__":
    raise SystemExit(main())
