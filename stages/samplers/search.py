"""The best nodes for a few Euler steps of a flow, out of a fine grid, by dynamic programming.

Source: Nguyen et al. 2023 (BOSS, Bellman optimal step sizes, arXiv:2312.16414) and its code. What is least is the sum
of local errors, each of one jump from a state of the fine trajectory; errors of several jumps may still add up to more.
"""

import torch
from torch import Tensor


def jump_costs(states: Tensor, times: Tensor) -> Tensor:
    """[n + 1, n + 1]: mean squared distance, a sum over elements, from where Euler's jump j -> k lands to state k.

    `states` [n + 1, B, ...] are Euler's own at `times` [n + 1], so that a jump to the next node costs nothing. Infinite
    where k <= j.
    """
    costs = torch.full((len(times), len(times)), torch.inf, dtype=torch.float64)
    flat = states.flatten(2).double()
    for j in range(len(times) - 1):
        velocity = (flat[j + 1] - flat[j]) / (times[j + 1] - times[j])
        landed = flat[j] + (times[j + 1 :] - times[j])[:, None, None] * velocity
        costs[j, j + 1 :] = (landed - flat[j + 1 :]).square().sum(dim=2).mean(dim=1)
    return costs


def best_nodes(costs: Tensor) -> list[tuple[list[int], float]]:
    """For K = 1, 2, .. n jumps the nodes from 0 to n of least total cost, K + 1 of them, and that cost."""
    last = len(costs) - 1
    total = torch.full((last + 1,), torch.inf, dtype=costs.dtype)
    total[0] = 0
    came_from, found = [], []
    for num_jumps in range(1, last + 1):
        total, before = (total[:, None] + costs).min(dim=0)
        came_from.append(before.tolist())
        nodes = [last]
        for step in reversed(range(num_jumps)):
            nodes.append(came_from[step][nodes[-1]])
        found.append((nodes[::-1], total[last].item()))
    return found
