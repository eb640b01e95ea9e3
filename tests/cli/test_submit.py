"""`gapgate submit`, on a server that speaks KFP's API."""

import getpass
import json
import re
import subprocess
import threading

import pytest
import yaml

from pipelines.kubeflow import connection, follow
from tests.pipelines.kubeflow.cluster_calls import DIGITS, WAIT, commit, git, only, serve_log
from tests.pipelines.kubeflow.kubernetes_server import kubernetes, node, pod
from tests.serving.registry_server import RegistryServer
from tests.waiting import wait_for


def test_submit_hands_over_settings_data_and_gpus(call, server, repository):
    arguments = ("--data-repository", repository.as_uri(), "--set", "train.epochs=3", "--experiment", "trial")
    code, out, _ = call("submit", *arguments, "--gpu", "amd.com/gpu=2", "--name", "first")
    run = only(server.runs)
    assert code == 0
    assert f"{server.url}/#/runs/details/{run['run_id']}" in out
    assert f"gapgate.run = {run['run_id']} in trial" in out
    given = run["runtime_config"]["parameters"]
    assert json.loads(given["train"])["epochs"] == 3
    assert (given["gpu_kind"], given["num_gpus"], given["experiment"]) == ("amd.com/gpu", 2, "trial")
    assert given["data_revision"] == git(repository, "rev-parse", "main")
    assert (run["display_name"], run["service_account"]) == ("first", "gapgate-pipeline")
    assert only(server.experiments)["display_name"] == "trial"
    assert only(server.pipelines)["description"].startswith("Train an image classifier")
    assert only(server.versions)["description"].startswith("images gapgate/step:")
    assert f"; submitted by {getpass.getuser()} at {server.url}; submission " in run["description"]


def test_the_name_of_a_run_is_short_enough_for_kfps_list(call, server):
    call("submit", *DIGITS)
    assert re.fullmatch(r"20\d{6}-\d{6}-[0-9a-f]{4}", only(server.runs)["display_name"])


@pytest.mark.parametrize("revision", ["main", "v1", "refs/heads/main", "HEAD"])
def test_a_branch_and_a_tag_become_the_commit(call, server, repository, revision):
    call("submit", "--data-repository", repository.as_uri(), "--data-rev", revision)
    assert only(server.runs)["runtime_config"]["parameters"]["data_revision"] == git(
        repository, "rev-parse", f"{revision}^{{commit}}"
    )


@pytest.fixture
def small_cluster(call, tmp_path, monkeypatch):
    """Let the command ask a cluster with one node of 4 cores, and the pods that are added to the list."""
    pods = [pod("kfp", on="kind", cpu="900m", memory="2Gi")]
    with kubernetes(tmp_path, [node("kind", cpu="4", memory="16Gi")], pods) as config:
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(config))
        yield pods


def test_submit_says_what_is_asked_of_the_cluster(call, server, small_cluster):
    code, out, _ = call("submit", *DIGITS)
    assert code == 0
    assert "cpu 2, memory 8.0 GiB at most, in train" in out


@pytest.mark.parametrize(
    ("gpu", "taken", "said"),
    [
        ("nvidia.com/gpu=1", {}, "train: it asks for cpu 2, memory 8.0 GiB, nvidia.com/gpu 1, and beside"),
        ("", {"cpu": "1500m"}, "kind has cpu 1.6, memory 14.0 GiB"),
    ],
)
def test_what_no_node_can_give_is_refused_at_once(call, server, small_cluster, gpu, taken, said):
    small_cluster.append(pod("other", on="kind", **taken))
    code, _, err = call("submit", *DIGITS, *(("--gpu", gpu) if gpu else ()))
    assert code == 2
    assert said in err
    assert not server.runs


def test_a_node_that_another_run_uses_now_is_waited_for(call, server, small_cluster):
    small_cluster.append(pod("other-train", on="kind", run="other", cpu="3"))
    assert call("submit", *DIGITS)[0] == 0


def test_a_wait_for_room_says_what_is_asked_and_what_is_free(call, server, small_cluster):
    server.plan = {"train": "PENDING"}
    server.messages = {"train": "Unschedulable: 0/1 nodes are available: 1 Insufficient cpu."}
    create = server.create_run

    def create_run(query, body):
        run = create(query, body)
        small_cluster.append(pod(server.workflows[run["run_id"]].pod("train"), cpu="2", memory="8Gi"))
        return run

    server.create_run = create_run
    _, out, _ = call("submit", *WAIT, "--pending-timeout", "0.1")
    assert "(it asks for cpu 2, memory 8.0 GiB; kind has cpu 3.1, memory 14.0 GiB free)" in " ".join(out.split())


