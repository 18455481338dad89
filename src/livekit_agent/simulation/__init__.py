"""Virtual time and determinism for programs built on AnyIO.

:func:`run_virtual` runs an async function on trio or on asyncio under a clock that jumps from deadline to deadline,
with a schedule that a seed decides.  Nothing is imported until a name is used; asyncio and trio least of all.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ._errors import DeadlockError as DeadlockError
    from ._errors import RealWorldError as RealWorldError
    from ._errors import VirtualTimeError as VirtualTimeError
    from ._runtime import run_virtual as run_virtual

__all__ = ["DeadlockError", "RealWorldError", "VirtualTimeError", "run_virtual"]

_HOMES = {
    "DeadlockError": "_errors",
    "RealWorldError": "_errors",
    "VirtualTimeError": "_errors",
    "run_virtual": "_runtime",
}


def __getattr__(name: str) -> object:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f".{home}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
