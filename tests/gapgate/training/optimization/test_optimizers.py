import copy

import pytest
import torch
from torch import nn

from gapgate.settings.sections import TrainSettings
from gapgate.training.optimization import optimizers
from tests.gapgate.training.small_steps import run_steps, small_network


def torch_groups(network: nn.Module, weight_decay: float):
    weights = [parameter for parameter in network.parameters() if parameter.ndim >= 2]
    others = [parameter for parameter in network.parameters() if parameter.ndim < 2]
    return [{"params": weights, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def test_adamw_takes_the_steps_of_torch_with_decay_on_weights_alone():
    ours, theirs = small_network(), small_network()
    adamw = optimizers.AdamW(list(ours.parameters()), weight_decay=0.1)
    reference = torch.optim.AdamW(torch_groups(theirs, 0.1), lr=0.01, fused=False)
    for own, expected in zip(
        run_steps(ours, lambda _: adamw.step(0.01)), run_steps(theirs, lambda _: reference.step()), strict=True
    ):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sgd_takes_the_steps_of_torch(momentum):
    ours, theirs = small_network(), small_network()
    sgd = optimizers.NesterovSgd(list(ours.parameters()), momentum, weight_decay=0.0)
    reference = torch.optim.SGD(theirs.parameters(), lr=0.05, momentum=momentum, nesterov=momentum > 0)
    for own, expected in zip(
        run_steps(ours, lambda _: sgd.step(0.05)), run_steps(theirs, lambda _: reference.step()), strict=True
    ):
        torch.testing.assert_close(own, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("shape", [(8, 40), (40, 8), (16, 16)])
def test_orthogonalising_keeps_the_singular_vectors_and_levels_the_values(shape):
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = torch.diag(left.T @ optimizers.orthogonalised(matrix) @ right.T)
    assert 0.65 < values.min() < values.max() < 1.25
    torch.testing.assert_close(left @ torch.diag(values) @ right, optimizers.orthogonalised(matrix), atol=1e-4, rtol=0)


def test_muon_takes_the_steps_of_torch_for_kernels_and_those_of_adamw_for_the_rest():
    ours, theirs = small_network(), small_network()
    muon = optimizers.Muon(list(ours.parameters()), weight_decay=0.1)
    kernel = theirs[0].weight.detach().flatten(1).clone().requires_grad_()
    references = [
        torch.optim.Muon([kernel], lr=0.01, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(torch_groups(theirs[1:], 0.1), lr=0.01),
    ]

    def step(_: int) -> None:
        kernel.grad = theirs[0].weight.grad.flatten(1)
        for reference in references:
            reference.step()
        theirs[0].weight.data.copy_(kernel.detach().view(theirs[0].weight.shape))

    before = small_network()[0].weight.detach()
    own, *others = run_steps(ours, lambda _: muon.step(0.01), count=5)
    expected, *expected_others = run_steps(theirs, step, count=5)
    # torch computes in bfloat16, which has 8 bits: the steps agree to a few hundredths.
    assert (own - expected).norm() < 0.05 * (expected - before).norm()
    for other, expected_other in zip(others, expected_others, strict=True):
        torch.testing.assert_close(other, expected_other, rtol=0.05, atol=2e-3)


def test_sgd_decay_shrinks_weights_by_rate_times_decay_and_leaves_biases():
    network = small_network()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = copy.deepcopy(network.state_dict())
    optimizers.NesterovSgd(list(network.parameters()), momentum=0.9, weight_decay=0.5).step(0.1)
    for name, parameter in network.named_parameters():
        factor = 0.95 if parameter.ndim >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


def test_two_steps_of_sgd_are_those_worked_by_hand():
    weight = nn.Parameter(torch.tensor([[2.0]]))
    sgd = optimizers.NesterovSgd([weight], momentum=0.9, weight_decay=0.5)
    # 2 (1 − 0.1 · 0.5) − 0.1 (1 + 0.9 · 1), and then at twice the rate 1.71 (1 − 0.2 · 0.5) − 0.2 (1 + 0.9 · 1.9)
    for rate, expected in ((0.1, 1.71), (0.2, 0.997)):
        weight.grad = torch.ones_like(weight)
        sgd.step(rate)
        torch.testing.assert_close(weight.detach(), torch.tensor([[expected]]))


@pytest.mark.parametrize("rate", [0.0, 0.001, 0.1])
@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_every_optimizers_decay_is_the_rate_times_the_decay_and_of_weights_alone(optimizer, rate):
    settings = TrainSettings(optimizer=optimizer, weight_decay=0.5)
    network = small_network()
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = copy.deepcopy(network.state_dict())
    optimizers.build(settings, list(network.parameters())).step(rate)
    for name, parameter in network.named_parameters():
        factor = 1 - rate * 0.5 if parameter.ndim >= 2 else 1.0
        torch.testing.assert_close(parameter.detach(), before[name] * factor)


@pytest.mark.parametrize("optimizer", ["adamw", "muon", "sgd"])
def test_copying_an_optimizers_tensors_restores_it(optimizer):
    settings = TrainSettings(optimizer=optimizer)
    whole, parted = small_network(), small_network()
    steady = optimizers.build(settings, list(whole.parameters()))
    expected = run_steps(whole, lambda _: steady.step(0.01), count=6)
    first = optimizers.build(settings, list(parted.parameters()))
    second = optimizers.build(settings, list(parted.parameters()))

    def step(index: int) -> None:
        if index == 3:
            for name, tensor in second.tensors().items():
                tensor.copy_(first.tensors()[name])
        (first if index < 3 else second).step(0.01)

    for own, other in zip(run_steps(parted, step, count=6), expected, strict=True):
        assert torch.equal(own, other)


def test_a_parameter_that_the_loss_does_not_reach_stays_but_for_its_decay():
    reached, unreached = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    sgd = optimizers.NesterovSgd([reached, unreached], momentum=0.9, weight_decay=0.5)
    reached.grad = torch.ones(2, 2)
    sgd.step(0.1)
    torch.testing.assert_close(unreached.detach(), torch.full((2, 2), 0.95))
    torch.testing.assert_close(reached.detach(), torch.full((2, 2), 0.76))  # 0.95 − 0.1 · 1.9


def test_a_gradient_that_lies_in_memory_otherwise_than_its_parameter_is_taken_by_its_places():
    weight = nn.Parameter(torch.zeros(2, 3))
    weight.grad = torch.arange(6.0).view(3, 2).T  # strides (1, 2) where the parameter has (3, 1)
    optimizers.NesterovSgd([weight], momentum=0.0, weight_decay=0.0).step(1.0)
    torch.testing.assert_close(weight.detach(), -torch.tensor([[0.0, 2.0, 4.0], [1.0, 3.0, 5.0]]))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3])
def test_orthogonalising_does_not_depend_on_the_matrixs_size(size):
    matrix = torch.randn((4, 9), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(optimizers.orthogonalised(size * matrix), optimizers.orthogonalised(matrix))
    assert torch.equal(optimizers.orthogonalised(0 * matrix), torch.zeros(4, 9))


def test_five_newton_schulz_steps_take_a_singular_value_where_the_polynomial_takes_it():
    value = 1.0
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    torch.testing.assert_close(optimizers.orthogonalised(torch.tensor([[7.0]])), torch.tensor([[value]]))


def test_two_steps_of_muon_are_those_worked_by_hand():
    kernel = nn.Parameter(torch.full((1, 1, 1, 1), 2.0))
    muon = optimizers.Muon([kernel], weight_decay=0.5)
    direction = optimizers.orthogonalised(torch.ones(1, 1)).item()  # of one number: always the same, with its sign
    for gradient, expected in ((3.0, 2 * 0.95 - 0.1 * 0.2 * direction), (-9.0, None)):
        before = kernel.item()
        kernel.grad = torch.full((1, 1, 1, 1), gradient)
        muon.step(0.1)
        # The momentum is 0.05 · 3 = 0.15 and then 0.95 · 0.15 − 0.05 · 9 = −0.3: both directions have its sign.
        assert kernel.item() == pytest.approx(
            expected if expected is not None else before * 0.95 + 0.1 * 0.2 * direction, rel=1e-5
        )
    wide = nn.Parameter(torch.zeros(1, 4, 2, 2))
    wide.grad = torch.ones(1, 4, 2, 2)
    optimizers.Muon([wide], weight_decay=0.0).step(0.1)
    row = optimizers.orthogonalised(torch.ones(1, 16))
    torch.testing.assert_close(wide.detach().view(1, 16), -0.1 * 0.2 * 4 * row)  # √16 columns


def test_the_names_of_an_optimizers_tensors_are_their_places():
    network = small_network()
    parameters = list(network.parameters())
    adamw = {f"{group}.{name}.{index}" for group, count in ((0, 2), (1, 3)) for name in ("mean", "square", "step")
             for index in range(count)}  # fmt: skip
    assert set(optimizers.AdamW(parameters, 0.1).tensors()) == adamw
    assert set(optimizers.NesterovSgd(parameters, 0.9, 0.1).tensors()) == {f"velocity.{index}" for index in range(5)}


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", optimizers.AdamW), ("muon", optimizers.Muon), ("sgd", optimizers.NesterovSgd)]
)
def test_the_optimizer_is_the_one_that_the_settings_name(name, kind):
    assert type(optimizers.build(TrainSettings(optimizer=name), list(small_network().parameters()))) is kind
