"""Multi-student distillation: trainings that share a loop and nothing else, one for each part of the prompts."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from stages.core.rng import stream
from stages.distillers import dmd2
from stages.models import TextTable
from stages.models.network import seeded_build
from stages.models.space import Points
from stages.models.transformer import TransformerConfig
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import AVERAGE, Start
from tests.distillers.test_dmd2 import WIDE

SIZE = TransformerConfig(kind="transformer", width=16, num_layers=1, num_heads=2, patch_size=2)
SPACE = Points((1, 4, 4))
BUDGET = Budget(iterations=9, ema=0.0, clip=1e9, warmup=0, final_lr=1.0, precision="float32", slices=1)
CONFIG = replace(WIDE, critic_updates=1, gan_weight=0.1, student_lr=1e-3, fake_lr=1e-3, head_lr=1e-3)
NUM_PROMPTS = 8


@pytest.fixture(scope="module")
def net() -> nn.Module:
    labels = torch.eye(NUM_PROMPTS + 1)
    table = TextTable(
        ["", *(f"prompt {row}" for row in range(NUM_PROMPTS))], {"hidden": labels[:, None], "pooled": labels}
    )
    made = seeded_build(0, SIZE, SPACE.shape, table)
    nn.init.normal_(made.body.proj_out.weight, std=0.3, generator=stream(0, "test"))  # starts at zero
    return made.requires_grad_(False)


def trainer(net: nn.Module, num_students: int) -> Trainer:
    start = Start(net, net, SPACE, num_students=num_students)
    return Trainer(dmd2, CONFIG, BUDGET, start, seed=0, device="cpu")


def batch(prompts: list[int]) -> dict[str, Tensor]:
    x0 = torch.randn(len(prompts), *SPACE.shape, generator=stream(1, "x0"))
    return {"x0": x0, "cond": torch.tensor(prompts)[:, None]}


def members(made: Trainer, role: str) -> list[dict[str, Tensor]]:
    body: Any = (made.weights.average if role == AVERAGE else made.weights.nets[role]).body
    return [{name: p.clone() for name, p in member.named_parameters()} for member in body.members]


def moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> float:
    return sum((after[name] - p).abs().sum().item() for name, p in before.items())


@pytest.mark.parametrize("role", ["student", "fake", AVERAGE])
def test_prompts_of_one_part_teach_its_student_and_its_fake_alone(net: nn.Module, role: str) -> None:
    made = trainer(net, 2)
    before = members(made, role)
    made.step(batch([1, 2, 3, 4]))
    first, second = (moved(*pair) for pair in zip(before, members(made, role), strict=True))
    assert first > 0
    assert second == 0


def test_a_student_is_what_it_would_be_alone(net: nn.Module) -> None:
    """Gradients of a part are those of its rows; only the batch over which they are averaged is shared."""
    two, one = trainer(net, 2), trainer(net, 1)
    rows = batch([1, 2, 3, 4])
    for made in (two, one):
        made.step(rows)
        made.step(rows)
    alone = dict(one.weights.nets["student"].body.named_parameters())
    for name, weight in members(two, "student")[0].items():
        torch.testing.assert_close(weight, alone[name])


def test_it_is_asked_as_one_network(net: nn.Module) -> None:
    made = trainer(net, 2)
    made.step(batch([1, 2, 7, 8]))
    student = made.weights.nets["student"]
    x, t = torch.randn(4, *SPACE.shape, generator=stream(2, "x")), torch.full((4,), 0.5)
    cond = torch.tensor([[8], [1], [7], [2]])
    whole = student(x, t, cond)
    torch.testing.assert_close(torch.cat([student(x[i : i + 1], t[:1], cond[i : i + 1]) for i in range(4)]), whole)
    assert made.cost.networks["student"]["forward"] == 4 * 2, "a sample is one call, whoever answers it"
