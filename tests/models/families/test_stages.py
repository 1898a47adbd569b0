"""A checkpoint goes through the stages: imported, encoded, distilled with adapters, and loaded by stock diffusers."""

from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from flows.project.nodes import STAGES, Node
from stages.core.types import Sink
from stages.io import run
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Outline
from stages.io.job import Job
from stages.models import TextTable, load, samples, space_of
from stages.samplers.student import Noise, draw
from tests import pictures
from tests.composed import params_of
from tests.models.families import tiny
from tests.models.families.stock import sampled

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
WORDS = [
    "experiment=digits", "dataset=folder", "dataset.path=WHERE", "dataset.size=16", "verifier=prompts",
    "teacher=diffusers", "teacher.source=SOURCE", "teacher.height=16", "teacher.width=16", "teacher.precision=float32",
    "teacher.nfe=2", "teacher.text_length=7", "encode.shard_size=4", "encode.image_shard_size=100",
    "trajectories={num_trajectories: 8, shard_size: 8, batch_size: 8, keep: []}",
    "trajectories.sampler={rule: {name: euler}, schedule: {name: uniform, steps: 2}, guidance: 2.0}",
    "++distill.arms.tdm1.tune={kind: lora, rank: 2, alpha: 4, targets: default, checkpointing: true, compile: false}",
    "distill.arms.tdm1.nfe=2", "distill.arms.tdm1.batch_size=2", "distill.arms.tdm1.student_lr=0.01",
    "distill.arms.tdm1.budget={iterations: 2, warmup: 0, ema: 0.0}",
]  # fmt: skip
SILENT: Sink = lambda _step, _metrics: None  # noqa: E731


@cache
def composed(*words: str) -> Any:
    return params_of(*WORDS, *words)


def job_of(stage: str, arm: str | None, content: Any, root: Path) -> Job:
    inputs = {name: str(root / folder) for name, folder in STAGES[stage].inputs(content, arm).items()}
    section = Node(stage, arm).section(content)
    return Job(stage=stage, arm=arm, seed=0, section=section, context={"distill": {}, "rl": {}}, inputs=inputs)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    pictures.fill(root / "photos", 24)
    tiny.saved("sd3", root / "sd3")
    text = yaml.safe_dump(composed()).replace("WHERE", str(root / "photos")).replace("SOURCE", str(root / "sd3"))
    content = yaml.safe_load(text)
    for stage in ("dataset", "teacher", "encode", "trajectories", "distill"):
        arm = "tdm1" if stage == "distill" else None
        job = job_of(stage, arm, content, root)
        run.run(job, root / "data" / stage / (arm or ""), root / "work", SILENT)
    return root


def test_latents_of_images_are_encoded_once(made: Path) -> None:
    data = Dataset.load(made / "data/dataset")
    files = sorted((made / "data/encode").glob("*.safetensors"))
    assert [file.name for file in files] == [
        "latents-00000.safetensors", "latents-00001.safetensors", "text-00000.safetensors", "text-00001.safetensors",
        "text-00002.safetensors",
    ]  # fmt: skip
    assert len(data.train_images) == 154


def test_a_student_with_adapters_is_sampled_by_stock_diffusers_as_by_us(made: Path) -> None:
    folder = made / "data/distill/tdm1/model"
    table = TextTable.load(made / "data/encode")
    student = load(folder, table)
    prompt = table.prompts[2]
    ours = draw(student, torch.tensor([[2]]), Noise(0, "test"))
    rig = SimpleNamespace(name="sd3", space=student.space)
    theirs = sampled(folder, rig, prompt, Noise(0, "test"))
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    teacher = load(made / "data/teacher/model", table)
    base = draw(teacher, torch.tensor([[2]]), Noise(0, "test"))
    assert (base - ours).abs().max() > 1e-3, "it has learnt something"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"height": 32}, r"teacher: height=32, width=16: the dataset's samples are \[3, 16, 16\]; make them one size"),
        ({"source": "/nowhere"}, "teacher: /nowhere: no such folder"),
        ({"replicates": 2}, "replicates: unknown parameter"),
    ],
)
def test_what_does_not_go_with_a_checkpoint_is_told_before_any_work(
    made: Path, changes: dict[str, Any], message: str
) -> None:
    job = job_of("teacher", None, composed(), made)
    job = replace(job, section={**job.section, "source": str(made / "sd3"), **changes})
    outline = Outline(
        kind="folder", sample_shape=(3, 16, 16), attributes=("prompt",), num_train=9, num_test=9, num_seen=8
    )  # fmt: skip
    with pytest.raises(ValueError, match=message):
        run.expect(job, run.configure(job), {"dataset": Expected(dataset=outline)})


def test_a_method_of_two_times_trains_no_checkpoint(made: Path) -> None:
    content = composed("+distiller@distill.arms.mean=meanflow")
    job = job_of("distill", "mean", content, made)
    given = {name: Expected(model="checkpoint") for name in ("teacher", "init")}
    with pytest.raises(ValueError, match=r"arms\.mean\.method=meanflow: it trains a network of two times"):
        run.expect(job, run.configure(job), {**given, "dataset": None, "data": None})


def test_students_are_made_of_no_checkpoint_that_scales_noise(tmp_path: Path) -> None:
    job = job_of("teacher", None, composed(), tmp_path)
    told = {"source": str(tiny.saved("sd15", tmp_path / "sd15")), "text_length": None}
    faults = {}
    for above in ("clamp", "stock"):
        own = replace(job, section={**job.section, **told, "above_t_max": above})
        faults[above] = run.expect(own, run.configure(own), {"dataset": None}).fault
    assert faults["clamp"] is None
    assert "above_t_max=stock, by which nothing is learnt at pure noise" in str(faults["stock"])


def test_images_and_latents_of_another_size_are_no_samples_of_the_model(made: Path) -> None:
    space = space_of(made / "data/teacher/model")
    for images, latent in ((torch.zeros(1, 3, 32, 32), False), (torch.zeros(1, 4, 16, 16), True)):
        with pytest.raises(ValueError, match=r"samples of \[4, 16, 16\], the model's are \[4, 8, 8\]; make height"):
            samples(made / "nowhere", images, space, latent=latent)