def test_submit_twice_uploads_once_and_no_cache_is_another_version(call, server):
    assert "(uploaded)" in call("submit", *DIGITS)[1]
    assert "(unchanged)" in call("submit", *DIGITS)[1]
    assert "(uploaded)" in call("submit", *DIGITS, "--no-cache")[1]
    cached, uncached = (yaml.safe_dump(one["pipeline_spec"]) for one in server.versions.values())
    assert "enableCache: true" in cached
    assert "enableCache" not in uncached
    assert "not-packaged-yet" in cached
    assert "not-packaged-yet" not in uncached


@pytest.mark.parametrize(
    ("plan", "code", "last"),
    [
        ({}, 0, "package"),
        ({"gate": "fail"}, 3, "register"),
        ({"register": "known", "gate": "CACHED"}, 0, "register"),
        ({"evaluate": "FAILED"}, 1, "evaluate"),
        ({"resolve": "FAILED"}, 1, "resolve"),
    ],
)
def test_the_exit_code_of_wait_is_the_verdict(call, server, plan, code, last):
    server.plan = plan
    found, out, _ = call("submit", *WAIT)
    lines = [line.split() for line in out.splitlines() if line[:1] in "✓✗"]
    assert found == code
    assert lines[-1][:4] == ["✗" if code == 1 else "✓", last, "7.0", "s"]
    assert ("gate pass" in out) == (code == 0)
    assert ("gate not passed" in out) == (code == 3)


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        ("OOMKilled (exit code 137)", 1, "raise steps.train.memory_limit"),
        ("Pod was active on the node longer than the specified deadline", 1, "raise steps.train.timeout_s"),
        ("ErrImagePull: not found", 2, "check `images`"),
    ],
)
def test_a_failed_step_says_what_to_do(call, server, message, code, said):
    server.plan, server.messages = {"train": "FAILED"}, {"train": message}
    found, out, err = call("submit", *WAIT)
    assert (found, err) == (code, "")
    assert any(line.startswith("✗ train") and said in line for line in out.splitlines())


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        ("ImagePullBackOff: gapgate/train:9", 2, "gapgate/train:9"),
        ('CreateContainerConfigError: secret "s3" not found', 2, "kubectl -n kubeflow create secret generic s3"),
        ("CreateContainerConfigError: couldn't find key KEY in Secret kubeflow/s3", 2, "has no key KEY"),
        ("Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpuu.", 2, "check --gpu KIND=COUNT"),
        ("Unschedulable: 0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims.", 1, "its volume"),
        ('Unschedulable: persistentvolumeclaim "gapgate-workspace" not found.', 2, "the claim gapgate-workspace is"),
        (None, 1, "get pods,events"),
    ],
)
def test_a_step_that_does_not_begin_ends_the_wait(call, server, message, code, said):
    server.plan, server.messages = {"train": "PENDING"}, {"train": message}
    found, out, err = call("submit", *WAIT, "--pending-timeout", "0.1")
    assert found == code
    assert err.startswith("error: train: has been waiting")
    assert said in err
    assert "gapgate cancel" in out
    assert only(server.runs)["state"] == "RUNNING"


def test_a_run_that_is_not_reported_names_what_may_be_at_fault(call, server):
    create = server.create_run

    def create_run(query, body):
        run = create(query, body)
        server.workflows[run["run_id"]].advance = lambda: None
        return run

    server.create_run = create_run
    code, _, err = call("submit", *WAIT, "--pending-timeout", "0.1")
    assert code == 1
    assert err.startswith("error: pipeline: has been waiting")
    assert "rollout restart deployment/ml-pipeline-persistenceagent" in err


def test_what_resolve_lacks_is_mended_at_ingest_in_the_cluster_file(call, server):
    missing = 'CreateContainerConfigError: secret "gapgate-data" not found'
    server.plan, server.messages = {"resolve": "PENDING"}, {"resolve": missing}
    code, _, err = call("submit", *WAIT, "--pending-timeout", "0.1")
    assert code == 2
    assert err.startswith("error: resolve: has been waiting")
    assert "leave it out of steps.ingest.secrets" in err


@pytest.mark.parametrize(
    ("line", "code", "said"),
    [
        ("gapgate: train: error (exit code 2): no class has 2 images", 2, "no class has 2 images"),
        ("gapgate.errors.DataError: no class has 2 images", 2, "no class has 2 images"),
        ("gapgate.errors.TrackingError: http://mlflow does not answer", 4, "does not answer"),
        ("RuntimeError: CUDA error", 1, "RuntimeError: CUDA error"),
    ],
)
def test_what_the_step_said_itself_is_the_reason(call, server, line, code, said):
    server.plan = {"train": "FAILED"}
    log = f"Traceback (most recent call last):\n  File x\n{line}\nF1121 main.go:54] failed: exit status 1\n"
    serve_log(server, "train", log)
    found, out, _ = call("submit", *WAIT)
    assert found == code
    assert any(row.startswith("✗ train") and row.endswith(said) for row in out.splitlines())


