"""What parameters and graph can tell is told before anything starts, all of it, and each fault once."""

import copy
import shutil
from pathlib import Path

import pytest
import yaml

from flows.pipeline import validation
from flows.project import parameters
from flows.project.nodes import Node
from flows.runtime.errors import Refused
from tests.composed import params_of

ROOT = Path(__file__).parents[3]


def composed(preset):
    return params_of(f"experiment={preset}")


FULL, MIXTURE = composed("digits_full"), composed("gmm")


def changed(base, **changes):
    """`base` with values put at addresses, whose dots are written __."""
    content = copy.deepcopy(base)
    for address, value in changes.items():
        *above, last = address.split("__")
        place = content
        for key in above:
            place = place[key]
        place[last] = value
    return content


@pytest.mark.parametrize("content", [FULL, MIXTURE], ids=["digits_full", "gmm"])
def test_a_preset_has_no_fault(content):
    assert validation.faults(content) == []


def right(**attributes):
    """Rewards of an arm: what the verifier finds right."""
    return {"right": {"kind": "verifier", "weight": 1.0, "attributes": attributes}}


ARM, POLICY = "distill__arms__kd__", "rl__arms__dgpo__"
SAMPLER = {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 1}, "guidance": 1.0}
DRAW = {"num_pairs": 8, "sampler": SAMPLER}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        # each section by itself
        ({POLICY + "group_size": 1}, "rl.arms.dgpo.group_size: Input should be greater than or equal to 2 (got 1)"),
        ({"teacher__network__num_heads": 3}, "teacher.network: num_heads=3 does not divide width=64"),
        ({"teacher__network__width": 6}, "teacher.network: width=6: positions are"),
        (
            {POLICY + "rewards": right(digit=float("nan"))},
            "rl.arms.dgpo.rewards.right.attributes.digit: Input should be",
        ),
        ({"teacher__budget__final_lr": -1}, "teacher.budget.final_lr: "),
        ({"teacher__budget__ema": 1}, "teacher.budget.ema: Input should be less than 1"),
        ({"teacher__method__lr": 0}, "teacher.method.lr: Input should be greater than 0"),
        (
            {"trajectories__sampler__rule__name": "edm_heun"},
            "trajectories.sampler.rule.name: 'edm_heun' is none of euler",
        ),
        (
            {ARM + "draw": {"num_pairs": 8, "sampler": SAMPLER | {"rule": {"name": "eular"}}}},
            "distill.arms.kd.draw.sampler.rule.name: 'eular' is none of euler",
        ),
        (
            {ARM + "sampler": SAMPLER | {"schedule": {"name": "shifted", "steps": 4}}},
            "distill.arms.kd.sampler.schedule.shift: missing",
        ),
        (
            {ARM + "sampler": SAMPLER | {"field": {"name": "tea_cache", "threshold": 0.2, "polynomial": [1.0, 0.0]}}},
            "distill.arms.kd: sampler rule euler under field tea_cache calls ",
        ),
        (
            {POLICY + "sampler": SAMPLER | {"field": {"name": "early_exit", "blocks": [1]}}},
            "rl.arms.dgpo: sampler rule euler under field early_exit asks a network for more than its answer: a saved",
        ),
        (
            {"trajectories__sampler__field": {"name": "guidance_interval", "until": 0.0, "since": 0.5}},
            "trajectories.sampler: field guidance_interval: guidance=1.0 is none anywhere",
        ),
        ({"dataset__num_heldout_prompts": 84}, "dataset.num_heldout_prompts: Input should be less than 84"),
        (
            {"evaluate__guidance_scales": [1.0000001, 1.0]},
            "evaluate: guidance_scales=[1.0000001, 1.0]: two are the same",
        ),
        ({"evaluate__teacher_nfe": [10**8]}, "evaluate.teacher_nfe.0: Input should be less than or equal to 10000"),
        ({"registry__tolerance": float("inf")}, "registry.tolerance: Input should be a finite number"),
        ({"storage__endpoint": "http://a b"}, "storage.endpoint=http://a b: must be http://host:port"),
        ({"storage__root": "s3://b/../c"}, "storage.root=s3://b/../c: must be s3://bucket/prefix"),
        ({"compute__gpus__default": 1.5}, "compute.gpus.default: 1.5 GPUs: name a part of one, or whole ones"),
        ({"compute__cpus__techer": 1}, "compute.cpus.techer: only dataset, verifier"),
        (
            {"compute__resources": {"rl": {"GPU": 1}}},
            "compute.resources.rl.GPU: 'GPU' is no resource that nodes are started",
        ),
        ({"compute__resources": {"rll": {}}}, "compute.resources.rll: no such stage"),
        ({"compute__backend": "address", "compute__address": "head"}, "compute.address=head: should be host:port"),
        # one against another
        ({"verifier": {"kind": "exact"}}, "verifier.kind=exact does not judge a dataset of digits"),
        ({"teacher": {"kind": "exact", "nfe": 8}}, "teacher.kind=exact needs a mixture, the dataset holds digits"),
        ({"teacher__network__patch_size": 3}, "teacher.network: patch_size=3 does not divide square samples of 8x8"),
        ({"reflow__coupling": "minibatch_ot", "reflow__ot_batch": 4096}, "reflow.ot_batch=4096: a shard has 2048"),
        ({ARM + "data": "data/dataset"}, "distill.arms.kd.data=data/dataset: holds no pairs; name data/reflow"),
        ({ARM + "teacher": "data/dataset"}, "distill.arms.kd.teacher=data/dataset: holds no model; name data/teacher"),
        ({ARM + "init": "data/reflow"}, "distill.arms.kd.init=data/reflow: holds no model"),
        ({"distill__arms__cd__draw": DRAW}, "distill.arms.cd.draw: cd trains on no pairs"),
        ({POLICY + "init": "data/dataset"}, "rl.arms.dgpo.init=data/dataset: holds no model"),
        (
            {POLICY + "rewards": right(digits=1.0)},
            "rl.arms.dgpo.rewards.right.attributes: no attribute is called 'digits'; did you mean 'digit'?",
        ),
        (
            {POLICY + "rewards": right(digit=0.0)},
            "rl.arms.dgpo.rewards.right: attributes: give one",
        ),
        ({POLICY + "rewards": {}}, "rl.arms.dgpo.rewards: should name at least one reward"),
        (
            {POLICY + "prompts_per_iteration": 67},
            "rl.arms.dgpo.prompts_per_iteration=67: the dataset has 66 seen prompts",
        ),
        ({"evaluate__neighbours": 359}, "evaluate.neighbours=359: the dataset has 359 test images"),
        ({"compute__workers__teacher": 2}, "compute.workers.teacher=2 does not divide teacher.budget.slices=1"),
        ({POLICY + "init": "data/rl/dgpo"}, "rl.arms.dgpo.init=data/rl/dgpo: the arm names itself"),
    ],
)
def test_a_fault_is_told_in_one_line(changes, message):
    (line,) = validation.faults(changed(FULL, **changes))
    assert line.startswith(message)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset__num_test": 16}, "dataset.num_test=16: component "),
        ({"dataset__min_std": 0.5}, "dataset: min_std=0.5 exceeds max_std=0.3"),
        ({POLICY + "init": "data/teacher"}, "rl.arms.dgpo.init=data/teacher: a closed form has no weights to train"),
        ({"distill__arms__rectified__network__patch_size": 2}, "distill.arms.rectified.network: patch_size=2 does not"),
        ({POLICY + "rewards": right(digit=1.0)}, "rl.arms.dgpo.rewards.right.attributes: no attribute is"),
        ({POLICY + "prompts_per_iteration": 9}, "rl.arms.dgpo.prompts_per_iteration=9: the dataset has 8 seen prompts"),
    ],
)  # fmt: skip
def test_a_fault_of_a_mixture_is_told(changes, message):
    (line,) = validation.faults(changed(MIXTURE, **changes))
    assert line.startswith(message)


