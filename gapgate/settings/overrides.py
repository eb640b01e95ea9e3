"""`--set SECTION.NAME=VALUE`, applied to settings as YAML gives them, before they are checked.

In a list a number names one element and a type every element of that type: `train.architecture.1.kernel=5` sets the
second layer, `train.architecture.conv.kernel=5` all convolutions and `train.architecture.conv.1.kernel=5` the second of
them. A dense layer without units is the classifier: `dense.units` leaves it alone.
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping
from typing import Any, TypeAlias

import yaml

from gapgate.errors import SettingsError

_Place: TypeAlias = tuple[Any, Any]
"""Place of a value: a dict and a key, or a list and an index."""


class _Loader(yaml.SafeLoader):
    """Loader of YAML 1.2, to which `off` is text and 1e-3 a number; to PyYAML's 1.1 they are False and text."""


# Of YAML 1.1's rules for plain words these two differ: yes, no, on and off, and numbers such as 1e-3.
_BOOL, _FLOAT = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:float"
_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != _BOOL]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(_BOOL, re.compile(r"(true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
_Loader.add_implicit_resolver(_FLOAT, re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789"))


_MAX_VALUES = 100_000
"""Values in a document, those under an alias counted each time: a few lines of aliases make billions."""


def read_yaml(text: str | bytes, name: str) -> Any:
    """The content of a YAML document; `name` stands for it in the error.

    Raises:
        SettingsError: not YAML, or too deep or large for settings.
    """
    try:
        content = yaml.load(text, _Loader)
        num_values = _count(content, {})
    except yaml.YAMLError as error:
        raise SettingsError(f"{name} is not YAML: {one_line(error)}") from None
    except ValueError as error:  # a number or a date that Python does not take
        raise SettingsError(f"{name} has a value that cannot be read: {one_line(error)}") from None
    except RecursionError:
        raise SettingsError(f"{name} is nested too deeply for settings") from None
    if num_values > _MAX_VALUES:
        raise SettingsError(f"{name} has more than {_MAX_VALUES:,} values; no settings have so many")
    return content


def _count(value: Any, known: dict[int, int]) -> int:
    """Values in a document; `known` has those of the lists and mappings that were counted."""
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) not in known:
        known[id(value)] = _MAX_VALUES + 1  # of one that holds itself
        values = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_count(each, known) for each in values)
    return known[id(value)]


def apply(content: dict[str, Any], override: str, defaults: Mapping[str, Any]) -> None:
    """Apply one `SECTION.NAME=VALUE` to `content`; `defaults` are the settings that `content` leaves out.

    Raises:
        SettingsError: another form, a value that is not YAML, or a path to a setting that is not there.
    """
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise SettingsError(f"--set {override} is not SECTION.NAME=VALUE, such as --set train.epochs=3")
    value = read_yaml(text, f"--set {override}: the value")
    # YAML would take the end of `photos #1` for a comment, and fold a line break in a name; a command line does not.
    if isinstance(value, str) and not text.lstrip().startswith(("'", '"', "|", ">", "!", "&")):
        value = text.strip()
    try:
        places = _find(content, keys, defaults)
    except LookupError as error:
        raise SettingsError(f"--set {override}: {error.args[0]}") from None
    for container, key in places:
        # A copy for each place: layers that shared one list would change together.
        container[key] = copy.deepcopy(value)


def _find(content: dict[str, Any], keys: list[str], defaults: Any) -> list[_Place]:
    """Places that the path names.

    Raises:
        LookupError: there is none.
    """
    places: list[_Place] = [(content, keys[0])]
    for depth, key in enumerate(keys[1:], start=1):
        path, last = ".".join(keys[:depth]), keys[depth - 1]
        # After a type, a number counts among the elements of that type (`conv.1`), not in the whole list.
        if isinstance(places[0][0], list) and not last.isdecimal() and key.isdecimal():
            if int(key) >= len(places):
                raise LookupError(f"there is no {path}.{key}; the last is {path}.{len(places) - 1}")
            places = [places[int(key)]]
            continue
        defaults = defaults.get(last) if isinstance(defaults, Mapping) else None
        values = [_open(container, at, defaults) for container, at in places]
        places = [place for value in values for place in _within(value, key)]
        if not places:
            raise LookupError(_nothing(path, key, values[0]))
    return _without_classifier(places) if keys[-2:] == ["dense", "units"] else places


def _open(container: Any, at: Any, default: Any) -> Any:
    """The value at a place, which is set to a copy of its default first if there is none."""
    # None also stands for a section that is there and empty (`train:`).
    if isinstance(container, dict) and container.get(at) is None:
        container[at] = {} if default is None or isinstance(default, Mapping) else copy.deepcopy(default)
    return container[at]


def _within(value: Any, key: str) -> list[_Place]:
    if isinstance(value, dict):
        return [(value, key)]
    if not isinstance(value, list):
        return []
    names = [str(index) if key.isdecimal() else _type_of(element) for index, element in enumerate(value)]
    return [(value, index) for index, name in enumerate(names) if name == key]


def _type_of(element: Any) -> str:
    return str(element.get("type")) if isinstance(element, dict) else ""


def _without_classifier(places: list[_Place]) -> list[_Place]:
    hidden = [(layer, at) for layer, at in places if layer.get(at) is not None]
    if not hidden:
        raise LookupError("every dense layer here has one unit for each class; put a dense layer with units before it")
    return hidden


def _nothing(path: str, key: str, value: Any) -> str:
    """Message that says why the value at `path` has nothing at `key`."""
    if path == "train.architecture" and isinstance(value, str):
        return f"{path}={value} names a network whose layers cannot be set; give a list of layers, as recipes/ do"
    if not isinstance(value, list):
        return f"there is no {key} in {path}={shorten(value)}"
    if not value:
        return f"there is no {key} in {path}, which is empty"
    if key.isdecimal():
        return f"there is no {path}.{key}; the last is {path}.{len(value) - 1}"
    return f"there is no {key} in {path}, which has {', '.join(dict.fromkeys(map(_type_of, value)))}"


def shorten(value: Any) -> str:
    """A value as text of at most 60 characters, for messages."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def one_line(error: Exception) -> str:
    """An error's text without its line breaks."""
    return " ".join(str(error).split())
