"""Optimizers, without `torch.optim`'s classes.

Building a `torch.optim` optimizer imports `torch._dynamo`, which took 6 to 7 s when it was measured: longer than a
short training. The functional kernels of `torch.optim` are the same code without that import.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw
from torch.optim.sgd import sgd

from gapgate.settings.sections import TrainSettings

_ADAM_BETAS = (0.9, 0.999)  # the defaults of Kingma and Ba 2014, and of torch
_ADAM_EPSILON = 1e-8
_MUON_MOMENTUM = 0.95  # as Jordan et al.
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of x, x³ and x⁵ in the polynomial that Jordan et al. chose to raise small singular values fast."""
_NEWTON_SCHULZ_STEPS = 5


class Optimizer(Protocol):
    """Rule that changes weights by their gradients, in place."""

    def step(self, learning_rate: float) -> None:
        """Change the weights by one step."""

    def tensors(self) -> dict[str, Tensor]:
        """Return the live tensors of the state; copying into them restores it."""


class AdamW:
    """AdamW (Loshchilov and Hutter 2017, arXiv:1711.05101) with torch's fused kernel.

    Only weights (ndim ≥ 2) decay, not biases and the scales of batch normalisation.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float) -> None:
        self._groups = [_AdamGroup(*group) for group in _decay_groups(parameters, weight_decay)]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        for group in self._groups:
            adamw(
                group.parameters,
                _gradients(group.parameters),
                group.means,
                group.squares,
                # The maxima of the squares, which only amsgrad has.
                [],
                group.steps,
                fused=True,
                amsgrad=False,
                beta1=_ADAM_BETAS[0],
                beta2=_ADAM_BETAS[1],
                lr=learning_rate,
                weight_decay=group.weight_decay,
                eps=_ADAM_EPSILON,
                maximize=False,
            )

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"{number}.{name}.{index}": tensor
            for number, group in enumerate(self._groups)
            for name, tensors in (("mean", group.means), ("square", group.squares), ("step", group.steps))
            for index, tensor in enumerate(tensors)
        }


class _AdamGroup:
    """Parameters with the same weight decay, and the running means of their gradients and of the squared gradients."""

    def __init__(self, parameters: list[Tensor], weight_decay: float) -> None:
        self.parameters = parameters
        self.weight_decay = weight_decay
        self.means = [torch.zeros_like(parameter) for parameter in parameters]
        self.squares = [torch.zeros_like(parameter) for parameter in parameters]
        self.steps = [torch.zeros((), device=parameter.device) for parameter in parameters]


class NesterovSgd:
    """SGD with Nesterov momentum (Sutskever et al. 2013) and decoupled weight decay, the SGDW of arXiv:1711.05101."""

    def __init__(self, parameters: Sequence[nn.Parameter], momentum: float, weight_decay: float) -> None:
        self._parameters: list[Tensor] = list(parameters)
        self._groups = _decay_groups(parameters, weight_decay)
        self._momentum = momentum
        # From zeros the first velocity is the gradient itself, as in torch.optim.SGD without dampening.
        self._velocities = [torch.zeros_like(parameter) for parameter in parameters]

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        # Decoupled decay, before the step and scaled by the learning rate (algorithm 1 of the paper): torch's own
        # weight_decay adds to the gradient, and so to the momentum.
        for parameters, weight_decay in self._groups:
            if weight_decay:
                torch._foreach_mul_(parameters, 1 - learning_rate * weight_decay)
        sgd(
            self._parameters,
            _gradients(self._parameters),
            list(self._velocities),
            fused=True,
            weight_decay=0.0,
            momentum=self._momentum,
            lr=learning_rate,
            dampening=0.0,
            nesterov=self._momentum > 0,
            maximize=False,
        )

    def tensors(self) -> dict[str, Tensor]:
        return {f"velocity.{index}": velocity for index, velocity in enumerate(self._velocities)}


class Muon:
    """Muon (Jordan et al. 2024) for the kernels of convolutions, AdamW for everything else.

    Steps have the size of AdamW's (Liu et al. 2025, arXiv:2502.16982), so both use the same learning rate and weight
    decay. Measured on Fashion-MNIST, ten epochs of three convolutions, one seed: 93.6 % on val at a learning rate of
    0.008; AdamW 93.1 % at 0.004.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], weight_decay: float) -> None:
        self._kernels: list[Tensor] = [parameter for parameter in parameters if parameter.ndim == 4]
        self._momenta = [torch.zeros_like(kernel) for kernel in self._kernels]
        self._weight_decay = weight_decay
        self._others = AdamW([parameter for parameter in parameters if parameter.ndim != 4], weight_decay)

    @torch.no_grad()
    def step(self, learning_rate: float) -> None:
        for kernel, momentum, gradient in zip(self._kernels, self._momenta, _gradients(self._kernels), strict=True):
            # Nesterov momentum: the direction is the gradient moved toward the momentum once more.
            momentum.lerp_(gradient, 1 - _MUON_MOMENTUM)
            direction = gradient.lerp(momentum, _MUON_MOMENTUM).flatten(1)  # (filters, channels × height × width)
            # An orthogonal matrix has the root mean square 1 / √(longer side). This factor makes it 0.2, which is
            # AdamW's usual size (Liu et al. 2025, section 2.2).
            size = 0.2 * math.sqrt(max(direction.shape))
            kernel.mul_(1 - learning_rate * self._weight_decay)
            kernel.add_(orthogonalised(direction).view(kernel.shape), alpha=-learning_rate * size)
        self._others.step(learning_rate)

    def tensors(self) -> dict[str, Tensor]:
        return self._others.tensors() | {f"momentum.{index}": momentum for index, momentum in enumerate(self._momenta)}


