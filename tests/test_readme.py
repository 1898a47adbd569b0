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
from pathlib import Path
from flows.project.nodes import STAGES, Node
from stages.io import params, run
from stages.io.job import Job

composed = params.read(Path("params.yaml"))
for node in [*map(Node, ("dataset", "teacher", "encode", "trajectories", "reflow")), Node("distill", "half")]:
    job = Job(
        stage=node.stage, arm=node.arm, seed=0, section=node.section(composed),
        inputs=STAGES[node.stage].inputs(composed, node.arm),
    )
    run.run(job, Path(node.folder), Path("work"), lambda *_: None)
"""


def section(title: str) -> str:
    """The text under a heading of the README."""
    return (ROOT / "README.md").read_text(encoding="utf-8").split(f"\n## {title}\n")[1].split("\n## ")[0]


def block(text: str, language: str) -> str:
    """The one code block of `language` in `text`."""
    [found] = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return found


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the project with the README's method in it, as the README says."""
    root, text = tmp_path_factory.mktemp("tree"), section("Add a method")
    for name in ("stages", "flows", "params", "tests/training", ".dvc"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("__pycache__", "cache", "tmp"))
    for name in ("pyproject.toml", "dvc.yaml"):
        shutil.copy(ROOT / name, root / name)
    assert "all of\n`stages/distillers/halfway.py`" in text
    (root / "stages/distillers/halfway.py").write_text(block(text, "python"), encoding="utf-8")
    assert "`params/distiller/halfway.yaml`" in text
    (root / "params/distiller/halfway.yaml").write_text(block(text, "yaml"), encoding="utf-8")
    [entry] = re.findall(r"in `stages/distillers/__init__.py`, in the import and in `METHODS` \(`(.*?)`\)", text)
    table = root / "stages/distillers/__init__.py"
    old = table.read_text(encoding="utf-8")
    new = old.replace("import cd, dmd2, ", "import cd, dmd2, halfway, ").replace('"kd": kd', f'{entry}, "kd": kd')
    assert new.count("halfway") == 3, "the table has another form now: see whether the README still describes it"
    table.write_text(new, encoding="utf-8")
    return root


def call(tree: Path, *command: str) -> None:
    done = subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_methods_file_is_one_that_the_linter_passes(tree):
    call(tree, "-m", "ruff", "check", "stages/distillers")
    call(tree, "-m", "ruff", "format", "--check", "stages/distillers")


@pytest.mark.slow
def test_the_contract_tests_hold_for_the_method(tree):
    [command] = re.findall(r"^\$ pytest (.*)$", section("Add a method"), flags=re.MULTILINE)
    call(tree, "-m", "pytest", "-q", "-p", "no:randomly", *command.split())


@pytest.mark.slow
def test_an_arm_of_the_method_trains(tree):
    [arm] = re.findall(r"^\$ fewstep run (.*)$", section("Add a method"), flags=re.MULTILINE)
    budget = "distill.arms.half.budget={iterations: 3, warmup: 1}"
    call(tree, "-m", "flows", "compose", "experiment=smoke", arm, budget)
    call(tree, "-c", TRAIN)
    made = artefacts.read_manifest(tree / "data/distill/half")
    assert made["parameters"]["method"] == "halfway"
    assert made["metrics"]["student/loss"] > 0
    assert (tree / "data/distill/half/model").is_dir()
