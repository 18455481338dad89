"""Fuzz: ``python -m tests.fuzz.run [--seconds 600] [--seed N] [--jobs N] [--keep] [TARGET…]``; wants atheris (Linux).

Each target is a process of its own, with the committed corpus to begin with.  What is tried is drawn at random, or with
``--seed`` the same each time, as far as the time reaches: CI is not the place to be surprised by a draw.  What
libFuzzer finds interesting goes to a directory that is thrown away, or with ``--keep`` into the corpus.  An input that
raises is kept beside the corpus as ``found/<target>-<hash>`` and printed: move it into the corpus when the fault is
repaired.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
FOUND = HERE / "found"
_MAX_BYTES = 2048
_FIGURES = re.compile(r"#(\d+)\s+DONE\s+cov: (\d+) ft: (\d+)")


def fuzz(name: str, arguments: list[str]) -> None:
    """Be the fuzzer's process for one target; does not return."""
    import atheris

    # Imported here for the first time: what is loaded before is not instrumented.
    with atheris.instrument_imports(include=["livekit_agent", "wsproto", "h11"]):
        from .targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name])
    atheris.Fuzz()


def run(name: str, seconds: int, seed: int, keep: bool) -> bool:
    """One target for a while; whether nothing was found.  ``seed`` 0 lets the fuzzer draw one."""
    FOUND.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        command = [
            sys.executable, "-m", "tests.fuzz.run", "--process", name, "--",
            f"-max_total_time={seconds}", f"-seed={seed}",
            f"-max_len={_MAX_BYTES}", "-timeout=20", "-rss_limit_mb=2048",
            f"-artifact_prefix={FOUND}/{name}-", str(CORPUS / name) if keep else scratch, str(CORPUS / name),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    told, ok = judge(done.returncode, done.stderr)
    print(f"{name:<24} {told}", flush=True)
    if not ok:
        print(done.stdout[-3000:], done.stderr[-1500:])
    return ok


def judge(code: int, stderr: str) -> tuple[str, bool]:
    """What the fuzzer's process came to, and whether that is well.  One that ends in peace without having said that it
    tried inputs, or that it saw the code under them, has proven nothing."""
    figures = _FIGURES.search(stderr)
    executions, edges = (int(figures[1]), int(figures[2])) if figures else (0, 0)
    told = f"{executions:>9,} executions, {edges:>5} edges"
    if code != 0:
        return f"{told}  FOUND SOMETHING", False
    if figures is None:
        return f"{told}  NO FIGURES", False
    if not executions:
        return f"{told}  NOTHING WAS TRIED", False
    return (f"{told}  ok", True) if edges else (f"{told}  NO EDGES: nothing is instrumented", False)


def main() -> int:
    """The command."""
    if "--process" in sys.argv:
        at = sys.argv.index("--process")
        fuzz(sys.argv[at + 1], sys.argv[at + 3 :])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="all without any")
    parser.add_argument("--seconds", type=int, default=600, help="for each target")
    parser.add_argument("--seed", type=int, default=0, help="the same draws each time; 0 for others")
    parser.add_argument("--jobs", type=int, default=1, help="targets at a time")
    parser.add_argument("--keep", action="store_true", help="keep new inputs in the corpus")
    arguments = parser.parse_args()
    names = sorted(path.name for path in CORPUS.iterdir())
    chosen = arguments.targets or names
    if unknown := [name for name in chosen if name not in names]:
        parser.error(f"no target {unknown}; there are {', '.join(names)}")
    with ThreadPoolExecutor(arguments.jobs) as pool:  # each waits for its process
        results = list(pool.map(lambda name: run(name, arguments.seconds, arguments.seed, arguments.keep), chosen))
    return 0 if all(results) else 1


if __name__ == "__main__":
    sys.exit(main())
