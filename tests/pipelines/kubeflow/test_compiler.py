"""What a cluster gets: the compiled pipeline, and every setting of `infra/pipeline.yaml` in its platform spec."""

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from components.catalog import TASKS
from gapgate import __version__
from gapgate.artifacts import code_revision
from gapgate.errors import SettingsError
from gapgate.settings import load
from pipelines.graph import arguments
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.compiler import compile_pipeline

ROOT = Path(__file__).parents[3]
DIGEST = "@sha256:" + "a" * 64
CONTENT = {
    "images": {
        "step": f"registry.example:5000/gapgate/step{DIGEST}",
        "train": "registry.example:5000/gapgate/train:0.2.0",
        "pull_policy": "Always",
        "pull_secrets": ["registry"],
    },
    "tracking_uri": "https://mlflow.example",
    "workspace": {"claim": "volume", "mount_path": "/work"},
    "user": {"run_as_user": 1234, "run_as_group": 5678},
    "run_ttl_s": 1000,
    "certificates": "authorities",
    "defaults": {"secrets": {"tracking": {"token": "MLFLOW_TRACKING_TOKEN"}}, "labels": {"team": "vision"}},
    "steps": {
        "train": {
            "cpu_request": "3",
            "cpu_limit": "6",
            "memory_request": "8Gi",
            "memory_limit": "16Gi",
            "shared_memory": "2Gi",
            "node_selector": {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"},
            "tolerations": [
                {"key": "nvidia.com/gpu", "effect": "NoSchedule"},
                {"key": "spot", "operator": "Equal", "value": "true"},
            ],
            "timeout_s": 7200,
            "retries": 5,
            "backoff_s": 20,
            "secrets": {"weights": {"key": "HUB_TOKEN"}},
            "optional_secrets": {"hub": {"mirror": "HUB_MIRROR"}},
            "labels": {"size": "large"},
            "environment": {"OMP_NUM_THREADS": "6"},
        }
    },
}


def compiled(folder, content=None):
    """The pipeline spec and the platform spec, each held to KFP's own schema."""
    settings = folder / "cluster.yaml"
    settings.write_text(yaml.safe_dump(content or CONTENT))
    path = folder / "pipeline.yaml"
    compile_pipeline(ClusterSettings.from_file(settings), path)
    spec, platform = yaml.safe_load_all(path.read_text())
    json_format.ParseDict(spec, PipelineSpec())
    json_format.ParseDict(platform, PlatformSpec())
    return spec, platform["platforms"]["kubernetes"]


@pytest.fixture(scope="module")
def specs(tmp_path_factory):
    return compiled(tmp_path_factory.mktemp("cluster"))


@pytest.fixture(scope="module")
def container(specs):
    """Step → its container."""
    executors = specs[0]["deploymentSpec"]["executors"]
    return {name: executors[f"exec-{name}"]["container"] for name in TASKS}


@pytest.fixture(scope="module")
def pod(specs):
    """Step → what Kubernetes is told of its pod."""
    executors = specs[1]["deploymentSpec"]["executors"]
    for executor in executors.values():
        json_format.ParseDict(executor, KubernetesExecutorConfig())
    return {name: executors[f"exec-{name}"] for name in TASKS}


def variables(container):
    return {each["name"]: each["value"] for each in container["env"]}


def test_the_parameters_are_typed_and_described_and_take_the_settings_of_a_run(specs):
    parameters = specs[0]["root"]["inputDefinitions"]["parameters"]
    assert all(parameter["description"] for parameter in parameters.values())
    types = {name: parameter["parameterType"] for name, parameter in parameters.items()}
    assert types.pop("num_gpus") == "NUMBER_INTEGER"
    assert types.pop("tensorboard") == "BOOLEAN"
    assert set(types.values()) == {"STRING"}
    given = arguments(load(None, ["data.label_column=species"]))
    assert set(parameters) == set(given) | {"gpu_kind", "num_gpus"}
    assert json.loads(given["data_reading"])["label_column"] == "species"
    assert given.pop("tensorboard") is False
    assert all(isinstance(value, str) for value in given.values())


def test_images_their_policy_and_their_secrets(container, pod):
    for name in TASKS:
        image = "train" if name in ("augment", "train") else "step"
        assert container[name]["image"] == CONTENT["images"][image]
        assert pod[name]["imagePullPolicy"] == "Always"
        assert [secret["secretName"] for secret in pod[name]["imagePullSecret"]] == ["registry"]
    assert variables(container["evaluate"])["GAPGATE_IMAGE_DIGEST"] == DIGEST[1:]
    assert "GAPGATE_IMAGE_DIGEST" not in variables(container["train"])


def test_without_images_the_pipeline_takes_those_that_are_built_of_this_code(tmp_path, monkeypatch):
    monkeypatch.setenv("GAPGATE_CODE_REVISION", "0123456789abcdef")
    code_revision.cache_clear()
    try:
        spec, _ = compiled(tmp_path, {name: value for name, value in CONTENT.items() if name != "images"})
    finally:
        code_revision.cache_clear()
    executors = spec["deploymentSpec"]["executors"].values()
    tag = f"{__version__}-0123456789ab"
    images = {executor["container"]["image"] for executor in executors}
    assert images == {f"gapgate/step:{tag}", f"gapgate/train:{tag}"}


def test_every_step_runs_as_the_user_with_the_volume_and_knows_its_run(container, pod):
    for name in TASKS:
        user = {"runAsUser": "1234", "runAsGroup": "5678", "runAsNonRoot": True}
        assert pod[name]["securityContext"] == user
        (volume,) = pod[name]["pvcMount"]
        assert (volume["constant"], volume["mountPath"]) == ("volume", "/work")
        assert pod[name]["fieldPathAsEnv"] == [
            {"name": "GAPGATE_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
        assert variables(container[name])["GAPGATE_HOME"] == "/work"
        assert variables(container[name])["MLFLOW_TRACKING_URI"] == "https://mlflow.example"
        assert pod[name]["podMetadata"]["labels"]["team"] == "vision"
        assert pod[name]["podMetadata"]["labels"]["gapgate/step"] == name


def test_every_step_trusts_a_company_s_own_authorities(container, pod, tmp_path):
    names = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "GIT_SSL_CAINFO")
    for name in TASKS:
        (volume,) = pod[name]["configMapAsVolume"]
        assert (volume["configMapName"], volume["optional"]) == ("authorities", False)
        assert {variables(container[name])[each] for each in names} == {f"{volume['mountPath']}/ca.crt"}
    spec, platform = compiled(tmp_path, {name: value for name, value in CONTENT.items() if name != "certificates"})
    assert not any(name in str(spec) + str(platform) for name in (*names, "configMapAsVolume"))


def test_processors_memory_and_a_gpu_of_the_kind_and_number_that_the_run_asks_for(container):
    resources = container["train"]["resources"]
    assert (resources["resourceCpuRequest"], resources["resourceCpuLimit"]) == ("3", "6")
    assert (resources["resourceMemoryRequest"], resources["resourceMemoryLimit"]) == ("8Gi", "16Gi")
    assert resources["accelerator"] == {
        "resourceType": "{{$.inputs.parameters['pipelinechannel--gpu_kind']}}",
        "resourceCount": "{{$.inputs.parameters['pipelinechannel--num_gpus']}}",
    }
    for name in set(TASKS) - {"train"}:
        assert "accelerator" not in container[name]["resources"]


def test_shared_memory_nodes_taints_and_time(pod):
    train = pod["train"]
    (shared,) = train["emptyDirMounts"]
    assert (shared["mountPath"], shared["medium"], shared["sizeLimit"]) == ("/dev/shm", "Memory", "2Gi")
    assert train["nodeSelector"]["labels"] == {"cloud.google.com/gke-accelerator": "nvidia-h100-80gb"}
    assert train["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "spot", "operator": "Equal", "value": "true"},
    ]
    assert (train["activeDeadlineSeconds"], pod["gate"]["activeDeadlineSeconds"]) == ("7200", "3600")


def test_further_tries_with_back_off(specs):
    tasks = specs[0]["root"]["dag"]["tasks"]
    assert tasks["train"]["retryPolicy"] == {
        "maxRetryCount": 5,
        "backoffDuration": "20s",
        "backoffFactor": 2.0,
        "backoffMaxDuration": "31622400s",
    }
    assert tasks["evaluate"]["retryPolicy"]["maxRetryCount"] == 2


def test_a_try_may_be_as_long_as_its_timeout_though_another_was_before(specs):
    # In Argo the longest backoff is counted from the start of the first try, and ends the ones after it.
    tasks = specs[0]["root"]["dag"]["tasks"]
    for step, timeout_s in (("train", 7_200), ("evaluate", 3_600)):
        policy = {name: float(str(value).rstrip("s")) for name, value in tasks[step]["retryPolicy"].items()}
        tries = int(policy["maxRetryCount"]) + 1
        pauses = sum(policy["backoffDuration"] * policy["backoffFactor"] ** number for number in range(tries - 1))
        assert policy["backoffMaxDuration"] > tries * timeout_s + pauses


def test_a_step_without_further_tries_says_so_as_kfp_s_manifests_try_twice(tmp_path):
    spec, _ = compiled(tmp_path, CONTENT | {"defaults": {"retries": 0}, "steps": {}})
    assert spec["root"]["dag"]["tasks"]["train"]["retryPolicy"].get("maxRetryCount", 0) == 0


def test_secrets_labels_and_variables_of_a_step_come_on_top_of_those_of_all(container, pod):
    def secrets(name):
        return {
            (secret["secretName"], pair["secretKey"], pair["envVar"])
            for secret in pod[name]["secretAsEnv"]
            for pair in secret["keyToEnv"]
        }

    shared = ("tracking", "token", "MLFLOW_TRACKING_TOKEN")
    assert secrets("evaluate") == {shared}
    assert secrets("train") == {shared, ("weights", "key", "HUB_TOKEN"), ("hub", "mirror", "HUB_MIRROR")}
    optional = {secret["secretName"]: secret["optional"] for secret in pod["train"]["secretAsEnv"]}
    assert optional == {"tracking": False, "weights": False, "hub": True}
    assert pod["train"]["podMetadata"]["labels"]["size"] == "large"
    assert "size" not in pod["evaluate"]["podMetadata"]["labels"]
    assert variables(container["train"])["OMP_NUM_THREADS"] == "6"
    assert "OMP_NUM_THREADS" not in variables(container["evaluate"])


def test_pods_of_a_run_that_ended_are_taken_away(specs):
    assert specs[1]["pipelineConfig"]["resourceTtlOnCompletion"] == 1000


def tasks_of(spec):
    """Every task of a pipeline, those under conditions too."""
    found = dict(spec["root"]["dag"]["tasks"])
    for component in spec["components"].values():
        found |= component.get("dag", {}).get("tasks", {})
    return found


def cached_in(spec):
    return {name for name, task in tasks_of(spec).items() if task.get("cachingOptions", {}).get("enableCache")}


def test_all_but_the_first_task_and_the_registry_are_cached(specs):
    conditions = {"condition-1", "condition-2"}
    assert cached_in(specs[0]) == set(TASKS) - {"resolve", "register", "package"}
    assert set(tasks_of(specs[0])) == set(TASKS) | conditions


def test_a_cached_step_takes_from_one_that_is_not_cached_parameters_alone(specs):
    """KFP's key has the id of each input artifact, and a step that runs makes new ids."""
    cached = cached_in(specs[0])
    read = {
        name: {source["taskOutputArtifact"]["producerTask"] for source in task["inputs"].get("artifacts", {}).values()}
        for name, task in tasks_of(specs[0]).items()
        if name in cached
    }
    assert set().union(*read.values()) == {"ingest", "preprocess", "augment", "train", "evaluate"}
    assert set().union(*read.values()) <= cached


def test_each_cached_step_has_an_answer_of_the_task_before_it_among_its_parameters(specs):
    tasks = specs[0]["root"]["dag"]["tasks"]
    for before, name in zip(TASKS, sorted(cached_in(specs[0]), key=TASKS.index), strict=False):
        parameters = {
            key: source["taskOutputParameter"]
            for key, source in tasks[name]["inputs"]["parameters"].items()
            if "taskOutputParameter" in source
        }
        assert {source["producerTask"] for source in parameters.values()} == {before}
        assert {"revision", "dvc_hash"} == set(parameters) if name == "ingest" else len(parameters) == 1


def test_a_model_that_is_packaged_already_is_not_packaged_again(specs):
    conditions = [
        task["triggerPolicy"]["condition"].partition("pipelinechannel--")[2]
        for task in tasks_of(specs[0]).values()
        if "triggerPolicy" in task
    ]
    assert sorted(conditions) == ["gate-Output'] == 'pass'", "register-Output'] == 'new'"]


def test_without_the_cache_every_step_runs(tmp_path):
    settings = tmp_path / "cluster.yaml"
    settings.write_text(yaml.safe_dump(CONTENT))
    compile_pipeline(ClusterSettings.from_file(settings), tmp_path / "pipeline.yaml", is_cached=False)
    spec, _ = yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())
    assert cached_in(spec) == set()
    assert set(tasks_of(spec)) == {*TASKS, "condition-1"}


def test_resolve_has_the_secrets_and_labels_of_ingest_unless_it_has_its_own(tmp_path):
    steps = {"ingest": {"secrets": {"data": {"key": "KEY"}}, "labels": {"gapgate/data": "true"}}}
    _, platform = compiled(tmp_path, CONTENT | {"steps": steps})
    resolve = platform["deploymentSpec"]["executors"]["exec-resolve"]
    assert {secret["secretName"] for secret in resolve["secretAsEnv"]} == {"tracking", "data"}
    assert resolve["podMetadata"]["labels"] == {
        "app.kubernetes.io/part-of": "gapgate",
        "gapgate/step": "resolve",
        "gapgate/data": "true",
        "team": "vision",
    }
    _, platform = compiled(tmp_path, CONTENT | {"steps": steps | {"resolve": {"timeout_s": 60}}})
    resolve = platform["deploymentSpec"]["executors"]["exec-resolve"]
    assert {secret["secretName"] for secret in resolve["secretAsEnv"]} == {"tracking"}
    assert resolve["activeDeadlineSeconds"] == "60"


def test_the_file_of_the_repository_is_one(tmp_path):
    content = yaml.safe_load((ROOT / "infra/pipeline.yaml").read_text())
    _, platform = compiled(tmp_path, content)
    assert set(platform["deploymentSpec"]["executors"]) == {f"exec-{name}" for name in TASKS}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": {**CONTENT["images"], "step": "gapgate/step:latest"}}, "names no version"),
        ({"images": {**CONTENT["images"], "step": "registry.example:5000/gapgate/step"}}, "names no version"),
        ({"workspace": {}}, "workspace.claim is missing"),
        ({"steps": {"trian": {}}}, "steps.trian is no step"),
        ({"steps": {"train": {"memory_limit": "16 GB"}}}, "steps.train.memory_limit=16 GB"),
        ({"steps": {"train": {"gpu": 1}}}, "steps.train.gpu is not a setting"),
        ({"user": {"run_as_user": 0}}, "user.run_as_user=0 is below the limit 1"),
        ({"tracking_uri": "mlflow.db"}, "tracking_uri=mlflow.db"),
        ({"tracking_uri": "http://me:pass@mlflow"}, "tracking_uri: the URL holds a user or a password"),
    ],
)
def test_what_a_cluster_cannot_be_given_is_named(tmp_path, change, message):
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump(CONTENT | change))
    with pytest.raises(SettingsError, match=message):
        ClusterSettings.from_file(path)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(SettingsError, match="name the file with --cluster"):
        ClusterSettings.from_file(tmp_path / "none.yaml")
