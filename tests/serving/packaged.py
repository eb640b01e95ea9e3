"""A small real model, certified and registered, as `package` takes it: for the tests of packaging and serving."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from components import package
from gapgate import artifacts
from gapgate.artifacts import Artifact
from gapgate.receipt import Receipt
from gapgate.tracking import NullTracker
from gapgate.transform import Transform

SIZE_PX = 16
CLASS_NAMES = ["ant", "bee", "cat", "dog", "eel", "fox", "gnu"]


def inputs(root: Path, *, verdict: str = "pass", name: str = "digits") -> dict[str, Artifact]:
    """Model, certificate and registration, written below `root`."""
    model = _artifact(root / "model", "model", {}, _write_model)
    certificate = _artifact(
        root / "certificate",
        "certificate",
        {},
        lambda folder: artifacts.write_json(folder / "certificate.json", {"verdict": verdict, "checks": []}),
    )
    made = {"model": model, "certificate": certificate}
    registration = _artifact(
        root / "registration", "registration", made, lambda folder: _write_registration(folder, name, model, verdict)
    )
    return {**made, "registration": registration}


def build(root: Path) -> Artifact:
    """The Bento of `inputs`."""
    return package.run(None, inputs(root), root / "bento", NullTracker())


def picture(width: int, height: int, format: str = "PNG", mode: str = "RGB", seed: int = 0) -> bytes:
    """An image file of smooth noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)
    stream = BytesIO()
    image.save(stream, format)
    return stream.getvalue()


def _artifact(path: Path, kind: str, parents: dict[str, Artifact], write: Callable[[Path], None]) -> Artifact:
    with artifacts.create(path, kind=kind, step="test", settings={}, inputs=parents) as folder:
        write(folder)
    return artifacts.load(path, kind)


def _write_model(folder: Path) -> None:
    onnx.save(_linear_model(), folder / "model.onnx")
    Transform(size_px=SIZE_PX, mode="gray").write(folder / "transform.json")
    artifacts.write_json(folder / "architecture.json", {"class_names": CLASS_NAMES})


def _write_registration(folder: Path, name: str, model: Artifact, verdict: str) -> None:
    facts: dict[str, Any] = {"run": "r1", "tracking_run": "t1", "data": {}, "code_revision": "c1", "image_digest": ""}
    receipt = Receipt(
        model_name=name,
        model_version="3",
        verdict=verdict,
        figures={},
        artifacts={"model": model.digest},
        settings={},
        **facts,
    )
    artifacts.write_json(folder / "receipt.json", receipt.model_dump(mode="json"))
    registration = {"name": name, "version": "3", "alias": "champion", "receipt": receipt.digest}
    artifacts.write_json(folder / "registration.json", registration)


def _linear_model() -> onnx.ModelProto:
    """(N, 16, 16, 1) uint8 → (N, 7) float32: one dense layer on the pixels scaled to -1..1."""
    weights = np.random.default_rng(1).normal(0, 0.2, (SIZE_PX * SIZE_PX, len(CLASS_NAMES))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
            helper.make_node("Div", ["floats", "half"], ["scaled"]),
            helper.make_node("Sub", ["scaled", "one"], ["centred"]),
            helper.make_node("Flatten", ["centred"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["logits"]),
        ],
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIZE_PX, SIZE_PX, 1])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", len(CLASS_NAMES)])],
        [
            numpy_helper.from_array(np.array(127.5, np.float32), "half"),
            numpy_helper.from_array(np.array(1.0, np.float32), "one"),
            numpy_helper.from_array(weights, "weights"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
