"""Runs on a real cluster: the way of a model from `submit` to an answer, and what may befall a run."""

import contextlib
import io
import re
import time

import numpy as np
import pytest
import requests
from PIL import Image

from tests.cluster.platform import GAPGATE, KFP, Done, run_at_once, until

STEPS = ("ingest", "preprocess", "augment", "train", "evaluate", "gate", "register", "package")
SHORT = ("--set", "train.epochs=3")
NEW = ("--set", f"preprocess.salt=new-{time.time_ns()}")


def a_long_one():
    """Settings of a training of a minute and more that no run before has begun: it would go on at its checkpoint."""
    seed = f"train.seed={time.time_ns() % 2**31}"
    return "--set", "train.epochs=400", "--set", "train.architecture=tutorial", "--set", seed


def a_digit():
    png = io.BytesIO()
    Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(png, "PNG")
    return png.getvalue()


def begun(platform, *arguments, **options):
    """Start a run and return its id."""
    done = platform.gapgate("submit", "--data-source", "digits", *arguments, **options)
    assert done.code == 0, done.out
    return done.run


def ended(platform, run):
    return platform.gapgate("runs", "--follow", run)


@pytest.fixture(scope="module")
def first(platform):
    """The first run, with the project's own settings and a split of the images that no run before had."""
    done = platform.submit(*NEW)
    assert done.code == 0, done.out
    return done


def test_the_first_run_ends_with_a_champion_that_is_served(platform, first):
    lines = [line for line in first.out.splitlines() if line.startswith("✓")]
    assert [line.split()[1] for line in lines] == ["resolve", *STEPS]
    assert "val" in lines[4]
    assert "gap" in lines[5]
    assert re.search(r"^pass +max_gap_points", first.out, re.MULTILINE)
    assert re.search(r"^receipt sha256:[0-9a-f]{64}$", first.out, re.MULTILINE)
    assert f"{platform.mlflow_url}/#/experiments/" in first.out
    until(lambda: platform.served_version() == platform.champion())
    assert platform.predict(a_digit()).json()["class"] in "0123456789"
    print(f"first run: {first.seconds:.0f} s")


def test_the_steps_passed_the_restricted_pod_security(platform, first):
    for name in platform.pods(first.run):
        spec = platform.kubectl("-n", KFP, "get", name, "-o", "jsonpath={.spec.containers[*].securityContext}")
        assert spec.count('"allowPrivilegeEscalation":false') == 2
        assert '"drop":["ALL"]' in spec


def test_a_second_identical_run_has_two_pods(platform, first):
    versions = len(platform.mlflow().search_model_versions("name = 'gapgate'"))
    done = platform.submit(*NEW)
    assert done.code == 0, done.out
    assert len(platform.pods(done.run)) <= 2
    assert done.out.count("from the cache") >= 6
    assert len(platform.mlflow().search_model_versions("name = 'gapgate'")) == versions
    print(f"second run: {done.seconds:.0f} s")


def test_each_step_has_its_log_after_the_run(platform, first):
    for step in STEPS:
        done = platform.gapgate("logs", first.run, step)
        if step == "ingest" and done.code == 2:  # of an earlier run, on a cluster that is not new
            assert "its result is from the cache" in done.out
            continue
        assert done.code == 0, done.out
        assert re.search(rf"^gapgate: {step}: done in", done.out, re.MULTILINE), done.out
        assert "launcher_v2.go" not in done.out
    assert platform.gapgate("logs", first.run, "train").out.count("gapgate: train: epoch") == 20
    assert "launcher_v2.go" in platform.gapgate("logs", first.run, "train", "--all").out


def test_the_gate_stops_a_model_and_nothing_is_promoted(platform, first):
    champion = platform.champion()
    done = platform.submit(*SHORT, "--set", "gate.max_gap_points=-50")
    assert done.code == 3, done.out
    assert re.search(r"^fail +max_gap_points", done.out, re.MULTILINE)
    assert platform.champion() == champion
    assert platform.mlflow_run(done.run).info.status == "FINISHED"


def test_the_list_has_our_runs_alone_with_their_verdicts(platform, first):
    rows = {line.split()[0]: line for line in platform.gapgate("runs").out.splitlines()[1:]}
    assert "pass" in rows[first.run[:8]]


