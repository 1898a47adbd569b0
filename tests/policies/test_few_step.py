"""May a denoising loss train a few-step student? What the policies' real losses ask of its answer, in closed form.

Let q be the law of the student's samples, A a weight of each, C = Cov(A, x0 | x_t) and a = E[A | x_t]. Each of these
losses, at the policy that made the samples, moves the data estimate D along

    C + a (D_q - D),   D_q = E_q[x0 | x_t].

A velocity model's D is D_q, and C alone tilts its law: the losses are right. A few-step student's D is a map, and the
second term blurs it where a > 0 and drives it apart where a < 0. At t = 1 the state says nothing of the sample: C is a
constant, all samples move alike, and none learns which noise made it.
"""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from stages.core.rng import stream
from stages.core.spec import even
from stages.policies import awm, crd, dgpo, nft
from stages.samplers import sample
from tests.policies import conditional, test_awm, test_crd, test_dgpo, test_nft
from tests.policies.conditional import (
    asked,
    constant,
    cumulative,
    gaussian_nodes,
    mixture_nodes,
    posterior,
    quantiles,
    row_slopes,
)
from tests.training.gaussian import GaussianVelocity, tokens

RULES: dict[str, tuple[ModuleType, Any, float]] = {
    "awm": (awm, test_awm.CONFIG, 1.0),
    "nft": (nft, test_nft.CONFIG, 1.0),
    "dgpo": (dgpo, test_dgpo.CONFIG, 0.5),  # its group weight, where training begins
    "crd": (crd, test_crd.CONFIG, 1.0),
}
"""With the factor that its gradient has beside the others'."""
SHARE = 0.7001285174
"""E[r], r = 1 where x0 > 0."""


def given(nodes: Tensor, advantage: Tensor) -> dict[str, Tensor]:
    return {**conditional.rows(nodes, advantage), "good": nft.goodness(advantage, test_nft.CONFIG.advantage_clip)}


def everyone(data: float) -> dict[str, Callable[[Tensor, Tensor], Tensor]]:
    """All roles answer the same: training begins."""
    return dict.fromkeys(("student", "old", "ema", "reference"), constant(data))


def bracket(rule: str, x: float, t: float, data: float, advantage: Callable[[Tensor], Tensor]) -> float:
    """What the loss asks of the answer `data` at x_t = x, the student's samples being the mixture."""
    module, cfg, factor = RULES[rule]
    nodes, p = mixture_nodes()
    eps, weights = posterior(x, t, nodes, p)
    return asked(module, cfg, given(nodes, advantage(nodes)), weights, (eps, t), everyone(data)) / factor


GOLDEN = [
    (0.75, -0.5, 0.18894, -0.80559, 0.47900, -0.09901),
    (0.75, 0.5, 0.57811, 1.03109, 0.33422, -0.03810),
    (0.5, -0.5, -0.50234, -0.95610, 0.36898, -0.20018),
    (0.5, 0.25, 0.71343, 0.88322, 0.22875, -0.02650),
    (0.25, 0.0, 0.14523, -0.08125, 0.31948, -0.03517),
    (0.25, 0.5, 0.91114, 0.82847, 0.00057, 0.02475),
]
"""t, x, D_q, the perfect student's answer f, C, and (E[r | x] - E[r]) (D_q - f)."""


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("row", GOLDEN)
def test_the_master_identity(rule: str, row: tuple[float, ...]) -> None:
    t, x, mean, answer, covariance, blur = row
    zero_sum = lambda x0: (x0 > 0).double() - SHARE  # noqa: E731
    assert bracket(rule, x, t, answer, zero_sum) == pytest.approx(covariance + blur, abs=5e-5)
    assert bracket(rule, x, t, mean, zero_sum) == pytest.approx(covariance, abs=5e-5)  # a velocity model: C alone


@pytest.mark.parametrize("row", GOLDEN)
def test_without_a_contrast_a_student_becomes_its_own_fake(row: tuple[float, ...]) -> None:
    t, x, mean, answer, *_ = row
    assert bracket("awm", x, t, answer, torch.ones_like) == pytest.approx(mean - answer, abs=5e-5)


@pytest.mark.parametrize(("t", "rho"), [(1.0, 0.0), (0.75, 0.16440), (0.5, 0.44721), (0.25, 0.83205)])
def test_the_rate_of_blur_on_a_gaussian(t: float, rho: float) -> None:
    """A perfect student at distance 1 from the mean is drawn to rho = Corr(x0, x_t) of that."""
    nodes, p = gaussian_nodes(1.0, 0.5)
    x = (1 - t) + ((1 - t) ** 2 * 0.25 + t**2) ** 0.5 / 0.5  # which the flow map takes to 2
    eps, weights = posterior(x, t, nodes, p)
    found = asked(awm, test_awm.CONFIG, given(nodes, torch.ones_like(nodes)), weights, (eps, t), everyone(2.0))
    assert found == pytest.approx(rho - 1, abs=5e-6)


