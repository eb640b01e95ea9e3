"""docs/reference/environment.md, from `gapgate.variables` and the options of the server."""

from __future__ import annotations

from gapgate.variables import INTERNAL, VARIABLES
from serving.options import table as options
from tests.snapshots.references.tables import code, page, table


def markdown() -> str:
    """The page of environment variables."""
    return page(
        [
            "# Environment variables",
            "",
            "## Commands and steps",
            *table(("variable", "meaning"), [(code(name), meaning) for name, meaning in VARIABLES.items()]),
            "Beside these, those of git, DVC and its remotes (such as `AWS_ACCESS_KEY_ID`) and MLflow work as they",
            "always do. Gapgate sets for its own processes, and nobody else should: "
            + ", ".join(map(code, sorted(INTERNAL)))
            + ".",
            "",
            "## The prediction service",
            "",
            "Each is an option of the server, of a container of the Bento too. A `GAPGATE_*` variable that nothing",
            "reads is named at start, with the one that is like it.",
            *table(
                ("variable", "default", "meaning"),
                [(code(name), code(default), meaning) for name, default, meaning in options()],
            ),
        ]
    )
