"""The overlays of `infra/kubernetes`, as rendered: valid, locked down, and whole."""

from __future__ import annotations

import re
import subprocess
import tomllib
from typing import Any

import kubernetes_validate
import pytest

from serving.options import Options
from tests.infra.rendered import (
    INFRA,
    OVERLAYS,
    ROOT,
    containers,
    environment,
    of_kind,
    one,
    pod_templates,
    quantity,
    render,
    title,
)

PAGE = INFRA.parent / "docs" / "kubernetes.md"
KUBERNETES = ("1.30", "1.34")
"""The oldest that docs/kubernetes.md promises, and a newer one."""
CUSTOM = {
    "ServiceMonitor": {"selector", "endpoints", "namespaceSelector", "jobLabel"},
    "PrometheusRule": {"groups"},
}
"""Kinds of the Prometheus Operator, whose schemas are not Kubernetes' own, with the fields of `spec` we may use."""
both = pytest.mark.parametrize("overlay", OVERLAYS)


@pytest.mark.parametrize("overlay", [*OVERLAYS, "production+certificates+dns-node-local+dns-openshift"])
@pytest.mark.parametrize("version", KUBERNETES)
def test_every_object_fits_the_schema_of_kubernetes(overlay: str, version: str) -> None:
    for found in render(overlay):
        kubernetes_validate.validate(found, version, strict=True)


def test_objects_of_the_prometheus_operator_have_its_fields() -> None:
    found = of_kind("production+monitoring", *CUSTOM)
    assert {each["kind"] for each in found} == set(CUSTOM)
    for each in found:
        assert each["apiVersion"] == "monitoring.coreos.com/v1"
        assert set(each["spec"]) <= CUSTOM[each["kind"]]


@both
def test_no_two_objects_have_one_name(overlay: str) -> None:
    keys = [(found["kind"], found["metadata"].get("namespace"), found["metadata"]["name"]) for found in render(overlay)]
    assert len(keys) == len(set(keys))


@both
def test_every_object_lies_in_a_namespace_that_is_meant(overlay: str) -> None:
    for found in render(overlay):
        if found["kind"] != "Namespace":
            assert found["metadata"].get("namespace") in ("gapgate", "kubeflow"), title(found)


@both
def test_images_are_pinned(overlay: str) -> None:
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    for where, container, _ in containers(overlay):
        name, _, tag = container["image"].rpartition(":")
        assert re.match(r"\d+\.\d+", tag), where
        if "gapgate/" in name:
            assert tag == own, f"{where}: infra/up and the release replace the project's version"


@both
def test_containers_are_locked_down(overlay: str) -> None:
    for where, container, spec in containers(overlay):
        pod, own = spec["securityContext"], container["securityContext"]
        assert pod["runAsNonRoot"] is True, where
        assert pod["runAsUser"] > 0, where
        assert pod["seccompProfile"] == {"type": "RuntimeDefault"}, where
        assert own["allowPrivilegeEscalation"] is False, where
        assert own["readOnlyRootFilesystem"] is True, where
        assert own["capabilities"] == {"drop": ["ALL"]}, where
        assert not own.keys() & {"runAsUser", "runAsNonRoot", "privileged", "seccompProfile"}, where
        assert not spec.keys() & {"hostNetwork", "hostPID", "hostIPC"}, where
        assert not any("hostPath" in volume for volume in spec.get("volumes", [])), where


@both
def test_containers_have_requests_and_limits(overlay: str) -> None:
    for where, container, _ in containers(overlay):
        for resource in ("cpu", "memory"):
            requests, limits = (container["resources"][which] for which in ("requests", "limits"))
            assert 0 < quantity(requests[resource]) <= quantity(limits[resource]), where


@both
def test_what_goes_on_has_probes(overlay: str) -> None:
    for found in of_kind(overlay, "Deployment", "StatefulSet"):
        for container in found["spec"]["template"]["spec"]["containers"]:
            assert container.keys() >= {"startupProbe", "livenessProbe", "readinessProbe"}, title(found)


