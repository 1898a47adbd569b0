"""The bench of distillers: every method is in it, under one budget, and its page tells what was measured."""

import json
import re

import pytest

from benchmarks import distill, distill_mixture, distill_shapes, pages, rate_search
from stages.core.trainings import Spread
from stages.distillers import METHODS
from stages.training.method import noising_of
from tests.composed import params_of, text_of

pytestmark = pytest.mark.slow

OF_FLOWS = {name for name, method in METHODS.items() if not noising_of(method)}
"""Its teacher is no model of tokens."""


def test_every_method_is_an_arm_with_the_same_budget():
    told = list(distill.budgets())
    assert {each.method for each in told} == OF_FLOWS
    for each in (each for each in told if each.is_last):
        whole = each.before + each.passes
        assert whole == pytest.approx(distill.BUDGET, rel=0.05), f"{each.arm}: {each.fitting} iterations would do"


def test_what_an_iteration_takes_is_counted():
    rows = {cells[1].strip(): cells[2:-1] for cells in (line.split("|") for line in distill.costs().splitlines())}
    assert {name.strip("`") for name in rows} >= OF_FLOWS
    assert [cell.strip() for cell in rows["`kd`"]] == ["1", "1", "", "", "1", "1", ""]
    # a guided step of Heun's rule, and the boundary's slow copy
    assert [cell.strip() for cell in rows["`cd`"]] == ["2", "1", "2", "1", "1", "1", "2"]


def numbers(nfe, **more):
    found = {"nfe": nfe, "guidance": 1.0, "trainings": 1, "score_seen": 0.7, "precision": 0.9, "recall": 0.8}
    return {**found, "score_heldout": 0.5, "frechet_distance": 2.0, **more}


