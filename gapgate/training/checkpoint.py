"""One latest checkpoint of a training, in one file: tensors as safetensors, the rest as JSON in its header.

One file, renamed into place, cannot be half old and half new. Nothing is pickled, so a checkpoint runs no code.
Random states are not in it: training derives each epoch's from the seed and the epoch's number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialised
from torch import Tensor

from gapgate.errors import storage_errors
from gapgate.files import sync, whole_file

FILE = "checkpoint.safetensors"
_FORMAT = "gapgate-checkpoint-1"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a killed training needs to go on."""

    tensors: dict[str, Tensor]
    """On the CPU, contiguous."""
    progress: dict[str, Any]
    """JSON."""


class CheckpointError(Exception):
    """A checkpoint that cannot be used; its text says why."""


def save(folder: Path, identity: str, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Replace the checkpoint in `folder`. `identity` names the training that it belongs to.

    Raises:
        StorageError: the disk is full or the place may not be written.
    """
    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    header = {
        "format": _FORMAT,
        "identity": identity,
        "progress": json.dumps(progress),
        "sha256": _sha256(stored),
    }
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with whole_file(folder / FILE, fsync=True) as partial:
            # safetensors' own writer hides the errno of a full disk
            partial.write_bytes(serialised(stored, metadata=header))
        sync(folder)  # else a power cut may undo the rename


def load(folder: Path, identity: str) -> Checkpoint | None:
    """The checkpoint in `folder`, or None where there is none.

    Raises:
        CheckpointError: it is damaged, or belongs to another training.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from None
    if header.get("format") != _FORMAT or header.get("identity") != identity:
        raise CheckpointError(f"{path} belongs to another training")
    if header.get("sha256") != _sha256(tensors):
        raise CheckpointError(f"{path} is damaged: its sha256 differs")
    return Checkpoint(tensors, json.loads(header["progress"]))


@torch.no_grad()
def restore(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's tensors into the live ones of the same names; memory formats stay as they are.

    Raises:
        CheckpointError: names or shapes differ; nothing was copied.
    """
    if {name: tensor.shape for name, tensor in target.items()} != {name: t.shape for name, t in source.items()}:
        raise CheckpointError("the checkpoint's tensors are those of another network or optimizer")
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
