"""The certificate: the gate's verdict and checks, as `certificate.json` holds them and the server shows them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

Verdict = Literal["pass", "fail", "undecided"]


class Check(BaseModel):
    """Result of holding one figure against its limit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    name: str
    """Name of the setting that gives the limit."""
    verdict: Verdict
    """`pass` where the figure keeps the limit, `fail` where it breaks it, `undecided` where the interval spans it."""
    reason: str
    """Explanation of the verdict, in one sentence."""
    value: float | None = None
    """Figure that was judged; None where the evaluation has none that can be used."""
    low: float | None = None
    """Lower end of its interval."""
    high: float | None = None
    """Upper end of its interval."""
    limit: float | None = None
    """Limit that the figure was held against."""
    images_to_decide: int | None = None
    """Number of test images that would decide an undecided check; None where no number would."""


class Certificate(BaseModel):
    """Content of `certificate.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    verdict: Verdict
    checks: tuple[Check, ...]
