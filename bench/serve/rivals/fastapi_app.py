"""FastAPI as its documentation takes a file (`UploadFile`) and the body itself (`Request`), with a response model."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Request, UploadFile
from pydantic import BaseModel, Field

from bench.serve.rivals.model import Model

app = FastAPI()
model = Model.from_environment()


class Prediction(BaseModel):
    """The answer to one image."""

    class_name: str = Field(alias="class")
    confidence: float
    probabilities: dict[str, float]


@app.post("/predict", response_model=Prediction)
async def predict(image: UploadFile) -> dict[str, Any]:
    """Classify an uploaded file."""
    return model.answer(model.decode(await image.read()))


@app.post("/tensor", response_model=Prediction)
async def tensor(request: Request) -> dict[str, Any]:
    """Classify the raw pixels in the body."""
    return model.answer(model.tensor(await request.body()))
