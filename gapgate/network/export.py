"""Export of the model as one ONNX file: uint8 images in, logits out; the normalisation is part of the graph."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from gapgate.errors import SettingsError
from gapgate.network.architecture import ImageShape
from gapgate.network.modules import normalise
from gapgate.network.onnx_features import OPSET, inlined


class _Served(nn.Module):
    """Network with its normalisation: (N, H, W, C) uint8 → (N, num_classes) float32 logits."""

    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(normalise(images, self.mean, self.std))
        return logits


def export_onnx(
    model: nn.Module, image_shape: ImageShape, mean: Sequence[float], std: Sequence[float], path: Path
) -> None:
    """Write `model` in evaluation mode, with its normalisation, to `path`.

    The graph's input is `images` (N, H, W, C) uint8 and its output `logits` (N, num_classes) float32, with any N.
    `mean` and `std` are (C,), for pixels in 0..1. `model` itself is not changed.

    Raises:
        SettingsError: the network uses an operation that ONNX does not have.
    """
    # A copy, because `cpu`, `float` and `eval` change a module in place, and training may go on with it.
    served = _Served(copy.deepcopy(model).cpu().float(), mean, std).eval()
    images = torch.zeros(2, *image_shape, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            # The TorchScript exporter is deprecated; its successor imports torch._dynamo, 10 s more for the same graph.
            warnings.simplefilter("ignore", DeprecationWarning)
            # It leaves the sizes of an uneven padding as arithmetic on constants; ONNX Runtime folds it when it loads.
            warnings.filterwarnings("ignore", "Constant folding", UserWarning)
            torch.onnx.export(
                served,
                (images,),
                path,
                dynamo=False,
                opset_version=OPSET,
                input_names=["images"],
                output_names=["logits"],
                dynamic_axes={"images": {0: "N"}, "logits": {0: "N"}},
            )
    except torch.onnx.errors.OnnxExporterError as error:
        reason = str(error).splitlines()[0]
        raise SettingsError(f"train.architecture cannot be written as ONNX ({reason}); choose another") from None
    written = inlined(onnx.load(path), served)
    onnx.checker.check_model(written, full_check=True)
    onnx.save(written, path)
