"""Rules that unmask tokens: what they draw of laws that are known, how often they ask, and which models take them."""

from dataclasses import replace
from itertools import pairwise, product

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stages.core.config import check
from stages.core.guidance import guided
from stages.core.noising import Noising
from stages.core.path import LINEAR
from stages.core.rng import stream
from stages.core.spec import even
from stages.models import Student
from stages.models.space import Points, Tokens
from stages.models.tokens import away, drift, hidden
from stages.samplers import drive, rule_of, sample
from stages.samplers.fields.unchanged import Unchanged
from stages.samplers.grid import build
from stages.samplers.of_tokens import revealed
from stages.samplers.program import program
from stages.samplers.prompted import Prompted
from stages.samplers.spec import Sampler
from stages.samplers.student import Noise, draw
from tests.samplers.rigs import F64
from tests.training.gaussian import tokens

RULES = pytest.mark.parametrize("rule", ["masked", "first_hitting"])


def of_law(joint: Tensor):
    """The exact velocity for tokens [L] of a law [K, ..., K], by enumeration."""
    size, count = joint.shape[0], joint.dim()
    outcomes = torch.tensor([*product(range(size), repeat=count)])
    shown = one_hot(outcomes, size).to(F64).transpose(1, 2)  # [O, K, L]

    def velocity(x: Tensor, t: Tensor, *_cond: Tensor) -> Tensor:
        agrees = (x[:, None] * shown).sum(dim=2) == (~hidden(x)).to(F64)  # [B, O, L]
        weights = agrees.all(dim=2) * joint.flatten()
        chances = (weights / weights.sum(dim=1, keepdim=True) @ shown.flatten(1)).view_as(x)
        return drift(chances.log(), x, t, "masked")

    return velocity


BITS = of_law(torch.tensor([[0.5, 0.0], [0.0, 0.5]], dtype=F64))
"""Two that always agree."""


def begin(n: int, size: int, places: int) -> Tensor:
    return torch.randn(n, size, places, dtype=F64, generator=stream(0, "noise"))


def drawn(velocity, rule: str, steps: int, n: int, size: int = 2, places: int = 2) -> Tensor:
    return sample(velocity, begin(n, size, places), even(steps).times, rule, rng=stream(1, "draws")).x0


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_two_bits_agree_but_where_both_come_in_one_step(steps: int) -> None:
    """With a probability of 1 - 1 / (2 N)."""
    x0 = drawn(BITS, "masked", steps, 20_000)
    agree = (x0[..., 0] == x0[..., 1]).all(dim=1).double().mean().item()
    assert agree == pytest.approx(1 - 1 / (2 * steps), abs=0.01)


def test_one_place_a_call_draws_the_law_itself() -> None:
    joint = torch.tensor([[0.1, 0.0, 0.2], [0.05, 0.3, 0.05], [0.0, 0.3, 0.0]], dtype=F64)
    x0 = drawn(of_law(joint), "first_hitting", 2, 5000, size=3)
    found = torch.zeros_like(joint)
    found.index_put_(tuple(x0.argmax(dim=1).T), torch.tensor(1 / 5000, dtype=F64), accumulate=True)
    torch.testing.assert_close(found, joint, rtol=0, atol=0.02)
    assert found[joint == 0].sum() == 0


@RULES
def test_all_is_masked_at_first_and_known_at_last_and_what_is_known_rests(rule: str) -> None:
    law = of_law(torch.full((3,) * 4, 1 / 81, dtype=F64))
    found = sample(law, begin(50, 3, 4), even(3).times, rule, rng=stream(1, "draws"), keep=(1, 2, 3)).states
    assert torch.equal(found[-1].sum(dim=1), torch.ones(50, 4, dtype=F64))
    for before, after in pairwise(found):
        known = ~hidden(before).expand_as(before)
        assert torch.equal(before[known], after[known])
    assert torch.equal(found.unique(), torch.tensor([0, 1], dtype=F64))


def test_the_first_place_comes_at_the_time_of_the_largest_of_as_many_uniform_numbers() -> None:
    """Of 64 places 64 / 65; a grid sees it half a step late. In even steps as many come each time."""
    uniform = lambda x, t: drift(torch.zeros_like(x), x, t, "masked")  # noqa: E731
    times, noise = even(128).times, begin(200, 2, 64)
    states = sample(uniform, noise, times, "masked", rng=stream(1, "draws"), keep=range(1, 129)).states
    first = (states != 0).flatten(2).any(dim=2).double().argmax(dim=0) + 0.5
    assert 1 - first.mean().item() / 128 == pytest.approx(64 / 65, abs=4e-3)
    states = sample(uniform, noise, even(16).times, "first_hitting", rng=stream(1, "draws"), keep=range(1, 17)).states
    counts = states.sum(dim=(2, 3))
    assert torch.equal(counts, torch.arange(4, 65, 4, dtype=F64)[:, None].expand(-1, 200))


def test_tokens_are_drawn_as_likely_as_they_are_in_float64() -> None:
    """At each of many even quantiles, of chances in float32, whose cumulative sums do not reach 1."""
    n, data = 1000, torch.tensor([1e-6, 0.3, 0.0, 0.7 - 1e-6], dtype=torch.float32)
    u = (torch.arange(n, dtype=F64) + 0.5) / n
    x = torch.zeros(n, 4, 1)
    found = revealed(x, data.view(1, 4, 1).expand(n, -1, -1), u.view(n, 1, 1), torch.ones(n, 1, 1, dtype=torch.bool))
    assert found.sum(dim=0).flatten().tolist() == [0, 300, 0, 700]
    low = torch.full((n, 1, 1), 5e-7, dtype=F64)
    found = revealed(x, data.view(1, 4, 1).expand(n, -1, -1), low, torch.ones(n, 1, 1, dtype=torch.bool))
    assert found[:, 0].all()


