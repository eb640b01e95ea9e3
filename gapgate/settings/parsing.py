"""Reading of settings from `params.yaml`, `--set` and the steps' arguments, with a remedy for each mistake."""

from __future__ import annotations

import json
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar, get_args

from pydantic import ValidationError

from gapgate.errors import SettingsError
from gapgate.network.layers import Layer
from gapgate.settings.base import Section
from gapgate.settings.overrides import apply, one_line, read_yaml, shorten
from gapgate.settings.sections import Settings
from gapgate.training.augmentation.policy import Operation

S = TypeVar("S", bound=Section)


def load(path: Path | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Read a settings file (defaults where it says nothing) and apply `section.name=value` overrides, values as YAML.

    Raises:
        SettingsError: not YAML, an unknown name, a wrong type, or a value out of range.
    """
    content: Any = {}
    if path is not None:
        try:
            # An empty file, or one of comments alone, is None.
            content = read_yaml(path.read_bytes(), str(path)) or {}
        except OSError as error:
            raise SettingsError(f"cannot read {path}: {error.strerror}; name a settings file with --params") from None
        if not isinstance(content, dict):
            raise SettingsError(f"{path} holds a {type(content).__name__}; it must hold sections such as `train:`")
        _check_file(path, content)
    for override in overrides:
        apply(content, override, Settings().model_dump(mode="json"))
    return parse(Settings, content)


def _check_file(path: Path, content: dict[str, Any]) -> None:
    """Refuse a settings file that does not fit, and say which file it is: a `params.yaml` may be another tool's.

    Raises:
        SettingsError: as `parse`.
    """
    foreign = sorted(set(map(str, content)) - set(Settings.model_fields))
    if foreign:
        raise SettingsError(
            f"{path} has {', '.join(foreign)}, which is no section of Gapgate's settings; {nearest(foreign[0])} If it "
            "is another tool's file, name yours with --params (--params /dev/null for the defaults)"
        )
    try:
        parse(Settings, content)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error} (another tool's file? name yours with --params)") from None


def parse(section: type[S], content: Any, prefix: str = "") -> S:
    """Check `content` (as read from JSON or YAML) against a section; `prefix` stands before paths in the error.

    Raises:
        SettingsError: a setting does not fit; the message gives its path, the value, the limit and the remedy.
    """
    try:
        # Strict, so that "3" is no number; by way of JSON, in whose strict mode a list is accepted for a tuple.
        return section.model_validate_json(json.dumps(content), strict=True)
    except ValidationError as error:
        raise SettingsError(_explain(error, content, prefix)) from None
    except (TypeError, ValueError) as error:
        raise SettingsError(f"{prefix or 'settings'}: {one_line(error)}") from None


_LIMITS = {
    "greater_than": ("must be greater than {gt}", "raise it"),
    "greater_than_equal": ("is below the limit {ge}", "raise it"),
    "less_than": ("must be less than {lt}", "lower it"),
    "less_than_equal": ("is above the limit {le}", "lower it"),
}


def _explain(error: ValidationError, content: Any, prefix: str) -> str:
    """The most specific problem as one line: path, value, limit, remedy."""
    # Of a union every branch that failed reports an error; the longest path is of the branch that fitted best.
    problem = max(error.errors(include_url=False), key=lambda p: len(_path_of(p, content)))
    path = ".".join(filter(None, [prefix, *_path_of(problem, content)])) or "settings"
    kind, value = problem["type"], shorten(problem["input"])
    if kind == "extra_forbidden":
        return f"{path} is not a setting; {nearest(path)}"
    if kind == "missing":
        return f"{path} is missing; give it a value"
    if kind == "value_error":
        return f"{path}: {problem['msg'].removeprefix('Value error, ')}"
    if kind in _LIMITS:
        limit, remedy = _LIMITS[kind]
        return f"{path}={value} {limit.format(**problem['ctx'])}; {remedy}"
    if kind == "union_tag_invalid":
        return f"{path}.type={problem['ctx']['tag']} is not one of {problem['ctx']['expected_tags']}; choose one"
    return f"{path}={value}: {_lower_first(problem['msg'])}; change it"


def nearest(path: str) -> str:
    """A hint at the setting whose name is like that at the end of `path`, first of the same section."""
    section, _, name = path.rpartition(".")
    known = list(Settings.model_fields)
    for at, field in Settings.model_fields.items():
        known += [f"{at}.{each}" for each in getattr(field.annotation, "model_fields", ())]
    for at, elements in (("train.architecture", Layer), ("augment.operations", Operation)):
        # Annotated[A | B, …] → A | B → A, B.
        for element in get_args(get_args(elements)[0]):
            known += [f"{at}.{element.model_fields['type'].default}.{each}" for each in element.model_fields]
    like = get_close_matches(name, {each.rpartition(".")[2] for each in known}, 1)
    found = [each for each in known if like and each.rpartition(".")[2] == like[0]]
    if not found:
        return "`gapgate settings` lists all"
    return f"did you mean {max(found, key=lambda each: each.startswith(f'{section}.'))}?"


def _path_of(problem: Any, content: Any) -> list[str]:
    """Path of a problem as the user wrote it, without the names that pydantic gives to the branches of a union."""
    path: list[str] = []
    for part in problem["loc"]:
        if _has(content, part):
            content = content[part]
        elif problem["type"] != "missing" or part != problem["loc"][-1]:
            continue
        path.append(str(part))
    return path


def _has(content: Any, part: str | int) -> bool:
    if isinstance(content, list):
        return isinstance(part, int) and part < len(content)
    return isinstance(content, dict) and part in content


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
