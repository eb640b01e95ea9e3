"""Pipeline runs up to their certificate, and their way into the registry as `register` and `package` go it. The package
is packed as `serving.bento` packs it, without BentoML's build of seconds around it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import numpy_helper

from components import package, promotion
from components.catalog import STEPS
from components.execute import execute, load
from components.platform.registry.mlflow_registry import Registry, Version
from gapgate.artifacts import RUN_VARIABLE, Artifact
from gapgate.data.splits import Splits
from gapgate.evidence.sealed.certificate import Verdict
from gapgate.settings.sections import PackageSettings
from tests.serving import packaged
from tests.serving.registry_server import pack

NAME = "animals"
KINDS = STEPS["register"].inputs


class Made(NamedTuple):
    """A pipeline run up to its certificate."""

    run: str
    folder: Path

    @property
    def inputs(self) -> dict[str, str]:
        return {kind: str(self.folder / kind) for kind in KINDS}


def make(folder: Path, run: str, model: onnx.ModelProto | None = None, verdict: Verdict = "pass") -> Made:
    packaged.inputs(folder, model=model, verdict=verdict)
    shutil.rmtree(folder / "registration")
    return Made(run, folder)


def register(made: Made, name: str = NAME) -> Artifact:
    """Run the step in this process; the caller restores the environment."""
    os.environ[RUN_VARIABLE] = made.run
    return execute("register", json.dumps({"model_name": name}), made.inputs, str(made.folder / "registration"))


def publish(made: Made) -> tuple[Version, str]:
    """Register, and give the version its package; no alias moves. Returns the version and the package's digest."""
    registration = register(made).read_json("registration.json")
    registry = Registry()
    folder = made.folder / "package"
    shutil.rmtree(folder, ignore_errors=True)
    digest = package.write(PackageSettings(similar_images=0), given(made), folder)
    version = registry.find(registration["name"], registration["version"])
    registry.publish(version, pack(folder, made.folder / "packed"), digest)
    return registry.find(version.name, version.version), digest


def decide(made: Made, version: Version) -> dict[str, Any]:
    """Apply the promotion rule to a version with a package."""
    registry = Registry()
    passed = registry.package(version, made.folder / "fetched")
    return promotion.decide(registry, passed, version, given(made))


def release(made: Made) -> dict[str, Any]:
    """Register, package and promote; returns the decision, with the number of the version."""
    version, _ = publish(made)
    return {"version": version.version} | decide(made, version)


def given(made: Made) -> dict[str, Artifact]:
    """The inputs of `package`."""
    return load({kind: str(made.folder / kind) for kind in STEPS["package"].inputs})


def of_accuracy(folder: Path) -> dict[str, onnx.ModelProto]:
    """Two models of the same images: `good` knows every one, `poor` takes each for the next class."""
    weights = best_weights(folder)
    return {"good": with_weights(weights), "poor": with_weights(np.roll(weights, 1, axis=1))}


def best_weights(folder: Path) -> Any:
    """Weights (pixels, num_classes) that know every image of `packaged.inputs`, which are written to `folder`."""
    packaged.inputs(folder)
    splits = Splits.open(folder / "splits")
    pixels = (np.asarray(splits.images, np.float64) / 127.5 - 1).reshape(len(splits.labels), -1)
    return np.linalg.lstsq(pixels, np.eye(len(splits.class_names))[splits.labels], rcond=None)[0]


def with_weights(weights: Any) -> onnx.ModelProto:
    model = packaged.linear_model()
    (initializer,) = [each for each in model.graph.initializer if each.name == "weights"]
    initializer.CopyFrom(numpy_helper.from_array(weights.astype(np.float32), "weights"))
    return model
