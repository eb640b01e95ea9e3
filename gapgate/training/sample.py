"""A fixed sample of the validation images with the model's answers after an epoch, as a picture for the tracker."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gapgate.data.tiles import LIGHT, tile, whole_factor
from gapgate.text import percent, shortened
from gapgate.tracking import Tracker
from gapgate.training.batches import Batches
from gapgate.training.learner import Learner

KEY = "predictions on validation images"
NUM_IMAGES = 16
MAX_PICTURES = 10
"""Most pictures of a training; each has up to 100 kB."""
_COLUMNS = 8
_TILE_PX = (96, 128)
_GAP_PX, _TEXT_PX, _NAME_CHARS = 8, 12, 15
_RIGHT, _WRONG = (26, 127, 55), (180, 35, 24)


def is_shown(epoch: int, epochs: int) -> bool:
    """True for the first and the last of `epochs` epochs, and for every n-th between, `MAX_PICTURES` at most."""
    every = -(-epochs // (MAX_PICTURES - 1))
    return epoch in (1, epochs) or epoch % every == 0


def show(learner: Learner, data: Batches, class_names: Sequence[str], epoch: int, tracker: Tracker) -> None:
    """Give the tracker the sample of the validation split `data`, as the model that would be kept answers it now."""
    if not len(data):
        return
    # Evenly over the split, which has the order of the source: class after class.
    places = torch.linspace(0, len(data) - 1, min(NUM_IMAGES, len(data))).long()
    ((images, labels),) = data.read([places])
    model = learner.kept_model.eval()
    with torch.inference_mode():
        probabilities = torch.softmax(model(learner.normalised(images)).float(), dim=1)  # (n, num_classes)
    picture = sheet(images.cpu().numpy(), labels.cpu().numpy(), probabilities.cpu().numpy(), class_names)
    tracker.drawing(picture, KEY, epoch)


def sheet(
    images: NDArray[np.uint8], labels: NDArray[np.int64], probabilities: NDArray[np.float32], class_names: Sequence[str]
) -> Image.Image:
    """Draw images (n, H, W, C) uint8 with what was said of each, in green where it is the label, and what the label is
    where it is not; probabilities are (n, num_classes)."""
    height, width = images.shape[1:3]
    side = min(max(height, width) * whole_factor(max(height, width), _TILE_PX[0]), _TILE_PX[1])
    font, line = ImageFont.load_default(_TEXT_PX), _TEXT_PX + 4
    step_x, step_y = side + _GAP_PX, side + 2 * line + _GAP_PX
    columns, rows = min(_COLUMNS, len(images)), -(-len(images) // _COLUMNS)
    drawn = Image.new("RGB", (columns * step_x + _GAP_PX, rows * step_y + _GAP_PX), LIGHT.paper)
    draw = ImageDraw.Draw(drawn)
    for place, (pixels, label, row) in enumerate(zip(images, labels, probabilities, strict=True)):
        left, top = _GAP_PX + place % _COLUMNS * step_x, _GAP_PX + place // _COLUMNS * step_y
        drawn.paste(tile(pixels, side, side), (left, top))
        said = int(row.argmax())
        colour = _RIGHT if said == label else _WRONG
        text = f"{shortened(class_names[said], _NAME_CHARS)}, {percent(float(row[said]), 0)}"
        draw.text((left, top + side + 2), text, colour, font)
        if said != label:
            draw.text(
                (left, top + side + 2 + line), f"is {shortened(class_names[label], _NAME_CHARS)}", LIGHT.ink, font
            )
    return drawn