@both
def test_every_mount_has_its_volume_and_every_volume_its_source(overlay: str) -> None:
    claims = {found["metadata"]["name"] for found in of_kind(overlay, "PersistentVolumeClaim")}
    maps = {found["metadata"]["name"] for found in of_kind(overlay, "ConfigMap")}
    for found, template in pod_templates(overlay):
        volumes = template["spec"].get("volumes", [])
        names = {volume["name"] for volume in volumes}
        names |= {claim["metadata"]["name"] for claim in found["spec"].get("volumeClaimTemplates", [])}
        for volume in volumes:
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in claims, title(found)
            if "configMap" in volume:
                assert volume["configMap"]["name"] in maps, title(found)
            if "emptyDir" in volume:
                assert volume["emptyDir"]["sizeLimit"], title(found)
    for where, container, spec in containers(overlay):
        mounted = {mount["name"] for mount in container["volumeMounts"]}
        known = {volume["name"] for volume in spec["volumes"]} | {"data"}
        assert mounted <= known, where
        for source in container.get("envFrom", []):
            assert "configMapRef" not in source or source["configMapRef"]["name"] in maps, where


def test_the_models_of_serve_outlive_its_pods_where_the_component_is() -> None:
    kept = {}
    for overlay in OVERLAYS:
        pod = one(overlay, "Deployment", "serve")["spec"]["template"]["spec"]
        (kept[overlay],) = (volume for volume in pod["volumes"] if volume["name"] == "models")
    assert kept["local"] == {"name": "models", "persistentVolumeClaim": {"claimName": "serve-models"}}
    assert kept["production"] == {"name": "models", "emptyDir": {"sizeLimit": "4Gi"}}


def test_production_needs_no_kinds_that_a_cluster_may_lack() -> None:
    for found in render("production"):
        group = found["apiVersion"].rpartition("/")[0]
        assert "." not in group or group.endswith(".k8s.io"), title(found)


def test_the_bucket_may_be_opened_by_a_role() -> None:
    (mlflow,) = one("production", "Deployment", "mlflow")["spec"]["template"]["spec"]["containers"]
    assert {"secretRef": {"name": "gapgate-s3", "optional": True}} in mlflow["envFrom"]