class Scaled:
    """Optimizers of parts of a network, each with its share of the learning rate."""

    def __init__(self, parts: Sequence[tuple[Optimizer, float]]) -> None:
        self._parts = parts

    def step(self, learning_rate: float) -> None:
        for optimizer, share in self._parts:
            optimizer.step(share * learning_rate)

    def tensors(self) -> dict[str, Tensor]:
        return {
            f"part {number}.{name}": tensor
            for number, (optimizer, _) in enumerate(self._parts)
            for name, tensor in optimizer.tensors().items()
        }


def orthogonalised(matrix: Tensor) -> Tensor:
    """Compute the matrix (rows, columns) with the same singular vectors and all singular values near 1 (0.7 to 1.2).

    The method is Newton–Schulz iteration, in float32; torch's own uses bfloat16, which many CPUs do not have.
    """
    first, second, third = _NEWTON_SCHULZ
    # A wide matrix has the smaller Gram matrix. Divided by its Frobenius norm it has singular values in 0..1, the range
    # that the polynomial was chosen for.
    wide = matrix if len(matrix) <= matrix.shape[1] else matrix.T
    wide = wide / wide.norm().clamp(min=1e-7)
    for _ in range(_NEWTON_SCHULZ_STEPS):
        gram = wide @ wide.T
        # a X + (b G + c G²) X with G = X Xᵀ: the polynomial on the singular values, without an SVD.
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=second, alpha=third), wide, beta=first)
    return wide if len(matrix) <= matrix.shape[1] else wide.T


def build(settings: TrainSettings, parameters: Sequence[nn.Parameter]) -> Optimizer:
    """Build the optimizer that the settings name, for these parameters."""
    if settings.optimizer == "adamw":
        return AdamW(parameters, settings.weight_decay)
    if settings.optimizer == "muon":
        return Muon(parameters, settings.weight_decay)
    return NesterovSgd(parameters, settings.momentum, settings.weight_decay)


def _decay_groups(parameters: Sequence[nn.Parameter], weight_decay: float) -> list[tuple[list[Tensor], float]]:
    weights: list[Tensor] = [parameter for parameter in parameters if parameter.ndim >= 2]
    others: list[Tensor] = [parameter for parameter in parameters if parameter.ndim < 2]
    return [(group, decay) for group, decay in ((weights, weight_decay), (others, 0.0)) if group]


def _gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients, each in the memory layout of its parameter; zeros for a parameter without a gradient.

    The loss does not reach every parameter: a pretrained Inception has a second head.
    """
    # The fused kernels walk parameter and gradient in memory order, whatever their strides.
    return [_laid_out_as(parameter, parameter.grad) for parameter in parameters]


def _laid_out_as(parameter: Tensor, gradient: Tensor | None) -> Tensor:
    if gradient is None:
        return torch.zeros_like(parameter)
    if gradient.stride() == parameter.stride():
        return gradient
    return torch.empty_like(parameter).copy_(gradient)
