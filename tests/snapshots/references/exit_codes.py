"""docs/reference/exit-codes.md, from `gapgate.errors`."""

from __future__ import annotations

from collections.abc import Iterator

from gapgate.errors import EXIT_CODES, GapgateError
from tests.snapshots.references.tables import code, page, table


def markdown() -> str:
    """The page of exit codes, and of the kinds of error behind them."""
    return page(
        [
            "# Exit codes",
            "",
            "Every command ends with one of these, so a script can tell a model that did not pass from a mistake.",
            *table(("code", "meaning"), [(str(number), f"{text}.") for number, text in EXIT_CODES.items()]),
            "An error is one line on standard error: the value, the limit and the remedy. Its kinds, as the classes of",
            "`gapgate.errors` that a Python program can catch:",
            *table(
                ("error", "code", "what it is"),
                [(code(kind.__name__), str(kind.exit_code), _meaning(kind)) for kind in _tree(GapgateError)],
            ),
            "What to do about a message is in [troubleshooting](../troubleshooting.md).",
        ]
    )


def _tree(kind: type[GapgateError]) -> Iterator[type[GapgateError]]:
    """A class and those below it that `gapgate.errors` has, in the order of the file."""
    yield kind
    for below in kind.__subclasses__():
        if below.__module__ == GapgateError.__module__:
            yield from _tree(below)


def _meaning(kind: type[GapgateError]) -> str:
    return " ".join((kind.__doc__ or "").partition("`str(")[0].split())
