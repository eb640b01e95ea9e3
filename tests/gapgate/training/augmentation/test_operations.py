"""Augmentation as the eye would check it, on small arrays whose right answer is known."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gapgate.training.augmentation import operations as augmentation
from gapgate.training.augmentation.operations import compile_policy
from gapgate.training.augmentation.policy import (
    Brightness,
    Contrast,
    Cutmix,
    Erase,
    Flip,
    Mixup,
    Rotate,
    Scale,
    Shear,
    Translate,
)

EVERY_OPERATION = [
    Flip(),
    Flip(axis="vertical"),
    Translate(max_fraction=0.3),
    Rotate(max_degrees=40),
    Shear(max_degrees=20),
    Scale(max_change=0.4),
    Brightness(),
    Contrast(),
    Erase(max_area=0.5),
    Mixup(alpha=1.0),
    Cutmix(),
]
each_operation = pytest.mark.parametrize(
    "operation", EVERY_OPERATION, ids=lambda op: f"{op.type} {getattr(op, 'axis', '')}"
)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(count=16, channels=3, height=12, width=10, seed=0):
    generator = seeded(seed)
    images = torch.rand(count, channels, height, width, generator=generator)
    return images, torch.randint(0, 4, (count,), generator=generator)


def with_probability(operation, probability):
    return operation.model_copy(update={"probability": probability})


@each_operation
def test_the_input_is_left_as_it_was(operation):
    images, targets = batch()
    images_before, targets_before = images.clone(), targets.clone()
    compile_policy([operation], 4)(images, targets, seeded())
    assert torch.equal(images, images_before)
    assert torch.equal(targets, targets_before)


@each_operation
def test_the_same_seed_gives_the_same_batch_and_another_another(operation):
    augment = compile_policy([operation], 4)
    images, targets = batch()
    once, labels = augment(images, targets, seeded(3))
    again, labels_again = augment(images, targets, seeded(3))
    other, _ = augment(images, targets, seeded(4))
    assert torch.equal(once, again)
    assert torch.equal(labels, labels_again)
    assert not torch.equal(once, other)


@each_operation
def test_shape_type_range_and_meaning_are_kept(operation):
    images, targets = batch(channels=1)
    changed, labels = compile_policy([operation], 4)(images, targets, seeded())
    assert changed.shape == images.shape
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1 + 1e-6
    mixes = operation.type in {"mixup", "cutmix"}
    assert labels.shape == ((16, 4) if mixes else (16,))
    assert mixes or torch.equal(labels, targets)


@each_operation
def test_each_image_has_its_own_draw(operation):
    one, _ = batch(count=1)
    other = 1 - one
    images = torch.cat([one, other]).repeat(32, 1, 1, 1)
    changed, _ = compile_policy([with_probability(operation, 1.0)], 4)(images, torch.zeros(64).long(), seeded())
    distinct = len(torch.unique(changed.flatten(1), dim=0))
    assert distinct >= (2 if operation.type == "flip" else 20)


@each_operation
def test_the_probability_is_the_share_of_images_that_change(operation):
    images, targets = batch(count=4000, channels=1, height=6, width=6)
    always = changed_share(with_probability(operation, 1.0), images, targets)
    assert always > 0.5
    assert changed_share(with_probability(operation, 0.25), images, targets) == pytest.approx(0.25 * always, abs=0.03)
    assert changed_share(with_probability(operation, 0.0), images, targets) == 0


def changed_share(operation, images, targets):
    changed, _ = compile_policy([operation], 4)(images, targets, seeded())
    return ((changed - images).abs().amax((1, 2, 3)) > 1e-4).float().mean().item()


@pytest.mark.parametrize(
    "operation",
    [
        Translate(max_fraction=0),
        Rotate(max_degrees=0),
        Shear(max_degrees=0),
        Scale(max_change=0),
        Brightness(max_change=0),
        Contrast(max_change=0),
        Erase(max_area=0),
    ],
    ids=lambda op: op.type,
)
def test_zero_strength_changes_nothing(operation):
    images, targets = batch()
    changed, _ = compile_policy([operation], 4)(images, targets, seeded())
    torch.testing.assert_close(changed, images, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("axis", "dimension"), [("horizontal", 3), ("vertical", 2)])
def test_a_flip_mirrors_and_a_second_one_mirrors_back(axis, dimension):
    images, targets = batch()
    augment = compile_policy([Flip(axis=axis, probability=1.0)], 4)
    once, _ = augment(images, targets, seeded())
    assert torch.equal(once, images.flip(dimension))
    assert torch.equal(augment(once, targets, seeded())[0], images)


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 9), fraction=st.floats(0, 1), seed=st.integers(0, 999))
def test_a_translation_moves_every_pixel_by_one_whole_shift_and_fills_with_black(height, width, fraction, seed):
    images = torch.arange(1.0, 1 + 3 * 2 * height * width).view(3, 2, height, width)
    moved = augmentation.translate(images, seeded(seed), Translate(max_fraction=fraction))
    reach = [math.floor(fraction * side + 0.5) for side in (height, width)]
    for image, result in zip(images, moved, strict=True):
        assert any(
            torch.equal(result, shifted(image, down, right))
            for down in range(-reach[0], reach[0] + 1)
            for right in range(-reach[1], reach[1] + 1)
        )


def shifted(image, down, right):
    result = torch.zeros_like(image)
    _, height, width = image.shape
    for y in range(height):
        for x in range(width):
            if 0 <= y - down < height and 0 <= x - right < width:
                result[:, y, x] = image[:, y - down, x - right]
    return result


def test_translations_reach_every_shift_alike():
    image = torch.zeros(1, 1, 10, 10)
    image[0, 0, 5, 5] = 1
    moved = augmentation.translate(image.expand(9000, -1, -1, -1), seeded(), Translate(max_fraction=0.1))
    shares = moved.mean(0)[0]
    assert shares[4:7, 4:7].sum().item() == pytest.approx(1)
    np.testing.assert_allclose(shares[4:7, 4:7], 1 / 9, atol=0.015)


def test_a_small_image_is_still_translated_by_a_pixel():
    images = torch.rand(64, 1, 8, 8)  # 0.1 of 8 px rounds to 1
    assert not torch.equal(augmentation.translate(images, seeded(), Translate()), images)


def test_a_half_turn_is_both_flips():
    images, _ = batch(height=7, width=9)
    matrix = torch.diag(torch.tensor([-1.0, -1.0, 1.0])).expand(16, 3, 3)
    torch.testing.assert_close(augmentation.resample(images, matrix), images.flip(2).flip(3), rtol=0, atol=1e-4)


def test_a_quarter_turn_of_a_square_is_that_of_torch():
    images, _ = batch(height=9, width=9)
    matrix = torch.tensor([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]).expand(16, 3, 3)
    torch.testing.assert_close(augmentation.resample(images, matrix), torch.rot90(images, 1, (2, 3)), rtol=0, atol=1e-4)


def test_an_image_that_is_not_square_is_rotated_without_distortion():
    """The centre of mass of a dot keeps its distance from the image's centre, in pixels."""
    image = torch.zeros(1, 1, 41, 81)
    image[0, 0, 19:22, 53:56] = 1
    turned = augmentation.warp(image.expand(200, -1, -1, -1), seeded(), [Rotate(max_degrees=60)])
    rows, columns = torch.arange(41.0) - 20, torch.arange(81.0) - 40
    mass = turned.sum((1, 2, 3))
    y = (turned.sum((1, 3)) * rows).sum(1) / mass
    x = (turned.sum((1, 2)) * columns).sum(1) / mass
    torch.testing.assert_close(torch.hypot(x, y), torch.full((200,), 14.0), rtol=0, atol=0.1)
    angles = torch.rad2deg(torch.atan2(y, x))
    assert angles.abs().max() <= 60.5
    assert angles.min() < -50
    assert angles.max() > 50


