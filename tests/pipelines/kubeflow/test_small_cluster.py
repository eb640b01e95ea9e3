"""Requests that fit a small node."""

from decimal import Decimal
from pathlib import Path

import pytest
import yaml

from gapgate.errors import SettingsError
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.kubernetes_api import amount
from pipelines.kubeflow.small_cluster import fitted

CONTENT = yaml.safe_load((Path(__file__).parents[3] / "infra/pipeline.yaml").read_text())
GIB = 2**30


@pytest.mark.parametrize("cores", ["0.2", "1", "2"])
def test_each_step_fits_and_its_limits_hold_its_requests(cores):
    free = {"cpu": Decimal(cores), "memory": Decimal(4 * GIB)}
    settings = ClusterSettings.model_validate(fitted(CONTENT, free))
    for step in ("ingest", "train", "evaluate"):
        place = settings.place(step)
        assert Decimal("0.1") <= amount(place.cpu_request) <= Decimal("0.75") * free["cpu"]
        assert amount(place.cpu_request) <= amount(place.cpu_limit)
        assert amount(place.memory_request) <= amount(place.memory_limit) <= 3 * GIB
        assert amount(place.shared_memory or "0") < amount(place.memory_limit)


def test_on_a_large_node_and_for_all_else_the_settings_stay():
    large = ClusterSettings.model_validate(fitted(CONTENT, {"cpu": Decimal(64), "memory": Decimal(256 * GIB)}))
    small = ClusterSettings.model_validate(fitted(CONTENT, {"cpu": Decimal(1), "memory": Decimal(2 * GIB)}))
    own = ClusterSettings.model_validate(CONTENT)
    for field in ("cpu_request", "memory_request", "memory_limit", "shared_memory"):
        assert amount(getattr(large.place("train"), field)) == amount(getattr(own.place("train"), field))
    for kept in ("cpu_limit", "timeout_s", "retries", "tolerations", "labels", "optional_secrets"):
        assert getattr(small.place("train"), kept) == getattr(own.place("train"), kept)
    assert small.workspace == own.workspace


def test_a_node_without_room_is_told():
    with pytest.raises(SettingsError, match=r"has cpu 0.1, memory 8.0 GiB free.*needs \(cpu 0.1, memory 0.5 GiB\)"):
        fitted(CONTENT, {"cpu": Decimal("0.1"), "memory": Decimal(8 * GIB)})
