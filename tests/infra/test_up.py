"""`infra/up` and `infra/kubernetes-api`: what they read by the real kubectl, and what they would apply."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from pipelines.kubeflow.cluster_settings import ClusterSettings
from tests.infra import kubernetes_api
from tests.infra.rendered import INFRA, ROOT, Object

ADDRESSES = [
    {"to": [{"ipBlock": {"cidr": f"{kubernetes_api.SERVICE}/32"}}], "ports": [{"protocol": "TCP", "port": 443}]},
    {"to": [{"ipBlock": {"cidr": f"{kubernetes_api.SERVER}/32"}}], "ports": [{"protocol": "TCP", "port": 6443}]},
]
KUBECTL = """#!/usr/bin/env bash
# Reads are kubectl's own; what would change the cluster is written down.
case " $* " in
  *" get secret "*) exit 1 ;;
  *" get "* | *" config "* | *" kustomize "*) exec {kubectl} "$@" ;;
  *" apply -k infra/"*) {kubectl} kustomize "${{@: -1}}" >"{folder}/applied.yaml" ;;
  *" -f - "*) cat >/dev/null ;;
esac
echo "kubectl $*" >>"{folder}/calls"
"""
OTHERS = """#!/usr/bin/env bash
echo "${{0##*/}} $*" >>"{folder}/calls"
"""

STUCK = """#!/usr/bin/env bash
case " $* " in
  *" get pods -o jsonpath="*) echo "ErrImagePull docker.io/library/postgres:17" ;;
  *" rollout status "*) sleep 2; exit 1 ;;
  *) exec {kubectl} "$@" ;;