def test_what_is_no_number_stays_so() -> None:
    x0 = drawn(lambda x, _t: x * torch.nan, "masked", 2, 3)
    assert x0.isnan().all()
    assert Tokens((2, 1, 2)).decode(x0[:, :, None]).isnan().all()


def test_a_state_that_rests_is_not_asked_for_again() -> None:
    """N (1 - q) steps are expected to unmask something, and 1 + (N - 1) (1 - q) calls; the samples are the same."""
    rests = {n: (1 - 1 / n) ** 64 for n in (16, 64, 128, 1024)}
    moving = [n * (1 - q) for n, q in rests.items()]
    assert moving == pytest.approx([15.743, 40.641, 50.516, 62.070], abs=1e-3)
    steps = 64

    def velocity(x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        known = x.sum(dim=(1, 2), keepdim=True)
        return drift(torch.stack([known[:, 0], -known[:, 0]], dim=1).sin().expand_as(x), x, t, "masked")

    noise, rule = begin(300, 2, 64), rule_of({"name": "masked"})
    prompted, grid = Prompted(velocity, tokens(300)), build(LINEAR, even(steps).times)
    field = Unchanged(name="unchanged").over(prompted, grid, noise)
    found = drive(field, noise, rule, rng=stream(1, "draws"))
    assert found.nfe == pytest.approx(1 + (steps - 1) * (1 - rests[steps]), abs=0.3)
    again = sample(lambda x, t: velocity(x, t, tokens(300)), noise, grid.times, rule, rng=stream(1, "draws"))
    assert torch.equal(found.x0, again.x0)


@pytest.mark.parametrize("noising", ["masked", "uniform"])
def test_guidance_is_of_the_logarithms(noising: Noising) -> None:
    x = one_hot(torch.randint(3, (2, 4), generator=stream(0, "x")), 3).to(F64).movedim(-1, 1)
    x[0, :, 2] = 0 if noising == "masked" else x[0, :, 1]
    one, two = torch.randn(2, 2, 3, 4, dtype=F64, generator=stream(0, "logits"))
    t = torch.tensor([0.3, 0.9], dtype=F64)
    answers = {0: drift(two, x, t, noising), 1: drift(one, x, t, noising)}

    class Both:
        """Of a network of tokens: the first answer is of no prompt."""

        away = staticmethod(away)

        def __call__(self, _x: Tensor, _t: Tensor, cond: Tensor) -> Tensor:
            return torch.cat([answers[int(cond[0])], answers[int(cond[-1])]])

    found = guided(Both(), 2.5)(x, t, tokens(2).fill_(1))
    torch.testing.assert_close(found, drift(2.5 * one - 1.5 * two, x, t, noising))


class Net(torch.nn.Module):
    """Of tokens [2, 1, 2]."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("here", torch.zeros(()))

    def forward(self, x: Tensor, t: Tensor, _cond: Tensor) -> Tensor:
        return drift(torch.zeros_like(x), x, t, "masked")


def test_a_models_rule_is_of_its_kind_and_its_samples_follow_their_index() -> None:
    of_tokens = Student(Net(), even(2, rule="masked"), Tokens((2, 1, 2)), None)
    noise = Noise(0, "x")
    assert torch.equal(draw(of_tokens, tokens(5), noise), draw(of_tokens, tokens(5), noise, batch_size=2))
    with pytest.raises(ValueError, match=r"rule euler: .* samples are tokens that noise masks; take masked or first"):
        draw(replace(of_tokens, spec=even(2)), tokens(5), noise)
    with pytest.raises(
        ValueError, match=r"rule masked: it steps along tokens .* are numbers; take another, such as euler"
    ):
        draw(replace(of_tokens, space=Points((2, 1, 2))), tokens(5), noise)
    with pytest.raises(ValueError, match="rule first_hitting: it steps along tokens"):
        program(even(2, rule="first_hitting"))


@pytest.mark.parametrize(
    ("rule", "field", "why"),
    [
        ("masked", {"name": "epsilon_scaling", "scale": 1.1, "slope": 0.0}, "fields of flows do not answer for tokens"),
        ("euler", {"name": "unchanged"}, "the field is for rules that unmask tokens"),
    ],
)
def test_a_field_is_of_the_rules_kind(rule: str, field: dict, why: str) -> None:
    content = {"rule": {"name": rule}, "schedule": {"name": "uniform", "steps": 4}, "guidance": 1.0, "field": field}
    with pytest.raises(ValueError, match=f"{why}; leave the field out"):
        check(Sampler, content, "sampler")


def test_greys_are_tokens_and_back() -> None:
    space, images = Tokens((17, 2, 2)), torch.tensor([[0, 1, 8, 16]]).view(1, 1, 2, 2) / 16
    x0 = space.encode(images)
    assert x0.shape == (1, 17, 2, 2)
    assert torch.equal(space.decode(x0), images)
    assert torch.equal(space.decode(space.encode(images + 0.02)), images)