def test_a_failure_without_a_reason_names_the_command_that_shows_the_log(call, server):
    server.plan = {"train": "FAILED"}
    code, out, _ = call("submit", *WAIT)
    assert code == 1
    assert f"kubectl -n kubeflow logs -l pipeline/runid={only(server.runs)['run_id']},gapgate/step=train" in out


def test_a_server_away_for_a_moment_does_not_end_the_wait(call, server):
    server.faults["get_run"] = [500, "drop", 503]
    assert call("submit", *WAIT)[0] == 0


def test_wait_ends_with_4_when_kfp_stays_away(call, server, monkeypatch):
    monkeypatch.setattr(connection, "_PAUSES_S", (0.01,))
    monkeypatch.setattr(follow.Pace.__init__, "__defaults__", (0.01, 600.0, 0.1))
    server.faults["get_run"] = [503] * 1000
    code, _, err = call("submit", *WAIT)
    assert code == 4
    assert "the run goes on" in err


def test_the_mlflow_run_is_found_by_the_kfp_run_and_closed_when_that_is_canceled(call, server, tmp_path, monkeypatch):
    mlflow = RegistryServer(tmp_path)
    mlflow.start()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow.url)
        from mlflow import MlflowClient

        client = MlflowClient(mlflow.url)
        create = server.create_run

        def create_run(query, body):
            run = create(query, body)
            found = client.get_experiment_by_name("gapgate")
            experiment = found.experiment_id if found else client.create_experiment("gapgate")
            made = client.create_run(experiment, tags={"gapgate.run": run["run_id"]})
            server.mlflow_run = f"#/experiments/{experiment}/runs/{made.info.run_id}"
            return run

        server.create_run = create_run
        code, out, _ = call("submit", *WAIT)
        assert code == 0
        assert out.count(f"{mlflow.url}/{server.mlflow_run}") == 1
        server.plan = {"train": "PENDING"}
        call("submit", *DIGITS)
        assert "its MLflow run is closed as KILLED" in call("cancel", list(server.runs)[-1])[1]
        assert client.get_run(server.mlflow_run.rpartition("/")[2]).info.status == "KILLED"
    finally:
        mlflow.stop()


def test_if_data_changed_compares_what_dvc_tracks_not_the_commit(call, server, repository):
    arguments = ("submit", "--if-data-changed", "--data-repository", repository.as_uri(), "--poll", "0.01")
    assert call(*arguments, "--wait")[0] == 0
    same = call(*arguments)
    commit(repository)
    still_same = call(*arguments)
    assert "nothing to do" in same[1]
    assert "nothing to do" in still_same[1]
    assert len(server.runs) == 1
    changed = commit(repository, "b")
    call(*arguments)
    assert list(server.runs.values())[-1]["runtime_config"]["parameters"]["data_revision"] == changed
    assert "is at work on" in call(*arguments)[1]
    assert len(server.runs) == 2


def test_a_failed_run_does_not_count_as_a_result(call, server, repository):
    arguments = ("submit", "--if-data-changed", "--data-repository", repository.as_uri(), "--poll", "0.01")
    server.plan = {"train": "FAILED"}
    assert call(*arguments, "--wait")[0] == 1
    assert call(*arguments)[0] == 0
    assert len(server.runs) == 2


def test_an_unknown_revision_is_said_before_a_run_starts(call, server, repository):
    code, _, err = call("submit", "--data-repository", repository.as_uri(), "--data-rev", "nope")
    assert code == 2
    assert "has no branch or tag nope" in err
    assert not server.runs


def test_a_folder_is_refused_with_the_url_of_its_remote(call, tmp_path, repository):
    subprocess.run(["git", "clone", "-q", repository.as_uri(), tmp_path / "clone"], check=True)
    _, _, err = call("submit", "--data-repository", tmp_path / "clone")
    assert f"--data-repository {repository.as_uri()}" in err


def test_a_run_that_somebody_cancels_ends_the_wait_with_1(call, server):
    server.plan = {"train": "PENDING"}

    def cancel():
        wait_for(lambda: server.calls.count("get_run") > 6)
        server.terminate_run({}, None, only(server.runs)["run_id"])

    thread = threading.Thread(target=cancel)
    thread.start()
    code, out, err = call("submit", *WAIT)
    thread.join()
    assert code == 1
    assert "✗ train" in out
    assert "CANCELED" in err
