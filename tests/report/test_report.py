"""The report says the numbers that it was given, needs nothing from anywhere, and shows samples as they are."""

import csv
import io
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation
from scipy import stats

from stages.core.trainings import spread
from stages.report import Gallery, Row, Study, write
from stages.report.figures import quality_against_calls, score_against_distance
from stages.report.labels import Label, place
from stages.report.markup import element, inline
from stages.report.pictures import FRAME, picture, samples
from stages.report.plots import frontier, write_tables
from stages.report.tables import digits, short, whole
from stages.report.theme import DARK, LIGHT, drawing, png, svg


def row(group: str, name: str, nfe: int, score: float, distance: float, guidance: float = 1.0, **more: float) -> Row:
    numbers = {"nfe": nfe, "network_calls": nfe if guidance == 1 else 2 * nfe, "guidance": guidance}
    numbers |= {"parameters": 439e3, "frechet_distance": distance, "precision": 0.9, "recall": 0.8}
    for split, shift in (("seen", 0.0), ("heldout", -0.1)):
        value = score + shift
        numbers |= {f"score_{split}": value, f"score_{split}_low": value - 0.03, f"score_{split}_high": value + 0.02}
        numbers[f"accuracy_{split}_digit"] = value + 0.01
    return Row(id=f"{group}.{name}", group=group, label=name, numbers=numbers | more)


def study() -> Study:
    real = row("real", "images", 1, 0.98, 4.25)
    measured = {name: value for name, value in real.numbers.items() if name not in ("nfe", "guidance")}
    real = replace(real, numbers=measured | {"score_test": 0.975})
    rows = [
        real,
        row("teacher", "nfe8", 8, 0.70, 30.0, training_network_evaluations=192000.0),
        row("teacher", "nfe32", 32, 0.64, 25.0, training_network_evaluations=192000.0),
        row("guidance", "w3", 8, 0.77, 188.0, guidance=3.0),
        row("guidance", "w2", 8, 0.81, 100.0, guidance=2.0),
        row("distill", "tdm1", 1, 0.613, 29.0, training_network_evaluations=4.1e6),
        row("rl", "dgpo", 8, 0.92, 201.0),
    ]
    generator = torch.Generator().manual_seed(0)
    return Study(
        rows=rows,
        gallery=Gallery(
            prompts=["a thin upright 3", "a bold <left> 7"], heldout=[False, True],
            pictures={r.id: torch.rand(2, 1, 8, 8, generator=generator) for r in rows},
            right={r.id: [True, False] for r in rows},
        ),
        attributes=["digit"], tasks=[],
        counts={"train_images": 5, "test_images": 359, "prompts_seen": 66, "prompts_heldout": 18},
        pairs={"correlation": 0.4375},
        parameters={"evaluate": {"num_samples": 1000}, "distill@tdm1": {"method": "<script>alert(1)</script>"}},
        digests={"teacher": "f00d" * 16},
        seed=17,
    )  # fmt: skip


def without_heldout(full: Study) -> Study:
    rows = [replace(r, numbers={k: v for k, v in r.numbers.items() if "heldout" not in k}) for r in full.rows]
    return replace(full, rows=rows, gallery=replace(full.gallery, heldout=[False, False]))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("report")
    write(study(), out)
    return (out / "report.html").read_text(encoding="utf-8")


