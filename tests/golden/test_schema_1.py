"""Artifacts of schema 1, read by the present code.

Users have artifacts, receipts and Bentos of this schema, so **every later version must read these files**. Where a test
here fails, mend the reader; make.py, which wrote them, is there to say how, not to write them again.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from google.protobuf import json_format
from kfp.components import load_component_from_file
from kfp.kubernetes.kubernetes_executor_config_pb2 import KubernetesExecutorConfig
from kfp.pipeline_spec.pipeline_spec_pb2 import PipelineSpec, PlatformSpec

from components.catalog import STEPS
from gapgate import artifacts
from gapgate.artifacts import MANIFEST, Manifest, read_json, sha256_file
from gapgate.data.splits import SPLIT_NAMES, Splits
from gapgate.evidence.evaluate import parity
from gapgate.evidence.gate import Certificate
from gapgate.evidence.sealed import receipt
from gapgate.evidence.sealed.golden import Golden
from gapgate.onnx.classifier import Classifier, softmax
from gapgate.settings.sections import AugmentSettings, Settings
from pipelines.graph import arguments
from serving.model.predictor import Predictor
from serving.run import serve
from tests.golden.stored import SCHEMA_1, restore_bento, unpacked_package

KINDS = tuple(step.output for step in STEPS.values())
WITHOUT_REPORT = ("evaluation", "certificate")
"""Kept in part: `make.py` says why."""
TOLERANCE = 1e-4
"""Between the logits of two processors or two versions of ONNX Runtime; the server's own."""


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy, with the Bento's archive as it was."""
    folder = Path(shutil.copytree(SCHEMA_1, tmp_path_factory.mktemp("golden") / "artifacts"))
    packed = folder / "bento" / "model.bento.xz"
    restore_bento(packed, packed.with_suffix(""))
    packed.unlink()
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpacked_package(tmp_path_factory.mktemp("package"))


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(WITHOUT_REPORT)))
def test_a_whole_artifact_is_loaded_and_every_file_of_it_checked(golden: Path, kind: str) -> None:
    made = artifacts.load(golden / kind, kind, verify_trees=True)
    assert made.manifest.schema_version == 1
    assert STEPS[made.manifest.step].output == kind


@pytest.mark.parametrize("kind", WITHOUT_REPORT)
def test_a_manifest_is_read_and_names_the_files_that_were_kept(kind: str) -> None:
    manifest = Manifest.model_validate_json((SCHEMA_1 / kind / MANIFEST).read_text())
    kept = {path.name for path in (SCHEMA_1 / kind).iterdir()} - {MANIFEST}
    assert kept == set(manifest.files) - {name for name in manifest.files if name.startswith(("figures/", "report"))}
    assert {name: sha256_file(SCHEMA_1 / kind / name) for name in kept} == {name: manifest.files[name] for name in kept}


def test_the_chain_of_digests_holds_from_the_data_set_to_the_bento(golden: Path) -> None:
    lineage = artifacts.lineage({"registration": artifacts.load(golden / "registration", "registration")})
    manifests = {kind: Manifest.model_validate_json((golden / kind / MANIFEST).read_text()) for kind in KINDS}
    bento = manifests.pop("bento")
    assert {kind: entry["digest"] for kind, entry in lineage.items()} == {
        kind: manifest.digest for kind, manifest in manifests.items()
    }
    # Since 0.3 `package` reads the evaluation too, to compare the model with the champion.
    assert bento.inputs == {kind: manifests[kind].digest for kind in STEPS["package"].inputs if kind != "evaluation"}


def test_the_images_of_the_splits_are_those_of_the_data_set(golden: Path) -> None:
    splits = Splits.open(golden / "splits")
    given = np.load(golden / "dataset" / "files" / "digits.npz")
    rows = np.concatenate([splits.rows(name) for name in SPLIT_NAMES])
    assert splits.class_names == ["0", "1", "2"]
    assert sorted(rows) == list(range(len(given["labels"])))
    assert np.array_equal(splits.images[..., 0], given["images"])
    assert np.array_equal(splits.labels, given["labels"])


def test_the_policy_is_one_that_training_takes() -> None:
    content = read_json(SCHEMA_1 / "policy" / "policy.json")
    (operation,) = AugmentSettings.model_validate(content).operations
    assert (operation.type, operation.probability) == ("translate", 1.0)


