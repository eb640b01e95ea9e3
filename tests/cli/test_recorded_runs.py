"""Every command that looks at a run, on the answers of a real Kubeflow Pipelines for eight runs."""

import json
import re

import pytest

from tests.pipelines.kubeflow.kfp_server import RECORDED

NAMES = sorted(path.stem for path in RECORDED.glob("*.json"))


@pytest.mark.parametrize(
    ("name", "code", "said"),
    [
        ("passed", 0, "gate pass"),
        ("stopped_by_gate", 3, "gate not passed"),
        ("cancelled", 1, "CANCELED"),
        ("cancelled_while_waiting", 1, "CANCELED"),
        ("ingest_failed", 2, "Git failed to fetch ref"),
        ("waits_for_secret", 2, "kubectl -n kubeflow create secret generic gapgate-absent"),
        ("unschedulable", 2, "no node has free what it asks for"),
        ("image_absent", 2, "check `images` in the cluster file"),
    ],
)
def test_following_ends_as_the_run_did(call, server, monkeypatch, name, code, said):
    monkeypatch.setattr("pipelines.kubeflow.follow.Pace.__init__.__defaults__", (0.01, 0.1, 300.0))
    run = server.record(name)
    found, out, err = call("runs", "--follow", run)
    assert found == code
    assert said in out + err


@pytest.mark.parametrize("name", NAMES)
def test_a_log_is_shown_or_said_to_be_absent(call, server, name):
    run = server.record(name)
    code, out, err = call("logs", run, "ingest")
    if name == "passed":  # its step printed nothing of its own
        assert (code, out, err) == (0, "", "")
        assert "launcher_v2.go" in call("logs", run, "ingest", "--all")[1]
    elif name == "ingest_failed":
        assert code == 0
        assert out.splitlines()[-1].startswith("gapgate.errors.DataError: DVC cannot get data")
        assert "launcher_v2.go" not in out
    else:
        assert code == 2
        assert "ingest" in err


def test_the_log_of_a_driver_that_failed_is_named_by_its_pod(call, server):
    """Its pod has no label of the step."""
    run = server.record("waits_for_secret")
    view = server.recorded[run]["pipeline_runtime"]
    content = json.loads(view["workflow_manifest"])
    nodes = content["status"]["nodes"]
    for key, node in list(nodes.items()):
        if ".ingest(" in node["name"] or node["name"].endswith(".ingest"):
            del nodes[key]
        elif ".ingest-driver" in node["name"]:
            node["phase"] = "Failed"
    view["workflow_manifest"] = json.dumps(content)
    code, _, err = call("logs", run, "ingest")
    assert code == 2
    assert re.search(r"try `kubectl -n kubeflow logs gapgate-training-\w+-system-container-driver-\d+ -c main`", err)


@pytest.mark.parametrize("answer", [None, ""])
def test_an_empty_answer_of_the_ui_is_no_log(call, server, answer):
    """It gives one with status 200 for a pod that is gone."""
    server.log_of_ui = answer
    code, out, err = call("logs", server.record("cancelled"), "ingest")
    assert (code, out) == (2, "")
    assert "has no log of ingest" in err


def test_a_log_that_the_ui_has_is_shown(call, server):
    server.log_of_ui = "gapgate: ingest: done\n"
    assert call("logs", server.record("cancelled"), "ingest")[:2] == (0, server.log_of_ui)


def test_the_list_has_them_all_with_state_and_verdict(call, server):
    for name in NAMES:
        server.record(name)
    rows = {line.split()[1]: line for line in call("runs", "--all")[1].splitlines()[1:]}
    assert len(rows) == len(NAMES)
    assert "CANCELED" in rows["preempt2"]
    assert "not passed" in rows["gapgate-20261126-091400-d241"]


def test_the_runs_of_other_pipelines_are_not_listed(call, server):
    run = server.runs[server.record("passed")]
    server.record("stopped_by_gate")
    ours = "6b21d0b4-e1aa-4b30-8536-110deb95411e"
    server.pipelines[ours] = {"pipeline_id": ours, "display_name": "gapgate-training", "created_at": run["created_at"]}
    run["pipeline_version_reference"] = {"pipeline_id": "another"}
    assert run["display_name"] not in call("runs")[1]
    assert "gapgate-20261126-091400-d241" in call("runs")[1]
    assert run["display_name"] in call("runs", "--all")[1]


def test_a_run_that_has_ended_is_not_canceled(call, server):
    assert "has ended already: CANCELED" in call("cancel", server.record("cancelled"))[1]
    assert "terminate_run" not in server.calls
