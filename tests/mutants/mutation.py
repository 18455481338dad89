"""Many mutants in one run of pytest: mutation testing of the pure core, and the named mutants under ordinary tests.

``python -m pytest -p tests.mutants.mutation tests/protocol --sample 100 [--only _jobs] --verdicts FILE``
    every small change of the core's code must make a fast protocol test fail;
``python -m pytest -p tests.mutants.mutation tests/protocol tests/runtime --named all --verdicts FILE``
    which of the named mutants live through the tests without simulation.

A pytest plugin, because starting pytest anew for each of hundreds of mutants takes longer than the tests: the tests are
collected once, then each mutant gets a fork of this process, in which one function gets other code (or a table loses a
row) and the tests run until the first fails.  What hangs is killed by the time-out that every test has.

What is changed: comparisons, ``and``/``or``, ``not``, arithmetic, numbers, texts, True/False, conditions of ifs and
whiles, returned values; a statement that is a call, an assignment to an attribute or a ``del`` is left out.
"""

from __future__ import annotations
import __future__

import ast
import importlib
import os
import random
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NoReturn

import pytest

from .catalog import MUTANTS

MODULES = ("_state", "_jobs", "_lifecycle", "_timers", "_codec")

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd,
}  # fmt: skip


def _not(node: ast.expr) -> ast.expr:
    return ast.UnaryOp(op=ast.Not(), operand=node)


def changes(node: ast.AST) -> Iterator[tuple[str, Callable[[Any], ast.AST]]]:
    """What may be changed at a node: what it is called, and the function that gives the changed node."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARISONS:
            other = _COMPARISONS[type(op)]
            yield f"{type(op).__name__} to {other.__name__}", lambda n: _with(n, ops=[other()])
        case ast.BoolOp(op=op):
            swapped = ast.Or if isinstance(op, ast.And) else ast.And
            yield f"{type(op).__name__} to {swapped.__name__}", lambda n: _with(n, op=swapped())
        case ast.UnaryOp(op=ast.Not()):
            yield "without not", lambda n: n.operand
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in _ARITHMETIC:
            sign = _ARITHMETIC[type(op)]
            yield f"{type(op).__name__} to {sign.__name__}", lambda n: _with(n, op=sign())
        case ast.Constant(value=bool(value)):
            yield f"{value} to {not value}", lambda n: ast.Constant(not n.value)
        case ast.Constant(value=int(value) | float(value)):
            yield f"{value} to {value + 1}", lambda n: ast.Constant(n.value + 1)
        case ast.Constant(value=str(value)):
            yield f"{value!r} to another text", lambda n: ast.Constant(n.value + "x")
        case ast.If() | ast.While() | ast.IfExp():
            yield "the other way round", lambda n: _with(n, test=_not(n.test))
        case ast.Return(value=ast.expr() as value) if not (isinstance(value, ast.Constant) and value.value is None):
            yield "returns None", lambda n: ast.Return(value=ast.Constant(None))
        case ast.Expr(value=ast.Call()) | ast.Assign(targets=[ast.Attribute() | ast.Subscript()]) | ast.Delete():
            yield "left out", lambda n: ast.Pass()
        case _:
            pass


def _with(node: Any, **fields: Any) -> ast.AST:
    for name, value in fields.items():
        setattr(node, name, value)
    return node


class _At(ast.NodeTransformer):
    """Changes the ``number``-th thing that can be changed, in the order of a walk."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.told = ""
        self.line = 0

    def visit(self, node: ast.AST) -> ast.AST:
        call = isinstance(node, ast.Expr) and isinstance(node.value, ast.Call)
        if isinstance(node, ast.arguments | ast.JoinedStr | ast.Expr | ast.AnnAssign) and not call:
            # Defaults are not in a function's code; texts for people (f-strings, docstrings) prove nothing.
            return node
        for told, change in changes(node):
            if self.left == 0 and not self.told:
                self.told, self.line = told, getattr(node, "lineno", 0)
                return ast.copy_location(change(node), node)
            self.left -= 1
        if isinstance(node, ast.Raise):
            return node  # which error is tested; its words are for people
        return self.generic_visit(node)


@dataclass(frozen=True, slots=True)
class Change:
    """One mutant."""

    where: str
    told: str
    apply: Callable[[], object]


def changes_of(module: ModuleType) -> Iterator[Change]:
    """Every mutant of a module: its functions and methods, and the rows of its tables."""
    path = Path(str(module.__file__))
    short = module.__name__.rpartition(".")[2]
    for definition, owner in _functions(ast.parse(path.read_text()), module):
        function = _unwrapped(owner, definition.name)
        if function is None or definition.name == "__repr__":
            continue
        for number in range(10_000):
            tree = deepcopy(definition)
            changer = _At(number)
            tree.body = [changer.visit(statement) for statement in tree.body]  # type: ignore[misc]
            if not changer.told:
                break
            where = f"{short}.{function.__qualname__}:{changer.line}"
            yield Change(where, changer.told, _swap(function, tree))
    for name in ("JOB", "CONVERSATION"):
        for key, row in getattr(module, name, {}).items():
            for entry in row:
                yield Change(f"{short}.{name}", f"no {key.name}/{entry.name}", _drop(row, entry))


