"""Options and helpers that the commands for a cluster share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.options import option, status

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kfp

DEFAULT_CLUSTER = Path("infra/pipeline.yaml")
Host = Annotated[
    str,
    option(
        "--host",
        metavar="URL",
        envvar="KF_PIPELINES_ENDPOINT",
        help="URL of Kubeflow Pipelines; not needed in a pod of its cluster.",
    ),
]
Token = Annotated[
    str,
    option("--token", "--existing-token", metavar="TOKEN", envvar="GAPGATE_KFP_TOKEN", help="Bearer token."),
]
Cookie = Annotated[
    str,
    option("--cookie", metavar="COOKIE", envvar="GAPGATE_KFP_COOKIE", help="Cookie of a browser's session."),
]
Cluster = Annotated[
    Path,
    typer.Option("--cluster", metavar="FILE", help="File with what the cluster gives to each step: images, resources."),
]
Experiment = Annotated[str, option("--experiment", metavar="NAME", help="Experiment in KFP and in MLflow.")]
Repository = Annotated[
    str,
    option("--data-repository", metavar="URL", help="Git repository that pins the data."),
]
Revision = Annotated[str, option("--data-rev", metavar="REV", help="Branch, tag or commit; by default HEAD.")]
DataPath = Annotated[
    str,
    option("--data-path", metavar="PATH", help="Path that DVC tracks in it; by default `data`."),
]
Source = Annotated[
    str,
    option(
        "--data-source",
        metavar="NAME",
        help="Data in place of a repository: `digits`, `shapes`, or a path in the pods.",
    ),
]
Gpu = Annotated[
    str,
    option("--gpu", metavar="KIND=COUNT", help="GPUs of train, such as nvidia.com/gpu=1; by default none."),
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
