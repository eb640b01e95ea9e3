"""Routes that tell of the model and its evidence, and whether the server is alive and ready, and its figures."""

from __future__ import annotations

import platform
from dataclasses import replace
from importlib.metadata import version
from urllib.parse import quote

from serving.description.route import MODEL_ERRORS, READY_ERRORS, route
from serving.description.schema import Gap, Health, InputContract, ModelCard, ReceiptAnswer
from serving.http.endpoints import Context
from serving.http.request import FORM_TYPE, TENSOR_TYPE, Request
from serving.http.responses import JSON_TYPE, ApiError, Response, json_response
from serving.model.predictor import Predictor
from serving.options import Options
from serving.telemetry.metrics import CONTENT_TYPE

_REPORT = "report/report.html"
"""Place of the report among a run's artifacts: `gapgate.report.note.REPORT`, which a Bento does not hold."""


@route("get", "/v1/model", "model", ModelCard, own_errors=MODEL_ERRORS)
async def model_card(context: Context, request: Request) -> Response:
    """Read the model card.

    Classes, what an image may be, accuracy, overfitting gap and gate verdict.
    """
    return json_response(card(context.models.require(), request.options))


def card(predictor: Predictor, options: Options) -> ModelCard:
    """Return the model card: name, version, input and measured quality of the model."""
    receipt = predictor.receipt_answer.receipt
    figures = receipt["figures"]
    height, width, channels = predictor.classifier.image_shape
    return ModelCard(
        name=predictor.model.name,
        version=predictor.model.version,
        receipt=predictor.receipt,
        package=predictor.digest,
        classes=list(predictor.class_names),
        input=InputContract(
            height=height,
            width=width,
            channels=channels,
            mode=predictor.transform.mode,
            content_types=[*(form.media_type for form in options.served), FORM_TYPE, JSON_TYPE, TENSOR_TYPE],
            max_body_bytes=options.max_body_bytes,
            max_pixels=min(options.max_pixels, predictor.transform.max_pixels),
            max_batch=options.max_batch,
        ),
        # The gap has fields of its own below.
        metrics={name: value for name, value in figures.items() if not name.startswith("gap_")},
        gap=Gap(points=figures.get("gap_points"), low=figures.get("gap_low"), high=figures.get("gap_high")),
        gate=predictor.certificate,
        data=receipt["data"],
        training_data=receipt["artifacts"].get("splits", ""),
        code_revision=receipt["code_revision"],
        versions={name: version(name) for name in ("onnxruntime", "numpy", "pillow")}
        | {"python": platform.python_version()},
        similar=len(predictor.index) if predictor.index else 0,
    )


@route("get", "/v1/receipts/{digest}", "receipt", ReceiptAnswer, own_errors=(*MODEL_ERRORS, "not_found"))
async def receipt(context: Context, request: Request) -> Response:
    """Resolve a receipt.

    The data, code, settings and evidence behind the predictions that carry this digest, and the chain of artifacts from
    the data set to the certificate. Anyone can recompute each digest: the sha256 of the JSON with sorted keys and
    without spaces, of a lineage entry without its own `digest`.
    """
    predictor = context.models.require()
    # The prefix may be left out.
    hexadecimal = request.path_parameters["digest"].removeprefix("sha256:")
    found = context.models.receipts.get(f"sha256:{hexadecimal}")
    if found is None:
        message = f"no receipt {hexadecimal[:80]} here; this server's model has {predictor.receipt}"
        raise ApiError("not_found", message)
    if (base := request.options.mlflow_url) and (run := quote(str(found.receipt["tracking_run"]), safe="")):
        report = f"{base}/get-artifact?run_uuid={run}&path={_REPORT}"
        found = found.model_copy(update={"run_url": f"{base}/#/runs/{run}", "report_url": report})
    return json_response(found)


@route("get", "/livez", "live", Health, summary="Is the process alive?", is_open=True)
async def live(context: Context, request: Request) -> Response:
    """Answer with 200 as long as the process lives.

    For a supervisor.
    """
    return json_response(Health(status="live"))


health = replace(live, path="/healthz", name="health", is_described=False)
"""The same under the path that BentoML's tools ask."""


@route("get", "/readyz", "ready", Health, summary="Is the model ready?", own_errors=READY_ERRORS, is_open=True)
async def ready(context: Context, request: Request) -> Response:
    """Answer with 200 if the model is ready.

    Ready once the model has reproduced the logits of the golden images in its package.
    """
    context.require_ready()
    return json_response(Health(status="ready"))


@route("get", "/metrics", "metrics", "text/plain")
async def metrics(context: Context, request: Request) -> Response:
    """Read the metrics.

    Counters and histograms in the text format of Prometheus.
    """
    return Response(context.metrics.text(), content_type=CONTENT_TYPE)
