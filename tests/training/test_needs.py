"""What is told of a training before it begins is what it then takes."""

from dataclasses import replace

import pytest
import torch

from stages.models.sketch import trained
from stages.models.space import Points
from stages.models.transformer import TransformerConfig
from stages.training import needs
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import FULL, Start
from tests.test_contracts import on_nodes, settings
from tests.training.test_method_contract import MODULES
from tests.training.tiny import TinyNet
from tests.training.words import named

pytestmark = pytest.mark.slow

BUDGET = Budget(iterations=7, ema=0.5, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
DRAWS_STEPS = {"dmd2", "f_distill", "ladd", "disback", "diff_instruct", "sim", "sfd_unlearn", "dmdr"}
"""Methods that draw how many of a student's steps an iteration simulates."""
SMALL = TransformerConfig(kind="transformer", width=16, num_layers=2, num_heads=2, patch_size=2)


def batch(rows: int) -> dict[str, torch.Tensor]:
    x = torch.randn((rows, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    group = torch.arange(rows // 4).repeat_interleave(4)
    given = {"x0": x, "noise": x.flip(0), **on_nodes(x.flip(0), x)}
    return {**given, "cond": torch.ones((rows, 1), dtype=torch.int64), "group": group}


@pytest.mark.parametrize("name", MODULES)
def test_calls_are_counted_as_a_training_counts_them(name: str) -> None:
    module, cfg = MODULES[name], settings(name)
    told = needs.calls(module, cfg, BUDGET, rows=8, group_size=4)

    def reward(images: torch.Tensor, _prompts: object) -> torch.Tensor:
        return images.flatten(1).mean(dim=1)

    start = Start(
        TinyNet(0).float(), TinyNet(1).float(), Points((1, 4, 4)), reward, [""] * 9,  # type: ignore[list-item]
        rows=named(module, cfg, 8),
    )  # fmt: skip
    trainer = Trainer(module, cfg, BUDGET, start, seed=0, device="cpu")
    for _ in range(BUDGET.iterations):
        trainer.step(batch(8))
    assert told == trainer.cost
    assert told.totals["network_evaluations"] > 0


def test_phases_that_begin_late_or_come_seldom_are_counted_when_they_come() -> None:
    module, cfg = MODULES["dmd2"], settings("dmd2")
    early = needs.calls(module, cfg, BUDGET, rows=8)

    class Late:
        needs, roles, prepare, sampler = module.needs, module.roles, module.prepare, module.sampler

        @staticmethod
        def phases(given: object) -> tuple[object, ...]:
            first, *rest = module.phases(given)
            return replace(first, start=0.5, every=2), *rest

    late = needs.calls(Late, cfg, BUDGET, rows=8)  # type: ignore[arg-type]
    trains = module.phases(cfg)[0].trains[0]
    # Of iterations 0 to 6 the second half begins at 4, and every other one is 4 and 6.
    assert late.networks[trains]["backward"] * BUDGET.iterations == early.networks[trains]["backward"] * 2


@pytest.mark.slow
@pytest.mark.parametrize("name", MODULES)
def test_calls_of_a_long_training_are_told_from_its_first_iterations(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, cfg = MODULES[name], settings(name)
    budget = replace(BUDGET, iterations=66)
    told = needs.calls(module, cfg, budget, rows=8, group_size=4).totals
    monkeypatch.setattr(needs, "_SHOWN", 10**6)
    every = needs.calls(module, cfg, budget, rows=8, group_size=4).totals
    for kind, count in every.items():
        assert told[kind] == pytest.approx(count, rel=0.15 if name in DRAWS_STEPS else 0), kind


def test_memory_grows_with_the_rows_of_a_slice_and_holds_each_network_once() -> None:
    drawn = trained(SMALL, (1, 8, 8))
    module, cfg = MODULES["kd"], settings("kd")
    one, two = (needs.memory(module, cfg, drawn, drawn, FULL, rows=rows) for rows in (4, 8))
    assert one.weights == two.weights == 3 * 4 * one.frozen, "the teacher, the student, its average"
    assert one.optimiser == 2 * one.gradients == 8 * one.trained
    assert 1.8 < two.activations / one.activations <= 2
    assert one.total == one.weights + one.gradients + one.optimiser + one.activations


@pytest.mark.parametrize("name", ["flow_turbo", "learned_variance", "speed_up_net"])
def test_of_a_network_that_is_given_a_new_part_that_one_learns(name: str) -> None:
    drawn = trained(SMALL, (1, 8, 8))
    module, cfg = MODULES[name], settings(name)
    found = needs.memory(module, cfg, drawn, drawn, FULL, rows=4)
    plain = needs.memory(MODULES["kd"], settings("kd"), drawn, drawn, FULL, rows=4)
    carried = found.weights - plain.weights - 2 * 4 * found.trained
    assert 0 <= carried < 0.01 * found.weights, "the student and its average; what does not learn is little"
    assert found.optimiser == 2 * found.gradients == 8 * found.trained
    assert found.activations > 0
