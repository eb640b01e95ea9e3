"""A server that follows an alias in the registry of a real MLflow server, under load. `GAPGATE_SWAPS` sets how often it
moves."""

from __future__ import annotations

import json
import os
import threading
from itertools import pairwise
from pathlib import Path

import httpx
import pytest

from bench.http_load import Load, form, http, run
from gapgate.artifacts import Artifact
from serving.run import Server, serve
from tests.serving import packaged
from tests.serving.registry_server import Publisher, RegistryServer
from tests.waiting import wait_for

SWAPS = int(os.environ.get("GAPGATE_SWAPS") or 8)
PICTURE = packaged.picture(16, 16, seed=4)


@pytest.fixture
def publisher(mlflow_server: RegistryServer, tmp_path: Path) -> Publisher:
    return Publisher(
        mlflow_server, f"model {tmp_path.name}", packaged.folder(tmp_path / "linear"), tmp_path / "published"
    )


def following(
    bento: Artifact, mlflow_server: RegistryServer, publisher: Publisher, work_dir: Path, **more: str
) -> Server:
    environment = {
        "GAPGATE_MODEL": f"models:/{publisher.name}@champion",
        "GAPGATE_MODEL_POLL_S": "0.1",
        "GAPGATE_MODEL_CACHE": str(work_dir / "cache"),
        "MLFLOW_TRACKING_URI": mlflow_server.url,
        **more,
    }
    return serve(bento.path / "model.bento", work_dir=work_dir, environment=environment)


def ask(server: Server) -> dict[str, object]:
    answer: dict[str, object] = httpx.post(f"{server.url}/v1/predict", files={"image": PICTURE}).json()
    return answer


def version(server: Server) -> str:
    """The version that answers; empty from a worker that has loaded none yet."""
    answer = ask(server)
    return str(answer["model"]["version"]) if "model" in answer else ""  # type: ignore[index]


def test_swaps_under_load_fail_no_request_and_each_answer_names_the_version_that_gave_it(
    bento: Artifact, mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    pooled = packaged.folder(tmp_path / "pooled", model=packaged.pooled_model())
    versions = [publisher.publish(), publisher.publish(source=pooled)]
    publisher.promote(versions[0])
    with following(bento, mlflow_server, publisher, tmp_path, GAPGATE_WORKERS="2") as server:
        server.wait_ready()
        confidences: dict[str, float] = {}
        for wanted in (versions[1], versions[0]):
            publisher.promote(wanted)
            wait_for(lambda wanted=wanted: {version(server) for _ in range(8)} == {wanted})
            confidences[wanted] = float(ask(server)["confidence"])  # type: ignore[arg-type]
        assert len(set(confidences.values())) == 2  # the two models disagree, so an answer tells which one gave it

        seen: list[tuple[str, float]] = []

        def note(status: int, body: bytes) -> None:
            if status == 200:
                answer = json.loads(body)
                seen.append((answer["model"]["version"], answer["confidence"]))

        loads: list[Load] = []
        stop = threading.Event()

        def load() -> None:
            body, content_type = form("image", PICTURE)
            asked = [http(server.url, "/v1/predict", body, content_type)]
            while not stop.is_set():
                loads.append(run(server.url, asked, concurrency=8, seconds=1.0, on_answer=note))

        thread = threading.Thread(target=load)
        thread.start()
        try:
            for swap in range(1, SWAPS + 1):
                publisher.promote(versions[swap % 2])
                wait_for(lambda swap=swap: {version(server) for _ in range(8)} == {versions[swap % 2]})
        finally:
            stop.set()
            thread.join()
        assert {status for load in loads for status in load.statuses} == {200}
        assert sum(load.dropped + load.refused for load in loads) == 0
        assert len(seen) > 20 * SWAPS
        assert all(confidence == pytest.approx(confidences[name], abs=1e-6) for name, confidence in seen)
        changes = sum(before[0] != after[0] for before, after in pairwise(seen))
        assert changes >= SWAPS


def test_a_version_that_may_not_be_served_leaves_the_old_one_and_is_told_in_the_metrics(
    bento: Artifact, mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    def spoil_parity(folder: Path) -> None:
        golden = folder / "golden" / "golden.json"
        cases = json.loads(golden.read_text())
        cases[0]["logits"][0] += 0.5
        golden.write_text(json.dumps(cases))

    good, spoiled = publisher.publish(), publisher.publish(spoil_parity)
    publisher.promote(good)
    with following(bento, mlflow_server, publisher, tmp_path) as server:
        server.wait_ready()
        publisher.promote(spoiled)
        wait_for(lambda: "gapgate_model_refused 1.0" in httpx.get(f"{server.url}/metrics").text)
        assert version(server) == good
        assert httpx.get(f"{server.url}/readyz").status_code == 200
        assert "logits differ" in server.log.read_text()
        publisher.promote(good)
        wait_for(lambda: "gapgate_model_refused 0.0" in httpx.get(f"{server.url}/metrics").text)


def test_a_server_without_a_model_yet_is_not_ready_and_says_what_it_waits_for(
    bento: Artifact, mlflow_server: RegistryServer, publisher: Publisher, tmp_path: Path
) -> None:
    with following(bento, mlflow_server, publisher, tmp_path) as server:
        wait_for(lambda: "champion" in httpx.get(f"{server.url}/readyz").text)
        assert httpx.get(f"{server.url}/readyz").status_code == 503
        publisher.promote(publisher.publish())
        server.wait_ready()
        assert version(server) == "1"
