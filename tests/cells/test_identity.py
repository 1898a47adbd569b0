"""A cell's key changes with what decides it, and with nothing else."""

import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from stages import evaluate
from stages.cells import identity, ways
from stages.core.config import check
from stages.io import artefacts, code
from stages.io.job import Job
from tests.cells.rigs import RL, SECTION, job_on, make_inputs, right

pytestmark = pytest.mark.slow

FLOWS = {"flow.teacher.nfe2", "flow.rl.dgpo", "flow.rl.again"}


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("inputs") / "data"
    make_inputs(root)
    return root


def keys(job: Job) -> dict[str, str]:
    """Name of a cell -> its key."""
    cfg = check(evaluate.Config, job.section, "evaluate")
    return {unit["id"]: unit["key"] for unit in evaluate.plan(cfg, job)}


def changed(before: Job, after: Job) -> set[str]:
    """Names of the cells that `after` shows and `before` has not measured."""
    known = set(keys(before).values())
    return {name for name, key in keys(after).items() if key not in known}


def with_section(job: Job, **parameters) -> Job:
    return replace(job, section={**job.section, **parameters})


def with_input(root: Path, name: str, target: Path) -> Job:
    """The evaluation after `name` was made anew, with other bytes."""
    shutil.copytree(root, target)
    (target / name / "note").write_text("anew")
    content = {"schema": 1, "files": artefacts.inventory(target / name)}
    artefacts.write_json(target / name / artefacts.MANIFEST, content)
    return job_on(target)


def test_every_cell_has_a_key_of_its_own(root):
    found = keys(job_on(root))
    assert len(set(found.values())) == len(found) == 11


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        ({"grid_prompts": 6}, set()),
        ({"teacher_nfe": [1, 2, 5]}, {"teacher.nfe5"}),
        ({"teacher_nfe": [1]}, set()),
        ({"guidance_scales": [1.0, 2.0, 3.0]}, {"guidance.w3"}),
        ({"guidance_scales": []}, set()),
        ({"guidance_nfe": 4}, {"guidance.w2", "teacher.nfe4"}),
        ({"rl_nfe": 5}, {"rl.dgpo", "rl.again"}),
        ({"rl_steps": ["rollout"]}, {"rl.dgpo.nfe6"}),
        ({"rl_steps": ["full", "rollout"]}, {"rl.dgpo.nfe6", "rl.dgpo.nfe2", "rl.again.nfe2"}),
        ({"distill_nfe": {"fast": [1, 2]}}, {"distill.fast.nfe2", "flow.distill.fast.nfe2"}),
        ({"straightness_steps": 8}, FLOWS),
        ({"straightness_samples": 3}, FLOWS),
    ],
)
def test_a_parameter_changes_the_cells_that_depend_on_it(root, parameters, expected):
    job = job_on(root)
    assert changed(job, with_section(job, **parameters)) == expected


def test_an_arm_without_a_word_for_its_roll_outs_rolls_out_as_it_is_used():
    cfg = SimpleNamespace(rl_nfe=8, rl_steps=["rollout", "full"], teacher_nfe=[8, 32])
    assert ways._further(cfg, {"rollout_steps": 16, "nfe": 8}) == {16, 32}
    assert ways._further(cfg, {"nfe": 4}) == {4, 32}
    assert ways._further(SimpleNamespace(rl_nfe=8, rl_steps=[], teacher_nfe=[8]), {"nfe": 4}) == set()


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "fd_repeats", "neighbours"])
def test_what_all_samples_depend_on_changes_all_of_them_and_no_flow(root, name):
    job = job_on(root)
    assert changed(job, with_section(job, **{name: SECTION[name] + 1})) == keys(job).keys() - FLOWS


@pytest.mark.parametrize("what", [{"seed": 4}, {"device": "cuda"}, {"threads": 2}])
def test_the_seed_and_what_computes_change_every_cell(root, what):
    job = job_on(root)
    assert changed(job, replace(job, **what)) == keys(job).keys()


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("distill/fast", {"distill.fast"}),
        ("rl/dgpo", {"rl.dgpo", "flow.rl.dgpo"}),
        ("teacher", {"teacher.nfe2", "teacher.nfe1", "guidance.w2", "flow.teacher.nfe2"}),
        ("reflow", set()),
    ],
)
def test_a_model_made_anew_changes_its_own_cells(root, tmp_path, name, expected):
    assert changed(job_on(root), with_input(root, name, tmp_path / "data")) == expected


def test_a_verifier_made_anew_changes_all_but_flows(root, tmp_path):
    job = job_on(root)
    assert changed(job, with_input(root, "verifier", tmp_path / "data")) == keys(job).keys() - FLOWS


