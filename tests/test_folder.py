"""A folder of captioned pictures in colour goes through the stages like any other data set."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from flows.pipeline import validation
from flows.project import parameters
from flows.project.nodes import STAGES, Node
from stages import dataset
from stages.io import artefacts, params, run
from stages.io.dataset import Dataset
from stages.io.expected import Expected, Outline
from stages.io.job import Job
from stages.models.verifier import load_verifier
from stages.verifier import LEAST_IMAGES, MOST_PROMPTS
from tests import pictures
from tests.composed import params_of, text_of

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
WORDS = ["experiment=digits", "dataset=folder", "verifier=prompts"]
SMALL = [
    "dataset.size=16", "verifier.iterations=200", "verifier.batch_size=32",
    "network={kind: transformer, width: 16, num_layers: 1, num_heads: 2, patch_size: 4}",
    "teacher.batch_size=16", "teacher.budget.iterations=4", "teacher.budget.warmup=1",
    "rl.arms.dgpo.prompts_per_iteration=4", "evaluate.num_samples=16", "evaluate.fd_repeats=1",
    "evaluate.teacher_nfe=[1]", "evaluate.guidance_scales=[]",
]  # fmt: skip
SILENT = lambda _step, _metrics: None  # noqa: E731


def composed(folder, *words):
    return params.parse(text_of(*WORDS, "dataset.path=WHERE", *words).replace("WHERE", str(folder)), "params.yaml")


def job_of(stage, content, root, seed=0):
    inputs = {name: str(root / folder) for name, folder in STAGES[stage].inputs(content, None).items()}
    return Job(
        stage=stage, arm=None, seed=seed, section=Node(stage).section(content), context={"distill": {}, "rl": {}},
        inputs={name: folder for name, folder in inputs.items() if Path(folder).is_dir()},
    )  # fmt: skip


def made(folder, root, content=None):
    """The dataset of `folder`, as an artefact under `root`."""
    job = job_of("dataset", content or composed(folder), root)
    run.run(job, root / "data/dataset", root / "work", SILENT)
    return root / "data/dataset"


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("raw") / "photos"
    pictures.fill(folder, 24)
    return folder


def test_a_folder_goes_through_the_stages(photos, tmp_path):
    content = composed(photos, *SMALL)
    assert validation.faults(content) == []
    for stage in ("dataset", "verifier", "teacher", "encode"):
        run.run(job_of(stage, content, tmp_path), tmp_path / "data" / stage, tmp_path / "work", SILENT)
    data = Dataset.load(tmp_path / "data/dataset")
    assert (data.sample_shape, len(data.train_images), len(data.test_images)) == ((3, 16, 16), 154, 38)
    judged = json.loads((tmp_path / "data/verifier/metrics.json").read_text())
    assert judged["agreement_prompt"] == judged["agreement_all"] > 0.6, "of eight prompts a guess names an eighth"

    job = job_of("evaluate", content, tmp_path)
    cells = {unit["id"]: unit for unit in run.plan(job)}
    assert set(cells) == {"teacher.nfe1", "real.images"}
    for name, unit in cells.items():
        run.run_unit(job, unit, str(tmp_path / name), SILENT)
        numbers = json.loads((tmp_path / name / "cell.json").read_text())
        assert 0 <= numbers["score_seen"] == numbers["accuracy_seen_prompt"] <= 1
        assert numbers["frechet_distance"] > 0
    assert numbers["score_seen"] > 0.6, "real images show their prompts"


def test_what_is_expected_is_what_is_made_without_an_image_being_opened(photos, tmp_path, monkeypatch):
    content = composed(photos, "dataset.num_heldout_prompts=2")
    data = Dataset.load(made(photos, tmp_path, content))
    monkeypatch.setattr("PIL.Image.open", None)
    job = job_of("dataset", content, tmp_path)
    told = run.expect(job, run.configure(job), {}).dataset
    assert told is not None
    assert (told.sample_shape, told.num_train, told.num_test, told.num_seen) == (
        data.sample_shape, len(data.train_images), len(data.test_images), len(data.places("seen")),
    )  # fmt: skip
    assert told.rarest is not None
    assert told.rarest[1] == 0
    assert told.rarest[0] in data.texts(data.places("heldout"))
    assert len(data.places("heldout")) == 2


def test_equal_folders_make_equal_artefacts_whatever_the_order_of_their_files(tmp_path, monkeypatch):
    digests = []
    for name, backwards in (("one", False), ("two", True)):
        pictures.fill(tmp_path / name / "photos", 2, in_lines=True, facts=True, backwards=backwards)
        monkeypatch.chdir(tmp_path / name)
        digests.append(artefacts.digest(made("photos", tmp_path / name)))
    assert digests[0] == digests[1]
    data = Dataset.load(tmp_path / "one/data/dataset")
    assert [prompt.text for prompt in data.prompts] == sorted(pictures.PROMPTS)
    assert data.prompts[0].facts == {"colour": "blue"}


def test_prompts_that_no_two_images_share_are_held_out_with_their_images(tmp_path):
    root = tmp_path / "photos"
    pictures.fill(root, 2)
    for number, file in enumerate(sorted(root.glob("*.txt"))):
        file.write_text(f"picture {number}")
    data = Dataset.load(made(root, tmp_path))
    assert data.splits.count("heldout") == len(data.test_images) == 3
    assert not set(data.test_prompts.tolist()) & set(data.train_prompts.tolist())


def test_a_folder_whose_bytes_changed_is_another_unit_and_one_that_changes_meanwhile_is_refused(tmp_path):
    root = tmp_path / "photos"
    pictures.fill(root, 2)
    job = job_of("dataset", composed(root), tmp_path)
    [unit] = run.plan(job)
    (root / "0000.txt").write_text("a pink disc")
    [other] = run.plan(job)
    assert other["id"] != unit["id"]
    with pytest.raises(ValueError, match="was changed while it was read; run the stage again"):
        run.run_unit(job, unit, str(tmp_path / "unit"), SILENT)


def test_a_faulty_folder_is_told_before_any_work_beside_other_faults(photos, tmp_path):
    root = tmp_path / "photos"
    shutil.copytree(photos, root)
    (root / "0001.txt").unlink()
    (root / "0002.txt").write_text("")
    told = validation.faults(composed(root, "teacher.batch_size=3", "teacher.budget.slices=2"))
    assert [line.removeprefix(f"{root}: ") for line in told] == [
        "teacher: budget.slices=2 does not divide batch_size=3; name a divisor of 3",
        "'0001.jpg': no caption; '0001.txt' is missing, and there is no metadata.jsonl",
        "'0002.webp': no caption, '0002.txt' is empty",
    ]
    assert any("no such folder" in line for line in validation.faults(composed(tmp_path / "nowhere")))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["verifier=classifier"], "verifier.kind=classifier does not judge a dataset of folder; prompts does"),
        (["dataset.num_heldout_prompts=1"], "0 training images show"),
        (["dataset.num_heldout_prompts=8"], "images of 8 prompts leave 0 to train on and 38 to test with"),
        (["dataset.size=30", "network.patch_size=4"], "teacher.network: patch_size=4 does not divide square"),
        (["dataset.channels=2"], "dataset.channels: Input should be 1 or 3"),
    ],
)
def test_what_does_not_go_with_a_folder_is_refused(photos, words, message):
    assert any(message in line for line in validation.faults(composed(photos, *words)))


@pytest.mark.parametrize(
    ("seen", "rarest", "message"),
    [
        (MOST_PROMPTS + 1, LEAST_IMAGES, f"the dataset has {MOST_PROMPTS + 1} prompts"),
        (3, LEAST_IMAGES - 1, f"{LEAST_IMAGES - 1} training images show 'a disc'"),
    ],
)
def test_prompts_that_a_classifier_cannot_tell_apart_are_refused(photos, tmp_path, seen, rarest, message):
    outline = Outline(
        kind="folder", sample_shape=(3, 32, 32), attributes=("prompt",), num_train=9, num_test=9, num_seen=seen,
        rarest=("a disc", rarest),
    )  # fmt: skip
    job = job_of("verifier", composed(photos), tmp_path)
    with pytest.raises(ValueError, match=message):
        run.expect(job, run.configure(job), {"dataset": Expected(dataset=outline)})


def test_dvc_watches_what_is_read(photos):
    content = composed(photos)
    assert content["raw"] == str(photos)
    content["raw"] = parameters.UNREAD
    with pytest.raises(ValueError, match="DVC is to watch what dataset reads"):
        parameters.checked(content)
    digits = params_of()
    assert digits["raw"] == parameters.UNREAD
    assert (ROOT / parameters.UNREAD).is_file()


def dvc_says(*words):
    done = subprocess.run([sys.executable, "-m", "dvc", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_dvc_runs_dataset_again_when_the_folder_changes_and_only_then(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stage = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]["dataset"]
    made = (
        "import pathlib; [pathlib.Path(p).mkdir(parents=True) for p in ('data/dataset', 'data/lineage/dataset.json')]"
    )
    stage["cmd"] = f'{sys.executable} -c "{made}"'
    for name in ("core", "io", "models", "shapes", "words"):
        (tmp_path / "stages" / name).mkdir(parents=True)
    (tmp_path / "stages/dataset.py").write_text("")
    pictures.fill(tmp_path / "photos", 1)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(composed("photos")))
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"vars": ["params.yaml"], "stages": {"dataset": stage}}))
    dvc_says("init", "--no-scm", "-q")
    dvc_says("repro", "-q")
    (tmp_path / "photos/0000.txt").touch()
    assert json.loads(dvc_says("status", "--json")) == {}
    (tmp_path / "photos/0000.txt").write_text("a pink disc")
    assert json.loads(dvc_says("status", "--json")) == {"dataset": [{"changed deps": {"photos": "modified"}}]}


def test_a_path_that_is_not_stated_is_asked_for():
    content = params_of(*WORDS)
    assert any(line.startswith("dataset.path: missing; say dataset.path=...") for line in validation.faults(content))


def test_the_prompt_verifier_names_a_strange_prompt(photos, tmp_path):
    content = composed(photos, *SMALL, "verifier.iterations=1")
    for stage in ("dataset", "verifier"):
        run.run(job_of(stage, content, tmp_path), tmp_path / "data" / stage, tmp_path / "work", SILENT)
    judge = load_verifier(tmp_path / "data/verifier")
    with pytest.raises(ValueError, match="prompt 'a cat': the verifier does not know it; it knows: a blue disc"):
        judge.judge(torch.zeros(1, 3, 16, 16), [dataset.Prompt("a cat")])
