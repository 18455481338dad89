"""The rule book, executable: which module may import what, and which words may appear where.

import-linter holds the layers (``lint-imports``, contracts in pyproject.toml); these tests hold what it cannot say:
that every module is in a layer, that the pure modules import nothing that acts, and that each outside thing has one
home.  Imports under ``if TYPE_CHECKING`` do not count, imports inside functions do.
"""

from __future__ import annotations

import ast
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SRC = ROOT / "src" / "livekit_agent"
FILES = sorted(SRC.rglob("*.py"))
NAMES = [str(path.relative_to(SRC)) for path in FILES]
TREES = {name: ast.parse(path.read_text(), str(path)) for name, path in zip(NAMES, FILES, strict=True)}
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())

# No loop, clock, socket, randomness or logger of its own: time, random numbers and ids come as arguments.
FORBIDDEN_IN_PURE = {
    "anyio", "trio", "asyncio", "sniffio", "threading", "concurrent", "multiprocessing", "queue", "time", "socket",
    "ssl",
    "select", "selectors", "subprocess", "logging", "secrets", "os", "httpx", "signal", "warnings",
}  # fmt: skip

# The contract suite judges any worker over the wire, so it shares no code with what it judges: it is a program of its
# own below testing/, with its own messages, sockets and output.
JUDGE = "testing/contracts/"

# An outside thing -> the only files that may import it.  A directory stands for all below it.
HOMES: dict[str, tuple[str, ...]] = {
    "wsproto": ("protocol/_websocket.py",),
    "jwt": ("protocol/_auth.py",),
    # Agent messages in the codec; those of the Twirp services where the services are, on either side.
    "google.protobuf": (
        "protocol/_codec.py", "dispatch/_twirp.py", "dispatch/_messages.py", "dispatch/_services.py", "api/",
        "simulation/_cores.py", JUDGE,
        "rooms/_ffi.py", "rooms/_remote_wire.py",
    ),
    "livekit.protocol": (
        "protocol/_codec.py", "_types.py", "dispatch/_messages.py", "dispatch/_services.py", "api/",
        "simulation/_cores.py", JUDGE,
    ),
    "livekit.rtc": (),  # asyncio-bound and heavy; its message classes are loaded without it by rooms/_proto.py
    "ctypes": ("rooms/_ffi.py",),
    "socket": ("runtime/_transport.py", "dispatch/_server.py", JUDGE),
    "ssl": ("runtime/_transport.py", "dispatch/_server.py", "api/", JUDGE),
    "httpx": ("api/",),
    # The adapter is run by livekit-agents' interpreter, and that is asyncio's.
    "asyncio": ("simulation/_asyncio_loop.py", JUDGE + "adapters/peer.py"),
    "trio": ("simulation/_runtime.py", "testing/"),
    "signal": ("runtime/_run.py", "cli/", "simulation/", JUDGE),
    "click": ("cli/", "__main__.py"),
    "rich": ("cli/", "__main__.py"),
    "numpy": ("rooms/_frames.py", "rooms/_mixer.py", "rooms/_pcm.py", "rooms/_memory_pictures.py"),
    "psutil": ("monitoring/_probe.py",),
}  # fmt: skip

FUNCTION_LINES_MAX = 70


def is_at(name: str, homes: tuple[str, ...]) -> bool:
    return any(name == home or (home.endswith("/") and name.startswith(home)) for home in homes)


