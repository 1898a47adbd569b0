"""What stands beside the measurements of every model: rewards that only samples can tell, metrics of the parameters."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from stages import evaluate, rewards
from stages.cells import measure as cells
from stages.cells import reward as reward_cells
from stages.core.config import check
from stages.core.types import Run
from stages.io import run
from stages.io.dataset import Dataset
from stages.io.job import Job
from stages.metrics.kernel import mmd2
from stages.models.verifier import load_verifier
from stages.rewards import jpeg
from tests.cells.rigs import SECTION, SILENT, job_on, make_inputs
from tests.rewards.servers import PREFERENCE

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def job(tmp_path_factory) -> Job:
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    return job_on(root)


@pytest.fixture(scope="module")
def beside(job, tmp_path_factory) -> tuple[Job, Path, dict[str, float]]:
    """An evaluation in which an arm was trained for small files, and a metric is asked for."""
    root = tmp_path_factory.mktemp("beside")
    small = {"small": {"kind": "jpeg", "weight": -2.0, "quality": 90}}
    arms = {**job.context["rl"], "dgpo": {**job.context["rl"]["dgpo"], "rewards": small}}
    section = {**job.section, "metrics": {"kid": {"kind": "kernel", "degree": 3}}}
    job = replace(job, section=section, context={**job.context, "rl": arms})
    return job, root / "out", dict(run.run(job, root / "out", root / "work", SILENT))


def test_a_reward_that_the_verifier_cannot_tell_is_measured_on_every_model_and_on_real_images(beside):
    job, out, flat = beside
    rows = [name.removesuffix(".reward_dgpo") for name in flat if name.endswith(".reward_dgpo")]
    assert sorted(rows) == sorted(name.removesuffix(".score_seen") for name in flat if name.endswith(".score_seen"))
    data = Dataset.load(job.input("dataset"))
    seen = [i for i, place in enumerate(data.test_prompts.tolist()) if data.splits[place] == "seen"]
    score = rewards.weighted(
        rewards.terms(job.context["rl"]["dgpo"]["rewards"], "r"), rewards.Given(job.input("verifier"), "cpu")
    )
    images = data.test_images[seen]
    expected = score(images, [data.prompts[i] for i in data.test_prompts[seen].tolist()]).double().mean().item()
    assert flat["real.images.reward_dgpo"] == pytest.approx(expected)
    assert flat["real.images.reward_tuned"] == 2, "the verifier tells the others"
    assert "reward: dgpo" in (out / "report.html").read_text()


def test_a_reward_that_compares_samples_is_measured_on_no_model(beside):
    job = beside[0]
    plain = evaluate.plan(check(evaluate.Config, job.section, "evaluate"), job)
    own = job.context["rl"]["dgpo"]
    for rewards_of, left in (({**own["rewards"], "liked": PREFERENCE}, True), ({"liked": PREFERENCE}, False)):
        arms = {**job.context["rl"], "dgpo": {**own, "rewards": rewards_of}}
        units = evaluate.plan(
            check(evaluate.Config, job.section, "evaluate"), replace(job, context={**job.context, "rl": arms})
        )
        scored = [unit["id"] for unit in units if unit["id"].startswith("reward.dgpo")]
        assert scored == [unit["id"] for unit in plain if unit["id"].startswith("reward.dgpo") and left]
    with pytest.raises(ValueError, match=r"rewards\.liked: compares samples of one model with each other"):
        check(evaluate.Config, {**job.section, "rewards": {"liked": PREFERENCE}}, "evaluate")


def test_a_reward_sees_the_very_samples_that_are_scored(beside, monkeypatch, tmp_path):
    job, seen = beside[0], []
    drawn = cells.drawn

    def noted(_bench, _model, split, *rest):
        images, calls = drawn(_bench, _model, split, *rest)
        seen.append((split, images))
        return images, calls

    for module in (cells, reward_cells):
        monkeypatch.setattr(module, "drawn", noted)
    cfg = check(evaluate.Config, job.section, "evaluate")
    for unit in evaluate.plan(cfg, job):
        if unit["id"] in ("distill.fast", "reward.dgpo.distill.fast"):
            evaluate.work(cfg, job, unit, Run(out=tmp_path, resume=tmp_path, sink=SILENT))
    own, scored = dict(seen[:-2]), dict(seen[-2:])
    assert list(scored) == ["seen", "heldout"]
    assert all(torch.equal(scored[split], own[split]) for split in scored)


def test_a_reward_without_a_verdict_is_named(beside, monkeypatch, tmp_path):
    job = beside[0]
    monkeypatch.setattr(jpeg, "_kilobytes", lambda _image, _quality: torch.nan)
    cfg = check(evaluate.Config, job.section, "evaluate")
    unit = next(unit for unit in evaluate.plan(cfg, job) if unit["id"] == "reward.dgpo.distill.fast")
    with pytest.raises(ValueError, match=r"reward\.dgpo\.distill\.fast: 10 of 10 values are not finite"):
        evaluate.work(cfg, job, unit, Run(out=tmp_path, resume=tmp_path, sink=SILENT))


def test_a_metric_that_the_parameters_name_is_measured_on_every_model_and_on_real_images(beside):
    job, out, flat = beside
    assert len([name for name in flat if name.endswith(".metric_kid")]) == 8
    data, verifier = Dataset.load(job.input("dataset")), load_verifier(job.input("verifier"))
    features = [verifier.features(images).double() for images in (data.train_images, data.test_images)]
    assert flat["real.images.metric_kid"] == pytest.approx(mmd2(*features, degree=3))
    assert "metric: kid" in (out / "report.html").read_text()


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        (
            {"kid": {"kind": "kernl", "degree": 3}},
            r"metrics\.kid\.kind: no metric is called 'kernl'; did you mean 'kernel'",
        ),
        ({"kid": {"kind": "kernel"}}, r"metrics\.kid\.degree: missing"),
        ({"kid": {"kind": "kernel", "degree": 3, "x": 1}}, r"metrics\.kid\.x: unknown parameter"),
        ({"a b": {"kind": "kernel", "degree": 3}}, r"metrics\.a b: "),
        ({"kid": {}}, r"metrics\.kid\.kind: no metric is called"),
    ],
)
def test_a_metric_that_is_none_is_refused(metrics, message):
    with pytest.raises(ValueError, match=message):
        check(evaluate.Config, {**SECTION, "metrics": metrics}, "evaluate")
