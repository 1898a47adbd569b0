"""Masked diffusion: at rest at the true chances of a token, a bound that is met there, and told of no time."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from stages.core.rng import stream
from stages.models.network import seeded_teacher
from stages.models.text import Clip
from stages.models.tokens import drift
from stages.models.transformer import TransformerConfig
from stages.training import masked
from tests.training.gaussian import tokens, world

CONFIG = masked.Config(lr=1e-3, condition_dropout=0.0, least=1e-3, rule="masked", nfe=4)
CHANCES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)


def batch(n: int) -> dict[str, Tensor]:
    """Samples [n, 3, 1, 16] whose tokens are independent, with exactly their chances in each place."""
    order = torch.arange(10).repeat(n // 10)
    rows = torch.tensor([0] * 5 + [1] * 3 + [2] * 2)[order]
    shuffled = torch.stack([rows[torch.randperm(n, generator=stream(0, f"{k}"))] for k in range(16)], dim=1)
    return {"x0": one_hot(shuffled, 3).double().transpose(1, 2)[:, :, None], "cond": tokens(n)}


class Constant(nn.Module):
    """The same chances everywhere."""

    def __init__(self, chances: Tensor) -> None:
        super().__init__()
        self.logits = nn.Parameter(chances.log())
        self.sample_shape = (3, 1, 16)

    def forward(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        return drift(self.logits.view(1, 3, 1, 1).expand_as(x), x, t, "masked")


@pytest.mark.parametrize(("chances", "is_best"), [(CHANCES, True), (torch.ones(3).double() / 3, False)])
def test_it_is_at_rest_at_the_chances_where_it_is_their_entropy(chances: Tensor, is_best: bool) -> None:
    net = Constant(chances)
    value, _ = masked.loss(world(student=net), batch(10_000), stream(0, "l"), CONFIG)
    (slope,) = torch.autograd.grad(value, net.logits)
    assert (slope.abs().max().item() < 0.03) == is_best
    nats = -(CHANCES * chances.log()).sum().item()
    assert value.item() == pytest.approx(nats, abs=0.02)


def test_times_are_one_in_each_part_and_as_many_places_are_masked() -> None:
    x0 = torch.zeros(1000, 2, 8, 8)
    t = masked.stratified(x0, stream(0, "t"))
    assert torch.equal((t * 1000).floor(), torch.arange(1000.0))
    hidden = masked.masked(x0, t, stream(0, "m"))
    assert hidden.shape == (1000, 1, 8, 8)
    assert hidden.float().mean(dim=(1, 2, 3)).sub(t).abs().mean().item() < 3 * math.sqrt(0.25 / 64) / 2


def test_a_network_of_tokens_answers_the_mean_drift_whatever_the_time() -> None:
    size = TransformerConfig(kind="transformer", width=8, num_layers=1, num_heads=1, patch_size=2)
    net = seeded_teacher(0, size, (3, 4, 4), ["", "a"], Clip(kind="clip", num_layers=1))
    net.tokens = "masked"
    x, cond = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, dtype=torch.int64)
    x[:, 1, 0] = 1
    early, late = (net(x, torch.full((2,), t), cond) for t in (0.2, 0.8))
    torch.testing.assert_close(0.2 * early, 0.8 * late)
    data = x - 0.2 * early
    torch.testing.assert_close(data.sum(dim=1), torch.ones(2, 4, 4))
    assert torch.equal(data[:, :, 0], x[:, :, 0])
    with pytest.raises(ValueError, match="a model of tokens has one time"):
        net.add_second_time(0)
