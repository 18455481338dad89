"""The pages that list a package's public names: what the source says of each, with its signature.

Read from the source and not from the objects: a default then stands as it was written (``math.inf``, not ``inf``), and
a field's own docstring is there too.  ``generate.py`` puts the result into the pages; tests/test_docs.py fails when a
page is stale, when a public name is on none, or when one has nothing to say.
"""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

#: Chapters of the package's own names.  ``events`` has a part of its own, and the errors have a page of theirs.
CHAPTERS: dict[str, tuple[str, ...]] = {
    "The worker": (
        "UniversalWorker", "WorkerOptions", "run", "WorkerStatus", "WorkerStats", "ShutdownReport", "ServerRooms",
    ),
    "Handlers": ("UniversalHandler", "BaseHandler", "SimpleUniversalHandler", "JobMetadata", "Reject"),
    "Jobs": (
        "JobContext", "Job", "JobType", "JobStatus", "JobState", "RoomInfo", "ParticipantInfo",
        "ParticipantPermissions", "AutoSubscribe", "ConnectionQuality", "CancelReason",
    ),
    "Load": ("LoadCalculator", "DefaultLoadCalculator", "LoadParts", "CustomLoadCalculator"),
    "Configuration": (
        "Config", "load_config_from_env", "validate_config", "get_env", "get_env_int", "get_env_duration",
        "get_env_bool", "parse_duration",
    ),
}  # fmt: skip

#: Classes whose objects are handed out: how they are made is nobody's business.
HANDED_OUT = (
    "JobContext", "LocalDataTrack", "LocalParticipant", "LocalTrack", "LocalTrackPublication", "MediaStream",
    "Participant", "PreconnectListener", "RemoteDataTrack", "RemoteParticipant", "RemoteTrack",
    "RemoteTrackPublication", "Room", "RoomEncryption", "RpcRegistration", "RpcServer", "ScreenCapture", "SourceStream",
    "Speaker", "StreamListener", "Subscription",
)  # fmt: skip

_ROLE = re.compile(r":(class|func|meth|attr|data):`~?([^`]+)`")
_PARAMETER = re.compile(r"^:param (\w+): ", re.MULTILINE)
#: What is public for other files of ours only.
_INSIDE = re.compile(r"called by (the|whoever)|the library's message", re.IGNORECASE)
_LINE = 100
_Function = ast.FunctionDef | ast.AsyncFunctionDef
_Statement = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef | ast.Assign


class Member(NamedTuple):
    """A public field, property or method of a class."""

    name: str
    text: str
    """As it would be written: with the arguments, or the type and the default."""
    doc: str
    is_field: bool


def chapters() -> str:
    """The package ``livekit_agent``, by chapter."""
    parts: list[str] = []
    for title, names in CHAPTERS.items():
        parts += [f"## {title}", *(described("livekit_agent", name) for name in names)]
    return "\n\n".join(parts)


def package(module: str) -> str:
    """All public names of another module, in the order of its files and their lines."""
    return "\n\n".join(described(module, name) for name in public(module))


def public(module: str) -> list[str]:
    """Its public names, those that stand together in the source together."""
    pages = [Source(module, name) for name in import_module(module).__all__]
    return [page.name for page in sorted(pages, key=lambda page: (page.home, page.node.lineno))]


def described(module: str, name: str) -> str:
    """One public name: its heading, its text, its members."""
    page = Source(module, name)
    node = page.node
    if isinstance(node, ast.Assign):
        return f"### {name}\n\n```text\n{page.written(node)}\n```\n\n{marked(page.doc)}".rstrip()
    if not isinstance(node, ast.ClassDef):
        return "\n\n".join([f"### {name}", page.call(node, page.word(node) + name), marked(page.doc)])
    hidden = [base.name for base in page.hidden]
    shown = [page.written(base) for base in node.bases if page.written(base).partition("[")[0] not in hidden]
    bases = ", ".join(f"`{base}`" for base in shown)
    parts = [f"### {name}" + (f" ({bases})" if bases else "")]
    parts += [page.call(part, name) for part in node.body if is_constructor(part) and name not in HANDED_OUT]
    parts += [marked(page.doc), "\n".join(item(member) for member in page.members())]
    return "\n\n".join(part for part in parts if part)


def unexplained(module: str, name: str) -> Iterator[str]:
    """What of a public name says nothing of itself: fields may, their names are words."""
    page = Source(module, name)
    if not page.doc:
        yield name
    yield from (f"{name}.{member.name}" for member in page.members() if not member.is_field and not member.doc)


