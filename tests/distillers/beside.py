"""What holds for every method that trains a network beside a model, which stays as it is."""

from types import ModuleType
from typing import Any

import torch

from stages.core.rng import stream
from stages.models.space import Points
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import Start
from tests.training.tiny import TinyNet

F64 = torch.float64


def cost_where_the_model_stays(method: ModuleType, cfg: Any) -> tuple[int, int, int]:
    """Of three updates with 8 samples: calls of the model, of the other network, and its backward passes."""
    budget = Budget(iterations=3, ema=0.9, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
    start = Start(init=TinyNet(3), teacher=TinyNet(4), space=Points((1, 4, 4), F64))
    trainer = Trainer(method, cfg, budget, start, seed=0, device="cpu")
    student = trainer.weights.nets["student"]
    before = {name: weight.clone() for name, weight in student.state_dict().items()}
    given = {"x0": torch.randn(8, 1, 4, 4, dtype=F64, generator=stream(0, "x0")), "cond": torch.ones(8, 1).long()}
    for _ in range(3):
        trainer.step(given)
    for name, weight in student.state_dict().items():
        assert torch.equal(weight, before[name]) == (not name.startswith("companion")), name
    for name, weight in trainer.weights.average.state_dict().items():
        assert torch.equal(weight, before[name]) or name.startswith("companion"), name
    cost = trainer.cost.networks["student"]
    return cost["forward"], cost["forward_part"], cost["backward_part"]
