import os

import pytest
import torch

from gapgate.errors import StorageError
from gapgate.training import checkpoint
from gapgate.training.checkpoint import CheckpointError

TENSORS = {
    "weight": torch.arange(24.0).view(2, 3, 2, 2).contiguous(memory_format=torch.channels_last),
    "count": torch.tensor(7),
    "empty": torch.zeros(0),
}
PROGRESS = {"history": [{"epoch": 1, "val_loss": 0.1 + 0.2}], "best_loss": float("inf")}


def test_what_was_saved_is_loaded_bit_for_bit(tmp_path):
    checkpoint.save(tmp_path / "new", "mine", TENSORS, PROGRESS)
    loaded = checkpoint.load(tmp_path / "new", "mine")
    assert loaded.progress == PROGRESS
    assert set(loaded.tensors) == set(TENSORS)
    assert all(torch.equal(loaded.tensors[name], TENSORS[name]) for name in TENSORS)


def test_restoring_keeps_the_memory_format_of_the_live_tensors(tmp_path):
    checkpoint.save(tmp_path, "mine", TENSORS, PROGRESS)
    live = {name: torch.zeros_like(tensor) for name, tensor in TENSORS.items()}
    checkpoint.restore(live, checkpoint.load(tmp_path, "mine").tensors)
    assert all(torch.equal(live[name], TENSORS[name]) for name in TENSORS)
    assert live["weight"].is_contiguous(memory_format=torch.channels_last)


def test_a_later_checkpoint_replaces_the_earlier_and_leaves_one_file(tmp_path):
    for epoch in (1, 2):
        checkpoint.save(tmp_path, "mine", TENSORS, {"epoch": epoch})
    assert checkpoint.load(tmp_path, "mine").progress == {"epoch": 2}
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]


def test_no_checkpoint_is_none(tmp_path):
    assert checkpoint.load(tmp_path / "missing", "mine") is None


def test_half_a_file_beside_the_checkpoint_does_not_matter(tmp_path):
    checkpoint.save(tmp_path, "mine", TENSORS, PROGRESS)
    (tmp_path / f".{checkpoint.FILE}.partial-1").write_bytes(b"half")
    assert checkpoint.load(tmp_path, "mine").progress == PROGRESS


def test_a_checkpoint_cut_anywhere_is_refused(tmp_path):
    checkpoint.save(tmp_path, "mine", TENSORS, PROGRESS)
    path = tmp_path / checkpoint.FILE
    content = path.read_bytes()
    for length in range(0, len(content), 7):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path, "mine")


def test_one_flipped_bit_anywhere_is_refused_also_in_the_progress_and_the_shapes(tmp_path):
    checkpoint.save(tmp_path, "mine", TENSORS, PROGRESS)
    path = tmp_path / checkpoint.FILE
    content = path.read_bytes()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1 << place % 8]) + content[place + 1 :])
        with pytest.raises(CheckpointError):
            checkpoint.load(tmp_path, "mine")


def test_a_damaged_checkpoint_is_set_aside_and_the_next_try_begins_anew(tmp_path):
    checkpoint.save(tmp_path, "mine", TENSORS, {"epoch": 3})
    path = tmp_path / checkpoint.FILE
    damaged = path.read_bytes().replace(b"epoch", b"epach")
    path.write_bytes(damaged)
    with pytest.raises(CheckpointError, match=r"is damaged \(its sha256 differs\); it is now checkpoint\.damaged"):
        checkpoint.load(tmp_path, "mine")
    assert checkpoint.load(tmp_path, "mine") is None
    assert (tmp_path / checkpoint.DAMAGED).read_bytes() == damaged


def test_anothers_checkpoint_is_refused(tmp_path):
    checkpoint.save(tmp_path, "theirs", TENSORS, PROGRESS)
    with pytest.raises(CheckpointError, match="another training"):
        checkpoint.load(tmp_path, "mine")


def test_tensors_of_another_shape_are_refused_before_any_is_copied():
    live = {"a": torch.zeros(2), "b": torch.zeros(3)}
    with pytest.raises(CheckpointError, match="another network"):
        checkpoint.restore(live, {"a": torch.ones(2), "b": torch.ones(4)})
    assert live["a"].tolist() == [0.0, 0.0]


def test_a_full_disk_is_a_storage_error_and_leaves_the_earlier_checkpoint(tmp_path):
    checkpoint.save(tmp_path, "mine", TENSORS, PROGRESS)
    (tmp_path / f".{checkpoint.FILE}.partial-{os.getpid()}").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="the disk is full; free space"):
        checkpoint.save(tmp_path, "mine", TENSORS, {"epoch": 2})
    assert checkpoint.load(tmp_path, "mine").progress == PROGRESS
    assert [path.name for path in tmp_path.iterdir()] == [checkpoint.FILE]
