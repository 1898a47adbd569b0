"""The best nodes of a Gaussian's flow, whose fine trajectories are x times a factor of time."""

from itertools import combinations, pairwise

import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.core.spec import even
from stages.samplers import sample
from stages.samplers.search import best_nodes, jump_costs
from tests.training.gaussian import GaussianVelocity, tokens

FINE = 100


def states(std: float, num_steps: int = FINE) -> tuple[Tensor, Tensor]:
    """Of one sample that starts at 1, so that costs are the factors' own squares."""
    net, one = GaussianVelocity(0.0, std), torch.ones(1, 1, 1, 1, dtype=torch.float64)
    times = even(num_steps).times
    found = sample(lambda x, t: net(x, t, tokens(len(x))), one, times, "euler", keep=range(num_steps + 1)).states
    return found.detach(), torch.tensor(times, dtype=torch.float64)


@pytest.mark.parametrize(
    ("std", "nodes", "cost"),
    [
        (0.5, [1, 0.32, 0], 0.037862),
        (0.5, [1, 0.57, 0.34, 0.17, 0], 0.005291),
        (0.5, [1, 0.76, 0.59, 0.46, 0.36, 0.27, 0.18, 0.09, 0], None),
        (0.25, [1, 0.2, 0], 0.011331),
        (0.25, [1, 0.42, 0.22, 0.1, 0], None),
    ],
)
def test_the_known_nodes_of_a_gaussian(std: float, nodes: list[float], cost: float | None) -> None:
    x, times = states(std)
    found, total = best_nodes(jump_costs(x, times))[len(nodes) - 2]
    assert [round(float(times[i]), 9) for i in found] == nodes
    assert cost is None or total == pytest.approx(cost, abs=1e-6)


@pytest.mark.parametrize(("num", "cost"), [(2, 0.075997), (4, 0.010265)])
def test_even_nodes_cost_more(num: int, cost: float) -> None:
    costs = jump_costs(*states(0.5))
    nodes = range(0, FINE + 1, FINE // num)
    assert sum(float(costs[a, b]) for a, b in pairwise(nodes)) == pytest.approx(cost, abs=1e-6)


def test_every_number_of_steps_has_the_least_cost_of_all_choices() -> None:
    x = torch.randn(8, 5, 3, dtype=torch.float64, generator=stream(0, "x"))
    times = torch.tensor([1.0, 0.9, 0.7, 0.6, 0.35, 0.3, 0.1, 0.0], dtype=torch.float64)
    costs = jump_costs(x, times)
    for num, (nodes, total) in enumerate(best_nodes(costs), start=1):
        assert (len(nodes), nodes[0], nodes[-1]) == (num + 1, 0, 7)
        every = [
            sum(float(costs[a, b]) for a, b in zip([0, *inner], [*inner, 7], strict=True))
            for inner in combinations(range(1, 7), num - 1)
        ]
        assert total == pytest.approx(min(every), abs=1e-12)


def test_the_whole_grid_costs_nothing_and_neither_does_a_straight_flow() -> None:
    nodes, total = best_nodes(jump_costs(*states(0.5)))[-1]
    assert nodes == list(range(FINE + 1))
    assert total == pytest.approx(0, abs=1e-25)
    times = torch.linspace(1, 0, 6, dtype=torch.float64)
    noise, x0 = torch.randn(2, 7, 3, dtype=torch.float64, generator=stream(0, "ends"))
    straight = x0 + times[:, None, None] * (noise - x0)
    assert all(total < 1e-25 for _, total in best_nodes(jump_costs(straight, times)))
