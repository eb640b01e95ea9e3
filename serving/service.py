"""The BentoML service: one process that answers `serving.app` with the model in the Bento's `model` folder."""

from __future__ import annotations

from pathlib import Path

import bentoml

from serving.app import create_app
from serving.privacy import QUIET

MODEL_DIR = Path(__file__).parent.parent / "model"

app = create_app()


# A bound method, not the application itself: BentoML looks into a Starlette application for a matching route and
# answers an unknown path by itself, in plain text. OpenTelemetry's middleware costs CPU in each request even without
# an exporter, unless every URL is excluded. BentoML's metrics take any requested path as a label, without bound. Its
# timeout is only a second line behind that of `serving.app`, whose answer has our form.
@bentoml.service(
    name="gapgate",
    workers=1,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
    metrics={"enabled": False},
    envs=[{"name": name, "value": value} for name, value in QUIET.items()],
    tracing={"excluded_urls": ".*"},
)
@bentoml.asgi_app(app.__call__, path="/")
class GapgateService:
    """Classifies images with a certified model."""

    def __init__(self) -> None:
        # Only the worker needs these; `bentoml serve` and `bentoml build` import this module as well, and without
        # numpy, Pillow and ONNX Runtime do it 0.4 s sooner.
        from serving.predictor import Predictor

        app.state.predictor = Predictor.load(MODEL_DIR)

    async def __is_ready__(self) -> bool:
        return hasattr(app.state, "predictor")
