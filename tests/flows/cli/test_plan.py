"""`fewstep plan`: what a run will take, and what would make it fit."""

import pytest

from flows.cli.commands import plan
from flows.cli.commands.compose import composed
from flows.cli.main import main
from flows.pipeline import planning
from stages.io import params

SMALL = ["experiment=smoke", "~rl.arms.flow_grpo", "~distill.arms.cd"]


@pytest.mark.slow
def test_it_tells_of_every_stage_and_changes_nothing(capsys, monkeypatch, tmp_path):
    before = (plan.Path("params.yaml")).read_bytes()
    assert main(["plan", *SMALL]) == 0
    said = capsys.readouterr().out
    for name in ("teacher", "trajectories", "distill@dmd2", "rl@dgpo"):
        assert name in said
    assert "files" in said
    assert plan.Path("params.yaml").read_bytes() == before


@pytest.mark.slow
def test_what_does_not_fit_is_told_with_the_switch_that_helps(capsys):
    assert main(["plan", *SMALL, "--memory", "0.0008"]) == 1
    said = capsys.readouterr().out
    assert "teacher: needs" in said
    assert "teacher.budget.slices=" in said
    assert main(["plan", *SMALL, "--memory", "8"]) == 0
    assert "teacher: fits into 8 GB" in capsys.readouterr().out


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused_before_anything_is_told(capsys):
    assert main(["plan", *SMALL, "distill.arms.tdm1.student_lr=0"]) == 1
    told = capsys.readouterr()
    assert "student_lr" in told.err
    assert "forward" not in told.out


@pytest.mark.slow
def test_workers_that_hold_parts_need_less_each_and_that_is_a_way_out():
    def dmd2(*overrides):
        more = ("distill.arms.dmd2.budget.slices=2", "+compute.workers.distill=2", *overrides)
        content = params.parse(composed([*SMALL, *more]), "params")
        return next(row for row in planning.planned(content) if row.node.name == "distill@dmd2")

    whole, parts = dmd2(), dmd2("+tune@distill.arms.dmd2.tune=sharded")
    one, half = whole.needs.memory, parts.needs.memory
    assert (one.trained, one.activations) == (half.trained, half.activations)
    assert half.weights == -(-one.weights // 2)
    assert half.optimiser == -(-one.optimiser // 2)
    room = one.weights + one.optimiser // 2  # for no slice of whole networks, however small
    said, takes = planning.remedy(whole, room)
    assert said[0] == "+tune@distill.arms.dmd2.tune=sharded"
    assert takes <= room


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (24_000_000_000, "24 GB"), (10**16, "1e+04 TB")]
)
def test_sizes_are_told_in_a_few_digits(number, text):
    assert plan.size(number) == text
