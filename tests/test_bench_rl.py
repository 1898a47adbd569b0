"""The bench of policies: every policy of a many-step model is in it, under one budget, held against guidance."""

import json

import pytest
import torch

from benchmarks import pages, rate_search, rl, rl_gmm
from stages.policies import POLICIES
from tests.composed import params_of

pytestmark = pytest.mark.slow

STARTS_FROM = {
    rl.ON_TEACHER: set(POLICIES) - {"dmdr", "pso", "reward_instruct", "tdm_r1"},  # the others need a few-step student
    rl.ON_STUDENT: set(POLICIES) - {"g2rpo"},  # whose steps are a mean's
}


@pytest.mark.parametrize("bench", STARTS_FROM, ids=lambda bench: bench.script)
def test_every_policy_that_can_is_an_arm_with_the_same_budget(bench):
    told = rl.budgets(bench)
    assert {made["method"] for made in rl.arms(bench).values()} >= STARTS_FROM[bench]
    for name, (iterations, passes) in told.items():
        fitting = round(iterations * bench.budget / passes)
        assert passes == pytest.approx(bench.budget, rel=0.05), f"{name}: {fitting} iterations would do"


@pytest.mark.parametrize("bench", STARTS_FROM, ids=lambda bench: bench.script)
def test_every_claim_is_of_two_arms_of_the_preset(bench):
    composed = params_of(bench.preset)
    known = composed["distill"]["arms"] | composed["rl"]["arms"]
    for words, *pair in bench.claims:
        for name, nfe in pair:
            arm = known[name]
            plain = composed["evaluate"]["rl_nfe"] if arm["init"] == "data/teacher" else arm["nfe"]
            assert nfe == (arm["sampler"]["schedule"]["steps"] if arm["sampler"] else plain), (words, name)


FRONTIER = [
    {"frechet_distance": 2.0, "score_heldout": 0.5},
    {"frechet_distance": 4.0, "score_heldout": 0.75},
]


@pytest.mark.parametrize(("distance", "score", "gain"), [(3.0, 0.7, 0.075), (1.0, 0.6, 0.1), (9.0, 0.7, -0.05)])
def test_a_gain_is_over_the_guided_teacher_at_the_same_distance(distance, score, gain):
    assert rl.gain({"frechet_distance": distance, "score_heldout": score}, FRONTIER) == pytest.approx(gain)


def numbers(distance, score, **more):
    found = {"nfe": 8, "guidance": 1.0, "trainings": 1, "score_seen": score, "recall": 0.8}
    return {**found, "score_heldout": score, "frechet_distance": distance, **more}


def test_the_page_has_a_row_for_each_policy_and_keeps_what_people_wrote(tmp_path, monkeypatch):
    three = {"trainings": 3, "training_network_evaluations": 100.0, "training_backward_passes": 50.0}
    metrics = {
        "teacher": {"nfe8": numbers(2.0, 0.5), "nfe32": numbers(1.9, 0.48, nfe=32)},
        "guidance": {"w2": numbers(4.0, 0.75, guidance=2.0)},
        "rl": {"dgpo": numbers(3.0, 0.8, **three), "flow_grpo": numbers(3.0, 0.6, **three), "nft": numbers(3.0, 0.9)},
        "trainings": {
            f"rl.{name}{which}": numbers(3.0, score + place / 100)
            for name, score in (("dgpo", 0.79), ("flow_grpo", 0.59))
            for place, which in enumerate(("", "-r2", "-r3"))
        },
    }
    (tmp_path / "data/evaluate").mkdir(parents=True)
    (tmp_path / "data/evaluate/metrics.json").write_text(json.dumps(metrics))
    (tmp_path / "docs/images").mkdir(parents=True)
    page = tmp_path / rl.ON_TEACHER.page
    page.write_text(f"before\n{pages.begin('rl.py')}\nold\n{pages.END}\nafter\n")
    monkeypatch.setattr(rl, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["rl.py", "--data", str(tmp_path / "data")])
    rl.main()
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "\nold\n" not in text
    assert "| `dgpo` | 8 | 0.800 | 0.800 | 3.00 | 0.800 | 0.175 ± 0.025 | 3 | 200 |" in text
    assert text.index("| `nft` |") < text.index("| `dgpo` |") < text.index("| `flow_grpo` |"), "the greatest gain first"
    assert "holds: they differ" in text.split("(DGPO)")[1].splitlines()[0]
    assert "one training on a side" in text.split("(DiffusionNFT)")[1].splitlines()[0]
    assert (tmp_path / rl.ON_TEACHER.figure).stat().st_size > 10_000


