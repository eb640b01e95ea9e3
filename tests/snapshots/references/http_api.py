"""docs/reference/http-api.md, from the service's OpenAPI document."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from serving.description.schema_words import SchemaWords
from tests.snapshots.references.tables import code, page, table

_CODE_LINE = re.compile(r"^- `(\w+)`: (.+)$", re.M)
_COMMON = ("unauthorized", "loopback_only", "overloaded", "internal", "timeout", "starting", "refused")
"""Codes of errors that nearly every route can give; they are listed once."""
_WORDS = SchemaWords(lambda name: f"[{name}](#{name.lower()})", code)


def markdown(document: dict[str, Any]) -> str:
    """The page of the routes that `document` describes."""
    operations = [
        (method.upper(), path, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    lines = [
        "# HTTP API",
        "",
        "The routes of `gapgate serve`. A running server has the same at `/docs`, with samples in curl, Python and",
        "JavaScript and a form to try each route, and as OpenAPI 3.1 at `/docs.json`. More on each is in",
        "[the prediction service](../serving.md).",
        "",
        'Every answer carries an `X-Request-ID`. From 400 up it is `{"error": {"code", "message", "request_id"}}`,',
        'below `/v2` `{"error", "code", "request_id"}`.',
        *table(
            ("route", "what it answers"),
            [(f"[`{method} {path}`](#{_anchor(method, path)})", of["summary"]) for method, path, of in operations],
        ),
        "## Errors of every route",
        *_errors(_found_errors(of for *_, of in operations), only=_COMMON),
    ]
    for method, path, operation in operations:
        lines += ["", f"## {method} {path}", "", f"{operation['summary']}. {operation['description']}"]
        lines += [*_parameters(operation), *_body(operation), *_answer(operation)]
        lines += _errors(_found_errors([operation]), but=_COMMON)
    lines += ["", "## Objects"]
    for name, schema in document["components"]["schemas"].items():
        lines += ["", f"### {name}", "", schema.get("description", ""), *_fields(schema)]
    return page(lines)


def _anchor(method: str, path: str) -> str:
    return re.sub(r"[^\w\- ]", "", f"{method} {path}".lower()).replace(" ", "-")


def _parameters(operation: dict[str, Any]) -> list[str]:
    rows = [
        (f"{code(of['name'])} ({of['in']})", _WORDS.of(of["schema"]), of["description"])
        for of in operation["parameters"]
    ]
    return table(("parameter", "value", "meaning"), rows) if rows else []


def _body(operation: dict[str, Any]) -> list[str]:
    """The content types of a body; types of one meaning share a row."""
    meanings: dict[str, list[str]] = {}
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        schema = content["schema"]
        fields = schema.get("properties", {}).items()
        said = "; ".join(f"field `{name}`: {of['description']}" for name, of in fields)
        meanings.setdefault(said or schema.get("description", "The image file."), []).append(kind)
    rows = [(", ".join(map(code, kinds)), meaning) for meaning, kinds in meanings.items()]
    return table(("body", "holds"), rows) if rows else []


def _answer(operation: dict[str, Any]) -> Iterator[str]:
    for kind, content in operation["responses"]["200"]["content"].items():
        yield f"Answer: {code(kind)}, {_WORDS.of(content['schema'])}."
        yield ""


def _found_errors(operations: Iterable[dict[str, Any]]) -> dict[str, tuple[str, str]]:
    """Code → (status, when)."""
    return {
        name: (status, meaning)
        for operation in operations
        for status, response in operation["responses"].items()
        for name, meaning in _CODE_LINE.findall(response["description"])
    }


def _errors(
    found: dict[str, tuple[str, str]], *, only: Iterable[str] | None = None, but: Iterable[str] = ()
) -> list[str]:
    rows = [
        (status, code(name), meaning)
        for name, (status, meaning) in sorted(found.items(), key=lambda item: (item[1][0], item[0]))
        if name not in but and (only is None or name in only)
    ]
    return table(("status", "code", "when"), rows) if rows else []


def _fields(schema: dict[str, Any]) -> list[str]:
    required = schema.get("required", ())
    rows = [
        (code(name) + ("" if name in required else " (optional)"), _WORDS.of(of), of.get("description", ""))
        for name, of in schema.get("properties", {}).items()
    ]
    return table(("field", "type", "meaning"), rows) if rows else []
