"""`gapgate settings`: every setting with its values, default and meaning."""

from __future__ import annotations

from typing import Annotated

from rich.markup import escape
from rich.padding import Padding

from cli.options import argument
from cli.terminal.console import Console
from gapgate.errors import SettingsError


def settings(
    name: Annotated[
        str,
        argument(metavar="NAME", help="A setting, a section, or the beginning of names."),
    ] = "",
) -> None:
    """List the settings of `params.yaml` and `--set`: values, default and meaning."""
    from gapgate.settings.described import groups
    from gapgate.settings.parsing import nearest

    console = Console(highlight=False)
    found = groups()
    shown = [
        (group, [setting for setting in group.settings if setting.name.startswith(name)])
        for group in found
        if not name or group.name.startswith(name) or any(setting.name.startswith(name) for setting in group.settings)
    ]
    if not shown:
        raise SettingsError(f"there is no setting {name}; {nearest(name)}")
    for group, members in shown:
        console.print(f"\n[bold]{group.name}[/]  {escape(group.meaning)}")
        for setting in members:
            default = f", by default {escape(setting.default)}" if setting.default else ", must be given"
            console.print(Padding(f"[cyan]{setting.name}[/]  {escape(setting.values)}{default}", (0, 0, 0, 2)))
            console.print(Padding(f"[dim]{escape(setting.meaning)}[/]", (0, 0, 0, 6)))
