"""The servers that take part: the command of each, and how it takes and answers each kind of input."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bench.environments import ROOT, servers_python
from bench.http_load import form, forms
from bench.serve.inputs import FOLDER, Package, Picture
from bench.serve.rivals.model import Model
from bench.serve.server import PORT, Contestant, Route

RIVALS = "bench.serve.rivals"
BATCH = 64


def contestants(package: Package, pictures: Sequence[Picture], only: Sequence[str]) -> list[Contestant]:
    """The servers that `only` names, or all where it is empty; always with `bare`, to which the others are compared."""
    makers: dict[str, Callable[[], Contestant]] = {
        "bare": lambda: _bare(package, pictures),
        "gapgate": lambda: _gapgate(package, pictures),
        "gapgate-bentoml": lambda: _gapgate_bentoml(package, pictures),
        "bentoml": lambda: _bentoml(package, pictures),
        "fastapi": lambda: _fastapi(package, pictures),
        "litserve": lambda: _litserve(package, pictures),
        "mlflow": lambda: _mlflow(package, pictures),
    }
    if unknown := set(only) - makers.keys():
        raise SystemExit(f"--only {', '.join(sorted(unknown))}: choose from {', '.join(makers)}")
    return [make() for name, make in makers.items() if not only or name in only or name == "bare"]


def _bare(package: Package, pictures: Sequence[Picture]) -> Contestant:
    uvicorn = ["-m", "uvicorn", "--loop", "uvloop", "--http", "httptools", "--no-access-log", "--port", PORT]
    routes = {
        "multipart": _each("/multipart", pictures, _multipart),
        "png": _each("/png", pictures, _png),
        "tensor": _each("/tensor", pictures, _octets),
    }
    command = [sys.executable, *uvicorn, f"{RIVALS}.bare_starlette:app"]
    return Contestant("bare", command, routes, _environment(package))


def _gapgate(package: Package, pictures: Sequence[Picture]) -> Contestant:
    command = [Path(sys.executable).with_name("gapgate"), "serve", package.bento, "--port", PORT]
    return Contestant("gapgate", command, _gapgate_routes(pictures))


def _gapgate_bentoml(package: Package, pictures: Sequence[Picture]) -> Contestant:
    command = [_script("bentoml"), "serve", package.bento_folder, "--port", PORT]
    return Contestant("gapgate-bentoml", command, _gapgate_routes(pictures), _bentoml_home())


def _gapgate_routes(pictures: Sequence[Picture]) -> dict[str, Route]:
    return {
        "multipart": _each("/v1/predict", pictures, _multipart),
        "png": _each("/v1/predict", pictures, _png),
        "tensor": _each("/v1/predict", pictures, _octets),
        "batch": _batches("/v1/predict/batch", pictures, _many_octets),
        "batch multipart": _batches("/v1/predict/batch", pictures, _many_files),
    }


def _bentoml(package: Package, pictures: Sequence[Picture]) -> Contestant:
    command = [_script("bentoml"), "serve", f"{RIVALS}.bentoml_form:Stock", "--working-dir", ROOT, "--port", PORT]
    routes = {
        "multipart": _each("/classify", pictures, _multipart),
        "tensor": _each("/classify_tensor", pictures, lambda picture: _json({"image": picture.pixels.tolist()})),
    }
    return Contestant("bentoml", command, routes, _environment(package) | _bentoml_home())


def _fastapi(package: Package, pictures: Sequence[Picture]) -> Contestant:
    routes = {"multipart": _each("/predict", pictures, _multipart), "tensor": _each("/tensor", pictures, _octets)}
    command = [servers_python(), "-m", "uvicorn", "--no-access-log", "--port", PORT, f"{RIVALS}.fastapi_app:app"]
    return Contestant("fastapi", command, routes, _environment(package))


def _litserve(package: Package, pictures: Sequence[Picture]) -> Contestant:
    routes = {"multipart": _each("/predict", pictures, _multipart)}
    command = [servers_python(), "-m", f"{RIVALS}.litserve_app", PORT]
    return Contestant("litserve", command, routes, _environment(package))


def _mlflow(package: Package, pictures: Sequence[Picture]) -> Contestant:
    """`mlflow models serve`, which takes tensors as JSON alone, and answers with logits."""
    model = FOLDER / "mlflow"
    if not model.exists() or (model / "model.onnx").read_bytes() != (package.model_folder / "model.onnx").read_bytes():
        unfinished = FOLDER / "mlflow-unfinished"
        for folder in (model, unfinished):
            shutil.rmtree(folder, ignore_errors=True)
        script = [sys.executable, "-m", f"{RIVALS}.mlflow_model", package.model_folder, unfinished]
        subprocess.run(script, env=os.environ | _environment(package), check=True)
        unfinished.rename(model)
    class_names = Model(package.model_folder).class_names

    def read(answer: Any) -> list[str]:
        return [class_names[int(np.argmax(logits))] for logits in answer["predictions"]["logits"]]

    def encode(picture: Picture) -> tuple[bytes, str]:
        return _json({"inputs": [picture.pixels.tolist()]})

    command = [_script("mlflow"), "models", "serve", "-m", model, "--env-manager", "local", "--port", PORT]
    routes = {"tensor": _each("/invocations", pictures, encode, read)}
    variables = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",  # it calls `uvicorn`
        "UVICORN_ACCESS_LOG": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    return Contestant("mlflow", command, routes, variables)


def _each(
    path: str,
    pictures: Sequence[Picture],
    encode: Callable[[Picture], tuple[bytes, str]],
    read: Callable[[Any], list[str]] = lambda answer: [answer["class"]],
) -> Route:
    return Route(path, [encode(picture) for picture in pictures], [[picture.expected] for picture in pictures], read)


def _batches(path: str, pictures: Sequence[Picture], encode: Callable[[Sequence[Picture]], tuple[bytes, str]]) -> Route:
    batches = [pictures[start : start + BATCH] for start in range(0, len(pictures), BATCH)]
    expected = [[picture.expected for picture in batch] for batch in batches]
    return Route(path, [encode(batch) for batch in batches], expected, _read_results)


def _read_results(answer: Any) -> list[str]:
    return [result["class"] for result in answer["results"]]


def _multipart(picture: Picture) -> tuple[bytes, str]:
    return form("image", picture.png)


def _png(picture: Picture) -> tuple[bytes, str]:
    return picture.png, "image/png"


def _octets(picture: Picture) -> tuple[bytes, str]:
    return _many_octets([picture])


def _many_octets(pictures: Sequence[Picture]) -> tuple[bytes, str]:
    return b"".join(picture.pixels.tobytes() for picture in pictures), "application/octet-stream"


def _many_files(pictures: Sequence[Picture]) -> tuple[bytes, str]:
    return forms("image", {f"{index}.png": picture.png for index, picture in enumerate(pictures)})


def _json(content: Any) -> tuple[bytes, str]:
    return json.dumps(content, separators=(",", ":")).encode(), "application/json"


def _environment(package: Package) -> dict[str, str]:
    return {"BENCH_PACKAGE": str(package.model_folder.resolve()), "PYTHONPATH": str(ROOT)}


def _bentoml_home() -> dict[str, str]:
    return {"BENTOML_HOME": str(FOLDER / "bentoml-home"), "BENTOML_DO_NOT_TRACK": "True"}


def _script(name: str) -> Path:
    return Path(sys.executable).with_name(name)
