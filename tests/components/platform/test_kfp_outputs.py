"""What a step gives to Kubeflow Pipelines' pages, with KFP's own artifacts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from kfp import dsl

from components.platform.kfp_outputs import MAX_CLASSES, describe, show_figures, show_verdict
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.evidence.measures.metrics import roc


def evaluation_of(folder: Path, num_classes: int) -> Artifact:
    """An evaluation of four test images and one of train, in classes named c0, c1 …"""
    names = [f"c{index}" for index in range(num_classes)]
    confusion = np.eye(num_classes, dtype=int).tolist()
    with artifacts.create(folder, kind="evaluation", step="evaluate", settings={}, inputs={}) as made:
        artifacts.write_json(made / "metrics.json", {"test_accuracy": 0.75})
        artifacts.write_json(
            made / "evaluation.json", {"classes": [{"name": name} for name in names], "confusion": confusion}
        )
        scores = [0.9, 0.8, 0.3, 0.1, 0.2]
        table = {
            "split": ["test"] * 4 + ["train"],
            "label": pa.array([1, 0, 1, 0, 1], pa.int32()),
            "probabilities": pa.array([[1 - score, score] for score in scores], pa.list_(pa.float32())),
        }
        pq.write_table(pa.table(table), made / "predictions.parquet")
    return Artifact(folder, artifacts.read_manifest(folder))


def as_kfp_sends(metadata: dict[str, object]) -> dict[str, object]:
    """The metadata as it reaches the store, by way of JSON and a Struct, which take neither infinity nor NaN."""
    sent = json_format.Parse(json.dumps(metadata, allow_nan=False), Struct())
    return dict(json_format.MessageToDict(sent))


def test_an_artifact_is_described_by_its_digest_and_those_of_its_inputs(tmp_path: Path) -> None:
    evaluation = evaluation_of(tmp_path / "evaluation", 3)
    with artifacts.create(
        tmp_path / "made", kind="certificate", step="gate", settings={}, inputs={"evaluation": evaluation}
    ) as folder:
        (folder / "x").touch()
    output = dsl.Artifact(metadata={"before": "kept"})
    made = describe(output, Artifact(tmp_path / "made", artifacts.read_manifest(tmp_path / "made")), alias="champion")
    assert as_kfp_sends(output.metadata) == {
        "before": "kept",
        "digest": made.digest,
        "run": "",
        "code_revision": made.manifest.code_revision,
        "digest of evaluation": evaluation.digest,
        "alias": "champion",
    }


def test_two_classes_have_a_confusion_matrix_and_a_roc_curve_of_the_test_images(tmp_path: Path) -> None:
    figures, classes = dsl.Metrics(), dsl.ClassificationMetrics()
    show_figures(evaluation_of(tmp_path / "evaluation", 2), figures, classes)
    assert figures.metadata == {"test_accuracy": 0.75}
    found = as_kfp_sends(classes.metadata)
    assert found["confusionMatrix"] == {
        "annotationSpecs": [{"displayName": "c0"}, {"displayName": "c1"}],
        "rows": [{"row": [1, 0]}, {"row": [0, 1]}],
    }
    points = [(one["falsePositiveRate"], one["recall"]) for one in classes.metadata["confidenceMetrics"]]
    assert points == [(0, 0), (0, 0.5), (0.5, 0.5), (0.5, 1), (1, 1)]
    assert classes.metadata["confidenceMetrics"][0]["confidenceThreshold"] == 1


@pytest.mark.parametrize(("num_classes", "has_matrix"), [(3, True), (MAX_CLASSES, True), (MAX_CLASSES + 1, False)])
def test_more_classes_have_no_roc_curve_and_very_many_no_matrix(
    tmp_path: Path, num_classes: int, has_matrix: bool
) -> None:
    classes = dsl.ClassificationMetrics()
    show_figures(evaluation_of(tmp_path / "evaluation", num_classes), dsl.Metrics(), classes)
    assert set(classes.metadata) == ({"confusionMatrix"} if has_matrix else set())


def test_the_gate_shows_its_report_and_a_page_with_the_verdict(tmp_path: Path) -> None:
    checks = [{"name": "max_ece", "verdict": "fail", "reason": "too high"}]
    with artifacts.create(tmp_path / "made", kind="certificate", step="gate", settings={}, inputs={}) as folder:
        artifacts.write_json(folder / "certificate.json", {"verdict": "fail", "checks": checks})
        (folder / "report.html").write_text("<p>report</p>")
    report, verdict = dsl.HTML(uri=str(tmp_path / "report")), dsl.Markdown(uri=str(tmp_path / "verdict"))
    made = Artifact(tmp_path / "made", artifacts.read_manifest(tmp_path / "made"))
    assert show_verdict(made, report, verdict) == "fail"
    assert (tmp_path / "report").read_text() == "<p>report</p>"
    assert (tmp_path / "verdict").read_text().startswith("# Gate: fail\n")


def test_a_roc_curve_of_many_images_has_few_points_and_both_ends() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 5000)
    false_positive, true_positive, thresholds = roc(labels, rng.random(5000).tolist(), 50)
    assert len(false_positive) == len(true_positive) == len(thresholds) == 50
    assert (false_positive[0], true_positive[0]) == (0, 0)
    assert (false_positive[-1], true_positive[-1]) == (1, 1)
    assert false_positive == sorted(false_positive)
    assert thresholds == sorted(thresholds, reverse=True)


@pytest.mark.filterwarnings("ignore:No (negative|positive) samples")
def test_a_single_class_among_the_images_has_no_roc_curve() -> None:
    assert roc([1, 1], [0.2, 0.9], 10) == ([], [], [])
    assert roc([0, 0], [0.2, 0.9], 10) == ([], [], [])
