"""The tutorial's PyTorch: torchvision's FashionMNIST, transforms on each image, a DataLoader; images/s of an epoch.

Each number of loader processes from 0 to `threads` is tried first, and the fastest is measured.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import datasets, transforms

from bench.train.worker import serve


def tutorial_cnn() -> nn.Module:
    """The tutorial's network, (N, 1, 28, 28) → logits (N, 10)."""
    return nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(32, 64, 3, padding="same"), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(64 * 7 * 7, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


def main(inputs: Path, threads: int, augmented: bool, num_images: int) -> None:
    """Train an epoch a round with the fastest number of loader processes."""
    torch.set_num_threads(threads)
    change = [transforms.RandomHorizontalFlip(), transforms.RandomAffine(0, translate=(0.1, 0.1))] if augmented else []
    transform = transforms.Compose([*change, transforms.ToTensor(), transforms.Normalize(0.286, 0.353)])
    dataset = Subset(datasets.FashionMNIST(str(inputs), train=True, transform=transform), range(num_images))
    model = tutorial_cnn()
    criterion = nn.CrossEntropyLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def epoch_with(num_workers: int) -> Callable[[], float]:
        loader = DataLoader(
            dataset, batch_size=128, shuffle=True, num_workers=num_workers, persistent_workers=num_workers > 0
        )

        def epoch() -> float:
            model.train()
            started = time.perf_counter()
            for images, labels in loader:
                optimizer.zero_grad()
                criterion(model(images), labels).backward()
                optimizer.step()
            return num_images / (time.perf_counter() - started)

        epoch()
        return epoch

    epochs = {num_workers: epoch_with(num_workers) for num_workers in range(threads + 1)}
    rates = {num_workers: max(epoch(), epoch()) for num_workers, epoch in epochs.items()}
    best = max(rates, key=lambda num_workers: rates[num_workers])
    chosen = epochs.pop(best)
    epochs.clear()
    serve(chosen, f"num_workers={best}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "augmented", int(sys.argv[4]))