def test_a_secret_that_is_absent_is_said_within_ten_seconds_and_cancel_closes_all(platform):
    def ask_for_a_secret(content):
        content["steps"]["ingest"]["secrets"] = {"gapgate-absent": {"KEY": "KEY"}}

    cluster = platform.changed(ask_for_a_secret)
    lines = platform.lines_until("create secret", "submit", "--data-source", "digits", "--wait", cluster=cluster)
    run = Done(0, "".join(lines), 0).run
    assert "resolve waits: the Secret gapgate-absent is missing" in lines[-1]
    assert platform.seconds_since_pod(run, "resolve") <= 10
    assert platform.gapgate("cancel", run).code == 0
    assert ended(platform, run).code == 1
    assert "CANCELED" in platform.gapgate("runs").out


def test_what_no_node_can_give_is_refused_and_where_it_cannot_be_known_it_is_said(platform, monkeypatch):
    def ask_for_a_thousand_cores(content):
        content["steps"]["ingest"] |= {"cpu_request": "1000", "cpu_limit": "1000"}

    cluster = platform.changed(ask_for_a_thousand_cores)
    done = platform.gapgate("submit", "--data-source", "digits", cluster=cluster)
    assert done.code == 2
    assert "no node can ever run resolve: it asks for cpu 1000" in done.out
    monkeypatch.setenv("KUBECONFIG", "/dev/null")
    lines = platform.lines_until(" waits: ", "submit", "--data-source", "digits", "--wait", cluster=cluster)
    monkeypatch.undo()
    assert "no node has free what it asks for" in lines[-1]
    assert platform.gapgate("cancel", Done(0, "".join(lines), 0).run).code == 0


def test_an_image_that_cannot_be_pulled_is_said(platform):
    def name_another_image(content):
        content["images"] = {"step": "gapgate/absent:1", "train": "gapgate/absent:1"}

    cluster = platform.changed(name_another_image)
    done = platform.submit("--pending-timeout", "30", cluster=cluster)
    assert done.code == 2
    assert "check `images` in the cluster file" in done.out
    platform.gapgate("cancel", done.run)


@pytest.mark.parametrize("step", ["ingest", "train", "register"])
def test_a_run_that_is_canceled_in_a_step_is_closed_as_killed(platform, step):
    run = begun(platform, *(a_long_one() if step == "train" else SHORT), "--no-cache")
    until(lambda: platform.running(run, step), 900)
    assert platform.gapgate("cancel", run).code == 0
    assert ended(platform, run).code == 1
    until(lambda: platform.mlflow_run(run).info.status == "KILLED", 120)


def kill_as_the_kernel_does_without_memory(platform, run):
    """Send SIGKILL to all processes of a training but Argo's own."""
    pod = platform.running(run, "train")
    platform.kubectl("-n", KFP, "exec", pod, "-c", "main", "--", "python", "-c", "import os; os.kill(-1, 9)")


def cancel_as_the_pages_do(platform, run):
    requests.post(f"{platform.host}/apis/v2beta1/runs/{run}:terminate", timeout=60).raise_for_status()
    with contextlib.suppress(AssertionError):  # the pod may have ended by now
        kill_as_the_kernel_does_without_memory(platform, run)


@pytest.mark.parametrize(
    ("befall", "status"), [(kill_as_the_kernel_does_without_memory, "FAILED"), (cancel_as_the_pages_do, "KILLED")]
)
def test_a_run_that_no_step_could_close_is_closed_by_the_job(platform, befall, status):
    run = begun(platform, *a_long_one(), "--no-cache")
    until(lambda: "epoch 1/" in platform.gapgate("logs", run, "train").out, 900)
    befall(platform, run)
    assert ended(platform, run).code == 1
    name = f"close-{time.time_ns()}"
    platform.kubectl("-n", KFP, "create", "job", name, "--from=cronjob/gapgate-close-runs")
    platform.kubectl("-n", KFP, "wait", "--for=condition=Complete", f"job/{name}", "--timeout=5m")
    platform.kubectl("-n", KFP, "delete", "job", name)
    assert platform.mlflow_run(run).info.status == status


