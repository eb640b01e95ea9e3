"""Augmentation: batch → batch functions on (N, C, H, W) float32 in 0..1, before normalisation.

Every function draws for each image on its own from the generator it is given, which lives on the images' device, and
leaves its input as it was. Pixels that come in from outside the image are 0 (black).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby
from typing import Any, TypeAlias

import torch
from torch import Generator, Tensor
from torch.nn import functional

from gapgate.training.augmentation import policy
from gapgate.training.augmentation.policy import Operation

Augmenter: TypeAlias = Callable[[Tensor, Tensor, Generator], tuple[Tensor, Tensor]]
"""Function of (images (N, C, H, W) float32 in 0..1, targets, generator) that returns (images, targets). Targets are
(N,) int64 classes or (N, K) float32 probabilities; a policy that mixes images returns probabilities for both."""

_GEOMETRIC = (policy.Flip, policy.Translate, policy.Rotate, policy.Shear, policy.Scale)
_RESAMPLING = (policy.Rotate, policy.Shear, policy.Scale)
_MIN_ERASED_ASPECT = 0.3
"""Least aspect ratio (height over width) of an erased rectangle; the largest is its inverse (Zhong et al. 2017)."""


def compile_policy(operations: Sequence[Operation], num_classes: int) -> Augmenter:
    """Build one function that applies `operations` in their order.

    Neighbouring geometric operations become one affine map and one bilinear resampling if one of them resamples
    anyway: it is faster, and the image is blurred only once. Flips and translations by themselves move pixels exactly.
    """
    steps = [step for _, run in groupby(operations, _is_geometric) for step in _steps(list(run), num_classes)]

    def augment(images: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        for step in steps:
            images, targets = step(images, targets, generator)
        return images, targets

    return augment


def flip(images: Tensor, generator: Generator, spec: policy.Flip) -> Tensor:
    """Mirror some images."""
    flipped = images.flip(3 if spec.axis == "horizontal" else 2)
    return torch.where(_drawn(images, generator, spec), flipped, images)


def translate(images: Tensor, generator: Generator, spec: policy.Translate) -> Tensor:
    """Shift by a whole number of pixels, drawn uniformly up to `max_fraction` of the side (rounded half up)."""
    count, _, height, width = images.shape
    reach_y, reach_x = (math.floor(spec.max_fraction * side + 0.5) for side in (height, width))
    drawn = _drawn(images, generator, spec).view(-1)
    down = torch.where(drawn, _whole(count, reach_y, generator), 0)
    right = torch.where(drawn, _whole(count, reach_x, generator), 0)
    # Every shift is a window of the padded image, and all windows are one view without copies. Indexing it copies only
    # the chosen window of each image; a loop over the images would launch a kernel for each.
    padded = functional.pad(images, (reach_x, reach_x, reach_y, reach_y))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # (N, C, 2 reach_y + 1, 2 reach_x + 1, H, W), a view
    every = torch.arange(count, device=images.device)
    return windows[every, :, reach_y - down, reach_x - right]


def warp(images: Tensor, generator: Generator, specs: Sequence[Operation]) -> Tensor:
    """Apply geometric operations as one affine map (Jaderberg et al. 2015), bilinear, with black outside."""
    unchanged = torch.eye(3, device=images.device)
    source = unchanged.expand(len(images), 3, 3)  # a matrix for each image
    for spec in specs:
        drawn = _drawn(images, generator, spec).view(-1, 1, 1)
        # The matrices lead from result to source, the inverse direction, so the first operation stands leftmost:
        # (second ∘ first)⁻¹ = first⁻¹ · second⁻¹.
        source = source @ torch.where(drawn, _MATRICES[type(spec)](images, generator, spec), unchanged)
    return resample(images, source)


def resample(images: Tensor, source: Tensor) -> Tensor:
    """Take each pixel (x, y) of the result from the point `source` @ (x, y, 1) of the image.

    `source` is (N, 3, 3); coordinates are pixels from the image's centre.
    """
    height, width = images.shape[2:]
    # grid_sample measures in half sides, −1..1 from edge to edge with align_corners=False, so the map M in pixels is
    # D⁻¹ M D there, with D = diag(width / 2, height / 2, 1).
    half = torch.tensor([width / 2, height / 2, 1.0], device=images.device)
    grid = functional.affine_grid((source * half / half[:, None])[:, :2], list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def brightness(images: Tensor, generator: Generator, spec: policy.Brightness) -> Tensor:
    """Add a constant, clipped to 0..1."""
    change = _uniform(images, generator, -spec.max_change, spec.max_change)
    return torch.where(_drawn(images, generator, spec), (images + change).clamp(0, 1), images)


def contrast(images: Tensor, generator: Generator, spec: policy.Contrast) -> Tensor:
    """Scale the distance from the image's mean, clipped to 0..1."""
    factor = _uniform(images, generator, 1 - spec.max_change, 1 + spec.max_change)
    mean = images.mean((1, 2, 3), keepdim=True)  # (N, 1, 1, 1)
    return torch.where(_drawn(images, generator, spec), (mean + factor * (images - mean)).clamp(0, 1), images)


