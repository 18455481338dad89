"""Plays the conformance suite against this package, livekit-agents and @livekit/agents, and writes docs/contracts.md's
table.

    python docs/contracts_table.py          as `nox -s contracts` does, after tests/e2e/foreign/install.py

LIVEKIT_PEER_PYTHON names another interpreter that has livekit-agents, NODE_MODULES_PARENT the directory above a
`node_modules` with @livekit/agents.
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
    columns = {name: played(command) for name, command in workers().items()}
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text(f"{before}{BEGIN}\n{table(columns)}{END}{after}")
    failed = [str(case) for case, result in columns["ours"].items() if not result.ok]
    print(f"ours failed: {', '.join(failed)}" if failed else "ours: nothing failed")
    return 1 if failed else 0


#: How a case ends whose only fault is that no status of a job ever comes.
NO_STATUS = "no terminal status"


def workers() -> dict[str, list[str]]:
    """The commands of those that can be started here."""
    found: dict[str, list[str]] = {"ours": [sys.executable, str(ADAPTERS / "ours.py")]}
    peer = Path(os.environ.get("LIVEKIT_PEER_PYTHON", FOREIGN / "peer" / "bin" / "python"))
    if peer.exists():
        found["livekit-agents 1.8.9"] = [str(peer), str(ADAPTERS / "peer.py"), "start"]
    modules = Path(os.environ.setdefault("NODE_MODULES_PARENT", str(FOREIGN / "node")))
    node = shutil.which("node")
    if node and (modules / "node_modules" / "@livekit" / "agents").exists():
        found["@livekit/agents 1.9.0"] = [node, str(ADAPTERS / "node.mjs")]
    return found


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
