import copy

import pytest
import torch
from torch import nn

from gapgate.settings.sections import TrainSettings
from gapgate.training import optimizers

PEAK = 0.3


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


def torch_schedule(make, total_steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=PEAK)
    scheduler = make(optimizer)
    rates = []
    for _ in range(total_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if len(rates) < total_steps:
            scheduler.step()
    return rates


@pytest.mark.parametrize(("total_steps", "warmup_steps"), [(50, 5), (40, 20), (7, 2)])
def test_cosine_has_the_values_of_torchs_linear_and_cosine_schedulers(total_steps, warmup_steps):
    schedulers = torch.optim.lr_scheduler

    def make(optimizer):
        rise = schedulers.LinearLR(optimizer, 1 / warmup_steps, total_iters=warmup_steps - 1)
        fall = schedulers.CosineAnnealingLR(optimizer, total_steps - warmup_steps)
        return schedulers.SequentialLR(optimizer, [rise, fall], [warmup_steps])

    fraction = warmup_steps / total_steps
    ours = [optimizers.lr_at(step, total_steps, PEAK, "cosine", fraction) for step in range(total_steps)]
    assert ours == pytest.approx(torch_schedule(make, total_steps), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_one_cycle_has_the_values_of_torchs_scheduler(fraction):
    def make(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK, total_steps=60, pct_start=fraction, cycle_momentum=False
        )

    ours = [optimizers.lr_at(step, 60, PEAK, "one_cycle", fraction) for step in range(60)]
    assert ours == pytest.approx(torch_schedule(make, 60), rel=1e-6)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
@pytest.mark.parametrize("total_steps", [1, 2, 9])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_every_schedule_stays_between_zero_and_the_peak_and_reaches_it(schedule, total_steps, fraction):
    rates = [optimizers.lr_at(step, total_steps, PEAK, schedule, fraction) for step in range(total_steps)]
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in rates)
    assert max(rates) > PEAK / 3
    assert total_steps < 9 or max(rates) > 0.9 * PEAK


def test_the_average_follows_its_formula_for_weights_and_for_batch_norm_statistics():
    network = small_network()
    average = optimizers.WeightAverage(network, decay=0.8)
    expected = copy.deepcopy(network.state_dict())
    optimizer = optimizers.NesterovSgd(list(network.parameters()), 0.9, 0.0)
    steps = 0

    def step(_: int) -> None:
        nonlocal steps
        optimizer.step(0.05)
        average.update()
        steps += 1
        decay = min(0.8, (1 + steps) / (10 + steps))
        for name, value in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value

    run_steps(network, step, count=40)
    for name, value in average.model.state_dict().items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
    assert not torch.equal(average.model[1].running_mean, network[1].running_mean)
    assert not any(parameter.requires_grad for parameter in average.model.parameters())
