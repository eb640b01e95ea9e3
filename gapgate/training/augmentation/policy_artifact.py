"""The Policy artifact: the operations applied to real samples, drawn as a sheet and, if asked for, written as arrays.

policy.json              {"operations": as in the settings, "seed"}
preview.png              a row for each sample: the original, then several random augmentations of it
materialized.npy         (k · n_train, H, W, C) uint8: k copies of the training images, one copy after the other
materialized_labels.npy  (k · n_train,) int32, or (k · n_train, num_classes) float32 where images are mixed
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Generator, Tensor

from gapgate.artifacts import write_json
from gapgate.data.splits import Splits
from gapgate.data.tiles import tile, whole_factor
from gapgate.network.modules import to_float
from gapgate.settings.sections import AugmentSettings
from gapgate.text import percent
from gapgate.tracking import NullTracker, Tracker
from gapgate.training.augmentation.operations import Augmenter, compile_policy
from gapgate.training.augmentation.policy import Cutmix, Mixup, Operation

_NUM_DRAWS = 7
_TILE_PX = 112
"""Smallest side of a tile; smaller images are enlarged by a whole factor, so that their pixels stay square."""
_GAP_PX, _LABEL_PX, _MARGIN_PX = 6, 18, 16
_BLOCK_BYTES = 16 * 2**20
"""Bytes of uint8 pixels in a block of `materialize`; a few float copies of a block are in memory at a time."""
_INK, _FAINT, _PAPER = (32, 33, 36), (110, 114, 120), (255, 255, 255)


def write_policy(settings: AugmentSettings, splits: Splits, out_dir: Path, tracker: Tracker | None = None) -> None:
    """Write the files of a Policy artifact into `out_dir`; equal settings and splits give equal bytes."""
    operations = [operation.model_dump(mode="json") for operation in settings.operations]
    write_json(out_dir / "policy.json", {"operations": operations, "seed": settings.seed})
    augment = compile_policy(settings.operations, len(splits.class_names))
    preview_sheet(settings, splits, augment).save(out_dir / "preview.png")
    if settings.materialize:
        _materialize(settings, splits, augment, out_dir, tracker or NullTracker())


def preview_sheet(settings: AugmentSettings, splits: Splits, augment: Augmenter) -> Image.Image:
    """Draw `preview_images` training samples of as many classes as possible, a row each, the original first."""
    rows = _samples(splits, settings.preview_images)
    images = splits.images[rows]
    targets = torch.from_numpy(splits.labels[rows].astype(np.int64))
    columns, captions = [images], [_captions(targets, splits.class_names)]
    generator = Generator().manual_seed(settings.seed)
    for _ in range(_NUM_DRAWS if settings.operations else 0):
        drawn, drawn_targets = augment(_floats(images), targets, generator)
        columns.append(_pixels(drawn))
        captions.append(_captions(drawn_targets, splits.class_names))
    return _draw_sheet(_title(settings), columns, captions)


def _samples(splits: Splits, count: int) -> NDArray[np.int64]:
    """Choose `count` rows of the training split, one of each class in turn; within a class in the split's order."""
    rows = splits.rows("train")
    labels = splits.labels[rows]
    turn = np.empty(len(rows), dtype=np.int64)  # number of earlier images of the same class
    for label in np.unique(labels):
        turn[labels == label] = np.arange(np.count_nonzero(labels == label))
    # By turn, then by class: lexsort takes its last key first.
    return rows[np.lexsort((labels, turn))[:count]]


