"""Align Your Steps: the bound on Gaussians, where it and its best nodes are known, and the published tables."""

from itertools import pairwise

import pytest
import torch
from diffusers.schedulers import AysSchedules

from stages.core.config import check
from stages.core.path import LINEAR, VP_COSINE
from stages.core.rng import stream
from stages.samplers import sample
from stages.samplers.aligned import aligned_costs
from stages.samplers.schedules import times_at
from stages.samplers.search import best_nodes
from stages.samplers.spec import Sampler
from tests.samplers.rigs import F64, gaussian

STD = 0.5


def costs(times, path=LINEAR, num=4000):
    x0 = STD * torch.randn(num, 1, generator=stream(0, "x0"), dtype=F64)
    return aligned_costs(gaussian(path, 0.0, STD), x0, path, times, stream(0, "noise"))


def levelled(count, path=LINEAR, hi=20.0, lo=0.05):
    rho = torch.logspace(*torch.tensor([hi, lo], dtype=F64).log10().tolist(), count, dtype=F64)
    return rho, torch.cat([times_at(rho, path), torch.zeros(1, dtype=F64)])


def gap(rho, b):
    """E|D_rho - D_b|^2 on N(0, c^2)."""
    return STD**4 * (1 / (rho**2 + STD**2) - 1 / (b**2 + STD**2))


@pytest.mark.parametrize("path", [LINEAR, VP_COSINE], ids=lambda path: path.name)
def test_the_bound_is_the_integral_of_what_data_predictions_differ_by(path):
    rho, times = levelled(100, path)
    found = costs(times, path)
    fine = torch.linspace(0, 1, 20_001, dtype=F64)
    for j, k in ((0, 99), (0, 50), (30, 70), (50, 99)):
        log = rho[k].log() + fine * (rho[j] / rho[k]).log()
        exact = torch.trapezoid((-2 * log).exp() * gap(log.exp(), rho[j]), log).item()
        assert found[j, k].item() == pytest.approx(exact, rel=0.06)
    assert found[-2, -1] == 0
    assert torch.equal(found[:-2, -1], found[:-2, -2]), "below the last level nothing is counted"


def test_the_best_nodes_of_a_gaussian_are_those_of_its_own_bound():
    rho, times = levelled(100)
    exact = torch.full((101, 101), torch.inf, dtype=F64)
    for j in range(99):
        gaps = gap(rho[j:], rho[j])
        exact[j, j + 1 : 100] = (0.25 * (rho[j:] ** -2).diff() * (gaps[1:] + gaps[:-1])).cumsum(0)
    exact[:99, 100] = exact[:99, 99]
    exact[99, 100] = 0
    measured = costs(times)
    for num in (1, 3, 6):
        (nodes, _), (_, least) = best_nodes(measured)[num - 1], best_nodes(exact)[num - 1]
        assert sum(exact[a, b].item() for a, b in pairwise(nodes)) == pytest.approx(least, rel=0.03)


def test_a_first_node_of_pure_noise_has_the_mean_for_its_data():
    """K(a, inf) is the integral of rho^-3 c^4 / (rho^2 + c^2) from a on."""
    rho, times = levelled(100, lo=0.3, hi=60.0)
    found = costs(torch.cat([torch.ones(1, dtype=F64), times]))[0, 100].item()
    a, c = rho[-1].item(), STD
    exact = c**2 / (2 * a**2) - 0.5 * torch.log1p(torch.tensor(c**2 / a**2)).item()
    assert found == pytest.approx(exact, rel=0.05)


def stated(**optimised):
    def made(steps):
        schedule = {"name": "align_your_steps", "steps": steps, "optimised": optimised}
        return check(Sampler, {"rule": {"name": "euler"}, "schedule": schedule, "guidance": 1.0}, "s").spec.times

    return made


@pytest.mark.parametrize(
    ("of", "theirs"), [("sd15", "StableDiffusion"), ("sdxl", "StableDiffusionXL"), ("svd", "StableDiffusionVideo")]
)
def test_ten_steps_are_the_published_ones(of, theirs):
    times = stated(of=of)(10)
    assert [t / (1 - t) for t in times[1:]] == pytest.approx(AysSchedules[f"{theirs}Sigmas"][1:], rel=1e-9)
    assert times[0] == 1


def test_other_numbers_of_steps_lie_between_them():
    times = stated(of="sdxl")
    levels = [t / (1 - t) for t in times(19)[1:-1]]
    assert levels[1::2] == pytest.approx([t / (1 - t) for t in times(10)[1:-1]])
    assert levels[2] == pytest.approx((levels[1] * levels[3]) ** 0.5)


def test_on_gaussian_data_eulers_rule_keeps_the_most_of_the_spread():
    """Its standard deviation over the exact one is a product of cosines of steps in arctan(sigma / alpha / std)."""
    given = stated(of="gaussian", std=0.5, hi=80.0, lo=0.002)(9)
    times = torch.tensor(given[1:-1], dtype=F64)
    angles = (times / (1 - times) / 0.5).atan()
    torch.testing.assert_close(angles.diff(), angles.diff()[:1].expand(7))

    def kept(inner):
        nodes = [given[1], *inner, given[-2]]
        one = torch.ones(1, dtype=F64)
        return sample(gaussian(LINEAR, 0.0, 0.5), one, nodes, "euler").x0.item()

    best = kept(given[2:-2])
    for moved in range(2, 7):
        for by in (0.97, 1.03):
            assert kept([t * by if node == moved else t for node, t in enumerate(given)][2:-2]) < best


def test_levels_fall():
    with pytest.raises(ValueError, match=r"s\.schedule\.optimised: hi=1.0 must be greater than lo=2.0"):
        stated(of="gaussian", std=0.5, hi=1.0, lo=2.0)(9)
