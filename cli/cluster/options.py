"""Options and helpers that the commands for a cluster share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import status

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kfp

DEFAULT_CLUSTER = Path("infra/pipeline.yaml")
Host = Annotated[
    str,
    typer.Option(
        "--host",
        metavar="URL",
        envvar="KF_PIPELINES_ENDPOINT",
        help="URL of Kubeflow Pipelines; not needed in a pod of its cluster.",
        show_default=False,
    ),
]
Token = Annotated[
    str,
    typer.Option(
        "--token",
        "--existing-token",
        metavar="TOKEN",
        envvar="GAPGATE_KFP_TOKEN",
        help="Bearer token.",
        show_default=False,
    ),
]
Cookie = Annotated[
    str,
    typer.Option(
        "--cookie",
        metavar="COOKIE",
        envvar="GAPGATE_KFP_COOKIE",
        help="Cookie of a browser's session.",
        show_default=False,
    ),
]
Cluster = Annotated[
    Path,
    typer.Option("--cluster", metavar="FILE", help="File with what the cluster gives to each step: images, resources."),
]
Experiment = Annotated[
    str, typer.Option("--experiment", metavar="NAME", help="Experiment in KFP and in MLflow.", show_default=False)
]
Repository = Annotated[
    str,
    typer.Option("--data-repository", metavar="URL", help="Git repository that pins the data.", show_default=False),
]
Revision = Annotated[
    str, typer.Option("--data-rev", metavar="REV", help="Branch, tag or commit; by default HEAD.", show_default=False)
]
DataPath = Annotated[
    str,
    typer.Option(
        "--data-path", metavar="PATH", help="Path that DVC tracks in it; by default `data`.", show_default=False
    ),
]
Source = Annotated[
    str,
    typer.Option(
        "--data-source",
        metavar="NAME",
        help="Data in place of a repository: `digits`, `shapes`, or a path in the pods.",
        show_default=False,
    ),
]
Gpu = Annotated[
    str,
    typer.Option(
        "--gpu",
        metavar="KIND=COUNT",
        help="GPUs of train, such as nvidia.com/gpu=1; by default none.",
        show_default=False,
    ),
]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Run every step, those with a known result too.")]


def connected(host: str, token: str, cookie: str, namespace: str) -> Kfp:
    """Connect to the cluster's Kubeflow Pipelines."""
    with status("asking Kubeflow Pipelines"):
        from pipelines.kubeflow.client import Kfp
        from pipelines.kubeflow.connection import Access

        return Kfp(Access(host, token, cookie), namespace)


def namespace_of(cluster: Path) -> str:
    """Namespace of the runs, from the cluster file; `gapgate` if the default file is not there."""
    from pipelines.kubeflow.cluster_settings import ClusterSettings

    # A command that only reads needs no file; one that is named by the user must be there.
    if cluster == DEFAULT_CLUSTER and not cluster.exists():
        return "gapgate"
    return ClusterSettings.from_file(cluster).namespace
