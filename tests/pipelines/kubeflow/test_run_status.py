"""State, verdict, duration and reason of a run, from what KFP, Argo, Kubernetes and the log of a step say."""

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest
from kfp_server_api import V2beta1PipelineTaskDetail as Task
from kfp_server_api import V2beta1Run as Run
from kfp_server_api import V2beta1RunDetails as Details
from kfp_server_api import V2beta1RuntimeStatus as Past

from pipelines.kubeflow.run_status import Failure, Status, failure_of, seconds_of, state_of, verdict_of, waiting_reason
from pipelines.kubeflow.workflow import Step
from tests.pipelines.kubeflow.kubernetes_server import kubernetes, node, pod


def step(name, state="FAILED", *messages, **more):
    return Step(name, state, None, None, messages=messages, **more)


def failure(*steps, log="", error=None):
    """The failure of a run with these steps, of which the one that failed has this log."""
    kfp = SimpleNamespace(
        pod_namespace="teams",
        log=lambda run_id, failed: log,
        run_url=lambda run_id: f"http://kfp/{run_id}",
        logs_command=lambda run_id, failed: f"kubectl logs {failed.name}",
    )
    run = Run(run_id="r1", state="FAILED", error=error and SimpleNamespace(message=error))
    return failure_of(kfp, Status(run, {one.name: one for one in steps}))


@pytest.mark.parametrize(
    ("state", "past", "found"),
    [
        ("FAILED", ["RUNNING", "CANCELING", "FAILED"], "CANCELED"),
        ("FAILED", ["RUNNING", "FAILED"], "FAILED"),
        ("SUCCEEDED", ["RUNNING", "CANCELING", "SUCCEEDED"], "SUCCEEDED"),  # it was faster
        ("CANCELING", ["RUNNING", "CANCELING"], "CANCELING"),
        ("RUNNING", None, "RUNNING"),
        (None, None, "PENDING"),
    ],
)
def test_a_run_is_canceled_if_it_was_asked_to_and_did_not_succeed(state, past, found):
    history = past and [Past(state=each) for each in past]
    assert state_of(Run(state=state, state_history=history)) == found


@pytest.mark.parametrize(
    ("state", "tasks", "verdict"),
    [
        ("SUCCEEDED", [("gate", "SUCCEEDED"), ("condition-1", "SUCCEEDED")], "pass"),
        ("SUCCEEDED", [("condition-1", "RUNNING")], "pass"),
        ("SUCCEEDED", [("condition-1", "SUCCEEDED"), ("condition-2", "SKIPPED")], "pass"),
        ("SUCCEEDED", [("gate", "SUCCEEDED"), ("condition-1", "SKIPPED")], "not passed"),
        ("SUCCEEDED", [("my-condition-1", "SUCCEEDED"), ("condition-1-driver", "SUCCEEDED"), (None, "SUCCEEDED")],
         "not passed"),
        ("SUCCEEDED", [], ""),
        ("FAILED", [("condition-1", "SUCCEEDED")], ""),
        ("RUNNING", [("condition-1", "RUNNING")], ""),
    ],
)  # fmt: skip
def test_a_run_passed_if_the_condition_behind_its_gate_held(state, tasks, verdict):
    details = Details(task_details=[Task(display_name=name, state=held) for name, held in tasks])
    assert verdict_of(Run(state=state, run_details=details)) == verdict


def test_a_run_without_details_has_no_verdict():
    assert verdict_of(Run(state="SUCCEEDED")) == ""


def test_a_duration_ends_with_the_run():
    began, never = datetime(2026, 11, 28, 12, 0, 0, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)
    ended = datetime(2026, 11, 28, 12, 1, 30, 500_000, tzinfo=UTC)
    assert seconds_of(Run(created_at=began, finished_at=ended)) == 90.5
    assert seconds_of(Run(created_at=began, finished_at=never)) is None
    assert seconds_of(Run(created_at=began)) is None
    assert seconds_of(Run(created_at=never, finished_at=ended)) is None


@pytest.mark.parametrize(
    ("said", "words", "exit_code"),
    [
        ('Back-off pulling image "a:1": ImagePullBackOff', "its image cannot be pulled", 2),
        ("Failed to apply default image tag: InvalidImageName", "its image cannot be pulled", 2),
        ('Error: secret "git-token" not found', "kubectl -n teams create secret generic git-token", 2),
        ("Error: couldn't find key token in Secret teams/git", "its Secret has no key token", 2),
        ("CreateContainerConfigError", "is not as the cluster file says", 2),
        ('persistentvolumeclaim "work" not found', "the claim work is missing in the namespace teams", 2),
        ("pod has unbound immediate PersistentVolumeClaims", "kubectl -n teams describe pvc", 1),
        ("OOMKilled", "raise steps.train.memory_limit", 1),
        ("Error (exit code 137)", "raise steps.train.memory_limit", 1),
        ("0/2 nodes are available: 2 Insufficient nvidia.com/gpu", "no node has free what it asks for", 2),
        ("Pod was active on the node longer than the specified deadline", "raise steps.train.timeout_s", 1),
    ],
)
def test_what_kubernetes_says_comes_with_its_remedy(said, words, exit_code):
    found = failure(step("train", "FAILED", "first words", said), log="gapgate: train: error (exit code 2): too large")
    assert found.step == "train"
    assert words in found.message
    assert found.message.endswith(f" (first words; {said})")
    assert found.exit_code == exit_code


