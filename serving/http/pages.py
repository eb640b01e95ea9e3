"""Routes for people: the page, the documentation, and their files."""

from __future__ import annotations

import hashlib
import json
import mimetypes
import re
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from serving import options
from serving.description import docs as documentation
from serving.description import openapi as description
from serving.description.bentoml_schema import schema
from serving.description.openapi_examples import without_secrets
from serving.description.route import MODEL_ERRORS, route
from serving.http.access import authorize
from serving.http.endpoints import Context
from serving.http.lookups import card
from serving.http.request import Request
from serving.http.responses import JSON_TYPE, ApiError, Response, json_response

STATIC = Path(__file__).with_name("static")
_HOST = re.compile(r"[A-Za-z0-9.:\[\]-]{1,260}")
_HTML = "text/html; charset=utf-8"
_POLICY = "default-src 'self'; img-src 'self' data: blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content policy: a page loads nothing from other origins and runs nothing inline."""
_HEADERS = {"Content-Security-Policy": _POLICY, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@route("get", "/", "page", "text/html", is_open=True, is_tagged=True)
async def index(context: Context, request: Request) -> Response:
    """Try the model in a browser.

    Drop, paste, choose or draw an image.
    """
    return _file(request, "index.html")


@route("get", "/static/{file}", "static", "*/*", own_errors=("not_found",), is_open=True, is_described=False)
async def static(context: Context, request: Request) -> Response:
    """Get a part of the pages: a script, a style sheet or an icon."""
    return _file(request, request.path_parameters["file"])


@route("get", "/docs", "docs", "text/html", own_errors=MODEL_ERRORS, is_open=True)
async def docs(context: Context, request: Request) -> Response:
    """Read this description.

    As a page.
    """
    page = documentation.render(_spec(context, request), options.table())
    return Response(page.encode(), content_type=_HTML, headers=_HEADERS)


@route("get", "/docs.json", "openapi", JSON_TYPE, own_errors=MODEL_ERRORS, is_open=True)
async def openapi(context: Context, request: Request) -> Response:
    """Get this description.

    OpenAPI 3.1.
    """
    return Response(json.dumps(_spec(context, request), indent=1).encode())


@route("get", "/schema.json", "bentomlSchema", JSON_TYPE, is_open=True, is_described=False)
async def bentoml_schema(context: Context, request: Request) -> Response:
    """Get the description that `bentoml.SyncHTTPClient` reads."""
    return json_response(schema(context.routes))


def _spec(context: Context, request: Request) -> dict[str, Any]:
    # The headers are the client's and go into commands to paste, so only characters of an address are let through.
    host = request.header("host")
    forwarded = request.header("x-forwarded-proto").lower()
    scheme = forwarded if forwarded in ("http", "https") else request.scheme
    found = card(context.models.require(), request.options)
    try:
        authorize(request)
    except ApiError:  # the page is open; what it tells of the model is not
        found = without_secrets(found)
    return description.spec(
        context.routes,
        found,
        url=f"{scheme}://{host}{request.options.root_path}" if _HOST.fullmatch(host) else "",
        keys_required=bool(request.options.api_keys),
    )


def _file(request: Request, name: str) -> Response:
    found = _files().get(name)
    if found is None:
        raise ApiError("not_found", f"there is no {request.path[:100]}; /docs lists the routes")
    # A list of tags, or a weak one (W/ before it, from a proxy that compresses), counts as well (RFC 9110, 13.1.2).
    is_valid = found.headers["ETag"] in request.header("if-none-match")
    return replace(found, body=b"", status=304) if is_valid else found


@cache
def _files() -> dict[str, Response]:
    """Return all static files by their names.

    A name is looked up here and never joined to a path, so no other file can be asked for.
    """
    files = {}
    for path in sorted(STATIC.iterdir()):
        body = path.read_bytes()
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        charset = "; charset=utf-8" if kind.startswith("text/") else ""
        # A browser may keep the file, and asks each time whether it is still valid (RFC 9111, 5.2.2.4).
        tagged = {"ETag": f'"{hashlib.sha256(body).hexdigest()[:16]}"', "Cache-Control": "no-cache"}
        files[path.name] = Response(body, content_type=kind + charset, headers=_HEADERS | tagged)
    return files
