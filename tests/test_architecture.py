"""Architecture is kept by machines: one name a stage, imports go down, every preset composes into checked sections."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from flows.pipeline.flows import FLOWS
from flows.project import graph
from flows.project.nodes import STAGES, Node, arms
from stages.core.config import check
from stages.distillers import METHODS as DISTILLERS
from stages.io import code, replicates, run
from stages.io.job import Job
from stages.policies import POLICIES
from tests.composed import params_of

ROOT = Path(__file__).parents[1]
PRESETS = sorted(file.stem for file in (ROOT / "params" / "experiment").glob("*.yaml"))
METHODS = {"distill": DISTILLERS, "rl": POLICIES}


def test_a_stage_has_one_name_everywhere():
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    names = set(STAGES)
    assert {name.removesuffix("-replicates") for name in dag} == names
    for name in names:
        assert (ROOT / "stages" / f"{name}.py").is_file()
        assert FLOWS[name].name == name
        assert (ROOT / "params" / name).is_dir()
        module = importlib.import_module(f"stages.{name}")
        assert all(hasattr(module, part) for part in ("expect", "plan", "work", "finish"))


def test_stages_make_what_they_are_called_after():
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    for name, entry in dag.items():
        body = entry.get("do", entry)
        key = "${key}" if "foreach" in entry else None
        folder, lineage = body["outs"]
        assert folder == f"data/{name}" + (f"/{key}" if key else "")
        assert lineage == f"data/lineage/{name}" + (f"@{key}" if key else "") + ".json"


def test_dvc_has_a_node_for_each_of_ours():
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    made = params_of("distill.arms.tdm1.replicates=3", "teacher.replicates=3")
    reads = {}
    for name, entry in dag.items():
        if "foreach" not in entry:
            reads[name] = entry["deps"]
            continue
        section, _, group = entry["foreach"].strip("${}").partition(".")
        for key, own in made[section][group].items():
            words = {f"${{item.section.{word}}}": str(value) for word, value in own["section"].items()}
            words["${item.encode}"] = own.get("encode", "")
            reads[f"{name}@{key}"] = [words.get(dep, dep.replace("${key}", key)) for dep in entry["do"]["deps"]]
    ours = graph.nodes(made)
    assert set(reads) == {node.name for node in ours}
    for node, makers in ours.items():
        if node.stage != "evaluate":  # which reads folders of arms whole
            folders = {dep for dep in reads[node.name] if dep.startswith("data/")}
            assert folders == {maker.folder for maker in makers}, node


@pytest.mark.parametrize("stage", replicates.TAUGHT)
def test_a_replicate_reaches_what_its_stage_does(stage):
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    own, further = dag[stage]["deps"], dag[f"{stage}-replicates"]["do"]["deps"]
    assert [dep.replace("-replicates/${key}", "") for dep in further] == own


def test_no_value_reaches_a_command_line():
    dag = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert {entry.get("do", entry)["cmd"] for entry in dag.values()} == {"python -m flows stage"}


def test_parameters_are_read_in_shape_or_not_at_all():
    """flows.project.parameters is the one reader of params.yaml in flows/."""
    readers = [file for file in ROOT.glob("flows/**/*.py") if "params.read(" in file.read_text()]
    assert [file.name for file in readers] == ["parameters.py"]


def test_imports_go_down_only():
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()", "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Those of a checkpoint have to be told where it lies: tests/test_presets_large.py.
OWN = [name for name in PRESETS if "/teacher: diffusers" not in (ROOT / f"params/experiment/{name}.yaml").read_text()]


@pytest.mark.slow
@pytest.mark.parametrize("preset", OWN)
def test_a_preset_composes_into_sections_that_every_stage_accepts(preset):
    composed = params_of(f"experiment={preset}")
    for stage in STAGES:
        if not STAGES[stage].arms:
            check(importlib.import_module(f"stages.{stage}").Config, Node(stage).section(composed), stage)
    for node in (each for each in arms(composed) if replicates.number(each.stage, each.arm) == 1):
        job = Job(stage=node.stage, arm=node.arm, seed=0, section=node.section(composed), inputs={})
        assert run.configure(job).name == node.section(composed)["method"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_code_it_reaches(stage):
    """What begins work anew makes DVC run the stage, for each method; and dvc.yaml names nothing that none reaches."""
    entry = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"][stage]
    named = [str(dep) for dep in entry.get("do", entry)["deps"] if dep.startswith("stages/")]
    needed = set()
    for method in METHODS.get(stage, [None]):
        deps = {ROOT / dep.replace("${item.section.method}", str(method)): dep for dep in named}
        for file in code.files(stage, method):
            covering = {dep for place, dep in deps.items() if file.is_relative_to(place)}
            assert covering, f"{stage}, {method}: dvc.yaml does not name {file.relative_to(ROOT)}"
            needed |= covering
    assert needed == set(named)


@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        # What waits for others to compute: one process a stage, started and ended again and again.
        (
            "flows.pipeline.run, flows.pipeline.execution, flows.pipeline.channel, flows.pipeline.stage",
            {"torch", "mlflow"},
        ),
        ("flows.cli.commands.stage, flows.pipeline.channel", {"torch", "mlflow", "prefect", "ray"}),
        # What runs before the servers' addresses are known, which Prefect reads as it is imported.
        (
            "flows.cli.commands.run, flows.cli.summary, flows.cli.progress, flows.cli.commands.status",
            {"prefect", "ray"},
        ),
        # What only checks parameters, or plans.
        (", ".join(f"stages.{stage}" for stage in STAGES), {"diffusers", "transformers"}),
    ],
    ids=["orchestration", "waiting", "before", "stages"],
)
def test_nothing_is_imported_that_is_not_needed(modules, heavy):
    command = [sys.executable, "-c", f"import sys, {modules}; print(*sys.modules)"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert not heavy & set(done.stdout.split())


def test_one_place_makes_digests():
    """sha256 and md5 of files and contents are made in stages/core/hashing.py; stages/core/rng.py makes seeds."""
    files = [
        file
        for folder in ("stages", "flows", "tests", "benchmarks", "deploy")
        for file in (ROOT / folder).rglob("*.py")
    ]
    users = {file.relative_to(ROOT).as_posix() for file in files if "import hash" + "lib" in file.read_text()}
    assert users == {"stages/core/hashing.py", "stages/core/rng.py"}
