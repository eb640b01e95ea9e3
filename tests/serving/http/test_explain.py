"""`POST /v1/explain`, `POST /v1/similar`, `GET /v1/model` and `GET /v1/receipts/{digest}` of a real server."""

from __future__ import annotations

import base64
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from gapgate.artifacts import Artifact, digest_of
from gapgate.data.transform import Transform
from gapgate.evidence.sealed.receipt import verify
from gapgate.onnx.classifier import Classifier, softmax
from tests.serving.packaged import CLASS_NAMES, SIZE_PX, TRAIN_IMAGES, picture

PNG = {"content-type": "image/png"}


def test_a_drop_is_the_probability_that_hiding_a_patch_takes(client: httpx.Client, model_dir: Path) -> None:
    data = picture(16, 16, seed=3)
    answer = client.post("/v1/explain", content=data, headers=PNG).json()
    transform = Transform.from_file(model_dir / "transform.json")
    classifier = Classifier.load(model_dir / "model.onnx")
    image = transform.decode(data)
    drops = np.array(answer["drops"])
    row, column = np.unravel_index(np.argmax(np.abs(drops)), drops.shape)
    hidden = image.copy()
    top, left = (min(int(at) * answer["stride_px"], SIZE_PX - answer["patch_px"]) for at in (row, column))
    hidden[top : top + answer["patch_px"], left : left + answer["patch_px"]] = transform.fill
    before, after = softmax(classifier.logits(np.stack([image, hidden])))[:, CLASS_NAMES.index(answer["class"])]
    assert drops[row, column] == pytest.approx(before - after, abs=1e-5)
    assert answer["confidence"] == pytest.approx(before, abs=1e-6)


def test_another_class_can_be_explained_and_an_unknown_one_not(client: httpx.Client) -> None:
    data = picture(16, 16, seed=3)
    best = client.post("/v1/explain", content=data, headers=PNG).json()
    other = next(name for name in CLASS_NAMES if name != best["class"])
    answer = client.post("/v1/explain", params={"class": other}, content=data, headers=PNG).json()
    assert answer["class"] == other
    assert answer["confidence"] < best["confidence"]
    assert answer["drops"] != best["drops"]
    refused = client.post("/v1/explain", params={"class": "yak"}, content=data, headers=PNG)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_parameter")


def test_the_heat_map_is_a_picture_in_the_answer_or_as_the_answer(client: httpx.Client) -> None:
    data = picture(16, 16, seed=3)
    inside = base64.b64decode(client.post("/v1/explain", content=data, headers=PNG).json()["heat_png"])
    alone = client.post("/v1/explain", content=data, headers={**PNG, "accept": "image/png"})
    assert alone.headers["content-type"] == "image/png"
    assert alone.content == inside
    with Image.open(BytesIO(inside)) as image:
        assert image.format == "PNG"
        assert min(image.size) >= 224


def test_feature_maps_come_only_when_asked_for(client: httpx.Client) -> None:
    data = picture(16, 16)
    assert "feature_maps" not in client.post("/v1/explain", content=data, headers=PNG).json()
    asked = client.post("/v1/explain?feature_maps=true", content=data, headers=PNG).json()
    assert asked["feature_maps"] == []  # the packaged model is one dense layer
    refused = client.post("/v1/explain?feature_maps=maybe", content=data, headers=PNG)
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "invalid_parameter")


def test_a_training_image_is_its_own_nearest_neighbour(client: httpx.Client, unpacked: Path, bento: Artifact) -> None:
    splits = bento.path.parent / "splits"
    images, rows = np.load(splits / "images.npy"), np.load(splits / "train.npy")
    stream = BytesIO()
    Image.fromarray(images[rows[5]].squeeze()).save(stream, "PNG")
    answer = client.post("/v1/similar?k=3", content=stream.getvalue(), headers=PNG).json()
    distances = [neighbour["distance"] for neighbour in answer["neighbours"]]
    assert distances[0] == pytest.approx(0, abs=1e-5)
    assert distances == sorted(distances)
    assert len(distances) == 3
    label = int(np.load(splits / "labels.npy")[rows[5]])
    assert answer["neighbours"][0]["class"] == CLASS_NAMES[label]
    with Image.open(BytesIO(base64.b64decode(answer["neighbours"][0]["thumbnail"]))) as thumbnail:
        assert thumbnail.format == "JPEG"


