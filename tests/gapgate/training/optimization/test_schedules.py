import pytest
import torch
from torch import nn

from gapgate.training.optimization import schedules

PEAK = 0.3


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
    ours = [schedules.lr_at(step, total_steps, PEAK, "cosine", fraction) for step in range(total_steps)]
    assert ours == pytest.approx(torch_schedule(make, total_steps), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("fraction", [0.1, 0.3, 0.5])
def test_one_cycle_has_the_values_of_torchs_scheduler(fraction):
    def make(optimizer):
        return torch.optim.lr_scheduler.OneCycleLR(
            optimizer, PEAK, total_steps=60, pct_start=fraction, cycle_momentum=False
        )

    ours = [schedules.lr_at(step, 60, PEAK, "one_cycle", fraction) for step in range(60)]
    assert ours == pytest.approx(torch_schedule(make, 60), rel=1e-6)


@pytest.mark.parametrize(("total_steps", "fraction"), [(2, 0.0), (2, 0.5), (3, 0.0), (3, 0.4), (60, 0.1), (60, 0.9)])
def test_one_cycle_ends_at_the_250_000th_part_of_its_peak(total_steps, fraction):
    last = schedules.one_cycle_lr(total_steps - 1, total_steps, PEAK, fraction)
    assert last == pytest.approx(PEAK / 250_000)


@pytest.mark.parametrize("schedule", ["cosine", "one_cycle", "constant"])
@pytest.mark.parametrize("total_steps", [1, 2, 9])
@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 0.99])
def test_every_schedule_stays_between_zero_and_the_peak_and_reaches_it(schedule, total_steps, fraction):
    rates = [schedules.lr_at(step, total_steps, PEAK, schedule, fraction) for step in range(total_steps)]
    assert all(0 <= rate <= PEAK * (1 + 1e-12) for rate in rates)
    assert max(rates) > PEAK / 3
    assert total_steps < 9 or max(rates) > 0.9 * PEAK
