"""Accuracy and time on folders of photos: from scratch, frozen features, fine-tuning and auto, beside a plain PyTorch
fine-tuning loop with the same backbone, weights, pixels and test images.

    python -m bench.photos FOLDER... [--methods frozen finetune plain] [--size 128]

A folder has a folder for each class. The plain loop is PyTorch's transfer learning tutorial: SGD with momentum 0.9 and
a rate of 0.001 on all layers, divided by 10 every 7 epochs, random mirror images, batches of 32. Times are those of
the training alone, with the features of `frozen` computed anew; a quarter of the images is for testing.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from gapgate.data.preprocess import preprocess
from gapgate.data.splits import Splits
from gapgate.evidence.measures import gap
from gapgate.network import backbones, modules
from gapgate.onnx.classifier import Classifier
from gapgate.settings.sections import AugmentSettings, PreprocessSettings, TrainSettings
from gapgate.training.fit import train

OURS = {"scratch": "small", "frozen": "frozen", "finetune": "finetune", "auto": "auto"}
"""Name of a method → `train.architecture`."""
PLAIN = "plain"
_BATCH_SIZE = 32


def main(argv: Sequence[str] | None = None) -> None:
    """Print a line for each folder and method."""
    data = os.environ.get("GAPGATE_TEST_DATA")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    default = sorted(Path(data, "photos").iterdir()) if data else None
    parser.add_argument("folders", nargs="*" if default else "+", type=Path, default=default)
    parser.add_argument("--methods", nargs="+", choices=[*OURS, PLAIN], default=[*OURS, PLAIN])
    parser.add_argument("--size", type=int, default=None, help="side in pixels (default: that of auto)")
    parser.add_argument("--epochs", type=int, default=10, help="epochs of the plain loop")
    args = parser.parse_args(argv)
    for folder in args.folders:
        for method in args.methods:
            correct, seconds, num_train = _measured(folder, method, args.size, args.epochs)
            found = gap.measure(correct, np.random.default_rng(0)).interval()
            print(
                f"{folder.name:<12} {method:<9} {num_train:>6,} for training, {len(correct):,} test images: "
                f"{found.value:.1%} ({found.low:.1%} to {found.high:.1%}), {seconds:.0f} s",
                flush=True,
            )


def _measured(folder: Path, method: str, size: int | None, epochs: int) -> tuple[NDArray[np.bool_], float, int]:
    """Measure one method: whether each test image is right, the seconds of the training, and its number of images."""
    network = "scratch" if method == "scratch" else "pretrained"
    settings = PreprocessSettings(network=network, evidence="holdout", stratify=True, size_px=size or "auto")
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        for name in ("splits", "model"):
            (root / name).mkdir()
        splits = preprocess(settings, folder, root / "splits")
        started = time.perf_counter()
        if method == PLAIN:
            answer = _plain(splits, epochs)
        else:
            architecture = TrainSettings(architecture=OURS[method], accelerator="cpu")
            train(architecture, splits, AugmentSettings().operations, root / "model", root / "checkpoints")
            answer = Classifier.load(root / "model" / "model.onnx").logits
        seconds = time.perf_counter() - started
        rows = splits.rows("test")
        predicted = np.concatenate(
            [answer(splits.images[rows[at : at + _BATCH_SIZE]]).argmax(1) for at in range(0, len(rows), _BATCH_SIZE)]
        )
        return predicted == splits.labels[rows], seconds, len(splits.rows("train"))


def _plain(splits: Splits, epochs: int):  # type: ignore[no-untyped-def]
    """Train the tutorial's way on train and val, and return the function from images to logits."""
    torch.manual_seed(0)
    backbone = backbones.load("efficientnet_lite0")
    model = backbone.build(splits.image_shape, len(splits.class_names))
    mean, std = torch.tensor(backbone.mean), torch.tensor(backbone.std)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.001, momentum=0.9)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    rows = np.concatenate([splits.rows("train"), splits.rows("val")])
    for _ in range(epochs):
        model.train()
        for part in torch.from_numpy(rows)[torch.randperm(len(rows))].split(_BATCH_SIZE):
            if len(part) > 1:  # batch normalisation cannot train on one
                _step(model, optimizer, splits, part.numpy(), mean, std)
        schedule.step()
    model.eval()

    @torch.inference_mode()
    def answer(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        logits: NDArray[np.float32] = model(modules.normalise(torch.from_numpy(np.array(images)), mean, std)).numpy()
        return logits

    return answer


def _step(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    splits: Splits,
    rows: NDArray[np.int64],
    mean: torch.Tensor,
    std: torch.Tensor,
) -> None:
    images = modules.normalise(torch.from_numpy(splits.images[rows]), mean, std)
    mirrored = torch.rand(len(rows)) < 0.5
    images[mirrored] = images[mirrored].flip(-1)
    optimizer.zero_grad()
    loss = functional.cross_entropy(model(images), torch.from_numpy(splits.labels[rows].astype(np.int64)))
    loss.backward()
    optimizer.step()


if __name__ == "__main__":
    main()
