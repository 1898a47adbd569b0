"""What is told of a checkpoint before its weights are read, held against the checkpoint."""

from dataclasses import replace

import pytest
import torch
from torch.distributed._tools.mem_tracker import MemTracker, _MemRefType

from stages.models import sketch
from stages.training import needs
from stages.training.budget import Budget
from stages.training.loop import Trainer
from stages.training.roles import FULL, Start, Tuning
from stages.training.tune import tuning
from tests.models.families.test_contract import LORA, MODULES, Rig, rig  # noqa: F401 - a fixture
from tests.test_contracts import settings

pytestmark = pytest.mark.slow

ROWS = 8
METHOD, CFG = MODULES["kd"], settings("kd")


def test_it_is_as_large_as_the_checkpoint(rig: Rig) -> None:  # noqa: F811
    drawn = sketch.checkpoint(rig.at)
    built = drawn.build()
    assert {name: p.shape for name, p in built.named_parameters()} == {
        n: p.shape for n, p in rig.net.named_parameters()
    }
    assert drawn.shape == rig.space.shape
    assert drawn.call(built, 2).shape == (2, *drawn.shape)
    held = sum(rows[0].nbytes for rows in rig.table.features.values())
    assert held <= drawn.row_bytes <= 40 * held, "at most: texts are shorter than the model reads"


def trainer_of(of: Rig, way: Tuning) -> Trainer:
    budget = Budget(iterations=9, ema=0.5, clip=1.0, warmup=0, final_lr=1.0, precision="float32", slices=1)
    start = Start(of.net, of.net, of.space)
    return Trainer(METHOD, CFG, budget, start, seed=0, device="cpu", tuning=way)


def test_adapters_are_all_that_a_training_adds_to_the_base(rig: Rig) -> None:  # noqa: F811
    drawn, way = sketch.checkpoint(rig.at), tuning(LORA, 0)
    told = needs.memory(METHOD, CFG, drawn, drawn, way, rows=ROWS)
    trainer = trainer_of(rig, way)
    assert told.trained == sum(p.numel() for p in trainer.weights.parameters("student"))
    nets = [*trainer.weights.nets.values(), trainer.weights.average]
    real = sum({id(t): t.nbytes for n in nets for t in [*n.parameters(), *n.buffers()]}.values())
    assert told.weights == pytest.approx(real, rel=0.1)  # some networks make a buffer anew when they are first called
    assert told.optimiser == 2 * told.gradients
    again = needs.memory(METHOD, CFG, drawn, drawn, tuning(replace(LORA, checkpointing=True), 0), rows=ROWS)
    assert again.activations < told.activations


def test_memory_is_what_a_training_is_measured_to_hold(rig: Rig) -> None:  # noqa: F811
    drawn = sketch.checkpoint(rig.at)
    told = needs.memory(METHOD, CFG, drawn, drawn, FULL, rows=ROWS)
    trainer = trainer_of(rig, FULL)
    cond = torch.ones((ROWS, 1), dtype=torch.int64)
    batch = {"x0": rig.noise(ROWS), "noise": rig.noise(ROWS), "cond": cond}
    tracker = MemTracker()
    tracker.track_external(*trainer.weights.nets.values(), trainer.weights.average, *trainer.optimisers.values())
    with tracker:
        trainer.step(batch)
    peak = tracker.get_tracker_snapshot("peak")[torch.device("cpu")]
    assert peak[_MemRefType.PARAM] + peak[_MemRefType.BUFFER] == pytest.approx(told.weights, rel=0.1)
    ratio = told.activations / (peak[_MemRefType.ACT] + peak[_MemRefType.TEMP])
    assert 0.8 < ratio < 1.5  # 0.95 to 1.27 were found
