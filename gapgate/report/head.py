"""Lines of a report's head that the evaluation does not know: whose model it is of."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from gapgate.artifacts import Manifest


def head(certificate: Manifest, registration: Mapping[str, Any], *, run: str = "", alias: str = "") -> dict[str, str]:
    """Name → text, for `gapgate.report.html.render`.

    Args:
        certificate: manifest of the certificate.
        registration: content of `registration.json`; empty for a model that is not registered yet.
        run: name of the run, where the manifest has none.
        alias: alias of the version, if it has one.
    """
    version = [f"{registration['name']} version {registration['version']}", alias] if registration else []
    return {
        "model": ", ".join(filter(None, version)),
        "run": certificate.run or run,
        "date": f"{datetime.fromisoformat(certificate.created_at):%Y-%m-%d %H:%M} UTC",
        "code": certificate.code_revision,
        "receipt": registration.get("receipt", ""),
    }
