"""Models of every JSON body that the server sends; `serving.description.openapi` describes them, nothing else defines
them.

Each docstring here is a description in `/docs.json` and on the page `/docs`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema

from gapgate.evidence.sealed.certificate import Check, Verdict

# These bounds are only described. pydantic does not check them: the figures are the server's own, and a check would
# cost time in each answer.
Fraction = Annotated[float, WithJsonSchema({"type": "number", "minimum": 0, "maximum": 1})]
Digest = Annotated[str, WithJsonSchema({"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"})]
Base64 = Annotated[str, WithJsonSchema({"type": "string", "contentEncoding": "base64"})]
Count = Annotated[int, WithJsonSchema({"type": "integer", "minimum": 0})]


class Answer(BaseModel):
    """The base of every body the server sends. A field that is null may be left out."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class ModelVersion(Answer):
    """The model that answered, as the registry names it."""

    name: str
    """Name of the registered model."""
    version: str
    """Version of the registered model."""


class Problem(Answer):
    """The reason why there is no answer."""

    code: str
    """A stable word for programs, such as `invalid_image`."""
    message: str
    """One line for people: the value, the limit, the remedy."""
    request_id: str
    """The request's `X-Request-ID`; a new one if it had none."""


class ErrorAnswer(Answer):
    """The body of every answer from 400 up."""

    error: Problem
    """The reason, as a code and as a message."""


class Health(Answer):
    """State of the server: live or ready."""

    status: Literal["live", "ready"]
    """`live`: the process answers. `ready`: the model has reproduced the logits of the golden images in its package."""


class _Classified(Answer):
    """The class of one image."""

    class_name: str = Field(serialization_alias="class")
    """The most probable class."""
    confidence: Fraction
    """Probability of that class, a fraction."""


class _Ranked(_Classified):
    """The class of one image and the next most probable ones."""

    probabilities: dict[str, Fraction]
    """The most probable classes with their probabilities, in descending order."""


class _Placed(Answer):
    """One image of a batch."""

    index: Count
    """Place of the image in the request, from 0."""
    filename: str | None = None
    """File name of the image in the form."""


class _Signed(Answer):
    """The model and the receipt behind an answer."""

    model: ModelVersion
    """The model that answered."""
    receipt: Digest
    """Digest of the receipt: `GET /v1/receipts/{digest}` leads to the run, the data and the settings."""
    request_id: str
    """The request's `X-Request-ID`; a new one if it had none."""


class Prediction(_Signed, _Ranked):
    """The answer to one image."""


class BatchPrediction(_Ranked, _Placed):
    """The answer to one image of a batch."""


class BatchFailure(_Placed):
    """The reason why one image of a batch has no answer; the other images have theirs."""

    error: Problem
    """The reason, as a code and as a message."""


class BatchAnswer(_Signed):
    """The answers to several images: one for each image, in the order of the request."""

    results: list[BatchPrediction | BatchFailure]
    """A prediction or a failure for each image, in the order of the request."""


class FeatureMapSheet(Answer):
    """The feature maps that one layer of the network computes for the image."""

    layer: str
    """Number and kind of the layer, such as `1 convolution`."""
    shape: Annotated[
        tuple[int, int, int],
        WithJsonSchema({"type": "array", "items": {"type": "integer", "minimum": 1}, "minItems": 3, "maxItems": 3}),
    ]
    """Number of maps, and height and width of each in pixels."""
    columns: Annotated[int, WithJsonSchema({"type": "integer", "minimum": 1})]
    """Number of maps in one row of the sheet."""
    png: Base64
    """All maps side by side as a gray PNG, each scaled to 0..255."""


class Explanation(_Signed, _Classified):
    """The pixels that mattered for the class of an image."""

    class_name: str = Field(serialization_alias="class")
    """The class that is explained: the one asked for, or the most probable."""
    confidence: Fraction
    """Probability of that class for the whole image, a fraction."""
    method: Literal["occlusion"]
    """`occlusion`: one patch of the image after another is hidden; if the probability falls, its pixels mattered."""
    patch_px: int
    """Side of the square patch, in pixels of the model's input."""
    stride_px: int
    """Distance between two positions of the patch, in pixels of the model's input."""
    drops: list[list[float]]
    """Fall of the probability when the patch at each position is hidden: a list of rows, from the top left."""
    heat_png: Base64
    """The image with the drops as colours over it, as a PNG."""
    feature_maps: list[FeatureMapSheet] | None = None
    """One sheet for each layer, if the request has `feature_maps=true`."""


