"""The certificate: what the gate found, as `certificate.json` holds it and the server shows it."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["pass", "fail", "undecided"]


class Check(BaseModel):
    """One limit and what was found."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    name: str
    """The setting that is the limit."""
    verdict: Verdict
    """Whether the figure keeps the limit."""
    reason: str
    """One sentence."""
    value: float | None = None
    """The figure."""
    low: float | None = None
    """Lower end of its interval."""
    high: float | None = None
    """Upper end of its interval."""
    limit: float | None = None
    """The limit."""
    images_to_decide: int | None = None
    """Test images that would decide an undecided check."""


class Certificate(BaseModel):
    """The content of `certificate.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    checks: tuple[Check, ...]
