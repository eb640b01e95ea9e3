"""MLflow: one MLflow run for a pipeline run, filled from its spool.

`send` may be called at any time, by any process, again and again: a lock and a record of what was sent make it
idempotent. The MLflow run is made on the first contact, so a server that was away for a whole run gets it later.
"""

from __future__ import annotations

import getpass
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from filelock import FileLock

from components.platform import kfp_run
from components.platform.run_context import RunContext
from components.platform.tracking.mlflow_charts import VIEW_QUERY
from components.platform.tracking.mlflow_client import away_errors, client, is_server, without_retries
from components.platform.tracking.mlflow_experiments import experiment_id
from components.platform.tracking.mlflow_tables import TABLES_TAG, with_tables
from components.platform.tracking.spool import KEPT, Event, Reader, place_of
from components.platform.workspace import runs_dir, tracking_uri
from gapgate import summed_json
from gapgate.artifacts import code_revision
from gapgate.errors import ArtifactError
from gapgate.report.note import HEADING
from gapgate.text import redacted
from gapgate.tracking import NOTE_TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]
STATE = "mlflow.json"
"""File of a spool with the MLflow run's id and the bytes that were sent of each event file."""
_NOTE = "mlflow.note.content"
"""Tag with a run's description, in Markdown, which MLflow's UI shows above all else."""
_RUN_NAME = "mlflow.runName"
_VERDICT = re.compile(r" \(gate: \w+\)$")
_MAX_NAME_CHARS, _MAX_DIGEST_CHARS, _MAX_SOURCE_CHARS = 500, 36, 500
"""MLflow's limits for a data set's name and digest, and what its pages show of a command."""
_CONTEXTS = {"train": "training", "val": "validation", "test": "test"}
"""Split → the word that MLflow's pages have for it."""
_SCHEMA = {"mlflow_colspec": [{"name": "image", "type": "binary"}, {"name": "label", "type": "string"}]}
_METRICS = 500
"""Metrics in a call; MLflow takes at most 100 params, 100 tags, and 1,000 of all in one."""


def send(context: RunContext) -> str:
    """Send what is new in a run's spool, and return the MLflow run's id.

    Raises:
        TrackingError: the server does not answer; call again later.
    """
    spool = context.spool
    with _locked(spool):
        state = read_state(spool)
        with away_errors():
            mlflow_client = client()
            if is_new := not state.get("run_id"):
                # Saved at once: a failure below must not make a second MLflow run on the next call.
                state = _begin(mlflow_client, context)
                summed_json.write(spool / STATE, state)
            reader = Reader(spool, state["offsets"])
            events = list(reader.read())
            state["datasets"] = _send_data(mlflow_client, state, events)
            send_values(mlflow_client, state["run_id"], events, is_new=is_new)
            _send_images(mlflow_client, state["run_id"], spool, events)
            files = [(place_of(event, spool), event["folder"]) for event in events if event["kind"] == "file"]
            for path, folder in files:
                # `gapgate clean` may have removed the artifact of an old run; its figures are still sent.
                if path.exists():
                    mlflow_client.log_artifact(state["run_id"], str(path), folder or None)
            # After the uploads: what fails is sent again. MLflow takes the same metric, tag or file twice without harm.
            state["offsets"] = reader.offsets
            summed_json.write(spool / STATE, state)
            for path in [place_of(event, spool) for event in events if event["kind"] in ("file", "image")]:
                # Only after the state is on disk, or a retry would miss the copy.
                if path.is_relative_to(spool.absolute() / KEPT):
                    path.unlink(missing_ok=True)
        return str(state["run_id"])


def finish(context: RunContext, *, succeeded: bool) -> None:
    """Send the rest of a run's spool and close its MLflow run.

    Raises:
        TrackingError: the server does not answer; call again later.
    """
    send_and_mark(context, "FINISHED" if succeeded else "FAILED")


def send_and_mark(context: RunContext, status: Status) -> None:
    """Send the rest of a run's spool and give its MLflow run a status; all but RUNNING close it.

    Raises:
        TrackingError: the server does not answer; call again later.
    """
    run = send(context)
    # It is running from its first contact on.
    if status == "RUNNING":
        return
    with away_errors():
        client().set_terminated(run, status)
    # The last write: until then `gapgate sync` takes the run for unfinished and closes it again.
    summed_json.write(context.spool / STATE, read_state(context.spool) | {"ended": True})


def is_sent(context: RunContext) -> bool:
    """True if everything in the spool was sent and the MLflow run was closed."""
    state = read_state(context.spool)
    waiting = (
        any(path.stat().st_size > state["offsets"].get(path.name, 0) for path in context.spool.glob("*.jsonl"))
        if state
        else True
    )
    return bool(state.get("ended")) and not waiting


def run_id(context: RunContext) -> str:
    """The MLflow run's id, or an empty string before the first contact."""
    return str(read_state(context.spool).get("run_id", ""))


