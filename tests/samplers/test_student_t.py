"""Noise of Student's t: its kernel, the denoiser of Gaussian data under it, and a start that its flow is exact from."""

import math

import pytest
import torch
from scipy import stats

from stages.core.config import check
from stages.core.rng import heavier, stream
from stages.samplers import rule_of, sample
from stages.samplers.program import program
from stages.samplers.schedules import log_uniform, uniform
from stages.samplers.spec import Sampler, calls
from tests.samplers.rigs import EVERY, F64, LINEAR, from_data, gaussian


def student_t(freedom, then="euler"):
    return rule_of({"name": "student_t", "freedom": freedom, "then": {"name": then}})


def sampler(steps, then):
    rule, schedule = {"name": "student_t", "freedom": 3, "then": then}, {"name": "uniform", "steps": steps}
    return check(Sampler, {"rule": rule, "schedule": schedule, "guidance": 1.0}, "sampler")


def levels(freedom, count=2001):
    """D / u of chi^2 noise u, and the logs of their chances, [count]."""
    low, high = (stats.chi2.isf(p, freedom) for p in (1 - 1e-14, 1e-14))
    log_u = torch.linspace(math.log(low), math.log(high), count, dtype=F64)
    return freedom / log_u.exp(), torch.from_numpy(stats.chi2.logpdf(log_u.exp().numpy(), freedom)) + log_u


def denoiser(freedom, std):
    """E[x0 | x] of numbers x0 ~ N(0, std^2), each with noise of its own."""
    ratios, chances = levels(freedom)

    def denoise(x, alpha, sigma):
        variance = (alpha**2 * std**2)[..., None] + sigma[..., None] ** 2 * ratios
        share = (chances - 0.5 * variance.log() - 0.5 * x[..., None] ** 2 / variance).softmax(-1)
        return alpha * std**2 * x * (share / variance).sum(-1)

    return denoise


def test_the_kernel_is_gaussian_noise_of_a_scale_that_is_drawn():
    ratios, chances = levels(8)
    variance = 0.36 * ratios
    found = (chances.softmax(0) * (-0.5 * 1.69 / variance).exp() / (2 * math.pi * variance).sqrt()).sum()
    assert found.item() == pytest.approx(0.0806984358, abs=1e-9)
    assert found.item() == pytest.approx(stats.t.pdf(1.3 / 0.6, 8) / 0.6, abs=1e-9)


@pytest.mark.parametrize(
    ("freedom", "near", "far"),
    [(1, 0.279500, 0.174034), (8, 0.311152, 0.617639), (128, 0.326602, 1.178681), (2048, 0.327789, 1.226341)],
)
def test_the_denoiser_is_the_published_one_and_rejects_what_is_far(freedom, near, far):
    denoise, one = denoiser(freedom, 0.5), torch.ones((), dtype=F64)
    found = denoise(torch.tensor([0.8, 3.0], dtype=F64), one, 0.6 * one)
    assert found.tolist() == pytest.approx([near, far], abs=2e-6)


def test_from_noise_of_the_law_its_flow_ends_at_the_data():
    """Data N(0, 0.5^2), 8 degrees: quantiles go to quantiles."""
    shares = torch.tensor([0.6, 0.9, 0.99], dtype=F64).numpy()
    x = torch.from_numpy(stats.t.ppf(shares, 8))
    made = sample(from_data(LINEAR, denoiser(8, 0.5)), x, log_uniform(200, lo=1e-4), "unipc").x0
    assert made.tolist() == pytest.approx((0.5 * stats.norm.ppf(shares)).tolist(), abs=1e-4)


@pytest.mark.parametrize(
    ("numbers", "freedom", "kept"), [(784, 128, 0.9985), (784, 8, 0.9953), (1, 128, 0.9923), (1, 8, 0.9007)]
)
def test_from_gaussian_noise_it_ends_a_little_inside(numbers, freedom, kept):
    """The radius of Gaussian data's end, whose quantile is that of where it began under Student's t."""
    begun = stats.chi2.ppf((torch.arange(20_000).double().numpy() + 0.5) / 20_000, numbers)
    ended = stats.chi2.ppf(stats.f.cdf(begun / numbers, numbers, freedom), numbers)
    assert math.sqrt(ended.mean() / numbers) == pytest.approx(kept, abs=5e-5)


def test_it_begins_at_noise_whose_size_each_sample_draws():
    drawn = {k: torch.randn(4, 1, 2, 2, dtype=F64, generator=stream(k, "z")) for k in range(20)}
    x, nodes = drawn[0], []

    def draw(node, _x):
        nodes.append(node)
        return drawn[node]

    made = sample(gaussian(LINEAR, 0.0, 1.0), x, uniform(3), student_t(6), rng=draw).x0
    u = torch.cat([drawn[4].flatten(1), drawn[5].flatten(1)[:, :2]], dim=1).square().sum(1)
    expected = sample(gaussian(LINEAR, 0.0, 1.0), x * (6 / u).sqrt().view(-1, 1, 1, 1), uniform(3), "euler").x0
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-12)
    assert nodes == [4, 5]
    later = sample(gaussian(LINEAR, 0.0, 1.0), x, [0.9, 0.5], student_t(6), rng=draw).x0
    assert torch.equal(later, sample(gaussian(LINEAR, 0.0, 1.0), x, [0.9, 0.5], "euler").x0), "no noise to make heavier"


def test_its_variance_is_that_of_the_law():
    z = torch.randn(200_000, 9, dtype=F64, generator=stream(0, "z"))
    found = z[:, 0] * heavier(z[:, 1:])
    assert found.square().mean().item() == pytest.approx(8 / 6, rel=0.02)


def test_no_student_can_carry_it_and_calls_are_the_rules():
    spec = sampler(4, {"name": "heun"}).spec
    assert calls(spec) == 7
    with pytest.raises(
        ValueError,
        match=r"sampler rule student_t calls aten.*: a saved pipeline only adds, multiplies",
    ):
        program(spec)
    assert EVERY["student_t"].then.name == "euler"


def test_the_rules_own_steps_are_asked_for():
    with pytest.raises(ValueError, match="4 ratios, and the sampler takes 3 steps"):
        sampler(3, {"name": "dc_solver", "ratios": [1.0] * 4})