def erase(images: Tensor, generator: Generator, spec: policy.Erase) -> Tensor:
    """Blacken a rectangle of at most `max_area`, its aspect ratio drawn log-uniformly from 0.3 to 1 / 0.3."""
    height, width = images.shape[2:]
    area = _uniform(images, generator, 0, spec.max_area) * height * width
    aspect = _uniform(images, generator, math.log(_MIN_ERASED_ASPECT), -math.log(_MIN_ERASED_ASPECT)).exp()
    # height · width = area and height / width = aspect.
    box_height = (area * aspect).sqrt().floor().clamp(max=height)
    box_width = (area / aspect).sqrt().floor().clamp(max=width)
    top = (_uniform(images, generator, 0, 1) * (height - box_height + 1)).floor()
    left = (_uniform(images, generator, 0, 1) * (width - box_width + 1)).floor()
    inside = _rectangle(images, top, left, top + box_height, left + box_width)  # (N, 1, H, W)
    return torch.where(_drawn(images, generator, spec) & inside, 0.0, images)


def mixup(images: Tensor, targets: Tensor, generator: Generator, spec: policy.Mixup) -> tuple[Tensor, Tensor]:
    """Blend each image and its target, (N, K), with another image of the batch and its target."""
    kept = torch.where(_drawn(images, generator, spec), _beta(images, generator, spec.alpha), 1.0)
    other = torch.randperm(len(images), generator=generator, device=images.device)
    return torch.lerp(images[other], images, kept), torch.lerp(targets[other], targets, kept.view(-1, 1))


def cutmix(images: Tensor, targets: Tensor, generator: Generator, spec: policy.Cutmix) -> tuple[Tensor, Tensor]:
    """Paste a rectangle of another image of the batch; the targets, (N, K), mix by the pasted share of the pixels."""
    height, width = images.shape[2:]
    # A share s of the area is √s of each side (Yun et al. 2019).
    side = (1 - _beta(images, generator, spec.alpha)).sqrt()  # (N, 1, 1, 1)
    middle_y, middle_x = (_uniform(images, generator, 0, size) for size in (height, width))
    top, bottom = ((middle_y + sign * side * height / 2).round().clamp(0, height) for sign in (-1, 1))
    left, right = ((middle_x + sign * side * width / 2).round().clamp(0, width) for sign in (-1, 1))
    pasted = _rectangle(images, top, left, bottom, right) & _drawn(images, generator, spec)  # (N, 1, H, W)
    other = torch.randperm(len(images), generator=generator, device=images.device)
    # From the pixels that were pasted, not from the drawn share: a rectangle at the edge is cut off.
    kept = 1 - pasted.float().mean((2, 3))  # (N, 1)
    return torch.where(pasted, images[other], images), torch.lerp(targets[other], targets, kept)


def _is_geometric(spec: Operation) -> bool:
    return isinstance(spec, _GEOMETRIC)


def _steps(run: list[Operation], num_classes: int) -> list[Augmenter]:
    """Build the steps for consecutive operations that are all geometric, or none of them."""
    if any(isinstance(spec, _RESAMPLING) for spec in run):
        return [_on_images(partial(warp, specs=run))]
    return [_step(spec, num_classes) for spec in run]


