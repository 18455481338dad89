"""Write the generated parts of the documentation: ``python docs/generate.py``; with ``--check`` only compare.

A generated part stands between ``<!-- generated: NAME -->`` and ``<!-- end -->`` in a page that people write.  The
parts come from the code (the settings, the bounds, the command line's own help), so they cannot drift:
tests/test_docs.py runs the comparison.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from livekit_agent._bounds import BOUNDS
from livekit_agent.cli._app import app
from livekit_agent.config import SETTINGS, default_text

DOCS = Path(__file__).parent
_PART = re.compile(r"(<!-- generated: ([a-z ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_HELP_WIDTH = 100


def settings() -> str:
    """The table of the environment variables."""
    lines = ["| variable | field of `Config` | default | meaning |", "|---|---|---|---|"]
    for row in SETTINGS:
        variables = [f"`{name}`" for name in row.variables]
        variables += [f"`{name}_FILE`" for name in row.variables if row.secret]
        default = f"`{text}`" if (text := default_text(row)) else "none"
        lines.append(f"| {', '.join(variables)} | `{row.name}` | {default} | {row.help} |")
    return "\n".join(lines)


def bounds() -> str:
    """The table of the limits."""
    lines = ["| limit | value | unit | when it is reached | why |", "|---|---|---|---|---|"]
    lines += [f"| {b.name} | {b.maximum:,.15g} | {b.unit} | {b.when_full} | {b.why} |" for b in BOUNDS]
    return "\n".join(lines)


def command_line() -> str:
    """Each command's ``--help``."""
    parts: list[str] = []
    for path, command in commands(app, "livekit-agent"):
        context = click.Context(command, info_name=path, terminal_width=_HELP_WIDTH, help_option_names=["-h", "--help"])
        parts.append(f"## {path}\n\n```text\n{command.get_help(context)}\n```")
    return "\n\n".join(parts)


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    """The command and all below it."""
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command, info_name=path)
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from commands(child, f"{path} {name}")


def public_names(module: str = "") -> str:
    """The public names of a module with what their source says of them; of the package itself without one."""
    sys.path.insert(0, str(DOCS))
    import api_pages

    return api_pages.package(f"livekit_agent.{module}") if module else api_pages.chapters()


def elsewhere(file: str) -> str:
    """What became of the names of another SDK or of the library, as the tests check it."""
    sys.path.insert(0, str(DOCS.parent / "tests"))
    from coverage_tables import sections, table

    parts: list[str] = []
    for name, rows in sections(table(file)):
        parts.append(f"### {_TITLES.get(name, name.rpartition('.')[2])}\n\n| there | here | |\n|---|---|---|")
        for row in rows.values():
            key = "everything" if row.key == "*" else f"`{row.key}`"
            here = ", ".join(f"`{name}`" for name in row.names) or "not here"
            parts.append(f"| {key} | {here} | {row.note or row.out} |")
        parts.append("")
    return "\n".join(parts).rstrip()


_TITLES = {
    "names": "The names",
    "requests": "Requests",
    "events": "Events",
    "room_events": "Room events",
    "request_fields": "Fields of requests that are made",
}

PARTS: dict[str, Callable[[], str]] = {
    "settings": settings,
    "bounds": bounds,
    "command line": command_line,
    "package": public_names,
    "events": lambda: public_names("events"),
    "rooms": lambda: public_names("rooms"),
    "dispatch": lambda: public_names("dispatch"),
    "http api": lambda: public_names("api"),
    "virtual time": lambda: public_names("simulation"),
    "go": lambda: elsewhere("go"),
    "livekit rtc": lambda: elsewhere("livekit_rtc"),
    "livekit client": lambda: elsewhere("livekit_client"),
    "native library": lambda: elsewhere("library"),
}


def generated(text: str) -> str:
    """``text`` with its generated parts made anew."""
    return _PART.sub(lambda part: f"{part[1]}\n{PARTS[part[2]]()}\n\n{part[3]}", text)


def pages() -> Iterator[tuple[Path, str, str]]:
    """Each page with a generated part: its path, its text, and what that should be."""
    for path in sorted(DOCS.rglob("*.md")):
        text = path.read_text()
        if "<!-- generated: " in text:
            yield path, text, generated(text)


def main(check: bool) -> int:
    """Write the pages, or say which are stale."""
    sys.path.insert(0, str(DOCS / "design"))
    from draw_states import PAGE, page

    stale = 0
    for path, old, new in [*pages(), (PAGE, PAGE.read_text() if PAGE.exists() else "", page())]:
        if old != new:
            stale += 1
            if not check:
                path.write_text(new)
            print(f"{'stale' if check else 'written'}: {path.relative_to(DOCS)}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
