"""MLflow's client, and what its errors mean."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from components.platform import kfp_run
from components.platform.tracking.local_store import open_local_store
from components.platform.workspace import is_local, tracking_uri
from gapgate.errors import TrackingError, TrackingRefusedError
from gapgate.variables import environment

if TYPE_CHECKING:
    from mlflow import MlflowClient

# Words of urllib3 and requests, which MLflow passes on in an exception without a code (MLflow 3.17).
_AWAY = ("Max retries exceeded", "Connection", "timed out", "too many 50", "too many 429")
_PASSING = ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "RESOURCE_EXHAUSTED", "REQUEST_LIMIT_EXCEEDED")


def client() -> MlflowClient:
    """A client of the configured tracking store with few retries, since the spool keeps what could not be sent."""
    # MLflow's defaults are 7 retries of 120 s each; a step would wait that long for a server that is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "15")
    os.environ.setdefault("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    # A server whose artifacts lie in S3 sends its clients there else. The network policies let MLflow alone out to it.
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    import logging

    import mlflow

    # After the import of mlflow, which configures its own loggers.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.ERROR)
    if is_local():
        open_local_store()
    mlflow.set_tracking_uri(tracking_uri())
    return mlflow.MlflowClient()


@contextmanager
def without_retries() -> Iterator[None]:
    """Let MLflow's client make each request once: it repeats one whose answer was lost, and would make two things."""
    with environment(MLFLOW_HTTP_REQUEST_MAX_RETRIES="0"):  # MLflow 3 reads it anew for each request
        yield


@contextmanager
def away_errors() -> Iterator[None]:
    """Raise `TrackingError` for a tracking store that cannot be reached, `TrackingRefusedError` where it refuses."""
    import requests
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (requests.RequestException, MlflowException) as error:
        raise _tracking_error(error) from error


def _tracking_error(error: Exception) -> TrackingError:
    # An upload is a plain HTTP request; everything else is MLflow's own exception, with the name of its code.
    status = getattr(getattr(error, "response", None), "status_code", None)
    code, said = getattr(error, "error_code", ""), " ".join(str(error).split())[:200]
    kept = "everything it should get is kept, and `gapgate sync` sends it later"
    if kfp_run.is_pod():
        kept = "start the run again once it does"
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED") or status in (401, 403):
        return TrackingRefusedError(
            f"{tracking_uri()} refuses the user ({said}); set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, "
            "or MLFLOW_TRACKING_TOKEN, of one who may write"
        )
    # MLflow wraps a refused connection and exhausted retries in its own exception, without a code of its own.
    if any(sign in str(error) for sign in _AWAY) or (status is None and not code):
        return TrackingError(f"{tracking_uri()} does not answer; {kept}")
    if code in _PASSING or (status or 0) >= 500:
        return TrackingError(f"{tracking_uri()} fails ({said}); {kept}")
    return TrackingRefusedError(
        f"{tracking_uri()} refuses a call ({said}); check that it is an MLflow server of our version"
    )


def is_server() -> bool:
    """True if the tracking store is a server, and not the workspace's own file."""
    return tracking_uri().startswith(("http://", "https://"))
