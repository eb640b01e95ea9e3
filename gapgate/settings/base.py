"""Base of every group of settings: frozen, checked when built, unknown names refused."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """Group of settings; the docstring under each field says what it is and in what unit."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A number from 0 to 1."""
Count = Annotated[int, Field(ge=1)]
"""A whole number, 1 or more."""
