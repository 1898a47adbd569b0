"""The report says the numbers that it was given, needs nothing from anywhere, and shows samples as they are."""

import csv
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation

from stages.report import write
from stages.report.figures import quality_against_calls, score_against_distance
from stages.report.labels import Label, place
from stages.report.markup import element, inline
from stages.report.pictures import FRAME, picture, samples
from stages.report.plots import frontier, write_tables
from stages.report.tables import digits, short, whole
from stages.report.theme import DARK, LIGHT, drawing, png, svg
from tests.report.studies import Reader, row, study, without_heldout

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("report")
    write(study(), out)
    return (out / "report.html").read_text(encoding="utf-8")


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


def test_a_steered_row_stands_with_the_others_and_its_calls_count(tmp_path):
    plain = study()
    steered = row("steered", "tree", 64, 0.99, 28.0, calls_of_reward=8.0, steering_ess=0.4)
    picture, right = plain.gallery.pictures["rl.dgpo"], plain.gallery.right["rl.dgpo"]
    gallery = replace(
        plain.gallery,
        pictures={**plain.gallery.pictures, "steered.tree": picture},
        right={**plain.gallery.right, "steered.tree": right},
    )
    write(replace(plain, rows=[*plain.rows, steered], gallery=gallery), tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Steered at inference, with a reward" in text
    assert {cells[0]: cells for cells in Reader(text).rows if len(cells) > 5}["tree"][1] == "64"
    assert "tree,steered" in (tmp_path / "quality_nfe.csv").read_text()
