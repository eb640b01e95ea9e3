"""The logged model of an MLflow run: an ONNX file that `mlflow.pyfunc.load_model` and `mlflow models serve` open."""

from __future__ import annotations

import base64
import json
import re
import shutil
import tempfile
import time
import zipfile
from collections.abc import Mapping
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

import gapgate
from components.platform.run_context import RunContext
from components.platform.tracking.mlflow_client import away_errors, client
from components.platform.tracking.mlflow_runs import read_state, remember
from components.platform.tracking.spool import Reader
from gapgate.artifacts import read_json

MODEL_FILE = "model.onnx"
_CODE = "gapgate.zip"
_EXAMPLE = "input_example.json"
_PACKAGES = ("mlflow", "numpy", "onnxruntime", "pillow", "pydantic")
_ROOMS = ("", "data", "data/picture", "onnx", "process", "settings")
"""Folders of the package with the modules that an answer needs, and few others."""


_REFUSED = re.compile(r"[/:.%\"']")
"""Characters that a registered model may have in its name and a logged model may not."""


def log_model(
    context: RunContext, folder: Path, name: str, example: NDArray[np.uint8], figures: Mapping[str, float]
) -> str:
    """Log the model of a run that was begun by `send`, unless an earlier try did; returns the logged model's id.

    Args:
        folder: the model's artifact.
        name: its name on MLflow's pages.
        example: an image (H, W, C) to try it with.
        figures: its headline figures; `test_accuracy` is one of the split `test`.

    Raises:
        TrackingError: the server does not answer.
    """
    from mlflow.entities import LoggedModelOutput, Metric

    state = read_state(context.spool)
    if known := state.get("logged_model"):
        return str(known)
    run = state["run_id"]
    with away_errors(), tempfile.TemporaryDirectory() as place:
        mlflow_client = client()
        # In the place of `log_model`, which makes seven requests more (MLflow 3.17).
        made = mlflow_client.create_logged_model(state["experiment_id"], _REFUSED.sub("-", name), run)
        write_model(Path(place), folder, example, run_id=run, model_id=made.model_id)
        mlflow_client.log_model_artifacts(made.model_id, place)
        mlflow_client.finalize_logged_model(made.model_id, "READY")
        # So that the run's page shows the model.
        mlflow_client.log_outputs(run, [LoggedModelOutput(made.model_id, step=0)])
        # At the times of the run's own figures: MLflow then takes both for one.
        events = [event for event in Reader(context.spool).read() if event["kind"] == "metrics"]
        times = {name: event["time"] for event in events for name in event["values"]}
        metrics = []
        for key, value in figures.items():
            split, _, figure = key.partition("_")
            data, digest = (state.get("datasets") or {}).get(split, (None, None))
            # The names that the evaluation has given: a figure of its own would be a chart of its own.
            group = f"eval_{split}" if split in ("train", "val") else split
            of = {"model_id": made.model_id, "dataset_name": data, "dataset_digest": digest}
            reported = f"{group}/{figure}"
            metrics.append(Metric(reported, value, int(times.get(reported, time.time()) * 1000), 0, **of))
        mlflow_client.log_batch(run, metrics)
    remember(context, logged_model=made.model_id)
    return str(made.model_id)


def write_model(place: Path, folder: Path, example: NDArray[np.uint8], **ids: str) -> None:
    """Write the model of the artifact `folder` to the empty folder `place`, as MLflow keeps models.

    In the place of `mlflow.pyfunc.save_model`, which runs the model to find out what it knows: this makes no pickle,
    imports nothing, and writes no file twice, since each is a request to the server.
    """
    from mlflow import pyfunc
    from mlflow.models import Model
    from mlflow.utils.environment import _PythonEnv

    script = Path(__file__).with_name("image_classifier.py")
    shutil.copyfile(folder / MODEL_FILE, place / MODEL_FILE)
    shutil.copyfile(script, place / script.name)
    _write_code(place / _CODE)
    _write_example(place / _EXAMPLE, example)
    (place / "requirements.txt").write_text("".join(f"{each}=={version(each)}\n" for each in _PACKAGES))
    _PythonEnv.current().to_yaml(str(place / "python_env.yaml"))
    class_names = read_json(folder / "architecture.json")["class_names"]
    model = Model(
        signature=_signature(),
        saved_input_example_info={"artifact_path": _EXAMPLE, "type": "json_object"},
        metadata={"class_names": class_names, "transform": read_json(folder / "transform.json")},
        model_size_bytes=(place / MODEL_FILE).stat().st_size,
        **ids,
    )
    model.add_flavor("onnx", data=MODEL_FILE, onnx_version=version("onnx"), code=None, providers=None)
    pyfunc.add_to_model(
        model,
        loader_module="mlflow.pyfunc.loaders.code_model",
        model_code_path=script.name,
        python_env="python_env.yaml",
        artifacts={"model": _at(MODEL_FILE), "code": _at(_CODE)},
        streamable=False,
    )
    model.save(str(place / "MLmodel"))


def _at(name: str) -> Mapping[str, str]:
    return {"path": name, "uri": name}


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, Schema
    from mlflow.types.schema import AnyType, Map

    signature = ModelSignature(
        inputs=Schema([ColSpec(AnyType(), "image")]),
        outputs=Schema(
            [
                ColSpec(DataType.string, "class"),
                ColSpec(DataType.double, "confidence"),
                ColSpec(Map(DataType.double), "probabilities"),
            ]
        ),
    )
    # MLflow then gives the model what a caller has given, instead of a data frame of it.
    signature._is_signature_from_type_hint = True
    return signature


def _write_example(path: Path, image: NDArray[np.uint8]) -> None:
    """Write a list of one image, a PNG file in base64, as a request to `mlflow models serve` has it."""
    stream = BytesIO()
    Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image).save(stream, "PNG")
    path.write_text(json.dumps([base64.b64encode(stream.getvalue()).decode()]))


def _write_code(path: Path) -> None:
    """Write the modules that the model needs where Gapgate is not installed."""
    root = Path(gapgate.__file__).parent
    # One file, since each is a request.
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for room in _ROOMS:
            for module in sorted((root / room).glob("*.py")):
                archive.write(module, module.relative_to(root.parent))
