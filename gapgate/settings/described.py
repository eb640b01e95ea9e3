"""Every setting in words: the values it takes, its default, and its meaning, from the fields and their docstrings."""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import BaseModel

from gapgate.network.architecture import Layer
from gapgate.settings.sections import Settings
from gapgate.training.augmentation.policy import Operation

_ELEMENTS = {"train.architecture": Layer, "augment.operations": Operation}
"""Setting with a list → its elements, each with a type and settings of its own."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting in words."""

    name: str
    """Name as `--set` takes it, such as `train.epochs`."""
    values: str
    """The values that it takes, with limits."""
    default: str
    """The default as YAML has it; empty: it must be given."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Group:
    """Settings that belong together: a section, or a type of layer or operation."""

    name: str
    meaning: str
    settings: tuple[Setting, ...]


def groups() -> list[Group]:
    """The sections in the order of `params.yaml`, each followed by the types of element that its list takes."""
    found = []
    for section, field in Settings.model_fields.items():
        found.append(_group(section, field.annotation))
        for setting, element in _ELEMENTS.items():
            if setting.partition(".")[0] == section:
                # Annotated[A | B, …] → A | B → A, B.
                members = get_args(get_args(element)[0])
                found += [_group(f"{setting}.{member.model_fields['type'].default}", member) for member in members]
    return found


def _group(name: str, model: Any) -> Group:
    properties = model.model_json_schema()["properties"]
    said = meanings(model)
    settings = tuple(
        Setting(
            f"{name}.{field}",
            _values(schema),
            _default(schema),
            said.get(field, ""),
        )
        for field, schema in properties.items()
        if field != "type"  # that of a layer or an operation, which the name has
    )
    return Group(name, _one_line(model.__doc__ or ""), settings)


def _default(schema: Mapping[str, Any]) -> str:
    if "default" not in schema:
        return ""
    match schema["default"]:
        case [{"type": _}, *_] as elements:  # their settings are in params.yaml
            return ", ".join(element["type"] for element in elements)
        case str(text):
            return text or '""'
        case value:
            return json.dumps(value, ensure_ascii=False)


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """Field of a model → the docstring under it, those of base classes first."""
    found: dict[str, str] = {}
    for base in reversed([base for base in model.__mro__ if issubclass(base, BaseModel) and base.model_fields]):
        # From the source: Python keeps no text below a field.
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(base))).body
        assert isinstance(tree, ast.ClassDef)
        for field, below in zip(tree.body, tree.body[1:], strict=False):
            match field, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    found[name] = _one_line(text)
    return found


def _values(schema: Mapping[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(_values(branch) for branch in schema["anyOf"])
    if "const" in schema or "enum" in schema:
        return ", ".join(str(value) for value in schema.get("enum", [schema.get("const")]))
    match schema.get("type"):
        case "integer":
            return "whole number" + _limits(schema)
        case "number":
            return "number" + _limits(schema)
        case "boolean":
            return "true, false"
        case "array":
            items = schema.get("items", {})
            return "list of " + (", ".join(items["discriminator"]["mapping"]) if "discriminator" in items else "texts")
        case "object":
            return "mapping"
        case "null":
            return "nothing"
    return "text"


def _limits(schema: Mapping[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    least = f" from {low:,}" if low is not None else f" above {above:,}" if above is not None else ""
    most = f" to {high:,}" if high is not None else f" below {below:,}" if below is not None else ""
    return least + (" on" if low is not None and not most else most)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def markdown() -> str:
    """The page of all settings, for the documentation."""
    lines = [
        "# Settings",
        "",
        "All settings of `params.yaml`, as `gapgate settings` prints them. `--set NAME=VALUE` changes one for a run;",
        "`--set train.architecture.conv.kernel=5` changes all layers of a type, `.conv.1.kernel` the second of them.",
    ]
    for group in groups():
        lines += ["", f"## {group.name}", "", group.meaning]
        if group.settings:
            lines += ["", "| Setting | Values | Default | Meaning |", "| --- | --- | --- | --- |"]
        for setting in group.settings:
            cells = (f"`{setting.name}`", setting.values, setting.default and f"`{setting.default}`", setting.meaning)
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join(lines) + "\n"
