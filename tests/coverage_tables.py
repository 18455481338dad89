"""The tables of what there is and where it went: ``coverage/*.toml``, and how to look a name of ours up.

A row is a public name of ours (several, with commas), or ``{ as = name, note = … }``, or ``{ out = reason }``.
A name is looked for in ``livekit_agent.rooms``, then in ``livekit_agent``; ``Class.method(argument)`` means that
argument.  A row ``"*"`` stands for the whole section.
"""

from __future__ import annotations

import ast
import inspect
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

TABLES = Path(__file__).parent / "coverage"
TESTS = Path(__file__).parent / "rooms"


class Row(NamedTuple):
    """What became of one name of theirs."""

    key: str
    names: tuple[str, ...]
    note: str
    out: str

    @property
    def used(self) -> bool:
        return bool(self.names)


@cache
def table(file: str) -> dict[str, Any]:
    return tomllib.loads((TABLES / f"{file}.toml").read_text())


def rows(section: dict[str, Any]) -> dict[str, Row]:
    return {key: row(key, value) for key, value in section.items()}


def row(key: str, value: str | dict[str, str]) -> Row:
    if isinstance(value, str):
        value = {"as": value}
    unknown = value.keys() - {"as", "note", "out"}
    assert not unknown, f"{key}: {unknown}"
    return Row(
        key, tuple(re.split(r",\s+", value["as"])) if "as" in value else (), value.get("note", ""), value.get("out", "")
    )


def sections(data: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Row]]]:
    """Every section of a table: its dotted name and its rows."""
    for key, value in data.items():
        if not isinstance(value, dict):
            continue
        if any(isinstance(inner, str) or {"as", "out"} & inner.keys() for inner in value.values()):
            yield f"{path}{key}", rows(value)
        else:
            yield from sections(value, f"{path}{key}.")


def exists(name: str) -> bool:
    """Whether that public name, and its argument if one is named, is there."""
    import livekit_agent
    import livekit_agent.events
    import livekit_agent.rooms

    path, _, argument = name.rstrip(")").partition("(")
    first, *rest = path.split(".")
    found: Any = getattr(livekit_agent.rooms, first, None) or getattr(livekit_agent, first, None)
    for part in rest:
        if found is None:
            return False
        found = getattr(found, part, None) or (found if has_attribute(found, part) else None)
    return found is not None and (not argument or argument in inspect.signature(found).parameters)


def has_attribute(cls: Any, name: str) -> bool:
    """Whether instances of it get that attribute when they are made."""
    if name in getattr(cls, "__dataclass_fields__", {}) or name in vars(cls):
        return True
    if inspect.isclass(cls) and any(name in vars(base).get("__annotations__", {}) for base in cls.__mro__):
        return True
    return inspect.isclass(cls) and any(
        f"self.{name} = " in source or f"self.{name}: " in source
        for base in cls.__mro__
        if base.__module__.startswith("livekit_agent")
        for source in [inspect.getsource(base)]
    )


def path_of(file: str) -> Path:
    """``file`` is tests/rooms/test_FILE.py, ``folder/file`` another folder's, ``./file`` one of tests itself."""
    folder, _, name = file.rpartition("/")
    return (TESTS.parent / folder if folder else TESTS) / f"test_{name}.py"


@cache
def tests_of(file: str) -> frozenset[str]:
    tree = ast.parse(path_of(file).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@cache
def definitions(file: str) -> dict[str, tuple[str, frozenset[str]]]:
    """What a file of tests defines: name -> its source and the names in it."""
    source = path_of(file).read_text()
    found: dict[str, tuple[str, frozenset[str]]] = {}
    for node in ast.parse(source).body:
        defined = [node.name] if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) else []
        if isinstance(node, ast.Assign):
            defined = [target.id for target in node.targets if isinstance(target, ast.Name)]
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            defined = [node.target.id]
        parts = [node, *getattr(node, "decorator_list", ())]
        text = "\n".join(ast.get_source_segment(source, part) or "" for part in parts)
        names = frozenset(inner.id for inner in ast.walk(node) if isinstance(inner, ast.Name))
        found |= dict.fromkeys(defined, (text, names))
    return found


def code_of(proof: str) -> str:
    """The source of a proof, and of all that it uses of its own file."""
    file, _, name = proof.partition("::")
    wanted, seen = [f"test_{name}"], dict[str, str]()
    while wanted:
        name = wanted.pop()
        if name not in seen and name in definitions(file):
            seen[name], names = definitions(file)[name]
            wanted += sorted(names)
    return "\n".join(seen.values())


def test_exists(proof: str) -> bool:
    """``file::name``: a test function of that file (:func:`path_of`), named without its ``test_``."""
    file, _, name = proof.partition("::")
    return path_of(file).exists() and f"test_{name}" in tests_of(file)


test_exists.__test__ = False  # type: ignore[attr-defined]
