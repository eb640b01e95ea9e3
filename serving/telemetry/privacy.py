"""Environment variables that keep a server, and the build of a Bento, from sending telemetry."""

from __future__ import annotations

QUIET = {"ORT_DISABLE_TELEMETRY": "1", "BENTOML_DO_NOT_TRACK": "True"}
"""Variables that both libraries read when they are imported. By default ONNX Runtime from 1.29 on reports each loaded
model to its maker, and keeps a device id and a queue of reports in the home folder; BentoML sends usage statistics."""
