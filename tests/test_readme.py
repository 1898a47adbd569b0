"""What README.md and docs/extend.md tell people to write works as it stands: it is added to a copy of the tree."""

import json
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from stages.io import artefacts

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TEXTS = ("README.md", "docs/extend.md")
MADE = "dataset verifier teacher encode trajectories reflow distill@half distill@rectified rl@raft rl@dgpo"
RUN = ("Add a method", "Add a step rule", "Add a schedule", "Add a reward", "Add a metric", "Add an algorithm")
CELLS = {"reward.dgpo.rl.raft": "reward", "reward.raft.rl.dgpo": "reward", "metric.variety.rl.raft": "metric"}
MAKE = """
import sys
from pathlib import Path
from flows.project.nodes import STAGES, Node
from stages.io import params, run
from stages.io.job import Job

composed = params.read(Path("params.yaml"))
nodes, cells = (words.split() for words in sys.argv[1:])
for node in map(Node.parse, nodes):
    job = Job(
        stage=node.stage, arm=node.arm, seed=0, section=node.section(composed),
        inputs=STAGES[node.stage].inputs(composed, node.arm),
    )
    run.run(job, Path(node.folder), Path("work"), lambda *_: None)

arms = {arm: composed["rl"]["arms"][arm] for arm in ("raft", "dgpo")}
inputs = {name: f"data/{name}" for name in ("dataset", "verifier", "teacher", "encode")}
job = Job(
    stage="evaluate", arm=None, seed=0, section=composed["evaluate"], context={"distill": {}, "rl": arms},
    inputs=inputs | {f"rl/{arm}": f"data/rl/{arm}" for arm in arms},
)
units = {unit["id"]: unit for unit in run.plan(job)}
for name in cells:
    run.run_unit(job, units[name], f"measured/{name}", lambda *_: None)
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
    """The text under a heading."""
    texts = [(ROOT / name).read_text(encoding="utf-8").split(f"\n## {title}\n")[1:] for name in TEXTS]
    [[found]] = filter(None, texts)
    return found.split("\n## ")[0]


def block(text: str, language: str) -> str:
    """The one code block of `language` in `text`."""
    [found] = re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)
    return found


@dataclass(frozen=True)
class Added:
    """What a section adds: two files that it gives whole, and a line of a table."""

    module: str
    preset: str
    table: str
    where: str
    """The table's name."""
    changes: tuple[tuple[str, str], ...]
    """What stands in the table's file -> what is to stand there, the section's line being {}."""


ADDED = {
    "Add a method": Added(
        "stages/distillers/halfway.py", "params/distiller/halfway.yaml", "stages/distillers/__init__.py", "METHODS",
        (("    hipa,\n", "    halfway,\n    hipa,\n"), ('"kd": kd', '{},\n        "kd": kd')),
    ),
    "Add a step rule": Added(
        "stages/samplers/adams.py", "params/rule/adams.yaml", "stages/samplers/__init__.py", "FromNoise",
        (("from stages.samplers.anchored", "from stages.samplers.adams import Adams\nfrom stages.samplers.anchored"),
         ("FromNoise = Solver |", "FromNoise = Solver {} |")),
    ),
    "Add a schedule": Added(
        "stages/samplers/schedules/power.py", "params/schedule/power.yaml", "stages/samplers/schedules/__init__.py",
        "AnySchedule",
        (("from stages.samplers.schedules.residual",
          "from stages.samplers.schedules.power import Power\nfrom stages.samplers.schedules.residual"),
         ("| AlignYourSteps | Explicit,", "| AlignYourSteps | Explicit {},")),
    ),
    "Add a reward": Added(
        "stages/rewards/ink.py", "params/reward/ink.yaml", "stages/rewards/__init__.py", "REWARDS",
        (("    image_reward,\n    jpeg,\n", "    image_reward,\n    ink,\n    jpeg,\n"),
         ('        "jpeg": jpeg,\n', '        "jpeg": jpeg,\n        {},\n')),
    ),
    "Add a metric": Added(
        "stages/metrics/vendi.py", "params/metric/vendi.yaml", "stages/metrics/table.py", "METRICS",
        ((", sharpness, spread\n", ", sharpness, spread, vendi\n"),
         ('        "kernel": kernel,\n', '        "kernel": kernel,\n        {},\n')),
    ),
    "Add an algorithm": Added(
        "stages/policies/raft.py", "params/policy/raft.yaml", "stages/policies/__init__.py", "POLICIES",
        (("    pso,\n", "    pso,\n    raft,\n"), ('        "dgpo": dgpo,\n', '        "dgpo": dgpo,\n        {},\n')),
    ),
    "Add a steering": Added(
        "stages/steering/soft_best.py", "params/steering/soft_best.yaml", "stages/steering/__init__.py", "AnySteering",
        (("from stages.steering.steady", "from stages.steering.soft_best import SoftBest\nfrom stages.steering.steady"),
         ("| SelfGuided | Steady,", "| SelfGuided | Steady {},")),
    ),
}  # fmt: skip


