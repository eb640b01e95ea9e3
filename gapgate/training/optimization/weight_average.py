"""The exponential moving average of a model's weights."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential moving average of a model's weights and of its batch-norm statistics, kept in `model`.

    The decay of step t is min(decay, (1 + t) / (10 + t)), so that the random start weighs little in a short training.
    The statistics are averaged as well, so they fit the averaged weights without another pass over the data. Counters
    are copied.
    """

    def __init__(self, source: nn.Module, decay: float) -> None:
        self.model = deepcopy(source).requires_grad_(False)
        self._decay = decay
        self._step = torch.zeros((), dtype=torch.int64)
        averaged, current = self.model.state_dict().values(), source.state_dict().values()
        pairs = list(zip(averaged, current, strict=True))
        self._averaged = [pair for pair in pairs if pair[0].is_floating_point()]
        self._copied = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average toward the present weights of the source."""
        step = int(self._step.add_(1))
        decay = min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_([own for own, _ in self._averaged], [new for _, new in self._averaged], 1 - decay)
        for own, new in self._copied:
            own.copy_(new)

    def tensors(self) -> dict[str, Tensor]:
        """Return the live tensors of the state; copying into them restores it."""
        return {"step": self._step, **{f"model.{name}": value for name, value in self.model.state_dict().items()}}
