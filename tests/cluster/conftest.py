"""A cluster on which `infra/up` has brought the platform up. Without one, every test here is skipped and says so."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.cluster.platform import GAPGATE, ROOT, Platform, forwarded

CLUSTER_FILE = ROOT / "pipeline.local.yaml"


@pytest.fixture(scope="session")
def platform(tmp_path_factory):
    host = os.environ.get("KF_PIPELINES_ENDPOINT")
    if not host:
        pytest.skip("no cluster: KF_PIPELINES_ENDPOINT names no Kubeflow Pipelines (docs/kubernetes.md, Tests)")
    asked = subprocess.run(["kubectl", "-n", GAPGATE, "get", "deployment", "mlflow"], capture_output=True, text=True)
    if asked.returncode != 0:
        pytest.fail(
            f"the platform is not on the cluster of kubectl's context: {asked.stderr.strip()}; infra/up brings it"
        )
    file = Path(os.environ.get("GAPGATE_CLUSTER_FILE", CLUSTER_FILE))
    with forwarded(GAPGATE, "mlflow", 5000) as mlflow, forwarded(GAPGATE, "serve", 3000) as serve:
        yield Platform(host, tmp_path_factory.mktemp("cluster"), file, mlflow, serve)
