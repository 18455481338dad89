"""How help looks: commands and options in groups, and with each option the variable that sets it and its default.

The root command knows its subcommands only by name and one line, so that ``livekit-agent --help`` imports none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import click

__all__ = ["Command", "LazyGroup", "Option"]


class Option(click.Option):
    """An option that belongs to a section and says where else its value may come from."""

    def __init__(
        self, *args: Any, section: str = "Options", env: str = "", default_text: str = "", **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.section = section
        self.env = env
        self.default_text = default_text

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """The option's two columns."""
        record = super().get_help_record(ctx)
        if record is None:
            return None
        extra = [f"env: {self.env}"] if self.env else []
        if self.required:
            extra.append("required")
        else:
            extra.append(f"default: {self.default_text or ('no' if self.is_flag else 'none')}")
        return record[0], f"{record[1]}  [{'; '.join(extra)}]"

    def get_help_extra(self, ctx: click.Context) -> Any:
        """Nothing of click's: :meth:`get_help_record` says it."""
        return {}


class Command(click.Command):
    """A command whose help shows its options by section."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the sections, in the order in which the options were declared."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                section = parameter.section if isinstance(parameter, Option) else "Other"
                sections.setdefault(section, []).append(record)
        for section, records in sections.items():
            with formatter.section(section):
                formatter.write_dl(records)


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported when the command is used.

    ``table`` is section → command name → (``"module:attribute"``, one line of help).
    """

    def __init__(self, *args: Any, table: Mapping[str, Mapping[str, tuple[str, str]]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return [name for section in self._table.values() for name in section]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module."""
        for section in self._table.values():
            if cmd_name in section:
                module, _, attribute = section[cmd_name][0].partition(":")
                command: click.Command = getattr(import_module(module, __package__), attribute)
                return command
        return None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the table."""
        for title, section in self._table.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in section.items()])
