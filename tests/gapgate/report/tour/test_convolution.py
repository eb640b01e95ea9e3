"""The arithmetic of convolution against PyTorch and SciPy."""

import numpy as np
import pytest
import torch
from scipy.signal import correlate2d
from torch.nn import functional

from gapgate.report.tour.convolution import KERNELS, convolve, max_pool, relu

IMAGE = np.random.default_rng(0).uniform(0, 255, (11, 14))


def tensor(array):
    return torch.from_numpy(array)[None, None]


def test_the_identity_kernel_gives_the_image_without_its_border():
    np.testing.assert_array_equal(convolve(IMAGE, np.array(KERNELS["identity"], float)), IMAGE[1:-1, 1:-1])


@pytest.mark.parametrize("name", KERNELS)
def test_every_kernel_gives_what_scipys_correlation_gives(name):
    kernel = np.array(KERNELS[name], float)
    np.testing.assert_allclose(convolve(IMAGE, kernel), correlate2d(IMAGE, kernel, "valid"), atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (3, 3), (2, 5)])
def test_convolution_is_pytorchs(shape):
    kernel = np.random.default_rng(1).normal(size=shape)
    expected = functional.conv2d(tensor(IMAGE), tensor(kernel))[0, 0].numpy()
    np.testing.assert_allclose(convolve(IMAGE, kernel), expected, atol=1e-9)


@pytest.mark.parametrize("image", [IMAGE, IMAGE[:10, :13]])
def test_max_pooling_is_pytorchs_and_leaves_out_what_fills_no_window(image):
    np.testing.assert_array_equal(max_pool(image), functional.max_pool2d(tensor(image), 2)[0, 0].numpy())


def test_relu_is_pytorchs():
    np.testing.assert_array_equal(relu(IMAGE - 100), functional.relu(tensor(IMAGE - 100))[0, 0].numpy())


def test_kernels_make_an_image_or_differences_and_nothing_between():
    sums = {name: sum(map(sum, kernel)) for name, kernel in KERNELS.items()}
    assert set(sums.values()) == {0, 1}
    assert {name for name, total in sums.items() if total == 0} == {"edge", "outline", "sobel-x", "sobel-y"}
    plain = np.full((5, 5), 7.0)
    for name, total in sums.items():
        np.testing.assert_allclose(convolve(plain, np.array(KERNELS[name], float)), 7 * float(total), atol=1e-12)


def test_sobel_answers_to_the_direction_that_it_is_named_after():
    rising = np.tile(np.arange(6.0), (5, 1))
    assert (convolve(rising, np.array(KERNELS["sobel-x"], float)) == 8).all()
    assert (convolve(rising, np.array(KERNELS["sobel-y"], float)) == 0).all()
