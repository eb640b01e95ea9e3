"""The yardstick: Starlette under uvicorn, and nothing that an answer does not need."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from bench.serve.rivals.model import Model
from gapgate.errors import ImageError

model = Model.from_environment()


async def multipart(request: Request) -> Response:
    """Classify the form's file `image`."""
    async with request.form() as form:
        image = form.get("image")
        if not isinstance(image, UploadFile):
            return _refuse("the form has no file `image`")
        data = await image.read()
    return _classify(data)


async def png(request: Request) -> Response:
    """Classify the image file in the body."""
    return _classify(await request.body())


async def tensor(request: Request) -> Response:
    """Classify the raw pixels in the body."""
    try:
        image = model.tensor(await request.body())
    except ValueError as error:
        return _refuse(str(error))
    return JSONResponse(model.answer(image))


def _classify(data: bytes) -> Response:
    try:
        image = model.decode(data)
    except ImageError as error:
        return _refuse(str(error))
    return JSONResponse(model.answer(image))


def _refuse(message: str) -> Response:
    return JSONResponse({"error": message}, status_code=400)


app = Starlette(
    routes=[
        Route("/multipart", multipart, methods=["POST"]),
        Route("/png", png, methods=["POST"]),
        Route("/tensor", tensor, methods=["POST"]),
    ]
)
