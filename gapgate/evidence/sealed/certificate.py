"""The certificate: the gate's verdict with its checks, stored in `certificate.json` and shown by the server."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["pass", "fail", "undecided"]


class Check(BaseModel):
    """One limit of the gate, the measured figure and the verdict on it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    name: str
    """Name of the check, in most cases that of the setting with its limit, such as `max_gap_points`."""
    verdict: Verdict
    """`pass`: the figure keeps the limit; `fail`: it does not; `undecided`: its interval reaches both sides."""
    reason: str
    """One sentence that explains the verdict."""
    value: float | None = None
    """The measured figure."""
    low: float | None = None
    """Lower end of the figure's interval."""
    high: float | None = None
    """Upper end of the figure's interval."""
    limit: float | None = None
    """The limit that the figure is compared with."""
    images_to_decide: int | None = None
    """Number of test images that would decide an undecided check."""


class Certificate(BaseModel):
    """The content of `certificate.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    checks: tuple[Check, ...]
    evidence: str = ""
    """The images that the figures stand on, in words; empty in certificates of versions before 0.3."""