def test_of_several_causes_the_one_before_counts_and_long_words_are_cut():
    found = failure(step("train", "FAILED", "ErrImagePull", "OOMKilled", "x" * 400))
    assert found.message.startswith("its image cannot be pulled")
    assert found.message.endswith("x)")
    assert len(found.message.partition(" (")[2]) == 300 + len(")")


def test_the_place_of_resolve_in_the_cluster_file_is_that_of_ingest():
    assert "raise steps.ingest.memory_limit" in failure(step("resolve", "FAILED", "OOMKilled")).message
    assert failure(step("resolve", "FAILED", "OOMKilled")).step == "resolve"


def test_the_first_step_that_failed_is_named():
    found = failure(step("ingest", "SUCCEEDED"), step("train"), step("evaluate"), log="ValueError: no")
    assert found.step == "train"


@pytest.mark.parametrize(
    ("log", "message", "exit_code"),
    [
        ("gapgate: train: error (exit code 75): away\ngapgate: train: error (exit code 2): too large", "too large", 2),
        ("gapgate.errors.TrackingError: http://mlflow does not answer", "http://mlflow does not answer", 4),
        ("gapgate.errors.SettingsError: too large", "too large", 2),
        ("gapgate.errors.OfAnotherVersionError: too large", "too large", 1),
        # The first one was handled, and the second followed from it.
        ("ValueError: handled\n\nDuring handling …\nos.LaterError: no", "os.LaterError: no", 1),
        ("note: ValueError: in the middle of a line", "kubectl logs train shows its log", 1),
        ("", "kubectl logs train shows its log", 1),
    ],
)
def test_else_the_log_tells_by_its_last_error(log, message, exit_code):
    assert failure(step("train"), log=log) == Failure("train", message, exit_code)


def test_words_without_a_remedy_come_with_the_command_for_the_log():
    said = failure(step("train", "FAILED", "Error (exit code 1)", "child failed"))
    assert said.message == "Error (exit code 1); child failed; its log says more: kubectl logs train"


def test_a_run_that_failed_outside_its_steps_says_what_kfp_says():
    assert failure(error=" no \n such  pipeline ") == Failure("pipeline", "no such pipeline")
    assert failure() == Failure("pipeline", "ended as FAILED; http://kfp/r1 shows where")


def test_a_step_waits_for_a_reason_only_where_there_is_a_remedy():
    kfp = SimpleNamespace(pod_namespace="teams")
    assert waiting_reason(kfp, step("train", "PENDING", "ContainerCreating")) is None
    assert "its image cannot be pulled" in waiting_reason(kfp, step("train", "PENDING", "ErrImagePull")).message


def test_a_step_without_room_says_what_it_asks_for_and_what_three_nodes_have(tmp_path, monkeypatch):
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    said = "0/4 nodes are available: 4 Insufficient cpu"
    nodes = [node(f"n{number}", cpu=f"{number}", memory="2Gi") for number in (1, 2, 3, 4)]
    kfp = SimpleNamespace(pod_namespace="kubeflow")
    waiting = step("train", "PENDING", said, pods=("train-2", "train-1"))
    with kubernetes(tmp_path, nodes, [pod("train-2", cpu="8", memory="1Gi"), pod("train-1", cpu="9")]) as config:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        found = waiting_reason(kfp, waiting).message
    free = "; ".join(f"n{number} has cpu {number}, memory 2.0 GiB free" for number in (1, 2, 3))
    assert found == (
        "no node has free what it asks for; check --gpu KIND=COUNT, and steps.train in the cluster file: requests, "
        f"node_selector and tolerations (it asks for cpu 8, memory 1.0 GiB; {free}) ({said})"
    )


def test_the_first_waiting_step_is_the_one_that_waits():
    steps = [step("ingest", "SUCCEEDED"), step("train", "PENDING", is_waiting=True), step("evaluate", is_waiting=True)]
    assert Status(Run(), {one.name: one for one in steps}).waiting.name == "train"
    assert Status(Run(), {"ingest": steps[0]}).waiting is None
