"""Form on `/docs` that sends a request of a route, made from its operation in the OpenAPI description."""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import Any

Json = dict[str, Any]

_FORM = "multipart/form-data"


def render(path: str, method: str, operation: Json) -> str:
    """Return the form as HTML, hidden until `/static/docs.js` makes it work; empty for a route that answers a page."""
    answers = list(operation["responses"]["200"]["content"])
    if answers == ["text/html"]:
        return ""
    name = operation["operationId"]
    fields = [*_parameters(name, operation["parameters"]), *_files(name, operation), *_answers(name, answers)]
    return (
        f'<details class="try" hidden><summary>Try it</summary><form data-method="{method.upper()}"'
        f' data-path="{escape(path)}" aria-label="{escape(operation["summary"])}">{"".join(fields)}'
        f'<div class="row"><button class="primary">Send</button><span class="note" role="status"></span></div>'
        '</form><div class="answer"></div></details>'
    )


def _parameters(operation: str, parameters: list[Json]) -> Iterator[str]:
    for parameter in parameters:
        schema = parameter["schema"]
        is_path = parameter["in"] == "path"
        attributes = f'data-in="{parameter["in"]}"' + (" required" if is_path else "")
        if values := ["true", "false"] if schema["type"] == "boolean" else schema.get("enum"):
            yield _choice(operation, parameter["name"], attributes, values if is_path else ["", *values])
            continue
        if schema["type"] == "integer":
            limits = f'min="{schema["minimum"]}" max="{schema["maximum"]}" placeholder="{schema["default"]}"'
            attributes = f'type="number" {limits} {attributes}'
        value = escape(str(parameter.get("example", "")))
        yield _field(operation, parameter["name"], f'<input {attributes} value="{value}"')


def _files(operation: str, description: Json) -> Iterator[str]:
    """A field for image files, in a request that is a form or one of the Open Inference Protocol."""
    if not (contents := description.get("requestBody", {}).get("content")):
        return
    field, takes_many = "images", True
    if _FORM in contents:
        ((field, schema),) = contents[_FORM]["schema"]["properties"].items()
        takes_many = schema["type"] == "array"
    attributes = ('data-body="form"' if _FORM in contents else 'data-body="inference"') + " multiple" * takes_many
    yield _field(
        operation, field, f'<input type="file" accept="image/*" {attributes}', "if none is chosen: the example"
    )


def _answers(operation: str, content_types: list[str]) -> Iterator[str]:
    if len(content_types) > 1:
        yield _choice(operation, "Accept", 'data-in="header"', content_types)


def _choice(operation: str, name: str, attributes: str, values: list[str]) -> str:
    options = "".join(
        f"<option>{escape(value)}</option>" if value else '<option value="">not given</option>' for value in values
    )
    return _field(operation, name, f"<select {attributes}", rest=f"{options}</select>")


def _field(operation: str, name: str, opening: str, note: str = "", rest: str = "") -> str:
    """A labelled control, of which `opening` is the tag up to its name."""
    key = f"try-{operation}-{name}"
    hint = f" <small>{note}</small>" if note else ""
    return (
        f'<p><label for="{key}"><code>{escape(name)}</code>{hint}</label>{opening} id="{key}" name="{name}">{rest}</p>'
    )
