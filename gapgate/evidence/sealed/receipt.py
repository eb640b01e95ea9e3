"""The receipt: the origin of a registered model, under one digest.

A served prediction carries the digest; the receipt that it names leads to the data, the code, the settings and the
evidence. Anyone can check it: the digest is the sha256 of the receipt's canonical JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict

from gapgate.artifacts import digest_of


class Receipt(BaseModel):
    """Lineage of one registered model version."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model_name: str
    model_version: str
    run: str
    """Name of the pipeline run."""
    tracking_run: str
    """MLflow run id."""
    data: dict[str, Any]
    """Content of `dataset.json`: source, DVC hash, revision, dirty."""
    code_revision: str
    image_digest: str
    verdict: str
    figures: dict[str, float | None]
    """Accuracies (fractions), gap and its interval (points), test ECE."""
    artifacts: dict[str, str]
    """Digest of each artifact, by its kind."""
    settings: dict[str, dict[str, Any]]
    """Resolved settings of each step, by its name."""

    @property
    def digest(self) -> str:
        """Digest of the canonical JSON, `sha256:<hex>`."""
        return digest_of(self.model_dump(mode="json"))


def verify(content: Mapping[str, Any], digest: str) -> Receipt:
    """Parse a receipt and check that its digest is `digest`.

    Raises:
        ValueError: the content is no receipt, or has another digest.
    """
    receipt = Receipt.model_validate(content)
    if receipt.digest != digest:
        raise ValueError(f"the receipt's content has the digest {receipt.digest}, not {digest}")
    return receipt
