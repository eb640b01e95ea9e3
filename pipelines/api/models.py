"""`gapgate.load`: a packaged model that answers in this process."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, overload

from gapgate.errors import DataError, ImageError, SettingsError
from gapgate.text import shortened

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from serving.model.predictor import Predictor

    ImageLike: TypeAlias = str | os.PathLike[str] | bytes | Image | NDArray[np.uint8]
else:
    ImageLike = Any

_BATCH_SIZE = 64
_NAME = "gapgate"
_IMAGE = "a path, the bytes of a file, a PIL image or an array of uint8"
_WANTED = "models:/NAME@ALIAS, models:/NAME/VERSION, a version of the model gapgate, or a .bento file"


@dataclass(frozen=True, slots=True)
class Prediction:
    """The answer to one image."""

    class_name: str
    """The most probable class."""
    confidence: float
    """Its probability, a fraction."""
    probabilities: Mapping[str, float]
    """Class → probability, the most probable first; together 1."""
    model: str
    """Name of the registered model that answered."""
    version: str
    """Version of that model."""
    receipt: str
    """Digest of the model's receipt, `sha256:…`: `gapgate receipt` shows the data, code and evidence behind it."""


@dataclass(frozen=True, slots=True)
class Model:
    """A packaged model that passed the gate; `gapgate.load` opens one. Threads may share it."""

    name: str
    """Name of the registered model."""
    version: str
    """Its version."""
    class_names: tuple[str, ...]
    """Names of the classes, in the order of the network's outputs."""
    image_shape: tuple[int, int, int]
    """(H, W, C) of the network's input, to which every image is resized as in training."""
    receipt: str
    """Digest of its receipt, `sha256:…`."""
    _predictor: Predictor = field(repr=False, compare=False)

    @overload
    def predict(self, images: ImageLike) -> Prediction: ...  # type: ignore[overload-overlap]  # a str is a path
    @overload
    def predict(self, images: Sequence[ImageLike]) -> list[Prediction]: ...
    def predict(self, images: Any) -> Prediction | list[Prediction]:
        """Classify one image, or a sequence of them; the numbers are those of the service.

        Args:
            images: the path of an image file, its bytes, a PIL image, or an array (H, W) or (H, W, C) of uint8 with
                C = 1 gray, 2 gray and alpha, 3 RGB or 4 RGBA, each of any size; or a sequence of these, which an array
                (N, H, W, C) is too.

        Returns:
            A `Prediction`; for a sequence a list of them, in its order.

        Raises:
            ImageError: an image is damaged, or of a format that training does not read.
            DataError: something is no image, or a path leads to no file. Of a sequence it names the place, from 0.
        """
        if not _is_many(images):
            return next(self._answers([images], has_places=False))
        return list(self._answers(images, has_places=True))

    def _answers(self, images: Iterable[Any], *, has_places: bool) -> Iterator[Prediction]:
        import numpy as np

        batch: list[NDArray[np.uint8]] = []
        for place, image in enumerate(images):
            try:
                batch.append(self._pixels(image))
            except ImageError as error:
                name = f"{error.reason}" if isinstance(image, bytes) else f"{_shown(image)}: {error.reason}"
                reason = f"image {place}: {name}" if has_places else name
                raise ImageError(error.kind, reason, error.remedy) from None
            except DataError as error:
                raise DataError(f"image {place}: {error}" if has_places else str(error)) from None
            # Batch by batch, so that memory holds no more of a long sequence.
            if len(batch) == _BATCH_SIZE:
                yield from self._classified(np.stack(batch))
                batch = []
        if batch:
            yield from self._classified(np.stack(batch))

    def _pixels(self, image: Any) -> NDArray[np.uint8]:
        """An image as the network's input, (H, W, C) uint8."""
        from PIL.Image import Image

        from gapgate.data.picture.opening import of_picture
        from serving.client.prediction import decoded, read

        transform = self._predictor.transform
        if isinstance(image, Image):
            return transform.apply_to_image(of_picture(image))
        if isinstance(image, str | os.PathLike):
            content = read(Path(image))
            if isinstance(content, str):
                raise DataError(f"{_shown(image)}: {content}")
            image = content
        if isinstance(image, bytes | bytearray | memoryview):
            return decoded(self._predictor, bytes(image))
        # NumPy's protocol, which tensors of other libraries have too.
        if not hasattr(image, "__array__"):
            raise DataError(f"an object of type {type(image).__name__} is no image; give {_IMAGE}, or a list of these")
        return transform.apply_to_array(image)

    def _classified(self, pixels: NDArray[np.uint8]) -> Iterator[Prediction]:
        """Classify (N, H, W, C) uint8."""
        predictor = self._predictor
        for ranked in predictor.ranked(predictor.probabilities(pixels), len(self.class_names)):
            name, confidence = next(iter(ranked.items()))
            yield Prediction(name, confidence, ranked, self.name, self.version, self.receipt)


def load(source: str | int | os.PathLike[str] = f"models:/{_NAME}@champion") -> Model:
    """Open a packaged model, verified as `gapgate predict` and the service do: each byte against its digests, the
    gate's verdict, the lineage, and the golden images' answers.

    Args:
        source: `models:/NAME@ALIAS` or `models:/NAME/VERSION` in the registry of the workspace or of
            MLFLOW_TRACKING_URI; a version of the model `gapgate`, such as `3`; or the path of a `.bento` file.

    Raises:
        RegistryError: there is no such model, alias or version, or it was not packaged.
        ArtifactError: the package is damaged, or not the one that was registered.
        GateError: the gate did not pass the model.
        TrackingError: the registry does not answer.
        SettingsError: the text names none of these.
    """
    from gapgate.evidence.sealed.archive import unpacked_model
    from serving.model.predictor import Predictor

    if not isinstance(source, str | int | os.PathLike):
        raise SettingsError(f"{shortened(repr(source), 60)} names no model; give {_WANTED}")
    archive = _archive(os.fspath(source) if isinstance(source, os.PathLike) else str(source))
    # The files go at the end of the block: what an answer needs is in memory, or mapped.
    with unpacked_model(archive) as folder:
        predictor = Predictor.load(folder)
    return Model(
        name=predictor.model.name,
        version=predictor.model.version,
        class_names=predictor.class_names,
        image_shape=predictor.classifier.image_shape,
        receipt=predictor.receipt,
        _predictor=predictor,
    )


def _archive(source: str) -> Path:
    from pipelines.local.bentos import bento_of
    from serving.model.registry import ModelUri

    if source.startswith("models:/"):
        return bento_of(ModelUri.parse(source))
    if source.isdecimal():
        return bento_of(ModelUri.parse(f"models:/{_NAME}/{source}"))
    if source.endswith(".bento") or Path(source).is_file():
        return Path(source)
    raise SettingsError(f"{source!r} names no model; give {_WANTED}")


def _is_many(images: Any) -> bool:
    if hasattr(images, "ndim"):
        return bool(images.ndim == 4)
    return isinstance(images, Sequence) and not isinstance(images, str | bytes | bytearray | memoryview)


def _shown(image: Any) -> str:
    return (os.fsdecode(image) or "''") if isinstance(image, str | os.PathLike) else "the image"
