"""Telling what happens: to a person as lines with a time and an actor, to a program as JSON objects, one a line."""

from __future__ import annotations

import json
import sys
from typing import Any, Protocol

import anyio

from .._errors import redact

__all__ = ["HumanStory", "JsonStory", "Story", "open_story"]

_COLOURS = {"server": "blue", "room": "magenta", "participant": "green", "publisher": "yellow"}


class Story(Protocol):
    """Somebody to tell to."""

    def begin(self, title: str, text: str) -> None:
        """A heading; a program needs none."""
        ...

    def tell(self, event: str, actor: str, text: str, /, **fields: Any) -> None:
        """``event`` and ``fields`` are for programs, ``actor`` and ``text`` for people."""
        ...

    def end(self, text: str, /, **fields: Any) -> None:
        """The summary."""
        ...


class JsonStory:
    """One object a line with ``event``, ``t`` (seconds since the start) and that event's fields."""

    def __init__(self) -> None:
        self._start = anyio.current_time()

    def begin(self, title: str, text: str) -> None:
        """Nothing."""

    def tell(self, event: str, actor: str, text: str, /, **fields: Any) -> None:
        """Write the object."""
        line = {"event": event, "t": round(anyio.current_time() - self._start, 3), **fields}
        print(redact(json.dumps(line)), flush=True)

    def end(self, text: str, /, **fields: Any) -> None:
        """Write the last object."""
        self.tell("summary", "", text, **fields)


class HumanStory:
    """Lines that say when, who and what, in colour where the terminal has any."""

    def __init__(self) -> None:
        from rich.console import Console

        self._console = Console(file=sys.stdout, highlight=False, soft_wrap=True)
        self._start = anyio.current_time()

    def begin(self, title: str, text: str) -> None:
        """Write a heading and a line below it."""
        from rich.markup import escape

        self._console.print(f"[bold]{escape(title)}[/]\n[dim]{escape(text)}[/]\n")

    def tell(self, event: str, actor: str, text: str, /, **fields: Any) -> None:
        """Write the line."""
        from rich.markup import escape

        colour = _COLOURS.get(actor.split()[0], "cyan")
        elapsed = anyio.current_time() - self._start
        self._console.print(f"[dim]{elapsed:5.2f} s[/]  [{colour}]{escape(actor):<18}[/] {escape(redact(text))}")

    def end(self, text: str, /, **fields: Any) -> None:
        """Write the last words."""
        from rich.markup import escape

        mark = "[bold green]ok[/]" if fields.get("ok") else "[bold red]failed[/]"
        self._console.print(f"\n{mark}  {escape(text)}")


def open_story(as_json: bool) -> Story:
    """The right one."""
    return JsonStory() if as_json else HumanStory()
