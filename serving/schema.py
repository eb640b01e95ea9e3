"""What the server answers, as JSON. `serving.openapi` describes these models; nothing else defines the answers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from gapgate.evidence.certificate import Check, Verdict

# Bounds that are described and not checked: the server's own figures need no second look at each answer.
Fraction = Annotated[float, WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]
Digest = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})]
Base64 = Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
Count = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]


class Answer(BaseModel):
    """The base of every body the server sends. A field that is null may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelVersion(Answer):
    """Which model answered, as the registry names it."""

    name: str
    """Registered model."""
    version: str
    """Its version."""


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


class Health(Answer):
    """The server lives, or is ready."""

    status: Literal["live", "ready"]
    """`ready` once the model has reproduced the logits of the golden images in its package."""


class _Classified(Answer):
    """The class of one image."""

    class_name: str = Field(serialization_alias="class")
    """The most probable class."""
    confidence: Fraction
    """Its probability, a fraction."""


class _Ranked(_Classified):
    """The class of one image and its rivals."""

    probabilities: dict[str, Fraction]
    """The most probable classes with their probabilities, in descending order."""


class _Placed(Answer):
    """One image of a batch."""

    index: Count
    """Its place in the request, from 0."""
    filename: str | None = None
    """Its file name in the form."""


class _Signed(Answer):
    """What stands behind an answer."""

    model: ModelVersion
    """The model that answered."""
    receipt: Digest
    """Digest of the receipt: `GET /v1/receipts/{digest}` leads to the run, the data and the settings."""
    request_id: str
    """The request's `X-Request-ID`, or one made for it."""


class Prediction(_Signed, _Ranked):
    """The answer to one image."""


class BatchPrediction(_Ranked, _Placed):
    """The answer to one image of a batch."""


class BatchFailure(_Placed):
    """Why one image of a batch has no answer; the others have theirs."""

    error: Problem
    """The problem."""


class BatchAnswer(_Signed):
    """The answers to several images, one each and in their order."""

    results: list[BatchPrediction | BatchFailure]
    """A prediction or a failure for each image."""


class FeatureMapSheet(Answer):
    """What one layer of the network computes for the image."""

    layer: str
    """Number and kind, such as `1 convolution`."""
    shape: Annotated[
        tuple[int, int, int],
        WithJsonSchema({"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 3, "maxItems": 3}),
    ]
    """Number of maps, and height and width of each in pixels."""
    columns: Annotated[int, WithJsonSchema({"type": "integer", "minimum": 1})]
    """Maps in a row of the sheet."""
    png: Base64
    """All maps side by side as a gray PNG, each scaled to 0..255."""


class Explanation(_Signed, _Classified):
    """Which pixels mattered."""

    class_name: str = Field(serialization_alias="class")
    """The class that is explained: the one asked for, or the most probable."""
    confidence: Fraction
    """Its probability for the whole image."""
    method: Literal["occlusion"]
    """A patch slides over the image; where hiding it lowers the probability, the pixels mattered."""
    patch_px: int
    """Side of the patch in the model's pixels."""
    stride_px: int
    """Distance between two positions of it."""
    drops: list[list[float]]
    """For each position, by rows: the probability less the one with the patch hidden."""
    heat_png: Base64
    """The image with the drops as colours over it, a PNG."""
    feature_maps: list[FeatureMapSheet] | None = None
    """One sheet a layer, where `feature_maps=true` asked for them."""


class Neighbour(Answer):
    """A training image that looks alike to the model."""

    id: str
    """Its name in the data set."""
    class_name: str = Field(serialization_alias="class")
    """Its label."""
    distance: Annotated[float, WithJsonSchema({"type": "number", "minimum": 0, "maximum": 2})]
    """1 − cosine of the two embeddings: 0 the same direction, 2 opposite."""
    thumbnail: Base64
    """A small JPEG."""


class Neighbours(_Signed, _Classified):
    """The training images nearest to an image."""

    neighbours: list[Neighbour]
    """Nearest first."""


class InputContract(Answer):
    """What an image may be. A raw tensor has exactly height x width x channels bytes."""

    height: int
    """Of the model's input, in pixels; image files of any size are resized."""
    width: int
    """Of the model's input, in pixels."""
    channels: int
    """1 gray, 3 RGB."""
    mode: Literal["gray", "rgb"]
    """What image files are converted to."""
    content_types: list[str]
    """Accepted types of a body."""
    max_body_bytes: int
    """Largest body."""
    max_pixels: int
    """Most pixels of an image file."""
    max_batch: int
    """Most images in a batch."""


class Gap(Answer):
    """Accuracy on training images less accuracy on test images, in percentage points."""

    points: float | None = None
    """The gap."""
    low: float | None = None
    """Lower end of its 95 % interval."""
    high: float | None = None
    """Upper end of its 95 % interval, which the gate judges."""


class GateCheck(Check):
    """One limit and what was found."""


class Gate(Answer):
    """The certificate of the model."""

    verdict: Verdict
    """`pass`: every check passed. The server answers with no other model."""
    checks: list[GateCheck]
    """What was checked."""


class ModelCard(Answer):
    """The model that answers, what it takes and how well it did."""

    name: str
    """Registered model."""
    version: str
    """Its version."""
    receipt: Digest
    """Digest of its receipt."""
    package: Digest
    """Digest of its package: of every file that the server loaded."""
    classes: list[str]
    """Names, in the order of the model's outputs."""
    input: InputContract
    """What it takes."""
    metrics: dict[str, float | None]
    """Accuracies and expected calibration error (fractions) by name, such as `test_accuracy`."""
    gap: Gap
    """The overfitting gap."""
    gate: Gate
    """The certificate."""
    data: dict[str, Any]
    """Where the data set is from: source, revision and hash."""
    training_data: str
    """Digest of the split images that it was trained on."""
    code_revision: str
    """Of the code that trained it."""
    versions: dict[str, str]
    """Of what runs it: onnxruntime, numpy, pillow, python."""
    similar: Count
    """Training images that `/v1/similar` searches; 0: it answers 404."""


class ReceiptAnswer(Answer):
    """Everything that stands behind a prediction, complete without any other server."""

    receipt: dict[str, Any]
    """The receipt itself. The sha256 of its canonical JSON is its digest."""
    lineage: dict[str, dict[str, Any]]
    """Kind of artifact → the part of its manifest that its digest is over, with the digests of its inputs."""
    package: Digest
    """Digest of the package that holds it."""
