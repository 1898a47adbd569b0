"""Smaller pictures in the middle of a run."""

import pytest
import torch

from stages.core.config import check
from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.models import TextTable
from stages.models.conditioning import OneHot
from stages.models.mixture import GaussianMixture
from stages.models.network import seeded_build
from stages.models.unet import UNetConfig
from stages.samplers import drive
from stages.samplers.fields import AnyField, field_of, over
from stages.samplers.grid import build
from stages.samplers.prompted import Prompted
from stages.samplers.schedules import uniform
from tests.samplers.blocks import transformer
from tests.samplers.rigs import F64, choice

X = torch.randn(2, 1, 8, 8, generator=stream(0, "bottleneck"), dtype=F64)
COND = torch.tensor([[1], [2]])


class Constant:
    """The velocity of pictures that are all one number, N(0.3, 0.5^2), whatever their size."""

    multiple = 1

    def __init__(self):
        self.seen = []

    def __call__(self, x, t, _cond):
        self.seen.append((x.shape[2], t[0].item()))
        t = t.reshape(-1, 1, 1, 1)
        mean, variance = x.mean((2, 3), keepdim=True), t**2 / x[0, 0].numel()
        gain = (1 - t) * 0.25 / ((1 - t) ** 2 * 0.25 + variance)
        return (x - 0.3 - gain * (mean - (1 - t) * 0.3)) / t


def run(net, x=X, guidance=1.0, **knobs):
    answers = field_of({**choice("field", "bottleneck"), **knobs}) if knobs else None
    return drive(over(answers)(Prompted(net, COND, guidance), build(LINEAR, uniform(10)), x), x, "dpmpp_2m")


@pytest.mark.parametrize("factor", [2, 4])
def test_of_pictures_of_one_number_nothing_is_lost(factor):
    """Noise of 64 pixels is that of 16 means of four: of such data both know as much."""
    net = Constant()
    small = run(net, factor=factor, until=0.25, since=0.95)
    torch.testing.assert_close(small.x0, run(Constant()).x0, atol=1e-12, rtol=1e-12)
    inside = [i for i in range(10) if 0.25 < 1 - i / 10 < 0.95]
    assert [side for side, _ in net.seen] == [8 // factor if i in inside else 8 for i in range(10)]
    assert small.nfe == 10
    assert small.cost == pytest.approx(3 + 7 / factor**2)


def test_times_are_those_of_the_smaller_noise():
    net = Constant()
    run(net, factor=2, until=0.05, since=0.95)
    seen = {round(1 - i / 10, 1): t for i, (_, t) in enumerate(net.seen)}
    assert [seen[t] for t in (0.9, 0.5, 0.2)] == pytest.approx([0.818182, 0.333333, 0.111111], abs=1e-6)


def test_noise_of_a_mean_is_smaller_by_the_factor():
    noise = torch.randn(64, 1, 64, 64, generator=stream(1, "noise"))
    assert torch.nn.functional.avg_pool2d(noise, 4).var().item() == pytest.approx(1 / 16, rel=0.02)


def test_a_guided_call_counts_twice():
    assert run(Constant(), guidance=3.0, factor=2, until=0.25, since=0.95).cost == pytest.approx(2 * (3 + 7 / 4))


def test_sizes_that_a_network_does_not_take_are_refused():
    x = X.float()[..., :4, :4]
    with pytest.raises(ValueError, match=r"factor=4 does not divide pictures of \[4, 4\].*of a multiple of 2"):
        run(transformer(), x, factor=4, until=0.4, since=0.9)
    assert run(transformer(), x, factor=2, until=0.4, since=0.9).x0.shape == x.shape
    sizes = {"layers_per_level": 1, "head_dim": 8, "norm_groups": 4, "fold": 1, "text_width": 8}
    cfg = UNetConfig(kind="unet", channels=(8, 8), attends=(False, True), **sizes)
    prompts = ["", *"abcdefg"]
    unet = seeded_build(0, cfg, (1, 8, 8), TextTable(prompts, OneHot(prompts).encode(prompts))).eval()
    with torch.no_grad(), pytest.raises(ValueError, match="of a multiple of 2"):
        run(unet, X.float(), factor=8, until=0.4, since=0.9)
    with torch.no_grad():
        assert run(unet, X.float(), factor=4, until=0.4, since=0.9).x0.isfinite().all()
    with pytest.raises(ValueError, match="a GaussianMixture takes pictures of one size alone"):
        run(GaussianMixture.even([[0.0]], [1.0]), torch.zeros(2, 1, 1, 1), factor=2, until=0.4, since=0.9)


def test_times_that_do_not_fall_are_refused():
    with pytest.raises(ValueError, match=r"until=0\.9 must be less than since=0\.4"):
        check(AnyField, {**choice("field", "bottleneck"), "until": 0.9, "since": 0.4}, "field")
