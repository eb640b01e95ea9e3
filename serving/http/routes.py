"""Table of the routes of the service with the errors of each, used by `serving.http.app` to answer and by
`serving.description.openapi` to describe them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving.description.schema import (
    Answer,
    BatchAnswer,
    Explanation,
    Health,
    ModelCard,
    Neighbours,
    Prediction,
    ReceiptAnswer,
)
from serving.http.endpoints import MAX_NEIGHBOURS, MAX_TOP_K, NEIGHBOURS, TOP_K

ERRORS: dict[str, tuple[int, str]] = {
    "invalid_image": (400, "Not an image, a damaged one, or one of too many pixels."),
    "wrong_shape": (400, "A raw tensor of another number of bytes than whole images have."),
    "missing_image": (400, "No image in the request."),
    "bad_request": (400, "A form that cannot be parsed, or that holds several images where one is asked for."),
    "unauthorized": (401, "No key, or one that is not known."),
    "loopback_only": (403, "No key is configured, so only the server's own machine is answered."),
    "not_found": (404, "There is nothing under this address."),
    "no_index": (404, "The package holds no training images to compare with."),
    "body_too_large": (413, "The body exceeds the limit."),
    "too_many_images": (413, "More images than one request may hold."),
    "unsupported_media_type": (415, "Another content type than the accepted ones, which `Accept-Post` lists."),
    "invalid_parameter": (422, "A parameter out of its range or set."),
    "overloaded": (429, "As many requests as the server takes are under way; try again after `Retry-After` seconds."),
    "internal": (500, "The server failed; its log has the request id."),
    "starting": (503, "The model is being loaded."),
    "refused": (503, "The package did not prove itself; the message says why."),
    "not_ready": (503, "The server is ending."),
    "upload_timeout": (408, "The body did not arrive in time."),
    "timeout": (504, "No answer was found in time."),
}
"""Code → HTTP status and meaning."""

_KEYED = ("unauthorized", "loopback_only", "internal")
_MODEL = (*_KEYED, "starting", "refused")
_IMAGE = (
    "invalid_image", "wrong_shape", "missing_image", "bad_request", "body_too_large", "too_many_images",
    "unsupported_media_type", "invalid_parameter", "overloaded", "upload_timeout", "timeout", *_MODEL,
)  # fmt: skip

_TOP_K = ("top_k", MAX_TOP_K, TOP_K, "Number of classes in the answer, the most probable ones.")
_K = ("k", MAX_NEIGHBOURS, NEIGHBOURS, "Number of training images in the answer.")


@dataclass(frozen=True, slots=True)
class Route:
    """A route; one that answers GET answers HEAD too."""

    method: str
    path: str
    name: str
    """Name of the route, its `operationId` in OpenAPI."""
    summary: str
    description: str
    answers: Mapping[str, type[Answer] | None]
    """Content type of an answer with status 200 → its model; None if it has none."""
    errors: tuple[str, ...]
    """Codes in `ERRORS` of the errors that it can answer with."""
    numbers: tuple[tuple[str, int, int, str], ...] = ()
    """Integer query parameters, from 1 to a limit: (name, limit, default, meaning)."""
    further_parameters: tuple[str, ...] = ()
    """Names of the other query parameters."""
    images: str = ""
    """Images that the body holds: `one`, `many`, or none if empty."""
    is_open: bool = False
    """True if it answers without a key."""
    is_tagged: bool = False
    """True if it answers 304 when the entity tag in `If-None-Match` is still valid."""
    is_described: bool = True
    """True if OpenAPI describes it; parts of the pages are left out."""

    @property
    def methods(self) -> tuple[str, ...]:
        return ("GET", "HEAD") if self.method == "get" else ("POST",)

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names of all query parameters."""
        return (*(name for name, *_ in self.numbers), *self.further_parameters)


ROUTES = (
    Route(
        "post", "/v1/predict", "predict", "Classify one image",
        "An image file of any size is converted and resized as for training: upright by its EXIF orientation,"
        " transparent pixels on the background of training, the first frame of an animation. Its content tells its"
        " format, not its declared type. A form holds it as the field `image`, or as its only file.",
        {"application/json": Prediction}, _IMAGE, numbers=(_TOP_K,), images="one",
    ),
    Route(
        "post", "/v1/predict/batch", "predictBatch", "Classify several images",
        "An image that cannot be read fails alone, in its place; the status is 200 all the same.",
        {"application/json": BatchAnswer}, tuple(code for code in _IMAGE if code != "invalid_image"),
        numbers=(_TOP_K,), images="many",
    ),
    Route(
        "post", "/v1/explain", "explain", "Show which pixels mattered",
        "Hides one patch of the image after the other and tells how far the probability falls. With `Accept: image/png`"
        " the answer is the heat map itself.",
        {"application/json": Explanation, "image/png": None}, _IMAGE, images="one",
        further_parameters=("class", "feature_maps"),
    ),
    Route(
        "post", "/v1/similar", "similar", "Find similar training images",
        "The nearest images by the cosine distance of the model's embeddings; the search is exact.",
        {"application/json": Neighbours}, (*_IMAGE, "no_index"), numbers=(_K,), images="one",
    ),
    Route(
        "get", "/v1/model", "model", "Read the model card",
        "Classes, what an image may be, accuracy, overfitting gap and gate verdict.",
        {"application/json": ModelCard}, _MODEL,
    ),
    Route(
        "get", "/v1/receipts/{digest}", "receipt", "Resolve a receipt",
        "The data, code, settings and evidence behind the predictions that carry this digest, and the chain of"
        " artifacts from the data set to the certificate. Anyone can recompute each digest: the sha256 of the JSON with"
        " sorted keys and without spaces, of a lineage entry without its own `digest`.",
        {"application/json": ReceiptAnswer}, (*_MODEL, "not_found"),
    ),
    Route(
        "get", "/livez", "live", "Is the process alive?", "For a supervisor.",
        {"application/json": Health}, ("internal",), is_open=True,
    ),
    Route(
        "get", "/readyz", "ready", "Is the model ready?",
        "Ready once the model has reproduced the logits of the golden images in its package.",
        {"application/json": Health}, ("internal", "starting", "refused", "not_ready"), is_open=True,
    ),
    Route(
        "get", "/metrics", "metrics", "Read the metrics", "Counters and histograms in the text format of Prometheus.",
        {"text/plain": None}, _KEYED,
    ),
    Route(
        "get", "/", "page", "Try the model in a browser", "Drop, paste, choose or draw an image.",
        {"text/html": None}, ("internal",), is_open=True, is_tagged=True,
    ),
    Route(
        "get", "/docs", "docs", "Read this description", "As a page.",
        {"text/html": None}, ("internal", "starting", "refused"), is_open=True,
    ),
    Route(
        "get", "/docs.json", "openapi", "Get this description", "OpenAPI 3.1.",
        {"application/json": None}, ("internal", "starting", "refused"), is_open=True,
    ),
    Route(
        "get", "/static/{file}", "static", "Get a part of the pages", "A script, a style sheet or an icon.",
        {"text/plain": None}, ("internal", "not_found"), is_open=True, is_tagged=True, is_described=False,
    ),
)  # fmt: skip
