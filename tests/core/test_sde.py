"""The flow SDE: an affine recursion on a Gaussian, a mixture, and its densities."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.core.sde import Step, flow_sde_step, grid
from stages.core.spec import even
from tests.training.gaussian import GaussianVelocity, tokens

MEAN, S2 = 1.0, 0.25


def steps(num: int, level: float) -> list[Step]:
    times = grid(even(num).times, torch.zeros((), dtype=torch.float64))
    return [flow_sde_step(times, torch.tensor([k]), level) for k in range(num)]


def affine(num: int, level: float, *, noisy_end: bool) -> tuple[float, float, float, float]:
    """Mean, variance, correlation with x1 and Var(x0 | x1) of the sampler on N(1, .25), by recursion."""
    mean, slope, conditional = 0.0, 1.0, 0.0
    for k, step in enumerate(steps(num, level)):
        t = 1 - k / num
        variance = (1 - t) ** 2 * S2 + t**2
        rate = (t - (1 - t) * S2) / variance  # v = rate x + offset
        offset = -MEAN - rate * (1 - t) * MEAN
        last = k == num - 1 and not noisy_end
        a, b = (1.0, -1 / num) if last else (step.x_weight.item(), step.v_weight.item())
        noise = 0.0 if last else step.std.item()
        gain = a + b * rate
        mean, slope, conditional = gain * mean + b * offset, gain * slope, gain**2 * conditional + noise**2
    total = conditional + slope**2
    return mean, total, slope / math.sqrt(total), conditional


@pytest.mark.parametrize(
    ("num", "variance", "correlation", "conditional"),
    [
        (4, 0.2078, 0.198, 0.1996),
        (10, 0.2301, 0.229, 0.2180),
        (50, 0.2485, 0.188, 0.2397),
        (1000, 0.2509, 0.096, 0.2486),
    ],
)
def test_flow_sde_on_a_gaussian(num: int, variance: float, correlation: float, conditional: float) -> None:
    found = affine(num, 0.7, noisy_end=False)
    assert found == pytest.approx((1.0, variance, correlation, conditional), abs=6e-4)


@pytest.mark.parametrize(("num", "variance", "correlation"), [(4, 0.2058, 0.178), (10, 0.2300, 0.226)])
def test_flow_sde_with_noise_in_its_last_step(num: int, variance: float, correlation: float) -> None:
    _, found, corr, _ = affine(num, 0.7, noisy_end=True)
    assert (found, corr) == pytest.approx((variance, correlation), abs=6e-4)


@pytest.mark.parametrize(
    ("num", "variance", "correlation"), [(4, 0.4450, -0.02), (10, 0.2569, 0.0006), (1000, 0.25, 0)]
)
def test_memoryless_level(num: int, variance: float, correlation: float) -> None:
    _, found, corr, _ = affine(num, math.sqrt(2), noisy_end=False)
    assert (found, corr) == pytest.approx((variance, correlation), abs=2e-3)


def mixture_velocity(x: Tensor, t: float) -> Tensor:
    """The exact velocity of .3 N(-1, .3^2) + .7 N(1, .2^2)."""
    share, mu, sd = (torch.tensor(row).double()[:, None] for row in ([0.3, 0.7], [-1.0, 1.0], [0.3, 0.2]))
    variance = (1 - t) ** 2 * sd**2 + t**2
    gap = x - (1 - t) * mu
    weight = torch.softmax(share.log() - variance.log() / 2 - gap**2 / (2 * variance), dim=0)
    x0 = (weight * (mu + (1 - t) * sd**2 / variance * gap)).sum(dim=0)
    return (x - x0) / t


def mixture_run(num: int, n: int, step_of: Callable[[Step, Tensor, Tensor], Tensor]) -> tuple[float, float]:
    """P(x < 0) and the variance of n samples; the last step is deterministic."""
    rng = stream(0, "mixture")
    x = torch.randn(n, dtype=torch.float64, generator=rng)
    for k, step in enumerate(steps(num, 0.7)[:-1]):
        v = mixture_velocity(x, 1 - k / num)
        x = step_of(step, x, v) + step.std * torch.randn(n, dtype=torch.float64, generator=rng)
    x = x - mixture_velocity(x, 1 / num) / num
    return (x < 0).double().mean().item(), x.var().item()


def test_flow_sde_keeps_a_mixture() -> None:
    share, variance = mixture_run(300, 20_000, lambda step, x, v: step.mean(x, v))
    assert share == pytest.approx(0.2999, abs=0.012)
    assert variance == pytest.approx(0.895, abs=0.025)


def test_the_mixture_tells_a_missing_score_term() -> None:
    share, variance = mixture_run(300, 20_000, lambda _step, x, v: x - v / 300)
    assert share > 0.38
    assert variance > 1.5


def test_log_prob_is_the_gaussians_up_to_a_constant() -> None:
    (step,) = steps(4, 0.7)[1:2]
    mean, x = torch.tensor([[0.2], [0.2]]).double(), torch.tensor([[0.5], [-0.1]]).double()
    exact = torch.distributions.Normal(mean, step.std).log_prob(x).flatten()
    found = step.log_prob(x, mean)
    torch.testing.assert_close(found - found[:1], exact - exact[:1])


def test_log_prob_and_kl_are_means_over_elements() -> None:
    (step,) = steps(4, 0.7)[1:2]
    x, v, w = (torch.randn(1, 1, 1, 1, dtype=torch.float64, generator=stream(0, name)) for name in "xvw")
    wide = [y.expand(1, 3, 5, 5) for y in (x, v, w)]
    torch.testing.assert_close(step.log_prob(wide[0], wide[1]), step.log_prob(x, v))
    torch.testing.assert_close(step.kl(wide[1], wide[2]), step.kl(v, w))


@pytest.mark.parametrize("index", [0, 1, 3])
def test_kl_is_the_closed_form_and_the_mean_log_ratio(index: int) -> None:
    num, level, n = 5, 0.7, 200_000
    (step,) = steps(num, level)[index : index + 1]
    net, other = GaussianVelocity(1.0, 0.5), GaussianVelocity(0.4, 0.7)
    x = torch.full((n, 1, 1, 1), 0.3, dtype=torch.float64)
    t = torch.full((n,), 1 - index / num, dtype=torch.float64)
    with torch.no_grad():
        v, w = net(x, t, tokens(n)), other(x, t, tokens(n))
    found = step.kl(v[:1], w[:1]).item()
    if index:  # (h/2) ((1-t)/t) (1/a + a/2)^2 |v - w|^2; at t = 1 the code's g is not the formula's
        time, h = t[0].item(), 1 / num
        closed = h / 2 * (1 - time) / time * (1 / level + level / 2) ** 2 * (v[0] - w[0]).item() ** 2
        assert found == pytest.approx(closed)
    x_next = step.mean(x, v) + step.std * torch.randn(x.shape, dtype=torch.float64, generator=stream(0, "z"))
    ratio = step.log_prob(x_next, step.mean(x, v)) - step.log_prob(x_next, step.mean(x, w))
    assert ratio.mean().item() == pytest.approx(found, rel=0.03, abs=1e-4)