def test_the_log_of_a_training_is_followed_while_it_runs(platform):
    run = begun(platform, *a_long_one())
    until(lambda: platform.running(run, "train"), 600)
    lines = platform.lines_until("gapgate: train: epoch", "logs", run, "train", "--follow", count=3)
    still_running = platform.running(run, "train")
    platform.gapgate("cancel", run)
    assert len(lines) >= 3
    assert still_running


def test_a_run_that_loses_the_pod_of_each_step_passes(platform):
    run = begun(platform, "--no-cache", "--set", f"preprocess.salt=lost-{time.time_ns()}")
    lost = {}
    for step in STEPS:
        until(lambda step=step: platform.running(run, step), 900)
        lost[step] = platform.uid(*platform.pods(run, step))
        platform.kubectl("-n", KFP, "delete", *platform.pods(run, step), "--grace-period=0", "--force")
    done = ended(platform, run)
    assert done.code == 0, done.out
    for step in STEPS:  # where Argo had not seen it run yet, it makes the pod again by the same name
        assert platform.uid(*platform.pods(run, step)) != lost[step]
    assert len(platform.mlflow().search_model_versions(f"run_id = '{platform.mlflow_run(run).info.run_id}'")) == 1


def test_a_lost_training_goes_on_at_its_epoch_and_its_curve_has_no_double(platform):
    run = begun(platform, "--set", "train.epochs=60", "--set", "train.architecture=tutorial", "--no-cache")
    until(lambda: "epoch 5/" in platform.gapgate("logs", run, "train").out, 900)
    platform.kubectl("-n", KFP, "delete", platform.running(run, "train"), "--grace-period=0", "--force")
    done = ended(platform, run)
    assert done.code in (0, 3), done.out
    history = platform.mlflow().get_metric_history(platform.mlflow_run(run).info.run_id, "val/loss")
    assert sorted(one.step for one in history) == list(range(1, 61))


def test_mlflow_away_for_two_minutes_costs_no_run(platform):
    platform.kubectl("-n", GAPGATE, "scale", "deployment", "mlflow", "--replicas=0")
    began = time.monotonic()
    try:
        run = begun(platform, *SHORT, "--no-cache", "--set", "train.seed=21")
        until(lambda: time.monotonic() - began > 120)
    finally:
        platform.kubectl("-n", GAPGATE, "scale", "deployment", "mlflow", "--replicas=1")
    done = ended(platform, run)
    assert done.code in (0, 3), done.out
    # Three epochs may not pass the gate, which is a result too; no run is left RUNNING.
    assert platform.mlflow_run(run).info.status == "FINISHED"


def test_two_runs_at_once_leave_the_better_model_as_champion(platform):
    worse = ("--set", "train.epochs=1", "--set", "gate.min_test_accuracy=0", "--set", "gate.min_class_recall=0")
    loose = ("--set", "gate.max_ece=1", "--set", "gate.max_gap_points=100")
    good, bad = run_at_once(
        [
            lambda: platform.submit("--no-cache", "--set", "train.seed=31"),
            lambda: platform.submit("--no-cache", *worse, *loose),
        ]
    )
    assert good.code == 0, good.out
    assert bad.code == 0, bad.out
    of_bad = platform.mlflow_run(bad.run).data.tags["model.version"]
    assert platform.champion() != of_bad


def test_a_schedule_fires_one_run_at_a_time_and_ends(platform):
    before = {line.split()[0] for line in platform.gapgate("runs", "-n", "50").out.splitlines()[1:]}
    arguments = ("--every", "20s", "--name", "tick", "--data-source", "digits", *SHORT)
    assert platform.gapgate("schedule", *arguments).code == 0
    try:

        def new():
            lines = platform.gapgate("runs", "-n", "50").out.splitlines()[1:]
            return [line for line in lines if line.split()[0] not in before]

        until(lambda: len(new()) >= 2, 600)
        assert sum("RUNNING" in line or "PENDING" in line for line in new()) <= 1
    finally:
        assert platform.gapgate("schedule", "--delete", "tick").code == 0
    assert "there are no schedules" in platform.gapgate("schedule", "--list").out
