"""The bench of samplers: nobody makes more calls than allowed, errors are what they are called, its page tells all."""

import json
from dataclasses import replace

import pytest
import torch

from benchmarks import pages
from benchmarks import samplers as bench
from benchmarks.samplers_models import ALIGNED_NODES, BEST_NODES, DISTANCE, ERROR, Sampled, plain
from benchmarks.samplers_page import CALLS, GUIDED, NODES, SCHEDULES, SHAPES, WAYS, verdict
from stages.core.rng import stream
from stages.core.spec import even
from stages.samplers import RULES
from stages.samplers.prompted import Prompted
from stages.samplers.spec import calls
from tests.samplers.blocks import transformer

pytestmark = pytest.mark.slow

OF_BLOCKS = {f"dpmpp_2m, {field}" for field in ("token_merging", "ras", "pab", "faster_cache", "light_cache")}
OF_BLOCKS |= {"dpmpp_2m, 8 bits", "dpmpp_2m, 4 bits"}


class Opened(Sampled):
    """A transformer, of which some rows are asked a part."""

    noise = torch.randn(3, 1, 4, 4, generator=stream(0, "bench"))
    network = Prompted(transformer(), torch.tensor([[1], [2], [3]]), 2.0)
    opens = True

    def distance(self, samples):
        return samples.mean().item()


class Pull(Sampled):
    """dx/dt = x, whose solution is known: e^-1 of the noise."""

    noise = torch.ones(2, 1, dtype=torch.float64)
    network = Prompted(lambda x, _t, _cond: x, torch.zeros(2, 1, dtype=torch.int64))

    def distance(self, samples):
        return samples.mean().item()


