"""Cells of models whose scores are known by hand."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from stages import evaluate
from stages.cells import measure as cells
from stages.core.config import check
from stages.core.frechet import frechet_distance
from stages.core.rng import normal_at
from stages.core.spec import SamplerSpec, even
from stages.core.types import Run
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.metrics.score import share
from stages.models import Student
from stages.models.conditioning import OneHot
from stages.models.space import Pixels
from stages.models.verifier import load_verifier
from tests.cells.rigs import ATTRIBUTES, SECTION, SILENT, job_on, make_inputs

CFG = check(evaluate.Config, SECTION, "evaluate")


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    return job_on(root)


SPACE = Pixels((1, 8, 8))


class Oracle(nn.Module):
    """One step from any noise to the picture that it keeps for a prompt."""

    def __init__(self, dataset: Dataset, answer) -> None:
        super().__init__()
        images, shown = torch.cat([dataset.train_images, dataset.test_images]), answer(dataset)
        self.register_buffer("pictures", images[[shown(place) for place in range(len(dataset.prompts))]])
        self.noise: list[Tensor] = []

    def forward(self, x, t, cond):
        self.noise.append(x.clone())
        return (x - SPACE.encode(self.pictures[cond[:, 0] - 1])) / t.reshape(-1, 1, 1, 1)


def faithful(dataset: Dataset):
    """A prompt's place -> index of a picture that shows it."""
    shown = torch.cat([dataset.train_prompts, dataset.test_prompts])
    return lambda place: int((shown == place).nonzero()[0])


def stubborn(dataset: Dataset):
    """A prompt's place -> the same picture whatever was asked for."""
    return lambda _place: 0


def measure(job: Job, monkeypatch, tmp_path: Path, net: nn.Module, spec: SamplerSpec, **changes) -> dict[str, float]:
    monkeypatch.setattr(cells, "load", lambda _folder, _text, _device: Student(net, spec, SPACE, OneHot([""])))
    monkeypatch.setattr(evaluate, "sampler", lambda _folder: spec)
    found: dict[str, float] = {}
    for unit in evaluate.plan(replace(CFG, **changes), job):
        if unit["of"] == "distill.fast":
            evaluate.work(CFG, job, unit, Run(out=tmp_path, resume=tmp_path, sink=SILENT))
            found |= json.loads((tmp_path / "cell.json").read_text())
    return found | evaluate.judged(job, found)


def test_a_model_that_shows_what_is_asked_scores_one(job, monkeypatch, tmp_path):
    net = Oracle(Dataset.load(job.input("dataset")), faithful)
    found = measure(job, monkeypatch, tmp_path, net, even(1))
    for split in ("seen", "heldout"):
        assert found[f"score_{split}"] == 1
        assert found[f"score_{split}_low"] == pytest.approx(share(10, 10).low)
        assert all(found[f"accuracy_{split}_{name}"] == 1 for name in ATTRIBUTES)
    assert found["reward_tuned"] == 2
    assert found["nfe"] == found["network_calls"] == 1


def test_a_model_that_always_shows_the_same_scores_what_counting_gives(job, monkeypatch, tmp_path):
    data = Dataset.load(job.input("dataset"))
    found = measure(job, monkeypatch, tmp_path, Oracle(data, stubborn), even(1))
    seen, shown = data.places("seen"), data.prompts[data.train_prompts[0]].facts
    asked = [data.prompts[seen[i % len(seen)]].facts for i in range(10)]
    right = torch.tensor([[facts[name] == shown[name] for name in ATTRIBUTES] for facts in asked])
    assert found["score_seen"] == pytest.approx(right.all(dim=1).double().mean())
    digit, weight, slant = right.double().mean(dim=0).tolist()
    assert found["accuracy_seen_weight"] == pytest.approx(weight)
    assert found["reward_dgpo"] == pytest.approx(0.25 * digit + 0.75 * slant)
    assert found["recall"] < 0.5, "a single picture cannot cover the data"


def test_the_distance_is_between_samples_of_the_test_prompts_and_the_test_images(job, monkeypatch, tmp_path):
    data, verifier = Dataset.load(job.input("dataset")), load_verifier(job.input("verifier"))
    net = Oracle(data, faithful)
    found = measure(job, monkeypatch, tmp_path, net, even(1))
    answers = net.pictures[data.test_prompts.repeat(2)]
    expected = frechet_distance(verifier.features(answers), verifier.features(data.test_images))
    assert found["frechet_distance"] == pytest.approx(expected, rel=1e-5)


def test_every_cell_starts_from_the_same_noise_whatever_the_batch(job, monkeypatch, tmp_path):
    data = Dataset.load(job.input("dataset"))
    drawn = []
    for size in (4, 7):
        net = Oracle(data, faithful)
        measure(job, monkeypatch, tmp_path, net, even(1), batch_size=size)
        drawn.append(torch.cat(net.noise))
    assert torch.equal(*drawn)
    assert torch.equal(drawn[0][:60], normal_at(3, "evaluate/test", 0, 60, (1, 8, 8)))
    assert torch.equal(drawn[0][60:70], normal_at(3, "evaluate/seen", 0, 10, (1, 8, 8)))


def test_a_guided_step_costs_two_calls(job, monkeypatch, tmp_path):
    net = Oracle(Dataset.load(job.input("dataset")), faithful)
    found = measure(job, monkeypatch, tmp_path, net, even(2, guidance=1.5))
    assert (found["nfe"], found["network_calls"]) == (2, 4)


def test_the_oracle_flow_is_straight_and_one_step_is_no_flow(job, monkeypatch, tmp_path):
    net = Oracle(Dataset.load(job.input("dataset")), faithful)
    assert measure(job, monkeypatch, tmp_path, net, even(4))["straightness"] == pytest.approx(0, abs=1e-9)
    assert "straightness" not in measure(job, monkeypatch, tmp_path, net, even(1))


def test_a_model_that_diverged_is_named(job, monkeypatch, tmp_path):
    net = Oracle(Dataset.load(job.input("dataset")), faithful)
    net.pictures[0] = torch.nan
    with pytest.raises(ValueError, match=r"distill\.fast.*diverged"):
        measure(job, monkeypatch, tmp_path, net, even(1))
