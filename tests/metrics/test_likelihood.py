"""Likelihood against closed forms: a Gaussian's and a mixture's density, exactly and by Hutchinson's estimate."""

import math

import pytest
import torch

from stages.core.config import check
from stages.core.rng import stream, uniform_at
from stages.metrics import likelihood
from stages.metrics.table import Flow, Sampled
from stages.models.mixture import GaussianMixture
from stages.models.space import Pixels, Points

pytestmark = pytest.mark.slow

LO = 0.002
START = LO / (1 + LO)
"""The schedule's last time above 0."""
LAW = GaussianMixture.even([[-1.2, 0.3], [0.8, -0.5], [0.2, 1.5]], [0.3, 0.5, 0.4])


def knobs(trace="exact", steps=24, **more):
    kind = {"name": trace} | ({"probes": more.pop("probes", 1)} if trace == "hutchinson" else {})
    schedule = {"name": "log_uniform", "steps": steps, "hi": 200.0, "lo": LO}
    stated = {"trace": kind, "derivative": {"name": "jvp"}, "schedule": schedule, "levels": 1, "num_samples": 10**6}
    return check(likelihood.Config, {**stated, "tells": "bits", **more}, "m")


def log_density(law, x, t):
    """Of the mixture's x_t, with `means` and `stds` [K, d] and [K]."""
    variance = (1 - t) ** 2 * law.stds.square() + t**2
    gap = (x.flatten(1)[:, None] - (1 - t) * law.means).square().sum(-1) / variance
    normal = -0.5 * gap - 0.5 * x.shape[1] * (2 * math.pi * variance).log()
    return (law.weights.log() + normal).logsumexp(1)


def points(law, count):
    rows = torch.zeros(count, 1, dtype=torch.int64)
    return law.sample(rows, stream(0, "data")).double(), rows


def shown(real, law=LAW, space=None, kind="points"):
    rows = torch.zeros(len(real), 1, dtype=torch.int64)
    flow = Flow(law, space or Points(tuple(real.shape[1:])), kind, rows)
    return Sampled(real[:0], [], real, None, flow)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("law", "left"), [(GaussianMixture.even([[0.7, -0.2]], [0.4]), 1e-4), (LAW, 5e-4)], ids=["gaussian", "mixture"]
)
def test_the_exact_log_density_goes_to_the_closed_form_with_order_two(law, left):
    """Its error in 64 steps is 0.012 at most, and its limit, of 64 and 128 steps, is the closed form."""
    x, rows = points(law, 64)
    coarse, fine = (likelihood.log_density(law, x, rows, knobs(steps=n)) for n in (64, 128))
    exact = log_density(law, x, START)
    assert math.log2((coarse - exact).abs().mean() / (fine - exact).abs().mean()) == pytest.approx(2, abs=0.2)
    torch.testing.assert_close((4 * fine - coarse) / 3, exact, rtol=0, atol=left)


def test_the_estimate_is_unbiased_and_its_error_is_told():
    """Within four standard errors of the exact number, from the same images; each probe has signs of its own."""
    x, rows = points(LAW, 24)
    exact = likelihood.log_density(LAW, x, rows, knobs())
    found = [likelihood.log_density(LAW, x, rows, knobs("hutchinson", probes=n)) for n in (1, 24)]
    assert (found[0] - exact).abs().max() > 0.05
    gaps = found[1] - exact
    assert gaps.mean().abs() < 4 * gaps.std() / 24**0.5
    assert gaps.square().mean() < (found[0] - exact).square().mean() / 5


def test_in_an_isotropic_flow_every_probe_is_exact():
    law = GaussianMixture.even([[0.7, -0.2]], [0.4])
    x, rows = points(law, 8)
    one, all_of_it = (likelihood.log_density(law, x, rows, knobs(each)) for each in ("hutchinson", "exact"))
    torch.testing.assert_close(one, all_of_it)


def test_a_sample_s_number_depends_on_no_other_one(monkeypatch):
    x, rows = points(LAW, 5)
    whole = likelihood.log_density(LAW, x, rows, knobs("hutchinson", steps=8, probes=2))
    monkeypatch.setattr(likelihood, "_BATCH", 2)
    torch.testing.assert_close(likelihood.log_density(LAW, x, rows, knobs("hutchinson", steps=8, probes=2)), whole)


def test_points_have_bits_of_their_own_unit():
    x, _ = points(LAW, 50)
    each = -log_density(LAW, x, START) / (2 * math.log(2))
    assert likelihood.measure(knobs(steps=64), shown(x)) == pytest.approx(each.mean().item(), abs=4e-3)
    told = likelihood.measure(knobs(steps=64, tells="error"), shown(x))
    assert told == pytest.approx((each.std() / 50**0.5).item(), abs=4e-3)
    few = likelihood.measure(knobs(steps=64, num_samples=10), shown(x))
    assert few == pytest.approx(each[:10].mean().item(), abs=4e-3)


def test_the_error_of_two_images_is_half_of_their_gap():
    """As a standard error is that divides by one less than their number."""
    x, _ = points(LAW, 2)
    first, both = (likelihood.measure(knobs(steps=8, num_samples=n), shown(x)) for n in (1, 2))
    error = likelihood.measure(knobs(steps=8, tells="error"), shown(x))
    assert error == pytest.approx(abs(both - first), rel=1e-6)


def test_pictures_have_the_bits_of_their_levels():
    """Of standard normal data: 8-bit data on [-1, 1] have log2(128) = 7 bits more than densities."""
    law = GaussianMixture.even([[0.0] * 4], [1.0])
    images = (torch.randint(0, 256, (40, 4, 1, 1), generator=stream(0, "grey")) / 255).double()
    found = likelihood.measure(knobs(steps=64, levels=256), shown(images, law, Pixels((4, 1, 1)), "pixels"))
    noise = torch.from_numpy(uniform_at(0, "likelihood/levels", 0, 40, (4, 1, 1)))
    expected = -log_density(law, 2 * (images * 255 + noise) / 256 - 1, START).mean().item() / (4 * math.log(2)) + 7
    assert found == pytest.approx(expected, abs=4e-3)
    bare = likelihood.measure(knobs(steps=64), shown(images, law, Pixels((4, 1, 1)), "pixels"))
    without = -log_density(law, 2 * images - 1, START).mean().item() / (4 * math.log(2)) - 1
    assert bare == pytest.approx(without, abs=4e-3)


def test_what_cannot_be_told_is_refused():
    with pytest.raises(ValueError, match="levels=17, and points have no grey; set it to 1"):
        likelihood.measure(knobs(levels=17), shown(torch.zeros(2, 2, 1, 1)))
    with pytest.raises(ValueError, match=r"exact trace of 1025 elements; take hutchinson \(1024 at most\)"):
        likelihood.measure(knobs(), shown(torch.zeros(2, 1025, 1, 1)))
    with pytest.raises(ValueError, match=r"levels: Input should be greater than or equal to 1"):
        knobs(levels=0)
