"""Scenes as a data set and what judges them: prompts, splits, agreement, and features that tell scenes apart."""

import pytest
import torch

from stages.core.frechet import frechet_distance
from stages.io import run
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.models.scenes import JUDGED, labels
from stages.models.verifier import load_verifier
from tests.composed import params_of

SMALL = ["dataset.num_train=600", "dataset.num_test=400", "verifier.iterations=30", "verifier.network.channels=8"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small data set of scenes and its verifier."""
    words = ["dataset=shapes", "verifier=scenes", "distill=none", "rl=none", *SMALL]
    content = params_of("experiment=digits", *words)
    root, inputs = tmp_path_factory.mktemp("shapes"), {}
    for stage in ("dataset", "verifier"):
        job = Job(stage=stage, arm=None, seed=0, section=content[stage], inputs=dict(inputs))
        metrics = run.run(job, root / stage, root / "work", lambda *_: None)
        inputs[stage] = str(root / stage)
    return Dataset.load(root / "dataset"), load_verifier(root / "verifier"), metrics


def test_the_verifier_agrees_with_what_was_asked_for(made):
    assert made[2]["agreement_all"] > 0.98
    assert {f"agreement_{name}" for name in JUDGED} <= made[2].keys()


def test_training_shows_nothing_that_was_held_out(made):
    data = made[0]
    shown = {data.splits[place] for place in data.train_prompts.tolist()}
    assert shown == {"seen"}
    assert {data.splits[place] for place in data.test_prompts.tolist()} == {"seen", "heldout"}
    assert len(data.prompts) == 2516
    colored = [prompt for place in data.places("heldout") if (prompt := data.prompts[place]).facts["task"] == "colors"]
    assert len(colored) == 3, "a prompt of one thing alone for each held-out thing"


def test_its_file_holds_levels(made, tmp_path):
    data = made[0]
    data.save(tmp_path)
    assert (tmp_path / "images.safetensors").stat().st_size < 1.1 * (600 + 400) * 3 * 16 * 16
    again = Dataset.load(tmp_path)
    assert torch.equal(again.train_images, data.train_images)
    assert again.train_images.dtype == torch.float32


def test_features_tell_scenes_from_noise(made):
    data, judge, _ = made
    real, other = judge.features(data.test_images[:200]), judge.features(data.test_images[200:])
    noise = judge.features(torch.rand(200, 3, 16, 16, generator=torch.Generator().manual_seed(0)))
    assert frechet_distance(real, noise) > 3 * frechet_distance(real, other)


def test_labels_say_which_things_and_how_many(made):
    data = made[0]
    places = [i for i, place in enumerate(data.test_prompts.tolist()) if data.prompts[place].facts["task"] == "colors"]
    facts = [data.prompts[data.test_prompts[i]].facts["objects"][0] for i in places]
    found = labels(data.test_images[places], 4, 5)
    assert (found[:, -1] == 1).float().mean() > 0.98
    assert (found[:, :-1].sum(1) == 1).float().mean() > 0.98
    assert len(facts) == len(found)
