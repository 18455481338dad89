"""Playing the cases, side by side, and what came of each."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import anyio

from . import _connect, _endings, _hostile, _liveness, _offers, _registration
from ._lab import Lab
from ._verdicts import Broken, Case, Differs, Result, Verdict

__all__ = ["CASES", "contract_test", "run_contracts"]

CASES: tuple[Case, ...] = (
    *_connect.CASES,
    *_registration.CASES,
    *_offers.CASES,
    *_endings.CASES,
    *_liveness.CASES,
    *_hostile.CASES,
)
"""Every worker case of the groups A to G."""

_LIMIT_SECONDS = 150.0
"""No case takes longer, whatever the worker does."""

_OUTPUT_LINES, _LINE_CHARS = 15, 240


def run_contracts(
    command: Sequence[str],
    *,
    only: Sequence[int] | None = None,
    env: Mapping[str, str] | None = None,
    parallel: int = 12,
    patience: float = 1.0,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Play the cases against the worker that ``command`` starts; the results in the table's order.

    ``only`` names cases by number, ``env`` adds to the worker's environment, ``parallel`` says how many cases are
    played at once, ``patience`` stretches every wait (2 for a slow machine), ``on_result`` is told of each result as it
    comes.
    """
    chosen = [case for case in CASES if only is None or case.number in only]
    if parallel < 1:
        raise ValueError(f"parallel must be at least 1, not {parallel}")
    _refuse_unknown(only)
    results: dict[int, Result] = {}

    def tell(result: Result) -> None:
        results[result.case.number] = result
        on_result(result)

    anyio.run(_play, list(command), chosen, dict(env or {}), parallel, patience, tell)
    return [results[case.number] for case in chosen]


def _refuse_unknown(only: Sequence[int] | None) -> None:
    if unknown := set(only or ()) - {case.number for case in CASES}:
        raise ValueError(f"no such cases: {', '.join(map(str, sorted(unknown)))}")


async def _play(
    command: list[str],
    cases: list[Case],
    env: dict[str, str],
    parallel: int,
    patience: float,
    tell: Callable[[Result], None],
) -> None:
    lab = Lab(command, env, patience, starts=max(1, (os.cpu_count() or 2)))
    for case in cases:
        if case.run is None:
            tell(Result(case=case, verdict=case.verdict, what=case.why, seconds=0.0))
    # The long ones first, so that the suite takes little longer than the longest.
    todo = sorted((case for case in cases if case.run is not None), key=lambda case: -case.seconds)

    async def work() -> None:
        while todo:
            tell(await _judge(lab, todo.pop(0)))

    async with lab.open(), anyio.create_task_group() as tasks:
        for _ in range(parallel):
            tasks.start_soon(work)


async def _judge(lab: Lab, case: Case) -> Result:
    assert case.run is not None
    began = time.monotonic()
    verdict, what, output = Verdict.FAILED, "", ""
    try:
        with anyio.fail_after(_LIMIT_SECONDS * lab.patience):
            what = await case.run(lab) or ""
            verdict = Verdict.OK
    except* Differs as group:
        verdict, what = Verdict.DIFFERS, str(_first(group))
    except* (Broken, TimeoutError) as group:
        what = str(_first(group)) or "the case did not come to an end"
        output = _tail(_first(group))
    except* ImportError as group:
        verdict, what = Verdict.ADAPTER, f"needs {getattr(_first(group), 'name', '')}: pip install it to run this case"
    except* Exception as group:
        # The suite's safety net: what a worker can do to a case that nobody thought of is that worker's failure.
        what = f"the case broke: {_first(group)!r}"
    return Result(case=case, verdict=verdict, what=what, seconds=time.monotonic() - began, output=output)


def _first(error: BaseException) -> BaseException:
    """The first leaf of a group."""
    return _first(cast("BaseExceptionGroup[BaseException]", error).exceptions[0]) if _is_group(error) else error


def _is_group(error: BaseException) -> bool:
    """Whether it holds others."""
    return isinstance(error, BaseExceptionGroup)


def _tail(error: BaseException) -> str:
    """The last that the worker printed."""
    lines = str(getattr(error, "output", "")).splitlines()[-_OUTPUT_LINES:]
    return "\n".join(line if len(line) <= _LINE_CHARS else f"{line[:_LINE_CHARS]}…" for line in lines)


def contract_test(command: Sequence[str], **options: Any) -> Callable[..., None]:
    """A pytest test, parametrised over the cases that are run; ``test_contracts = contract_test([...])``.

    The suite is played once, in parallel, by the first of them; ``options`` are :func:`run_contracts`'s.
    """
    import pytest

    only = options.get("only")
    _refuse_unknown(only)
    chosen = [case for case in CASES if case.run is not None and (only is None or case.number in only)]
    played: dict[int, Result] = {}

    @pytest.mark.parametrize("case", chosen, ids=str)
    def test_contracts(case: Case) -> None:
        if not played:
            options["only"] = [one.number for one in chosen]
            played.update({result.case.number: result for result in run_contracts(command, **options)})
        result = played[case.number]
        if result.verdict is Verdict.ADAPTER:
            pytest.skip(result.what)  # something that the case needs is not installed
        if not result.ok:
            pytest.fail(f"{case.title}: {result.what}\n{result.output}", pytrace=False)

    return test_contracts