def test_a_company_s_certificates_are_where_the_variables_say() -> None:
    for name in ("mlflow", "serve"):
        spec = one("production+certificates", "Deployment", name)["spec"]["template"]["spec"]
        mounts = {mount["mountPath"]: mount["name"] for mount in spec["containers"][0]["volumeMounts"]}
        volumes = {volume["name"]: volume for volume in spec["volumes"]}
        found = volumes[mounts["/certificates"]]["configMap"]["name"]
        assert f"-n $n create configmap {found} --from-file=ca.crt" in PAGE.read_text()
        given = environment(spec["containers"][0])
        assert {given[v] for v in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE")} == {"/certificates/ca.crt"}


@both
def test_every_secret_that_is_named_is_made_by_a_command_of_the_page(overlay: str) -> None:
    text = PAGE.read_text()
    listed = dict(re.findall(r"secret (?:generic|tls) ([\w-]+)(.*?)(?=secret \w+ |```)", text, re.S))
    named = dict(_named_secrets(render(overlay)))
    assert named.keys() >= {"gapgate-mlflow", "gapgate-serve"}
    assert named.keys() <= listed.keys()
    for name, keys in named.items():
        for key in keys:
            assert key in listed[name], f"{name} lacks {key} in docs/kubernetes.md"


@both
def test_no_secret_is_in_the_repository(overlay: str) -> None:
    assert not of_kind(overlay, "Secret")
    for where, container, _ in containers(overlay):
        for name, value in environment(container).items():
            assert not re.search("PASSWORD|SECRET|TOKEN|KEYS", name), where
            assert not re.search(r"://[^/]*:[^/]*@", value), where
    for path in INFRA.rglob("*"):
        if path.is_file() and path.suffix in (".yaml", ".json"):
            assert "kind: Secret" not in path.read_text(), path
            assert "secretGenerator" not in path.read_text(), path


@both
def test_accounts_exist_and_hold_no_token_but_the_runs(overlay: str) -> None:
    accounts = {found["metadata"]["name"]: found for found in of_kind(overlay, "ServiceAccount")}
    for found, template in pod_templates(overlay):
        assert template["spec"]["serviceAccountName"] in accounts, title(found)
        assert template["spec"]["automountServiceAccountToken"] is False, title(found)
    mounted = {name for name, found in accounts.items() if found.get("automountServiceAccountToken", True)}
    assert mounted == {"gapgate-pipeline"}


@both
def test_the_account_of_runs_may_only_what_kfp_calls(overlay: str) -> None:
    role = one(overlay, "Role", "gapgate-pipeline")
    granted = {
        (resource, verb): rule.get("resourceNames")
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert granted == {
        ("pods", "get"): None,
        ("configmaps", "get"): ["kfp-launcher"],
        ("secrets", "get"): ["mlpipeline-minio-artifact"],
        ("workflowtaskresults", "create"): None,
        ("workflowtaskresults", "patch"): None,
    }
    binding = one(overlay, "RoleBinding", "gapgate-pipeline")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [(s["kind"], s["name"], s["namespace"]) for s in binding["subjects"]] == [
        ("ServiceAccount", "gapgate-pipeline", binding["metadata"]["namespace"])
    ]
    assert not of_kind(overlay, "ClusterRole", "ClusterRoleBinding")


@both
def test_the_server_understands_its_options_and_fits_its_memory_and_its_time(overlay: str) -> None:
    spec = one(overlay, "Deployment", "serve")["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    variables = environment(container)
    unknown = {name for name in variables if name.startswith("GAPGATE_")} - {
        f"GAPGATE_{n.upper()}" for n in Options.model_fields
    }
    assert not unknown
    options = Options.from_environment(variables)
    ending_s = container["lifecycle"]["preStop"]["sleep"]["seconds"] + 2 * options.drain_s + options.timeout_s + 1
    assert ending_s < spec["terminationGracePeriodSeconds"]
    decoding = options.workers * (options.threads * 16 * options.max_pixels + options.max_buffered_bytes)
    assert decoding + 200 * 2**20 < quantity(container["resources"]["limits"]["memory"])
    mounts = {mount["mountPath"] for mount in container["volumeMounts"]}
    assert {options.model_cache, "/tmp"} <= mounts


@both
def test_the_autoscaler_scales_what_no_apply_sets_back(overlay: str) -> None:
    target = one(overlay, "HorizontalPodAutoscaler", "serve")["spec"]["scaleTargetRef"]
    assert "replicas" not in one(overlay, target["kind"], target["name"])["spec"]


def test_scripts_are_sound() -> None:
    scripts = [INFRA / "up", INFRA / "restore", INFRA / "kubernetes-api", *(INFRA / "kubernetes").rglob("*.sh")]
    assert len(scripts) == 5
    for script in scripts:
        subprocess.run(["bash", "-n", script], check=True, timeout=60)
        assert "set -euo pipefail" in script.read_text()


def test_kfp_is_installed_in_the_version_of_its_package() -> None:
    locked = re.search(r"^kfp==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.M)
    assert locked
    assert f"KFP_VERSION={locked[1]} " in (INFRA / "up").read_text()
    assert f"ref={locked[1]}" in PAGE.read_text()


def _named_secrets(value: Any) -> list[tuple[str, set[str]]]:
    """(name, keys) of each Secret that any part of an object refers to."""
    found: dict[str, set[str]] = {}

    def walk(value: Any) -> None:
        if isinstance(value, list | tuple):
            for item in value:
                walk(item)
        if not isinstance(value, dict):
            return
        for key, item in value.items():
            if key in ("secretKeyRef", "credentials"):
                found.setdefault(item["name"], set()).add(item["key"])
            elif key == "secretRef":
                found.setdefault(item["name"], set())
            elif key == "secretName":
                found.setdefault(item, set()).update(each["key"] for each in value.get("items", []))
            walk(item)

    walk(value)
    return list(found.items())
