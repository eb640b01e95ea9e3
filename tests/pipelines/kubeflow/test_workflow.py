"""The nodes of a workflow, in answers that a real Kubeflow Pipelines gave (`recorded/`) and in broken ones."""

import json
from pathlib import Path

import kfp_server_api
import pytest

from pipelines.kubeflow import run_status
from pipelines.kubeflow.workflow import Archive, nodes_of, steps_of

RECORDED = Path(__file__).parent / "recorded"
ALL = ("ingest", "preprocess", "augment", "train", "evaluate", "gate", "register", "package")


def manifest(name):
    return json.loads((RECORDED / f"{name}.json").read_text())["v1beta1"]["pipeline_runtime"]["workflow_manifest"]


def steps(name, **options):
    return steps_of(nodes_of(json.dumps(manifest(name))), **options)


def run_of(name):
    content = json.loads((RECORDED / f"{name}.json").read_text())["v2beta1"]
    answer = type("Answer", (), {"data": json.dumps(content)})
    return kfp_server_api.ApiClient().deserialize(answer, "V2beta1Run")


@pytest.mark.parametrize(
    ("name", "states", "state", "verdict"),
    [
        ("passed", dict.fromkeys(ALL, "SUCCEEDED"), "SUCCEEDED", "pass"),
        ("stopped_by_gate", dict.fromkeys(ALL[:7], "SUCCEEDED"), "SUCCEEDED", "not passed"),
        ("cancelled", dict.fromkeys(ALL[:3], "SUCCEEDED") | {"train": "CANCELED"}, "CANCELED", ""),
        ("cancelled_while_waiting", dict.fromkeys(ALL[:3], "SUCCEEDED") | {"train": "CANCELED"}, "CANCELED", ""),
        ("ingest_failed", {"ingest": "FAILED"}, "FAILED", ""),
        ("waits_for_secret", {"ingest": "RUNNING"}, "RUNNING", ""),
        ("unschedulable", {"ingest": "RUNNING"}, "RUNNING", ""),
        ("image_absent", {"ingest": "RUNNING"}, "RUNNING", ""),
    ],
)
def test_each_recorded_run_has_the_states_that_it_had(name, states, state, verdict):
    run = run_of(name)
    assert run_status.state_of(run) == state
    assert run_status.verdict_of(run) == verdict
    assert {step.name: step.state for step in steps(name, is_canceled=state == "CANCELED").values()} == states


def test_a_run_that_is_written_before_its_tasks_has_passed_all_the_same():
    run = run_of("passed")
    for task in run.run_details.task_details:
        if (task.display_name or "").partition("(")[0] == "condition-1":
            task.state = "RUNNING"
    assert run_status.verdict_of(run) == "pass"


@pytest.mark.parametrize(
    ("endpoint", "source"), [("seaweedfs.kubeflow.svc:9000", "minio"), ("s3.eu-central-1.amazonaws.com", "s3")]
)
def test_a_log_is_archived_where_the_workflow_says(endpoint, source):
    content = manifest("passed")
    status = content["status"]
    pod = next(node for node in status["nodes"].values() if node["name"].endswith("train(0).executor(0)"))
    pod["outputs"] = {"artifacts": [{"name": "main-logs", "s3": {"key": "logs/main.log"}}]}
    assert steps_of(nodes_of(json.dumps(content)))["train"].archives == (None,)
    status["artifactRepositoryRef"] = {"artifactRepository": {"s3": {"endpoint": endpoint, "bucket": "logs-of-runs"}}}
    train = steps_of(nodes_of(json.dumps(content)))["train"]
    assert train.archives == (Archive(source, "logs-of-runs", "logs/main.log"),)


def test_a_step_has_the_times_and_the_pod_of_its_node():
    train = steps("passed")["train"]
    assert (train.ended - train.started).total_seconds() == 21
    assert train.pods == ("gapgate-training-r9ccz-metadata-0-2-retry-system-container-impl-876826284",)
    assert (train.exit_code, train.is_cached, train.is_waiting) == (0, False, False)


def test_the_pods_of_two_tries_are_told_with_the_last_one_first():
    train = steps("cancelled")["train"]
    assert train.pods == (
        "gapgate-training-x296h-metadata-0-2-retry-system-container-impl-3788754961",
        "gapgate-training-x296h-metadata-0-2-retry-system-container-impl-97929044",
    )
    assert train.exit_code == 143
    assert train.messages[:2] == ("main: Error (exit code 143)", "pod deleted")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("waits_for_secret", 'CreateContainerConfigError: secret "gapgate-absent" not found'),
        ("unschedulable", "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu"),
        ("image_absent", "ImagePullBackOff"),
    ],
)
def test_a_step_that_waits_says_for_what(name, said):
    ingest = steps(name)["ingest"]
    assert ingest.is_waiting
    assert ingest.messages[0].startswith(said)


def test_a_driver_that_failed_is_its_step_that_failed():
    content = manifest("waits_for_secret")
    nodes = content["status"]["nodes"]
    for key, node in list(nodes.items()):
        if ".ingest(" in node["name"] or node["name"].endswith(".ingest"):
            del nodes[key]
        elif ".ingest-driver" in node["name"]:
            node["phase"], node["message"] = "Failed", "driver: no such input"
    found = steps_of(nodes_of(json.dumps(content)))["ingest"]
    assert (found.state, found.messages) == ("FAILED", ("driver: no such input",))
    assert found.pods[0].startswith("gapgate-training-ppnvh-system-container-driver-")


def test_a_step_from_the_cache_has_succeeded_without_a_pod():
    content = manifest("passed")
    for node in content["status"]["nodes"].values():
        if ".train(0).executor" in node["name"]:
            node["type"], node["phase"] = "Skipped", "Skipped"
    train = steps_of(nodes_of(json.dumps(content)))["train"]
    assert (train.state, train.is_cached, train.pods) == ("SUCCEEDED", True, ())


def test_without_the_retry_of_all_templates_each_node_stands_once():
    content = manifest("passed")
    nodes = content["status"]["nodes"]
    for key, node in list(nodes.items()):
        if node["type"] == "Retry":
            del nodes[key]
        node["name"] = node["name"].replace("(0)", "")
    assert {step.state for step in steps_of(nodes_of(json.dumps(content))).values()} == {"SUCCEEDED"}


@pytest.mark.parametrize("name", sorted(path.stem for path in RECORDED.glob("*.json")))
@pytest.mark.parametrize("lost", ["message", "finishedAt", "startedAt", "templateName", "type", "name", "id", "phase"])
def test_a_field_that_is_absent_or_null_is_no_error(name, lost):
    for value in ("absent", None, 7):
        content = manifest(name)
        for node in content["status"]["nodes"].values():
            if value == "absent":
                node.pop(lost, None)
            else:
                node[lost] = value
        steps_of(nodes_of(json.dumps(content)))


@pytest.mark.parametrize("text", ["", "null", "[]", "{}", '{"metadata": {"name": "x"}, "status": {"nodes": null}}'])
def test_a_manifest_without_nodes_has_no_steps(text):
    assert nodes_of(text) == []