def _materialize(
    settings: AugmentSettings, splits: Splits, augment: Augmenter, out_dir: Path, tracker: Tracker
) -> None:
    rows = splits.rows("train")
    total = settings.materialize * len(rows)
    # On the disk at once: k copies of the training images may be more than memory holds.
    images = np.lib.format.open_memmap(
        out_dir / "materialized.npy", mode="w+", dtype=np.uint8, shape=(total, *splits.image_shape)
    )
    mixed = any(isinstance(operation, Mixup | Cutmix) for operation in settings.operations)
    labels = np.lib.format.open_memmap(
        out_dir / "materialized_labels.npy",
        mode="w+",
        dtype=np.float32 if mixed else np.int32,
        shape=(total, len(splits.class_names)) if mixed else (total,),
    )
    generator = Generator().manual_seed(settings.seed)
    # Two images at least, since Mixup and Cutmix take the partner from the same block.
    block = max(2, _BLOCK_BYTES // int(np.prod(splits.image_shape)))
    for first in range(0, total, len(rows)):
        for start in range(0, len(rows), block):
            chosen = rows[start : start + block]
            targets = torch.from_numpy(splits.labels[chosen].astype(np.int64))
            drawn, drawn_targets = augment(_floats(splits.images[chosen]), targets, generator)
            written = slice(first + start, first + start + len(chosen))
            images[written], labels[written] = _pixels(drawn), drawn_targets.numpy()
            tracker.progress(written.stop, total, "images")
    images.flush()
    labels.flush()


def _floats(images: NDArray[np.uint8]) -> Tensor:
    """Convert images (N, H, W, C) uint8 to (N, C, H, W) float32 in 0..1."""
    return to_float(torch.from_numpy(np.ascontiguousarray(images)))


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    """Convert images (N, C, H, W) float32 in 0..1 to (N, H, W, C) uint8, rounded."""
    pixels: NDArray[np.uint8] = (images * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
    return pixels


def _captions(targets: Tensor, class_names: list[str]) -> list[str]:
    """Write the caption of each target: `cat`, or `cat 70% + dog 30%` for a mixture."""
    if not targets.is_floating_point():
        return [class_names[label] for label in targets.tolist()]
    captions = []
    for probabilities in targets.tolist():
        shares = sorted(((share, name) for share, name in zip(probabilities, class_names, strict=True)), reverse=True)
        # A smaller share would be written as 0%.
        parts = [(share, name) for share, name in shares if share >= 0.005]
        captions.append(
            " + ".join(f"{name} {percent(share, 0)}" for share, name in parts) if len(parts) > 1 else parts[0][1]
        )
    return captions


def _title(settings: AugmentSettings) -> list[str]:
    if not settings.operations:
        return ["No augmentation: training sees every image as it is."]
    return ["Augmentation, applied in this order:", *map(_in_words, settings.operations)]


def _in_words(operation: Operation) -> str:
    limits = operation.model_dump(exclude={"type", "probability"})
    return ", ".join([operation.type, *(f"{name} {value}" for name, value in limits.items())]) + (
        f", probability {operation.probability:g}"
    )


def _draw_sheet(title: list[str], columns: list[NDArray[np.uint8]], captions: list[list[str]]) -> Image.Image:
    """Draw tiles in a grid, each with its caption below, under the lines of `title`."""
    count, height, width, _ = columns[0].shape
    factor = whole_factor(max(height, width), _TILE_PX)
    tile_width, tile_height = width * factor, height * factor
    top = _MARGIN_PX + _LABEL_PX * (len(title) + 1) + _GAP_PX
    step_x, step_y = tile_width + _GAP_PX, tile_height + _LABEL_PX + _GAP_PX
    bold, plain = ImageFont.load_default(14), ImageFont.load_default(12)
    # The first line is drawn at size 14 instead of 12, so it is wider than measured here.
    text_width = max(int(plain.getlength(line) * 1.2) for line in title)
    size = (2 * _MARGIN_PX + max(step_x * len(columns), text_width), top + step_y * count + _MARGIN_PX)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    for line, text in enumerate(title):
        draw.text((_MARGIN_PX, _MARGIN_PX + line * _LABEL_PX), text, fill=_INK, font=plain if line else bold)
    for column, (images, texts) in enumerate(zip(columns, captions, strict=True)):
        left = _MARGIN_PX + column * step_x
        heading = "original" if column == 0 else f"draw {column}"
        draw.text((left, top - _LABEL_PX), heading, fill=_FAINT, font=plain)
        for row, (image, text) in enumerate(zip(images, texts, strict=True)):
            y = top + row * step_y
            sheet.paste(tile(image, tile_width, tile_height), (left, y))
            draw.text((left, y + tile_height + 1), _fitted(text, plain, tile_width), fill=_INK, font=plain)
    return sheet


def _fitted(text: str, font: Any, width: int) -> str:
    """Shorten `text` with an ellipsis to `width` pixels."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "…") > width:
        text = text[:-1]
    return text + "…"
