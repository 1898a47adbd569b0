"""A teacher of noisy images on Gaussians: without bias, where taking them for clean ones has it."""

import math

import pytest
import torch
from torch import Tensor

from stages.core.path import forward
from stages.core.rng import fork, stream
from stages.training import ambient, flow_matching
from stages.training.levels import LogitNormal, Uniform
from tests.training.gaussian import GaussianVelocity, slopes, tokens, world

MEAN, STD, LEVEL = 0.7, 0.4, 0.3
EVEN = Uniform(name="uniform")


def config(noisy: float, times: Uniform | LogitNormal = EVEN) -> ambient.Config:
    return ambient.Config(lr=1e-3, condition_dropout=0.0, times=times, noisy=noisy, level=LEVEL, nfe=4)


FLOW = flow_matching.Config(lr=1e-3, condition_dropout=0.0, times=EVEN, latent=0.0, perturbation=0.0, nfe=4)


def batch(noisy: float, n: int = 400_000) -> dict[str, Tensor]:
    x0 = MEAN + STD * torch.randn(n, 1, 1, 1, dtype=torch.float64, generator=stream(0, "x0"))
    image, level = ambient.noised(x0, config(noisy), 3)
    return {"x0": image, "level": level, "cond": tokens(n)}


def test_what_a_noisy_image_is_given_a_noisier_state() -> None:
    """alpha_n (b^2 / sigma^2) D + (a sigma_n^2 / sigma^2) x, of the kernel's own a and b."""
    t, x = 0.6, 0.9
    a, b = (each.item() for each in forward(torch.tensor(LEVEL).double(), torch.tensor(t).double()))
    assert (a, b**2) == pytest.approx((0.571429, 0.330612), abs=1e-6)
    spread = (1 - t) ** 2 * STD**2 + t**2
    data = MEAN + (1 - t) * STD**2 / spread * (x - (1 - t) * MEAN)
    assert data == pytest.approx(0.802905, abs=1e-6)
    image = (1 - LEVEL) * b**2 / t**2 * data + a * LEVEL**2 / t**2 * x
    own = (1 - LEVEL) ** 2 * STD**2 + LEVEL**2
    by_gauss = (1 - LEVEL) * MEAN + a * own / spread * (x - (1 - t) * MEAN)
    assert image == pytest.approx(by_gauss) == pytest.approx(0.644724, abs=1e-6)


@pytest.mark.parametrize("noisy", [0.0, 0.5, 0.999_999])
def test_the_flow_of_clean_data_is_the_optimum_however_many_images_are_noisy(noisy: float) -> None:
    net = GaussianVelocity(MEAN, STD)
    value, _ = ambient.loss(world(student=net), batch(noisy), stream(0, "l"), config(noisy))
    assert slopes(value, net) == pytest.approx({"mean": 0, "std": 0}, abs=0.03)


def test_taking_them_for_clean_ones_learns_their_noise() -> None:
    """x_n / (1 - t_n) has a std of 0.586: there flow matching is at rest, and not at the data's 0.4."""
    wide = math.sqrt(STD**2 + (LEVEL / (1 - LEVEL)) ** 2)
    assert wide == pytest.approx(0.586237, abs=1e-6)
    given = batch(0.999_999)
    given["x0"] = given["x0"] / (1 - LEVEL)
    for std, is_at_rest in ((wide, True), (STD, False)):
        net = GaussianVelocity(MEAN, std)
        found = slopes(flow_matching.loss(world(student=net), given, stream(0, "l"), FLOW)[0], net)["std"]
        assert (abs(found) < 0.03) == is_at_rest
    net = GaussianVelocity(MEAN, wide)
    found = slopes(ambient.loss(world(student=net), batch(0.999_999), stream(0, "l"), config(0.9))[0], net)["std"]
    assert found > 0.1, "ours comes down from there"


def test_of_clean_images_it_is_flow_matching() -> None:
    net, given = GaussianVelocity(0.3, 0.8), batch(0.0, 512)
    ours, _ = ambient.loss(world(student=net), given, stream(0, "l"), config(0.0))
    theirs, _ = flow_matching.loss(world(student=net), given, stream(0, "l"), FLOW)
    # Both fork their streams by name, of which flow matching has one more.
    torch.testing.assert_close(ours, theirs)
    assert fork(stream(0, "l"), "times")[0].initial_seed() == fork(stream(0, "l"), "times", "x")[0].initial_seed()


@pytest.mark.parametrize("times", [EVEN, LogitNormal(name="logit_normal", mean=-2.0, std=1.0)], ids=["even", "low"])
def test_noisy_images_are_seen_above_their_level_and_clean_ones_everywhere(times: Uniform | LogitNormal) -> None:
    seen = []

    def student(x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        seen.append(t)
        return 0 * x

    given = batch(0.5, 4096)
    value, _ = ambient.loss(world(student=student), given, stream(0, "l"), config(0.5, times))
    is_noisy = given["level"] > 0
    assert seen[0][is_noisy].min() >= LEVEL
    assert seen[0][~is_noisy].min() < 0.05
    assert value.isfinite()
    assert value < 10, "bounded where the noise that was added is next to none"


def test_which_are_noisy_and_how_is_the_seeds() -> None:
    x0 = torch.randn(20_000, 1, 2, 2, generator=stream(1, "x0"))
    (image, level), (again, _), (other, _) = (ambient.noised(x0, config(0.7), seed) for seed in (3, 3, 4))
    assert torch.equal(image, again)
    assert not torch.equal(image, other)
    assert (level > 0).double().mean().item() == pytest.approx(0.7, abs=0.02)
    assert set(level.tolist()) == {0.0, torch.tensor(LEVEL).item()}
    assert torch.equal(image[level == 0], x0[level == 0])
    noise = (image - (1 - LEVEL) * x0)[level > 0] / LEVEL
    assert (noise.mean().item(), noise.std().item()) == pytest.approx((0, 1), abs=0.02)
