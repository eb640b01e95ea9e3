"""`gapgate receipt`, `models`, `promote` and `rollback`: receipts, and versions in the registry."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cli.options import DEFAULT_MODEL, Key, ModelName, close_killed_runs, option
from cli.terminal.console import Console
from gapgate.errors import ArtifactError, RegistryError, ServeError
from gapgate.text import number, percent


def receipt(
    digest: Annotated[
        str, typer.Argument(metavar="DIGEST", help="The receipt's digest, or its first characters (6 or more).")
    ],
    url: Annotated[str, option("--url", metavar="URL", help="Server to ask, with the whole digest.")] = "",
    key: Key = "",
) -> None:
    """Resolve a receipt: model version, MLflow run, data, code, splits, settings. It is looked for in this workspace,
    then in the registry."""
    from gapgate.evidence.sealed.receipt import verify

    prefix = digest.removeprefix("sha256:").lower()
    # `isalnum` also keeps wildcards out of the patterns.
    if len(prefix) < 6 or not prefix.isalnum():
        raise RegistryError(f"no receipt {digest}; give 6 or more of its first characters")
    place, found, content = _from_service(url, key, prefix) if url else _local(prefix) or _registered(prefix)
    try:
        # The name is the digest, so a changed receipt is found by hashing its content.
        verify(content, found)
    except (ArtifactError, ValueError) as error:
        raise RegistryError(f"{place} was changed since it was written: {' '.join(str(error).split())}") from None
    console = Console()
    console.print(f"[bold]{found}[/]  content checked", soft_wrap=True)
    console.print_json(data=content, sort_keys=False)


Found = tuple[str, str, Any]
"""A receipt: where it is, its digest as its place names it, and its content."""


def _local(prefix: str) -> Found | None:
    from components.platform.workspace import receipts_dir
    from gapgate import artifacts

    files = sorted(receipts_dir().glob(f"{prefix}*.json"))
    if len(files) > 1:
        raise RegistryError(f"{len(files)} receipts begin with {prefix}; give more of its characters")
    return (str(files[0]), f"sha256:{files[0].stem}", artifacts.read_json(files[0])) if files else None


def _registered(prefix: str) -> Found:
    from components.platform.registry.mlflow_registry import Registry
    from components.platform.workspace import has_store, receipts_dir, tracking_uri

    where = f"{receipts_dir()} and {tracking_uri()}"
    registry = Registry() if has_store() else None  # a look would make an empty store
    versions = registry.with_receipt(prefix) if registry else []
    if registry is None or not versions:
        raise RegistryError(
            f"no receipt {prefix} in {where}; name the registry in MLFLOW_TRACKING_URI, or the server with --url"
        )
    if len(versions) > 1:
        raise RegistryError(f"{len(versions)} receipts begin with {prefix}; give more of its characters")
    version = versions[0]
    return f"the receipt of {version.name} version {version.version}", version.receipt, registry.receipt(version)


def _from_service(url: str, key: str, digest: str) -> Found:
    import httpx

    address = f"{url if '://' in url else f'http://{url}'}".rstrip("/") + f"/v1/receipts/{digest}"
    try:
        answer = httpx.get(address, headers={"X-API-Key": key} if key else {}, timeout=10)
        answer.raise_for_status()
        return address, f"sha256:{digest}", answer.json()["receipt"]
    except httpx.HTTPStatusError as error:
        said = " ".join(error.response.text.split())[:200]
        raise ServeError(f"{url} answers {error.response.status_code}: {said}; check the digest, and --key") from None
    except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, TypeError) as error:
        raise ServeError(f"{url} does not give the receipt ({error}); check --url") from None


def models(name: ModelName = "") -> None:
    """List registered versions with aliases and verdicts."""
    from components.platform.registry.mlflow_registry import Registry

    close_killed_runs()
    registry = Registry()
    table = Table(box=None, header_style="bold", pad_edge=False)
    for heading in ("model", "version", "alias", "verdict", "test accuracy", "gap, points", "run"):
        # Runs of one day differ at the end of their names.
        table.add_column(heading, no_wrap=heading == "run", overflow="fold")
    for model in [name] if name else registry.names():
        for row in registry.versions(model):
            accuracy, gap = (row.tags.get(f"gapgate.{key}", "") for key in ("test_accuracy", "gap_points"))
            table.add_row(
                row.name,
                row.version,
                ", ".join(row.aliases),
                row.verdict,
                percent(float(accuracy)) if accuracy else "",
                number(float(gap)) if gap else "",
                row.tags.get("gapgate.run", ""),
            )
    console = Console()
    if table.row_count:
        console.print(table)
    else:
        console.print("no model is registered yet; `gapgate run` registers one")


def promote(
    version: Annotated[str, typer.Argument(metavar="VERSION", help="The version to serve.")],
    name: ModelName = DEFAULT_MODEL,
) -> None:
    """Make a version the champion; the certificate in its package must have passed."""
    from components.platform.registry.mlflow_registry import Registry

    registry = Registry()
    with tempfile.TemporaryDirectory(prefix="gapgate-promote-") as folder:
        passed = registry.package(registry.find(name, version), Path(folder))
        with registry.exclusive(name) as held:
            previous = registry.promote(passed, held)
    before = f" (before: version {previous})" if previous not in (None, version) else ""
    Console().print(f"champion of {escape(name)} is version {version}{before}")


def rollback(name: ModelName = DEFAULT_MODEL) -> None:
    """Make the previous champion the champion again."""
    from components.platform.registry.mlflow_registry import Registry

    was, now = Registry().rollback(name)
    Console().print(f"champion of {escape(name)} is version {now.version} again (was {was.version})")