def test_the_page_has_a_row_for_each_way_of_sampling_and_keeps_what_people_wrote(tmp_path, monkeypatch):
    spread = {"trainings": 3, "frechet_distance": 2.5, "frechet_distance_trainings_low": 2.25}
    apart = {"frechet_distance_trainings_deviation": 0.1}
    metrics = {
        "teacher": {"nfe32": numbers(32), "nfe1": numbers(1, frechet_distance=9.0)},
        "distill": {
            "kd": numbers(1, training_network_evaluations=100.0, training_backward_passes=50.0, **spread),
            "kd.nfe2": numbers(2, **spread),
            "kd-r2": {"nfe": 1},
            "perflow": numbers(4, **spread, **apart),
            "tdm4": numbers(4, **spread, **apart),
            "scm": numbers(1, **spread, **apart),
            "cd": numbers(1, **spread, frechet_distance_trainings_deviation=9.0),
            "rectified": numbers(
                4, **{**spread, "frechet_distance": 1.5, "frechet_distance_trainings_low": 1.3}, **apart
            ),
        },
    }
    (tmp_path / "data/evaluate").mkdir(parents=True)
    (tmp_path / "data/evaluate/metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "docs/images").mkdir(parents=True)
    page = tmp_path / distill.PAGE
    page.write_text(f"before\n{pages.begin('distill.py')}\nold\n{pages.END}\nafter\n")
    monkeypatch.setattr(distill, "ROOT", tmp_path)
    monkeypatch.setattr(distill, "costs", lambda: "what it takes")
    monkeypatch.setattr("sys.argv", ["distill.py", "--data", str(tmp_path / "data")])
    distill.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text
    assert "what it takes" in text
    assert "| kd | 1 | 0.700 | 0.500 | 2.50 ± 0.25 | 0.900 | 0.800 | 3 | 200 |" in text
    assert text.index("| teacher | 1 |") < text.index("| teacher | 32 |") < text.index("| kd | 2 |")
    assert "**fails**: they differ" in text.split("(PeRFlow)")[1].splitlines()[0]
    [told] = [line for line in text.splitlines() if "after 500 iterations" in line]
    assert "teacher at 32: 2.00 | **fails**: they differ (p = 0.013 over 3 trainings)" in told
    assert "holds: they differ (p = 0.00025 of deviations 0.1 and 9)" in text.split("steadier")[1].splitlines()[0]
    assert "InstaFlow" not in text, "one of the two was not trained"
    assert (tmp_path / distill.FIGURE).stat().st_size > 10_000


def test_results_that_are_not_there_are_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["distill.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        distill.main()
    assert ended.value.code == 1
    assert "missing; run `fewstep run experiment=bench_distill` first" in capsys.readouterr().err


@pytest.mark.parametrize(("words", "folder"), [("distillers", "distiller"), ("policies", "policy")])
def test_the_readme_names_every_method_that_parameters_can(words, folder):
    told = (distill.ROOT / "README.md").read_text().split(f"| family | {words} |")[1].split("\n\n")[0]
    known = {file.stem for file in (distill.ROOT / "params" / folder).glob("*.yaml")} - {"common"}
    assert set(re.findall(r"`(\w+)`", told)) == known


@pytest.fixture
def composes_once(monkeypatch):
    monkeypatch.setattr(rate_search, "compose", lambda _folder, words: text_of(*words))


@pytest.mark.usefixtures("composes_once")
def test_the_search_asks_for_what_it_starts_from_and_for_arms_that_there_are(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for words, message in (
        (["distill", "kd", "kdd"], "no arm kdd in experiment=bench_distill; it has alpha_flow, "),
        (["distill", "kd"], "data/dataset: not made; run `fewstep run experiment=bench_distill` first"),
        (["shapes", "--few", "hipa"], "no arm hipa in experiment=bench_shapes; it has alpha_flow, boss, "),
        (["rl", "dgpo"], "data/dataset: not made; run `fewstep run experiment=bench_rl` first"),
        (["students", "pso"], "data/dataset: not made; run `fewstep run experiment=bench_rl_students` first"),
    ):
        monkeypatch.setattr("sys.argv", ["rate_search.py", *words])
        with pytest.raises(SystemExit) as ended:
            rate_search.main()
        assert ended.value.code == 1
        assert message in capsys.readouterr().err


def test_the_frontier_of_the_search_is_the_teacher_under_each_guidance(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rate_search.KEPT.mkdir(parents=True)
    monkeypatch.setattr(rate_search, "_measured", lambda _bench, model, _evaluate, way: {**way, "model": str(model)})
    found = rate_search._frontier(None, {"guidance_nfe": 8, "guidance_scales": [1.0, 2.0]})
    assert [(each["guidance"], each["schedule"]["steps"], each["rule"]["name"]) for each in found] == [
        (1.0, 8, "euler"), (2.0, 8, "euler"),
    ]  # fmt: skip
    assert {each["model"] for each in found} == {"data/teacher/model"}


@pytest.mark.usefixtures("composes_once")
def test_the_search_shows_what_was_found_for_the_same_parameters_and_teacher(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    manifests = [tmp_path / "data" / name / "manifest.json" for name in ("dataset", "encode", "verifier", "teacher")]
    for manifest in manifests:
        manifest.parent.mkdir(parents=True)
        manifest.write_text('{"made": "first"}')
    sections = rate_search.sections({"teacher": "data/teacher", "student_lr": 1e-3, "replicates": 3})
    assert [section["student_lr"] for section in sections] == pytest.approx([1e-3 / 9, 1e-3 / 3, 1e-3, 3e-3, 9e-3])
    monkeypatch.setattr("sys.argv", ["rate_search.py", "distill", "kd", "--show"])
    monkeypatch.setattr(rate_search, "sections", lambda _arm: sections)
    for section in sections:
        section |= {"init": "data/teacher", "data": "data/dataset"}
    rate_search.file_of("distill", sections[0]).parent.mkdir(parents=True)
    for section, distance in zip(sections[1:4], (2.5, 2.0, 1.97), strict=True):
        found = {"frechet_distance": distance, "score_heldout": 0.25}
        rate_search.file_of("distill", section).write_text(json.dumps(found))
    rate_search.main()
    told = capsys.readouterr().out.splitlines()[1].split()[2:]
    assert told == ["-", "2.50", "(0.250)", "2.00", "(0.250)", "1.97", "(0.250)", "-"]
    assert rate_search.beyond("distill", sections) == [], "the highest is not clearly the best"
    rate_search.file_of("distill", sections[3]).write_text(json.dumps({"diverged": "diverged"}))
    assert rate_search.beyond("distill", sections) == []
    rate_search.file_of("distill", sections[3]).write_text(json.dumps({"frechet_distance": 1.9}))
    assert rate_search.beyond("distill", sections) == [sections[4]]
    rate_search.file_of("distill", sections[1]).write_text(json.dumps({"frechet_distance": 1.5}))
    assert rate_search.beyond("distill", sections) == [sections[0]]
    manifests[-1].write_text('{"made": "anew"}')
    rate_search.main()
    assert capsys.readouterr().out.splitlines()[1].split()[2:] == ["-"] * 5


# Other data


def arms_of(preset):
    return params_of(f"experiment={preset}")["distill"]["arms"]


def test_on_shapes_an_arm_has_half_of_the_iterations():
    digits, shapes = (arms_of(name) for name in ("bench_distill", "bench_shapes"))
    for name, section in shapes.items():
        assert section["method"] == digits[name]["method"]
        assert section["budget"]["iterations"] == pytest.approx(digits[name]["budget"]["iterations"] / 2, abs=0.5), name


def test_orders_agree_where_both_data_sets_tell_arms_apart():
    spread = lambda mean: Spread(mean=mean, deviation=0.1, count=3)  # noqa: E731
    digits = {("kd", 1): spread(2.0), ("tdm", 1): spread(3.0), ("rfpp", 1): spread(2.0), ("boot", 1): spread(5.0)}
    here = {("kd", 1): spread(1.0), ("tdm", 1): spread(4.0), ("rfpp", 1): spread(1.0), ("boot", 1): spread(2.0)}
    said = [distill_shapes.agreement(digits, here, ("kd", 1), (other, 1)) for other in ("tdm", "rfpp", "boot")]
    assert said == ["same", "neither", "same"]
    assert distill_shapes.agreement(digits, here, ("tdm", 1), ("boot", 1)) == "other"
    assert distill_shapes.agreement(digits, {**here, ("tdm", 1): spread(1.0)}, ("tdm", 1), ("kd", 1)) == "one"
    row, _, turned = distill_shapes.beside(here, digits).splitlines()[2:]
    assert row.startswith("| 1 | 4 | 0.78 |")
    assert row.endswith(" | 6 | 4 | 1 | 0 | 1 |")
    assert turned == "Nearer on digits, farther here than the other (calls): `tdm` and `boot` (1)."


@pytest.mark.parametrize(
    "kind",
    [
        (distill_shapes, "bench_shapes", "frechet_distance", 4, ["| tdm | 1 | 0.700 | 0.500 | 3.00 ± 0.80 |"]),
        (
            distill_mixture,
            "bench_mixture",
            "wasserstein2",
            3,  # a small network is not compared
            [
                "| tdm | 1 | 3.000 ± 0.800 |  |  |  |  | 0.700 | 3 |",
                "| the law itself |  | 0.500 |",
                "| small_kd | 1 |",
            ],
        ),
    ],
    ids=["shapes", "mixture"],
)
def test_the_page_of_other_data_reads_the_digits_page(kind, tmp_path, monkeypatch, capsys):
    bench, preset, distance, compared, lines = kind
    asked = {("kd", 1): Spread(mean=1.0, deviation=0.1, count=3)}
    known = distill_shapes.read((distill.ROOT / distill.PAGE).read_text(), asked)
    assert known.keys() == asked.keys()
    assert known["kd", 1].mean == pytest.approx(2.2, abs=0.2)
    assert known["kd", 1].count == 3
    near = {f"{distance}_trainings_low": 2.2, f"{distance}_trainings_deviation": 0.1}
    rows = {
        name: numbers(1, trainings=3, **{distance: 2.0 + place}, **near)
        for place, name in enumerate(("kd", "tdm", "rfpp", "small_kd"))
    }
    (tmp_path / "data/evaluate").mkdir(parents=True)
    real = {"images": {distance: 0.5}}
    metrics = {"teacher": {"nfe32": numbers(32, **{distance: 1.0})}, "distill": rows, "real": real}
    (tmp_path / "data/evaluate/metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "docs/images").mkdir(parents=True)
    (tmp_path / distill.PAGE).write_text((distill.ROOT / distill.PAGE).read_text())
    page, script = tmp_path / bench.PAGE, f"{bench.__name__.rpartition('.')[2]}.py"
    page.write_text(f"{pages.begin(script)}\n{pages.END}\n")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", [script])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        bench.main()
    assert f"data/evaluate: not made; run `fewstep run experiment={preset}` first" in capsys.readouterr().err
    (tmp_path / "data/evaluate/manifest.json").write_text("{}")
    bench.main()
    assert f"| 1 | {compared} | " in page.read_text()
    assert [each for each in lines if each not in page.read_text()] == []
    assert (tmp_path / bench.FIGURE).stat().st_size > 10_000
