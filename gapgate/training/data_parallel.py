"""Data parallelism over CPU threads: each thread runs a shard of the batch through its own copy of the network, and the
gradients are added in a fixed order.

Two threads with half a batch each trained 4,800 images/s. One thread with two OpenMP threads inside each operation
trained 2,200 to 4,700, the fewer the busier the machine: an OpenMP team waits for its slowest member at the end of
every operation, the shards wait once a step. The sum of the shards' gradients is the batch's gradient. Batch
normalisation uses the statistics of its shard, as in torch's DistributedDataParallel (and in Hoffer et al. 2017,
arXiv:1705.08741, on purpose); the running statistics are the mean over the shards.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from types import TracebackType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from gapgate.network import modules

MIN_SHARD_IMAGES = 16
"""Least number of images in a shard; with fewer, the overhead of the thread is larger than what it saves."""

T = TypeVar("T")


def count_shards(num_shards: int, batch_size: int, device: torch.device) -> int:
    """Choose the number of shards: `num_shards`, or fewer where one would get less than `MIN_SHARD_IMAGES`; 1 on a GPU.

    The processors of the machine have no say, since the sum of more or fewer gradients has other bits.
    """
    return max(1, min(num_shards, batch_size // MIN_SHARD_IMAGES)) if device.type == "cpu" else 1


class Shards:
    """Copies of one network that share its weights, each with its own random generator, and the threads to run them."""

    def __init__(self, model: nn.Module, count: int, device: torch.device, num_threads: int) -> None:
        """Make `count` shards, of which `num_threads` are computed at a time."""
        self.models = [model, *(_sharing_copy(model) for _ in range(count - 1))]
        self.generators = [torch.Generator(device) for _ in range(count)]
        for copy, generator in zip(self.models, self.generators, strict=True):
            modules.set_generator(copy, generator)
        # The calling thread runs the first shard itself, so one thread fewer is needed.
        others = min(count, num_threads) - 1
        self._threads = ThreadPoolExecutor(others) if others else None

    def __len__(self) -> int:
        return len(self.models)

    def __enter__(self) -> Shards:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._threads is not None:
            self._threads.shutdown()

    def split(self, *batch: Tensor) -> list[tuple[Tensor, ...]]:
        """Split each tensor of a batch into equal parts along its first dimension, at most one for each shard."""
        return [tensor.chunk(len(self)) for tensor in batch]

    def map(self, function: Callable[..., T], *arguments: Sequence[Any]) -> list[T]:
        """Run `function` on the arguments of each shard, all at once; return the results in the shards' order.

        A batch smaller than the number of shards leaves the last shards idle.
        """
        first, *others = zip(*arguments, strict=False)
        if self._threads is None:
            return [function(*each) for each in (first, *others)]
        # Results are collected in the shards' order, not as they finish: float addition is not associative, and their
        # sum must have the same bits in every run.
        running = [self._threads.submit(function, *each) for each in others]
        return [function(*first), *(future.result() for future in running)]

    def clear_gradients(self) -> None:
        """Delete the gradients of the last step."""
        for model in self.models:
            model.zero_grad(set_to_none=True)

    @torch.no_grad()
    def merge(self) -> None:
        """Add the copies' gradients to the first model's, and give all copies the mean running statistics.

        To be called after each backward pass.
        """
        if len(self) == 1:
            return
        gradients = [_gradients(model) for model in self.models]
        statistics = [_statistics(model) for model in self.models]
        for other in gradients[1:]:
            torch._foreach_add_(gradients[0], other)
        if statistics[0]:
            for other in statistics[1:]:
                torch._foreach_add_(statistics[0], other)
            torch._foreach_div_(statistics[0], len(self))
            self.copy_statistics()

    @torch.no_grad()
    def copy_statistics(self) -> None:
        """Give every copy the first model's running statistics."""
        for model in self.models[1:]:
            for own, first in zip(_statistics(model), _statistics(self.models[0]), strict=True):
                own.copy_(first)


def _gradients(model: nn.Module) -> list[Tensor]:
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _statistics(model: nn.Module) -> list[Tensor]:
    """List the floating-point buffers: the means and variances of batch normalisation."""
    return [buffer for buffer in model.buffers() if buffer.is_floating_point()]


def _sharing_copy(model: nn.Module) -> nn.Module:
    """Copy a model such that the parameters share its memory and the gradients are the copy's own."""
    copy = deepcopy(model)
    for own, shared in zip(copy.parameters(), model.parameters(), strict=True):
        own.data = shared.data
    return copy
