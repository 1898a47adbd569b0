"""The bench of steerings: what it asks for, and that its page tells what was found."""

import json

import pytest
import yaml

from benchmarks import pages
from benchmarks import steering as bench
from stages.core.config import check
from stages.core.spec import even
from stages.steering import STEERINGS, Asked
from stages.steering.run import fits

pytestmark = pytest.mark.slow

ALIKE = {**dict.fromkeys(bench.NUMBERS, 0.5), "reward_calls": 4.0, "seconds": 1.0}


@pytest.mark.parametrize("budget", bench.BUDGETS)
def test_every_search_can_be_made_within_its_budget(budget):
    for rule, knobs, steps in bench.asked(budget).values():
        preset = yaml.safe_load((bench.ROOT / "params/steering" / f"{knobs['name']}.yaml").read_text())
        steering = check(Asked, {"steering": {**preset, **knobs, "reward": bench.REWARD}}, "").steering
        more = {key: value for key, value in rule.items() if key != "name"}
        fits(steering, even(steps, rule=rule["name"], **more))


def test_whatever_follows_a_reward_is_held_against_the_best_of_n():
    held = {knobs["name"] for _, knobs, _ in bench.asked(64).values()}
    assert held == {name for name, kind in STEERINGS.items() if "reward" in kind.__dataclass_fields__}
    names = bench.asked(64).keys()
    assert all({one, other} <= names for one, other in bench.PAIRS)


def test_the_page_has_a_row_for_each_and_keeps_what_people_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["steering.py"])
    with pytest.raises(SystemExit):
        bench.main()
    assert "data/dataset: not made; run `fewstep run experiment=digits` first" in capsys.readouterr().err
    for name in ("data/dataset", "data/encode", "data/verifier", *bench.MODELS.values()):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "manifest.json").write_text(json.dumps({"of": name}))
    asked = []

    def measured(folder, ask, seed):
        asked.append((folder, seed))
        return {**ALIKE, "reward": seed * 0.1 - (folder == "data/teacher"), "calls": 8.0}

    monkeypatch.setattr(bench, "measured", measured)
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    (tmp_path / bench.PAGE).write_text(f"before\n{pages.begin('steering.py')}\nold\n{pages.END}\nafter\n")
    bench.main()
    text = (tmp_path / bench.PAGE).read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "| teacher | RBF | 8 | 4 | -0.9 ± 0.25 | 0.5 ± 0 | 0.5 ± 0 | 0.5 ± 0 |" in text
    assert "| dgpo | DriftLite less FKC | +0 (p = 1) |" in text
    assert (tmp_path / bench.FIGURE).stat().st_size > 10_000
    total = len(asked)
    bench.main()
    assert len(asked) == total, "what is kept is not sampled again"
