"""A checkpoint through real DVC, Prefect, Ray and MLflow: imported, encoded, distilled, aligned, judged."""

import json
import re
from pathlib import Path

import pytest
import yaml
from PIL import Image

from tests import pictures
from tests.composed import params_of
from tests.flows.clone import Clone, refused
from tests.models.families import tiny
from tests.plain import run_all

pytestmark = pytest.mark.slow
TUNE = "{kind: lora, rank: 2, alpha: 4, targets: default, checkpointing: true, compile: false}"
WORDS = [
    "~experiment", "dataset=folder", "dataset.path=photos", "dataset.size=16", "verifier=prompts",
    "verifier.iterations=60", "teacher=diffusers", "teacher.source=sd3", "teacher.height=16", "teacher.width=16",
    "teacher.precision=float32", "teacher.nfe=2", "teacher.text_length=7", "encode.shard_size=4",
    "encode.image_shard_size=100", "trajectories.num_trajectories=16", "trajectories.shard_size=8",
    "trajectories.sampler={rule: {name: euler}, schedule: {name: uniform, steps: 2}, guidance: 2.0}",
    "trajectories.keep=[]", "reflow.straightness={num_samples: 4, num_steps: 2}",
    "+distiller@distill.arms.tdm=tdm", f"++distill.arms.tdm.tune={TUNE}", "distill.arms.tdm.nfe=2",
    "distill.arms.tdm.batch_size=2", "distill.arms.tdm.budget.iterations=2", "distill.arms.tdm.budget.warmup=0",
    "+policy@rl.arms.dgpo=dgpo", f"++rl.arms.dgpo.tune={TUNE}", "rl.arms.dgpo.init=data/distill/tdm",
    "+reward@rl.arms.dgpo.rewards.jpeg=jpeg", "rl.arms.dgpo.prompts_per_iteration=2", "rl.arms.dgpo.group_size=2",
    "rl.arms.dgpo.rollout_steps=2", "rl.arms.dgpo.nfe=2", "rl.arms.dgpo.num_draws=1",
    "rl.arms.dgpo.budget.iterations=1", "rl.arms.dgpo.budget.warmup=0",
    "evaluate.num_samples=8", "evaluate.teacher_nfe=[2]", "evaluate.guidance_scales=[2.0]", "evaluate.guidance_nfe=2",
    "evaluate.fd_repeats=1", "evaluate.straightness_samples=4", "evaluate.straightness_steps=2",
]  # fmt: skip


@pytest.fixture(scope="module")
def clone(project: Clone) -> Clone:
    """The project after a run on photos and a tiny checkpoint."""
    pictures.fill(project.root / "photos", 24)
    tiny.saved("sd3", project.root / "sd3")
    done = project.fewstep("run", *WORDS, "encode.table=on_demand")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def test_a_checkpoint_goes_through_the_whole_graph(clone: Clone) -> None:
    nodes = set(yaml.safe_load(clone.lock())["stages"])
    assert {"teacher", "encode", "trajectories", "reflow", "distill@tdm", "rl@dgpo", "evaluate"} <= nodes
    metrics = json.loads((clone.root / "data/evaluate/metrics.json").read_text())
    assert metrics
    told = json.loads((clone.root / "data/rl/dgpo/model/fewstep.json").read_text())
    assert told["source"] == str(clone.root / "sd3")
    assert told["tuned"] == "lora"
    assert {entry["path"] for entry in told["files"]} >= {"transformer/diffusion_pytorch_model.safetensors"}
    sizes = sum(file.stat().st_size for file in (clone.root / "data/rl/dgpo/model").rglob("*") if file.is_file())
    base = (clone.root / "sd3/transformer/diffusion_pytorch_model.safetensors").stat().st_size
    assert sizes < base, "adapters alone, and not what they are beside"


def test_prompts_that_are_encoded_on_demand_train_and_measure_the_same_to_the_last_bit(
    clone: Clone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table in a plain process, and encoders beside every unit of the pipeline."""
    monkeypatch.chdir(tmp_path)
    for name in ("photos", "sd3"):
        Path(name).symlink_to(clone.root / name)
    run_all(params_of(*WORDS), tmp_path)
    numbers = Path("data/evaluate/metrics.json")
    assert numbers.read_bytes() == (clone.root / numbers).read_bytes()
    files = sorted(Path("data").rglob("*.safetensors"))
    apart = [file for file in files if file.name.startswith("text-")]
    assert apart
    assert not any((clone.root / file).exists() for file in apart)
    for file in (each for each in files if each not in apart):
        assert file.read_bytes() == (clone.root / file).read_bytes(), file
    spans = json.loads((clone.root / "data/lineage/rl@dgpo.json").read_text())["spans"]
    assert [len(span["encoders"]) for span in spans if span["task"] == "work"] == [1]


def test_a_prompt_that_is_in_no_table_is_encoded_when_it_is_asked_for(clone: Clone) -> None:
    done = clone.fewstep("sample", "rl@dgpo", "--prompt", "a thin upright 3", "--n", "2")
    assert done.returncode == 0, done.stderr
    assert re.search(r"2 pictures, 2 steps of euler", done.stdout)
    with Image.open(clone.root / "sample.png") as picture:
        assert picture.size == (128, 64)


def test_faults_are_told_together_before_any_work(clone: Clone) -> None:
    wrong = ["rl.arms.dgpo.tune.rank=3", "encode.image_shard_size=0", "evaluate.neighbours=1000"]
    done = clone.fewstep("run", *WORDS, *wrong)
    assert done.returncode != 0
    for message in ("has adapters of rank 2; name that", r"encode\.image_shard_size", r"evaluate\.neighbours"):
        assert re.search(message, done.stderr), done.stderr


def test_another_checkpoint_under_the_same_path_is_refused(clone: Clone) -> None:
    weights = clone.root / "sd3/transformer/diffusion_pytorch_model.safetensors"
    content = weights.read_bytes()
    Path(weights).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    refused(clone.fewstep("sample", "distill@tdm", "--prompt", "a disc"), "another checkpoint than the one")
    weights.write_bytes(content)
