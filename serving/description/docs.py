"""The page `/docs`, made from the OpenAPI description: commands to paste, parameters, answers, errors, options."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from serving.description import try_form
from serving.description.schema_words import SchemaWords

Json = dict[str, Any]

_CODE_LINE = re.compile(r"- `(\w+)`: (.*)")  # as `serving.description.openapi` lists error codes in a description


def render(spec: Json, options_table: Sequence[tuple[str, str, str]]) -> str:
    """Return the whole page as HTML; it needs `/static/page.css` and `/static/docs.css`.

    `/static/docs.js` adds buttons to copy, and makes the forms send requests.

    Args:
        spec: the description from `serving.description.openapi.spec`.
        options_table: (environment variable, default, meaning) of each option of the server.
    """
    operations = [
        (path, method, operation) for path, item in spec["paths"].items() for method, operation in item.items()
    ]
    info = spec["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        description=_prose(info["description"]),
        contents="".join(_contents_line(*entry) for entry in operations),
        security=_security(spec),
        operations="".join(_operation(*entry) for entry in operations),
        schemas="".join(_schema(name, schema) for name, schema in sorted(spec["components"]["schemas"].items())),
        options=_table(
            ("Variable", "Default", "Meaning"),
            [(_code(name), _code(default), _prose(meaning)) for name, default, meaning in options_table],
        ),
    )


def _contents_line(path: str, method: str, operation: Json) -> str:
    address = f"{_code(method.upper() + ' ' + path)}"
    return f'<li><a href="#{operation["operationId"]}">{address}</a> <span>{escape(operation["summary"])}</span></li>'


def _security(spec: Json) -> str:
    if "security" not in spec:
        return "<p>This server asks for no key.</p>"
    header = "Authorization: Bearer KEY"
    return (
        f"<p>This server asks for a key: send it as {_code('X-API-Key: KEY')} or {_code(header)}. The commands below "
        f"take it from the variable {_code('GAPGATE_API_KEY')} of your shell. Without a key this "
        f"page shows the values of a made-up model.</p>{_KEY_FORM}"
    )


def _operation(path: str, method: str, operation: Json) -> str:
    samples = "".join(
        f"<figure><figcaption>{escape(sample['label'])}</figcaption>{_pre(sample['source'])}</figure>"
        for sample in operation["x-codeSamples"]
    )
    return (
        f'<section class="card" id="{operation["operationId"]}">'
        f"<h2>{escape(operation['summary'])}</h2>"
        f'<p class="address"><b>{method.upper()}</b> {_code(path)}</p>'
        f"<p>{_prose(operation['description'])}</p>{try_form.render(path, method, operation)}{samples}"
        f"{_parameters(operation['parameters'])}{_body(operation.get('requestBody'))}"
        f"{_answer(operation['responses']['200'])}{_errors(operation['responses'])}</section>"
    )


def _parameters(parameters: list[Json]) -> str:
    rows = [
        (
            f"{_code(parameter['name'])} <small>{parameter['in']}</small>",
            _WORDS.of(parameter["schema"]),
            _prose(parameter["description"]),
        )
        for parameter in parameters
    ]
    return f"<h3>Parameters</h3>{_table(('Name', 'Value', 'Meaning'), rows)}" if rows else ""


def _body(body: Json | None) -> str:
    """Return the table of the content types of a body; types with one meaning share a row."""
    if not body:
        return ""
    meanings: dict[str, list[str]] = {}
    for content_type, content in body["content"].items():
        meanings.setdefault(_body_meaning(content["schema"]), []).append(content_type)
    rows = [(", ".join(map(_code, types)), meaning) for meaning, types in meanings.items()]
    return f"<h3>Body</h3>{_table(('Content type', 'Holds'), rows)}"


def _body_meaning(schema: Json) -> str:
    if "properties" not in schema:
        return _prose(schema.get("description", "The image file."))
    return "; ".join(
        f"field {_code(name)}: {_prose(value['description'])}" for name, value in schema["properties"].items()
    )


def _answer(response: Json) -> str:
    made = ["<h3>Answer</h3>"]
    for content_type, content in response["content"].items():
        model = content["schema"].get("$ref", "").rpartition("/")[2]
        link = f', <a href="#schema-{model}">{model}</a>' if model else ""
        made.append(f"<p>{_code(content_type)}{link}</p>")
        if "example" in content:
            made.append(_pre(json.dumps(content["example"], indent=2, ensure_ascii=False)))
    return "".join(made)


def _errors(responses: Json) -> str:
    rows = [
        (str(status), _code(code), _prose(meaning))
        for status, response in responses.items()
        for code, meaning in _CODE_LINE.findall(response["description"])
    ]
    table = _table(("Status", "Code", "When"), rows)
    return f"<details><summary>Errors: {len(rows)}</summary>{table}</details>"


def _schema(name: str, schema: Json) -> str:
    required = schema.get("required", [])
    rows = [
        (
            _code(field) + ("" if field in required else " <small>may be left out</small>"),
            _WORDS.of(value),
            _prose(value.get("description", "")),
        )
        for field, value in schema["properties"].items()
    ]
    return (
        f'<section id="schema-{name}"><h3>{name}</h3><p>{_prose(schema.get("description", ""))}</p>'
        f"{_table(('Field', 'Type', 'Meaning'), rows)}</section>"
    )


def _table(titles: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{title}</th>' for title in titles)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _pre(text: str) -> str:
    return f'<pre tabindex="0"><code>{escape(text)}</code></pre>'


def _code(value: str | int) -> str:
    return f"<code>{escape(str(value))}</code>" if value != "" else ""


def _prose(text: str) -> str:
    """Return text as HTML, with `code` in backticks marked up."""
    # Escaped first: class names and messages come from data and must not become tags.
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(text))


_KEY_FORM = """<form id="key-form" class="key-form" hidden>
<p><label for="key">API key for the forms of this page</label>
<input id="key" name="key" type="password" autocomplete="off" spellcheck="false" required></p>
<div class="row"><button>Use key</button><span class="note" role="status">It stays in this tab and is forgotten when the
tab closes.</span></div></form>"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<link rel="icon" href="static/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="static/page.css">
<link rel="stylesheet" href="static/docs.css">
<script type="module" src="static/docs.js"></script>
</head>
<body class="reading">
<header class="top">
  <a class="brand" href="./"><img src="static/icon.svg" alt="" width="24" height="24">Gapgate</a>
  <nav aria-label="Documentation"><a href="./">Try it</a><a href="docs.json">OpenAPI</a></nav>
</header>
<main class="docs">
<h1>{title}</h1>
<p>{description}</p>
{security}
<nav aria-label="Routes"><ul class="contents">{contents}</ul></nav>
{operations}
<section class="card" id="schemas"><h2>Answers field by field</h2>{schemas}</section>
<section class="card" id="options"><h2>Options of the server</h2>
<p>Each is an environment variable.</p>{options}</section>
</main>
</body>
</html>
"""


_WORDS = SchemaWords(lambda name: f'<a href="#schema-{name}">{name}</a>', _code, escape)
