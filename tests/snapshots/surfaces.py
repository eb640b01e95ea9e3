"""The surfaces that others build on, as they are now: the service's description, the compiled pipeline, the references.

What changes with each commit or machine is taken out: versions of packages, and the tags of the images that are built
of this code.
"""

from __future__ import annotations

import json
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from kfp import compiler

from gapgate.settings import described
from pipelines.graph import training_pipeline
from pipelines.kubeflow.cluster_settings import ClusterSettings
from pipelines.kubeflow.compiler import compile_pipeline
from serving.description import openapi
from serving.http.lookups import card
from serving.http.routes import ROUTES
from serving.model.predictor import Predictor
from serving.options import Options
from tests.documentation import blocks
from tests.golden.stored import unpacked_package
from tests.snapshots.references import artifacts, command_line, environment, exit_codes, http_api, python_api

ROOT = Path(__file__).parents[2]
IMAGES = {"GAPGATE_STEP_IMAGE": "gapgate/step:TAG", "GAPGATE_TRAIN_IMAGE": "gapgate/train:TAG"}
REWRITE = "python -m tests.snapshots"


def openapi_json() -> str:
    """`GET /docs.json` of a server with the default options and the golden model."""
    with tempfile.TemporaryDirectory() as scratch:
        found = card(Predictor.load(unpacked_package(Path(scratch))), Options())
    found = found.model_copy(update={"versions": {"python": "VERSION"}})
    described = openapi.spec(ROUTES, found)
    described["info"]["version"] = "VERSION"
    return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def http_api_page() -> str:
    """The same for people."""
    return http_api.markdown(json.loads(openapi_json()))


def local_pipeline() -> str:
    """The pipeline that `gapgate run` executes on this machine."""
    return _compiled(lambda path: compiler.Compiler().compile(training_pipeline(), str(path)))


def cluster_pipeline() -> str:
    """The pipeline that `gapgate submit` uploads, with the settings of infra/pipeline.yaml."""
    settings = ROOT / "infra" / "pipeline.yaml"
    with patch.dict(os.environ, IMAGES):
        return _compiled(lambda path: compile_pipeline(ClusterSettings.from_file(settings), path))


def _compiled(compile_to: Callable[[Path], None]) -> str:
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # KFP warns of any image that has no "python" in its name
        path = Path(scratch, "pipeline.yaml")
        compile_to(path)
        documents: list[dict[str, Any]] = list(yaml.safe_load_all(path.read_text()))
    documents[0]["sdkVersion"] = "VERSION"
    return yaml.dump_all(documents, Dumper=_Readable, allow_unicode=True, width=120)


class _Readable(yaml.SafeDumper):
    """Writes the source of a step line by line, so that a difference shows in the line that changed."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Readable.add_representer(str, _text)

SURFACES: dict[str, Callable[[], str]] = {
    "tests/snapshots/openapi.json": openapi_json,
    "tests/snapshots/pipeline.local.yaml": local_pipeline,
    "tests/snapshots/pipeline.cluster.yaml": cluster_pipeline,
    "docs/reference/settings.md": described.markdown,
    "docs/reference/cli.md": command_line.markdown,
    "docs/reference/http-api.md": http_api_page,
    "docs/reference/exit-codes.md": exit_codes.markdown,
    "docs/reference/environment.md": environment.markdown,
    "docs/reference/artifacts.md": artifacts.markdown,
    "tests/snapshots/documented_commands.md": blocks.account,
    "docs/reference/python.md": python_api.markdown,
}
"""File, from the root of the repository → its content as the code is now."""
