"""A small network and real steps of it, for what changes weights."""

import torch
from torch import nn


def small_network() -> nn.Module:
    torch.manual_seed(0)
    # No bias before batch normalisation: its gradient is rounding noise, which Adam scales up to full steps.
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)
    )
    return network.to(memory_format=torch.channels_last)


def run_steps(network: nn.Module, step, count: int = 20) -> list[torch.Tensor]:
    """Real gradients of a real loss; `step(index)` changes the weights after each."""
    generator = torch.Generator().manual_seed(1)
    for index in range(count):
        images = torch.randn(6, 3, 4, 4, generator=generator)
        network.zero_grad()
        nn.functional.cross_entropy(network(images), torch.arange(6) % 5).backward()
        step(index)
    return [parameter.detach().clone() for parameter in network.parameters()]