@cache
def parsed(module: str) -> tuple[str, ast.Module]:
    text = Path(import_module(module).__file__ or "").read_text("utf-8")
    return text, ast.parse(text)


def home_of(module: str, name: str) -> str:
    """The module that a public name is written in: followed from one import to the next."""
    home = import_module(module)
    tree = parsed(module)[1]
    if any(defined(node) == name for node in tree.body):
        return module
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            package = (home.__package__ or "").rsplit(".", node.level - 1)[0]
            source = f"{package}.{node.module}" if node.module else package
            names = {word for alias in node.names for word in (alias.asname, alias.name)}
            if name in names or ("*" in names and name in import_module(source).__all__):
                return home_of(source, name)
    raise LookupError(f"{module} does not say where {name} is from")


class Source:
    """The source of one public name."""

    def __init__(self, module: str, name: str) -> None:
        self.name = name
        self.home = home_of(module, name)
        self.text, tree = parsed(self.home)
        place = next(place for place, node in enumerate(tree.body) if defined(node) == name)
        node = tree.body[place]
        assert isinstance(node, _Statement)
        self.node: _Statement = node
        self.doc = self.comment(node) if isinstance(node, ast.Assign) else ast.get_docstring(node) or ""
        self.hidden: list[Source] = []
        """Base classes that are not public, whose members are this one's."""
        for base in node.bases if isinstance(node, ast.ClassDef) else ():
            word = self.written(base).partition("[")[0]
            if word not in import_module(module).__all__ and hasattr(import_module(self.home), word):
                with suppress(LookupError):
                    self.hidden.append(Source(self.home, word))

    def comment(self, node: ast.stmt) -> str:
        """The comment above an alias, which has no docstring."""
        lines = self.text.splitlines()[: node.lineno - 1]
        return " ".join(line.removeprefix("#:").strip() for line in lines[-1:] if line.startswith("#:"))

    def written(self, node: ast.AST | None) -> str:
        """As it stands in the source, in one line."""
        return " ".join((ast.get_source_segment(self.text, node) or "").split()) if node is not None else ""

    def call(self, node: ast.stmt, name: str) -> str:
        """A function's first line, with an argument a line where it would be long."""
        assert isinstance(node, _Function)
        arguments, returns = list(self.arguments(node)), self.returns(node)
        line = f"{name}({', '.join(arguments)}){returns}"
        if len(line) > _LINE:
            line = "\n".join([f"{name}(", *(f"    {each}," for each in arguments), f"){returns}"])
        return f"```text\n{line}\n```"

    def members(self) -> Iterator[Member]:
        """The public fields, enum members, properties and methods, in the order of the source."""
        own = [member for member in self.own_members() if not _INSIDE.search(member.doc)]
        names = {member.name for member in own}
        yield from (member for base in self.hidden for member in base.members() if member.name not in names)
        yield from own

    def own_members(self) -> Iterator[Member]:
        body = self.node.body if isinstance(self.node, ast.ClassDef) else []
        for part, following in zip(body, [*body[1:], None], strict=False):
            if isinstance(part, ast.AnnAssign | ast.Assign):
                yield from self.field(part, following)
            elif is_constructor(part):
                yield from self.attributes(part)
            elif isinstance(part, _Function) and not part.name.startswith("_"):
                yield from self.method(part)

    def method(self, part: _Function) -> Iterator[Member]:
        decorators = {self.written(each).rpartition(".")[2] for each in part.decorator_list}
        if decorators & {"overload", "setter"}:
            return
        owner = f"{self.name}." if decorators & {"classmethod", "staticmethod"} else ""
        text = f"{self.word(part)}{owner}{part.name}({', '.join(self.arguments(part))}){self.returns(part)}"
        if decorators & {"property", "cached_property"}:
            text = f"{part.name}: {self.written(part.returns)}"
        yield Member(part.name, text, ast.get_docstring(part) or "", is_field=False)

    def attributes(self, init: ast.stmt) -> Iterator[Member]:
        """Public attributes that a constructor sets and explains."""
        assert isinstance(init, _Function)
        for part, following in zip(init.body, init.body[1:], strict=False):
            target = part.targets[0] if isinstance(part, ast.Assign) else getattr(part, "target", None)
            if isinstance(target, ast.Attribute) and not target.attr.startswith("_") and docstring(following):
                yield Member(target.attr, target.attr + self.type_of(part), docstring(following), is_field=True)

    def field(self, part: ast.AnnAssign | ast.Assign, following: ast.stmt | None) -> Iterator[Member]:
        target = part.target if isinstance(part, ast.AnnAssign) else part.targets[0]
        if not isinstance(target, ast.Name) or target.id.startswith("_"):
            return
        default: ast.expr | None = part.value
        if isinstance(default, ast.Call) and self.written(default.func) == "field":
            default = next((word.value for word in default.keywords if word.arg == "default"), None)
        text = target.id + self.type_of(part) + (f" = {self.written(default)}" if default is not None else "")
        yield Member(target.id, text, docstring(following), is_field=True)

    def type_of(self, part: ast.stmt) -> str:
        return f": {self.written(part.annotation)}" if isinstance(part, ast.AnnAssign) else ""

    def word(self, part: _Function) -> str:
        """What stands before the call: a context manager is made by a generator, which nobody sees."""
        decorators = {self.written(each).rpartition(".")[2] for each in part.decorator_list}
        blocks = {"contextmanager": "with ", "asynccontextmanager": "async with "}
        plain = "await " if isinstance(part, ast.AsyncFunctionDef) else ""
        return next((word for name, word in blocks.items() if name in decorators), plain)

    def returns(self, part: _Function) -> str:
        if part.returns is None or part.name == "__init__":
            return ""
        written = self.written(part.returns)
        made = (
            re.fullmatch(r"(?:Async)?(?:Generator|Iterator)\[(.*)\]", written) if "with " in self.word(part) else None
        )
        return f" as {made[1].removesuffix(', None')}" if made is not None else f" -> {written}"

    def arguments(self, part: _Function) -> Iterator[str]:
        """Each argument but ``self``, as it would be written."""
        given = part.args
        plain = [*given.posonlyargs, *given.args]
        defaults = [None] * (len(plain) - len(given.defaults)) + list(given.defaults)
        last = given.posonlyargs[-1] if given.posonlyargs else None
        for each, default in zip(plain, defaults, strict=True):
            if each is not plain[0] or each.arg not in ("self", "cls"):
                yield self.argument(each, default)
            if each is last and each.arg not in ("self", "cls"):
                yield "/"
        if given.vararg:
            yield f"*{self.argument(given.vararg, None)}"
        elif given.kwonlyargs:
            yield "*"
        for each, default in zip(given.kwonlyargs, given.kw_defaults, strict=True):
            yield self.argument(each, default)
        if given.kwarg:
            yield f"**{self.argument(given.kwarg, None)}"

    def argument(self, given: ast.arg, default: ast.expr | None) -> str:
        text = given.arg + (f": {self.written(given.annotation)}" if given.annotation is not None else "")
        if default is None:
            return text
        return (
            f"{text} = {self.written(default)}" if given.annotation is not None else f"{text}={self.written(default)}"
        )