class Reader(HTMLParser):
    """Text of table rows, addresses of everything that a browser would fetch, and whether tags are balanced."""

    VOID = frozenset({"meta", "img", "br", "path", "use"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.rows, self.fetched, self.open = [], [], []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.fetched += [named[key] for key in ("src", "href", "xlink:href", "srcset", "data") if key in named]
        assert tag not in ("script", "link", "iframe", "object", "base"), f"a report needs no <{tag}>"
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th") and self.rows:
            self.rows[-1].append("")

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data


def test_the_page_fetches_nothing_and_is_well_formed(page):
    reader = Reader(page)
    assert reader.open == []
    assert reader.fetched, "there are pictures in it"
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in reader.fetched)
    assert not re.search(r"https?:|@import|url\((?!#)", page)


def test_the_leaderboard_says_the_numbers(page):
    rows = {cells[0]: cells for cells in Reader(page).rows if len(cells) > 5}
    assert rows["tdm1"][1] == "1"
    assert rows["tdm1"][2].startswith("0.613 0.58–0.63")
    assert rows["tdm1"][3].startswith("0.513 0.48–0.53")
    assert rows["tdm1"][4] == "29.0 ×1.16"
    assert rows["images"][1] == "–"


def test_a_card_compares_with_the_teacher_at_its_most_steps_and_rl_with_guidance(page):
    text = re.sub(r"<[^>]+>", "\n", page)
    assert "score on held-out prompts\u00a0(\u22120.03)" in text
    assert "1 network call, 32× fewer" in text
    assert "best guidance: 0.71 (w = 2)" in text


def test_training_cost_names_each_model_once(page):
    rows = [cells for cells in Reader(page).rows if "192 k" in cells or "4.1 M" in cells]
    assert [cells[0] for cells in rows] == ["nfe8", "tdm1"]


def test_provenance_and_parameters_are_there_and_escaped(page):
    assert "f00d" * 16 in page
    assert ["seed", "17"] in Reader(page).rows
    assert ["correlation", "0.4375"] in Reader(page).rows
    assert "&lt;script&gt;alert(1)" in page
    assert "a bold &lt;left&gt; 7" in page


def test_without_held_out_prompts_nothing_speaks_of_them(tmp_path):
    write(without_heldout(study()), tmp_path)
    assert "held" not in (tmp_path / "report.html").read_text(encoding="utf-8").replace("background", "")


def test_figures_take_their_colours_from_the_page(page):
    drawn = svg(score_against_distance(study()), LIGHT)
    assert "var(--rl)" in drawn
    assert not any(colour in drawn for colour in LIGHT.colours.values())
    assert all(f"--{name}: {colour}" in page for theme in (LIGHT, DARK) for name, colour in theme.colours.items())
    assert len(set(LIGHT.colours.values())) == len(LIGHT.colours), "a colour must say which variable it is"


@pytest.mark.parametrize("draw", [score_against_distance, quality_against_calls, samples])
def test_equal_studies_give_equal_bytes(draw):
    one, other = draw(study()), draw(study())
    assert png(one) == png(other)
    assert svg(one, LIGHT) == svg(other, LIGHT)


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


def lines(figure: Figure, panel: int, label: str) -> tuple[list[float], list[float]]:
    container = next(c for c in figure.axes[panel].containers if c.get_label().startswith(label))
    x, y = container.lines[0].get_data()
    return list(x), list(y)


def test_the_plane_draws_the_frontier_from_the_unguided_teacher_on():
    figure = score_against_distance(study())
    assert lines(figure, 0, "teacher, by guidance") == ([30.0, 100.0, 188.0], [0.70, 0.81, 0.77])
    assert lines(figure, 1, "RL") == ([201.0], pytest.approx([0.82]))


def test_error_bars_are_the_intervals():
    figure = score_against_distance(study())
    container = next(c for c in figure.axes[0].containers if c.get_label() == "RL-tuned")
    (low, high) = container.lines[2][0].get_segments()[0][:, 1]
    assert (low, high) == (pytest.approx(0.89), pytest.approx(0.94))


def test_the_frontier_table_starts_unguided_and_lacks_nothing(tmp_path):
    assert [r.numbers["guidance"] for r in frontier(study())] == [1, 2, 3]
    write_tables(study(), tmp_path)
    with (tmp_path / "leaderboard.csv").open(encoding="utf-8") as stream:
        found = {line["model"]: line for line in csv.DictReader(stream)}
    assert float(found["dgpo"]["frechet_distance"]) == 201
    assert found["images"]["nfe"] == ""


def test_a_picture_keeps_every_pixel():
    shades = torch.linspace(0, 1, 16).reshape(1, 4, 4)
    found = imread(io.BytesIO(picture(shades)))
    expected = (shades[0] * 255).round() / 255
    assert np.allclose(found[..., 0], expected, atol=1e-6)
    assert np.allclose(found[..., 2], expected, atol=1e-6)


def test_the_grid_enlarges_without_blending_and_frames_by_verdict():
    figure = samples(study())
    sheet = figure.axes[0].images[0].get_array()
    side = sheet.shape[0] // len(study().rows)
    first = sheet[:side, :side]
    inside = np.asarray(first[2 * FRAME : -2 * FRAME, 2 * FRAME : -2 * FRAME, 0], dtype=int)
    factor = inside.shape[0] // 8
    levels = (study().gallery.pictures["real.images"][0, 0] * 255).round().int().numpy()
    assert (inside == levels.repeat(factor, 0).repeat(factor, 1)).all()
    frames = [tuple(sheet[FRAME + 1, column * side + FRAME + 1]) for column in range(2)]
    assert ["#{:02x}{:02x}{:02x}".format(*frame) for frame in frames] == [LIGHT.right, LIGHT.wrong]


def test_labels_of_close_points_do_not_overlap():
    with drawing(LIGHT):
        figure = Figure(figsize=(4, 3))
        axes = figure.add_subplot()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        figure.canvas.draw()
        place(axes, [Label(f"model {i}", (0.5 + 0.002 * i, 0.5), "#000000") for i in range(4)])
        boxes = [text.get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
    assert len(boxes) == 4
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


@pytest.mark.parametrize("draw", [score_against_distance, quality_against_calls])
def test_labels_stand_where_they_were_placed_once_all_is_drawn(draw):
    """They are placed in pixels: of the picture that is drawn, not of one that is laid out anew."""
    figure = draw(study())
    before = [axes.get_position().bounds for axes in figure.axes]
    png(figure)
    assert [axes.get_position().bounds for axes in figure.axes] == before
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts if isinstance(text, Annotation)]
        assert boxes
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_text_is_escaped_and_markup_is_not():
    assert element("p", "<b>", element("i", "x"), title='"') == '<p title="&quot;">&lt;b&gt;<i>x</i></p>'
    assert inline(b"\x00") == "data:image/png;base64,AA=="


@pytest.mark.parametrize(
    ("value", "shown"), [(201.0, "201"), (25.31, "25.3"), (1234.6, "1235"), (0.00417, "0.00417"), (3e-6, "0.000003")]
)
def test_three_significant_digits_without_an_exponent(value, shown):
    assert digits(value) == shown


def test_counts_are_short():
    assert [short(v, study().rows[0]) for v in (439e3, 12.34e6, 7.0)] == ["439 k", "12.3 M", "7"]
    assert whole(1234567.0, study().rows[0]) == "1\u202f234\u202f567"
