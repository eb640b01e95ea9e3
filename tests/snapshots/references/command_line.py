"""docs/reference/cli.md: each command with its arguments and options, from the command line itself."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

import typer

from cli import app
from tests.snapshots.references.tables import code, page, table

ALONE = "On this machine"
_STYLE = re.compile(r"\[/?[a-z ]*\]")


def markdown() -> str:
    """The page of all commands."""
    commands = [*_commands(typer.main.get_command(app), "gapgate")]
    lines = [
        "# Commands",
        "",
        "As `gapgate --help` and `gapgate COMMAND --help` print them. `gapgate --version` prints the version.",
        "What a command ends with is in [exit codes](exit-codes.md).",
    ]
    for panel in dict.fromkeys(panel for _, _, panel in commands):
        rows = [
            (f"[`{name}`](#{name.replace(' ', '-')})", _first_sentence(command))
            for name, command, of in commands
            if of == panel
        ]
        lines += ["", f"**{panel}**", *table(("command", "what it does"), rows)]
    for name, command, _ in commands:
        lines += ["", f"## {name}", "", *_described(name, command)]
    return page(lines)


def _commands(group: Any, name: str) -> Iterator[tuple[str, Any, str]]:
    """(name, command, panel of the help), subcommands in the place of their group."""
    for word, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{name} {word}")
        else:
            yield f"{name} {word}", command, getattr(command, "rich_help_panel", None) or ALONE


def _described(name: str, command: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name)
    yield f"`{name} {' '.join(command.collect_usage_pieces(context))}`"
    yield ""
    yield from _plain(command.help).split("\n")
    records = (parameter.get_help_record(context) for parameter in command.params if parameter.name != "help")
    rows = [(code(names), _one_line(_plain(meaning))) for names, meaning in filter(None, records)]
    if rows:
        yield from table(("argument or option", "meaning"), rows)


def _first_sentence(command: Any) -> str:
    return _one_line(_plain(command.help).partition("\n\n")[0])


def _plain(text: str | None) -> str:
    return _STYLE.sub("", inspect.cleandoc(text or "")).replace("<", "&lt;")  # a page would take it for a tag


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
