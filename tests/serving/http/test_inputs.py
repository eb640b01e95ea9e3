"""What a request's bytes are taken for: a tensor in its order, an image file, or neither."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from serving.http import inputs
from serving.http.form import Upload
from serving.http.request import FORM_TYPE, TENSOR_TYPE
from serving.http.responses import ApiError
from tests.serving.packaged import picture

PREDICTOR: Any = SimpleNamespace(classifier=SimpleNamespace(image_shape=(2, 3, 4)))


@pytest.mark.parametrize("count", [1, 2, 5])
def test_a_tensor_is_read_image_by_image_row_by_row_channel_last(count: int) -> None:
    images = inputs.from_tensor(PREDICTOR, bytes(value % 251 for value in range(24 * count)))
    assert images.shape == (count, 2, 3, 4)
    for image, row, column, channel in np.ndindex(images.shape):
        assert images[image, row, column, channel] == (24 * image + 12 * row + 4 * column + channel) % 251


@pytest.mark.parametrize("size", [0, 1, 23, 25, 47])
def test_bytes_of_no_whole_images_are_no_tensor(size: int) -> None:
    with pytest.raises(ApiError, match=rf"^{size} bytes are not a tensor of 2×3×4 uint8, 24 bytes an image"):
        inputs.from_tensor(PREDICTOR, bytes(size))


@pytest.mark.parametrize(
    ("data", "content_type", "is_tensor"),
    [
        (bytes(24), TENSOR_TYPE, True),
        (picture(4, 4), TENSOR_TYPE, False),  # an image file of no declared type
        (picture(4, 4, "JPEG"), TENSOR_TYPE, False),
        (b"\xff\xd8\xff\xff" + bytes(20), TENSOR_TYPE, True),  # pink pixels
        (bytes(24), "image/png", False),
    ],
)
def test_bytes_of_no_declared_type_that_begin_like_an_image_file_are_one(
    data: bytes, content_type: str, is_tensor: bool
) -> None:
    assert inputs._upload(data, content_type).is_tensor == is_tensor


def test_the_image_of_a_form_is_in_the_field_of_that_name_or_the_only_file() -> None:
    def read(*fields: str) -> bytes:
        async def files(max_files: int) -> list[Upload]:
            return [Upload(f"{at} {field}".encode(), field=field) for at, field in enumerate(fields)]

        request: Any = SimpleNamespace(content_type=FORM_TYPE, files=files)
        return asyncio.run(inputs.read_upload(request)).data

    assert read("photo") == b"0 photo"
    assert read("mask", "image", "other") == b"1 image"
    wrong = [(("image", "image"), "2 images came"), (("a", "b", "c"), "3 images came"), ((), "no image came")]
    for fields, said in wrong:
        with pytest.raises(ApiError, match=said):
            read(*fields)
