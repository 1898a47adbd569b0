"""The loops inside losses."""

import pytest
import torch

from stages.core.rng import stream
from stages.core.spec import even
from stages.samplers.rollout import rolled_out
from tests.training.gaussian import GaussianVelocity, tokens


@pytest.mark.parametrize(("steps", "std"), [(1, 0.0), (2, 0.137931), (4, 0.259757), (8, 0.325113), (100, 0.393498)])
def test_euler_shrinks_a_gaussian_by_the_known_amount(steps: int, std: float) -> None:
    net, x = GaussianVelocity(0.7, 0.4), torch.tensor([0.0, 1.0]).double().reshape(2, 1, 1, 1)
    states = rolled_out(net, x, even(steps).times, tokens(2))
    assert states.shape == (2, steps + 1, 1, 1, 1)
    zero, one = states[:, -1].flatten().tolist()
    assert zero == pytest.approx(0.7)
    assert one - zero == pytest.approx(std, abs=1e-6)


def test_renoised_keeps_the_law_of_a_perfect_jump() -> None:
    # x0hat = mean of the posterior; from t = 1 to t' the state is (1 - t') m + t' z
    net, x = GaussianVelocity(0.7, 0.4), torch.zeros(100_000, 1, 1, 1).double()
    out = rolled_out(net, x, (1.0, 0.5), tokens(len(x)), rule="renoise", rng=stream(0, "noise"))[:, -1]
    assert out.mean().item() == pytest.approx(0.35, abs=0.01)
    assert out.std().item() == pytest.approx(0.5, abs=0.01)
    assert torch.equal(rolled_out(net, x, (1.0,), tokens(len(x)))[:, -1], x)