def _step(spec: Operation, num_classes: int) -> Augmenter:
    if isinstance(spec, policy.Mixup | policy.Cutmix):
        mix: Callable[..., tuple[Tensor, Tensor]] = mixup if isinstance(spec, policy.Mixup) else cutmix

        def apply(images: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
            return mix(images, soft_targets(targets, num_classes), generator, spec)

        return apply
    return _on_images(partial(_PIXELWISE[type(spec)], spec=spec))


def _on_images(change: Callable[[Tensor, Generator], Tensor]) -> Augmenter:
    def apply(images: Tensor, targets: Tensor, generator: Generator) -> tuple[Tensor, Tensor]:
        return change(images, generator), targets

    return apply


def soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Turn classes (N,) int64 into probabilities (N, num_classes) float32; probabilities stay as they are."""
    if targets.is_floating_point():
        return targets
    return functional.one_hot(targets, num_classes).float()


def _drawn(images: Tensor, generator: Generator, spec: Operation) -> Tensor:
    """Draw the images that the operation changes, (N, 1, 1, 1) bool."""
    # A mask, not the list of the drawn images: a GPU would have to report the list's length to the CPU in every step.
    return _uniform(images, generator, 0, 1) < spec.probability


def _uniform(images: Tensor, generator: Generator, low: float, high: float) -> Tensor:
    """Draw one number in low..high for each image, (N, 1, 1, 1) float32."""
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator, device=images.device)


def _whole(count: int, reach: int, generator: Generator) -> Tensor:
    """Draw whole numbers in −reach..reach, (N,) int64."""
    return torch.randint(-reach, reach + 1, (count,), generator=generator, device=generator.device)


def _beta(images: Tensor, generator: Generator, alpha: float) -> Tensor:
    """Draw from Beta(alpha, alpha) for each image, (N, 1, 1, 1), without rejection.

    Devroye 1996, "Random variate generation in one line of code".
    """
    # torch.distributions.Beta takes no generator, so its draws would depend on what else uses the global one.
    radius = _uniform(images, generator, 0, 1) ** (-1 / alpha) - 1
    cosine = torch.cos(2 * math.pi * _uniform(images, generator, 0, 1))
    return 0.5 + 0.5 * cosine.sign() / torch.sqrt(1 + 1 / (radius * cosine**2))


def _rectangle(images: Tensor, top: Tensor, left: Tensor, bottom: Tensor, right: Tensor) -> Tensor:
    """Mark the pixels inside a rectangle, (N, 1, H, W) bool; borders are (N, 1, 1, 1), bottom and right exclusive."""
    rows = torch.arange(images.shape[2], device=images.device)[:, None]
    columns = torch.arange(images.shape[3], device=images.device)
    return (rows >= top) & (rows < bottom) & (columns >= left) & (columns < right)


def _affine(images: Tensor, entries: Sequence[Tensor | float]) -> Tensor:
    """Build affine matrices (N, 3, 3) from the six entries of the upper two rows; each is (N, 1, 1, 1) or a number."""
    rows = [
        torch.as_tensor(entry, device=images.device).expand(len(images), 1, 1, 1) for entry in (*entries, 0.0, 0.0, 1.0)
    ]
    return torch.cat(rows, dim=1).view(-1, 3, 3)


# Each matrix maps a point of the result to the point of the image that it shows: the inverse of the visible change.


def _flip_matrix(images: Tensor, _: Generator, spec: policy.Flip) -> Tensor:
    x, y = (-1.0, 1.0) if spec.axis == "horizontal" else (1.0, -1.0)
    return _affine(images, (x, 0.0, 0.0, 0.0, y, 0.0))


def _translate_matrix(images: Tensor, generator: Generator, spec: policy.Translate) -> Tensor:
    height, width = images.shape[2:]
    down, right = (
        _uniform(images, generator, -spec.max_fraction, spec.max_fraction) * side for side in (height, width)
    )
    return _affine(images, (1.0, 0.0, -right, 0.0, 1.0, -down))


def _rotate_matrix(images: Tensor, generator: Generator, spec: policy.Rotate) -> Tensor:
    angle = _uniform(images, generator, -spec.max_degrees, spec.max_degrees).deg2rad()
    return _affine(images, (angle.cos(), angle.sin(), 0.0, -angle.sin(), angle.cos(), 0.0))


def _shear_matrix(images: Tensor, generator: Generator, spec: policy.Shear) -> Tensor:
    slope = _uniform(images, generator, -spec.max_degrees, spec.max_degrees).deg2rad().tan()
    along_rows = _uniform(images, generator, 0, 1) < 0.5
    return _affine(images, (1.0, slope * along_rows, 0.0, slope * ~along_rows, 1.0, 0.0))


def _scale_matrix(images: Tensor, generator: Generator, spec: policy.Scale) -> Tensor:
    shrink = 1 / _uniform(images, generator, 1 - spec.max_change, 1 + spec.max_change)
    return _affine(images, (shrink, 0.0, 0.0, 0.0, shrink, 0.0))


_PIXELWISE: dict[type[Any], Callable[..., Tensor]] = {
    policy.Flip: flip,
    policy.Translate: translate,
    policy.Brightness: brightness,
    policy.Contrast: contrast,
    policy.Erase: erase,
}
_MATRICES: dict[type[Any], Callable[..., Tensor]] = {
    policy.Flip: _flip_matrix,
    policy.Translate: _translate_matrix,
    policy.Rotate: _rotate_matrix,
    policy.Shear: _shear_matrix,
    policy.Scale: _scale_matrix,
}
