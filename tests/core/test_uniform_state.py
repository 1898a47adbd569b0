"""Uniform-state diffusion: each formula against an enumeration of what it says, and tokens as argmax of Gaussians."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stages.core.rng import stream
from stages.core.uniform_state import at, before, bound, kept, ratio

F64 = torch.float64
DATA = torch.tensor([0.5, 0.3, 0.2], dtype=F64)


def times(*t: float) -> Tensor:
    return torch.tensor(t, dtype=F64)


def forward(s: float, t: float, size: int = 3) -> Tensor:
    """[K, K], from a token at s to one at t."""
    stays = (1 - t) / (1 - s)
    return stays * torch.eye(size, dtype=F64) + (1 - stays) / size


def test_a_step_is_what_bayes_says_of_the_chain() -> None:
    """For each token at t: m_s(j) q(i | j) / m_t(i). To 0 it is the law of the clean token."""
    s, t = 0.3, 0.8
    shown = torch.eye(3, dtype=F64)[:, :, None]
    data = DATA[None, :, None].expand(3, 3, 1)
    law = DATA @ forward(0, s)
    assert torch.allclose(at(data, times(s, s, s))[0, :, 0], law)
    joint = law[:, None] * forward(s, t)
    found = before(shown, data, times(t, t, t), times(s, s, s))[..., 0]
    torch.testing.assert_close(found, (joint / joint.sum(dim=0)).T)
    found = before(shown, data, times(t, t, t), times(0, 0, 0))[..., 0]
    clean = DATA[:, None] * forward(0, t)
    torch.testing.assert_close(found, (clean / clean.sum(dim=0)).T)
    torch.testing.assert_close(before(shown, data, times(1, 1, 1), times(s, s, s))[..., 0], law.expand(3, 3))


def test_the_bound_is_the_likelihoods_for_one_place() -> None:
    """Its mean over times and tokens is the Kullback-Leibler divergence of the data's law and the model's.

    With the true chances what is left is the entropy; with others that and the divergence.
    """
    x0, x = torch.eye(3, dtype=F64), torch.eye(3, dtype=F64)
    nodes = torch.linspace(-18, 18, 721, dtype=F64)  # of log(t / (1 - t)): there is weight near both ends
    t = nodes.sigmoid()

    def mean(model: Tensor) -> float:
        total = torch.zeros(())
        for i in range(3):
            for j in range(3):
                chance = DATA[i] * ((1 - t) * (i == j) + t / 3)
                rows = [each.expand(len(t), 3)[:, :, None] for each in (x[j], x0[i], model)]
                total = total + (chance * bound(*rows, t)[:, 0] * t * (1 - t)).sum() * (nodes[1] - nodes[0])
        return total.item()

    entropy = -(DATA * DATA.log()).sum().item()
    other = torch.tensor([0.2, 0.3, 0.5], dtype=F64)
    assert mean(DATA) == pytest.approx(entropy, rel=1e-4)
    assert mean(other) == pytest.approx(-(DATA * other.log()).sum().item(), rel=1e-4)
    rows = [each[:, :, None] for each in (x, x0, x0)]
    assert bound(*rows, times(0.1, 0.5, 0.9)).abs().max() == 0


def test_the_bound_is_the_authors_formula() -> None:
    """Duo's code, `nll_per_token`, at alpha = 1 - t, in our words."""
    size, t = 3, 0.4
    alpha, rng = 1 - t, stream(0, "rows")
    model = torch.rand(9, size, dtype=F64, generator=rng).softmax(dim=1)
    i, k = torch.arange(9) // 3, torch.arange(9) % 3  # what is, and what was
    bar = size * alpha * model + 1 - alpha
    here, there = bar[torch.arange(9), i], bar[torch.arange(9), k]
    same = (i == k).double()
    const = (1 - alpha) / (size * alpha + 1 - alpha)
    first = size * (1 / ((1 - alpha) + size * alpha * same) - 1 / here)
    offset = ((size - 1) * const * same - (1 - same) / const) * math.log(const)
    second = -(same * const + 1 - same) * (bar.log().sum(dim=1) - size * here.log())
    second = second - size * alpha / (1 - alpha) * (there.log() - here.log()) * (1 - same)
    theirs = -1 / (size * alpha) * (first - (second + offset))
    shown, real = (one_hot(each, size).double()[:, :, None] for each in (i, k))
    torch.testing.assert_close(bound(shown, real, model[:, :, None], times(*[t] * 9))[:, 0], theirs)


def test_two_tokens_are_kept_as_often_as_a_normal_number_has_a_sign() -> None:
    """2 Phi(r / sqrt 2) - 1. The largest of many is counted too."""
    gamma = torch.tensor([-4.0, -2.0, -1.0], dtype=F64)
    found = kept((-gamma / 2).exp(), 2)
    assert found.tolist() == pytest.approx([1.0, 0.945409, 0.756314], abs=1e-6)
    torch.testing.assert_close(found, 2 * torch.special.ndtr((-gamma / 2).exp() / math.sqrt(2)) - 1)
    noise = torch.randn(200_000, 17, generator=stream(0, "n"), dtype=F64)
    noise[:, 3] += 2.0
    share = (noise.argmax(dim=1) == 3).double().mean().item()
    assert share == pytest.approx(kept(times(2.0), 17).item() * 16 / 17 + 1 / 17, abs=4e-3)


@pytest.mark.parametrize("size", [2, 17, 300])
def test_a_ratio_keeps_as_many_tokens_as_its_time_says(size: int) -> None:
    t = torch.linspace(0.001, 1, 50, dtype=F64)
    torch.testing.assert_close(kept(ratio(t, size), size), 1 - t, atol=3e-6, rtol=0)
    assert ratio(times(1.0), size).item() == 0
    assert ratio(torch.tensor([0.5]), size).dtype == torch.float32
