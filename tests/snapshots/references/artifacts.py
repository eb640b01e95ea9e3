"""docs/reference/artifacts.md, from the graph of steps, the models of stored files, and the golden artifacts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from pydantic import BaseModel

from components.catalog import STEPS
from gapgate.artifacts import SCHEMA_VERSION, Manifest
from gapgate.evidence.compare import Comparison
from gapgate.evidence.sealed.certificate import Certificate, Check
from gapgate.evidence.sealed.golden import Golden
from gapgate.evidence.sealed.receipt import Receipt
from gapgate.evidence.sealed.seal import Seal
from gapgate.settings.described import meanings
from tests.golden.stored import SCHEMA_1
from tests.snapshots.references.tables import code, page, table

_MODELS: dict[type[BaseModel], str] = {
    Manifest: "`manifest.json` of every artifact",
    Certificate: "`certificate.json`",
    Check: "one of the checks in `certificate.json`",
    Comparison: "the comparison with the champion, a tag of the version",
    Receipt: "`receipt.json`",
    Golden: "`golden.json` of a package",
    Seal: "`package.json` of a package",
}
_DESCRIBED = {"manifest.json", "certificate.json", "receipt.json", "package.json"}
_TYPES = {
    str: "text",
    bool: "true or false",
    int: "number",
    float: "number",
    list: "list",
    dict: "object",
    type(None): "nothing",
}


def markdown() -> str:
    """The page of artifacts: what each step reads and writes, and the content of the files."""
    lines = [
        "# Artifacts",
        "",
        f"What the steps hand to each other, schema version {SCHEMA_VERSION}. How an artifact is written and checked",
        "is in [the architecture](../architecture.md#contracts-of-artifacts).",
        *table(
            ("kind", "step", "made from", "settings"),
            [
                (
                    f"[{step.output}](#{step.output})",
                    step.name,
                    ", ".join(step.inputs),
                    f"[{step.section}](settings.md#{step.section})",
                )
                for step in STEPS.values()
            ],
        ),
        "## Files of each kind",
        "",
        "As the smallest run has them: 90 images, a network of 177 weights, kept as `tests/golden/schema-1`. Files",
        "that need something to tell of (images set aside, groups, figures) are not in it.",
    ]
    for step in STEPS.values():
        lines += ["", f"### {step.output}", *table(("file", "content"), _files(SCHEMA_1 / step.output, step.trees))]
    lines += ["", "## Content of the sealed files"]
    for model, where in _MODELS.items():
        lines += ["", f"### {model.__name__}", "", f"{_one_line(model.__doc__)} In {where}.", *_fields(model)]
    return page(lines)


def _files(folder: Path, trees: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.iterdir()):
        name = path.name.removesuffix(".xz")  # the archive is packed to be kept
        if path.is_dir():
            yield code(f"{name}/"), "the files of the source" if name in trees else "a folder"
        elif name not in _DESCRIBED or name == "certificate.json":
            yield code(name), _content(path)


def _content(path: Path) -> str:
    """What a file holds, in a few words."""
    match path.suffix:
        case ".json" if path.name == "certificate.json":
            return "[Certificate](#certificate)"
        case ".json":
            content = json.loads(path.read_text())
            if isinstance(content, dict):
                return ", ".join(f"{code(name)} {_TYPES[type(value)]}" for name, value in content.items())
            return "a list"
        case ".npy":
            array = np.load(path, mmap_mode="r")
            return f"array of {array.dtype}, {array.ndim}-dimensional"
        case ".parquet":
            return ", ".join(f"{code(field.name)} {field.type}" for field in pq.read_schema(path))
    return _BINARY.get(path.suffix, "")


_BINARY = {
    ".onnx": "the network as it is served",
    ".safetensors": "tensors",
    ".png": "a picture for people",
    ".sha256": "the sha256 of each file of the folder",
    ".xz": "the Bento, which holds the package",
}


def _fields(model: type[BaseModel]) -> list[str]:
    said = meanings(model)
    schema: dict[str, Any] = model.model_json_schema()
    rows = [(code(name), _type(of), said.get(name, "")) for name, of in schema["properties"].items()]
    return table(("field", "type", "meaning"), rows)


def _type(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(map(_type, schema["anyOf"])).replace("null", "nothing")
    if "enum" in schema:
        return ", ".join(map(code, schema["enum"]))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), dict):
        return f"object of {_type(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
