"""``python -m livekit_agent.testing.contracts [options] -- COMMAND ...``: the table, for people and for programs."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter

from ._run import CASES, run_contracts
from ._verdicts import Case, Result, Verdict

_COLOURS = {Verdict.OK: "32", Verdict.FAILED: "1;31", Verdict.DIFFERS: "33"}
_TITLE, _VERDICT = 52, 8


def main(arguments: list[str] | None = None) -> int:
    """Run the suite; exit code 1 when a case failed."""
    options = _parser().parse_args(arguments)
    if options.list:
        for case in CASES:
            print(f"{case!s:>4}  {case.title:{_TITLE}}  {'run' if case.run else f'{case.verdict.value}: {case.why}'}")
        return 0
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        print("error: no command; for example -- python my_worker.py", file=sys.stderr)
        return 2
    began = time.monotonic()
    try:
        only = _chosen(options.case, options.group)
    except ValueError as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2
    results = run_contracts(
        command,
        only=only,
        parallel=options.parallel,
        patience=options.patience,
        on_result=_progress if sys.stderr.isatty() else lambda result: None,
    )
    show = _json if options.json else _table
    show(results, time.monotonic() - began)
    return 0 if all(result.ok for result in results) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m livekit_agent.testing.contracts",
        description="Play the conformance cases of the agent-worker protocol against any worker.",
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, help="how to start the worker under test")
    parser.add_argument("--case", default="", metavar="N,…", help="only these cases")
    parser.add_argument("--group", default="", metavar="LETTERS", help="only these groups, such as AB")
    parser.add_argument("--parallel", type=_number, default=12, metavar="N", help="cases at once (12)")
    parser.add_argument("--patience", type=float, default=1.0, metavar="X", help="stretch every wait (1)")
    parser.add_argument("--json", action="store_true", help="one object per case and a last one in sum")
    parser.add_argument("--list", action="store_true", help="tell the cases and run none")
    return parser


def _number(text: str) -> int:
    if (number := int(text)) < 1:
        raise ValueError(text)
    return number


def _chosen(numbers: str, groups: str) -> list[int] | None:
    """The cases of these numbers and groups.  One that there is not is a mistake: a suite of no case passes."""
    if not numbers and not groups:
        return None
    named = {word.strip() for word in numbers.split(",") if word.strip()}
    letters = set(groups.upper())
    known = {str(case.number) for case in CASES} | {case.group for case in CASES}
    if unknown := sorted((named | letters) - known):
        raise ValueError(f"no such cases: {', '.join(unknown)}; --list tells all")
    return [case.number for case in CASES if str(case.number) in named or case.group in letters]


def _progress(result: Result) -> None:
    print(f"\r\033[K{result.case!s:>4}  {result.verdict.value}", end="", file=sys.stderr, flush=True)


def _row(case: Case, verdict: Verdict, what: str) -> str:
    word = f"{verdict.value:{_VERDICT}}"
    if sys.stdout.isatty() and verdict in _COLOURS:
        word = f"\033[{_COLOURS[verdict]}m{word}\033[0m"
    return f"{case!s:>4}  {case.title:{_TITLE}}  {word}  {what}"


def _table(results: list[Result], seconds: float) -> None:
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr)
    for result in results:
        print(_row(result.case, result.verdict, result.what))
    for result in results:
        if result.output:
            print(f"\n{result.case} {result.case.title}: the last that the worker printed")
            print("\n".join(f"  | {line}" for line in result.output.splitlines()))
    counts = Counter(result.verdict for result in results)
    run = sum(result.case.run is not None for result in results)
    told = ", ".join(f"{counts[verdict]} {verdict.value}" for verdict in Verdict if counts[verdict])
    print(f"\n{run} cases run in {seconds:.0f} s: {told}")


def _json(results: list[Result], seconds: float) -> None:
    for result in results:
        row: dict[str, object] = {"case": result.case.number, "group": result.case.group, "title": result.case.title}
        row |= {"verdict": result.verdict.value, "what": result.what, "seconds": round(result.seconds, 3)}
        print(json.dumps(row | ({"output": result.output} if result.output else {})))
    counts = Counter(result.verdict.value for result in results)
    print(json.dumps({"event": "summary", "seconds": round(seconds, 1), "verdicts": dict(counts)}))


def _until_nobody_reads() -> int:
    """``main``; a reader who has seen enough (``| head``) ends it quietly, with what a shell makes of SIGPIPE."""
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still held for a reader who is gone would be an error when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    return code


if __name__ == "__main__":
    sys.exit(_until_nobody_reads())
