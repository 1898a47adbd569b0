"""The small Stable Diffusion of shapes: the command that trains it, and the experiment that starts from it."""

import json
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import shapes_sd, shapes_sd_fit, shapes_sd_score
from benchmarks.shapes_sd_fit import Plan
from flows.pipeline import validation
from tests.composed import params_of
from tests.plain import run_all
from tests.test_presets import shortened
from tests.test_presets_large import SIZES

FEW = {"num_train": 96, "num_test": 48, "image_shard_size": 48, "num_samples": 8, "batch_size": 4, "iterations": 2}
COLORED = ["seen", "heldout"]


def composed(*overrides: str) -> dict:
    return params_of("experiment=shapes_sd", *overrides)


def test_without_the_checkpoint_one_message_names_the_command_that_makes_it(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert validation.faults(composed()) == [
        "teacher: source=data/base/shapes_sd: no such folder; make it once: python benchmarks/shapes_sd.py make"
    ]


def fitted(folder: Path, *, until: int | None = None) -> nn.Linear:
    """A line fitted in 6 iterations, unless the power fails after `until`."""
    torch.manual_seed(0)
    net, seen = nn.Linear(2, 1), list[int]()

    def loss_at(rows: torch.Tensor, rng: torch.Generator) -> torch.Tensor:
        seen.append(len(rows))
        if until is not None and len(seen) > until:
            raise KeyboardInterrupt
        x = torch.randn(len(rows), 2, generator=rng)
        return (net(x) - x.sum(1, keepdim=True)).square().mean()

    shapes_sd_fit.fit(net, Plan("line", iterations=6, batch_size=4, lr=0.1, ema=0.5), loss_at, 16, folder)
    return net


def test_a_training_that_was_interrupted_ends_as_it_would_have(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(shapes_sd_fit, "SAVE_EVERY_S", 0.0)
    whole = fitted(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fitted(tmp_path / "broken", until=4)
    assert torch.equal(fitted(tmp_path / "broken", until=2).weight, whole.weight)


@pytest.mark.slow
def test_the_experiment_runs_on_a_checkpoint_of_a_few_updates(tmp_path: Path, monkeypatch, capsys) -> None:
    """Trained, saved, imported, distilled, aligned, exported, and scored through stock diffusers."""
    monkeypatch.chdir(tmp_path)
    base, few = tmp_path / "base", ["--vae", "2", "--text", "2", "--unet", "2"]
    judged = ["--samples", "8", "--steps", "2", "--guidance", "2"]
    scenes = ["--scenes", "dataset.num_train=96", "dataset.num_test=48"]
    monkeypatch.setattr("sys.argv", ["shapes_sd.py", "make", "--out", str(base), *few, *judged, *scenes])
    assert shapes_sd.main() == 0
    assert json.loads(capsys.readouterr().out).keys() == {"guidance", *COLORED}
    assert not os.path.lexists(tmp_path / "base.work")

    content = shortened(composed(f"teacher.source={base}"), SIZES | FEW)
    content["encode"]["shard_size"] = 4096  # each loads the text encoder
    assert validation.faults(content) == []
    run_all(content, tmp_path)
    assert (tmp_path / "data" / "evaluate" / "report.html").stat().st_size > 10_000
    for arm, noisy in (("distill/tdm4", False), ("rl/dgpo4", False), ("distill/dmd4", True)):
        found = shapes_sd_score.score(
            tmp_path / "data" / arm / "model", tmp_path / "data" / "dataset", samples=8, steps=0, guidance=1.0
        )
        assert noisy or all(found[split]["mean difference of a pixel"] < 1e-3 for split in COLORED)
