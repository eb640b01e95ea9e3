"""`gapgate schedule`, `runs`, `logs`, `cancel` and `compile`, on a server that speaks KFP's API."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from pipelines.kubeflow import step_logs
from tests.pipelines.kubeflow.cluster_calls import DIGITS, WAIT, commit, only, serve_log
from tests.waiting import wait_for

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("submit", "--host", "kfp.example", *DIGITS), "is no URL"),
        (("submit", "--gpu", "nvidia", *DIGITS), "write it like nvidia.com/gpu=1"),
        (("submit", "--gpu", "nvidia.com/gpu=0", *DIGITS), "write it like nvidia.com/gpu=1"),
        (("submit", "--cluster", "none.yaml", *DIGITS), "cannot read none.yaml"),
        (("submit", "--set", "train.epoch=3", *DIGITS), "train.epoch"),
        (("submit",), "which the cluster cannot reach"),
        (("submit", "--data-source", "photos"), "which the cluster cannot reach"),
        (("submit", "--data-repository", "https://me:secret@git.example/x"), "holds a password"),
        (("submit", "--data-repository", "file:///nowhere"), "git cannot read file:///nowhere"),
        (("submit", "--data-source", "digits", "--data-rev", "main"), "takes no repository"),
        (("submit", "--if-data-changed", *DIGITS), "compares commits"),
        (("schedule", *DIGITS), "give --cron EXPR or --every TIME"),
        (("schedule", "--every", "6h", "--cron", "0 3 * * *", *DIGITS), "one of the two"),
        (("schedule", "--every", "often", *DIGITS), "write it like 30m"),
        (("schedule", "--cron", "0 3", *DIGITS), "has 2 fields"),
        (("schedule", "--delete", "none"), "there is no schedule none"),
        (("logs", "abc"), "no run abc"),
        (("logs", "abc", "trian"), "no step trian"),
        (("cancel", "abc"), "no run abc"),
        (("runs", "--experiment", "none"), "there is no experiment none"),
        (("compile", "-o", "pipeline.txt"), "ends with .yaml"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(call, server, arguments, said):
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert said in err
    assert not server.runs


def test_a_server_that_is_too_old_is_refused_and_one_without_a_version_is_not(call, server):
    server.version = "2.4.1"
    code, _, err = call("runs")
    assert code == 2
    assert "is Kubeflow Pipelines 2.4.1; 2.16 or newer is needed" in err
    for version in ("2.16.0", "2.17.0", "3.0.0-rc.1", "unknown"):
        server.version = version
        assert call("runs")[0] == 0


def test_without_a_host_it_is_asked_for(call, monkeypatch):
    monkeypatch.delenv("KF_PIPELINES_ENDPOINT")
    assert "Give --host URL" in call("runs")[2]


def test_a_schedule_is_made_once_and_replaced_when_it_changes(call, server):
    arguments = ("schedule", "--cron", "0 3 * * *", *DIGITS)
    call(*arguments)
    first = only(server.schedules)
    assert first["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert (first["max_concurrency"], first["no_catchup"], first["mode"]) == ("1", True, "ENABLE")
    assert "is there already" in call(*arguments)[1]
    assert only(server.schedules) is first
    call("schedule", "--every", "6h", *DIGITS)
    assert only(server.schedules)["trigger"] == {"periodic_schedule": {"interval_second": "21600"}}
    call("schedule", "--every", "1d", "--name", "daily", *DIGITS)
    out = call("schedule", "--list")[1]
    assert "21,600 s" in out
    assert "86,400 s" in out
    call("schedule", "--delete", "gapgate")
    assert only(server.schedules)["display_name"] == "daily"


def test_a_lost_answer_makes_no_second_schedule(call, server):
    server.faults["create_recurring_run"] = ["lose"]
    assert call("schedule", "--every", "6h", *DIGITS)[0] == 0
    assert len(server.schedules) == 1


def test_a_schedule_follows_the_branch_not_a_commit(call, server, repository):
    call("schedule", "--every", "6h", "--data-repository", repository.as_uri(), "--data-rev", "main")
    assert only(server.schedules)["runtime_config"]["parameters"]["data_revision"] == "main"
    assert call("schedule", "--every", "6h", "--data-repository", repository.as_uri(), "--data-rev", "no")[0] == 2


def test_a_watch_starts_a_run_when_the_data_changes(server, repository, tmp_path):
    code = "import typer; from cli.cluster.schedule import schedule; typer.run(schedule)"
    arguments = ["--when-data-changed", "--every", "1s", "--data-repository", repository.as_uri()]
    options = ["--host", server.url, "--cluster", ROOT / "infra" / "pipeline.yaml"]
    trace = tmp_path / "trace"
    # The developer's own cluster is not asked.
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GIT_TRACE": str(trace), "KUBECONFIG": str(tmp_path / "none")}
    watch = subprocess.Popen([sys.executable, "-c", code, *arguments, *options], cwd=tmp_path, env=environment)
    try:
        wait_for(lambda: len(server.runs) == 1)
        looks = trace.read_text().count("built-in: git ls-remote")
        wait_for(lambda: trace.read_text().count("built-in: git ls-remote") >= looks + 2)
        assert len(server.runs) == 1  # after one look more, at least, had ended
        changed = commit(repository, "changed")
        wait_for(lambda: len(server.runs) == 2)
        assert list(server.runs.values())[-1]["runtime_config"]["parameters"]["data_revision"] == changed
    finally:
        watch.send_signal(signal.SIGINT)
        assert watch.wait(60) == 130


def test_runs_are_listed_with_state_and_verdict(call, server):
    assert "there are no runs yet" in call("runs")[1]
    for plan in ({}, {"gate": "fail"}, {"train": "FAILED"}):
        server.plan = plan
        call("submit", *WAIT)
    rows = [line.split()[2:] for line in call("runs")[1].splitlines()[1:]]
    assert [row[0] for row in rows] == ["FAILED", "SUCCEEDED", "SUCCEEDED"]
    assert rows[1][1:3] == ["not", "passed"]
    assert rows[2][1] == "pass"
    assert all(row[-1] == "digits" for row in rows)
    assert len(call("runs", "--limit", "1")[1].splitlines()) == 2
    assert len(call("runs", "--experiment", "gapgate")[1].splitlines()) == 4


def test_a_log_is_that_of_the_step_and_without_one_kubectl_is_named(call, server):
    server.plan = {"train": "FAILED"}
    serve_log(server, "train", "I1126 08:32:59.293000      16 cache.go:89] Connecting\nepoch 1\nepoch 2\n")
    call("submit", *WAIT)
    run = only(server.runs)["run_id"]
    assert call("logs", run[:6])[1] == "epoch 1\nepoch 2\n"
    assert call("logs", run, "train")[1] == "epoch 1\nepoch 2\n"
    assert call("logs", run, "train", "--all")[1].startswith("I1126")
    assert "package of run" in call("logs", run, "package")[2]
    server.has_logs = False
    code, _, err = call("logs", run[:6])
    assert code == 2
    assert f"logs -l pipeline/runid={run},gapgate/step=train" in err


def test_the_log_of_a_pod_that_is_gone_comes_from_argos_archive(call, server):
    call("submit", *WAIT)
    run = only(server.runs)["run_id"]
    server.has_logs = False
    workflow = server.workflows[run]
    server.archived[f"mlpipeline/{workflow.name}/{workflow.pod('train')}/main.log"] = "epoch 1\n"
    assert call("logs", run, "train")[:2] == (0, "epoch 1\n")
    code, _, err = call("logs", run, "gate")
    assert code == 2
    assert f"logs -l pipeline/runid={run},gapgate/step=gate" in err


def test_a_log_is_followed_until_its_step_ends(call, server, monkeypatch):
    monkeypatch.setattr(step_logs, "_POLL_S", 0.01)
    server.plan = {"ingest": "PENDING"}
    call("submit", *DIGITS)
    run = only(server.runs)["run_id"]
    workflow = server.workflows[run]
    wait_for(lambda: workflow.advance() or workflow.nodes)
    pod, looks = workflow.pod("ingest"), []

    def grow():
        looks.append(1)
        server.logs[pod] = "".join(f"line {number}\n" for number in range(len(looks))) + "half"
        if len(looks) == 4:
            workflow.plan = {}
        type(workflow).advance(workflow)

    workflow.advance = grow
    out = call("logs", run, "ingest", "--follow")[1]
    assert out.splitlines()[:4] == ["line 0", "line 1", "line 2", "line 3"]
    assert out.count("line 0") == 1
    assert out.endswith("half")


def test_a_later_try_has_the_log(call, server):
    call("submit", *WAIT)
    run = only(server.runs)["run_id"]
    workflow = server.workflows[run]
    first = next(node for node in workflow.nodes.values() if node["name"].endswith(".package(0).executor(0)"))
    path = first["name"].replace("executor(0)", "executor(1)")
    advance = workflow.advance
    workflow.advance = lambda: (advance(), workflow._node(path, first["templateName"], "Pod", "Succeeded", 7, 8))
    server.logs |= {workflow.pod("package", attempt): f"try {attempt}\n" for attempt in (0, 1)}
    assert call("logs", run[:6], "package")[1] == "try 1\n"


def test_cancel_ends_a_run_once(call, server):
    server.plan = {"train": "PENDING"}
    call("submit", *DIGITS)
    run = only(server.runs)["run_id"]
    said = call("cancel", run[:8])[1]
    assert "is being canceled" in said
    assert "by the cluster's job gapgate-close-runs" in said
    assert "or here where MLFLOW_TRACKING_URI names" in said
    assert "has ended already: CANCELED" in call("cancel", run[:8])[1]
    assert server.calls.count("terminate_run") == 1


def test_a_run_whose_workflow_was_deleted_is_canceled_as_often_as_one_asks(call, server):
    run = server.record("waits_for_secret")
    for _ in range(2):
        code, said, *_ = call("cancel", run)
        assert code == 0, said
        assert "is being canceled" in said
        assert "by the cluster's job gapgate-close-runs" in said
    assert server.runs[run]["state"] == "CANCELING"


def test_compile_writes_what_submit_uploads(call, server):
    assert call("compile", "-o", "made/pipeline.yaml")[0] == 0
    call("submit", *DIGITS)
    spec, platform = yaml.safe_load_all(Path("made/pipeline.yaml").read_text())
    assert only(server.versions)["pipeline_spec"] == {"pipeline_spec": spec, "platform_spec": platform}
