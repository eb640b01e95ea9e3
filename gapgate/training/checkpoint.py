"""The latest checkpoint of a training, in one file: tensors as safetensors, the rest as JSON in its header.

One file, renamed into place, cannot be half old and half new. Nothing is pickled, so loading a checkpoint runs no code.
It holds no random state: training derives the state of each epoch from the seed and the epoch's number.
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
    """State from which a killed training goes on."""

    tensors: dict[str, Tensor]
    """Tensors on the CPU, contiguous, by name."""
    progress: dict[str, Any]
    """Progress of the training, JSON-able."""


class CheckpointError(Exception):
    """Error for a checkpoint that cannot be used; its text is the reason."""


def save(folder: Path, identity: str, tensors: Mapping[str, Tensor], progress: Mapping[str, Any]) -> None:
    """Replace the checkpoint in `folder`. `identity` names the training to which it belongs.

    Raises:
        StorageError: the disk is full, or the folder is not writable.
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
            # safetensors' own writer hides the errno of a full disk.
            partial.write_bytes(serialised(stored, metadata=header))
        # fsync of a file does not cover its name (fsync(2)): without fsync of the folder, a power cut may undo the
        # rename.
        sync(folder)


def load(folder: Path, identity: str) -> Checkpoint | None:
    """Read the checkpoint in `folder`; None if there is none.

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
    # safetensors checks lengths, not content: a flipped bit would become a weight.
    if header.get("sha256") != _sha256(tensors):
        raise CheckpointError(f"{path} is damaged: its sha256 differs")
    return Checkpoint(tensors, json.loads(header["progress"]))


@torch.no_grad()
def restore(target: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Copy a checkpoint's tensors into the live tensors of the same names, which keep their memory formats.

    Raises:
        CheckpointError: names or shapes differ; then nothing is copied.
    """
    if {name: tensor.shape for name, tensor in target.items()} != {name: t.shape for name, t in source.items()}:
        raise CheckpointError("the checkpoint's tensors are those of another network or optimizer")
    for name, tensor in target.items():
        tensor.copy_(source[name])


def _sha256(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    # As bytes, because NumPy has no bfloat16; sorted, because a safetensors file has an order of its own.
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
