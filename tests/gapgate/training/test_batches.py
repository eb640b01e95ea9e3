"""Batches of a split, resident or mapped, and the shards that a batch is divided into."""

import numpy as np
import pytest
import torch
from torch import nn

from gapgate.training import batches
from gapgate.training import device as devices
from gapgate.training.batches import MappedBatches, ResidentBatches, open_batches
from gapgate.training.data_parallel import MIN_SHARD_IMAGES, Shards, count_shards
from tests.gapgate.onnx_models import write_splits

CPU = torch.device("cpu")


@pytest.fixture
def splits(tmp_path):
    """Thirty images whose pixels are the number of their row; those of train and val are mixed."""
    images = np.arange(30, dtype=np.uint8)[:, None, None, None] * np.ones((1, 4, 3, 2), np.uint8)
    made = write_splits(tmp_path / "splits", images, np.arange(30, dtype=np.int32) % 5, list("abcde"), (20, 10))
    np.save(made.path / "train.npy", np.arange(0, 30, 2))
    np.save(made.path / "val.npy", np.arange(1, 30, 2))
    return made


@pytest.mark.parametrize("kind", [ResidentBatches, MappedBatches])
@pytest.mark.parametrize(("split", "first"), [("train", 0), ("val", 1)])
def test_a_place_in_a_split_is_its_image_with_its_label(splits, monkeypatch, kind, split, first):
    monkeypatch.setattr(batches, "_COPY_ROWS", 4)  # 15 images in four copies
    data = kind(splits, split, CPU)
    assert len(data) == 15
    asked = [torch.tensor([14, 0, 7]), torch.tensor([3]), torch.tensor([], dtype=torch.int64), torch.tensor([7, 7])]
    found = list(data.read(asked))
    assert [images.shape[1:] for images, _ in found] == [(4, 3, 2)] * 4
    for places, (images, labels) in zip(asked, found, strict=True):
        rows = [2 * place + first for place in places.tolist()]
        assert images[:, 0, 0, 0].tolist() == rows
        assert images.dtype == torch.uint8
        assert labels.tolist() == [row % 5 for row in rows]
        assert labels.dtype == torch.int64


@pytest.mark.parametrize(("free", "kind"), [(720, ResidentBatches), (718, MappedBatches)])
def test_a_split_is_in_memory_where_it_takes_half_of_what_is_free(splits, monkeypatch, free, kind):
    # 15 images of 4 · 3 · 2 bytes are 360.
    monkeypatch.setattr(devices, "free_memory_bytes", lambda device: free)
    assert isinstance(open_batches(splits, "train", CPU), kind)


@pytest.mark.parametrize(("count", "size", "expected"), [(10, 5, 2), (11, 5, 3), (1, 5, 1), (5, 5, 1)])
def test_an_epoch_has_the_fewest_steps(count, size, expected):
    assert batches.num_batches(count, size) == expected
    assert [len(batch) for batch in batches.in_order(count, size)] == [size] * (count // size) + [count % size] * (
        count % size > 0
    )
    drawn = batches.shuffled(count, size, torch.Generator().manual_seed(0))
    assert len(drawn) == expected
    assert sorted(torch.cat(drawn).tolist()) == list(range(count))


@pytest.mark.parametrize(
    ("num_shards", "images", "device", "expected"),
    [
        (4, 64, "cpu", 4),
        (4, 63, "cpu", 3),
        (4, 31, "cpu", 1),
        (4, 32, "cpu", 2),
        (2, 640, "cpu", 2),
        (4, 64, "cuda", 1),
    ],
)
def test_a_shard_has_sixteen_images_at_least_and_a_gpu_has_one(num_shards, images, device, expected):
    assert MIN_SHARD_IMAGES == 16
    assert count_shards(num_shards, images, torch.device(device)) == expected


@pytest.mark.parametrize("num_threads", [1, 3])
def test_the_results_of_shards_are_in_their_order_and_a_small_batch_leaves_the_last_idle(num_threads):
    with Shards(nn.Linear(2, 2), 3, CPU, num_threads) as shards:
        for size, parts in ((7, [[0, 1, 2], [3, 4, 5], [6]]), (2, [[0], [1]]), (1, [[0]])):
            split = shards.split(torch.arange(size), torch.arange(size) * 10)
            found = shards.map(lambda model, one, ten: (model, one.tolist(), ten.tolist()), shards.models, *split)
            assert [one for _, one, _ in found] == parts
            assert [ten for *_, ten in found] == [[10 * value for value in part] for part in parts]
            assert [model for model, *_ in found] == shards.models[: len(parts)]


@pytest.mark.parametrize(
    ("setting", "expected"),
    [("off", torch.contiguous_format), ("on", torch.channels_last), ("auto", torch.channels_last)],
)
def test_images_lie_channels_last_unless_that_is_off(setting, expected):
    assert devices.memory_format(setting) == expected
