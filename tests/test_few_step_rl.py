"""The bench of the few-step question: what it trains, and that its page and figure tell what was found."""

import json

import pytest

from benchmarks import few_step_rl as bench
from benchmarks import pages
from stages import rl
from stages.io.job import Job

pytestmark = pytest.mark.exhaustive


@pytest.mark.parametrize("name", bench.LOSSES)
def test_each_loss_is_an_arm_that_looks_where_its_student_calls(name: str) -> None:
    for calls in bench.CALLS:
        job = Job(stage="rl", arm="it", seed=0, section=bench.section(name, calls), inputs={})
        made = rl.configure(job)
        assert made.settings.levels == "steps"
        assert made.settings.rollout_steps == made.method.sampler(made.settings).num_steps == calls
        assert made.common.budget.ema == 0, "the last weights are looked at"


def curve(end: float) -> list[dict[str, float]]:
    numbers = [*bench.NUMBERS, "precision", "recall"]
    return [{"iteration": mark, **dict.fromkeys(numbers, 1 + mark * (end - 1) / 40)} for mark in bench.MARKS]


def test_the_page_has_a_row_for_each_loss_and_keeps_what_people_wrote(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["few_step_rl.py"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "data/dataset: not made; run `fewstep run experiment=few_step_rl` first" in capsys.readouterr().err
    for name in ("dataset", "encode", "verifier", *(f"distill/tdm{calls}" for calls in bench.CALLS)):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "manifest.json").write_text(json.dumps({"of": name}))
    bench.KEPT.mkdir(parents=True)
    files = set()
    for name in bench.LOSSES:
        for calls in bench.CALLS:
            for seed in bench.SEEDS:
                file = bench.file_of(bench.section(name, calls), seed)
                files.add(file)
                file.write_text(json.dumps(curve(calls + [0.5, 0.6, 0.7][seed])))
    assert len(files) == len(bench.LOSSES) * len(bench.CALLS) * len(bench.SEEDS)
    (tmp_path / "docs/images").mkdir(parents=True)
    page = tmp_path / bench.PAGE
    page.write_text(f"before\n{pages.begin('few_step_rl.py')}\nold\n{pages.END}\nafter\n")
    real = dict.fromkeys([*bench.NUMBERS, "precision", "recall"], 3.0)
    monkeypatch.setattr(bench, "reality", lambda: real)
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "FIGURE", tmp_path / "figure.png")
    bench.main()
    lines = page.read_text().splitlines()
    assert (lines[0], lines[-1]) == ("before", "after")
    assert "old" not in lines
    assert "|  | real images | 3 | 3 | 3 | 3 | 3 | 3 |" in lines
    assert any(line.startswith("| 2 | DGPO | 2.6 ± 0.25 |") for line in lines)
    assert (tmp_path / "figure.png").stat().st_size > 10_000