def entry(title: str, pattern: str) -> str:
    """What is to be written into a table, or typed, as its section says."""
    [found] = re.findall(pattern, section(title))
    return found


def add(root: Path, title: str, added: Added) -> None:
    """What a section says, done to the project in `root`."""
    text = section(title)
    for name, language in ((added.module, "python"), (added.preset, "yaml")):
        assert f"`{name}`" in text
        (root / name).write_text(block(text, language), encoding="utf-8")
    line = entry(title, rf"in `{re.escape(added.table)}`, in the import and in `{added.where}` \(`(.*?)`\)")
    table = (root / added.table).read_text(encoding="utf-8")
    for old, new in added.changes:
        assert table.count(old) == 1, f"{added.table} has another form now: see whether the text still describes it"
        table = table.replace(old, new.replace("{}", line))
    (root / added.table).write_text(table, encoding="utf-8")


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """A copy of the project with all that is to be added in it, as the texts say."""
    root = tmp_path_factory.mktemp("tree")
    for name in ("stages", "flows", "params", "tests", "docs", ".dvc"):
        shutil.copytree(ROOT / name, root / name, ignore=shutil.ignore_patterns("cache", "tmp"))  # compiled, too
    for name in ("pyproject.toml", "dvc.yaml"):
        shutil.copy(ROOT / name, root / name)
    for title, added in ADDED.items():
        add(root, title, added)
    return root


def call(tree: Path, *command: str) -> str:
    done = subprocess.run([sys.executable, *command], cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def root(tree, tmp_path_factory) -> Path:
    """The same after one run of all that is added, in the words that the texts run each with, on little."""
    root = shutil.copytree(tree, tmp_path_factory.mktemp("made") / "tree")
    words = [word for title in RUN for word in entry(title, r"\$ fewstep run (.*)\n").split()]
    words += ["distill.arms.half.budget={iterations: 3, warmup: 1}", "rl.arms.raft.prompts_per_iteration=2"]
    words += ["rl.arms.raft.budget={iterations: 2, warmup: 1}"]
    sampler = entry("Add a schedule", r'--sampler "(.*)"\n')
    call(root, "-m", "flows", "compose", "experiment=smoke", *words, f"distill.arms.rectified.sampler={sampler}")
    call(root, "-c", MAKE, MADE, " ".join(CELLS))
    return root


def test_the_files_are_such_as_the_linter_passes(tree):
    folders = [f"stages/{name}" for name in ("distillers", "rewards", "metrics", "policies", "samplers", "steering")]
    call(tree, "-m", "ruff", "check", *folders)
    call(tree, "-m", "ruff", "format", "--check", *folders)


def test_the_contract_tests_hold_for_what_was_added(tree):
    """The commands as they stand, in one: importing takes longer than testing."""
    commands = [entry(title, r"\$ pytest (\S+ -k \w+)\n").split(" -k ") for title in ADDED]
    places, names = dict(commands), [name for _, name in commands]
    said = call(tree, "-m", "pytest", "-v", "-p", "no:randomly", *places, "-k", " or ".join(names))
    for place, name in commands:
        assert re.search(rf"^{place}.*\b{name}\b.* PASSED", said, flags=re.MULTILINE), f"nothing of {place} -k {name}"


def test_an_arm_of_the_method_trains(root):
    made = artefacts.read_manifest(root / "data/distill/half")
    assert made["parameters"]["method"] == "halfway"
    assert made["metrics"]["student/loss"] > 0
    assert (root / "data/distill/half/model").is_dir()


def test_the_algorithm_trains_and_is_measured_by_rewards_and_metric(root):
    made = artefacts.read_manifest(root / "data/rl/raft")
    assert made["parameters"]["method"] == "raft"
    assert made["metrics"]["policy/reward"] < 0, "kilobytes are unwanted"
    found = {
        name: json.loads((root / "measured" / name / "cell.json").read_text())[kind] for name, kind in CELLS.items()
    }
    assert found["reward.raft.rl.dgpo"] < 0
    assert found["metric.variety.rl.raft"] >= 1


def test_what_it_made_is_steered(root):
    call(root, "-m", "flows", *shlex.split(entry("Add a steering", r"\$ fewstep (sample .*)\n")), "--out", "it.png")
    assert (root / "it.png").is_file()


def test_a_teacher_is_solved_and_a_student_is_saved_with_the_rule_and_the_schedule(root):
    solved = artefacts.read_manifest(root / "data/trajectories")["parameters"]["sampler"]
    assert (solved["rule"], solved["schedule"]["name"]) == ({"name": "adams", "share": 1.0}, "power")
    call(root, "-c", SAMPLE, "data/distill/rectified/model")
