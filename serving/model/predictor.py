"""The packaged model: opens and checks a package, and computes answers from images."""

from __future__ import annotations

import json
import timeit
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gapgate.artifacts import LINEAGE, check_lineage, sha256_file
from gapgate.data.picture.opening import load_image, read_header
from gapgate.data.transform import Transform
from gapgate.errors import ArtifactError, GateError
from gapgate.evidence.sealed import seal
from gapgate.evidence.sealed.golden import check_golden
from gapgate.evidence.sealed.receipt import Receipt, verify
from gapgate.onnx.classifier import Classifier, softmax
from gapgate.onnx.embedding_index import EmbeddingIndex, Neighbour
from gapgate.onnx.inner_layers import InnerLayers
from gapgate.onnx.occlusion import Heat, occlusion
from serving.description.schema import Gate, ModelVersion, ReceiptAnswer

QUICK_S = 0.008
"""Longest time in seconds for which a network may block the event loop; longer calls run in a thread, which costs
0.2 ms."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """A packaged model, ready to answer. Calls from several threads at once are safe."""

    folder: Path
    digest: str
    """Digest of the package."""
    transform: Transform
    classifier: Classifier
    class_names: tuple[str, ...]
    model: ModelVersion
    receipt: str
    """Digest of the receipt, given with each prediction."""
    layers: InnerLayers
    index: EmbeddingIndex | None
    """Index of training images by embedding; None if the package has none."""
    certificate: Gate
    receipt_answer: ReceiptAnswer
    """Receipt with its lineage. It is kept, because the files may change after they were checked."""
    quick_images: int
    """Largest number of images that the network classifies within `QUICK_S`: 0, 1, 8 or 64."""

    @classmethod
    def load(cls, folder: Path) -> Predictor:
        """Open a package and check that it gives the same answers here as at packaging.

        Raises:
            ArtifactError: a file is missing or changed, the parts do not fit each other, or a golden image gets other
                logits than at packaging.
            GateError: the certificate in the folder does not pass the model.
        """
        # The digests first: no other file is parsed before it is known to be the one that was packaged.
        digest = seal.verify(folder)
        certificate = Gate.model_validate(_read_json(folder / "certificate.json"))
        if certificate.verdict != "pass":
            raise GateError(f"the certificate's verdict is {certificate.verdict}, not pass; package another model")
        registration = _read_json(folder / "registration.json")
        receipt, lineage = _read_lineage(folder, registration["receipt"])
        transform = Transform.from_file(folder / "transform.json")
        classifier = Classifier.load(folder / "model.onnx")
        class_names = tuple(_read_json(folder / "architecture.json")["class_names"])
        if len(class_names) != classifier.num_classes:
            raise ArtifactError(
                f"the model has {classifier.num_classes} logits and {len(class_names)} class names; package it again"
            )
        # It also runs the session for the first time, which is slower, so that no request has to.
        check_golden(folder, transform, classifier)
        index = folder / "similar"
        return cls(
            folder=folder,
            digest=digest,
            transform=transform,
            classifier=classifier,
            class_names=class_names,
            model=ModelVersion(name=registration["name"], version=str(registration["version"])),
            receipt=registration["receipt"],
            layers=InnerLayers.load(folder),
            index=EmbeddingIndex.open(index) if index.is_dir() else None,
            certificate=certificate,
            receipt_answer=ReceiptAnswer(receipt=receipt.model_dump(mode="json"), lineage=lineage, package=digest),
            quick_images=_quick_images(classifier),
        )

    def open(self, data: bytes, max_pixels: int) -> Image.Image:
        """Open an image file up to its size; `pixels` decodes it.

        Raises:
            ImageError: the file is no image, has a damaged header, or more pixels than `max_pixels` or the transform
                admit.
        """
        return read_header(data, max_pixels=min(max_pixels, self.transform.max_pixels))

    def pixels(self, image: Image.Image) -> NDArray[np.uint8]:
        """Decode an image from `open` to the network's input, (H, W, C) uint8.

        Raises:
            ImageError: the file is truncated or corrupt.
        """
        return self.transform.apply_to_image(load_image(image))

    def probabilities(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Classify images (N, H, W, C) uint8; return probabilities (N, num_classes) float32."""
        return softmax(self.classifier.logits(images))

    def ranked(self, probabilities: NDArray[np.float32], top_k: int) -> list[dict[str, float]]:
        """Return the `top_k` most probable classes with their probabilities, in descending order, for each row of
        (N, num_classes) float32."""
        # Stable: classes of equal probability keep the order of the outputs, so equal images get equal answers.
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]  # (N, top_k)
        values = probabilities[np.arange(len(best))[:, np.newaxis], best].tolist()  # `take_along_axis` takes 15 μs more
        names = self.class_names
        return [
            {names[index]: value for index, value in zip(indices, row, strict=True)}
            for indices, row in zip(best.tolist(), values, strict=True)
        ]

    def class_of(self, image: NDArray[np.uint8], wanted: str | None = None) -> tuple[str, float]:
        """Return a class of an image (H, W, C) uint8 with its probability: the wanted or the most probable one."""
        ranked = self.ranked(self.probabilities(image[np.newaxis]), len(self.class_names))[0]
        return next(iter(ranked.items())) if wanted is None else (wanted, ranked[wanted])

    def heat(self, image: NDArray[np.uint8], class_name: str, cancelled: Callable[[], bool]) -> Heat | None:
        """Return the occlusion heat map of an image (H, W, C) uint8 for a class; None once `cancelled()` is true."""
        class_index = self.class_names.index(class_name)
        return occlusion(self.classifier, image, class_index, fill=self.transform.fill, cancelled=cancelled)

    def nearest(self, image: NDArray[np.uint8], count: int) -> list[Neighbour]:
        """Return the `count` training images nearest to an image (H, W, C) uint8; the package must have an index."""
        assert self.index is not None
        return self.index.search(self.layers.embeddings(image[np.newaxis])[0], count)


def _quick_images(classifier: Classifier) -> int:
    """Measure how many images the network classifies within `QUICK_S`."""
    # Measured here and not packaged: it depends on this machine. The least of three, because other processes can only
    # make a run slower.
    quick = 0
    for count in (1, 8, 64):
        images = np.zeros((count, *classifier.image_shape), np.uint8)
        if min(timeit.repeat(partial(classifier.logits, images), number=1, repeat=3)) > QUICK_S:
            break
        quick = count
    return quick


def _read_lineage(folder: Path, digest: str) -> tuple[Receipt, dict[str, Any]]:
    """Read and check the receipt and the lineage.

    Raises:
        ArtifactError: the receipt is not the one with this `digest`, or the digests do not lead from it to these files.
    """
    try:
        receipt = verify(_read_json(folder / "receipt.json"), digest)
    except ValueError as error:
        raise ArtifactError(f"{error}; package the model again") from None
    lineage: dict[str, Any] = _read_json(folder / LINEAGE)
    check_lineage(lineage)
    for kind, found in receipt.artifacts.items():
        if lineage.get(kind, {}).get("digest") != found:
            raise ArtifactError(f"the receipt names the {kind} {found}, the lineage does not; package the model again")
    for kind in ("model", "certificate"):
        for name, sha256 in lineage.get(kind, {}).get("files", {}).items():
            # A file of that name is the package's own lineage, not the artifact's.
            if (folder / name).is_file() and name != LINEAGE and sha256_file(folder / name) != sha256:
                raise ArtifactError(f"{folder / name} is not the one of the {kind} in the lineage; package it again")
    return receipt, lineage


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        raise ArtifactError(f"{path} is missing; package the model again") from None
