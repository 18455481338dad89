"""A target is only ok when the fuzzer says that it ran: silence is no proof."""

from __future__ import annotations

import pytest

from .run import judge

FIGURES = "#1000\tpulse  cov: 90 ft: 120\n#52311\tDONE   cov: 141 ft: 388 corp: 60/2Kb exec/s: 5231 rss: 80Mb\n"


def test_figures_and_a_clean_exit_are_ok() -> None:
    told, ok = judge(0, FIGURES)
    assert (told.split(), ok) == (["52,311", "executions,", "141", "edges", "ok"], True)


@pytest.mark.parametrize(
    ("stderr", "said"),
    [
        ("", "NO FIGURES"),
        ("INFO: Loaded 1 modules\n#2\tINITED cov: 90 ft: 120\n", "NO FIGURES"),
        ("#0\tDONE   cov: 0 ft: 0\n", "NOTHING WAS TRIED"),
        ("#52311\tDONE   cov: 0 ft: 0\n", "NO EDGES"),
    ],
)
def test_a_fuzzer_that_did_not_fuzz_has_failed_whatever_its_exit_code(stderr: str, said: str) -> None:
    told, ok = judge(0, stderr)
    assert (said in told, ok) == (True, False)


@pytest.mark.parametrize("stderr", [FIGURES, "==1== ERROR: libFuzzer: deadly signal"])
def test_an_exit_code_is_a_finding_with_figures_or_without(stderr: str) -> None:
    told, ok = judge(77, stderr)
    assert ("FOUND SOMETHING" in told, ok) == (True, False)