_TRAINING = "?workflowType=machine_learning"
"""End of a page's URL without which MLflow shows what belongs to language models."""
UI_PORT = 5000
"""Port on which `gapgate ui` shows the workspace's own store, unless another is asked for."""


def run_url(context: RunContext) -> str:
    """URL of the run's page in the UI of the tracking server, or in `gapgate ui`; empty before the first contact."""
    if not (state := read_state(context.spool)):
        return ""
    return f"{_ui()}/experiments/{state['experiment_id']}/runs/{state['run_id']}{_TRAINING}"


def short_run_url(context: RunContext) -> str:
    """The same page under an address that fits into 80 columns; only MLflow's sidebar is then that of GenAI."""
    return f"{_ui()}/runs/{found}" if (found := run_id(context)) else ""


def _ui() -> str:
    server = tracking_uri() if is_server() else f"http://127.0.0.1:{UI_PORT}"
    return f"{server.rstrip('/')}/#"


def experiment_url(server: str) -> str:
    """URL of the list of runs in the experiment of this workspace's newest run, in the UI of `server`."""
    spools = sorted(runs_dir().glob(f"*/spool/{STATE}"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    found = ""
    for path in spools:
        with suppress(ArtifactError):  # a damaged record is mended by `gapgate sync`
            found = str(read_state(path.parent)["experiment_id"])
            break
    place = f"/{found}/runs{_TRAINING}" if found else ""
    return f"{server.rstrip('/')}/#/experiments{place}"


def charts_url(server: str) -> str:
    """URL of the charts of those runs; empty before the first run."""
    page = experiment_url(server)
    return f"{page}{VIEW_QUERY}" if page.endswith(_TRAINING) else ""


def _begin(mlflow_client: MlflowClient, context: RunContext) -> dict[str, Any]:
    """Find or make the MLflow run and return a new state: the run `MLFLOW_RUN_ID` where the platform sets it, else the
    run with this context's tag, else a new one."""
    if injected := os.environ.get("MLFLOW_RUN_ID"):
        run = mlflow_client.get_run(injected)
    else:
        experiment = experiment_id(mlflow_client, context.experiment)
        found = runs_named(mlflow_client, experiment, context.name)
        run = found[0] if found else _make(mlflow_client, experiment, context.name)
    return {"run_id": run.info.run_id, "experiment_id": run.info.experiment_id, "offsets": {}}


def runs_named(mlflow_client: MlflowClient, experiment: str, name: str) -> list[Run]:
    """The MLflow run of the pipeline run `name`, if there is one."""
    # By tag, not by name: MLflow allows several runs of one name.
    return list(mlflow_client.search_runs([experiment], f"tags.`gapgate.run` = '{name}'", max_results=1))


def _make(mlflow_client: MlflowClient, experiment: str, name: str) -> Run:
    """Make the MLflow run of the pipeline run `name`; in a pod with the name that KFP shows, its user, and a link."""
    tags = {"gapgate.run": name} | _origin()
    if found := kfp_run.find(name):
        if found.user:
            tags["mlflow.user"] = found.user
        if found.url:
            tags[_NOTE] = f"[{found.name} in Kubeflow Pipelines]({found.url})"  # Markdown
        name = found.name or name
    with without_retries():
        return mlflow_client.create_run(experiment, run_name=name, tags=tags)


def _origin() -> dict[str, str]:
    """Tags by which MLflow's pages show who made a run, from what code, by which command."""
    commit = code_revision().partition("+")[0]
    tags = {"mlflow.source.type": "JOB" if kfp_run.is_pod() else "LOCAL"}
    # In a pod the arguments are those of KFP's launcher.
    command = ["gapgate", *(["submit"] if kfp_run.is_pod() else sys.argv[1:])]
    tags["mlflow.source.name"] = redacted(" ".join(command))[:_MAX_SOURCE_CHARS]
    if " " not in commit:  # else it is a version
        tags["mlflow.source.git.commit"] = commit
    with suppress(OSError, KeyError):  # a pod's user has no name
        tags["mlflow.user"] = getpass.getuser()
    return tags


def _send_data(mlflow_client: MlflowClient, state: dict[str, Any], events: Iterable[Event]) -> dict[str, Any]:
    """Write the data sets of `events` into an MLflow run; returns each split's name and digest so far."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    known: dict[str, Any] = dict(state.get("datasets") or {})
    inputs = []
    for event in events:
        if event["kind"] != "data":
            continue
        for split, count in event["num_images"].items():
            # MLflow takes two of one name and digest for the same; a split with other settings is another one.
            name = f"{Path(event['source']).name or event['source']}, {split}, {count:,} images"
            dataset = Dataset(
                name=name[:_MAX_NAME_CHARS],
                digest=event["digest"][:_MAX_DIGEST_CHARS],
                source_type="local" if "://" not in event["source"] else "http",
                source=json.dumps({"uri": event["source"]}),
                schema=json.dumps(_SCHEMA),
                profile=json.dumps({"num_rows": count, "num_classes": len(event["classes"])}),
            )
            known[split] = [dataset.name, dataset.digest]
            inputs.append(DatasetInput(dataset, [InputTag("mlflow.data.context", _CONTEXTS.get(split, split))]))
    if inputs:
        mlflow_client.log_inputs(state["run_id"], inputs)
    return known


def _send_images(mlflow_client: MlflowClient, run: str, spool: Path, events: Iterable[Event]) -> None:
    """Upload the images of `events` as MLflow's pages show them, beside each other and by step."""
    from PIL import Image

    for event in events:
        # As with files, an artifact may be gone.
        if event["kind"] == "image" and place_of(event, spool).exists():
            with Image.open(place_of(event, spool)) as image:
                at = int(event["time"] * 1000)
                # Sent again after a failure, it is there twice, at one step.
                mlflow_client.log_image(run, image, key=event["key"], step=event["at"], timestamp=at, synchronous=True)


def send_values(mlflow_client: MlflowClient, run: str, events: Iterable[Event], *, is_new: bool = False) -> None:
    """Write the metrics, params and tags of `events` into an MLflow run; `is_new` if it has no params yet."""
    from mlflow.entities import Metric, Param, RunTag

    metrics, params = [], []
    tags: list[RunTag] = []
    for event in events:
        if event["kind"] == "metrics":
            # MLflow's timestamps are in milliseconds.
            at = int(event["time"] * 1000)
            metrics += [Metric(name, value, at, event["at"]) for name, value in event["values"].items()]
        elif event["kind"] == "params":
            params += event["values"].items()
        elif event["kind"] == "tags":
            values = dict(event["values"])
            known = mlflow_client.get_run(run) if {NOTE_TAG, TABLES_TAG} & set(values) else None
            if known and NOTE_TAG in values:
                values |= _noted(known, values.pop(NOTE_TAG), values.get("gate.verdict", ""))
            if known and TABLES_TAG in values:
                others = [tag.value for tag in tags if tag.key == TABLES_TAG]
                values[TABLES_TAG] = with_tables([known.data.tags.get(TABLES_TAG), *others][-1], values[TABLES_TAG])
            tags += [RunTag(name, value) for name, value in values.items()]
    if params:
        # A parameter is written once. A step that DVC runs again with another setting adds the new value as a tag.
        written = {} if is_new else mlflow_client.get_run(run).data.params
        tags += [RunTag(f"{name}.changed", value) for name, value in params if written.get(name, value) != value]
        params = [Param(name, value) for name, value in dict(params).items() if name not in written]
    # All three kinds in one call: behind a log-in, each call costs the server a quarter of a second.
    for number in range(max(-(-len(metrics) // _METRICS), -(-len(params) // 100), -(-len(tags) // 100))):
        mlflow_client.log_batch(
            run,
            metrics=metrics[number * _METRICS : (number + 1) * _METRICS],
            params=params[number * 100 : (number + 1) * 100],
            tags=tags[number * 100 : (number + 1) * 100],
        )


def _noted(run: Run, note: str, verdict: str) -> dict[str, str]:
    """Tags of a run with the gate's note at the end of its description, in place of an earlier one, and the verdict of
    a gate that stopped it at the end of its name."""
    lead = run.data.tags.get(_NOTE, "").partition(HEADING)[0].rstrip()
    tags = {_NOTE: "\n\n".join(filter(None, [lead, _linked(note, run.info.experiment_id, run.info.run_id)]))}
    name = _VERDICT.sub("", run.info.run_name)
    tags[_RUN_NAME] = name if verdict in ("", "pass") else f"{name} (gate: {verdict})"
    return tags


def linked(note: str, context: RunContext) -> str:
    """A note whose links to files lead to those of a run that was begun by `send`."""
    state = read_state(context.spool)
    return _linked(note, state["experiment_id"], state["run_id"])


def _linked(note: str, experiment: str, run: str) -> str:
    return note.replace("](run:", f"](#/experiments/{experiment}/runs/{run}/artifacts/")


def read_state(spool: Path) -> dict[str, Any]:
    """Record that a spool has of its MLflow run; empty before the first contact.

    Raises:
        ArtifactError: the record is damaged.
    """
    return summed_json.read(spool / STATE)


def remember(context: RunContext, **facts: Any) -> None:
    """Record facts about a run in MLflow that a later try must know."""
    with _locked(context.spool):
        summed_json.write(context.spool / STATE, read_state(context.spool) | facts)


@contextmanager
def _locked(spool: Path) -> Iterator[None]:
    spool.mkdir(parents=True, exist_ok=True)
    with FileLock(spool / "lock"):
        yield
