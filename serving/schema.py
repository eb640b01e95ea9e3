"""What the server answers, as JSON: a prediction, or an error."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Answer(BaseModel):
    """The base of every body the server sends."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelVersion(Answer):
    """Which model answered, as the registry names it."""

    name: str
    """Registered model."""
    version: str
    """Its version."""


class Prediction(Answer):
    """The answer to one image."""

    class_name: str = Field(serialization_alias="class")
    """The most probable class."""
    confidence: float
    """Its probability, a fraction."""
    probabilities: dict[str, float]
    """The most probable classes with their probabilities, in descending order."""
    model: ModelVersion
    """The model that answered."""
    receipt: str
    """Digest that `gapgate receipt` resolves to the run, the data and the settings behind the model."""
    request_id: str
    """The request's `X-Request-ID`, or one made for it."""


class Problem(Answer):
    """Why there is no answer."""

    code: str
    """A stable word for programs, such as `invalid_image`."""
    message: str
    """One line for people: the value, the limit, the remedy."""
    request_id: str
    """The request's `X-Request-ID`, or one made for it."""


class ErrorAnswer(Answer):
    """The body of every answer from 400 up."""

    error: Problem
    """The problem."""
