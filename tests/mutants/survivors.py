"""Which mutants the fast tests without simulation let live: ``python -m tests.mutants.survivors [NAME…]``.

Each mutant gets a run of ``tests/protocol`` and ``tests/runtime`` that stops at the first failure; who gets to the end
has survived, and needs a fault or an interleaving to be found.  ``--write FILE`` keeps the verdicts, a line each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from .catalog import MUTANTS

ROOT = Path(__file__).parent.parent.parent
SUITES = ("tests/protocol", "tests/runtime")
_SECONDS = 600


def killer(name: str, suites: tuple[str, ...] = SUITES) -> str:
    """The test that caught it; empty for a survivor."""
    command = [sys.executable, "-m", "pytest", "-p", "tests.mutants.apply", "--mutant", name, "-x", "-q", *suites]
    try:
        done = subprocess.run(
            [*command, "-p", "no:randomly", "-p", "no:cacheprovider"],
            cwd=ROOT, capture_output=True, text=True, timeout=_SECONDS,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "a test that did not come to its end"
    if done.returncode == 0:
        return ""
    failed = [line for line in done.stdout.splitlines() if line.startswith(("FAILED", "ERROR"))]
    if not failed:
        raise RuntimeError(done.stdout[-2000:] + done.stderr[-2000:])
    return failed[0].split(" ", 1)[1].partition(" - ")[0]


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--write", type=Path)
    arguments = parser.parse_args()
    lines: list[str] = []
    for name in arguments.names or MUTANTS:
        began = time.monotonic()
        killed_by = killer(name)
        lines.append(f"{name}\t{killed_by or 'survived'}")
        print(f"{name:<40} {killed_by or 'SURVIVED'}  {time.monotonic() - began:.0f} s", flush=True)
        if arguments.write is not None:
            arguments.write.write_text("\n".join(lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