def layers() -> list[list[str]]:
    """import-linter's own list, the top first, each layer as the names of its modules or packages."""
    (contract,) = [c for c in PYPROJECT["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return [[item.strip(" ()") for item in layer.replace("|", ":").split(":")] for layer in contract["layers"]]


def dotted(name: str) -> str:
    return f"livekit_agent/{name}".removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def is_pure(name: str) -> bool:
    """Whether the file is below the events: a pure machine or a value.  WorkerOptions holds a logger, as a value."""
    (top,) = [level for level, layer in enumerate(layers()) if "livekit_agent._room_events" in layer]
    pure = [item for layer in layers()[top + 1 :] for item in layer if item != "livekit_agent._options"]
    return any(below(dotted(name), item) for item in pure)


def below(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


def _is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def walk(tree: ast.AST) -> Iterator[ast.AST]:
    """Every node that can run."""
    for node in ast.iter_child_nodes(tree):
        if _is_type_checking(node):
            assert isinstance(node, ast.If)
            for other in node.orelse:
                yield from walk(other)
            continue
        yield node
        yield from walk(node)


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute names imported: ``from a import b`` counts as ``a`` and ``a.b``."""
    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module, node.lineno
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def comments(name: str) -> dict[int, str]:
    with (SRC / name).open("rb") as file:
        return {t.start[0]: t.string for t in tokenize.tokenize(file.readline) if t.type == tokenize.COMMENT}


def commented(name: str, line: int, *, above: int) -> str:
    """The comment text at ``line``, on up to ``above`` lines before it, or on the four below it."""
    found = comments(name)
    return " ".join(found.get(at, "") for at in range(line - above, line + 5)).lower()


# ------------------------------------------------------------------------------------------------ layers


def test_every_module_is_in_a_layer() -> None:
    layered = [item for layer in layers() for item in layer]
    names = [dotted(name) for name in NAMES if not name.endswith("__init__.py")]
    # A package's own __init__ is a list of names; the modules behind them are what the layers are about.
    missing = [module for module in names if not any(below(module, home) for home in layered)]
    assert missing == [], "add them to the layers in pyproject.toml, [tool.importlinter]"


def test_the_pure_modules_are_the_ones_that_say_so() -> None:
    pure = [name for name in NAMES if is_pure(name)]
    assert {"protocol/_connection.py", "dispatch/_core.py", "rooms/_ledger.py", "_types.py"} <= set(pure)
    assert not {"runtime/_worker.py", "dispatch/_server.py", "rooms/_room.py", "config/_config.py"} & set(pure)


def test_package_roots_are_lists_of_names() -> None:
    """An ``__init__`` that computed something would be a module outside every layer."""
    allowed = (ast.Import, ast.ImportFrom, ast.Expr, ast.Assign, ast.AnnAssign, ast.If, ast.FunctionDef)
    for name in NAMES:
        if name.endswith("__init__.py"):
            odd = [type(node).__name__ for node in TREES[name].body if not isinstance(node, allowed)]
            functions = [node.name for node in TREES[name].body if isinstance(node, ast.FunctionDef)]
            assert (odd, [f for f in functions if f not in ("__getattr__", "__dir__")]) == ([], []), name


@pytest.mark.parametrize("name", [name for name in NAMES if is_pure(name)])
def test_pure_modules_import_nothing_that_acts(name: str) -> None:
    found = [
        f"{module} (line {line})" for module, line in imports(TREES[name]) if module.split(".")[0] in FORBIDDEN_IN_PURE
    ]
    assert found == []


@pytest.mark.parametrize("name", [name for name in NAMES if is_pure(name)])
def test_pure_modules_take_their_randomness_from_outside(name: str) -> None:
    """``random.Random`` as a type or an instance handed in; never the module's own functions, whose state is global."""
    used = [
        f"random.{node.attr} (line {node.lineno})"
        for node in walk(TREES[name])
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "random"
    ]
    assert [use for use in used if not use.startswith("random.Random ")] == []


@pytest.mark.parametrize("module", sorted(HOMES))
def test_each_outside_thing_has_one_home(module: str) -> None:
    strangers = [
        f"{name}:{line} imports {found}"
        for name in NAMES
        if not is_at(name, HOMES[module])
        for found, line in imports(TREES[name])
        if below(found, module)
    ]
    assert strangers == []


def test_the_reference_lists_of_this_test_name_files_that_exist() -> None:
    homes = {home for homes in HOMES.values() for home in homes}
    missing = [home for home in sorted(homes) if not (SRC / home).exists()]
    assert missing == []


# ------------------------------------------------------------------------------------------------ words


def attributes(name: str) -> Iterator[tuple[str, int]]:
    for node in walk(TREES[name]):
        if isinstance(node, ast.Attribute):
            yield ast.unparse(node), node.lineno


def test_only_config_reads_the_environment() -> None:
    readers = [
        f"{name}:{line} {text}"
        for name in NAMES
        # The judge hands its environment on to the worker that it starts.
        if not name.startswith(("config/", JUDGE))
        for text, line in attributes(name)
        if text in ("os.environ", "os.getenv", "os.putenv", "os.environb")
    ]
    assert readers == []


def test_only_the_command_line_prints() -> None:
    printers = [
        f"{name}:{node.lineno}"
        for name in NAMES
        if not name.startswith(("cli/", JUDGE)) and name != "__main__.py"
        for node in walk(TREES[name])
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert printers == []


def test_no_task_is_started_outside_a_task_group() -> None:
    starters = [
        f"{name}:{node.lineno}"
        for name in NAMES
        for node in walk(TREES[name])
        if isinstance(node, ast.Attribute | ast.Name)
        and (node.attr if isinstance(node, ast.Attribute) else node.id)
        in ("create_task", "ensure_future", "spawn_system_task", "run_coroutine_threadsafe")
    ]
    # Virtual time is made below the task groups: its loop starts what a loop starts.
    below_task_groups = ("simulation/_asyncio_loop.py", "simulation/_runtime.py")
    assert [at for at in starters if not at.startswith(below_task_groups)] == []


def _sets(tree: ast.AST) -> set[str]:
    """Names and attributes that are annotated, or plainly assigned, as sets."""
    found: set[str] = set()
    for node in walk(tree):
        if isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation).split("[")[0] in ("set", "frozenset"):
            found.add(ast.unparse(node.target))
        elif isinstance(node, ast.Assign) and _is_set(node.value, found):
            found.update(ast.unparse(target) for target in node.targets)
    return found


def _is_set(node: ast.AST, names: set[str]) -> bool:
    if isinstance(node, ast.Set | ast.SetComp):
        return True
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.func.id in ("set", "frozenset")
    return isinstance(node, ast.Name | ast.Attribute) and ast.unparse(node) in names


@pytest.mark.parametrize("name", NAMES)
def test_no_set_is_iterated(name: str) -> None:
    """Set order differs from run to run; where it can be seen, a seed no longer reproduces.  dict or sorted instead."""
    names = _sets(TREES[name])
    loops = [node for node in walk(TREES[name]) if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension)]
    assert [ast.unparse(node.iter) for node in loops if _is_set(node.iter, names)] == []


@pytest.mark.parametrize("name", NAMES)
def test_a_broad_except_is_a_named_boundary(name: str) -> None:
    """Only where foreign code ends may everything be caught, and a comment says which boundary or safety net it is."""
    broad = [
        node.lineno
        for node in walk(TREES[name])
        if isinstance(node, ast.ExceptHandler)
        and (
            node.type is None
            or {"Exception", "BaseException"} & {n.id for n in ast.walk(node.type) if isinstance(n, ast.Name)}
        )
        and not isinstance(node.body[-1], ast.Raise)
    ]
    assert [f"{name}:{line}" for line in broad if not _is_named(commented(name, line, above=3))] == []


def _is_named(comment: str) -> bool:
    return "boundary" in comment or "safety net" in comment


@pytest.mark.parametrize("name", NAMES)
def test_every_shield_says_what_it_protects(name: str) -> None:
    shields = [
        node.lineno
        for node in walk(TREES[name])
        if isinstance(node, ast.keyword)
        and node.arg == "shield"
        and not (isinstance(node.value, ast.Constant) and node.value.value is False)
    ]
    assert [f"{name}:{line}" for line in shields if not commented(name, line, above=6).strip()] == []


@pytest.mark.parametrize("name", NAMES)
def test_functions_fit_a_screen(name: str) -> None:
    long = []
    for node in walk(TREES[name]):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[1] if ast.get_docstring(node, clean=False) and len(node.body) > 1 else node.body[0]
            lines = (node.end_lineno or 0) - first.lineno + 1
            if lines > FUNCTION_LINES_MAX:
                long.append(f"{name}: {node.name} has {lines} lines")
    assert long == []


@pytest.mark.parametrize("name", [name for name in NAMES if not name.endswith("__init__.py")])
def test_every_module_opens_with_its_theory(name: str) -> None:
    assert len(ast.get_docstring(TREES[name]) or "") >= 20, f"{name} has no docstring that says what it is about"


LIMIT_WORDS = {"MAX", "LIMIT", "CAP", "TIMEOUT", "BUDGET", "DEADLINE", "PAUSE"}


def constants(name: str) -> Iterator[tuple[str, int]]:
    """What a module gives a name in capitals."""
    for node in TREES[name].body:
        targets = (
            node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        )
        for target in targets:
            for one in target.elts if isinstance(target, ast.Tuple) else [target]:
                if isinstance(one, ast.Name) and one.id.isupper():
                    yield one.id, node.lineno


def test_limits_are_in_the_table_of_limits_and_nowhere_else() -> None:
    """By their names, and by what bounds a deque or a scope."""
    named = [
        f"{name}:{line} {constant}"
        for name in NAMES
        if name != "_bounds.py" and not name.startswith(JUDGE)
        for constant, line in constants(name)
        if LIMIT_WORDS & set(constant.split("_"))
    ]
    literal = [
        f"{name}:{node.lineno} {ast.unparse(node)}"
        for name in NAMES
        if not name.startswith(JUDGE)
        for node in walk(TREES[name])
        if isinstance(node, ast.Call)
        for value in _limiting(node)
        if isinstance(value, ast.Constant) and isinstance(value.value, int | float)
    ]
    assert named + literal == [], "they belong in _bounds.py, with what happens when they are reached"


def _limiting(call: ast.Call) -> list[ast.expr]:
    """The arguments of a call that bound something."""
    scopes = ("fail_after", "move_on_after", "CapacityLimiter", "create_memory_object_stream")
    first = call.args[:1] if isinstance(call.func, ast.Attribute) and call.func.attr in scopes else []
    return first + [keyword.value for keyword in call.keywords if keyword.arg in ("maxlen", "maxsize", "timeout")]


def test_every_constant_of_the_table_of_limits_has_its_row() -> None:
    (rows,) = [node for node in TREES["_bounds.py"].body if isinstance(node, ast.AnnAssign)]
    used = {node.id for node in ast.walk(rows) if isinstance(node, ast.Name)}
    assert [name for name, _ in constants("_bounds.py") if name not in used | {"KIB", "MIB", "BOUNDS"}] == []


def test_every_bound_has_a_test_of_what_happens_when_it_is_reached() -> None:
    """The table is tests/test_bounds.py's: a new row of ``_bounds`` needs a line there."""
    from livekit_agent._bounds import BOUNDS
    from test_bounds import WHEN_FULL

    assert sorted(WHEN_FULL) == sorted(bound.name for bound in BOUNDS)
