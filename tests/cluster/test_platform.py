"""The platform on a real cluster: what serves, what is kept, and what may not be reached."""

import contextlib
import json
import signal
import subprocess
import time

import pytest

from tests.cluster.platform import GAPGATE, KFP, ROOT, until
from tests.cluster.test_runs import a_digit


@pytest.fixture(scope="module")
def served(platform):
    """A champion that the service answers with."""
    if not platform.champion():
        done = platform.submit()
        assert done.code == 0, done.out
    until(lambda: platform.served_version() == platform.champion())


def test_up_a_second_time_changes_no_secret_and_breaks_nothing(platform, served):
    def secret():
        return platform.kubectl("-n", GAPGATE, "get", "secret", "gapgate-mlflow", "-o", "jsonpath={.data}")

    before = secret()
    done = subprocess.run([ROOT / "infra" / "up"], capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert secret() == before
    until(lambda: platform.served_version() == platform.champion())


def test_promote_and_rollback_are_followed_by_the_pods(platform, served):
    versions = [one.version for one in platform.mlflow().search_model_versions("name = 'gapgate'")]
    passed = [
        one
        for one in map(str, versions)
        if platform.mlflow().get_model_version("gapgate", one).tags["gapgate.verdict"] == "pass"
    ]
    if len(passed) < 2:
        assert platform.submit("--no-cache", "--set", "train.seed=5").code == 0
        return test_promote_and_rollback_are_followed_by_the_pods(platform, served)
    other = next(one for one in passed if one != platform.champion())
    for command in (("promote", other), ("rollback",)):
        assert platform.gapgate(*command).code == 0
        print(f"{command[0]}: {until(lambda: platform.served_version() == platform.champion()):.1f} s")


def test_a_rolling_restart_under_requests_answers_each(platform, served):
    def log():
        return platform.kubectl("-n", GAPGATE, "logs", name)

    with client_inside(platform) as name:
        until(lambda: "answered 5" in log())
        platform.kubectl("-n", GAPGATE, "rollout", "restart", "deployment/serve")
        platform.kubectl("-n", GAPGATE, "rollout", "status", "deployment/serve", "--timeout=5m")
        until(lambda: "answered 100" in log())
        assert "failed" not in log()


def test_a_pod_of_serve_that_is_killed_is_ready_again(platform, served):
    pods = platform.kubectl("-n", GAPGATE, "get", "pods", "-l", "app.kubernetes.io/name=serve", "-o", "name").split()
    platform.kubectl("-n", GAPGATE, "delete", pods[0], "--grace-period=0", "--force")
    print(f"ready again: {until(lambda: platform.predict(a_digit()).status_code == 200):.1f} s")


def test_a_new_pod_of_serve_starts_while_mlflow_is_away(platform, served):
    platform.kubectl("-n", GAPGATE, "scale", "deployment", "mlflow", "--replicas=0")
    try:
        platform.kubectl("-n", GAPGATE, "wait", "--for=delete", "pod", "-l", "app.kubernetes.io/name=mlflow")
        platform.kubectl("-n", GAPGATE, "delete", "pods", "-l", "app.kubernetes.io/name=serve")
        platform.kubectl("-n", GAPGATE, "rollout", "status", "deployment/serve", "--timeout=2m")
        print(f"answers: {until(lambda: platform.predict(a_digit()).status_code == 200):.1f} s")
    finally:
        platform.kubectl("-n", GAPGATE, "scale", "deployment", "mlflow", "--replicas=1")
        platform.kubectl("-n", GAPGATE, "rollout", "status", "deployment/mlflow", "--timeout=5m")


def test_a_backup_is_restored_to_the_state_that_was_backed_up(platform, served):
    client = platform.mlflow()
    experiment = client.create_experiment(f"before-{time.time_ns()}")
    backup(platform)
    client.set_experiment_tag(experiment, "changed", "after the backup")
    late = client.create_experiment(f"after-{time.time_ns()}")
    done = subprocess.run([ROOT / "infra" / "restore"], capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: platform.mlflow().get_experiment(experiment))
    assert "changed" not in platform.mlflow().get_experiment(experiment).tags
    assert late not in {one.experiment_id for one in platform.mlflow().search_experiments()}


@pytest.mark.parametrize("dump", ["mlflow-20000101T000000Z.dump"])
def test_a_dump_that_is_missing_is_refused_before_anything_is_stopped(platform, served, dump):
    done = subprocess.run([ROOT / "infra" / "restore", dump], capture_output=True, text=True, timeout=600)
    assert done.returncode != 0
    assert dump in done.stdout + done.stderr
    assert platform.mlflow().search_experiments()


def test_a_restore_that_is_cut_off_leaves_mlflow_up_and_no_job_at_work(platform, served):
    backup(platform)
    process = subprocess.Popen([ROOT / "infra" / "restore"], start_new_session=True, stdout=subprocess.DEVNULL)
    until(lambda: "restore" in platform.kubectl("-n", GAPGATE, "get", "jobs", "-o", "name"), 120)
    process.send_signal(signal.SIGINT)
    process.wait(300)
    until(lambda: platform.mlflow().search_experiments())
    jobs = json.loads(platform.kubectl("-n", GAPGATE, "get", "jobs", "-o", "json"))["items"]
    assert not [job for job in jobs if "restore" in job["metadata"]["name"] and job["status"].get("active")]


def test_pods_of_other_namespaces_reach_nothing_of_the_platform(platform, served):
    image = platform.kubectl("-n", GAPGATE, "get", "deployment", "mlflow", "-o", "jsonpath={..image}").split()[0]
    code = (
        "import socket\n"
        "for host, port in (('mlflow', 5000), ('postgres', 5432), ('serve', 3000)):\n"
        "    try:\n"
        "        socket.create_connection((f'{host}.gapgate.svc', port), 5).close(); print(host, 'reached')\n"
        "    except OSError as error: print(host, 'not reached', type(error).__name__)\n"
    )
    name = f"outsider-{time.time_ns()}"
    arguments = ("run", name, f"--image={image}", "--restart=Never", "--command", "--", "python3", "-c", code)
    platform.kubectl("-n", "default", *arguments)
    platform.kubectl("-n", "default", "wait", f"pod/{name}", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=2m")
    out = platform.kubectl("-n", "default", "logs", name)
    platform.kubectl("-n", "default", "delete", "pod", name)
    assert out.count("not reached") == 3, out


def test_all_pods_deleted_at_once_come_back(platform, served):
    platform.kubectl("-n", GAPGATE, "delete", "pods", "--all")
    platform.kubectl("-n", KFP, "delete", "pods", "--all")
    for namespace in (GAPGATE, KFP):
        until(
            lambda namespace=namespace: platform.kubectl(
                "-n", namespace, "wait", "--for=condition=Available", "--timeout=10s", "deployment", "--all"
            ),
            900,
        )
    print(f"served again: {until(lambda: platform.predict(a_digit()).status_code == 200):.0f} s")
    assert platform.submit("--set", "train.epochs=3", "--no-cache").code in (0, 3)


def backup(platform):
    """Make a backup now."""
    name = f"backup-{time.time_ns()}"
    platform.kubectl("-n", GAPGATE, "create", "job", name, "--from=cronjob/mlflow-backup")
    platform.kubectl("-n", GAPGATE, "wait", "--for=condition=Complete", "--timeout=3m", f"job/{name}")


CLIENT = """
import os, time, urllib.request
headers = {"X-API-Key": os.environ["KEY"], "Content-Type": "image/png", "Connection": "close"}
ready, answered = False, 0
for _ in range(600):
    request = urllib.request.Request("http://serve:3000/v1/predict", bytes.fromhex(os.environ["IMAGE"]), headers)
    try:
        answered += urllib.request.urlopen(request, timeout=20).status == 200
        print("answered", answered, flush=True)
    except OSError as error:
        if answered:
            print("failed", error, flush=True)
    if answered == 100:
        break
    time.sleep(0.2)
"""


@contextlib.contextmanager
def client_inside(platform):
    """A pod that asks the service until it has 100 answers, for the time of the block; its name."""
    name = f"client-{time.time_ns()}"
    image = platform.kubectl("-n", GAPGATE, "get", "deployment", "serve", "-o", "jsonpath={..image}").split()[0]
    environment = {"KEY": platform.key(), "IMAGE": a_digit().hex()}
    labels, serve = {"gapgate/client": name}, {"app.kubernetes.io/name": "serve"}
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 65532,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": image,
                    "command": ["python3", "-c", CLIENT],
                    "env": [{"name": key, "value": value} for key, value in environment.items()],
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }
    policy = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {
            "podSelector": {"matchLabels": serve},
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [{"podSelector": {"matchLabels": labels}}]}],
        },
    }
    outward = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": f"{name}-out"},
        "spec": {
            "podSelector": {"matchLabels": labels},
            "policyTypes": ["Egress"],
            "egress": [{"to": [{"podSelector": {"matchLabels": serve}}]}],
        },
    }
    made = json.dumps({"apiVersion": "v1", "kind": "List", "items": [policy, outward, pod]})
    platform.kubectl("-n", GAPGATE, "apply", "-f", "-", text=made)
    try:
        yield name
    finally:
        platform.kubectl("-n", GAPGATE, "delete", "-f", "-", text=made)