def test_scaling_zooms_within_its_limits():
    image = torch.zeros(1, 1, 64, 64)
    image[0, 0, 22:42, 22:42] = 1
    areas = augmentation.warp(image.expand(300, -1, -1, -1), seeded(), [Scale(max_change=0.5)]).sum((1, 2, 3)) / 400
    assert areas.min() >= 0.24
    assert areas.max() <= 2.27
    assert areas.max() - areas.min() > 1.5


def test_shearing_moves_rows_or_columns_and_never_both():
    image = torch.zeros(1, 1, 33, 33)
    image[0, 0, :, 16] = image[0, 0, 16, :] = 1
    sheared = augmentation.warp(image.expand(100, -1, -1, -1), seeded(), [Shear(max_degrees=30)])
    row_kept = (sheared[:, 0, 16] - 1).abs().amax(1) < 1e-3
    column_kept = (sheared[:, 0, :, 16] - 1).abs().amax(1) < 1e-3
    assert torch.all(row_kept ^ column_kept)
    assert 25 < row_kept.sum() < 75


def test_neighbouring_geometric_operations_are_one_resampling_of_their_product():
    """A flip between two others is part of the one map: undoing it by hand gives a plain rotation."""
    images, targets = batch(height=9, width=9)
    flips = [Flip(probability=1.0), Rotate(max_degrees=0), Flip(probability=1.0)]
    unchanged, _ = compile_policy(flips, 4)(images, targets, seeded())
    torch.testing.assert_close(unchanged, images, rtol=0, atol=1e-4)
    mirrored, _ = compile_policy([*flips, Flip(axis="vertical", probability=1.0)], 4)(images, targets, seeded())
    torch.testing.assert_close(mirrored, images.flip(2), rtol=0, atol=1e-4)


