"""`gapgate submit`, `runs`, `logs`, `cancel` and `compile`: the pipeline on a cluster."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cli.cluster.following import watch
from cli.cluster.options import (
    DEFAULT_CLUSTER,
    Cluster,
    Cookie,
    DataPath,
    Experiment,
    Gpu,
    Host,
    NoCache,
    Repository,
    Revision,
    Source,
    Token,
    connected,
    namespace_of,
)
from cli.options import Overrides, Params, argument, option, status
from cli.terminal.console import Console
from gapgate.errors import SettingsError
from gapgate.settings.sections import Settings
from gapgate.text import printable_lines
from pipelines.settings import settings_of, with_experiment

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kfp
    from pipelines.kubeflow.cluster_settings import ClusterSettings

Run = Annotated[str, argument(metavar="RUN", help="A run's id, or its first characters.")]


def submit(
    host: Host = "",
    repository: Repository = "",
    revision: Revision = "",
    path: DataPath = "",
    source: Source = "",
    experiment: Experiment = "",
    params: Params = None,
    overrides: Overrides = None,
    gpu: Gpu = "",
    cluster: Cluster = DEFAULT_CLUSTER,
    no_cache: NoCache = False,
    name: Annotated[
        str,
        option("--name", metavar="NAME", help="Name of the run; by default it is made up."),
    ] = "",
    if_data_changed: Annotated[
        bool, typer.Option("--if-data-changed", help="Do nothing where the newest run had the same data.")
    ] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Follow the run; the exit code is the gate's: 0 passed, 3 not.")
    ] = False,
    poll: Annotated[
        float, typer.Option("--poll", min=0.01, metavar="SECONDS", help="Time between two looks at the run.")
    ] = 2,
    pending: Annotated[
        float, typer.Option("--pending-timeout", min=0, metavar="SECONDS", help="Time that a step may wait to begin.")
    ] = 600,
    token: Token = "",
    cookie: Cookie = "",
) -> None:
    """Run the pipeline on a cluster, by Kubeflow Pipelines."""
    settings = with_experiment(settings_of(params, overrides), experiment)
    from pipelines.kubeflow import submission
    from pipelines.kubeflow.cluster_settings import ClusterSettings
    from pipelines.kubeflow.follow import Pace

    submission.gpu_of(gpu)  # a mistyped --gpu is an error before any request
    given = ClusterSettings.from_file(cluster)
    # Pinned here: the record of a run names a commit, not a branch that moves.
    with status("finding the commit of the data"):
        settings = submission.with_data(settings, repository=repository, revision=revision, path=path, source=source)
    kfp = connected(host, token, cookie, given.namespace)
    console = Console(highlight=False, soft_wrap=True)
    if if_data_changed and _is_known(kfp, settings, console):
        return
    run = _start(kfp, settings, given, gpu, no_cache, name)
    if wait:
        raise typer.Exit(watch(kfp, run.run_id, settings.tracking.experiment, Pace(poll_s=poll, pending_s=pending)))


def runs(
    host: Host = "",
    experiment: Experiment = "",
    limit: Annotated[
        int, typer.Option("--limit", "-n", metavar="NUMBER", min=1, help="Number of newest runs that are shown.")
    ] = 20,
    everyone: Annotated[bool, typer.Option("--all", help="List the runs of other pipelines too.")] = False,
    followed: Annotated[
        str,
        typer.Option("--follow", metavar="RUN", help="Follow a run to its end, as `submit --wait` does."),
    ] = "",
    cluster: Cluster = DEFAULT_CLUSTER,
    token: Token = "",
    cookie: Cookie = "",
) -> None:
    """List runs on the cluster, newest first."""
    kfp = connected(host, token, cookie, namespace_of(cluster))
    if followed:
        from pipelines.kubeflow.follow import Pace

        run = kfp.find_run(followed)
        had = (run.runtime_config and run.runtime_config.parameters) or {}
        raise typer.Exit(watch(kfp, run.run_id, str(had.get("experiment", "")), Pace()))
    from itertools import islice

    # `Kfp.runs` is a generator: only the pages that are shown are requested.
    table = _runs_table(islice(kfp.runs(experiment, of_others=everyone), limit))
    console = Console()
    if not console.is_terminal:  # whole lines for a pipe
        console = Console(width=160)
    console.print(table if table.row_count else "there are no runs yet; `gapgate submit` makes one")


def _runs_table(runs: Iterable[Any]) -> Table:
    from pipelines.kubeflow.run_status import seconds_of, state_of, verdict_of

    table = Table(box=None, header_style="bold")
    for heading in ("id", "name", "state", "verdict", "started", "seconds", "data"):
        table.add_column(heading, no_wrap=True, overflow="ellipsis")
    for run in runs:
        had = (run.runtime_config and run.runtime_config.parameters) or {}
        seconds = seconds_of(run)
        table.add_row(
            run.run_id[:8],
            escape(run.display_name or ""),
            state_of(run),
            verdict_of(run),
            f"{run.created_at:%Y-%m-%d %H:%M}" if run.created_at else "",
            f"{seconds:,.0f}" if seconds is not None else "",
            escape(str(had.get("data_source") or had.get("data_revision") or "")[:12]),
        )
    return table


def logs(
    run: Run,
    step: Annotated[
        str, typer.Argument(metavar="STEP", help="A step; by default the one that failed, or the newest.")
    ] = "",
    everything: Annotated[
        bool, typer.Option("--all", help="Print what KFP's launcher and executor write, too.")
    ] = False,
    is_followed: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the step ends.")] = False,
    host: Host = "",
    cluster: Cluster = DEFAULT_CLUSTER,
    token: Token = "",
    cookie: Cookie = "",
) -> None:
    """Print the log of a step."""
    from components.catalog import TASKS

    if step and step not in TASKS:
        raise SettingsError(f"no step {step}; one of {', '.join(TASKS)}")
    kfp = connected(host, token, cookie, namespace_of(cluster))
    from pipelines.kubeflow.step_logs import read_log

    found = kfp.find_run(run)
    for text in read_log(kfp, found.run_id, step, whole=everything, is_followed=is_followed):
        typer.echo(printable_lines(text), nl=False)


def cancel(
    run: Run, host: Host = "", cluster: Cluster = DEFAULT_CLUSTER, token: Token = "", cookie: Cookie = ""
) -> None:
    """End a run on the cluster."""
    kfp = connected(host, token, cookie, namespace_of(cluster))
    from pipelines.kubeflow.run_status import ENDED, state_of

    found = kfp.find_run(run)
    if found.state in ENDED:
        Console().print(f"run {found.run_id} has ended already: {state_of(found)}", soft_wrap=True)
        return
    kfp.cancel(found.run_id)
    console = Console(soft_wrap=True)
    console.print(f"run {found.run_id} is being canceled")
    had = (found.runtime_config and found.runtime_config.parameters) or {}
    console.print(_close_tracking(str(had.get("experiment", "")), found.run_id))


def _close_tracking(experiment: str, run_id: str) -> str:
    """Close the MLflow run of a canceled run, whose pods are killed before they can; returns what was done as text."""
    from components.platform.tracking import mlflow_closing
    from components.platform.workspace import tracking_uri
    from gapgate.errors import TrackingError

    later = "its MLflow run is closed by the cluster's job gapgate-close-runs, within five minutes"
    if not tracking_uri().startswith("http"):
        return f"{later}, or here where MLFLOW_TRACKING_URI names the server"
    try:
        closed = mlflow_closing.kill_named(experiment, run_id)
    except TrackingError as error:
        return f"{later}: {error}"
    return "its MLflow run is closed as KILLED" if closed else "it has no MLflow run yet"


def compile_(
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="YAML file to write.")] = Path(
        "pipeline.yaml"
    ),
    cluster: Cluster = DEFAULT_CLUSTER,
) -> None:
    """Write the pipeline as a file for Kubeflow Pipelines, with the cluster's settings for each step."""
    from gapgate.errors import storage_errors
    from pipelines.kubeflow.cluster_settings import ClusterSettings
    from pipelines.kubeflow.compiler import compile_pipeline

    if output.suffix not in (".yaml", ".yml"):
        raise SettingsError(f"--output {output}: Kubeflow Pipelines takes a name that ends with .yaml")
    given = ClusterSettings.from_file(cluster)
    with storage_errors(output):
        output.parent.mkdir(parents=True, exist_ok=True)
        compile_pipeline(given, output)
    Console().print(f"{output} is ready to be uploaded; `gapgate submit` does it by itself", soft_wrap=True)