def defined(node: ast.stmt) -> str:
    """What a statement of a module defines."""
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
        return node.targets[0].id
    return node.name if isinstance(node, ast.ClassDef | _Function) else ""


def is_constructor(part: ast.stmt) -> bool:
    return isinstance(part, _Function) and part.name == "__init__"


def docstring(part: ast.stmt | None) -> str:
    """The text that stands behind a field."""
    if isinstance(part, ast.Expr) and isinstance(part.value, ast.Constant) and isinstance(part.value.value, str):
        return inspect.cleandoc(part.value.value)
    return ""


def item(member: Member) -> str:
    """One member as an item of a list."""
    text = " ".join(marked(member.doc).split())
    return f"- `{member.text}`" + (f": {text}" if text else "")


def marked(doc: str) -> str:
    """A docstring as Markdown: roles and literals as code, parameters as a list, blocks of code fenced."""
    doc = _ROLE.sub(lambda m: f"`{m[2].rpartition('.')[2]}{'()' if m[1] in ('func', 'meth') else ''}`", doc)
    doc = _PARAMETER.sub(r"- `\1`: ", doc.replace("``", "`"))
    parts: list[str] = []
    code: list[str] = []
    for paragraph in [*re.split(r"\n\s*\n", doc), ""]:
        if paragraph.startswith("    ") and parts and parts[-1].endswith("::"):
            code.append(textwrap.dedent(paragraph))
            continue
        if code:
            parts[-1] = parts[-1].removesuffix("::").rstrip() + (":" if parts[-1].rstrip(":").strip() else "")
            parts.append("```text\n" + "\n\n".join(code) + "\n```")
            code = []
        parts.append(paragraph)
    return "\n\n".join(part for part in parts if part)
