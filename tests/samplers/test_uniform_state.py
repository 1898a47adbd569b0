"""The rule of tokens that noise replaces: what it draws of laws that are known, and how it ends."""

from itertools import pairwise

import pytest
import torch
from torch import Tensor

from stages.core.config import check
from stages.core.path import velocity_from_data
from stages.core.rng import stream
from stages.core.spec import even
from stages.core.uniform_state import before
from stages.models.tokens import likeliest
from stages.samplers import rule_of, sample
from stages.samplers.spec import Sampler
from tests.samplers.rigs import F64


def alone(chances: Tensor):
    """The velocity of places that know nothing of each other."""
    return lambda x, t: velocity_from_data(x, chances[:, None].expand_as(x), t)


def bits(x: Tensor, t: Tensor) -> Tensor:
    """The exact velocity for two bits that always agree: the other place says which, unless it was replaced."""
    other, t = x.flip(2), t[:, None, None]
    return velocity_from_data(x, (1 - t) * other + t / 2, t[:, 0, 0])


def drawn(velocity, steps: int, n: int, size: int = 2, places: int = 2, **knobs: str) -> Tensor:
    noise = torch.randn(n, size, places, dtype=F64, generator=stream(0, "noise"))
    rule = rule_of({"name": "uniform_state", "last": "drawn", **knobs})
    return sample(velocity, noise, even(steps).times, rule, rng=stream(1, "draws")).x0


def agreeing(steps: int) -> float:
    """The probability that the two bits agree in the end, by the chain of four states itself."""
    states = torch.eye(2, dtype=F64)[torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])].transpose(1, 2)
    law = torch.full((4,), 0.25, dtype=F64)
    times = [1 - i / steps for i in range(steps)] + [0.0]
    for t, s in pairwise(times):
        now, then = (torch.full((4,), time, dtype=F64) for time in (t, s))
        chances = before(states, states - t * bits(states, now), now, then)
        moves = (chances[:, None] * states[None]).sum(dim=2).prod(dim=2)
        law = law @ moves
    return (law[0] + law[3]).item()


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_bits_agree_as_often_as_their_chain_says(steps: int) -> None:
    x0 = drawn(bits, steps, 20_000)
    assert torch.equal(x0.sum(dim=1), torch.ones(20_000, 2, dtype=F64))
    agree = (x0[..., 0] == x0[..., 1]).all(dim=1).double().mean().item()
    assert agree == pytest.approx(agreeing(steps), abs=0.011)


def test_more_steps_make_them_agree() -> None:
    """Half the time in one step, which draws both by themselves; the error halves with the step from then on."""
    errors = [1 - agreeing(steps) for steps in (1, 64, 128, 256)]
    assert errors[0] == pytest.approx(0.5)
    assert errors[1] < 0.02
    assert errors[1] / errors[2] == pytest.approx(2, rel=0.05)
    assert errors[2] / errors[3] == pytest.approx(2, rel=0.05)


@pytest.mark.parametrize("steps", [1, 4])
def test_a_place_that_is_alone_has_its_law_in_any_number_of_steps(steps: int) -> None:
    law = torch.tensor([0.6, 0.3, 0.1], dtype=F64)
    x0 = drawn(alone(law), steps, 10_000, size=3)
    torch.testing.assert_close(x0.mean(dim=(0, 2)), law, rtol=0, atol=0.01)


def test_the_last_step_may_take_what_is_likeliest() -> None:
    law = torch.tensor([0.3, 0.6, 0.1], dtype=F64)
    assert (drawn(alone(law), 1, 100, size=3, last="likeliest").argmax(dim=1) == 1).all()
    found = drawn(alone(law), 8, 1000, size=3, last="likeliest")
    assert 0 < found[:, 1].mean().item() < 1, "near the end a token is likelier to rest"


def test_what_is_no_number_stays_so_and_a_tie_is_one_token() -> None:
    for last in ("drawn", "likeliest"):
        assert drawn(lambda x, _t: x * torch.nan, 2, 3, last=last).isnan().all()
    assert likeliest(torch.ones(1, 3, 2)).sum().item() == 2


def test_no_field_answers_for_it() -> None:
    knobs = {"schedule": {"name": "uniform", "steps": 4}, "guidance": 1.0}
    for field in ({"name": "unchanged"}, {"name": "epsilon_scaling", "scale": 1.1, "slope": 0.0}):
        with pytest.raises(ValueError, match=r"field=.*, rule=uniform_state: .*; leave the field out"):
            check(Sampler, {"rule": {"name": "uniform_state", "last": "drawn"}, "field": field, **knobs}, "sampler")
