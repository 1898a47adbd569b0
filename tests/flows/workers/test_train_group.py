"""Which shares of a training its workers may have; that they make what one makes is seen in test_pipeline."""

import pytest

from flows.project.nodes import Node
from flows.project.resources import Compute
from tests.flows.compute import COMPUTE

TEACHER = {"teacher": {"budget": {"slices": 4}}, "rl": {"arms": {"dgpo": {"budget": {"slices": 1}}}}}


def compute(**changes):
    return Compute.of({"compute": COMPUTE | changes})


def test_workers_must_divide_slices():
    compute(workers={"default": 1, "teacher": 2}).check_shares(Node("teacher"), TEACHER)
    with pytest.raises(ValueError, match=r"compute\.workers\.teacher=3 does not divide teacher\.budget\.slices=4"):
        compute(workers={"default": 1, "teacher": 3}).check_shares(Node("teacher"), TEACHER)
    with pytest.raises(ValueError, match=r"workers\.default=2 does not divide rl\.arms\.dgpo\.budget\.slices=1"):
        compute(workers={"default": 2}).check_shares(Node("rl", "dgpo"), TEACHER)


def test_workers_are_for_stages_that_train():
    assert compute(workers={"default": 2}).workers_of("evaluate") == 1
    with pytest.raises(ValueError, match=r"compute\.workers\.evaluate: only teacher, distill, rl"):
        compute(workers={"default": 1, "evaluate": 2})
    with pytest.raises(ValueError, match=r"compute\.workers\.rl: .*greater than or equal to 1 .*got 0"):
        compute(workers={"default": 1, "rl": 0})


def test_workers_do_not_share_a_gpu():
    shared = compute(workers={"default": 1, "teacher": 2}, gpus={"default": 0.5})
    with pytest.raises(ValueError, match=r"compute\.gpus: 0\.5 for each of compute\.workers\.teacher=2"):
        shared.check_shares(Node("teacher"), TEACHER)