def test_an_image_unlike_all_training_images_is_said_to_be_far(client: httpx.Client, bento: Artifact) -> None:
    answers = {}
    for name, pixels in (("known", _training_image(bento)), ("far", np.eye(1, 256).reshape(16, 16) * 255)):
        stream = BytesIO()
        Image.fromarray(pixels.astype(np.uint8)).save(stream, "PNG")
        answers[name] = client.post("/v1/similar?k=1", content=stream.getvalue(), headers=PNG).json()
    assert not answers["known"]["is_far"]
    assert answers["far"]["is_far"]
    usual = answers["far"]["usual_distance"]
    assert 0 < usual == answers["known"]["usual_distance"] < answers["far"]["neighbours"][0]["distance"]


def _training_image(bento: Artifact) -> np.ndarray:
    splits = bento.path.parent / "splits"
    return np.load(splits / "images.npy")[np.load(splits / "train.npy")[5]].squeeze()


@pytest.mark.parametrize("k", ["0", "101", "many"])
def test_a_number_of_neighbours_out_of_range_is_refused(client: httpx.Client, k: str) -> None:
    response = client.post(f"/v1/similar?k={k}", content=picture(16, 16), headers=PNG)
    assert (response.status_code, response.json()["error"]["code"]) == (422, "invalid_parameter")


@pytest.mark.parametrize("path", ["/v1/explain", "/v1/similar"])
def test_a_damaged_image_is_the_clients_error_here_too(client: httpx.Client, path: str) -> None:
    response = client.post(path, content=picture(64, 64)[:-60], headers=PNG)
    assert (response.status_code, response.json()["error"]["code"]) == (400, "invalid_image")


def test_the_model_card_says_what_the_model_is_takes_and_achieved(client: httpx.Client, bento: Artifact) -> None:
    card = client.get("/v1/model").json()
    assert card["classes"] == CLASS_NAMES
    assert (card["input"]["height"], card["input"]["width"], card["input"]["channels"]) == (16, 16, 1)
    assert card["gap"] == {"points": 1.2, "low": 0.4, "high": 2.1}
    assert card["metrics"]["test_accuracy"] == 0.938
    assert card["gate"]["verdict"] == "pass"
    assert card["package"] == bento.read_json("package.json")["package"]
    assert card["similar"] == TRAIN_IMAGES
    assert set(card["versions"]) == {"onnxruntime", "numpy", "pillow", "python"}


def test_a_receipt_leads_from_the_prediction_to_the_data_by_digests_that_anyone_can_check(client: httpx.Client) -> None:
    digest = client.post("/v1/predict", content=picture(16, 16), headers=PNG).json()["receipt"]
    answer = client.get(f"/v1/receipts/{digest}").json()
    receipt = verify(answer["receipt"], digest)
    lineage: dict[str, Any] = answer["lineage"]
    for entry in lineage.values():
        content = {key: value for key, value in entry.items() if key != "digest"}
        assert digest_of(content) == entry["digest"]
    known = {entry["digest"] for entry in lineage.values()}
    assert {parent for entry in lineage.values() for parent in entry["inputs"].values()} <= known
    assert set(receipt.artifacts.values()) <= known
    assert set(lineage) == {
        "dataset", "splits", "policy", "model", "evaluation", "certificate", "registration"
    }  # fmt: skip


def test_another_receipt_is_not_found(client: httpx.Client) -> None:
    for digest in ("sha256:" + "0" * 64, "x", "..", "%2e%2e"):
        response = client.get(f"/v1/receipts/{digest}")
        assert response.status_code == 404
        assert response.json()["error"]["code"] == "not_found"
