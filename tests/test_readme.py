"""What README.md tells people to write works as it stands there: its method is added to a copy of the tree."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stages.io import artefacts

ROOT = Path(__file__).parents[1]
TRAIN = """
import sys
from pathlib import Path
from flows.project.nodes import STAGES, Node
from stages.io import params, run
from stages.io.job import Job

composed = params.read(Path("params.yaml"))
for node in [*map(Node, ("dataset", "teacher", "encode", "trajectories", "reflow")), Node("distill", sys.argv[1])]:
    job = Job(
        stage=node.stage, arm=node.arm, seed=0, section=node.section(composed),
        inputs=STAGES[node.stage].inputs(composed, node.arm),
    )
    run.run(job, Path(node.folder), Path("work"), lambda *_: None)
"""
SAMPLE = """
import sys
from pathlib import Path
import torch
from diffusers import DiffusionPipeline
from stages.models import load
from stages.samplers.student import Noise, draw

model, noise = load(Path(sys.argv[1]), ["a bold left-slanted 7"]), Noise(0, "readme")
assert (model.spec.rule["name"], model.spec.schedule["name"]) == ("adams", "power")
ours = draw(model, torch.tensor([[1]]), noise)
stock = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
theirs = stock("a bold left-slanted 7", latents=noise.at(0, 1, model.space.shape), output_type="pt").images
assert torch.equal(ours, theirs)
"""


def section(title: str) -> str:
    """The text under a heading of the README."""
    return (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def block(text: str, language: str) -> str:
    """The one code block of `language` in `text`."""
    [found] = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return found


def write(root: Path, title: str, module: str, preset: str) -> None:
    """The files that a section of the README gives whole."""
    text = section(title)
    assert f"`{module}`" in text
    assert f"`{preset}`" in text
    (root / module).write_text(block(text, "python"), encoding="utf-8")
    (root / preset).write_text(block(text, "yaml"), encoding="utf-8")


def enter(table: Path, *changes: tuple[str, str]) -> None:
    """What the README says of a table, done to it."""
    text = table.read_text(encoding="utf-8")
    for old, new in changes:
        assert text.count(old) == 1, f"{table.name} has another form now: see whether the README still describes it"
        text = text.replace(old, new)
    table.write_text(text, encoding="utf-8")


def entry(title: str, pattern: str) -> str:
    """What is to be written into a table, as its section says."""
    [found] = re.findall(pattern, section(title))
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the project with the README's method, rule and schedule in it, as the README says."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("stages", "flows", "params", "tests/training", "tests/samplers", ".dvc"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    for name in ("pyproject.toml", "dvc.yaml"):
        shutil.copy(ROOT / name, root / name)
    (root / "params/rule").mkdir(exist_ok=True)
    write(root, "Add a method", "stages/distillers/halfway.py", "params/distiller/halfway.yaml")
    write(root, "Add a step rule", "stages/samplers/adams.py", "params/rule/adams.yaml")
    write(root, "Add a schedule", "stages/samplers/schedules/power.py", "params/schedule/power.yaml")
    row = entry("Add a method", r"in `stages/distillers/__init__.py`, in the import and in `METHODS` \(`(.*?)`\)")
    enter(
        root / "stages/distillers/__init__.py",
        ("import cd, dmd2, ", "import cd, dmd2, halfway, "), ('"kd": kd', f'{row}, "kd": kd'),
    )  # fmt: skip
    row = entry("Add a step rule", r"in `stages/samplers/__init__.py`, in the import and in `FromNoise` \(`(.*?)`\)")
    enter(
        root / "stages/samplers/__init__.py",
        ("from stages.samplers.anchored", "from stages.samplers.adams import Adams\nfrom stages.samplers.anchored"),
        ("| CPS | Anchored\n", f"| CPS | Anchored {row}\n"),
    )
    row = entry(
        "Add a schedule", r"`stages/samplers/schedules/__init__.py`, in the import and in `AnySchedule` \(`(.*?)`\)"
    )
    enter(
        root / "stages/samplers/schedules/__init__.py",
        ("from stages.samplers.schedules.shifted",
         "from stages.samplers.schedules.power import Power\nfrom stages.samplers.schedules.shifted"),
        ("| LogUniform | Explicit,", f"| LogUniform | Explicit {row},"),
    )  # fmt: skip
    return root


def call(tree: Path, *command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_files_are_such_as_the_linter_passes(tree):
    call(tree, "-m", "ruff", "check", "stages/distillers", "stages/samplers")
    call(tree, "-m", "ruff", "format", "--check", "stages/distillers", "stages/samplers")


@pytest.mark.slow
@pytest.mark.parametrize("title", ["Add a method", "Add a step rule", "Add a schedule"])
def test_the_contract_tests_hold_for_what_was_added(tree, title):
    command = entry(title, r"\$ pytest (.*)\n")
    call(tree, "-m", "pytest", "-q", "-p", "no:randomly", *command.split())


@pytest.mark.slow
def test_an_arm_of_the_method_trains(tree):
    arm = entry("Add a method", r"\$ fewstep run (.*)\n")
    budget = "distill.arms.half.budget={iterations: 3, warmup: 1}"
    call(tree, "-m", "flows", "compose", "experiment=smoke", arm, budget)
    call(tree, "-c", TRAIN, "half")
    made = artefacts.read_manifest(tree / "data/distill/half")
    assert made["parameters"]["method"] == "halfway"
    assert made["metrics"]["student/loss"] > 0
    assert (tree / "data/distill/half/model").is_dir()


@pytest.mark.slow
def test_a_teacher_is_solved_and_a_student_is_saved_with_the_rule_and_the_schedule(tree, tmp_path):
    words = [entry(title, r"\$ fewstep run (.*)\n") for title in ("Add a step rule", "Add a schedule")]
    sampler = entry("Add a schedule", r'--sampler "(.*)"\n')
    shutil.copytree(tree, tmp_path / "tree", ignore=shutil.ignore_patterns("data", "work", "params.yaml"))
    words.append(f"distill.arms.rectified.sampler={sampler}")
    call(tmp_path / "tree", "-m", "flows", "compose", "experiment=smoke", *words)
    call(tmp_path / "tree", "-c", TRAIN, "rectified")
    solved = artefacts.read_manifest(tmp_path / "tree/data/trajectories")["parameters"]["sampler"]
    assert (solved["rule"], solved["schedule"]["name"]) == ({"name": "adams", "share": 1.0}, "power")
    call(tmp_path / "tree", "-c", SAMPLE, "data/distill/rectified/model")