@pytest.mark.parametrize(
    ("rule", "steps", "variances"),
    [
        ("euler", 1, (0.0, 0.0, 0.0)),
        ("renoise", 2, (0.04, 0.001479, 2e-6)),
        ("renoise", 4, (0.072552, 0.018053, 0.002177)),
        ("euler", 4, (0.115968, 0.044455, 0.010895)),
        ("euler", 8, (0.172046, 0.114527, 0.072647)),
    ],
)
def test_rounds_of_plain_denoising_shrink_the_variance(rule: str, steps: int, variances: tuple[float, ...]) -> None:
    """Each round replaces the student by the sampler of a velocity model of its own law, here N(1, .25) at first."""
    std = 0.5
    for expected in variances:
        velocity, impulses = GaussianVelocity(1.0, std), torch.eye(steps, dtype=torch.float64)

        def unit(node: int, x: Tensor, impulses: Tensor = impulses) -> Tensor:
            return torch.cat([impulses[node], torch.zeros(1).double()]).reshape(x.shape)

        made = (
            sample(
                lambda x, t, velocity=velocity: velocity(x, t, tokens(len(x))),
                unit(0, torch.zeros(steps + 1, 1, 1, 1)),
                even(steps).times,
                rule,
                rng=unit,
            )
            .x0.flatten()
            .detach()
        )
        variance = float((made[:-1] - made[-1]).square().sum())  # samples are linear in each draw of noise
        assert variance == pytest.approx(expected, abs=1e-6)
        std = max(variance, 1e-12) ** 0.5


