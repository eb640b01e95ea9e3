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
_FORMAT = "gapgate-checkpoint-2"
DAMAGED = "checkpoint.damaged.safetensors"
"""File beside the checkpoint: the last one that could not be read."""


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
    header = {"format": _FORMAT, "identity": identity, "progress": json.dumps(progress)}
    header["sha256"] = _sha256(header, stored)
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
        CheckpointError: it is damaged, and is then set aside as `DAMAGED`; or it belongs to another training.
    """
    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no mapping)
    # Its reader looks for no tensor beyond the end of the file, and finds other errors where a bit of the header flips.
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        raise _damaged(path, " ".join(str(error).split())) from None
    # safetensors checks lengths, not content: a flipped bit would become a weight, or another number of epochs.
    if header.get("format") == _FORMAT and header.pop("sha256", "") != _sha256(header, tensors):
        raise _damaged(path, "its sha256 differs")
    if header.get("format") != _FORMAT or header.get("identity") != identity:
        raise CheckpointError(f"{path} belongs to another training")
    return Checkpoint(tensors, json.loads(header["progress"]))


def _damaged(path: Path, reason: str) -> CheckpointError:
    aside = path.with_name(DAMAGED)
    path.replace(aside)
    return CheckpointError(f"{path} is damaged ({reason}); it is now {aside.name}")


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


def _sha256(header: Mapping[str, str], tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256(json.dumps(header, sort_keys=True).encode())
    # As bytes, because NumPy has no bfloat16; sorted, because a safetensors file has an order of its own.
    for name in sorted(tensors):
        digest.update(f"{name} {tensors[name].dtype} {tuple(tensors[name].shape)}\n".encode())
        digest.update(tensors[name].reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
