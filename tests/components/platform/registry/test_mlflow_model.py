"""The logged model: answers in a process without Gapgate and torch, and those of MLflow's own server."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from components.platform.registry.mlflow_model import write_model
from gapgate import artifacts
from gapgate.data.splits import Splits
from gapgate.data.transform import Transform
from gapgate.onnx.classifier import Classifier, softmax
from gapgate.process import child_server
from tests.serving import packaged

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # importing mlflow.pyfunc

# Without the finder of an editable installation, Gapgate is not installed.
ALONE = """
import json, pathlib, sys
root, model, files = sys.argv[1:]
sys.path = [place for place in sys.path if place and not (pathlib.Path(place) / "gapgate").is_dir()]
sys.meta_path = [finder for finder in sys.meta_path if "editable" not in repr(finder).lower()]
import mlflow.pyfunc
opened = mlflow.pyfunc.load_model(model)
import gapgate
answers = opened.predict([pathlib.Path(file) for file in json.loads(files)])
print(json.dumps({"from": gapgate.__file__, "torch": "torch" in sys.modules, "answers": answers}))
"""


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, artifacts.Artifact]:
    return packaged.inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture(scope="module")
def logged(given: dict[str, artifacts.Artifact], tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("logged")
    write_model(place, given["model"].path, Splits.open(given["splits"].path).images[0], run_id="r", model_id="m-1")
    return place


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Image files of different sizes and formats."""
    folder = tmp_path_factory.mktemp("files")
    made = {
        "wide.png": packaged.picture(70, 50),
        "small.jpg": packaged.picture(9, 8, "JPEG", seed=1),
        "gray.png": packaged.picture(16, 16, mode="L", seed=2),
    }
    for name, data in made.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in made]


def expected(given: dict[str, artifacts.Artifact], files: list[Path]) -> list[dict[str, Any]]:
    """Answers of the model's ONNX file, by the transform of its training."""
    model = given["model"].path
    pixels = [Transform.from_file(model / "transform.json").decode(file) for file in files]
    rows = softmax(Classifier.load(model / "model.onnx").logits(np.stack(pixels)))
    named = [dict(zip(packaged.CLASS_NAMES, row.tolist(), strict=True)) for row in rows]
    return [
        {"class": max(row, key=lambda name: row[name]), "confidence": max(row.values()), "probabilities": row}
        for row in named
    ]


def test_it_answers_where_neither_gapgate_nor_torch_is(
    given: dict[str, artifacts.Artifact], logged: Path, files: list[Path], tmp_path: Path
) -> None:
    arguments = ["-W", "ignore", "-c", ALONE, "", str(logged), json.dumps([str(file) for file in files])]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    printed = json.loads(done.stdout)
    assert printed["from"] == str(logged / "gapgate.zip" / "gapgate" / "__init__.py")
    assert not printed["torch"]
    assert printed["answers"] == expected(given, files)


def test_it_takes_bytes_base64_paths_arrays_and_data_frames(
    given: dict[str, artifacts.Artifact], logged: Path, files: list[Path]
) -> None:
    import mlflow.pyfunc
    import pandas as pd

    model = mlflow.pyfunc.load_model(str(logged))
    answers = expected(given, files)
    data = [file.read_bytes() for file in files]
    assert model.predict(data) == answers
    assert model.predict([base64.b64encode(each).decode() for each in data]) == answers
    assert model.predict([str(file) for file in files]) == answers
    assert model.predict(data[0]) == answers[:1]
    assert model.predict(pd.DataFrame({"image": data})) == answers
    assert model.predict([]) == []
    transform = Transform.from_file(given["model"].path / "transform.json")
    gray = transform.decode(files[2])
    assert model.predict(gray) == model.predict(gray[:, :, 0]) == model.predict(gray[np.newaxis]) == answers[2:]
    assert model.predict([gray.tolist(), np.zeros((50, 3, 4), np.uint8)])[0] == answers[2]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ("no/such.png", "'no/such.png' is not the path of an image, or an image in base64"),
        (np.zeros((8, 8, 1)) + 0.5, "array of float64 with the shape .8, 8, 1. is not an image"),
        (np.zeros((8, 8, 7), np.uint8), "shape .8, 8, 7. is not an image"),
        (np.zeros((1, 8, 8, 1), np.uint8), "shape .1, 8, 8, 1. is not an image"),
        (np.full((8, 8), 300), "values of 0 to 255"),
        (b"text", "not an image"),
    ],
)
def test_what_is_no_image_is_refused(logged: Path, image: Any, message: str) -> None:
    import mlflow.pyfunc

    with pytest.raises(Exception, match=message):
        mlflow.pyfunc.load_model(str(logged)).predict([image])


def test_it_says_what_it_takes_and_answers_and_holds_nothing_pickled(
    given: dict[str, artifacts.Artifact], logged: Path
) -> None:
    import mlflow.onnx
    import mlflow.pyfunc

    model = mlflow.pyfunc.load_model(str(logged))
    assert [column.name for column in model.metadata.signature.inputs] == ["image"]
    assert [column.name for column in model.metadata.signature.outputs] == ["class", "confidence", "probabilities"]
    assert model.metadata.metadata == {
        "class_names": list(packaged.CLASS_NAMES),
        "transform": artifacts.read_json(given["model"].path / "transform.json"),
    }
    first = Splits.open(given["splits"].path).images[0]
    assert model.predict(model.input_example) == model.predict(first)
    assert not [file.name for file in logged.iterdir() if file.suffix in (".pkl", ".pickle")]
    # The layout of before: a program that reads the model as ONNX goes on doing so.
    assert mlflow.onnx.load_model(str(logged)).graph.input[0].name == "images"


def test_mlflows_server_takes_images_in_base64_and_opens_no_path(
    given: dict[str, artifacts.Artifact], logged: Path, files: list[Path], tmp_path: Path
) -> None:
    port = child_server.free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", str(logged), "--port", str(port)]
    # MLflow starts `uvicorn` by its name.
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    process = child_server.start([*command, "--env-manager", "local"], tmp_path / "log", env=environment, cwd=tmp_path)
    url = f"http://127.0.0.1:{port}"
    try:
        child_server.wait(process, tmp_path / "log", "MLflow", lambda: child_server.unanswered(f"{url}/health"), 120)
        images = [base64.b64encode(file.read_bytes()).decode() for file in files]
        answer = httpx.post(f"{url}/invocations", json={"inputs": images}, timeout=30)
        assert answer.json() == {"predictions": expected(given, files)}
        refused = httpx.post(f"{url}/invocations", json={"inputs": [str(files[0])]}, timeout=30)
        assert refused.status_code == 400
        assert "is not an image in base64" in refused.text
    finally:
        child_server.stop(process, whole_group=True)
