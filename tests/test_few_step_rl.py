"""The bench of the few-step question: what it trains, and that its page and figure tell what was found."""

import json
from dataclasses import replace
from itertools import product

import pytest

from benchmarks import few_step_rl as bench
from benchmarks import pages
from stages import rl
from stages.io.job import Job
from tests.composed import params_of

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("task", [bench.DIGITS, bench.SHAPES], ids=["digits", "shapes"])
@pytest.mark.parametrize("name", bench.LOSSES)
def test_each_loss_is_an_arm_that_looks_where_its_student_calls(name: str, task: bench.Task) -> None:
    for calls in task.calls:
        job = Job(stage="rl", arm="it", seed=0, section=bench.section(task, name, calls), inputs={})
        made = rl.configure(job)
        assert made.settings.levels == "steps"
        assert made.settings.rollout_steps == made.method.sampler(made.settings).num_steps == calls
        assert made.common.budget.ema == 0, "the last weights are looked at"


def test_the_scenes_teacher_is_that_of_the_distillers_bench() -> None:
    here, there = (params_of(f"experiment={name}") for name in ("few_step_rl_shapes", "bench_shapes"))
    for stage in ("dataset", "verifier", "teacher"):
        assert here[stage] == there[stage], stage


def curve(end: float) -> list[dict[str, float]]:
    numbers = [*bench.NUMBERS, "precision", "recall"]
    return [{"iteration": mark, **dict.fromkeys(numbers, 1 + mark * (end - 1) / 40)} for mark in bench.MARKS]


@pytest.mark.parametrize("of", ["DIGITS", "SHAPES"])
def test_the_page_has_a_row_for_each_loss_and_keeps_what_people_wrote(tmp_path, monkeypatch, capsys, of) -> None:
    task = replace(getattr(bench, of), figure=tmp_path / "figure.png")
    monkeypatch.setattr(bench, of, task)
    monkeypatch.setattr(bench, "PAGE", tmp_path / "page.md")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", task.script.split())
    with pytest.raises(SystemExit):
        bench.main()
    assert f"data/dataset: not made; run `fewstep run {task.preset}` first" in capsys.readouterr().err
    for name in ("dataset", "encode", "verifier", *(f"distill/tdm{calls}" for calls in task.calls)):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "manifest.json").write_text(json.dumps({"of": name}))
    bench.KEPT.mkdir(parents=True)
    files = set()
    for name, calls, seed in product(bench.LOSSES, task.calls, bench.SEEDS):
        file = bench.file_of(bench.section(task, name, calls), seed)
        files.add(file)
        file.write_text(json.dumps(curve(calls + [0.5, 0.6, 0.7][seed])))
    assert len(files) == len(bench.LOSSES) * len(task.calls) * len(bench.SEEDS)
    bench.PAGE.write_text(f"before\n{pages.begin(task.script)}\nold\n{pages.END}\nafter\n")
    real = dict.fromkeys([*bench.NUMBERS, "precision", "recall"], 3.0)
    monkeypatch.setattr(bench, "reality", lambda _task: real)
    bench.main()
    lines = bench.PAGE.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert "|  | real images | 3 | 3 | 3 | 3 | 3 | 3 |" in lines
    assert any(line.startswith("| 4 | DGPO | 4.6 ± 0.25 |") for line in lines)
    assert task.figure.stat().st_size > 10_000
    for name, calls, seed in product(bench.LOSSES, task.calls, bench.SEEDS):
        file = bench.file_of(bench.section(task, name, calls, 3e-5), seed)
        assert file not in files
        file.write_text(json.dumps(curve(9.0)))
    monkeypatch.setattr("sys.argv", [*task.script.split(), "--lr", "3e-5"])
    bench.main()
    assert "| 4 | DGPO | 9 ± 0 |" in capsys.readouterr().out, "told"
    assert bench.PAGE.read_text().splitlines() == lines, "and not written"
