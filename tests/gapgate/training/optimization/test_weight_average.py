import copy

import torch

from gapgate.training.optimization.optimizers import NesterovSgd
from gapgate.training.optimization.weight_average import WeightAverage
from tests.gapgate.training.small_steps import run_steps, small_network


def test_the_average_follows_its_formula_for_weights_and_for_batch_norm_statistics():
    network = small_network()
    average = WeightAverage(network, decay=0.8)
    expected = copy.deepcopy(network.state_dict())
    optimizer = NesterovSgd(list(network.parameters()), 0.9, 0.0)
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
