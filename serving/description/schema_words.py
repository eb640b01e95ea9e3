"""JSON schemas in a few words, for a page in any markup."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

_SHOWN_VALUES = 12


@dataclass(frozen=True, slots=True)
class SchemaWords:
    """The markup of the words."""

    link: Callable[[str], str]
    """Name of a schema → a link to it."""
    code: Callable[[Any], str]
    """A value as code."""
    escape: Callable[[str], str] = str
    """Plain words as the markup needs them."""

    def of(self, schema: dict[str, Any]) -> str:
        """Return a schema in words, such as `list of number, 0 to 1`."""
        if "$ref" in schema:
            return self.link(schema["$ref"].rpartition("/")[2])
        if "anyOf" in schema:
            # A field that may be null is said to be optional already, beside its name.
            return " or ".join(self.of(choice) for choice in schema["anyOf"] if choice.get("type") != "null")
        if "enum" in schema:
            values = schema["enum"]
            further = f" and {len(values) - _SHOWN_VALUES} more" if len(values) > _SHOWN_VALUES else ""
            return ", ".join(map(self.code, values[:_SHOWN_VALUES])) + further
        if "const" in schema:
            return self.code(schema["const"])
        if "prefixItems" in schema:
            return f"[{', '.join(map(self.of, schema['prefixItems']))}]"
        if schema.get("type") == "array":
            return f"list of {self.of(schema['items'])}"
        if isinstance(schema.get("additionalProperties"), dict):
            return f"object of {self.of(schema['additionalProperties'])}"
        return self.escape(_scalar(schema))


def _scalar(schema: dict[str, Any]) -> str:
    words = [schema.get("type", "any")]
    if "maximum" in schema:
        words.append(f"{schema['minimum']} to {schema['maximum']:,}")
    if "contentEncoding" in schema:
        words.append(schema["contentEncoding"])
    if "default" in schema:
        words.append(f"default {json.dumps(schema['default'])}")
    return ", ".join(words)
