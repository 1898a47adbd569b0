"""Progress is counted by what a real training reports, and ends at all of it."""

import json

import pytest
import torch

from flows.telemetry import progress, reports
from stages.models.network import seeded_build
from stages.models.space import Pixels
from stages.models.transformer import TransformerConfig
from stages.training import flow_matching
from stages.training.budget import Budget
from stages.training.levels import Uniform
from stages.training.loop import Trainer
from stages.training.roles import Start
from tests.training.words import rows, table

PROMPTS = ["a bold 7", "a thin 3"]
BUDGET = {
    "iterations": 25, "ema": 0.9, "clip": 1.0, "warmup": 0, "final_lr": 1.0, "precision": "float32", "slices": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """What a tiny training writes to its report."""
    folder = tmp_path_factory.mktemp("training")
    size = TransformerConfig(kind="transformer", width=8, num_layers=1, num_heads=1, patch_size=2)
    net = seeded_build(0, size, (1, 4, 4), table(PROMPTS))
    method = flow_matching.Config(
        lr=1e-2, condition_dropout=0.2, times=Uniform(name="uniform"), latent=0.0, perturbation=0.0, nfe=4
    )
    start = Start(init=net, teacher=net, space=Pixels((1, 4, 4)))
    trainer = Trainer(flow_matching, method, Budget(**BUDGET), start, seed=0, device="cpu")
    batch = {"x0": torch.zeros(2, 1, 4, 4), "cond": rows([0, 1])}
    with (folder / "all.jsonl").open("w") as stream:
        trainer.run(lambda _: batch, resume=folder / "resume", sink=reports.reporter(stream))
    return (folder / "all.jsonl").read_text().splitlines(keepends=True)


def test_a_trainings_progress_ends_at_all_of_it(lines, tmp_path):
    file, section = tmp_path / "all.jsonl", {"budget": BUDGET}
    assert progress.of(section, {"all": file}, 0) is None
    seen = []
    for line in lines:
        with file.open("a") as stream:
            stream.write(line)
        found = progress.of(section, {"all": file}, 0)
        seen.append((found.words, found.share))
    assert seen == [("step 10 of 25", 0.4), ("step 20 of 25", 0.8), ("step 25 of 25", 1.0)]


@pytest.mark.parametrize(
    ("section", "total"),
    [
        ({"iterations": 800}, 800),  # a verifier
        ({"num_trajectories": 512, "shard_size": 256}, 256),
        ({"kind": "exact"}, None),
    ],
)
def test_a_unit_is_counted_by_what_its_stage_reports(section, total, tmp_path):
    (tmp_path / "u").write_text(json.dumps({"step": 64, "time": 0, "metrics": {}}) + "\n")
    found = progress.of(section, {"u": tmp_path / "u"}, 0)
    assert (found.done, found.total) == (64, total)
    assert found.words == (f"step 64 of {total}" if total else "step 64")
    assert found.share == (64 / total if total else None)


def test_several_units_are_counted_by_their_ends(tmp_path):
    found = progress.of({"shard_size": 256}, {f"u{i}": tmp_path / f"u{i}" for i in range(4)}, 1)
    assert (found.words, found.share) == ("1 of 4 units", 0.25)
