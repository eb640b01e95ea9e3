"""Log of the server: one line for each event, as JSON or as text, to standard error."""

from __future__ import annotations

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from typing import Any, Literal

# `extra` fields are attributes of a record like any other; those that each record has are not among them.
_STANDARD = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formatter of a record, with its `extra` fields, as one line of JSON."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "pid": record.process,
            "message": record.getMessage(),
        }
        line |= _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Formatter of a record, with its `extra` fields, as one line for people."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        fields = " ".join(f"{name}={json.dumps(value, default=str)}" for name, value in _extra(record).items())
        head, *trace = text.split("\n", 1)
        return "\n".join([f"{head} {fields}" if fields else head, *trace])


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def configure(log_format: Literal["json", "text"]) -> None:
    """Send the log of this process to standard error as JSON or as text."""
    handler = logging.StreamHandler(sys.stderr)
    text = TextFormatter("%(asctime)s %(levelname)s [%(process)d] %(message)s")
    handler.setFormatter(JsonFormatter() if log_format == "json" else text)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    logging.captureWarnings(True)
    threading.excepthook = lambda failed: root.error(
        "thread %s failed", failed.thread and failed.thread.name, exc_info=failed.exc_value
    )
    root.setLevel(logging.WARNING)  # other libraries; only our own loggers tell of events
    logging.getLogger("gapgate").setLevel(logging.INFO)
