"""A small real model with its whole lineage, certified and registered, as `package` takes it: for the tests of
packaging and serving."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from components import package
from components.catalog import STEPS
from components.execute import make
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.evidence.sealed.certificate import Certificate, Check, Verdict
from gapgate.evidence.sealed.receipt import Receipt
from gapgate.settings.sections import PackageSettings, PreprocessSettings
from gapgate.tracking import NullTracker

SIZE_PX = 16
CLASS_NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]
CLASS_IMAGES = 12
TRAIN_IMAGES = 7 * 8
DATA = {"source": "animals", "dvc_hash": "0123456789abcdef0123456789abcdef.dir", "dirty": False, "revision": ""}
FIGURES = {
    "train_accuracy": 0.95,
    "val_accuracy": 0.94,
    "test_accuracy": 0.938,
    "gap_points": 1.2,
    "gap_low": 0.4,
    "gap_high": 2.1,
    "test_ece": 0.02,
}


def inputs(
    root: Path, *, verdict: Verdict = "pass", name: str = "digits", model: onnx.ModelProto | None = None
) -> dict[str, Artifact]:
    """Splits, model, certificate and registration, written below `root` with all that they come from."""
    made: dict[str, Artifact] = {}

    def add(kind: str, step: str, parents: tuple[str, ...], write: Callable[[Path], None], **more: Any) -> None:
        given = {parent: made[parent] for parent in parents}
        with artifacts.create(root / kind, kind=kind, step=step, inputs=given, **{"settings": {}, **more}) as folder:
            write(folder)
        made[kind] = artifacts.load(root / kind, kind)

    def write_registration(folder: Path) -> None:
        _write_registration(folder, name, verdict, {kind: artifact.digest for kind, artifact in made.items()})
        artifacts.write_json(folder / artifacts.LINEAGE, artifacts.lineage(made))

    add("dataset", "ingest", (), _write_dataset, trees=("files",))
    settings = PreprocessSettings(evidence="holdout", stratify=True, num_workers=1)
    made["splits"], _ = make("preprocess", settings, {"dataset": made["dataset"]}, root / "splits", NullTracker())
    add("policy", "augment", ("splits",), _json("policy.json", {"operations": []}), settings={"seed": 0})
    transform = (made["splits"].path / "transform.json").read_bytes()
    add("model", "train", ("splits", "policy"), lambda folder: _write_model(folder, transform, model or linear_model()))
    add("evaluation", "evaluate", ("splits", "model"), _json("metrics.json", FIGURES))
    add(
        "certificate", "gate", ("evaluation",), _json("certificate.json", _certificate(verdict).model_dump(mode="json"))
    )
    add(
        "registration",
        "register",
        ("splits", "policy", "model", "evaluation", "certificate"),
        write_registration,
    )
    return {kind: made[kind] for kind in STEPS["package"].inputs}


def bento(given: Mapping[str, Artifact], place: Path) -> Artifact:
    """The Bento of an artifact of each kind, as the step writes it, without a registry."""
    settings = PackageSettings()
    content = settings.model_dump(mode="json")
    with artifacts.create(place, kind="bento", step="package", settings=content, inputs=given) as folder:
        package.build(settings, given, folder)
    return artifacts.load(place, "bento")


def build(root: Path) -> Artifact:
    """The Bento of `inputs`."""
    return bento(inputs(root), root / "bento")


def folder(root: Path, *, similar_images: int = 1000, model: onnx.ModelProto | None = None) -> Path:
    """The package of `inputs` as a folder, without a Bento around it."""
    given = inputs(root / "inputs", model=model)
    package.write(PackageSettings(similar_images=similar_images), given, root / "package")
    return root / "package"


def picture(width: int, height: int, format: str = "PNG", mode: str = "RGB", seed: int = 0) -> bytes:
    """An image file of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    stream = BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def _json(name: str, content: Any) -> Callable[[Path], None]:
    return lambda folder: artifacts.write_json(folder / name, content)


