"""ER-SDE: as the rules that it is for two functions of noise, orders, and a step by sums; errors are in test_golden."""

import math

import pytest
import torch

from stages.core.path import EDM, LINEAR
from stages.core.rng import stream
from stages.samplers import rule_of, sample
from stages.samplers.schedules import uniform
from tests.samplers.rigs import F64, OF_PATHS, START, gaussian, law_order, mixture, order

pytestmark = pytest.mark.slow


def er(phi, terms):
    return rule_of({"name": "er_sde", "phi": phi, "terms": terms})


@pytest.mark.parametrize(("terms", "expected"), [("1", 1), ("2", 2), ("3", 3), ("3_as_published", 2)])
@OF_PATHS
def test_orders_without_noise(path, terms, expected):
    found = order(er("rho", terms), path, exact=2)
    assert found == pytest.approx(expected, abs=0.25)


@pytest.mark.parametrize("phi", ["rho_squared", "er"])
@OF_PATHS
def test_the_order_of_the_variance_with_noise(path, phi):
    assert law_order(er(phi, "1"), path) == pytest.approx(1, abs=0.1)
    for terms in ("2", "3", "3_as_published"):
        assert 1.75 < law_order(er(phi, terms), path) < 3.2  # two at least, from either side


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (er("rho", "1"), {"name": "euler"}),
        (er("rho_squared", "1"), {"name": "ddim", "noise_level": 1.0, "variance": "small"}),
    ],
    ids=str,
)
def test_one_term_is_ddim(ours, theirs):
    found, expected = (
        sample(mixture(LINEAR), START[:, None], uniform(6), rule, rng=stream(1, "draws")).x0
        for rule in (ours, rule_of(theirs))
    )
    torch.testing.assert_close(found, expected)


def test_three_steps_of_three_terms_by_sums():
    """Where alpha = 1, as published, with the integrals as midpoint sums."""
    nodes, x, velocity = [2.0, 1.4, 0.9, 0.5], 2 * START, mixture(EDM)
    z = torch.randn(3, len(START), dtype=F64, generator=stream(0, "z"))

    def phi(u):
        return u * ((u**0.3).exp() + 10)

    made, old, old_d1 = x, [], None
    for i, (s, t) in enumerate([(2.0, 1.4), (1.4, 0.9), (0.9, 0.5)]):
        data = made - s * velocity(made, torch.full((41,), s))
        ratio = (phi(torch.tensor(t, dtype=F64)) / phi(torch.tensor(s, dtype=F64))).item()
        u = t + (s - t) * (torch.arange(20_000, dtype=F64) + 0.5) / 20_000
        j0, j1 = ((f / phi(u)).mean().item() * (s - t) for f in (torch.ones_like(u), u - s))
        made = ratio * made + (1 - ratio) * data + math.sqrt(t**2 - s**2 * ratio**2) * z[i]
        end = phi(torch.tensor(t, dtype=F64)).item()
        if i >= 1:
            d1 = (data - old[-1]) / (s - nodes[i - 1])
            made = made + (t - s + end * j0) * d1
            if i == 2:
                made = made + ((t - s) ** 2 / 2 + end * j1) * 2 * (d1 - old_d1) / (s - nodes[0])
            old_d1 = d1
        old.append(data)
    rule = er("er", "3_as_published")
    found = sample(velocity, x, nodes, rule, path=EDM, rng=lambda node, _x: z[node - 1]).x0
    torch.testing.assert_close(found, made, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("terms", ["2", "3"])
def test_from_pure_noise_to_data_it_converges(terms):
    noise, velocity = torch.tensor([1.3, -0.4], dtype=F64), gaussian(LINEAR, 0.7, 0.4)
    gaps = [
        (sample(velocity, noise, uniform(64), rule).x0 - 0.7 - 0.4 * noise).abs().max()
        for rule in (er("rho", terms), er("rho", "1"))
    ]
    assert gaps[0] < 5e-4
    assert gaps[1] > 2e-3


def test_from_pure_noise_nothing_is_kept_where_there_is_noise():
    ends = [
        sample(mixture(LINEAR), noise, [1.0, 0.5], er("er", "3"), rng=stream(1, "draws")).x0
        for noise in (torch.zeros(9, dtype=F64), torch.ones(9, dtype=F64))
    ]
    torch.testing.assert_close(*ends)  # D of pure noise is the data's mean
