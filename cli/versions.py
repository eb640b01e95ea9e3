"""`gapgate receipt`, `models`, `promote` and `rollback`: receipts, and versions in the registry."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cli.options import DEFAULT_MODEL, ModelName
from gapgate.errors import ArtifactError, RegistryError


def receipt(
    digest: Annotated[str, typer.Argument(help="The receipt's digest, or its first characters (6 or more).")],
) -> None:
    """Resolve a receipt: model version, MLflow run, data, code, splits, settings."""
    from components.platform.workspace import receipts_dir
    from gapgate import artifacts
    from gapgate.evidence.receipt import verify

    prefix = digest.removeprefix("sha256:").lower()
    # `isalnum` also keeps the wildcards of glob out of the pattern.
    found = sorted(receipts_dir().glob(f"{prefix}*.json")) if len(prefix) >= 6 and prefix.isalnum() else []
    if not found:
        raise RegistryError(f"no receipt {digest} in {receipts_dir()}; give 6 or more of its first characters")
    if len(found) > 1:
        raise RegistryError(f"{len(found)} receipts begin with {digest}; give more of its characters")
    try:
        # The file's name is the digest, so a changed file is found by hashing its content.
        verify(artifacts.read_json(found[0]), f"sha256:{found[0].stem}")
    except (ArtifactError, ValueError) as error:
        raise RegistryError(f"{found[0]} was changed since it was written: {' '.join(str(error).split())}") from None
    console = Console()
    console.print(f"[bold]sha256:{found[0].stem}[/]  content checked", soft_wrap=True)
    console.print_json(found[0].read_text(), sort_keys=False)


def models(name: ModelName = "") -> None:
    """List registered versions with aliases and verdicts."""
    from components.platform.mlflow_registry import Registry

    registry = Registry()
    table = Table(
        "model", "version", "alias", "verdict", "test accuracy", "gap, points", "run", box=None, header_style="bold"
    )
    for model in [name] if name else registry.names():
        for row in registry.versions(model):
            accuracy, gap = (row.tags.get(f"gapgate.{key}", "") for key in ("test_accuracy", "gap_points"))
            table.add_row(
                row.name,
                row.version,
                ", ".join(row.aliases),
                row.verdict,
                f"{float(accuracy):.2%}" if accuracy else "",
                f"{float(gap):.2f}" if gap else "",
                row.tags.get("gapgate.run", ""),
            )
    console = Console()
    if table.row_count:
        console.print(table)
    else:
        console.print("no model is registered yet; `gapgate run` registers one")


def promote(
    version: Annotated[str, typer.Argument(help="The version to serve.")], name: ModelName = DEFAULT_MODEL
) -> None:
    """Make a version the champion; its certificate must have passed."""
    from components.platform.mlflow_registry import Registry, promotion_lock

    registry = Registry()
    with promotion_lock(name):
        previous = registry.promote(registry.find(name, version))
    before = f" (before: version {previous.version})" if previous and previous.version != version else ""
    Console().print(f"champion of {escape(name)} is version {version}{before}")


def rollback(name: ModelName = DEFAULT_MODEL) -> None:
    """Make the previous champion the champion again."""
    from components.platform.mlflow_registry import Registry, promotion_lock

    with promotion_lock(name):
        was, now = Registry().rollback(name)
    Console().print(f"champion of {escape(name)} is version {now.version} again (was {was.version})")