def test_a_teacher_of_tokens_takes_rules_that_unmask_and_has_no_students():
    masked, search = composed("masked"), {"cost": "jump", "num_samples": 8, "num_steps": 8, "guidance": 1.0}
    assert validation.faults(masked) == []
    told = [
        *validation.faults(changed(masked, trajectories__sampler__rule={"name": "euler"})),
        *validation.faults(changed(masked, reflow__search=search)),
        *validation.faults(changed(FULL, trajectories__sampler__rule={"name": "masked"})),
        *(line for line in validation.faults(changed(FULL, teacher=masked["teacher"])) if "arms" in line),
    ]
    assert [line.partition(", ")[0].partition(" and reflow")[0] for line in told[:3]] == [
        "trajectories.sampler: rule euler: it steps along numbers",
        "reflow: the teacher is of tokens and has no flow to search or fit a sampler for; set reflow.search to null",
        "trajectories.sampler: rule masked: it steps along tokens that noise masks",
    ]
    assert told[3:]
    assert all("its teacher is of tokens that noise masks (kind=masked)" in line for line in told[3:])


def test_a_teacher_of_uniform_tokens_has_students_by_the_method_for_them_alone():
    uniform, euler = composed("uniform_state"), {"rule": {"name": "euler"}, "schedule": {"name": "uniform", "steps": 2}}
    assert validation.faults(uniform) == []
    taken = [line for line in validation.faults(changed(FULL, teacher=uniform["teacher"])) if "arms" in line]
    assert {line.partition(":")[0] for line in taken} >= {"distill.arms.tdm1", "rl.arms.dgpo"}
    assert all("tokens that noise replaces (kind=uniform_state)" in line for line in taken)
    (line,) = validation.faults(changed(uniform, distill__arms__duo__sampler={**euler, "guidance": 1.0, "field": None}))
    assert line.startswith("distill.arms.duo.sampler: rule euler: it steps along numbers")
    line, *_ = validation.faults(
        changed(uniform, teacher=FULL["teacher"], trajectories__sampler=FULL["trajectories"]["sampler"])
    )
    assert line.startswith("distill.arms.duo: the method is for tokens that noise replaces; take teacher=uniform_state")
    masked = composed("masked")
    (line,) = validation.faults(changed(uniform, **{key: masked[key] for key in ("teacher", "trajectories")}))
    assert line.startswith("distill.arms.duo: the method is for tokens that noise replaces; take teacher=uniform_state")
    fresh = changed(
        uniform, distill__arms__duo__fresh=True, distill__arms__duo__network=uniform["network"] | {"width": 32}
    )
    assert validation.faults(fresh) == []