def start_changed(kfp: Kfp, settings: Settings, given: ClusterSettings, gpu: str, no_cache: bool) -> None:
    """Start a run if the data at the settings' revision is new.

    Raises:
        DataError: git or DVC cannot read the repository.
    """
    from pipelines.kubeflow import submission

    pinned = submission.with_data(settings)
    if not _is_known(kfp, pinned, Console(highlight=False, soft_wrap=True)):
        _start(kfp, pinned, given, gpu, no_cache, "")


def _is_known(kfp: Kfp, settings: Settings, console: Console) -> bool:
    """True, with a printed line, if the newest run succeeded or is at work with the data of the settings."""
    from pipelines.kubeflow import submission

    if (same := submission.same_data(kfp.runs(), settings)) is None:
        return False
    state = "has had" if same.state == "SUCCEEDED" else "is at work on"
    console.print(f"nothing to do: run {same.run_id} {state} the data of {settings.data.revision[:12]}")
    return True


def _start(kfp: Kfp, settings: Settings, given: ClusterSettings, gpu: str, no_cache: bool, name: str) -> Any:
    """Upload the pipeline, start a run, print its addresses, and return it."""
    from pipelines.kubeflow import demand, kubernetes_api, submission

    console = Console(highlight=False, soft_wrap=True)
    parameters = submission.parameters_of(settings, gpu)
    asked = demand.demands(given, submission.gpu_of(gpu))
    with status("looking for room on the cluster"):
        demand.check_room(given, asked, kfp.pod_namespace)
    with status("uploading the pipeline"):
        version = submission.upload(kfp, given, is_cached=not no_cache)
        run = kfp.submit(version, submission.submission_of(settings, parameters, given, name, kfp.ui))
    console.print(f"pipeline   {version.name} ({'uploaded' if version.is_new else 'unchanged'})")
    console.print(f"data       {escape(_data(settings))}")
    largest = max(asked, key=lambda step: asked[step]["memory"])
    console.print(f"asks for   {kubernetes_api.text(asked[largest])} at most, in {largest}")
    console.print(f"run        {kfp.run_url(run.run_id)}")
    console.print(f"MLflow     the run with the tag gapgate.run = {run.run_id} in {settings.tracking.experiment}")
    return run


def _data(settings: Settings) -> str:
    data = settings.data
    return data.source or f"{data.path} at {data.revision} of {data.repository}"
