"""The use of the machine during a training, in the spool."""

import pytest

from components.platform.tracking import system_metrics
from components.platform.tracking.spool import Reader, Spool
from components.platform.tracking.system_metrics import sampled
from tests.waiting import wait_for


@pytest.fixture
def spool(tmp_path):
    return Spool(tmp_path / "spool", "train")


def samples(spool):
    return [event for event in Reader(spool.folder).read() if event["kind"] == "metrics"]


def test_samples_of_processor_and_memory_reach_the_spool(spool, monkeypatch):
    monkeypatch.setattr(system_metrics, "_SHORTEST_S", 0.05)
    with sampled(spool):
        wait_for(lambda: len(samples(spool)) >= 2)
    first, second, *_ = samples(spool)
    assert (first["at"], second["at"]) == (1, 2)
    assert 0 < second["values"]["system/system_memory_usage_percentage"] < 100
    assert 0 <= second["values"]["system/cpu_utilization_percentage"] <= 100
    assert all(name.startswith("system/") for name in second["values"])


def test_a_part_of_the_machine_that_is_hidden_costs_only_its_figures(spool, monkeypatch):
    class Hidden:
        def collect_metrics(self):
            raise PermissionError("/proc/net/dev")

    found = system_metrics._monitors()
    monkeypatch.setattr(system_metrics, "_monitors", lambda: [Hidden(), *found])
    monkeypatch.setattr(system_metrics, "_SHORTEST_S", 0.05)
    with sampled(spool):
        wait_for(lambda: samples(spool))
    assert "system/cpu_utilization_percentage" in samples(spool)[0]["values"]


def test_a_short_training_has_no_sample_and_does_not_wait_for_one(spool, monkeypatch):
    monkeypatch.setattr(system_metrics, "_SHORTEST_S", 3600.0)
    monkeypatch.setattr(system_metrics, "_LONGEST_S", 3600.0)
    with sampled(spool):
        pass
    assert samples(spool) == []


def test_a_long_training_has_hundreds_of_samples_not_thousands(spool, monkeypatch):
    waited = []

    class Clock:
        def wait(self, seconds):
            waited.append(seconds)
            return sum(waited) > 8 * 3600

        def is_set(self):
            return False

    monkeypatch.setattr(system_metrics, "_monitors", lambda: [])
    system_metrics._sample(spool, Clock())
    assert 100 < len(samples(spool)) < 1000
    assert waited[0] == system_metrics._SHORTEST_S
    assert max(waited) == system_metrics._LONGEST_S
    assert sum(seconds < 30 for seconds in waited) < 40  # few in the first minutes
