"""Timing every shield of the SDK while a simulation runs.

Source text can say that a shield has a deadline; only a run shows how long it stood.  :func:`watched_shields` looks at
each cancel scope as it is entered: one that is a shield, entered by code of this package, is noted when it is left,
with the function that entered it and the virtual seconds it lasted.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import anyio

__all__ = ["watched_shields"]

_OURS = __name__.partition(".")[0] + "."
_NOT_OURS = _OURS + "simulation."


@contextmanager
def watched_shields(backend: str, note: Callable[[str, float], None]) -> Generator[None]:
    """Inside the block ``note(function, seconds)`` is called for each shield of ours that was left."""
    scope_class: Any = import_module(f"anyio._backends._{backend}").CancelScope
    enter, leave = scope_class.__enter__, scope_class.__exit__
    #: By id, with the scope itself: were one never left and gone, another could be born under its id.
    standing: dict[int, tuple[Any, str, float]] = {}

    def watched_enter(scope: Any) -> Any:
        result = enter(scope)
        if scope.shield:
            frame = sys._getframe(1)  # pyright: ignore[reportPrivateUsage] - the one way to know who entered it
            module: str = frame.f_globals.get("__name__", "")
            if module.startswith(_OURS) and not module.startswith(_NOT_OURS):
                name = f"{module.removeprefix(_OURS)}:{frame.f_code.co_qualname}"
                standing[id(scope)] = (scope, name, anyio.current_time())
        return result

    def watched_leave(scope: Any, *error: Any) -> Any:
        known = standing.pop(id(scope), None) if standing else None
        if known is not None:
            note(known[1], anyio.current_time() - known[2])
        return leave(scope, *error)

    scope_class.__enter__, scope_class.__exit__ = watched_enter, watched_leave
    try:
        yield
    finally:
        scope_class.__enter__, scope_class.__exit__ = enter, leave