@pytest.mark.parametrize("rule", RULES)
def test_at_pure_noise_a_zero_sum_moves_every_answer_alike(rule: str) -> None:
    """-sum A_i (D - x0_i) = sum A_i x0_i, whatever D is: no credit reaches the noise, and nothing blurs."""
    module, cfg, factor = RULES[rule]
    x0 = torch.randn(12, dtype=torch.float64, generator=stream(0, "x0"))
    advantage = torch.randn(12, dtype=torch.float64, generator=stream(1, "advantage"))
    advantage -= advantage.mean()
    for data in (-3.0, 0.0, 7.0):
        found = row_slopes(module, cfg, given(x0, advantage), (torch.full_like(x0, 0.3), 1.0), everyone(data))
        assert float(found.sum()) / factor == pytest.approx(float((advantage * x0).sum()), abs=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_the_noise_that_made_a_sample_teaches_nothing(rule: str) -> None:
    """D(z) = x0 there: a map has no likelihood, and whatever signal there is comes of fresh noise."""
    module, cfg, _ = RULES[rule]
    noise = torch.randn(12, dtype=torch.float64, generator=stream(0, "noise"))
    made = lambda z, _t: 1 + 0.5 * z  # noqa: E731
    answers = dict.fromkeys(("student", "old", "ema", "reference"), made)
    found = row_slopes(module, cfg, given(made(noise, 1.0), torch.linspace(-1, 2, 12).double()), (noise, 1.0), answers)
    assert found.abs().max() < 1e-12


GRAIN = 1 / 7003
"""The share of one of the mixture's nodes."""


def outside(x0: Tensor) -> Tensor:
    """Whether samples lie more than three deviations from both components."""
    return ((x0 + 1).abs() > 0.9) & ((x0 - 1).abs() > 0.6)


def test_one_solved_step_of_nft_at_one_call_translates_where_it_should_tilt() -> None:
    nodes, p = mixture_nodes()
    good = 0.5 + test_nft.CONFIG.beta / 2 * ((nodes > 0).double() - SHARE)  # 2 k / b = 1
    shift = 0.419959  # Cov(r, x0)
    batch = {**conditional.rows(nodes, good), "good": good}
    for data in (-1.0, 0.6):  # of any noise
        answers = {**everyone(data), "student": constant(data + shift)}
        left = asked(nft, test_nft.CONFIG, batch, p, (torch.zeros_like(nodes), 1.0), answers)
        assert left == pytest.approx(0, abs=2e-5)
    moved, tilted = nodes + shift, p * (1 + (nodes > 0).double() - SHARE)
    assert float((p * outside(nodes)).sum()) == pytest.approx(0.002699, abs=2 * GRAIN)
    assert float((p * (moved < 0)).sum()) == pytest.approx(0.292024, abs=2 * GRAIN)
    assert float((p * outside(moved)).sum()) == pytest.approx(0.145068, abs=2 * GRAIN)
    assert float((tilted * (nodes < 0)).sum()) == pytest.approx(0.089923, abs=2 * GRAIN)  # what was asked for
    assert float((tilted * outside(nodes)).sum()) == pytest.approx(0.002699, abs=3 * GRAIN)


GRID, FINE = (torch.linspace(-8, 8, n, dtype=torch.float64) for n in (401, 16001))
NOISE = torch.special.ndtri((torch.arange(7003, dtype=torch.float64) + 0.5) / 7003)


def normal(x: Tensor, std: float) -> Tensor:
    return (-0.5 * (x / std).square()).exp()


class Student:
    """A student of K calls as functions, one a level, sampled by renoising; perfect on the mixture at first."""

    def __init__(self, num_calls: int) -> None:
        self.times = even(num_calls).times[:-1]
        self.places = [NOISE if num_calls == 1 else NOISE[::10], *[GRID] * (num_calls - 1)]
        self.maps = [
            quantiles(cumulative(x, t).clamp(1e-12, 1 - 1e-12)) for x, t in zip(self.places, self.times, strict=True)
        ]

    def law(self) -> tuple[Tensor, Tensor]:
        """Samples and their probabilities."""
        p = torch.full_like(self.maps[0], 1 / len(self.maps[0]))
        for data, t in zip(self.maps, self.times[1:], strict=False):
            p = p @ normal(GRID - (1 - t) * data[:, None], t)
            p = p / p.sum()
        return self.maps[-1], p

    def fine(self) -> tuple[Tensor, Tensor]:
        """The same, interpolated between the grid's points."""
        x0, p = self.law()
        if len(self.times) == 1:
            return x0, p
        x0, p = (torch.from_numpy(np.interp(FINE, GRID, value)) for value in (x0, p))
        return x0, p / p.sum()

    def descend(self, advantage: Callable[[Tensor], Tensor]) -> None:
        """Every map by .1 of what the real loss of `awm` asks of it."""
        x0, p = self.law()
        batch = given(x0, advantage(x0))
        for place, t in enumerate(self.times):
            x, data = self.places[place], self.maps[place]
            # a squared error: what a row asks is a line in the answer, known from two of them
            at_zero, at_one = (
                row_slopes(awm, test_awm.CONFIG, batch, (torch.zeros_like(x0), t), everyone(value))
                for value in (0.0, 1.0)
            )
            weights = (p if t == 1 else normal(x[:, None] - (1 - t) * x0, t) * p).reshape(-1, len(p))
            weights = weights / weights.sum(dim=1, keepdim=True).clamp_min(1e-300)
            self.maps[place] = data + 0.1 * (weights @ at_zero + (weights @ (at_one - at_zero)) * data)


def spread(x0: Tensor, p: Tensor, where: Tensor) -> float:
    p = p * where / (p * where).sum()
    return float((p * (x0 - (p * x0).sum()).square()).sum().sqrt())


RUNS = [
    (1, "positive", 12, (0.024, 0.135, 0.291, 0.045, 0.352)),
    (1, "half", 21, (0.033, 0.290, 0.260, 0.070, 0.508)),
    (1, "zero-sum", 45, (0.049, 0.8952, 0.862, 0.133, 0.868)),
    (2, "positive", 15, (0.049, 0.118, 0.101, 0.250, 0.231)),
    (2, "zero-sum", 42, (0.049, 0.554, 0.127, 1.48, 0.311)),
    (4, "positive", 15, (0.047, 0.118, 0.015, 0.301, 0.127)),
]
"""Calls, contrast, updates until E[r] = .95; then P(x0 < 0), variance, share outside, deviations below and above 0."""


@pytest.mark.parametrize(("num_calls", "contrast", "updates", "expected"), RUNS)
def test_updates_of_a_students_functions(
    num_calls: int, contrast: str, updates: int, expected: tuple[float, ...]
) -> None:
    """The tilt would leave .05, .2325, .0027, .3 and .2: every loss buys its reward elsewhere."""
    student, count = Student(num_calls), 0
    x0, p = student.fine()
    while (share := float((p * (x0 > 0)).sum())) < 0.95 and count < 60:
        centre = {"positive": 0.0, "half": 0.5, "zero-sum": share}[contrast]
        student.descend(lambda x0, centre=centre: (x0 > 0).double() - centre)
        x0, p = student.fine()
        count += 1
    variance = (p * (x0 - (p * x0).sum()).square()).sum()
    found = (1 - share, variance, (p * outside(x0)).sum(), spread(x0, p, x0 < 0), spread(x0, p, x0 > 0))
    assert count == updates
    assert [float(value) for value in found] == pytest.approx(expected, rel=0.08, abs=0.006)
