"""The page `/docs`, made from the OpenAPI description: commands to paste, parameters, answers, errors, options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

from serving.description.schema_words import SchemaWords

if TYPE_CHECKING:
    from jinja2 import Template

Json = dict[str, Any]

TEMPLATE = Path(__file__).with_name("docs.html")
_CODE_LINE = re.compile(r"- `(\w+)`: (.*)")  # as `serving.description.openapi` lists error codes in a description
_WORDS = SchemaWords(
    lambda name: f'<a href="#schema-{name}">{name}</a>', lambda value: f"<code>{escape(str(value))}</code>", escape
)


def render(spec: Json, options_table: Sequence[tuple[str, str, str]]) -> str:
    """Return the whole page as HTML.

    Args:
        spec: the description from `serving.description.openapi.spec`.
        options_table: (environment variable, default, meaning) of each option of the server.
    """
    operations = [
        (path, method, operation) for path, item in spec["paths"].items() for method, operation in item.items()
    ]
    return _template().render(spec=spec, operations=operations, options=options_table)


@cache
def _template() -> Template:
    from jinja2 import Environment  # late: 30 ms and 3 MB that most workers never need

    # Escaped: class names and messages come from data and must not become tags.
    environment = Environment(autoescape=True)
    filters: dict[str, Callable[..., Any]] = {
        "by_meaning": _by_meaning,
        "error_codes": _error_codes,
        "indented": lambda example: json.dumps(example, indent=2, ensure_ascii=False),
        "last_part": lambda reference: (reference or "").rpartition("/")[2],
        "prose": _prose,
        "words": lambda schema: Markup(_WORDS.of(schema)),
    }
    environment.filters |= filters
    return environment.from_string(TEMPLATE.read_text())


def _by_meaning(content: Json) -> list[tuple[str, list[str]]]:
    """Return what a body holds, and the content types that hold it."""
    meanings: dict[str, list[str]] = {}
    for content_type, described in content.items():
        schema = described["schema"]
        fields = [f"field `{name}`: {value['description']}" for name, value in schema.get("properties", {}).items()]
        meaning = "; ".join(fields) or schema.get("description", "The image file.")
        meanings.setdefault(meaning, []).append(content_type)
    return list(meanings.items())


def _error_codes(responses: Json) -> list[tuple[str, str, str]]:
    """Return status, code and meaning of each error."""
    return [
        (status, code, meaning)
        for status, response in responses.items()
        for code, meaning in _CODE_LINE.findall(response["description"])
    ]


def _prose(text: str) -> Markup:
    """Return text as HTML, with `code` in backticks marked up."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text)))
