"""`kfp.Client` against a server that holds every request to KFP's published API."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from kfp_server_api import Configuration

from gapgate.errors import ClusterAwayError, ClusterError, SettingsError
from pipelines.kubeflow import connection
from pipelines.kubeflow.client import Kfp, Submission
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.compiler import compile_pipeline
from pipelines.kubeflow.connection import Access, Client
from tests.pipelines.kubeflow.kfp_server import serving
from tests.waiting import wait_for

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(ClusterSettings.from_file(ROOT / "infra" / "pipeline.yaml"), path)
    return path


@pytest.fixture
def server():
    with serving() as server:
        yield server


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(connection, "_PAUSES_S", (0.01, 0.02))


def submission(note="one", name="run", **parameters):
    return Submission(name, "tests", {"data_source": "digits"} | parameters, "gapgate-pipeline", note)


def started(server, package, count=1):
    kfp = Kfp(Access(server.url))
    version = kfp.upload(package)
    return kfp, [kfp.submit(version, submission(str(number))).run_id for number in range(count)]


def post(url, content):
    with urlopen(Request(url, json.dumps(content).encode(), {"Content-Type": "application/json"})) as answer:
        return json.load(answer)


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("experiments", {"display_name": "a", "colour": "red"}, "colour is not a field of V2beta1Experiment"),
        ("experiments", {"display_name": 1}, "display_name is not str"),
        ("experiments?size=1", {"display_name": "a"}, "takes no"),
        ("runs", {"display_name": "a", "state": "MAYBE"}, "state is not one of"),
        ("runs", {"display_name": "a", "runtime_config": {"params": {}}}, "params is not a field"),
    ],
)
def test_the_server_refuses_what_the_published_api_does_not_allow(server, path, body, said):
    with pytest.raises(HTTPError) as caught:
        post(f"{server.url}/apis/v2beta1/{path}", body)
    assert caught.value.code == 400
    assert said in caught.value.read().decode()


def test_a_pipeline_is_uploaded_once_and_again_when_it_changes(server, package, tmp_path):
    kfp = Kfp(Access(server.url))
    first, second = kfp.upload(package), kfp.upload(package)
    changed = tmp_path / "pipeline.yaml"
    changed.write_text(package.read_text().replace("memory_limit", "memory_limit") + "# changed\n")
    third = kfp.upload(changed)
    assert (first.is_new, second.is_new, third.is_new) == (True, False, True)
    assert first.version_id == second.version_id != third.version_id
    assert server.calls.count("upload_pipeline_version") == 2
    assert len(server.pipelines) == 1


def test_uploads_at_once_make_one_pipeline_and_one_version(server, package):
    connections = [Kfp(Access(server.url)) for _ in range(4)]
    barrier = threading.Barrier(len(connections))

    def upload(kfp):
        barrier.wait()
        return kfp.upload(package).version_id

    with ThreadPoolExecutor(len(connections)) as pool:
        assert len(set(pool.map(upload, connections))) == 1
    assert len(server.pipelines) == len(server.versions) == 1


@pytest.mark.parametrize("faults", [[503, 500], ["drop"], [429, "lose"]])
def test_a_request_that_reads_is_tried_again(server, package, faults):
    kfp, (run,) = started(server, package)
    server.faults["get_run"] = list(faults)
    assert kfp.run(run).run_id == run


@pytest.mark.parametrize("fault", [503, "drop", "lose"])
@pytest.mark.parametrize(
    ("call", "kept"),
    [
        ("create_pipeline", "pipelines"),
        ("upload_pipeline_version", "versions"),
        ("create_experiment", "experiments"),
        ("create_run", "runs"),
    ],
)
def test_after_an_unclear_failure_nothing_is_made_twice(server, package, call, kept, fault):
    server.faults[call] = [fault]
    _, (run,) = started(server, package)
    assert len(getattr(server, kept)) == 1
    assert server.calls.count(call) == 1
    assert list(server.runs) == [run]


def test_runs_of_one_name_are_told_apart_after_a_lost_answer(server, package):
    kfp, (first,) = started(server, package)
    server.faults["create_run"] = ["lose"]
    second = kfp.submit(kfp.upload(package), submission("two")).run_id
    assert {first, second} == set(server.runs)


def test_a_request_without_an_answer_ends_and_is_not_sent_again(server, package, monkeypatch):
    kfp, _ = started(server, package)
    pipeline = kfp.upload(package)
    monkeypatch.setattr(connection, "TIMEOUT_S", (30, 2))
    held = threading.Event()
    server.faults["create_run"] = [held]
    with pytest.raises(ClusterAwayError, match=r"does not answer in 2 s"):
        kfp.submit(pipeline, submission("two"))
    assert len(server.runs) == 1
    held.set()
    wait_for(lambda: len(server.runs) == 2)
    assert server.calls.count("create_run") == 2


@pytest.fixture
def pauses_s(monkeypatch):
    """Seconds of each pause that a client asks for, none of which is kept."""
    asked = []
    monkeypatch.setattr(time, "sleep", asked.append)
    return asked


def test_a_server_that_is_away_is_said_after_two_short_pauses(server, pauses_s):
    url = server.url.replace("127.0.0.1", "127.0.0.2").rpartition(":")[0] + ":9"
    with pytest.raises(ClusterAwayError, match="Connection refused") as caught:
        Kfp(Access(url))
    assert caught.value.exit_code == 4
    assert len(pauses_s) == 2
    assert sum(pauses_s) < 8 * connection._PAUSES_S[0]


@pytest.mark.parametrize(
    ("access", "said"),
    [({}, r"wants to know who asks \(401\); give --token"), ({"token": "other"}, r"does not allow it \(403")],
)
def test_who_may_not_is_told_at_once_how_to_sign_in(server, pauses_s, access, said):
    server.token = "secret"
    with pytest.raises(ClusterError, match=said) as caught:
        Kfp(Access(server.url, **access))
    assert caught.value.exit_code == 2
    assert "GAPGATE_KFP_TOKEN" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert pauses_s == []


def test_a_token_a_file_with_one_and_a_cookie_are_sent(server, tmp_path, monkeypatch):
    server.token = "secret"
    assert list(Kfp(Access(server.url, token="secret")).runs()) == []
    (tmp_path / "token").write_text("secret\n")
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "token"))
    assert list(Kfp(Access(server.url)).runs()) == []
    monkeypatch.setenv("KF_PIPELINES_SA_TOKEN_PATH", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="token cannot be read"):
        Kfp(Access(server.url))
    monkeypatch.delenv("KF_PIPELINES_SA_TOKEN_PATH")
    server.token, server.cookie = "", "session=abc"
    assert list(Kfp(Access(server.url, cookie="session=abc")).runs()) == []
    with pytest.raises(ClusterError, match="401"):
        Kfp(Access(server.url, cookie="session=old"))


def test_a_web_page_is_not_taken_for_an_answer(server):
    server.is_web_page = True
    with pytest.raises(ClusterError, match="answers with a web page"):
        Kfp(Access(server.url))


def test_another_server_is_not_taken_for_kfp(server):
    with pytest.raises(ClusterError, match=r"has no Kubeflow Pipelines 2 \(404\)"):
        Kfp(Access(f"{server.url}/other"))


@pytest.mark.parametrize("host", ["localhost:8080", "ftp://kfp", "kfp.example"])
def test_a_host_without_scheme_is_a_mistake(host):
    with pytest.raises(SettingsError, match="is no URL"):
        Access(host).url()


def test_an_address_from_the_browser_is_a_host(server):
    assert Kfp(Access(f"{server.url}/#/runs")).run_url("x") == f"{server.url}/#/runs/details/x"


def test_lists_are_read_to_their_last_page(server, package):
    kfp, started_runs = started(server, package, 5)
    server.page_limit = 2
    assert [run.run_id for run in kfp.runs()] == started_runs[::-1]
    assert kfp.find_run(started_runs[0][:8]).run_id == started_runs[0]
    with pytest.raises(ClusterError, match="no run zzz"):
        kfp.find_run("zzz")
    with pytest.raises(ClusterError, match="5 runs begin with"):
        kfp.find_run("")
    with pytest.raises(ClusterError, match="404"):
        kfp.find_run("0" * 36)


def test_only_a_server_for_many_users_is_asked_by_namespace(server, package, tmp_path, monkeypatch):
    kfp, _ = started(server, package)
    assert len(list(kfp.runs())) == 1
    monkeypatch.setattr(connection.Client, "_LOCAL_KFP_CONTEXT", str(tmp_path / "context.json"))
    server.has_many_users = True
    shared = Kfp(Access(server.url), namespace="team")
    (run,) = [shared.submit(shared.upload(package), submission(name="theirs")).run_id]
    assert [one.run_id for one in shared.runs()] == [run]
    assert [one["namespace"] for one in server.experiments.values()] == ["", "team"]
    assert (kfp.pod_namespace, shared.pod_namespace) == ("kubeflow", "team")


def test_in_a_pod_a_run_without_the_address_of_the_ui_is_named_by_its_id(server, monkeypatch):
    kfp = Kfp(Access(server.url))
    monkeypatch.setattr(kfp, "_url", "")  # as in a pod of the cluster
    assert kfp.run_url("abc") == "abc"
    monkeypatch.setenv("KF_PIPELINES_UI_ENDPOINT", "https://kfp.example.com/")
    assert kfp.run_url("abc") == "https://kfp.example.com/#/runs/details/abc"


def test_in_a_pod_without_a_tokens_file_none_is_missed(caplog):
    config = Configuration()
    assert Client.__new__(Client)._get_config_with_default_credentials(config) is config
    assert not caplog.records
