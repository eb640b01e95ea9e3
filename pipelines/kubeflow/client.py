"""The calls to Kubeflow Pipelines that Gapgate needs, made with `kfp.Client`.

A request that only reads is retried a few times. A request that creates something is not: after a failure that leaves
open whether it was created, the object is looked up first.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from components.platform import kfp_run
from gapgate.errors import ClusterError
from pipelines.kubeflow import kubernetes_api
from pipelines.kubeflow.connection import Access, asking, connect, get, make_once
from pipelines.kubeflow.workflow import Archive, Node, Step, nodes_of

PIPELINE = "gapgate-training"
_PAGE = 100
_CANCELING = "CANCELING"
_ID_LENGTH = 36


@dataclass(frozen=True, slots=True)
class Version:
    """A pipeline version on the server."""

    pipeline_id: str
    version_id: str
    name: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class Submission:
    """Name, parameters and account of a run, or of each run of a schedule."""

    name: str
    experiment: str
    parameters: dict[str, Any]
    service_account: str
    note: str
    """Description of the run, with a random token that finds it after a lost answer; names may repeat."""


class Kfp:
    """Kubeflow Pipelines. Every method may raise `ClusterAwayError` (no answer) and `ClusterError` (refused)."""

    def __init__(self, access: Access, namespace: str = "") -> None:
        """Connect. `namespace` is that of the runs; a KFP for a single user ignores it."""
        self._url = access.url()
        self.host = self._url or "the cluster's Kubeflow Pipelines"
        self._client, is_shared = connect(access)
        self._namespace = namespace if is_shared else None
        self.pod_namespace = namespace if is_shared else "kubeflow"
        self._models = self._client.api_models

    @property
    def ui(self) -> str:
        """URL of KFP's UI; in a pod of the cluster KF_PIPELINES_UI_ENDPOINT is its address for others."""
        return (os.environ.get("KF_PIPELINES_UI_ENDPOINT") or self._url).rstrip("/")

    def run_url(self, run_id: str) -> str:
        """URL of the run's page; in a pod that knows no address of the UI, the run's id."""
        return kfp_run.page(self.ui, run_id) if self.ui else run_id

    def upload(self, package: Path, description: str = "") -> Version:
        """The version with exactly this compiled pipeline: an existing one, or else a new one, described so."""
        # Named by content: a second submit of the same pipeline uploads nothing.
        name = f"sha256-{hashlib.sha256(package.read_bytes()).hexdigest()[:16]}"
        with asking(self.host):
            pipeline = self._pipeline() or make_once(lambda: self._new_pipeline(package), self._pipeline)
            identity = pipeline.pipeline_id
            found = self._version(identity, name)
            made = found or make_once(
                lambda: self._client.upload_pipeline_version(
                    str(package), name, pipeline_id=identity, description=description
                ),
                lambda: self._version(identity, name),
            )
        return Version(identity, made.pipeline_version_id, name, is_new=found is None)

    def submit(self, version: Version, submission: Submission) -> Any:
        """Start a run; returns KFP's `V2beta1Run`."""
        body = self._models.V2beta1Run(**self._body(version, submission))
        create = self._client.runs.run_service_create_run
        with asking(self.host):
            return make_once(lambda: create(run=body), lambda: self._same(self._client.list_runs, "runs", submission))

    def run(self, run_id: str) -> Any:
        """A run with its tasks."""
        with asking(self.host):
            return self._client.get_run(run_id)

    def find_run(self, prefix: str) -> Any:
        """The run whose id begins with `prefix`.

        Raises:
            ClusterError: none does, or several.
        """
        if len(prefix) == _ID_LENGTH:
            return self.run(prefix)
        found = [run.run_id for run in self.runs() if run.run_id.startswith(prefix.lower())]
        if not found:
            raise ClusterError(f"no run {prefix} on {self.host}; `gapgate runs` lists them")
        if len(found) > 1:
            raise ClusterError(f"{len(found)} runs begin with {prefix}; give more of its characters")
        return self.run(found[0])

    def runs(self, experiment: str = "", *, of_others: bool = False) -> Iterator[Any]:
        """Runs of our pipeline, newest first; `of_others` includes those of other pipelines.

        Raises:
            ClusterError: there is no such experiment.
        """
        where = self._here()
        if experiment:
            with asking(self.host):
                known = self._experiment(experiment)
            if known is None:
                raise ClusterError(f"there is no experiment {experiment} on {self.host}; `gapgate submit` makes it")
            where = {"experiment_id": known.experiment_id}
        found = self._pages(self._client.list_runs, "runs", sort_by="created_at desc", **where)
        if of_others:
            yield from found
        elif ours := self._pipeline():
            for run in found:
                # A run may also be of a pipeline file, and then has no reference.
                if (used := run.pipeline_version_reference) and used.pipeline_id == ours.pipeline_id:
                    yield run

    def cancel(self, run_id: str) -> None:
        """Ask KFP to terminate a run; one that it ends already stays as it is."""
        try:
            with asking(self.host):
                self._client.terminate_run(run_id)
        except ClusterError:
            # KFP refuses it a second time ("Row not found"), and fails after noting it where the workflow was deleted.
            if self.run(run_id).state != _CANCELING:
                raise

    def schedule(self, version: Version, submission: Submission, *, cron: str = "", every_s: int = 0) -> Any:
        """Make a schedule, by a cron expression or an interval in seconds; returns KFP's `V2beta1RecurringRun`."""
        models = self._models
        trigger = (
            models.V2beta1Trigger(cron_schedule=models.V2beta1CronSchedule(cron=cron))
            if cron
            else models.V2beta1Trigger(periodic_schedule=models.V2beta1PeriodicSchedule(interval_second=str(every_s)))
        )
        body = models.V2beta1RecurringRun(
            **self._body(version, submission),
            trigger=trigger,
            mode=models.RecurringRunMode.ENABLE,
            # A slow run is not overtaken by the next, and the runs that an outage has missed are not made up for.
            max_concurrency="1",
            no_catchup=True,
        )
        create = self._client.recurring_runs.recurring_run_service_create_recurring_run
        with asking(self.host):
            return make_once(
                lambda: create(recurring_run=body),
                lambda: self._same(self._client.list_recurring_runs, "recurring_runs", submission),
            )

    def schedules(self) -> list[Any]:
        """All schedules in the namespace."""
        return list(self._pages(self._client.list_recurring_runs, "recurring_runs", **self._here()))

    def delete_schedule(self, recurring_run_id: str) -> None:
        """Delete a schedule; its runs stay."""
        with asking(self.host):
            self._client.delete_recurring_run(recurring_run_id)

    def nodes(self, run_id: str) -> list[Node]:
        """The nodes of a run's workflow; empty before the workflow controller has taken the run up."""
        # The v1beta1 view, which KFP's own UI reads too: the v2beta1 tasks have neither paths nor messages.
        with asking(self.host):
            text = get(self._client, f"/apis/v1beta1/runs/{quote(run_id)}")
        try:
            return nodes_of(json.loads(text or "{}")["pipeline_runtime"]["workflow_manifest"])
        except (ValueError, KeyError, TypeError):
            return []

    def log(self, run_id: str, step: Step) -> str | None:
        """The log of a step's last try that has one, from KFP's API, its UI, Kubernetes or Argo's archive; None if none
        has it."""
        tries = zip(step.pods, step.archives or [None] * len(step.pods), strict=True)
        return next((log for pod, kept in tries if (log := self._pod_log(run_id, pod, kept)) is not None), None)

    def _pod_log(self, run_id: str, pod: str, archive: Archive | None) -> str | None:
        api = f"/apis/v1alpha1/runs/{quote(run_id)}/nodes/{quote(pod)}/log"
        with contextlib.suppress(ClusterError), asking(self.host):
            text = get(self._client, api)
            # KFP has sent status 200 before it looks for the pod, so that an error looks like a log.
            if text is not None and not text.startswith('{"error_message"'):
                return text
        # Its answer can be empty.
        query = {"podname": pod, "runid": run_id, "podnamespace": self.pod_namespace}
        with contextlib.suppress(ClusterError), asking(self.host):
            if text := get(self._client, "/k8s/pod/logs", query, of_ui=True):
                return text
        if (text := kubernetes_api.pod_log(self.pod_namespace, pod)) is not None or archive is None:
            return text
        # The pod is gone, an hour after its run by KFP's manifests. The UI (2.17) looks for its archived log under
        # another key than Argo's, but gives any object of the store.
        where = {"source": archive.source, "bucket": archive.bucket, "key": archive.key}
        with contextlib.suppress(ClusterError), asking(self.host):
            return get(self._client, "/artifacts/get", where | {"namespace": self.pod_namespace}, of_ui=True)
        return None

    def logs_command(self, run_id: str, step: Step) -> str:
        """Command that prints a step's log without KFP: by the labels of its pod, or by the name of a driver's pod,
        which has none."""
        logs = f"kubectl -n {self.pod_namespace} logs"
        if step.pods and "-driver-" in step.pods[0]:
            return f"`{logs} {step.pods[0]} -c main`"
        return f"`{logs} -l pipeline/runid={run_id},gapgate/step={step.name} -c main --tail=-1`"

    def _body(self, version: Version, submission: Submission) -> dict[str, Any]:
        """Fields that a run and a schedule have in common; a new experiment is made first."""
        name = submission.experiment
        with asking(self.host):
            experiment = self._experiment(name) or make_once(
                lambda: self._client.create_experiment(name, namespace=self._namespace), lambda: self._experiment(name)
            )
        return {
            "experiment_id": experiment.experiment_id,
            "display_name": submission.name,
            "description": submission.note,
            "pipeline_version_reference": self._models.V2beta1PipelineVersionReference(
                pipeline_id=version.pipeline_id, pipeline_version_id=version.version_id
            ),
            "runtime_config": self._models.V2beta1RuntimeConfig(parameters=submission.parameters),
            "service_account": submission.service_account,
        }

    def _experiment(self, name: str) -> Any:
        try:
            return self._client.get_experiment(experiment_name=name, namespace=self._namespace)
        except ValueError:  # kfp.Client's error if there is none
            return None

    def _pipeline(self) -> Any:
        found = self._pages(self._client.list_pipelines, "pipelines", filter=_named(PIPELINE), **self._here())
        return next(found, None)

    def _new_pipeline(self, package: Path) -> Any:
        """Make the pipeline without a version: an upload that makes both gives the version the pipeline's name."""
        compiled = next(yaml.load_all(package.read_text(), yaml.CSafeLoader))
        description = compiled["pipelineInfo"].get("description", "")
        body = self._models.V2beta1Pipeline(
            display_name=PIPELINE, name=PIPELINE, description=description, namespace=self._namespace
        )
        return self._client.pipelines.pipeline_service_create_pipeline(pipeline=body)

    def _version(self, pipeline_id: str, name: str) -> Any:
        call = self._client.list_pipeline_versions
        found = self._pages(call, "pipeline_versions", pipeline_id=pipeline_id, filter=_named(name))
        return next(found, None)

    def _same(self, call: Callable[..., Any], kind: str, submission: Submission) -> Any:
        found = self._pages(call, kind, filter=_named(submission.name), **self._here())
        return next((item for item in found if item.description == submission.note), None)

    def _here(self) -> dict[str, str]:
        """Namespace argument of a list call: KFP for several users requires it, KFP for one user refuses it."""
        return {"namespace": self._namespace} if self._namespace else {}

    def _pages(self, call: Callable[..., Any], kind: str, **query: Any) -> Iterator[Any]:
        """Items of a list call, page after page."""
        token = ""
        while True:
            with asking(self.host):
                page = call(page_token=token, page_size=_PAGE, **query)
            # KFP's answer has no list where there is nothing.
            yield from getattr(page, kind) or []
            if not (token := page.next_page_token):
                return


def _named(name: str) -> str:
    """KFP's filter for one display name, as JSON."""
    predicate = {"operation": "EQUALS", "key": "display_name", "stringValue": name}
    return json.dumps({"predicates": [predicate]})
