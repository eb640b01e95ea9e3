"""`/metrics` of a server of two workers."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gapgate.artifacts import Artifact
from serving.run import serve
from tests.serving.packaged import picture

PNG = {"content-type": "image/png"}


@pytest.fixture(scope="module")
def client(bento: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    work_dir = tmp_path_factory.mktemp("two")
    with serve(bento.path / "model.bento", work_dir=work_dir, environment={"GAPGATE_WORKERS": "2"}) as running:
        running.wait_ready()
        with httpx.Client(base_url=running.url, timeout=60) as connected:
            yield connected


def series(client: httpx.Client) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    text = client.get("/metrics").text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(found: dict[tuple[str, frozenset[tuple[str, str]]], float], name: str, /, **labels: str) -> float:
    return sum(value for (key, given), value in found.items() if key == name and set(labels.items()) <= given)


def test_requests_and_predictions_of_all_workers_are_counted(client: httpx.Client) -> None:
    before = series(client)
    classes: list[str] = []
    for seed in range(12):
        # A connection each, so that both workers get some.
        answer = httpx.post(f"{client.base_url}/v1/predict", content=picture(16, 16, seed=seed), headers=PNG).json()
        classes.append(answer["class"])
    client.post("/v1/predict", content=b"x", headers=PNG)
    after = series(client)

    def more(name: str, **labels: str) -> float:
        return total(after, name, **labels) - total(before, name, **labels)

    assert more("gapgate_requests_total", route="/v1/predict", status="200") == 12
    assert more("gapgate_requests_total", route="/v1/predict", status="400") == 1
    assert more("gapgate_request_seconds_count", route="/v1/predict") == 13
    assert more("gapgate_confidence_count", version="3") == 12
    for name in set(classes):
        assert more("gapgate_predictions_total", **{"class": name}) == classes.count(name)
    assert total(after, "gapgate_model_info", name="digits", version="3") == 1
    assert total(after, "gapgate_ready") == 1
    assert total(after, "gapgate_in_progress") == 0


def test_random_paths_make_no_series(client: httpx.Client) -> None:
    for path in ("/a", "/static/a", "/v1/receipts/a"):
        client.get(path)
    before = series(client)
    for number in range(300):
        for path in (f"/{number}", f"/v1/{number}/x", f"/static/{number}", f"/v1/receipts/{number}"):
            assert client.get(path).status_code == 404
    after = series(client)
    assert set(after) == set(before)
    assert total(after, "gapgate_requests_total", route="unmatched") > total(
        before, "gapgate_requests_total", route="unmatched"
    )


def test_the_process_series_are_those_of_both_workers(client: httpx.Client) -> None:
    found = series(client)
    assert total(found, "process_resident_memory_bytes") > 2 * 30 * 2**20
    assert total(found, "process_cpu_seconds_total") > 0
    assert total(found, "process_open_fds") > 10
    assert len([name for name, _ in found if name == "process_start_time_seconds"]) == 1
