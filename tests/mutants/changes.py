"""Every small change of the pure core's code: what mutation testing runs the protocol tests against.

Changed are, in the bodies of all functions and methods of the modules in :data:`MODULES`, decorated ones, properties
and functions inside functions included:

    comparisons (``<`` and ``<=``, ``==`` and ``!=``, ``is``, ``in`` and their opposites), ``and`` and ``or``, ``not``,
    arithmetic, numbers, texts, True and False, conditions (the other way round), each argument of each call (None
    instead), what is assigned (None instead, or the assignment left out), what is returned (None instead), statements
    that are a call, a ``raise``, a ``del``, ``break`` or ``continue`` (left out);

and in the tables ``JOB`` and ``CONVERSATION`` each entry (left out).  Not changed are texts for people (f-strings,
docstrings, what an exception says, reasons of skipped messages, ``__repr__``), defaults, decorators, types (``cast``)
and what runs when a module is imported, but for the tables.
"""

from __future__ import annotations
import __future__

import ast
import importlib
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

__all__ = ["MODULES", "Change", "all_changes", "functions_of"]

MODULES = ("_state", "_jobs", "_lifecycle", "_timers", "_codec")

_COMPARISONS: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Eq: ast.NotEq, ast.NotEq: ast.Eq, ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
_ARITHMETIC: dict[type[ast.operator], type[ast.operator]] = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd,
    ast.Mod: ast.Mult, ast.FloorDiv: ast.Mult, ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr,
}  # fmt: skip

#: Arguments that hold texts for people.
_FOR_PEOPLE = ("reason", "hint")

#: Long texts are cut in tables.
_SHOWN = 90


def _not(node: ast.expr) -> ast.expr:
    return ast.UnaryOp(op=ast.Not(), operand=node)


def _none() -> ast.expr:
    return ast.Constant(None)


def _is_none(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _changes_at(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place.  ``node`` itself is not touched."""
    match node:
        case ast.Compare(ops=[op]) if type(op) in _COMPARISONS:
            yield _with(node, ops=[_COMPARISONS[type(op)]()])
        case ast.BoolOp(op=op):
            yield _with(node, op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub()):
            yield node.operand
        case ast.BinOp(op=op) if type(op) in _ARITHMETIC:
            yield _with(node, op=_ARITHMETIC[type(op)]())
        case ast.AugAssign(op=op, target=target, value=value):
            if type(op) in _ARITHMETIC:
                yield _with(node, op=_ARITHMETIC[type(op)]())
            yield ast.Assign(targets=[target], value=value)
        case ast.Constant(value=bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(value=int(value) | float(value)):
            yield ast.Constant(value + 1)
        case ast.Constant(value=str(value)):
            yield ast.Constant(value + "x")
        case ast.If() | ast.While() | ast.IfExp():
            yield _with(node, test=_not(node.test))
        case ast.Return(value=ast.expr() as value) if not _is_none(value):
            yield ast.Return(value=_none())
        case ast.Assign(targets=targets, value=value):
            if not _is_none(value) and not any(isinstance(target, ast.Tuple) for target in targets):
                yield _with(node, value=_none())
            if all(isinstance(target, ast.Attribute | ast.Subscript) for target in targets):
                yield ast.Pass()
        case ast.AnnAssign(value=ast.expr() as value) if not _is_none(value):
            yield _with(node, value=_none())
        case ast.Expr(value=ast.Call()) | ast.Delete() | ast.Raise() | ast.Break() | ast.Continue():
            yield ast.Pass()
        case ast.Call():
            yield from _other_arguments(node)
        case _:
            pass


def _other_arguments(call: ast.Call) -> Iterator[ast.AST]:
    for index, value in enumerate(call.args):
        if not isinstance(value, ast.Starred) and not _is_none(value):
            yield _with(call, args=[*call.args[:index], _none(), *call.args[index + 1 :]])
    for index, keyword in enumerate(call.keywords):
        if keyword.arg is not None and keyword.arg not in _FOR_PEOPLE and not _is_none(keyword.value):
            other = ast.keyword(arg=keyword.arg, value=_none())
            yield _with(call, keywords=[*call.keywords[:index], other, *call.keywords[index + 1 :]])


def _with(node: ast.AST, **fields: Any) -> ast.AST:
    values = {name: getattr(node, name) for name in node._fields if hasattr(node, name)}
    return ast.copy_location(type(node)(**{**values, **fields}), node)


class _At(ast.NodeTransformer):
    """Makes the ``number``-th of all possible changes, in the order of a walk."""

    def __init__(self, number: int) -> None:
        self.left = number
        self.told = ""

    def visit(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.arguments | ast.JoinedStr):
            return node
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            return node  # a docstring
        for other in () if _is_cast(node) else _changes_at(node):
            if self.left == 0 and not self.told:
                self.told = _tell(node, other)
                return ast.copy_location(other, node)
            self.left -= 1
        return self._inside(node)

    def _inside(self, node: ast.AST) -> ast.AST:
        if isinstance(node, ast.Raise) or (isinstance(node, ast.keyword) and node.arg in _FOR_PEOPLE):
            return node
        if isinstance(node, ast.FunctionDef):  # one inside the function in question
            node.body = [self.visit(statement) for statement in node.body]  # type: ignore[misc]
            return node
        if isinstance(node, ast.AnnAssign):
            node.value = node.value and self.visit(node.value)  # type: ignore[assignment]
            return node
        if isinstance(node, ast.Call) and _is_cast(node):
            node.args[1] = self.visit(node.args[1])  # type: ignore[assignment]
            return node
        return self.generic_visit(node)


def _is_cast(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "cast"


def _tell(node: ast.AST, other: ast.AST) -> str:
    if isinstance(node, ast.Call) and isinstance(other, ast.Call):
        pairs = zip([*node.args, *node.keywords], [*other.args, *other.keywords], strict=True)
        (argument,) = (one for one, two in pairs if one is not two)
        return f"{_shown(argument)} given to {_shown(node.func)} becomes None"
    if isinstance(other, ast.Pass):
        return f"{_shown(node)} left out"
    if isinstance(node, ast.If | ast.While):
        return f"{type(node).__name__.lower()} {_shown(node.test)} the other way round"
    return f"{_shown(node)} becomes {_shown(other)}"


def _shown(node: ast.AST) -> str:
    text = " ".join(ast.unparse(ast.fix_missing_locations(deepcopy(node))).split())
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


@dataclass(frozen=True, slots=True)
class Change:
    """One mutant."""

    where: str
    told: str
    apply: Callable[[], object]
    function: FunctionType | None = None
    """None for a table's entry."""


class _Definition(NamedTuple):
    tree: ast.FunctionDef
    function: FunctionType
    decorates: bool
    """It runs at import, and only what it makes runs later."""


def _definitions(module: ModuleType) -> Iterator[_Definition]:
    tree = ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8"))
    decorators = {
        decorator.id
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Name)
    }
    for node in tree.body:
        owner, bodies = (getattr(module, node.name), node.body) if isinstance(node, ast.ClassDef) else (module, [node])
        for inner in bodies:
            if isinstance(inner, ast.FunctionDef) and inner.name != "__repr__":
                yield _Definition(inner, _unwrapped(owner, inner.name), inner.name in decorators)


def _unwrapped(owner: Any, name: str) -> FunctionType:
    found = vars(owner)[name]
    while not isinstance(found, FunctionType) or hasattr(found, "__wrapped__"):
        found = getattr(found, "__wrapped__", None) or getattr(found, "fget", None) or found.__func__
    return found


def functions_of(names: tuple[str, ...] = MODULES) -> list[FunctionType]:
    """Every function that can be changed."""
    return [definition.function for name in names for definition in _definitions(_module(name))]


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"livekit_agent.protocol.{name}")


