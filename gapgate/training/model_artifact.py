"""The files of a Model artifact; equal trainings write equal bytes.

No file is a `.npz`, because the header of a zip archive depends on the version of Python that wrote it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import save as serialised_arrays
from safetensors.torch import save as serialised
from torch import nn

from gapgate import artifacts
from gapgate.data.splits import Splits
from gapgate.network import architecture, modules
from gapgate.network.export import export_onnx
from gapgate.network.onnx_features import num_weights
from gapgate.training.trained import Trained

MAX_PARITY_IMAGES = 256
"""Largest number of validation images whose logits are stored for the comparison of ONNX Runtime with PyTorch."""
_BATCH_SIZE = 32
"""Images in a call of the network; 256 photos of 224 px would take gigabytes."""


def write(
    out_dir: Path, splits: Splits, trained: Trained, tried: Sequence[Mapping[str, object]], why: str = ""
) -> None:
    """Write the trained network and the facts about it that serving and evaluation need.

    Files: weights.safetensors, architecture.json, transform.json, model.onnx, history.json, environment.json,
    recipe.json (the settings with every `auto` decided, and the trainings that were `tried`, with a line `why` this one
    was kept) and parity.safetensors:
    `images` (n, H, W, C) uint8 of val with PyTorch's `logits` (n, num_classes) float32 for them.
    """
    model, mean, std = trained.model, trained.mean, trained.std
    weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    (out_dir / "weights.safetensors").write_bytes(serialised(weights))
    served = _served(trained)
    export_onnx(served, splits.image_shape, mean, std, out_dir / "model.onnx")
    images = splits.images[splits.rows("val")[:MAX_PARITY_IMAGES]]
    parity = {"images": images, "logits": logits(trained, images)}
    (out_dir / "parity.safetensors").write_bytes(serialised_arrays(parity))
    artifacts.write_json(out_dir / "architecture.json", _description(splits, trained))
    artifacts.write_json(out_dir / "history.json", list(trained.history))
    artifacts.write_json(out_dir / "environment.json", trained.environment)
    recipe = {
        "name": trained.recipe.name,
        "settings": trained.recipe.model_dump(mode="json"),
        "num_operations": trained.num_operations,
        "tried": tried,
        "why": why,
    }
    artifacts.write_json(out_dir / "recipe.json", recipe)
    # A backbone normalises by the images that it was trained on.
    transform = artifacts.read_json(splits.path / "transform.json") | {"mean": mean, "std": std}
    artifacts.write_json(out_dir / "transform.json", transform)


def _description(splits: Splits, trained: Trained) -> dict[str, object]:
    num_classes, model = len(splits.class_names), trained.model
    chosen = trained.recipe.architecture if trained.backbone is None else trained.backbone.architecture
    built: dict[str, object]
    if (name := architecture.torchvision_name(chosen)) is not None:
        built = {"torchvision": name}
    elif trained.backbone is not None and trained.backbone.extractor:
        built = {"onnx": trained.backbone.name}
    else:
        layers = architecture.resolve(chosen, splits.image_shape, num_classes)
        built = {"layers": [layer.model_dump() for layer in layers]}
    if trained.backbone is not None:
        built["backbone"] = {"name": trained.backbone.name, "digest": trained.backbone.digest}
    return {
        **built,
        "flip_average": trained.recipe.flip_average,
        "input_shape": list(splits.image_shape),
        "num_classes": num_classes,
        "class_names": splits.class_names,
        "mean": trained.mean,
        "std": trained.std,
        # The weights inside an ONNX backbone are no parameters of a torch module.
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()) + num_weights(model),
    }


def _served(trained: Trained) -> nn.Module:
    return modules.FlipAveraged(trained.model) if trained.recipe.flip_average else trained.model


@torch.inference_mode()
def logits(trained: Trained, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Compute the logits (n, K) of images (n, H, W, C) with PyTorch on the CPU."""
    model, found = _served(trained), []
    mean, std = torch.tensor(trained.mean), torch.tensor(trained.std)
    for start in range(0, len(images), _BATCH_SIZE):
        inputs = modules.normalise(torch.from_numpy(np.array(images[start : start + _BATCH_SIZE])), mean, std)
        found.append(model(inputs).numpy())
    return np.concatenate(found) if found else np.empty((0, 0), np.float32)
