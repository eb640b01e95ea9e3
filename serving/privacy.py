"""The environment in which a server, and the build of one, reports nothing to anybody."""

from __future__ import annotations

QUIET = {"ORT_DISABLE_TELEMETRY": "1", "BENTOML_DO_NOT_TRACK": "True"}
"""Both libraries read it when they are imported. By default ONNX Runtime from 1.29 on reports each loaded model to its
maker, and keeps a device id and a queue of reports in the home folder; BentoML sends usage statistics."""