def _write_dataset(folder: Path) -> None:
    """Gray pictures of one smooth pattern a class, each with its own noise."""
    files = folder / "files"
    files.mkdir()
    rng = np.random.default_rng(2)
    patterns = rng.integers(40, 216, (len(CLASS_NAMES), 4, 4), np.uint8)
    labels = np.tile(np.arange(len(CLASS_NAMES)), CLASS_IMAGES)
    images = np.stack([_smooth(patterns[label]) for label in labels]) + rng.integers(-40, 40, (len(labels), 16, 16))
    np.save(files / "images.npy", images.clip(0, 255).astype(np.uint8))
    np.save(files / "labels.npy", labels)
    (files / "classes.txt").write_text("\n".join(CLASS_NAMES) + "\n")
    artifacts.write_json(folder / "dataset.json", DATA)


def _smooth(coarse: NDArray[np.uint8]) -> NDArray[np.int64]:
    resized = Image.fromarray(coarse).resize((SIZE_PX, SIZE_PX), Image.Resampling.BILINEAR)
    return np.asarray(resized).astype(np.int64)


def _write_model(folder: Path, transform: bytes, model: onnx.ModelProto) -> None:
    onnx.save(model, folder / "model.onnx")
    (folder / "transform.json").write_bytes(transform)
    description = {"class_names": CLASS_NAMES, "num_classes": len(CLASS_NAMES), "input_shape": [SIZE_PX, SIZE_PX, 1]}
    artifacts.write_json(folder / "architecture.json", description)


def _certificate(verdict: Verdict) -> Certificate:
    gap = Check(
        name="max_gap_points",
        verdict=verdict,
        reason="gap 1.2 points (0.4 to 2.1) against the limit 3.0",
        value=1.2,
        low=0.4,
        high=2.1,
        limit=3.0,
    )
    return Certificate(verdict=verdict, checks=(gap,))


def _write_registration(folder: Path, name: str, verdict: Verdict, digests: dict[str, str]) -> None:
    receipt = Receipt(
        model_name=name,
        model_version="3",
        run="r1",
        tracking_run="t1",
        data=DATA,
        code_revision="c1",
        image_digest="",
        verdict=verdict,
        figures=FIGURES,
        artifacts=digests,
        settings={},
    )
    artifacts.write_json(folder / "receipt.json", receipt.model_dump(mode="json"))
    registration = {"name": name, "version": "3", "receipt": receipt.digest}
    artifacts.write_json(folder / "registration.json", registration)


def linear_model() -> onnx.ModelProto:
    """(N, 16, 16, 1) uint8 → (N, 7) float32: one dense layer on the pixels scaled to -1..1, which are its embedding."""
    weights = np.random.default_rng(1).normal(0, 0.2, (SIZE_PX * SIZE_PX, len(CLASS_NAMES)))
    nodes = [
        helper.make_node("Flatten", ["centred"], ["flat"]),
        helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
    ]
    return _model(nodes, weights)


def pooled_model() -> onnx.ModelProto:
    """As `linear_model`, but one convolution averaged over the picture: it has feature maps and no embedding."""
    nodes = [
        helper.make_node("Transpose", ["centred"], ["channels_first"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["channels_first", "weights"], ["maps"], kernel_shape=[3, 3]),
        helper.make_node("GlobalAveragePool", ["maps"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["logits"]),
    ]
    return _model(nodes, np.random.default_rng(1).normal(0, 0.2, (len(CLASS_NAMES), 1, 3, 3)))


def _model(nodes: list[onnx.NodeProto], weights: NDArray[np.float64]) -> onnx.ModelProto:
    """`nodes` from `centred`, the pixels scaled to -1..1, and `weights` to `logits`."""
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["floats", "half"], ["scaled"]),
            helper.make_node("Sub", ["scaled", "one"], ["centred"]),
            *nodes,
        ],
        "classifier",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASS_NAMES)])],
        [
            numpy_helper.from_array(np.array(127.5, np.float32), "half"),
            numpy_helper.from_array(np.array(1.0, np.float32), "one"),
            numpy_helper.from_array(weights.astype(np.float32), "weights"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