def test_the_model_gives_the_logits_that_torch_gave_and_the_accuracy_that_was_measured() -> None:
    model = Classifier.load(SCHEMA_1 / "model" / "model.onnx")
    assert parity(model, SCHEMA_1 / "model" / "parity.safetensors", 250)["max_abs_difference"] < TOLERANCE
    splits = Splits.open(SCHEMA_1 / "splits")
    figures = read_json(SCHEMA_1 / "evaluation" / "metrics.json")
    for name in SPLIT_NAMES:
        rows = splits.rows(name)
        right = model.logits(splits.images[rows]).argmax(axis=1) == splits.labels[rows]
        assert figures[f"{name}_accuracy"] == right.mean()


def test_the_certificate_is_read_with_each_check() -> None:
    certificate = Certificate.model_validate(read_json(SCHEMA_1 / "certificate" / "certificate.json"))
    assert certificate.verdict == "pass"
    limits = {check.name: check.limit for check in certificate.checks}
    assert limits == {
        "max_gap_points": 20.0,
        "min_test_accuracy": 0.7,
        "min_class_recall": 0.5,
        "max_ece": 0.1,
        "max_parity": 1e-4,
    }


def test_the_receipt_has_the_digest_that_its_predictions_carry() -> None:
    registration = read_json(SCHEMA_1 / "registration" / "registration.json")
    found = receipt.verify(read_json(SCHEMA_1 / "registration" / "receipt.json"), registration["receipt"])
    assert (found.model_name, found.model_version, found.verdict) == ("golden", "1", "pass")
    for kind, digest in found.artifacts.items():
        assert Manifest.model_validate_json((SCHEMA_1 / kind / MANIFEST).read_text()).digest == digest


def test_the_server_loads_the_package_and_gives_its_golden_images_the_stored_logits(package: Path) -> None:
    predictor = Predictor.load(package)
    stored = [Golden.model_validate(line) for line in read_json(package / "golden" / "golden.json")]
    images = np.stack([predictor.transform.decode(package / "golden" / line.file) for line in stored])
    expected = np.array([line.logits for line in stored])
    np.testing.assert_allclose(predictor.classifier.logits(images), expected, atol=TOLERANCE, rtol=0)
    assert predictor.digest == read_json(SCHEMA_1 / "bento" / "package.json")["package"]
    assert predictor.index is not None
    assert len(predictor.index) == 8


def test_the_bento_is_served_and_answers_a_golden_image_with_its_stored_logits(golden: Path, tmp_path: Path) -> None:
    """By its own source, as `gapgate serve` starts it, on the libraries of the present version."""
    with serve(golden / "bento" / "model.bento", work_dir=tmp_path) as server:
        server.wait_ready()
        folder = tmp_path / "bento" / "src" / "model" / "golden"
        line: dict[str, Any] = next(line for line in read_json(folder / "golden.json") if line["file"] == "odd.png")
        answer = httpx.post(
            f"{server.url}/v1/predict",
            content=(folder / line["file"]).read_bytes(),
            headers={"content-type": line["content_type"]},
            timeout=10,
        )
    assert answer.status_code == 200, answer.text
    expected = softmax(np.array(line["logits"], np.float32)[None])[0]
    assert answer.json()["probabilities"] == {
        name: pytest.approx(float(value), abs=TOLERANCE) for name, value in zip("012", expected, strict=True)
    }
    assert answer.json()["receipt"] == read_json(SCHEMA_1 / "registration" / "registration.json")["receipt"]


def test_the_compiled_pipeline_is_still_one_and_takes_the_parameters_of_a_run() -> None:
    spec, platform = yaml.safe_load_all((SCHEMA_1 / "pipeline.yaml").read_text())
    json_format.ParseDict(spec, PipelineSpec())
    json_format.ParseDict(platform, PlatformSpec())
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        json_format.ParseDict(executor, KubernetesExecutorConfig())
    loaded = load_component_from_file(str(SCHEMA_1 / "pipeline.yaml"))
    assert set(arguments(Settings())) <= set(loaded.component_spec.inputs)
    assert set(spec["deploymentSpec"]["executors"]) == {f"exec-{name}" for name in STEPS}


def test_no_stored_file_names_the_place_where_it_was_made(package: Path) -> None:
    """The Bento's source and its Dockerfile, which speak of /tmp and /root, are left out."""
    stored = [path for root in (SCHEMA_1, package) for path in sorted(root.rglob("*")) if path.is_file()]
    assert len(stored) > 50
    for path in stored:
        content = path.read_bytes()
        assert not any(place in content for place in (b"/tmp/", b"/home/", b"/root/", b"/Users/")), path


def test_a_changed_byte_is_found(golden: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(golden / "model", tmp_path / "model"))
    content = bytearray((copy / "weights.safetensors").read_bytes())
    content[-1] ^= 1
    (copy / "weights.safetensors").write_bytes(content)
    with pytest.raises(artifacts.ArtifactError, match=r"weights\.safetensors was changed"):
        artifacts.load(copy, "model")
