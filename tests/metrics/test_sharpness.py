"""Sharpness: its known values, and that it falls with blur on real digits and on scenes, which is what it is for."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Generator, Tensor
from torch.nn.functional import conv2d, pad

from stages.metrics.sharpness import sharpness
from stages.shapes.grammar import every
from stages.shapes.scenes import Asked, draw
from tests.shapes.settings import EASY


def blurred(images: Tensor, width: float) -> Tensor:
    """By a Gaussian of `width` pixels."""
    at = torch.arange(-4, 5, dtype=images.dtype)
    row = (-at.square() / (2 * width**2)).exp()
    kernel = (row[:, None] * row)[None, None] / row.sum() ** 2
    flat = images.flatten(0, 1)[:, None]
    return conv2d(pad(flat, (4, 4, 4, 4), mode="replicate"), kernel)[:, 0].reshape(images.shape)


def test_known_pictures() -> None:
    rows, columns = torch.meshgrid(torch.arange(8), torch.arange(8), indexing="ij")
    checks = ((rows + columns) % 2).double()
    wave = (2 * torch.pi * columns / 8).sin().double()
    flat = torch.full((8, 8), 0.3).double()
    assert sharpness(torch.stack([checks, wave, flat, checks + wave])[:, None]).tolist() == pytest.approx(
        [1, 0, 0, (1 / 4) / (1 / 4 + 1 / 2)], abs=1e-6
    )


def test_white_noise_has_the_share_of_its_frequencies() -> None:
    noise = torch.randn((200, 1, 32, 32), generator=Generator().manual_seed(0), dtype=torch.float64)
    fine = 1 - (15**2 - 1) / (32**2 - 1)  # 15 of 32 frequencies are below a quarter; the mean is in neither
    assert sharpness(noise).mean().item() == pytest.approx(fine, abs=0.005)


def test_it_knows_neither_brightness_nor_contrast() -> None:
    picture = torch.rand((1, 3, 8, 8), generator=Generator().manual_seed(0), dtype=torch.float64)
    assert sharpness(0.2 * picture + 0.5).item() == pytest.approx(sharpness(picture).item(), rel=1e-9)


def pictures(data: str) -> Tensor:
    if data == "digits":
        return torch.tensor(load_digits().images[:200] / 16)[:, None]
    asked = Asked.of(every(4, 5, 4), 5)
    return draw(EASY, asked, asked.choose(0, "test", 0, 60), seed=0, name="test").double()


@pytest.mark.parametrize("data", ["digits", "scenes"])
def test_blur_lowers_it_and_more_blur_lowers_it_more(data: str) -> None:
    images = pictures(data)
    levels = [sharpness(images), *(sharpness(blurred(images, width)) for width in (0.4, 0.6, 0.9, 1.3))]
    means = [level.mean().item() for level in levels]
    assert means == sorted(means, reverse=True)
    assert means[1] < 0.9 * means[0], "a blur that is hardly seen"
    assert means[-1] < 0.2 * means[0]
    assert (levels[2] < levels[0]).double().mean() > 0.99, "on each picture too"
