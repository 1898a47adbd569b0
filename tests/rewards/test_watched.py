"""Pretrained weights that change: who sees it, and what is done again."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml

from stages import evaluate, rl
from stages.core.config import check
from stages.core.types import Run
from stages.io import sources
from stages.io.job import Job
from tests.cells.rigs import RL, SECTION, job_on, make_inputs
from tests.composed import params_of

ROOT = Path(__file__).parents[2]


@pytest.fixture
def weights(tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def clip(source):
    return {"kind": "clip_score", "weight": 1.0, "source": str(source)}


def test_a_cell_is_measured_again_where_its_weights_have_changed_and_no_other_is(tmp_path, weights):
    make_inputs(tmp_path / "data")
    made = job_on(tmp_path / "data")
    arms = {**RL, "dgpo": {**RL["dgpo"], "rewards": {"it": clip(weights)}}}
    job = replace(made, section={**SECTION, "rewards": {"beside": clip(weights)}}, context={**made.context, "rl": arms})

    def keys():
        return {unit["id"]: unit["key"] for unit in evaluate.plan(check(evaluate.Config, job.section, ""), job)}

    before = keys()
    (weights / "model.safetensors").write_bytes(b"other")
    changed = {name for name, key in keys().items() if before[name] != key}
    assert changed == {name for name in before if name.startswith("reward.")}
    assert {name.split(".")[1] for name in changed} == {"dgpo", "beside"}


def test_a_training_is_of_the_weights_that_judged_it(weights, tmp_path):
    section = params_of("experiment=smoke")["rl"]["arms"]["dgpo"]
    section = {name: value for name, value in section.items() if name != "replicates"} | {
        "rewards": {"it": clip(weights)}
    }
    job = Job(stage="rl", arm="dgpo", seed=0, section=section, inputs={})
    cfg = rl.configure(job)
    (unit,) = rl.plan(cfg, job)
    assert unit["weights"] == {str(weights): sources.digest(str(weights))}
    (weights / "model.safetensors").write_bytes(b"other")
    (other,) = rl.plan(cfg, job)
    assert other["id"] != unit["id"]
    with pytest.raises(ValueError, match=r"rl\.arms\.dgpo\.rewards: the weights were changed since this began"):
        rl.work(cfg, job, unit, Run(out=tmp_path, resume=tmp_path, sink=lambda _step, _metrics: None))


def test_dvc_watches_the_weights_of_an_arm_and_of_evaluate():
    shipped = params_of("experiment=smoke")["trainings"]
    assert {*shipped["rl"]["dgpo"]["watched"], *shipped["evaluate"]["watched"]} == {
        "stages/rl.py",
        "stages/evaluate.py",
    }
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    assert len([each for each in stages["rl"]["do"]["deps"] if "watched" in each]) == len(
        shipped["rl"]["dgpo"]["watched"]
    )
    assert len([each for each in stages["evaluate"]["deps"] if "watched" in each]) == len(
        shipped["evaluate"]["watched"]
    )


def dvc_says(*words):
    done = subprocess.run([sys.executable, "-m", "dvc", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_dvc_runs_what_depends_on_the_weights_again_and_nothing_else(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    stated = [
        "experiment=smoke", "+reward@rl.arms.dgpo.rewards.it=clip_score", "rl.arms.dgpo.rewards.it.source=weights",
        "+reward@evaluate.rewards.it=clip_score", "evaluate.rewards.it.source=weights",
    ]  # fmt: skip
    content = params_of(*stated)
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    kept = {name: stages[name] for name in ("rl", "evaluate")}
    for stage in (kept["rl"]["do"], kept["evaluate"]):
        stage["cmd"] = f'{sys.executable} -c "pass"'
        stage["deps"] = [each for each in stage["deps"] if "watched" in each]
        stage["outs"] = []
    for name in ("rl", "evaluate"):
        (tmp_path / "stages").mkdir(exist_ok=True)
        (tmp_path / f"stages/{name}.py").write_text("")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(content))
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"vars": ["params.yaml"], "stages": kept}))
    dvc_says("init", "--no-scm", "-q")
    dvc_says("repro", "-q")
    assert json.loads(dvc_says("status", "--json")) == {}
    (weights / "model.safetensors").write_bytes(b"other")
    assert set(json.loads(dvc_says("status", "--json"))) == {"rl@dgpo", "evaluate"}, "and not rl@flow_grpo"


def test_a_revision_of_the_hub_is_the_commit_that_it_names(weights, tmp_path, monkeypatch):
    commit, home = "a" * 40, tmp_path / "hub/models--own--clip"
    shutil.copytree(weights, home / "snapshots" / commit)
    (home / "refs").mkdir()
    (home / "refs/main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert sources.digest(f"hub:own/clip@{commit}") == sources.digest("hub:own/clip@main")
    with pytest.raises(ValueError, match=r"hub:own/clip@other: not to be had .*name a folder"):
        sources.digest("hub:own/clip@other")
