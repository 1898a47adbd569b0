"""`fewstep plan`: what a run will take, and what would make it fit."""

import pytest

from flows.cli.commands import plan
from flows.cli.main import main

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


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (24_000_000_000, "24 GB"), (10**16, "1e+04 TB")]
)
def test_sizes_are_told_in_a_few_digits(number, text):
    assert plan.size(number) == text
