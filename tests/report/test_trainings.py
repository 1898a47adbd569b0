"""What the report says of arms that were trained several times, and of those that were not."""

import csv
from dataclasses import replace

import pytest
from scipy import stats

from stages.core.trainings import spread
from stages.report import Study, write
from stages.report.figures import score_against_distance
from stages.report.plots import write_tables
from tests.report.studies import Reader, study

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("report")
    write(study(), out)
    return (out / "report.html").read_text(encoding="utf-8")


def thrice(full: Study) -> Study:
    """The study, its two arms trained three and two times."""
    told = {
        "tdm1": {
            "score_heldout": [0.45, 0.52, 0.56],
            "score_seen": [0.6, 0.61, 0.63],
            "frechet_distance": [20.0, 29.0, 41.0],
        },
        "dgpo": {"score_heldout": [0.81, 0.83], "score_seen": [0.9, 0.94], "frechet_distance": [200.0, 202.0]},
    }
    rows = []
    for each in full.rows:
        over = {name: spread(values) for name, values in told.get(each.label, {}).items()}
        means = {name: found.mean for name, found in over.items()}
        count = over["score_seen"].count if over else 1
        rows.append(replace(each, numbers={**each.numbers, **means}, spreads=over, trainings=count))
    return replace(full, rows=rows)


def test_the_leaderboard_says_over_how_many_trainings(page, tmp_path):
    write(thrice(study()), tmp_path)
    found = Reader((tmp_path / "report.html").read_text(encoding="utf-8")).rows
    rows = {cells[0]: cells for cells in found if len(cells) > 5}
    assert rows["tdm1"][3].startswith("0.510 0.48–0.53 n = 3: 0.37–0.65")
    assert rows["tdm1"][4].endswith("n = 3: 3.83–56.2")
    heading = next(cells for cells in found if cells[0] == "model").index("trainings")
    assert [rows[name][heading] for name in ("nfe32", "tdm1", "dgpo", "images")] == ["1", "3", "2", "–"]
    alone = {cells[0]: cells for cells in Reader(page).rows if len(cells) > 5}
    assert alone["tdm1"][heading] == "1"
    assert not any("n = " in cell for cell in alone["tdm1"])


def test_arms_are_compared_over_trainings_or_not_at_all(page, tmp_path):
    assert "Every arm was trained once (n = 1): trainings cannot be compared, samples only." in page
    write(thrice(study()), tmp_path)
    found = Reader((tmp_path / "report.html").read_text(encoding="utf-8")).rows
    [cells] = [cells for cells in found if cells and cells[0] == "tdm1 (n = 3) − dgpo (n = 2)"]
    p = stats.ttest_ind([0.45, 0.52, 0.56], [0.81, 0.83], equal_var=False).pvalue
    assert cells[1] == f"−0.31 differ (p = {p:.2g} over 3 and 2 trainings)"
    assert cells[2].startswith("−171 differ")


def test_wide_bars_are_the_intervals_over_trainings():
    figure = score_against_distance(thrice(study()))
    wide = [c for c in figure.axes[1].containers if c.lines[2] and c.lines[2][0].get_linewidth()[0] == 5]
    assert len(wide) == 2
    across, up = (bars.get_segments()[0] for bars in wide[0].lines[2])
    held, distance = spread([0.45, 0.52, 0.56]), spread([20.0, 29.0, 41.0])
    assert list(up[:, 1]) == [pytest.approx(held.low), pytest.approx(held.high)]
    assert across[1, 0] == pytest.approx(distance.high)
    assert across[0, 0] == pytest.approx(distance.low)
    assert not [c for c in score_against_distance(study()).axes[1].containers if c.lines[2][0].get_linewidth()[0] == 5]


def test_points_are_named_with_their_trainings():
    named = {text.get_text() for text in score_against_distance(thrice(study())).axes[0].texts}
    assert {"tdm1 (n = 3)", "dgpo (n = 2)"} <= named
    assert "tdm1 (n = 1)" in {text.get_text() for text in score_against_distance(study()).axes[0].texts}


def test_tables_for_plots_have_the_intervals(tmp_path):
    write_tables(thrice(study()), tmp_path)
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8") as stream:
        found = {line["model"]: line for line in csv.DictReader(stream)}
    over = spread([20.0, 29.0, 41.0])
    assert found["tdm1"]["trainings"] == "3"
    assert float(found["tdm1"]["frechet_distance_trainings_low"]) == pytest.approx(over.low)
    assert found["nfe8"]["trainings"] == "1"
    assert found["images"]["trainings"] == found["nfe8"]["frechet_distance_trainings_low"] == ""
