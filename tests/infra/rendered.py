"""The overlays as `kubectl kustomize` renders them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
OVERLAYS = ("local", "production")

Object = dict[str, Any]


@cache
def render(overlay: str) -> tuple[Object, ...]:
    """Every object of an overlay; `production+monitoring+certificates` adds components by their lines."""
    if not shutil.which("kubectl"):
        pytest.skip("kubectl is not installed; it renders the overlays")
    name, *added = overlay.split("+")
    with tempfile.TemporaryDirectory() as folder:

        def at(*parts: str) -> str:
            return os.path.relpath(INFRA.joinpath("kubernetes", *parts).resolve(), Path(folder).resolve())

        content = {
            "apiVersion": "kustomize.config.k8s.io/v1beta1",
            "kind": "Kustomization",
            "resources": [at("overlays", name)],
            "components": [at("components", each) for each in added],
        }
        Path(folder, "kustomization.yaml").write_text(yaml.safe_dump(content))
        done = subprocess.run(["kubectl", "kustomize", folder], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(overlay: str, *kinds: str) -> list[Object]:
    return [found for found in render(overlay) if found["kind"] in kinds]


def one(overlay: str, kind: str, name: str) -> Object:
    (found,) = [each for each in of_kind(overlay, kind) if each["metadata"]["name"] == name]
    return found


def title(found: Object) -> str:
    return f"{found['kind']}/{found['metadata']['name']}"


def pod_templates(overlay: str) -> Iterator[tuple[Object, Object]]:
    """(workload, pod template) of everything that makes pods."""
    for found in of_kind(overlay, "Deployment", "StatefulSet", "Job"):
        yield found, found["spec"]["template"]
    for found in of_kind(overlay, "CronJob"):
        yield found, found["spec"]["jobTemplate"]["spec"]["template"]


def containers(overlay: str) -> Iterator[tuple[str, Object, Object]]:
    """(where, container, pod specification); init containers too."""
    for found, template in pod_templates(overlay):
        spec = template["spec"]
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            yield f"{title(found)} {container['name']}", container, spec


def environment(container: Object) -> dict[str, str]:
    """The variables that the manifest itself gives."""
    return {variable["name"]: variable["value"] for variable in container.get("env", []) if "value" in variable}


def selects(selector: Object, labels: dict[str, str]) -> bool:
    """Whether a label selector matches, as Kubernetes reads it."""
    for expression in selector.get("matchExpressions", []):
        assert expression["operator"] == "In"
        if labels.get(expression["key"]) not in expression["values"]:
            return False
    return bool(selector.get("matchLabels", {}).items() <= labels.items())


def quantity(text: str) -> float:
    """`1536Mi` in bytes, `500m` in cores."""
    number, unit = re.fullmatch(r"([\d.]+)(m|Ki|Mi|Gi)?", text).groups()  # type: ignore[union-attr]
    return float(number) * {None: 1, "m": 1e-3, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}[unit]
