"""Models of the JSON bodies of the Open Inference Protocol, described as those in `serving.description.schema` are."""

from __future__ import annotations

from typing import Any

from serving.description.schema import Answer


class InferenceError(Answer):
    """The body of every answer from 400 up below `/v2`: the Open Inference Protocol has the reason as text."""

    error: str
    """One line for people: the value, the limit, the remedy."""
    code: str
    """A stable word for programs, such as `invalid_image`."""
    request_id: str
    """The request's `X-Request-ID`; a new one if it had none."""


class InferenceHealth(Answer):
    """State of the server or of a model."""

    name: str | None = None
    """Name of the model that was asked for."""
    live: bool | None = None
    """True: the process answers."""
    ready: bool | None = None
    """True: the model has reproduced the logits of the golden images in its package."""


class InferenceServer(Answer):
    """The server, as the Open Inference Protocol describes one."""

    name: str
    """Always `gapgate`."""
    version: str
    """Version of the server."""
    extensions: list[str]
    """Extensions of the protocol that the server knows: `binary_tensor_data`."""


class TensorDescription(Answer):
    """An input or an output of the model."""

    name: str
    """Name of the tensor."""
    datatype: str
    """Type of its elements."""
    shape: list[int]
    """Its shape; -1 is the number of images."""


class InferenceModel(Answer):
    """The model, as the Open Inference Protocol describes one."""

    name: str
    """Name of the registered model."""
    versions: list[str]
    """The one version that answers."""
    platform: str
    """Always `onnxruntime_onnx`."""
    inputs: list[TensorDescription]
    """The images as a tensor. Image files of type BYTES and shape [-1] are taken in its place."""
    outputs: list[TensorDescription]
    """Probabilities and the most probable class of each image."""

    @classmethod
    def of(cls, name: str, version: str, image_shape: tuple[int, ...], num_classes: int) -> InferenceModel:
        """Return the description of a model whose images are (H, W, C)."""
        return cls(
            name=name,
            versions=[version],
            platform="onnxruntime_onnx",
            inputs=[TensorDescription(name="images", datatype="UINT8", shape=[-1, *image_shape])],
            outputs=[
                TensorDescription(name="probabilities", datatype="FP32", shape=[-1, num_classes]),
                TensorDescription(name="class", datatype="BYTES", shape=[-1]),
            ],
        )


class InferenceTensor(TensorDescription):
    """An output."""

    shape: list[int]
    """Its shape."""
    data: list[Any] | None = None
    """Its elements in one list, row by row; none if they follow as binary data."""
    parameters: dict[str, int] | None = None
    """`binary_data_size`: the bytes of the elements that follow the JSON."""


class InferenceAnswer(Answer):
    """The answer to one inference request."""

    model_name: str
    """Name of the model that answered."""
    model_version: str
    """Its version."""
    id: str | None = None
    """The `id` of the request."""
    parameters: dict[str, str]
    """`receipt`: the digest that `GET /v1/receipts/{digest}` resolves."""
    outputs: list[InferenceTensor]
    """The outputs that were asked for, or all."""
