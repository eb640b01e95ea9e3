"""The environment variables that Gapgate reads, in words; those of the server are the fields of `serving.options`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

VARIABLES: Mapping[str, str] = {
    "GAPGATE_HOME": "Folder of runs, features, MLflow's store and what is to be sent. Empty: `.gapgate` in the current "
    "folder.",
    "MLFLOW_TRACKING_URI": "Address of the MLflow server for runs, models and the registry. Empty: the store in "
    "`GAPGATE_HOME`.",
    "MLFLOW_TRACKING_USERNAME": "User of that server.",
    "MLFLOW_TRACKING_PASSWORD": "Password of that user.",
    "MLFLOW_TRACKING_TOKEN": "Token for that server, in the place of user and password.",
    "MLFLOW_TRACKING_SERVER_CERT_PATH": "Bundle of certificates that are trusted for that server.",
    "MLFLOW_RUN_ID": "MLflow run that a run reports to, where the platform has begun one.",
    "GAPGATE_API_KEY": "API key for the server of `--url`.",
    "GAPGATE_CODE_REVISION": "Revision of the code that manifests and receipts name. Empty: git's, or the version.",
    "GAPGATE_DATA": "Folder that holds `mnist/`, `fashion-mnist/` and `cifar-10/`, for the measurement of recipes.",
    "GAPGATE_STEP_IMAGE": "Image of the steps but train. Empty: the one that `make images` builds of this code.",
    "GAPGATE_TRAIN_IMAGE": "Image of the step train. Empty: the one that `make images` builds of this code.",
    "GAPGATE_PATIENCE_S": "Seconds that a step in a pod tries again while a remote or MLflow is away. Empty: 300.",
    "GIT_USERNAME": "User for the git repository of the data, over https.",
    "GIT_PASSWORD": "Password or token of that user.",
    "KF_PIPELINES_ENDPOINT": "Address of Kubeflow Pipelines, as `--host`.",
    "KF_PIPELINES_UI_ENDPOINT": "Address of Kubeflow Pipelines' pages for people, where it is another.",
    "KF_PIPELINES_SA_TOKEN_PATH": "File with a token for Kubeflow Pipelines.",
    "GAPGATE_KFP_TOKEN": "Token for Kubeflow Pipelines, as `--token`.",
    "GAPGATE_KFP_COOKIE": "Cookie of a browser that is signed in to Kubeflow Pipelines, as `--cookie`.",
    "SSL_CERT_FILE": "Bundle of certificates that are trusted, as for a company's own authority.",
}
"""Name → meaning, of those that people set."""
INTERNAL = frozenset(
    (
        *("GAPGATE_EXPERIMENT", "GAPGATE_FORK_SERVER", "GAPGATE_IMAGE_DIGEST", "GAPGATE_NUM_GPUS", "GAPGATE_PARENT"),
        *("GAPGATE_RUN", "GAPGATE_SPOOL_IS_READ"),
    )
)
"""Names of those that one process of Gapgate sets for another."""
OF_TESTS = frozenset(("GAPGATE_CLUSTER_FILE", "GAPGATE_PROMOTION_ROUNDS", "GAPGATE_SWAPS", "GAPGATE_TEST_DATA"))
"""Names of those that tests alone read."""


@contextmanager
def environment(**values: str) -> Iterator[None]:
    """Set environment variables for the time of the block, for this process and those that it starts."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None) if value is None else os.environ.update({name: value})