def test_a_rule_has_as_many_steps_as_fit_into_the_calls():
    for name, choice in bench.RULES.items():
        for schedule in SCHEDULES:
            for most in CALLS:
                spec = bench.fitting(choice, schedule, most, Pull())
                if name in {*OF_BLOCKS, "dpmpp_2m, sada"}:
                    assert spec is None, "they are for networks"
                    continue
                if name == "restart" and most < 12 and spec is None:
                    continue  # its repeats alone make more
                assert spec is not None, (name, schedule, most)
                rest, within = most - calls(spec), {"restart": 3, "dpmpp_2m, mag_cache": most // 2}
                assert 0 <= rest <= within.get(name, 1), (name, schedule, most)


@pytest.mark.parametrize("name", sorted(OF_BLOCKS))
def test_a_field_that_saves_a_part_of_a_call_has_as_many_steps_as_cost_that(name):
    seen = Opened()
    spec = bench.fitting(bench.RULES[name], "uniform", 4, seen)
    one_more = {**spec.schedule, "steps": spec.num_steps + 1}
    more = replace(spec, schedule=one_more, times=even(spec.num_steps + 1).times)
    assert seen.passes(spec) <= 4 < seen.passes(more)
    assert seen.passes(spec) == pytest.approx(seen.run(spec).cost / 2)
    assert spec.num_steps == 4 or "bits" not in name


def test_an_error_is_the_distance_to_where_the_flow_leads():
    seen = Pull()
    exact = torch.e**-1
    assert seen.exact[0, 0].item() == pytest.approx(exact, rel=1e-4)
    told = seen.numbers(plain("euler", 4))
    assert told[ERROR] == pytest.approx(exact - 0.75**4, rel=1e-3)
    assert told[DISTANCE] == pytest.approx(0.75**4)
    noisy = seen.numbers(bench.fitting(bench.RULES["ddim 1"], "uniform", 4, seen))
    assert ERROR not in noisy, "what draws noise leads elsewhere"


@pytest.mark.parametrize("by", [BEST_NODES, ALIGNED_NODES])
def test_the_best_nodes_are_of_the_model_s_own_fine_steps(by):
    nodes = Pull().best_nodes(3, by)
    assert (nodes[0], nodes[-1], len(nodes)) == (1.0, 0.0, 4)
    spec = bench.fitting(bench.RULES["euler"], by, 3, Pull())
    assert list(spec.times) == nodes


def test_an_answer_s_size_is_followed_on_the_steps_that_are_taken():
    # dx/dt = x: the answer is the state, of which a step of Euler's keeps 1 - 1/4.
    assert Pull().ratios(plain("euler", 4)) == pytest.approx([1, 0.75, 0.75, 0.75])
    spec = bench.fitting({"name": "euler", "field": bench.MEASURED}, "uniform", 4, Pull())
    assert spec.num_steps == 8
    assert spec.field["ratios"] == pytest.approx([1, *[0.875] * 7])
    assert calls(spec) <= 4


def test_a_field_that_looks_at_samples_is_judged_by_many_of_them():
    class Many(Opened):
        noise = torch.randn(64, 1, 4, 4, generator=stream(0, "bench"))
        network = Prompted(transformer(), torch.ones(64, 1, dtype=torch.int64))

    seen = Many()
    spec = bench.fitting(bench.RULES["dpmpp_2m, sada"], "uniform", 8, seen)
    assert seen.passes(spec) <= 8 < spec.num_steps
    assert seen.run(spec).cost == pytest.approx(seen.passes(spec), rel=0.1)


def test_a_verdict_goes_by_the_differences_within_a_teacher():
    assert verdict([1.0, 2.0, 3.0], [1.1, 2.1, 3.11], exact=False).startswith("holds (-0.1")
    assert verdict([1.1, 2.1, 3.11], [1.0, 2.0, 3.0], exact=False).startswith("**fails**")
    assert verdict([1.0, 2.0, 3.0], [2.0, 1.0, 3.5], exact=False).startswith("cannot be told apart")
    assert verdict([1.0], [2.0], exact=False) == "one teacher: not judged"
    assert verdict([1.0], [2.0], exact=True) == "holds"


def test_the_page_has_a_row_for_each_rule_and_keeps_what_people_wrote(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["samplers.py"])
    with pytest.raises(SystemExit) as ended:
        bench.main()
    assert ended.value.code == 1
    assert "data/dataset: not made; run `fewstep run experiment=bench_samplers` first" in capsys.readouterr().err
    further = [f"{stage}-replicates/{name}" for stage in ("teacher", "encode") for name in ("r2", "r3")]
    for name in ("dataset", "encode", "verifier", "teacher", *further):
        (tmp_path / "data" / name).mkdir(parents=True)
        (tmp_path / "data" / name / "manifest.json").write_text(json.dumps({"of": name}))
    bench.KEPT.mkdir(parents=True)
    runs, guided, shapes = (list(bench.runs(ways)) for ways in (WAYS, GUIDED, SHAPES))
    nodes = sum(len(rules) for rules in NODES.values())
    plain = sum(not knobs.keys() & {"fit", "field"} for knobs in bench.RULES.values())
    assert len(runs) == 4 * (len(bench.RULES) * len(SCHEDULES) + nodes)
    assert len(guided) == 3 * (plain * (len(SCHEDULES) - 1) + nodes)
    assert len(shapes) == 3 * plain * (len(SCHEDULES) - 1)
    every = [*runs, *guided, *shapes]
    assert len({run.file for run in every}) == len(every)
    for run in every:
        worse = 2.0 + list(bench.RULES).index(run.rule) + (run.schedule != "uniform")
        value = (worse + ("r2" in run.model) / 10) / (2 if run.schedule == BEST_NODES else 1)
        value = 100 - value if run in shapes else value
        numbers = {DISTANCE: value} if "sde" in run.rule else {DISTANCE: value, ERROR: value}
        bench.Path(run.file).write_text(json.dumps({most: numbers for most in CALLS[1:]}))
    (tmp_path / "docs/images").mkdir(parents=True)
    page = tmp_path / bench.PAGE
    scripts = [["samplers.py"], ["samplers.py", "--guided"], ["samplers.py", "--shapes"]]
    marks = [f"{pages.begin(' '.join(script))}\nold\n{pages.END}\n" for script in scripts]
    page.write_text("before\n" + "between\n".join(marks) + "after\n")
    monkeypatch.setattr(bench, "ROOT", tmp_path)
    for script in scripts:
        monkeypatch.setattr("sys.argv", script)
        bench.main()
    first, second, third = page.read_text().split("\nbetween\n")
    assert first.startswith("before\n")
    assert third.endswith("after\n")
    assert "\nold\n" not in first + second + third
    errors, distances = first.split("### digits: error")[1].split("### digits: Fréchet distance")
    assert "| `euler` |  | **2.03 ± 0.14** (u) |" in errors
    assert "`flow_sde`" not in errors
    assert "| `flow_sde` |" in distances
    assert "| BOSS's nodes are ahead of even ones for `euler` | mixture, error | 8 |" in first
    assert "guidance 3" not in first
    assert "| UniPC is ahead of DEIS under guidance | digits, guidance 3, error | 8 |" in second
    assert "not judged" not in second
    assert second.count("### ") == 3
    noisy = sum("sde" in rule for rule, knobs in bench.RULES.items() if not knobs.keys() & {"fit", "field"})
    assert f"| error | nan (0 rules) | -1.00 ({plain - noisy} rules) |" in third, "what is best there is worst here"
    for figure in ("samplers.png", "samplers_guided.png", "samplers_shapes.png"):
        assert (tmp_path / bench.FIGURES / figure).stat().st_size > 10_000


def test_every_rule_has_a_name_of_the_table():
    assert {choice.get("fit", choice)["name"] for choice in bench.RULES.values()} <= set(RULES)
