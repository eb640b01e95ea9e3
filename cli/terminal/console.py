"""The console of every command."""

from __future__ import annotations

from typing import Any

import rich.console
from rich.text import Text

from gapgate.text import printable_lines


class Console(rich.console.Console):
    """Rich's console, to which no name, log or answer of a server can give an escape sequence."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Render what is printed as a string, and each string in a table."""
        return super().render_str(printable_lines(text), **options)