def _functions(tree: ast.Module, module: ModuleType) -> Iterator[tuple[ast.FunctionDef, Any]]:
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node, module
        elif isinstance(node, ast.ClassDef):
            for inner in node.body:
                if isinstance(inner, ast.FunctionDef):
                    yield inner, getattr(module, node.name)


def _unwrapped(owner: Any, name: str) -> FunctionType | None:
    found = vars(owner).get(name)
    while found is not None and (not isinstance(found, FunctionType) or hasattr(found, "__wrapped__")):
        found = getattr(found, "__wrapped__", None) or getattr(found, "fget", None) or getattr(found, "__func__", None)
    return found


def _swap(function: FunctionType, tree: ast.FunctionDef) -> Callable[[], None]:
    def apply() -> None:
        tree.decorator_list, tree.args.defaults, tree.args.kw_defaults = [], [], [None for _ in tree.args.kwonlyargs]
        cells: list[ast.stmt] = [
            ast.Assign(targets=[ast.Name(id=name, ctx=ast.Store())], value=ast.Constant(None))
            for name in function.__code__.co_freevars
        ]
        around = ast.parse("def _around():\n    pass").body[0]
        assert isinstance(around, ast.FunctionDef)
        around.body = [*cells, tree]
        module = ast.fix_missing_locations(ast.Module(body=[around], type_ignores=[]))
        flags = __future__.annotations.compiler_flag
        code = compile(module, "<mutant>", "exec", flags=flags, dont_inherit=True)
        for _ in range(2):
            code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name in ("_around", tree.name))
        function.__code__ = code

    return apply


def _drop(row: dict[Any, Any], key: Any) -> Callable[[], None]:
    return lambda: row.pop(key, None)


# ------------------------------------------------------------------------------------------------ the plugin


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--sample", type=int, default=0, help="so many mutants, drawn by chance; 0 for all")
    parser.addoption("--only", default="", help="one module")
    parser.addoption("--named", default="", help="these mutants of the catalog instead, or all")
    parser.addoption("--verdicts", type=Path, help="where to write who survived, and who was killed by what")


def _mutants(option: Callable[[str], Any]) -> list[Change]:
    if named := option("--named"):
        chosen = list(MUTANTS) if named == "all" else named.split(",")
        # Entered and never left: the fork ends with it.
        return [Change(name, MUTANTS[name].about, MUTANTS[name].applied().__enter__) for name in chosen]
    modules = [option("--only")] if option("--only") else MODULES
    mutants = [
        change for name in modules for change in changes_of(importlib.import_module(f"livekit_agent.protocol.{name}"))
    ]
    if option("--sample"):
        mutants = random.Random(1).sample(mutants, min(option("--sample"), len(mutants)))
    return mutants


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    option = session.config.getoption
    mutants = _mutants(option)
    lines: list[str] = []
    survivors = 0
    for number, mutant in enumerate(mutants, 1):
        killer = _killer(session, mutant)
        survivors += not killer
        lines.append(f"{'killed' if killer else 'SURVIVED'}\t{mutant.where}\t{mutant.told}\t{killer}")
        os.write(2, f"{number}/{len(mutants)} {lines[-1]}\n".encode())
        if option("--verdicts"):
            head = f"{number - survivors} of {number} killed, {100 * (number - survivors) / number:.1f} %\n"
            option("--verdicts").write_text(head + "\n".join(lines) + "\n")
    return True


def _killer(session: pytest.Session, mutant: Change) -> str:
    """The first test that fails under a mutant; empty if none does."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        _be_mutant(session, mutant, tell)
    os.close(tell)
    with os.fdopen(told) as pipe:
        killer = pipe.read()
    status = os.waitpid(child, 0)[1]
    return killer or ("the process died" if status else "")


def _be_mutant(session: pytest.Session, mutant: Change, tell: int) -> NoReturn:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    try:
        mutant.apply()
        plugins = session.config.pluginmanager
        plugins.unregister(plugins.get_plugin("terminalreporter"))
        for index, item in enumerate(session.items):
            following = session.items[index + 1] if index + 1 < len(session.items) else None
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if session.testsfailed:
                os.write(tell, item.nodeid.encode())
                os._exit(1)
        os._exit(0)
    except BaseException as exc:
        os.write(tell, f"{type(exc).__name__} outside any test".encode())
        os._exit(1)
