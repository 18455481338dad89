"""Python runs this at its start when it finds it on the path: a test's own processes make the mistake of the mutant.

Nothing of the package is imported for that: each edit is made when the module that it is about has been loaded.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

_ROOT = __file__.rpartition("/tests/")[0]
_PACKAGE = "livekit_agent."
_FIRST = _PACKAGE + "protocol"
"""The catalog needs it."""


class _Edits:
    """Makes each as soon as that is possible."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._pending: list[Any] | None = None
        self._made: list[Any] = []
        """Kept: what is forgotten is undone."""

    def make(self) -> None:
        if _loading(_FIRST):
            return
        if self._pending is None:
            self._pending = []  # what the catalog imports comes here again
            sys.path.insert(0, _ROOT)
            from tests.mutants.catalog import MUTANTS

            sys.path.remove(_ROOT)
            self._pending = [edit for name in self._name.split("+") for edit in MUTANTS[name].edits]
        for edit in list(self._pending):
            if not _loading(_PACKAGE + edit.target.partition(":")[0]):
                self._pending.remove(edit)
                self._made.append(edit.made())
                self._made[-1].__enter__()


def _loading(name: str) -> bool:
    module = sys.modules.get(name)
    return module is None or getattr(module.__spec__, "_initializing", False)


class _Finder:
    def __init__(self, edits: _Edits) -> None:
        self._edits = edits

    def find_spec(self, name: str, path: Any = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if not name.startswith(_PACKAGE):
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def then_edit(module: ModuleType) -> None:
                execute(module)
                if module.__spec__ is not None:
                    module.__spec__._initializing = False  # type: ignore[attr-defined]
                self._edits.make()

            spec.loader.exec_module = then_edit  # type: ignore[method-assign]
        return spec


if "NAMED_MUTANT" in os.environ:
    sys.meta_path.insert(0, _Finder(_Edits(os.environ["NAMED_MUTANT"])))  # type: ignore[arg-type]
