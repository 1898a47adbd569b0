"""The RL stage as a whole, on a small teacher: what ends it, what it tells of that, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from stages import rl
from stages.io import run
from stages.io.expected import Expected, Outline
from stages.io.job import Job
from tests.cells.rigs import SILENT, make_inputs, right
from tests.composed import params_of
from tests.rewards.servers import PREFERENCE

pytestmark = pytest.mark.slow

PARAMS = Path(__file__).parents[1] / "params"


def section(*words: str) -> dict[str, Any]:
    words = ("experiment=smoke", *(f"rl.arms.dgpo{word}" if word.startswith(".") else word for word in words))
    made = params_of(*words)["rl"]["arms"]["dgpo"]
    made.pop("replicates")
    small = {"prompts_per_iteration": 2, "group_size": 3, "rollout_steps": 2, "nfe": 2, "num_draws": 1}
    return {**made, **small, "rewards": right(all=1.0)}


STOPPED = ["+stop@rl.arms.dgpo.stop=rules", ".stop.plateau=null"]


def trained(tmp_path: Path, *words: str) -> dict[str, Any]:
    make_inputs(tmp_path / "data")
    names = {"init": "teacher", "dataset": "dataset", "encode": "encode", "verifier": "verifier"}
    inputs = {name: str(tmp_path / "data" / folder) for name, folder in names.items()}
    job = Job(stage="rl", arm="dgpo", seed=0, section=section(*words), inputs=inputs)
    run.run(job, tmp_path / "out", tmp_path / "work", SILENT)
    return {name: json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in ("metrics", "cost")}


def test_a_policy_that_drifts_too_far_is_stopped_and_says_so(tmp_path: Path) -> None:
    made = trained(
        tmp_path, *STOPPED, ".stop.heldout=null", ".stop.window=3", ".stop.drift=1.0e-9", ".budget.iterations=9"
    )
    assert made["metrics"]["stopped_by_drift"] == made["cost"]["iterations"] == 3


def test_looks_at_held_out_prompts_are_counted_and_change_nothing(tmp_path: Path) -> None:
    looking = [*STOPPED, ".stop.heldout.every=2", ".stop.heldout.num_samples=5", ".stop.heldout.patience=9"]
    plain, seen = (
        trained(tmp_path / name, *words, ".budget.iterations=5") for name, words in (("a", []), ("b", looking))
    )
    assert not any("stopped" in name for name in seen["metrics"])
    assert seen["metrics"] == plain["metrics"]
    assert seen["cost"]["network_evaluations"] - plain["cost"]["network_evaluations"] == 2 * 5 * 2, (
        "looks, samples, calls"
    )
    assert seen["cost"]["samples_scored"] - plain["cost"]["samples_scored"] == 2 * 5


DISTANCE = ".stop.distance={every: 2, num_samples: 6, most: %s}"


def test_a_budget_of_distance_ends_a_training_and_a_wide_one_changes_nothing(tmp_path: Path) -> None:
    rules = [*STOPPED, ".stop.heldout=null", ".budget.iterations=5"]
    spent, left, plain = (
        trained(tmp_path / name, *words, ".budget.iterations=5")
        for name, words in {
            "spent": [*rules, DISTANCE % 1.0e-6], "left": [*rules, DISTANCE % 1.0e6], "plain": [],
        }.items()
    )  # fmt: skip
    assert spent["metrics"]["stopped_by_distance"] == spent["cost"]["iterations"] == 2
    assert left["metrics"] == plain["metrics"]
    assert left["cost"]["network_evaluations"] - plain["cost"]["network_evaluations"] == 2 * 6 * 2
    assert left["cost"]["samples_scored"] == plain["cost"]["samples_scored"], "no reward is asked"


@pytest.mark.parametrize(("num_train", "attributes"), [(0, ("digit",)), (9, ())])
def test_a_distance_needs_images_and_what_sees_them(num_train: int, attributes: tuple[str, ...]) -> None:
    data = Outline(
        kind="prompts", sample_shape=(1, 8, 8), attributes=attributes, num_train=num_train, num_test=0, num_seen=9
    )
    inputs = {
        "dataset": Expected(dataset=data), "init": Expected(model="trained"),
        "verifier": Expected(attributes=attributes),
    }  # fmt: skip
    rules = [*STOPPED, ".stop.heldout=null", DISTANCE % 1.0]
    job = Job(stage="rl", arm="dgpo", seed=0, section=section(*rules), inputs={})
    with pytest.raises(ValueError, match=r"rl\.arms\.dgpo\.stop\.distance: looks at training images"):
        rl.expect(rl.configure(job), job, inputs)


def test_held_out_prompts_have_to_be_there() -> None:
    data = Outline(kind="digits", sample_shape=(1, 8, 8), attributes=("digit",), num_train=9, num_test=9, num_seen=9)
    inputs = {"dataset": Expected(dataset=data), "init": Expected(model="trained"), "verifier": None}
    job = Job(stage="rl", arm="dgpo", seed=0, section=section(*STOPPED), inputs={})
    with pytest.raises(ValueError, match=r"rl\.arms\.dgpo\.stop\.heldout: no prompts are held out"):
        rl.expect(rl.configure(job), job, inputs)


def test_a_reward_that_compares_is_given_whole_groups_and_no_rule_on_its_mean() -> None:
    def job(*words: str) -> Job:
        rewards = {**right(all=1.0), "liked": PREFERENCE}
        return Job(stage="rl", arm="dgpo", seed=0, section={**section(*words), "rewards": rewards}, inputs={})

    for words in ([], [*STOPPED, ".stop.heldout=null", ".stop.drift=1.0"]):
        (unit,) = rl.plan(rl.configure(job(*words)), job(*words))
        assert unit["judged"] == "groups"
    message = r"rl\.arms\.dgpo\.rewards\.liked: compares a group's samples"
    for words in (STOPPED, ["+stop@rl.arms.dgpo.stop=rules", ".stop.heldout=null", ".stop.plateau=0.1"]):
        with pytest.raises(ValueError, match=message):
            rl.configure(job(*words))


def test_a_teacher_is_for_those_that_distil_one() -> None:
    """It is what the policy starts from unless another is named, which most have no use for."""
    assert section(".init=data/distill/a")["teacher"] is None
    job = Job(
        stage="rl", arm="dgpo", seed=0, section=section(".init=data/distill/a", ".teacher=data/teacher"), inputs={}
    )
    with pytest.raises(
        ValueError, match=r"rl\.arms\.dgpo\.teacher: dgpo distils no teacher, .*reward_instruct.* do; le"
    ):
        rl.configure(job)


@pytest.mark.parametrize(("policy", "kernel", "refused"), [
    ("flow_grpo", "flow_sde", True), ("dance_grpo", "dance_sde", True), ("ddpo", "ddim", True),
    ("g2rpo", "flow_sde", True),
    ("student_grpo", "anchored", False), ("pso", "anchored", False), ("dgpo", "", False),
])  # fmt: skip
def test_a_distilled_model_is_rolled_out_by_steps_that_are_its_own(policy: str, kernel: str, refused: bool) -> None:
    words = ["experiment=smoke", f"+policy@rl.arms.it={policy}", "rl.arms.it.init=data/distill/a"]
    own = params_of(*words)["rl"]["arms"]["it"]
    own.pop("replicates")
    job = Job(stage="rl", arm="it", seed=0, section={**own, "rewards": right(all=1.0)}, inputs={})
    data = Outline(kind="digits", sample_shape=(1, 8, 8), attributes=("digit",), num_train=99, num_test=9, num_seen=99)
    for is_student in (True, False):
        init = Expected(model="trained", is_student=is_student)
        inputs = {"dataset": Expected(dataset=data), "init": init, "verifier": None, "teacher": None}
        if not (refused and is_student):
            made = rl.expect(rl.configure(job), job, inputs)
            assert made is not None
            assert made.is_student == is_student
            continue
        message = rf"rl\.arms\.it\.kernel\.name={kernel}: data/distill/a is distilled, .* Take kernel anchored or cps"
        with pytest.raises(ValueError, match=message):
            rl.expect(rl.configure(job), job, inputs)