def test_a_student_stands_beside_what_became_of_it_by_the_same_measure(tmp_path, monkeypatch):
    looks = {"nfe": 4, "metric_sharpness": 0.4, "metric_spread": 0.6}
    metrics = {
        "teacher": {"nfe8": numbers(2.0, 0.5)},
        "guidance": {"w2": numbers(4.0, 0.75, guidance=2.0)},
        "distill": {"tdm4": numbers(2.0, 0.48, **looks)},
        "rl": {"pso": numbers(3.0, 0.7, **looks)},
    }
    (tmp_path / "evaluate").mkdir()
    (tmp_path / "evaluate/metrics.json").write_text(json.dumps(metrics))
    page = tmp_path / rl.ON_STUDENT.page
    page.parent.mkdir()
    page.write_text(f"before\n{pages.begin(rl.ON_STUDENT.script)}\nold\n{pages.END}\nafter\n")
    monkeypatch.setattr(rl, "ROOT", tmp_path)
    monkeypatch.setattr("sys.argv", ["rl.py", "--students", "--data", str(tmp_path)])
    rl.main()
    text = page.read_text()
    student = "| student `tdm4` | 4 | 0.480 | 0.480 | 2.00 | 0.800 | 0.400 | 0.600 | -0.020 | 1 |  |"
    assert text.index(student) < text.index(
        "| `pso` | 4 | 0.700 | 0.700 | 3.00 | 0.800 | 0.400 | 0.600 | 0.075 | 1 |  |"
    )
    assert (tmp_path / rl.ON_STUDENT.figure).stat().st_size > 10_000


def test_results_that_are_not_there_are_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["rl.py", "--data", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        rl.main()
    assert ended.value.code == 1
    assert "missing; run `fewstep run experiment=bench_rl` first" in capsys.readouterr().err


def test_the_search_of_a_policy_s_rate_goes_by_its_gain(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rate_search.KEPT.mkdir(parents=True)
    found = rate_search.sections({"init": "data/teacher", "student_lr": 1e-3})
    for section, gain in zip(found[1:4], (0.1, 0.12, 0.125), strict=True):
        rate_search.file_of("rl", section).write_text(json.dumps({"gain": gain, "frechet_distance": 2.0}))
    assert rate_search.beyond("rl", found) == [], "the highest is not clearly the best"
    rate_search.file_of("rl", found[3]).write_text(json.dumps({"gain": 0.2, "frechet_distance": 9.0}))
    assert rate_search.beyond("rl", found) == [found[4]]
    rate_search.file_of("rl", found[3]).write_text(json.dumps({"diverged": "diverged"}))
    assert rate_search.beyond("rl", found) == []


def test_the_law_that_a_linear_reward_tilts_wastes_no_kl():
    old = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=torch.float64)
    mean, direction = torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, -2.0], dtype=torch.float64)
    told = rl_gmm.told([(mean, old)], [(mean + old @ direction / 4, old)], direction)
    assert told["share"] == pytest.approx(1)
    assert told["deviation"] == pytest.approx(1)
    assert told["gain"] == pytest.approx((direction @ old @ direction).item() / 4)
    elsewhere = torch.tensor([0.7, 0.0], dtype=torch.float64)
    assert rl_gmm.told([(mean, old)], [(mean + elsewhere, old)], direction)["share"] < 0.9, "there is a nearer one"
    narrow = rl_gmm.told([(mean, old)], [(mean + old @ direction / 4, old / 4)], direction)
    assert narrow["share"] < 0.9
    assert narrow["deviation"] == pytest.approx(0.5)
    assert "| `a` | 1.000 ± " in rl_gmm.page({"a": [{**told, "gain": 0.9}, {**told, "gain": 1.1}]})


def test_two_scripts_write_into_one_page(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("".join(f"{pages.begin(name)}\nold\n{pages.END}\nwords on {name}\n" for name in ("a.py", "b.py")))
    pages.put(page, "a.py", "one")
    pages.put(page, "b.py", "two")
    pages.put(page, "a.py", "three")
    marks = [f"{pages.begin(name)}\n\n{text}\n\n{pages.END}" for name, text in (("a.py", "three"), ("b.py", "two"))]
    assert page.read_text() == f"{marks[0]}\nwords on a.py\n{marks[1]}\nwords on b.py\n"
