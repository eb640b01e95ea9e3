"""The routes as BentoML's clients read them in `/schema.json`; the same as `GapgateService.schema()`, without importing
BentoML, whose import takes longer than the start of a worker."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from serving.description.route import Route

DESCRIPTION = "Classifies images with a certified model."


def declared(routes: Iterable[Route]) -> Iterator[Route]:
    """Yield the routes that BentoML knows: those that take images as files."""
    return (route for route in routes if route.images in ("one", "many"))


def method_name(route: Route) -> str:
    """Return the name of a route as Python's: `predictBatch` → `predict_batch`."""
    return re.sub("[A-Z]", lambda capital: f"_{capital[0].lower()}", route.name)


def schema(routes: Iterable[Route]) -> dict[str, Any]:
    """Return the content of `/schema.json`."""
    known = sorted(declared(routes), key=method_name)
    return {
        "name": "gapgate",
        "type": "service",
        "routes": [_route(route) for route in known],
        "description": DESCRIPTION,
        "paths": {route.path: {"mounted": False} for route in known},
    }


def _route(route: Route) -> dict[str, Any]:
    file: dict[str, Any] = {"content_type": "image/*", "format": "image", "type": "file"}
    if route.images == "one":
        field, value = "image", file | {"title": "Image"}
    else:
        field, value = "images", {"items": file, "title": "Images", "type": "array"}
    return {
        "name": method_name(route),
        "route": route.path,
        "batchable": False,
        "input": {"properties": {field: value}, "required": [field], "title": "Input", "type": "object"},
        "output": {"additionalProperties": True, "type": "object"},
        "is_task": False,
    }
