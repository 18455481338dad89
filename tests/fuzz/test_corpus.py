"""The committed corpus, replayed without a fuzzer: each input must be handled as documented."""

from __future__ import annotations

from pathlib import Path

import pytest

from .targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus_raises_nothing_undocumented(name: str) -> None:
    inputs = sorted((CORPUS / name).iterdir())
    assert inputs, f"no corpus for {name}"
    for path in inputs:
        try:
            TARGETS[name](path.read_bytes())
        except Exception as exc:
            raise AssertionError(f"{path.name}: {type(exc).__name__}: {exc}") from exc


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_at_all_is_handled(name: str) -> None:
    TARGETS[name](b"")


def test_every_corpus_has_a_target() -> None:
    assert sorted(path.name for path in CORPUS.iterdir()) == sorted(TARGETS)
