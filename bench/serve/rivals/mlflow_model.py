"""Save the model of a package as an MLflow model of the ONNX flavour.

python -m bench.serve.rivals.mlflow_model PACKAGE FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import mlflow.onnx
import numpy as np
import onnx
from mlflow.models import infer_signature

from bench.serve.rivals.model import Model


def main(package: Path, folder: Path) -> None:
    """Write the MLflow model of `package` into `folder`."""
    model = Model(package)
    images = np.zeros((1, *model.image_shape), np.uint8)
    mlflow.onnx.save_model(
        onnx.load(package / "model.onnx"),
        folder,
        signature=infer_signature(images, {"logits": np.zeros((1, len(model.class_names)), np.float32)}),
        onnx_session_options={"intra_op_num_threads": 1, "inter_op_num_threads": 1},
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=["mlflow", "onnx", "onnxruntime"],
        save_as_external_data=False,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