def test_a_student_is_told_pictures_where_its_teacher_is():
    base = params_of(
        "experiment=digits", "+distiller@distill.arms.mine=oftsr", "distill.arms.mine.told={factor: 2, dropout: 0.1}"
    )
    (line,) = validation.faults(base)
    assert line.startswith(
        "distill.arms.mine.told: its teacher and what its student begins as have to be told pictures"
    )
    words = ("teacher=restoration", "distill.arms={}", "+distiller@distill.arms.mine=oftsr", "rl.arms={}")
    told = params_of("experiment=digits", *words, "distill.arms.mine.told={factor: 2, dropout: 0.1}")
    assert validation.faults(told) == []
    (line,) = validation.faults(changed(told, distill__arms__mine__told__factor=3))
    assert line.startswith("distill.arms.mine.told: factor=3 does not divide the sides of samples")
    (line,) = validation.faults(changed(told, distill__arms__mine__fresh=True))
    assert line.startswith("distill.arms.mine.told: its teacher and what its student begins as")


def test_one_noise_is_fitted_to_a_teacher_that_is_told_pictures_alone():
    words = ("experiment=digits", "distill.arms={}", "rl.arms={}", "+fit@reflow.samplers.one=boundary_condition")
    (line,) = validation.faults(params_of(*words))
    assert line.startswith("reflow.samplers.one: the teacher is told no pictures; take teacher=restoration")
    told = params_of(*words, "teacher=restoration")
    assert validation.faults(told) == []
    (line,) = validation.faults(changed(told, reflow__samplers__one__factor=3))
    assert line.startswith("reflow.samplers.one: factor=3 does not divide the sides of samples")
    rule = {"name": "boundary_condition", "noise": [0.0] * 64, "then": {"name": "euler"}}
    (line,) = validation.faults(changed(told, trajectories__sampler__rule=rule))
    assert "rule boundary_condition begins all samples at one noise" in line


def test_all_faults_of_all_sections_are_in_one_list():
    changes = {
        "seed": "abc", "compute__gpus__default": -1, "storage__root": "???", "registry__metric": 3,
        "teacher__method__lr": 0, "teacher__budget__ema": 1, "trajectories__keep": [99], "evaluate__neighbours": 4000,
        ARM + "student_lr": 0, ARM + "batch_size": 0, POLICY + "rewards": right(none=1.0),
        "distill__arms__cd__method": "ce",
    }  # fmt: skip
    told = [line.partition(":")[0] for line in validation.faults(changed(FULL, **changes))]
    assert len(told) == len(set(told))
    assert set(told) == {
        "seed", "compute.gpus.default", "storage.root", "registry.metric", "teacher.method.lr", "teacher.budget.ema",
        "trajectories", "evaluate.neighbours=4000", "distill.arms.kd.student_lr", "distill.arms.kd.batch_size",
        "rl.arms.dgpo.rewards.right.attributes", "distill.arms.cd.method",
    }  # fmt: skip


@pytest.mark.parametrize(
    "section", ["rl", "distill", "compute", "storage", "registry", "evaluate", "teacher", "network"]
)
@pytest.mark.parametrize("value", [None, [], 3, "x"])
def test_a_section_of_another_shape_is_told_beside_the_rest(section, value):
    content = changed(FULL, trajectories__sampler__schedule__steps=0, **{section: value})
    told = {line.partition(":")[0] for line in validation.faults(content)}
    assert told == {section, "trajectories.sampler.schedule.steps"}


@pytest.mark.slow
def test_what_was_found_good_needs_no_second_look(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    shutil.copy(ROOT / "params.yaml", "params.yaml")
    Path("other.yaml").write_text("seed: 1")
    looks = [validation.Check(), validation.Check(Path("other.yaml"))]
    looks[0].result()
    with pytest.raises(Refused, match=r"(?m)^dataset: missing"):
        looks[1].result()
    assert validation.Check()._process is None
    Path("params.yaml").write_text(Path("params.yaml").read_text() + "# another text")
    again = validation.Check()
    assert again._process is not None
    again.result()


@pytest.mark.slow
def test_one_fault_is_told_among_all(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("params.yaml").write_text(yaml.safe_dump(changed(FULL, rl={"arms": None}, teacher__method__lr=0)))
    with pytest.raises(Refused, match=r"(?s)rl\.arms: should be a mapping.*teacher\.method\.lr: "), validation.whole():
        parameters.read()
    with pytest.raises(Refused, match="no stage is called 'nope'"), validation.whole(ROOT / "params.yaml"):
        Node.parse("nope")
