"""Searches along rules of tokens: the law that particles stand for, and who may not."""

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from stages.core.spec import even
from stages.samplers import rule_of
from stages.samplers.schedules.uniform import uniform
from stages.samplers.student import Noise
from stages.steering.run import fits
from stages.steering.task import Draws, Task
from tests.samplers.rigs import F64
from tests.samplers.test_masked import BITS
from tests.samplers.test_uniform_state import agreeing
from tests.samplers.test_uniform_state import bits as uniform_bits
from tests.steering.rigs import steering

RULES = {"masked": ({"name": "masked"}, BITS), "uniform": ({"name": "uniform_state", "last": "drawn"}, uniform_bits)}
STEPS = 3
REWARD = torch.tensor([0.0, 1.0], dtype=F64)
"""Of each bit that is 1."""


def task(kind: str, count: int) -> Task:
    rule, velocity = RULES[kind]
    return Task(
        velocity=lambda x, t, _of: velocity(x, t),
        branches=None,
        score=lambda x, _of: (x * REWARD[:, None]).sum(dim=(1, 2)),
        draws=Draws(Noise(0, "rig"), 0, count, (2, 2), torch.zeros((), dtype=F64)),
        times=tuple(uniform(STEPS).tolist()),
        rule=rule_of(rule),
    )


def law(kind: str) -> Tensor:
    """[2, 2] of two bits that always agree, as the rule's steps draw them."""
    agree = 1 - 1 / (2 * STEPS) if kind == "masked" else agreeing(STEPS)
    return torch.tensor([[agree, 1 - agree], [1 - agree, agree]], dtype=F64) / 2


@pytest.mark.parametrize("kind", RULES)
def test_fk_stands_for_the_tilted_law_of_the_steps(kind: str) -> None:
    tilt = sum(law(kind)[i, j].item() * math.exp(i + j) for i, j in product(range(2), repeat=2))
    chosen = steering("fk", strength=1.0, particles=8, potential="difference", every=1, pick="draw",
                      resampling={"rule": "systematic", "threshold": 0.9})  # fmt: skip
    found = chosen.search(task(kind, 6000))
    evidence = found.log_evidence.exp()
    assert evidence.mean().item() == pytest.approx(tilt, abs=4 * evidence.std().item() / math.sqrt(6000))
    assert found.resamplings.max() >= 1
    both = (found.x0[:, 1].sum(dim=1) == 2).double().mean().item()
    assert both == pytest.approx(law(kind)[1, 1].item() * math.exp(2) / tilt, abs=0.04)


@pytest.mark.parametrize("kind", RULES)
def test_the_best_of_n_is_as_good_as_its_law_says(kind: str) -> None:
    found = steering("best_of_n", particles=3).search(task(kind, 4000))
    below = law(kind)[0, 0].item()
    assert (found.reward == 0).double().mean().item() == pytest.approx(below**3, abs=0.02)
    assert torch.equal(found.x0.sum(dim=1), torch.ones(4000, 2, dtype=F64))


def test_who_asks_for_a_flow_says_so() -> None:
    for rule in ({"rule": "masked"}, {"rule": "uniform_state", "last": "drawn"}):
        with pytest.raises(ValueError, match=r"steering 'svdd': acts along a flow.*; best_of_n and fk take those"):
            fits(steering("svdd"), even(4, **rule))
        fits(steering("best_of_n"), even(4, **rule))
        fits(steering("fk"), even(4, **rule))
