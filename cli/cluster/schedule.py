"""`gapgate schedule`: runs on a cluster by the clock, or when the data has changed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cli.cluster import options as shared
from cli.cluster.commands import start_changed
from cli.options import Overrides, Params, option, status
from cli.terminal.console import Console
from gapgate.errors import ClusterAwayError, ClusterError, DataError, SettingsError
from pipelines.settings import settings_of, with_experiment

if TYPE_CHECKING:
    from pipelines.kubeflow.client import Kfp, Submission, Version

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def schedule(
    host: shared.Host = "",
    cron: Annotated[
        str,
        option("--cron", metavar="EXPR", help='Times of the runs, such as "0 3 * * *", in UTC.'),
    ] = "",
    every: Annotated[
        str,
        option("--every", metavar="TIME", help="Time between two runs, such as 6h or 30m."),
    ] = "",
    when_data_changed: Annotated[
        bool,
        typer.Option(
            "--when-data-changed",
            help="Stay, look at the repository --every so often, and start a run when DVC's hash of the data is new.",
        ),
    ] = False,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Name of the schedule; the one of this name is replaced.")
    ] = "gapgate",
    show: Annotated[bool, typer.Option("--list", help="List the schedules.")] = False,
    delete: Annotated[str, option("--delete", metavar="NAME", help="End a schedule; its runs stay.")] = "",
    repository: shared.Repository = "",
    revision: shared.Revision = "",
    path: shared.DataPath = "",
    source: shared.Source = "",
    experiment: shared.Experiment = "",
    params: Params = None,
    overrides: Overrides = None,
    gpu: shared.Gpu = "",
    cluster: shared.Cluster = shared.DEFAULT_CLUSTER,
    no_cache: shared.NoCache = False,
    token: shared.Token = "",
    cookie: shared.Cookie = "",
) -> None:
    """Run the pipeline on a cluster again and again: by the clock, or when the data has changed.

    By the clock, KFP starts the runs, each with the newest commit of --data-rev. While commit, settings and images are
    the same, a run does two things: it asks for the commit, and finds the model registered. KFP's cache has the rest.
    """
    if show or delete:
        kfp = shared.connected(host, token, cookie, shared.namespace_of(cluster))
        return _delete(kfp, delete) if delete else _list(kfp)
    every_s = _seconds(every) if every else 0
    # True where neither or both are given.
    if bool(cron) == bool(every_s) or (when_data_changed and cron):
        raise SettingsError("give --cron EXPR or --every TIME, one of the two; --when-data-changed takes --every")
    cron = _six_fields(cron) if cron else ""
    settings = with_experiment(settings_of(params, overrides), experiment)
    from pipelines.kubeflow import submission
    from pipelines.kubeflow.cluster_settings import ClusterSettings

    given = ClusterSettings.from_file(cluster)
    # Not pinned: each run of a schedule takes the newest commit.
    with status("finding the data"):
        settings = submission.with_data(
            settings, repository=repository, revision=revision, path=path, source=source, pin=False
        )
    parameters = submission.parameters_of(settings, gpu)
    kfp = shared.connected(host, token, cookie, given.namespace)
    if when_data_changed:
        _watch(lambda: start_changed(kfp, settings, given, gpu, no_cache), every_s)
        return
    with status("uploading the pipeline"):
        version = submission.upload(kfp, given, is_cached=not no_cache)
    _schedule(kfp, version, submission.submission_of(settings, parameters, given, name, kfp.ui), cron, every_s)


def _schedule(kfp: Kfp, version: Version, submission: Submission, cron: str, every_s: int) -> None:
    """Make a schedule and delete others of its name; do nothing if the same one is there."""
    console = Console(soft_wrap=True, highlight=False)
    when = f"at {cron}" if cron else f"every {every_s:,} s"
    before = [one for one in kfp.schedules() if one.display_name == submission.name]
    wanted = (version.version_id, submission.parameters, submission.service_account, cron, every_s)
    # A schedule that is made again would begin its interval anew.
    if len(before) == 1 and before[0].status != "DISABLED" and _content(before[0]) == wanted:
        console.print(f"schedule {escape(submission.name)}, {when}, is there already")
        return
    kfp.schedule(version, submission, cron=cron, every_s=every_s)
    for old in before:  # after the new one is there: a failure in between leaves two schedules, not none
        kfp.delete_schedule(old.recurring_run_id)
    console.print(f"schedule {escape(submission.name)}: {when}{', in the place of the one before' if before else ''}")
    console.print("`gapgate schedule --list` shows it, `gapgate runs` its runs")


def _content(schedule: Any) -> tuple[Any, ...]:
    reference, trigger = schedule.pipeline_version_reference, schedule.trigger
    return (
        reference.pipeline_version_id if reference else "",
        schedule.runtime_config.parameters if schedule.runtime_config else {},
        schedule.service_account or "",
        *_trigger(trigger),
    )


def _trigger(trigger: Any) -> tuple[str, int]:
    """Cron expression (empty: none) and seconds between two runs (0: none) of a schedule."""
    cron = trigger.cron_schedule.cron if trigger and trigger.cron_schedule else ""
    periodic = trigger.periodic_schedule if trigger else None
    return cron, int(periodic.interval_second) if periodic else 0


def _list(kfp: Kfp) -> None:
    table = Table("name", "when", "state", "data", "id", box=None, header_style="bold")
    for one in kfp.schedules():
        cron, every_s = _trigger(one.trigger)
        had = (one.runtime_config and one.runtime_config.parameters) or {}
        what = had.get("data_source") or f"{had.get('data_path')} at {had.get('data_revision') or 'HEAD'}"
        table.add_row(
            escape(one.display_name), cron or f"{every_s:,} s", one.status, escape(what), one.recurring_run_id[:8]
        )
    Console().print(table if table.row_count else "there are no schedules")


def _delete(kfp: Kfp, name: str) -> None:
    found = [one for one in kfp.schedules() if one.display_name == name]
    if not found:
        raise ClusterError(f"there is no schedule {name} on {kfp.host}; `gapgate schedule --list` lists them")
    for one in found:
        kfp.delete_schedule(one.recurring_run_id)
    Console().print(f"schedule {escape(name)} has ended; its runs stay", soft_wrap=True)


def _watch(look: Callable[[], None], every_s: int) -> None:
    """Call `look` every `every_s` seconds until Ctrl-C; a repository or cluster that is away is only a warning."""
    try:
        while True:
            try:
                look()
            except (ClusterAwayError, DataError) as error:
                Console(stderr=True).print(f"[yellow]{escape(str(error))}[/]", soft_wrap=True, highlight=False)
            time.sleep(every_s)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _seconds(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,6})([smhd])", text)
    if match is None:
        raise SettingsError(f"--every {text} is no time; write it like 30m, 6h or 1d")
    return int(match[1]) * _UNITS_S[match[2]]


def _six_fields(cron: str) -> str:
    """A cron expression in KFP's form, with a field for the seconds at the beginning."""
    fields = cron.split()
    # KFP takes @daily and "@every 6h" as they are.
    if cron.startswith("@") and len(fields) <= 2:
        return cron
    if len(fields) not in (5, 6):
        raise SettingsError(f'--cron "{cron}" has {len(fields)} fields; write minute, hour, day, month and weekday')
    return " ".join(fields if len(fields) == 6 else ["0", *fields])