class Neighbour(Answer):
    """A training image that is similar by the model's embedding."""

    id: str
    """Name of the image in the data set."""
    class_name: str = Field(serialization_alias="class")
    """Class of the image in the data set."""
    distance: Annotated[float, WithJsonSchema({"type": "number", "minimum": 0, "maximum": 2})]
    """Cosine distance (1 − cosine) of the two embeddings: 0 is the same direction, 2 the opposite one."""
    thumbnail: Base64
    """The image as a small JPEG."""


class Neighbours(_Signed, _Classified):
    """The training images most similar to an image."""

    neighbours: list[Neighbour]
    """The training images, the most similar one first."""
    usual_distance: float | None = None
    """Distance within which 99 % of the training images have their nearest other one; null in older packages."""
    is_far: bool = False
    """True if the image is farther than that from all training images: it may be of no class that the model knows, and
    its confidence says little then."""


class InputContract(Answer):
    """The images that the server accepts. A raw tensor has exactly height x width x channels bytes."""

    height: int
    """Height of the model's input in pixels; image files of any size are resized to it."""
    width: int
    """Width of the model's input in pixels."""
    channels: int
    """Number of channels: 1 for gray, 3 for RGB."""
    mode: Literal["gray", "rgb"]
    """Colour mode that image files are converted to."""
    content_types: list[str]
    """Content types that a body may have."""
    max_body_bytes: int
    """Largest body in bytes."""
    max_pixels: int
    """Most pixels of an image file."""
    max_batch: int
    """Most images in a batch."""


class Gap(Answer):
    """Accuracy on training images less accuracy on test images, in percentage points."""

    points: float | None = None
    """The measured gap."""
    low: float | None = None
    """Lower end of the gap's 95 % interval."""
    high: float | None = None
    """Upper end of the gap's 95 % interval, which the gate compares with the limit."""


class GateCheck(Check):
    """One limit of the gate, the measured figure and the verdict on it."""


class Gate(Answer):
    """The certificate of the model: the gate's verdict and its checks."""

    verdict: Verdict
    """`pass`: every check passed. The server serves no model with another verdict."""
    checks: list[GateCheck]
    """The checks, one for each limit."""
    evidence: str = ""
    """The images that the figures stand on, in words: a test split, or the folds of a cross-validation."""


class ModelCard(ModelVersion):
    """The model that answers, its input and its measured quality."""

    receipt: Digest
    """Digest of the model's receipt."""
    package: Digest
    """Digest of the model's package, over every file that the server loaded."""
    classes: list[str]
    """Names of the classes, in the order of the model's outputs."""
    input: InputContract
    """The images that the server accepts."""
    metrics: dict[str, float | None]
    """Accuracies and expected calibration error (fractions) by name, such as `test_accuracy`."""
    gap: Gap
    """The overfitting gap with its interval."""
    gate: Gate
    """The certificate of the model."""
    data: dict[str, Any]
    """Origin of the data set: source, revision and hash."""
    training_data: str
    """Digest of the splits that the model was trained on."""
    code_revision: str
    """Revision of the code that trained the model."""
    versions: dict[str, str]
    """Versions of the software that runs the model: onnxruntime, numpy, pillow, python."""
    similar: Count
    """Number of training images that `/v1/similar` searches; with 0 that route answers 404."""


class ReceiptAnswer(Answer):
    """The whole evidence behind a prediction; no other server is needed to read it."""

    receipt: dict[str, Any]
    """The receipt itself. Its digest is the sha256 of its canonical JSON."""
    lineage: dict[str, dict[str, Any]]
    """Kind of artifact → the part of its manifest that its digest covers, with the digests of its inputs."""
    package: Digest
    """Digest of the package that holds the receipt."""
    run_url: str | None = None
    """Page of the run in MLflow; null where the server does not know MLflow's address (`GAPGATE_MLFLOW_URL`)."""
    report_url: str | None = None
    """Report of the run, an HTML file; null as `run_url` is."""