def test_operations_apply_in_the_order_of_the_settings():
    """A shift and then a mirror moves right; a mirror and then the same shift moves left."""
    image = torch.zeros(1, 1, 9, 9)
    image[0, 0, 4, 4] = 1
    images, targets = image.expand(50, -1, -1, -1), torch.zeros(50).long()
    flip, still = Flip(probability=1.0), Rotate(max_degrees=0)
    shift = Translate(max_fraction=0.3)
    columns = torch.arange(9.0) - 4
    places = []
    for operations in ([shift, still, flip], [flip, still, shift]):
        generator = seeded(1)
        moved, _ = compile_policy(operations, 4)(images, targets, generator)
        places.append((moved.sum((1, 2)) * columns).sum(1))
    by_hand, _ = compile_policy([shift, still], 4)(images, targets, seeded(1))
    expected = -(by_hand.sum((1, 2)) * columns).sum(1)
    torch.testing.assert_close(places[0], expected, rtol=0, atol=1e-3)
    assert not torch.allclose(places[1], expected, atol=0.1)


def test_brightness_adds_one_constant_to_an_image():
    images = torch.full((200, 3, 4, 4), 0.5)
    change = augmentation.brightness(images, seeded(), Brightness(max_change=0.2)) - images
    assert torch.equal(change.amin((1, 2, 3)), change.amax((1, 2, 3)))
    assert 0.18 < change.max() <= 0.2
    assert -0.2 <= change.min() < -0.18


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    images = 0.4 + 0.2 * torch.rand(200, 3, 6, 6)
    changed = augmentation.contrast(images, seeded(), Contrast(max_change=0.5))
    torch.testing.assert_close(changed.mean((1, 2, 3)), images.mean((1, 2, 3)))
    factors = changed.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.5 <= factors.min() < 0.55
    assert 1.45 < factors.max() <= 1.501


@settings(max_examples=40, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30), max_area=st.floats(0, 1), seed=st.integers(0, 999))
def test_an_erased_area_is_a_rectangle_within_its_bound(height, width, max_area, seed):
    images = torch.ones(8, 2, height, width)
    erased = augmentation.erase(images, seeded(seed), Erase(max_area=max_area, probability=1.0)) == 0
    assert torch.equal(erased[:, 0], erased[:, 1])
    for mask in erased[:, 0]:
        assert mask.sum() <= max_area * height * width * (1 + 1e-5)
        assert mask.sum() == mask.any(0).sum() * mask.any(1).sum()


def test_mixing_blends_images_and_labels_by_the_same_share():
    """Images that are constant at their class number show the blend in every pixel."""
    targets = torch.arange(2).repeat(100)
    images = targets.float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    for operation in (Mixup(alpha=1.0), Cutmix()):
        mixed, labels = compile_policy([operation], 2)(images, targets, seeded())
        torch.testing.assert_close(labels.sum(1), torch.ones(200))
        torch.testing.assert_close(mixed.mean((1, 2, 3)), labels[:, 1])
        assert ((labels > 0.05) & (labels < 0.95)).any()


def test_cutmix_pastes_a_rectangle():
    targets = torch.arange(2).repeat(100)
    images = targets.float().view(-1, 1, 1, 1).expand(-1, 1, 8, 8)
    mixed, _ = compile_policy([Cutmix()], 2)(images, targets, seeded())
    pasted = (mixed != images)[:, 0]
    assert torch.equal(pasted.sum((1, 2)), pasted.any(1).sum(1) * pasted.any(2).sum(1))


def test_mixup_and_cutmix_follow_each_other_and_soft_targets_stay_probabilities():
    images, targets = batch()
    soft = torch.nn.functional.one_hot(targets, 4).float() * 0.9 + 0.025
    _, labels = compile_policy([Mixup(), Cutmix()], 4)(images, soft, seeded())
    torch.testing.assert_close(labels.sum(1), torch.ones(16))
    assert labels.min() >= 0.0249


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 4.0])
def test_blends_follow_the_beta_distribution(alpha):
    """Against numpy's own sampler, by the largest distance of the two empirical distributions."""
    draws = augmentation._beta(torch.empty(20_000, 1, 1, 1), seeded(), alpha).flatten().numpy()
    reference = np.random.default_rng(0).beta(alpha, alpha, 20_000)
    points = np.linspace(0.001, 0.999, 99)
    distance = np.abs((draws[:, None] <= points).mean(0) - (reference[:, None] <= points).mean(0)).max()
    assert np.isfinite(draws).all()
    assert distance < 0.02  # the 99.9 % point of the two-sample Kolmogorov-Smirnov statistic is 0.0195


def test_an_empty_policy_gives_back_what_it_was_given():
    images, targets = batch()
    same_images, same_targets = compile_policy([], 4)(images, targets, seeded())
    assert same_images is images
    assert same_targets is targets


def test_a_channels_last_batch_gives_the_same_pixels():
    images, targets = batch()
    augment = compile_policy(EVERY_OPERATION, 4)
    plain, _ = augment(images, targets, seeded())
    last, _ = augment(images.contiguous(memory_format=torch.channels_last), targets, seeded())
    torch.testing.assert_close(plain, last)
