"""Evaluation of a mixture: nothing held out, no pictures, and a truth to be measured against."""

import json

import pytest
import torch

from stages.core.prompts import Prompt
from stages.core.rng import seeded
from stages.core.spec import even
from stages.io import artefacts, run
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.models import Student, save
from stages.models.mixture import GaussianMixture
from stages.models.space import Points
from stages.models.verifier import MixtureVerifier, load_verifier

pytestmark = pytest.mark.slow

SECTION = {
    "num_samples": 60, "batch_size": 64, "teacher_nfe": [2, 64], "guidance_nfe": 2, "guidance_scales": [],
    "distill_nfe": {}, "rl_nfe": 3, "rl_steps": [], "fd_repeats": 4, "neighbours": 2,
    "straightness_samples": 2, "straightness_steps": 4,
    "grid_prompts": 3, "metrics": {}, "rewards": {}, "steered": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def mixture_job(tmp_path_factory) -> Job:
    """Three components far apart, whose exact velocity is the teacher."""
    root = tmp_path_factory.mktemp("mixture") / "data"
    truth = GaussianMixture(torch.full((3,), 1 / 3), torch.tensor([[0.0, 6], [6, 0], [-6, 0]]), torch.full((3,), 0.5))
    which = torch.arange(240) % 3
    with seeded(0):
        points = truth.means[which].float() + 0.5 * torch.randn(240, 2)
    images = points[..., None, None]
    for name in ("dataset", "verifier", "teacher", "encode", "reflow"):
        (root / name).mkdir(parents=True)
    Dataset(
        train_images=images[:120], train_prompts=which[:120], test_images=images[120:], test_prompts=which[120:],
        prompts=[Prompt(f"component {k}", {"component": str(k)}) for k in range(3)], splits=["seen"] * 3,
        space="points", facts={"kind": "mixture"},
    ).save(root / "dataset")  # fmt: skip
    exact = Student(truth, even(2), Points((2, 1, 1)), truth.encoder)
    save(root / "teacher" / "model", exact)
    save(root / "verifier", exact)
    truth.text.save(root / "encode")
    artefacts.write_json(root / "reflow" / "stats.json", {})
    for folder in ("dataset", "verifier", "teacher", "encode", "reflow"):
        content = {"schema": 1, "files": artefacts.inventory(root / folder)}
        artefacts.write_json(root / folder / artefacts.MANIFEST, content)
    inputs = {name: str(root / name) for name in ("dataset", "verifier", "teacher", "encode", "reflow")}
    context = {"distill": {}, "rl": {}}
    return Job(stage="evaluate", arm=None, seed=0, section=SECTION, inputs=inputs, context=context)


def test_an_exact_mixture_is_near_the_truth_and_two_steps_are_not(mixture_job, tmp_path):
    run.run(mixture_job, tmp_path / "out", tmp_path / "work", lambda _step, _metrics: None)
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    exact, coarse = metrics["teacher"]["nfe64"], metrics["teacher"]["nfe2"]
    assert isinstance(load_verifier(mixture_job.input("verifier")), MixtureVerifier)
    assert exact["score_seen"] == 1
    # 160 samples a component: standard errors 0.5 / sqrt(160) = 0.04 of a mean, 0.02 of a standard deviation
    assert exact["mean_error"] < 0.1
    assert exact["std_error"] < 0.06
    assert coarse["std_error"] > 0.15, "two Euler steps shrink a component"
    assert abs(exact["energy_distance"]) < 0.05
    assert exact["wasserstein2"] < 0.45 < coarse["wasserstein2"], "160 samples are .37 from as many others"
    assert exact["nll_error"] < 0.2 < coarse["nll_error"]
    assert exact["weight_error"] == 0
    assert not any("heldout" in name for name in exact)
    assert "held-out" not in (tmp_path / "out" / "report.html").read_text()
