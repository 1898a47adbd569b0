"""Uniform-state diffusion: at rest at the true chances, a bound that is met there, and told of its time."""

import pytest
import torch

from stages.core.path import velocity_from_data
from stages.core.rng import stream
from stages.models.network import seeded_teacher
from stages.models.text import Clip
from stages.models.transformer import TransformerConfig
from stages.training import uniform_state
from tests.training.gaussian import world
from tests.training.test_masked import CHANCES, batch

CONFIG = uniform_state.Config(lr=1e-3, condition_dropout=0.0, least=1e-3, nfe=4)


class Constant(torch.nn.Module):
    """The same chances everywhere."""

    def __init__(self, chances: torch.Tensor) -> None:
        super().__init__()
        self.logits = torch.nn.Parameter(chances.log())
        self.sample_shape = (3, 1, 16)

    def forward(self, x: torch.Tensor, t: torch.Tensor, _cond: torch.Tensor) -> torch.Tensor:
        return velocity_from_data(x, self.logits.softmax(dim=0).view(1, 3, 1, 1).expand_as(x), t)


@pytest.mark.parametrize(("chances", "is_best"), [(CHANCES, True), (torch.ones(3).double() / 3, False)])
def test_it_is_at_rest_at_the_chances_where_it_is_their_entropy(chances: torch.Tensor, is_best: bool) -> None:
    net = Constant(chances)
    value, _ = uniform_state.loss(world(student=net), batch(10_000), stream(0, "l"), CONFIG)
    (slope,) = torch.autograd.grad(value, net.logits)
    assert (slope.abs().max().item() < 0.03) == is_best
    assert value.item() == pytest.approx(-(CHANCES * chances.log()).sum().item(), abs=0.02)


def test_as_many_places_are_replaced_and_by_any_token_alike() -> None:
    x0 = torch.zeros(4000, 3, 4, 4)
    x0[:, 0] = 1
    x = uniform_state.replaced(x0, torch.full((4000,), 0.6), stream(0, "r"))
    assert torch.equal(x.sum(dim=1), torch.ones(4000, 4, 4))
    torch.testing.assert_close(x.mean(dim=(0, 2, 3)), torch.tensor([0.6, 0.2, 0.2]), rtol=0, atol=8e-3)


def test_a_network_of_such_tokens_answers_chances_and_is_told_the_time() -> None:
    size = TransformerConfig(kind="transformer", width=8, num_layers=1, num_heads=1, patch_size=2)
    net = seeded_teacher(0, size, (3, 4, 4), ["", "a"], Clip(kind="clip", num_layers=1))
    torch.nn.init.normal_(net.body.proj_out.weight, generator=stream(0, "w"))
    net.tokens = "uniform"
    x, cond = torch.zeros(2, 3, 4, 4), torch.ones(2, 1, dtype=torch.int64)
    x[:, 1] = 1
    early, late = (x - t * net(x, torch.full((2,), t), cond) for t in (0.2, 0.8))
    for data in (early, late):
        torch.testing.assert_close(data.sum(dim=1), torch.ones(2, 4, 4))
        assert (data > -1e-6).all()
    assert (early - late).abs().max() > 1e-4
