"""Handlers of the routes for the evidence behind the answers: the model card and the receipt."""

from __future__ import annotations

import platform
from importlib.metadata import version
from urllib.parse import quote

from serving.description.schema import Gap, InputContract, ModelCard
from serving.http.endpoints import Context
from serving.http.request import FORM_TYPE, TENSOR_TYPE, Request
from serving.http.responses import JSON_TYPE, ApiError, Response, json_response
from serving.model.predictor import Predictor
from serving.options import Options

_REPORT = "report/report.html"
"""Place of the report among a run's artifacts: `gapgate.report.note.REPORT`, which a Bento does not hold."""


async def model_card(context: Context, request: Request) -> Response:
    """Answer `GET /v1/model`."""
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


async def receipt(context: Context, request: Request) -> Response:
    """Answer `GET /v1/receipts/{digest}`."""
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
