"""Outputs of a step for Kubeflow Pipelines' own pages: digests beside each artifact, confusion matrix and ROC curve,
report and verdict. Each function gets KFP's objects (`kfp.dsl.Artifact` and its kinds); nothing here imports KFP."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gapgate.artifacts import Artifact

MAX_CLASSES = 100
"""Most classes of a confusion matrix: KFP keeps it as text in its metadata store, and its page draws every cell."""
_MAX_POINTS = 200


def describe(output: Any, made: Artifact, **more: Any) -> Artifact:
    """Write into an output's metadata what the artifact is and what it was made from; returns the artifact.

    Args:
        output: KFP's artifact.
        made: our artifact at its path.
        more: further entries.
    """
    manifest = made.manifest
    output.metadata.update(digest=made.digest, run=manifest.run, code_revision=manifest.code_revision, **more)
    output.metadata.update({f"digest of {kind}": digest for kind, digest in manifest.inputs.items()})
    return made


def show_figures(evaluation: Artifact, figures: Any, classes: Any) -> None:
    """Write the figures of an evaluation into KFP's metrics, and the confusion matrix and (of two classes) ROC curve of
    its test images into KFP's classification metrics."""
    figures.metadata.update(evaluation.read_json("metrics.json"))
    content = evaluation.read_json("evaluation.json")
    names = [str(entry["name"]) for entry in content["classes"]]
    if len(names) <= MAX_CLASSES:
        classes.log_confusion_matrix(names, content["confusion"])
    if len(names) == 2:
        import pyarrow.parquet as pq  # evaluate alone has paid for both

        from gapgate.evidence.measures.metrics import roc

        file, test_images = evaluation.path / "predictions.parquet", [("split", "==", "test")]
        test = pq.read_table(file, columns=["label", "probabilities"], filters=test_images)
        scores = [probabilities[1] for probabilities in test["probabilities"].to_pylist()]
        classes.log_roc_curve(*roc(test["label"].to_numpy(), scores, _MAX_POINTS))


def show_verdict(certificate: Artifact, report: Any, verdict: Any) -> str:
    """Write the report and a page with the verdict and what to do now; returns the verdict."""
    from gapgate.report.verdict import markdown

    content = certificate.read_json("certificate.json")
    shutil.copyfile(certificate.path / "report.html", report.path)
    Path(verdict.path).write_text(markdown(content), encoding="utf-8")
    return str(content["verdict"])
