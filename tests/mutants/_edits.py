"""How a mutant changes the program while it runs, and that nothing of it stays.

Three kinds of edit: a line of a method, a row of a table, a name of a module.  Each must find what it replaces, and the
replacement must differ: a mutant that no longer applies raises :class:`DoesNotApply` instead of passing for one that
nobody caught.

A method is changed by giving its function object other code, compiled from its edited source, rather than by putting
another function into its class: tables such as ``_HEARERS`` hold the function itself.  The code keeps its qualified
name, by which the simulation knows shields.
"""

from __future__ import annotations
import __future__

import inspect
import textwrap
from collections.abc import Generator, Iterable, MutableMapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import CodeType, FunctionType
from typing import Any, Protocol

__all__ = ["DoesNotApply", "Edit", "Line", "Name", "Row", "applied"]

_PACKAGE = "livekit_agent."


class DoesNotApply(Exception):
    """The source has changed under a mutant: what it replaces is not there any more, or is the replacement already."""


class Edit(Protocol):
    """A change that is undone when its block is left."""

    def made(self) -> Any:
        """A context manager."""
        ...


def _find(target: str) -> tuple[Any, str, Any]:
    """Owner, attribute and value of ``module:Class.attribute``."""
    module, _, path = target.partition(":")
    owner: Any = import_module(_PACKAGE + module)
    *outer, name = path.split(".")
    try:
        for part in outer:
            owner = getattr(owner, part)
        return owner, name, inspect.getattr_static(owner, name)
    except AttributeError:
        raise DoesNotApply(f"there is no {target}") from None


@dataclass(frozen=True, slots=True)
class Line:
    """In a function's source, ``old`` becomes ``new``; it must occur there exactly once."""

    target: str
    old: str
    new: str

    @contextmanager
    def made(self) -> Generator[None]:
        """Inside the block the function does the other thing."""
        function = self.function()
        before = function.__code__
        function.__code__ = self._code(function)
        try:
            yield
        finally:
            _texts.pop(id(function.__code__), None)
            function.__code__ = before

    def function(self) -> FunctionType:
        """What is changed."""
        found = _find(self.target)[2]
        while not isinstance(found, FunctionType):
            inner = getattr(found, "fget", None) or getattr(found, "__func__", None)
            if inner is None:
                raise DoesNotApply(f"{self.target} is no function")
            found = inner
        return found

    def _code(self, function: FunctionType) -> CodeType:
        source = _texts.get(id(function.__code__)) or textwrap.dedent(inspect.getsource(function))
        if source.count(self.old) != 1 or self.new == self.old:
            raise DoesNotApply(f"{self.target}: {source.count(self.old)} times {self.old!r}")
        text = source.replace(self.old, self.new)
        text = text[text.index("async def" if inspect.iscoroutinefunction(function) else "def") :]  # no decorator
        # Inside a function that binds what the original closes over (``__class__`` where it calls super()).
        cells = "".join(f"    {name} = None\n" for name in function.__code__.co_freevars)
        text = f"def _around():\n{cells}{textwrap.indent(text, '    ')}\n    return {function.__name__}\n"
        flags = __future__.annotations.compiler_flag
        whole = compile(text, f"<mutant of {self.target}>", "exec", flags=flags, dont_inherit=True)
        code = _code_named(whole, function.__name__)
        if code.co_freevars != function.__code__.co_freevars:
            raise DoesNotApply(f"{self.target} closes over other names than before")
        code = code.replace(co_qualname=function.__code__.co_qualname)
        _texts[id(code)] = source.replace(self.old, self.new)
        return code


#: The text of code that was made here, by its id, for a second edit of the same function.
_texts: dict[int, str] = {}


def _code_named(whole: CodeType, name: str) -> CodeType:
    around = next(const for const in whole.co_consts if isinstance(const, CodeType))
    return next(const for const in around.co_consts if isinstance(const, CodeType) and const.co_name == name)


@dataclass(frozen=True, slots=True)
class Row:
    """In the table (or the row of a table) at ``target``, ``key`` has another value, or none (``Row.GONE``)."""

    target: str
    keys: tuple[Any, ...]
    value: Any

    @contextmanager
    def made(self) -> Generator[None]:
        """Inside the block the table has the other row."""
        table: MutableMapping[Any, Any] = _find(self.target)[2]
        *outer, key = self.keys
        try:
            for part in outer:
                table = table[part]
        except KeyError:
            raise DoesNotApply(f"{self.target} has no row {outer}") from None
        before = dict(table)
        if before.get(key, GONE) == self.value:
            raise DoesNotApply(f"{self.target}: {key} is {self.value} already")
        if self.value is GONE:
            del table[key]
        else:
            table[key] = self.value
        try:
            yield
        finally:
            table.clear()
            table.update(before)  # in their order


GONE = object()
"""As the value of a row: there is none."""


@dataclass(frozen=True, slots=True)
class Name:
    """A module's name (a bound, as that module sees it) has another value."""

    target: str
    value: Any

    @contextmanager
    def made(self) -> Generator[None]:
        """Inside the block the name means something else."""
        owner, name, before = _find(self.target)
        if before == self.value:
            raise DoesNotApply(f"{self.target} is {self.value!r} already")
        setattr(owner, name, self.value)
        try:
            yield
        finally:
            setattr(owner, name, before)


@contextmanager
def applied(edits: Iterable[Edit]) -> Generator[None]:
    """Inside the block all of them are made."""
    with ExitStack() as stack:
        for edit in edits:
            stack.enter_context(edit.made())
        yield
