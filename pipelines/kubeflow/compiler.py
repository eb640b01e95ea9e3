"""Compiling the pipeline for a cluster: the same graph with the settings of `infra/pipeline.yaml`, in one file of KFP's
intermediate representation and its Kubernetes platform spec."""

from __future__ import annotations

import warnings
from pathlib import Path

from kfp import compiler, dsl, kubernetes

from gapgate.artifacts import RUN_VARIABLE
from pipelines.container_images import kind_of
from pipelines.graph import training_pipeline
from pipelines.kubeflow.cluster_settings import ClusterSettings, Place

_RUN_LABEL = "metadata.labels['pipeline/runid']"
"""Field of a pod in which KFP writes the run's id."""
_ALL_TRIES_S = 366 * 86_400
"""KFP's `backoff_max_duration` becomes Argo's `maxDuration`, which is no longest pause: that long after the start of
the first try no other begins, and one at work is ended (Argo 4.0.5). So it is a year; each try has its own timeout."""
_CERTIFICATES = "/etc/gapgate/certificates"
_CERTIFICATE_VARIABLES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE", "GIT_SSL_CAINFO")
"""Variables of Python's ssl and of Go, of requests (MLflow), of botocore (a DVC remote in S3), and of git."""


def compile_pipeline(cluster: ClusterSettings, path: Path, *, is_cached: bool = True) -> None:
    """Write the pipeline to `path`, a YAML file; without `is_cached` every step runs, whatever is known."""

    def place(task: dsl.PipelineTask) -> None:
        _run_in(task, getattr(cluster.images, kind_of(task.name)), cluster)
        _give(task, cluster.place(task.name))

    config = dsl.PipelineConfig(ttl_seconds_after_finished=cluster.run_ttl_s)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # KFP warns of any image that has no "python" in its name
        pipeline = training_pipeline(place, config, on_cluster=True, is_cached=is_cached)
        compiler.Compiler().compile(pipeline, str(path))


def _run_in(task: dsl.PipelineTask, image: str, cluster: ClusterSettings) -> None:
    """Set what is the same for every step: image, user, volume, and the run that it belongs to."""
    task.set_container_image(image)
    kubernetes.set_image_pull_policy(task, cluster.images.pull_policy)
    if cluster.images.pull_secrets:
        kubernetes.set_image_pull_secrets(task, list(cluster.images.pull_secrets))
    user = cluster.user
    kubernetes.set_security_context(
        task, run_as_user=user.run_as_user, run_as_group=user.run_as_group, run_as_non_root=True
    )
    kubernetes.mount_pvc(task, cluster.workspace.claim, cluster.workspace.mount_path)
    # From a field of the pod: as a parameter the run's id would make every cache key new.
    kubernetes.use_field_path_as_env(task, RUN_VARIABLE, _RUN_LABEL)
    task.set_env_variable("GAPGATE_HOME", cluster.workspace.mount_path)
    task.set_env_variable("MLFLOW_TRACKING_URI", cluster.tracking_uri)
    if cluster.certificates:
        kubernetes.use_config_map_as_volume(task, cluster.certificates, _CERTIFICATES)
        for name in _CERTIFICATE_VARIABLES:
            task.set_env_variable(name, f"{_CERTIFICATES}/ca.crt")
    if digest := image.partition("@")[2]:
        task.set_env_variable("GAPGATE_IMAGE_DIGEST", digest)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "gapgate")
    # `gapgate logs` names this label for kubectl where KFP's UI has no log.
    kubernetes.add_pod_label(task, "gapgate/step", task.name)


def _give(task: dsl.PipelineTask, place: Place) -> None:
    """Set resources, nodes, timeout, retries, secrets and labels of a task."""
    task.set_cpu_request(place.cpu_request).set_cpu_limit(place.cpu_limit)
    task.set_memory_request(place.memory_request).set_memory_limit(place.memory_limit)
    if place.shared_memory:
        # In the place of the container runtime's /dev/shm of 64 MiB.
        kubernetes.empty_dir_mount(task, "shared-memory", "/dev/shm", medium="Memory", size_limit=place.shared_memory)
    for label, value in place.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for taint in place.tolerations:
        kubernetes.add_toleration(
            task, key=taint.key, operator=taint.operator, value=taint.value or None, effect=taint.effect or None
        )
    kubernetes.set_timeout(task, place.timeout_s)
    # KFP 2.17's manifests set retryPolicy OnError: a lost pod is retried, a container that ends with an error is not.
    # They also set a number, 2, for tasks that have none; so 0 is said too.
    task.set_retry(
        place.retries,
        backoff_duration=f"{place.backoff_s}s",
        backoff_factor=2.0,
        backoff_max_duration=f"{_ALL_TRIES_S}s",
    )
    for secret, variables in place.secrets.items():
        kubernetes.use_secret_as_env(task, secret, dict(variables))
    for secret, variables in place.optional_secrets.items():
        kubernetes.use_secret_as_env(task, secret, dict(variables), optional=True)
    for label, value in place.labels.items():
        kubernetes.add_pod_label(task, label, value)
    for name, value in place.environment.items():
        task.set_env_variable(name, value)