def all_changes(names: tuple[str, ...] = MODULES) -> Iterator[Change]:
    """Every mutant of these modules; no two are told alike."""
    seen: dict[tuple[str, str], int] = {}
    for name in names:
        for change in _changes_of(_module(name), name):
            times = seen[change.where, change.told] = seen.get((change.where, change.told), 0) + 1
            told = change.told if times == 1 else f"{change.told} ({times})"
            yield Change(change.where, told, change.apply, change.function)


def _changes_of(module: ModuleType, name: str) -> Iterator[Change]:
    for definition, function, decorates in _definitions(module):
        for number in range(10_000):
            tree = deepcopy(definition)
            changer = _At(number)
            tree.body = [
                changer.visit(statement) if isinstance(statement, ast.FunctionDef) or not decorates else statement
                for statement in tree.body
            ]  # type: ignore[misc]
            if not changer.told:
                break
            yield Change(f"{name}.{function.__qualname__}", changer.told, _swap(function, tree), function)
    for table in ("JOB", "CONVERSATION"):
        for key, row in vars(module).get(table, {}).items() if name == "_state" else ():
            for entry in row:
                yield Change(f"{name}.{table}", f"{key.name}, {entry.name} left out", _drop(row, entry))


def _swap(function: FunctionType, tree: ast.FunctionDef) -> Callable[[], None]:
    def apply() -> None:
        tree.decorator_list, tree.args.defaults, tree.args.kw_defaults = [], [], [None for _ in tree.args.kwonlyargs]
        cells: list[ast.stmt] = [
            ast.Assign(targets=[ast.Name(id=name, ctx=ast.Store())], value=_none())
            for name in function.__code__.co_freevars
        ]
        around = ast.parse("def _around():\n    pass").body[0]
        assert isinstance(around, ast.FunctionDef)
        around.body = [*cells, tree]
        module = ast.fix_missing_locations(ast.Module(body=[around], type_ignores=[]))
        flags = __future__.annotations.compiler_flag
        code = compile(module, "<mutant>", "exec", flags=flags, dont_inherit=True)
        for inner in ("_around", tree.name):
            code = next(c for c in code.co_consts if isinstance(c, CodeType) and c.co_name == inner)
        function.__code__, before = code, function.__code__
        _remake(function.__globals__, before, code)

    return apply


def _remake(module: dict[str, Any], before: CodeType, after: CodeType) -> None:
    """What a decorator has made already is changed along with it."""
    inner = {c.co_name: c for c in after.co_consts if isinstance(c, CodeType)}
    for old in [c for c in before.co_consts if isinstance(c, CodeType)]:
        for made in module.values():
            if isinstance(made, FunctionType) and made.__code__ is old:
                made.__code__ = inner[old.co_name]


def _drop(row: dict[Any, Any], key: Any) -> Callable[[], None]:
    return lambda: row.pop(key, None)