def test_a_dataset_made_anew_changes_every_cell(root, tmp_path):
    job = job_on(root)
    assert changed(job, with_input(root, "dataset", tmp_path / "data")) == keys(job).keys()


def test_places_and_rewards_and_names_of_arms_change_nothing(root, tmp_path):
    job = job_on(root)
    shutil.copytree(root, tmp_path / "data")
    assert not changed(job, replace(job_on(tmp_path / "data"), endpoint="http://x", cells="s3://b/cells"))
    rewards = RL | {"dgpo": {**RL["dgpo"], "rewards": right(digit=1.0)}}
    assert not changed(job, replace(job, context={**job.context, "rl": rewards}))
    renamed = replace(
        job,
        context={**job.context, "distill": {"quick": {"method": "kd"}}},
        inputs={**job.inputs, "distill/quick": job.inputs["distill/fast"]},
    )
    assert not changed(job, renamed)


SMALL = {"small": {"kind": "jpeg", "weight": -1.0, "quality": 90}}


def with_rewards(job: Job, **rewards) -> Job:
    arms = {**job.context["rl"], **{arm: {**job.context["rl"][arm], "rewards": of} for arm, of in rewards.items()}}
    return replace(job, context={**job.context, "rl": arms})


def test_a_reward_that_only_samples_can_tell_has_a_cell_for_every_model_and_changes_no_other(root):
    job = job_on(root)
    scored = with_rewards(job, dgpo=SMALL)
    added = changed(job, scored)
    rows = {unit["of"] for unit in evaluate.plan(check(evaluate.Config, SECTION, "evaluate"), scored)}
    assert added == {f"reward.dgpo.{row}" for row in rows}
    assert {"reward.dgpo.teacher.nfe2", "reward.dgpo.guidance.w2", "reward.dgpo.distill.fast"} <= added
    other = {"small": {**SMALL["small"], "quality": 80}}
    assert changed(scored, with_rewards(job, dgpo=other)) == added, "its parameters decide it"
    assert not changed(scored, with_rewards(job, again=SMALL)), "the arm that states it does not"
    assert len(keys(with_rewards(job, dgpo=SMALL, again=SMALL))) == len(keys(scored)), "arms share it"
    assert changed(scored, with_section(scored, num_samples=11)) >= added
    assert not changed(scored, with_section(scored, neighbours=3)) & added


def test_a_metric_of_the_parameters_has_a_cell_for_every_model_and_changes_no_other(root):
    job = job_on(root)
    asked = with_section(job, metrics={"kid": {"kind": "kernel", "degree": 3}})
    added = changed(job, asked)
    assert "metric.kid.real.images" in added
    assert len(added) == 8
    assert all(name.startswith("metric.kid.") for name in added)
    renamed = with_section(job, metrics={"mmd": {"kind": "kernel", "degree": 3}})
    assert not changed(asked, renamed), "what it is called does not decide it"
    assert len(changed(asked, with_section(job, metrics={"kid": {"kind": "kernel", "degree": 2}}))) == 8


def test_the_place_of_cells_decides_no_work(root):
    job = job_on(root)
    assert replace(job, cells="s3://bucket/cells").key() == job.key()


ALWAYS = {
    "cells/measure.py", "cells/bench.py", "core/frechet.py", "metrics/straightness.py", "samplers/euler.py",
    "models/transformer.py", "models/verifier.py", "core/rng.py", "io/dataset.py",
}  # fmt: skip
NEVER = {"evaluate.py", "report/page.py", "training/loop.py", "distillers/tdm.py", "io/run.py"}


@pytest.mark.parametrize(
    ("module", "own"),
    [
        ("stages.cells.measure", set()),
        ("stages.cells.reward", {"cells/reward.py", "rewards/__init__.py", "rewards/jpeg.py"}),
        ("stages.cells.metric", {"cells/metric.py", "metrics/table.py", "metrics/kernel.py"}),
    ],
)
def test_the_code_that_measures_decides_and_the_reports_does_not(module, own, tmp_path):
    for file in (code.ROOT / "stages").rglob("*.py"):
        target = tmp_path / file.relative_to(code.ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    source = partial(identity.source.__wrapped__, module)
    before = source(tmp_path)
    assert before == source(code.ROOT)
    edited = {}
    other = {"cells/reward.py", "rewards/__init__.py", "rewards/jpeg.py", "metrics/table.py", "metrics/kernel.py"}
    for name in ALWAYS | NEVER | own | other:
        file = tmp_path / "stages" / name
        text = file.read_text()
        file.write_text(text + "\n# edited\n")
        edited[name] = source(tmp_path) != before
        file.write_text(text)
    decides = {name for name, differs in edited.items() if differs}
    assert decides == ALWAYS | own