esac
"""

LATE = """#!/usr/bin/env bash
case " $* " in
  *" get deployment mlflow "*) echo ProgressDeadlineExceeded ;;
  *) exec {kubectl} "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what `infra/up` reads, as a git repository of one commit."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed")
    tree = tmp_path_factory.mktemp("tree")
    ignored = shutil.ignore_patterns("this-cluster")
    shutil.copytree(INFRA, tree / "infra", ignore=ignored)
    for name in ("Makefile", "pyproject.toml", ".gitignore"):
        shutil.copy(ROOT / name, tree)
    (tree / ".venv").symlink_to(sys.prefix)
    git = ["git", "-C", str(tree), "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], check=True)
    return tree


@pytest.fixture(scope="module")
def environment(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables with the API of a node of 4 cores, of which 1.75 are free, and stand-ins for what changes things."""
    folder = tmp_path_factory.mktemp("commands")
    for name, text in (("kubectl", KUBECTL), ("docker", OTHERS), ("kind", OTHERS)):
        (folder / name).write_text(text.format(kubectl=shutil.which("kubectl"), folder=folder))
        (folder / name).chmod(0o755)
    asked = [{"cpu": "250m", "memory": "1Gi"}, {"cpu": "2", "memory": "2Gi"}, {}]
    with kubernetes_api.running(folder, {"cpu": "4", "memory": "8Gi", "pods": "110"}, asked) as config:
        yield os.environ | {
            "PATH": f"{folder}:{os.environ['PATH']}",
            "KUBECONFIG": str(config),
            "PYTHONPATH": str(ROOT),
            "HOME": str(folder),
        }


@pytest.fixture(scope="module")
def closing(tree: Path, environment: dict[str, str]) -> str:
    """What `infra/up` prints at its end."""
    done = subprocess.run(["infra/up"], cwd=tree, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout.partition("The platform is up.")[2]


def calls(environment: dict[str, str]) -> list[str]:
    return Path(environment["HOME"], "calls").read_text().splitlines()


def applied(environment: dict[str, str]) -> list[Object]:
    return list(yaml.safe_load_all(Path(environment["HOME"], "applied.yaml").read_text()))


def tag(tree: Path) -> str:
    return subprocess.run(
        ["make", "--silent", "tag"], cwd=tree, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_settings_of_a_run_fit_the_node(tree: Path, closing: str) -> None:
    settings = ClusterSettings.from_file(tree / "pipeline.local.yaml")
    train = settings.place("train")
    # Three quarters of the 1.75 cores and the 5 GiB that are free.
    assert (train.cpu_request, train.memory_request, train.memory_limit) == ("1312m", "3840Mi", "3840Mi")
    assert settings.defaults.cpu_request == "500m"
    assert "--cluster pipeline.local.yaml --data-source digits" in closing
    assert "node, which has cpu 1.75, memory 5.0 GiB free" in (tree / "pipeline.local.yaml").read_text()


def test_images_of_another_tag_are_named_in_the_settings(tree: Path, environment: dict[str, str]) -> None:
    command = [sys.executable, "-m", "pipelines.kubeflow.small_cluster", "infra/pipeline.yaml", "9.9-other"]
    printed = subprocess.run(command, cwd=tree, env=environment, check=True, capture_output=True, text=True).stdout
    images = {"step": "gapgate/step:9.9-other", "train": "gapgate/train:9.9-other"}
    assert yaml.safe_load(printed)["images"] == images


def test_steps_reach_the_kubernetes_api_and_no_other_private_address(closing: str, environment: dict[str, str]) -> None:
    policies = {found["metadata"]["name"]: found for found in applied(environment) if found["kind"] == "NetworkPolicy"}
    found = policies["gapgate-kubernetes-api"]
    assert found["spec"]["egress"] == ADDRESSES
    assert found["spec"]["podSelector"] == policies["gapgate-steps"]["spec"]["podSelector"]
    assert "ipBlock" not in str(policies["gapgate-steps"])


def test_images_are_loaded_and_named_by_the_tag_that_make_prints(
    tree: Path, closing: str, environment: dict[str, str]
) -> None:
    images = {c["image"] for o in applied(environment) if o["kind"] == "Deployment" for c in containers(o)}
    assert images == {f"gapgate/step:{tag(tree)}", f"gapgate/serve:{tag(tree)}"}
    loaded = {line.split()[-1] for line in calls(environment) if line.startswith("kind load ")}
    version = tag(tree).partition("-")[0]
    assert loaded == {f"gapgate/{image}:{tag(tree)}" for image in ("step", "train", "serve")} | {
        f"gapgate/{image}:{version}" for image in ("step", "serve")
    }


def test_argo_looks_at_a_run_again_after_a_second(closing: str, environment: dict[str, str]) -> None:
    assert "kubectl -n kubeflow set env deployment/workflow-controller DEFAULT_REQUEUE_TIME=1s" in calls(environment)


def test_the_address_for_an_overlay_of_ones_own_is_printed(tree: Path, environment: dict[str, str]) -> None:
    target = tree / "infra/kubernetes/overlays/production/kubernetes_api.yaml"
    printed = subprocess.run(
        ["infra/kubernetes-api"], cwd=tree, env=environment, check=True, capture_output=True, text=True, timeout=60
    ).stdout
    assert yaml.safe_load(printed)["spec"]["egress"] == ADDRESSES
    assert yaml.safe_load(printed)["metadata"] == yaml.safe_load(target.read_text())["metadata"]


def test_a_changed_tree_has_another_tag_everywhere(
    tree: Path, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from gapgate.artifacts import code_revision
    from pipelines.container_images import built

    before = tag(tree)
    text = (tree / "Makefile").read_text()
    (tree / "Makefile").write_text(f"{text}\n")
    try:
        assert tag(tree) == f"{before}-dirty"
        absent = environment | {"PATH": f"{tree}:{environment['PATH']}"}
        (tree / "docker").write_text("#!/bin/sh\nexit 1\n")
        (tree / "docker").chmod(0o755)
        refused = subprocess.run(["infra/up"], cwd=tree, env=absent, capture_output=True, text=True, timeout=60)
        assert refused.stderr.startswith(f"error: there is no image gapgate/step:{before}-dirty; `make images`")
        commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=tree, check=True, capture_output=True, text=True)
        monkeypatch.delenv("GAPGATE_STEP_IMAGE", raising=False)
        for revision, expected in ((f"{commit.stdout.strip()}+dirty", f"{before}-dirty"), ("gapgate 0.2.0", "0.2.0")):
            monkeypatch.setenv("GAPGATE_CODE_REVISION", revision)
            code_revision.cache_clear()
            assert built("step") == f"gapgate/step:{expected}"
    finally:
        (tree / "Makefile").write_text(text)
        code_revision.cache_clear()


def test_a_base_that_cannot_be_pulled_is_told(tree: Path, environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "docker").write_text('#!/bin/sh\necho "docker: no such host" >&2\nexit 1\n')
    (tmp_path / "docker").chmod(0o755)
    made = subprocess.run(
        ["make", "image-step", f"DOCKER={tmp_path}/docker"],
        cwd=tree, env=environment, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert made.returncode != 0
    assert "error: the base image python:3.11-slim cannot be pulled" in made.stderr
    assert "make images BASE_IMAGE=$(infra/docker/base)" in made.stderr


def containers(found: Object) -> list[Object]:
    spec = found["spec"]["template"]["spec"]
    return [*spec.get("initContainers", []), *spec["containers"]]


def up_with(kubectl: str, tree: Path, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """Run `infra/up` with a kubectl in front of the one that it has."""
    (folder / "kubectl").write_text(kubectl.format(kubectl=shutil.which("kubectl", path=environment["PATH"])))
    (folder / "kubectl").chmod(0o755)
    there = environment | {"PATH": f"{folder}:{environment['PATH']}"}
    return subprocess.run(["infra/up"], cwd=tree, env=there, capture_output=True, text=True, timeout=300)


def test_a_rollout_that_was_too_slow_once_is_begun_again(
    tree: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    restart = "kubectl -n gapgate rollout restart deployment/mlflow"
    before = calls(environment).count(restart)
    assert up_with(LATE, tree, environment, tmp_path).returncode == 0
    made = calls(environment)
    assert made.count(restart) == before + 1
    assert made[made.index(restart) + 1] == "kubectl -n gapgate rollout status deployment/mlflow --timeout=10m"


def test_why_a_pod_does_not_start_is_said_while_it_is_waited_for(
    tree: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    done = up_with(STUCK, tree, environment, tmp_path)
    assert done.returncode == 2
    assert "does not start: ImagePullBackOff docker.io/library/postgres:17\n" in done.stdout
    assert "error: `kubectl -n gapgate get pods` shows what is not ready" in done.stderr
