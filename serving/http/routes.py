"""Table of the routes of the service, by which `serving.http.app` answers, `serving.description.openapi` describes and
`serving.service` declares them to BentoML."""

from __future__ import annotations

from dataclasses import replace

from serving.description.inference_schema import InferenceAnswer, InferenceHealth, InferenceModel, InferenceServer
from serving.description.route import Route
from serving.description.schema import (
    BatchAnswer,
    Explanation,
    Health,
    ModelCard,
    Neighbours,
    Prediction,
    ReceiptAnswer,
)
from serving.http import endpoints, inference, lookups, pages, probes
from serving.http.endpoints import MAX_NEIGHBOURS, MAX_TOP_K, NEIGHBOURS, TOP_K

_MODEL = ("starting", "refused")
_TENSORS = (
    "wrong_shape", "missing_image", "bad_request", "body_too_large", "too_many_images", "invalid_parameter",
    "overloaded", "upload_timeout", "timeout", *_MODEL,
)  # fmt: skip
_IMAGES = (*_TENSORS, "unsupported_media_type")
_IMAGE = ("invalid_image", *_IMAGES)

_TOP_K = ("top_k", MAX_TOP_K, TOP_K, "Number of classes in the answer, the most probable ones.")
_K = ("k", MAX_NEIGHBOURS, NEIGHBOURS, "Number of training images in the answer.")


_ROUTES = (
    Route(
        endpoints.predict, "post", "/v1/predict", "predict", "Classify one image",
        "An image file of any size is converted and resized as for training: upright by its EXIF orientation,"
        " transparent pixels on the background of training, the first frame of an animation. Its content tells its"
        " format, not its declared type. A form holds it as the field `image`, or as its only file.",
        {"application/json": Prediction}, _IMAGE, numbers=(_TOP_K,), images="one",
    ),
    Route(
        endpoints.predict_batch, "post", "/v1/predict/batch", "predictBatch", "Classify several images",
        "An image that cannot be read fails alone, in its place; the status is 200 all the same.",
        {"application/json": BatchAnswer}, _IMAGES,
        numbers=(_TOP_K,), images="many",
    ),
    Route(
        endpoints.explain, "post", "/v1/explain", "explain", "Show which pixels mattered",
        "Hides one patch of the image after the other and tells how far the probability falls. With `Accept: image/png`"
        " the answer is the heat map itself.",
        {"application/json": Explanation, "image/png": None}, _IMAGE, images="one",
        further_parameters=("class", "feature_maps"),
    ),
    Route(
        endpoints.similar, "post", "/v1/similar", "similar", "Find similar training images",
        "The nearest images by the cosine distance of the model's embeddings; the search is exact.",
        {"application/json": Neighbours}, (*_IMAGE, "no_index"), numbers=(_K,), images="one",
    ),
    Route(
        lookups.model_card, "get", "/v1/model", "model", "Read the model card",
        "Classes, what an image may be, accuracy, overfitting gap and gate verdict.",
        {"application/json": ModelCard}, _MODEL,
    ),
    Route(
        lookups.receipt, "get", "/v1/receipts/{digest}", "receipt", "Resolve a receipt",
        "The data, code, settings and evidence behind the predictions that carry this digest, and the chain of"
        " artifacts from the data set to the certificate. Anyone can recompute each digest: the sha256 of the JSON with"
        " sorted keys and without spaces, of a lineage entry without its own `digest`.",
        {"application/json": ReceiptAnswer}, (*_MODEL, "not_found"),
    ),
    Route(
        inference.server, "get", "/v2", "inferenceServer", "Describe the server (Open Inference Protocol)",
        "As KServe and Triton do.", {"application/json": InferenceServer},
    ),
    Route(
        inference.live, "get", "/v2/health/live", "inferenceLive", "Is the process alive? (Open Inference Protocol)",
        "For KServe's clients; the same as `/livez`.", {"application/json": InferenceHealth},
        is_open=True,
    ),
    Route(
        inference.ready, "get", "/v2/health/ready", "inferenceReady", "Is the model ready? (Open Inference Protocol)",
        "For KServe's clients; the same as `/readyz`.", {"application/json": InferenceHealth},
        (*_MODEL, "not_ready"), is_open=True,
    ),
    Route(
        inference.model, "get", "/v2/models/{name}", "inferenceModel", "Describe the model (Open Inference Protocol)",
        "Name and shape of its input and outputs.", {"application/json": InferenceModel}, (*_MODEL, "not_found"),
    ),
    Route(
        inference.model_ready, "get", "/v2/models/{name}/ready", "inferenceModelReady",
        "Is this model ready? (Open Inference Protocol)", "For KServe's clients.",
        {"application/json": InferenceHealth}, (*_MODEL, "not_found", "not_ready"),
    ),
    Route(
        inference.infer, "post", "/v2/models/{name}/infer", "inferenceInfer",
        "Classify images (Open Inference Protocol)",
        "One input: the images as `UINT8` of shape [n, height, width, channels], or image files as `BYTES` of shape"
        " [n]: in JSON as base64, with the header `Inference-Header-Content-Length` as binary data after the JSON."
        " An image that cannot be read fails the request.",
        {"application/json": InferenceAnswer}, ("invalid_image", *_TENSORS, "not_found"),
        images="tensors",
    ),
    Route(
        probes.live, "get", "/livez", "live", "Is the process alive?", "For a supervisor.",
        {"application/json": Health}, is_open=True,
    ),
    Route(
        probes.live, "get", "/healthz", "health", "Is the process alive?", "The same as `/livez`, for BentoML.",
        {"application/json": Health}, is_open=True, is_described=False,
    ),
    Route(
        probes.ready, "get", "/readyz", "ready", "Is the model ready?",
        "Ready once the model has reproduced the logits of the golden images in its package.",
        {"application/json": Health}, (*_MODEL, "not_ready"), is_open=True,
    ),
    Route(
        probes.metrics, "get", "/metrics", "metrics", "Read the metrics",
        "Counters and histograms in the text format of Prometheus.",
        {"text/plain": None},
    ),
    Route(
        pages.index, "get", "/", "page", "Try the model in a browser", "Drop, paste, choose or draw an image.",
        {"text/html": None}, is_open=True, is_tagged=True,
    ),
    Route(
        pages.docs, "get", "/docs", "docs", "Read this description", "As a page.",
        {"text/html": None}, _MODEL, is_open=True,
    ),
    Route(
        pages.openapi, "get", "/docs.json", "openapi", "Get this description", "OpenAPI 3.1.",
        {"application/json": None}, _MODEL, is_open=True,
    ),
    Route(
        pages.bentoml_schema, "get", "/schema.json", "bentomlSchema", "Get the description for BentoML's clients",
        "The routes as `bentoml.SyncHTTPClient` reads them.",
        {"application/json": None}, is_open=True, is_described=False,
    ),
    Route(
        pages.static, "get", "/static/{file}", "static", "Get a part of the pages",
        "A script, a style sheet or an icon.",
        {"text/plain": None}, ("not_found",), is_open=True, is_tagged=True, is_described=False,
    ),
)  # fmt: skip
_VERSIONS = (
    replace(route, path=route.path.replace("{name}", "{name}/versions/{version}"), is_described=False)
    for route in _ROUTES
    if "{name}" in route.path
)
ROUTES = (*_ROUTES, *_VERSIONS)
"""All routes; those of a model are there for its version too, as the Open Inference Protocol has them."""
