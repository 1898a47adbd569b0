"""How soon a curve is where another ends, and the table that tells it."""

import pytest

from benchmarks import rl_pace as bench

pytestmark = pytest.mark.slow


def test_a_goal_is_reached_between_two_reports() -> None:
    curve = [(10, 1.0), (20, 2.0), (30, 1.5), (40, 3.0)]
    assert bench.reached(curve, 1.5) == 15
    assert bench.reached(curve, 2.0) == 20
    assert bench.reached(curve, 2.25) == 35, "what fell back is not there yet"
    assert bench.reached(curve, 0.5) == 10, "no sooner than the first report"
    assert bench.reached(curve, 3.5) is None


def test_the_table_says_who_is_there_first_and_who_is_not() -> None:
    slow = [[(10, 1.0), (20, 2.0), (30, 2.0)], [(10, 1.0), (20, 2.2), (30, 2.2)]]
    fast = [[(10, 2.1), (20, 3.0), (30, 3.0)], [(10, 1.1), (20, 3.1), (30, 2.9)]]
    stuck = [[(10, 1.0), (20, 1.0), (30, 1.2)], [(10, 1.0), (20, 2.2), (30, 1.0)]]
    assert bench.end(slow) == pytest.approx(2.1)
    costs = {"flow_grpo": (100.0, 8.0), "dgpo": (50.0, 8.0), "ddpo": (200.0, 8.0)}
    lines = bench.table({"flow_grpo": slow, "dgpo": fast, "ddpo": stuck}, costs).splitlines()
    assert "passes until 2.100, the end of `flow_grpo`" in lines[0]
    assert "dance_grpo" not in lines[0], "who was not trained is no goal"
    rows = {cells[1].strip(): [cell.strip() for cell in cells[2:-1]] for cells in (row.split("|") for row in lines[2:])}
    assert list(rows) == ["`dgpo`", "`flow_grpo`", "`ddpo`"]
    assert rows["`dgpo`"][2] == "625", "(10 + 15) / 2 iterations of 50 passes"
    assert rows["`dgpo`"][3] == "100", "of 8 that are judged"
    assert rows["`flow_grpo`"][2] == "1,917 (1 of 2)"
    assert rows["`ddpo`"][2] == "3,833 (1 of 2)"


def test_without_results_it_says_what_to_run(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setattr("sys.argv", ["rl_pace.py", "--project", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 1
    assert "missing; run `fewstep run experiment=bench_rl` first" in capsys.readouterr().err
