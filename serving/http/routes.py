"""The routes of the service, in the order of their description: by these `serving.http.app` answers,
`serving.description.openapi` describes and `serving.service` declares to BentoML."""

from __future__ import annotations

from dataclasses import replace

from serving.http import endpoints, inference, lookups, pages

_ROUTES = (
    *(endpoints.predict, endpoints.predict_batch, endpoints.explain, endpoints.similar),
    *(lookups.model_card, lookups.receipt),
    *(inference.server, inference.live, inference.ready, inference.model, inference.model_ready, inference.infer),
    *(lookups.live, lookups.health, lookups.ready, lookups.metrics),
    *(pages.index, pages.docs, pages.openapi, pages.bentoml_schema, pages.static),
)
_VERSIONS = (
    replace(route, path=route.path.replace("{name}", "{name}/versions/{version}"), is_described=False)
    for route in _ROUTES
    if "{name}" in route.path
)
ROUTES = (*_ROUTES, *_VERSIONS)
"""All routes; those of a model are there for its version too, as the Open Inference Protocol has them."""
